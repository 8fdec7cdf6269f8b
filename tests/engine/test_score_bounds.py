"""Hostile score files: work grows linearly with the file, and what cannot be a score is rejected
before it is unpacked.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_tools import lyric, meta, midi, note, off, on, part, score, sung, text, track

from uniaudio_engine import InputError
from uniaudio_engine.score import files
from uniaudio_engine.score.layout import lay_out
from uniaudio_engine.score.midi import read_midi
from uniaudio_engine.score.musicxml import read_musicxml
from uniaudio_engine.score.reading import read_score


def steps(call: Callable[[], object]) -> int:
    """How many lines of Python a call runs."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except InputError:
        pass
    finally:
        sys.settrace(before)
    return count


GROWING_MIDI: dict[str, Callable[[int], bytes]] = {
    "lyrics": lambda n: midi(track(sung(["la"] * n))),
    "one word": lambda n: midi(track(sung(["la-"] * n))),
    "tempos": lambda n: midi(track(*[meta(0x51, b"\7\xa1\x20", 1)] * n), track(sung(["la"] * n))),
    "time signatures": lambda n: midi(track(*[meta(0x58, b"\3\2\0\0", 1)] * n, sung(["la"] * n))),
    "tracks": lambda n: midi(*[track(sung(["la", "la"]))] * n),
    "notes that never end": lambda n: midi(
        track(*[lyric("a") + on(60 + i % 30, 1) for i in range(n)])
    ),
    "lyrics at once": lambda n: midi(track(lyric("a") * n, sung(["x"]))),
    "lyrics without notes": lambda n: midi(
        track(lyric("a", 480) * n), track(on(60) + off(60, 7)) * 1
    ),
    "channels": lambda n: midi(
        *[track(lyric("a"), *[on(60, 0, c) + off(60, 9, c) for c in range(16)])] * n
    ),
}
WORD = note(lyrics="la")
BACK = '<barline><repeat direction="backward"/></barline>'
GROWING_XML: dict[str, Callable[[int], str]] = {
    "bars": lambda n: part(*[WORD] * n),
    "one bar": lambda n: part(WORD * n),
    "one word": lambda n: part(note(lyrics=text("la", "middle")) * n),
    "verses": lambda n: part(*[note(lyrics=text("la", number=str(i))) for i in range(n)]),
    "verses of a note": lambda n: part(
        note(lyrics="".join(text("a", number=str(i)) for i in range(n)))
    ),
    "verses of grace notes": lambda n: part(
        note(lyrics="".join(text("a", number=str(i)) for i in range(n)), inside="grace")
        + note(inside="grace") * n
    ),
    "tempos": lambda n: part('<sound tempo="60"/>' * n + WORD * n),
    "chord": lambda n: part(WORD + note(inside="chord") * n),
    "grace notes": lambda n: part(note(lyrics="la", inside="grace") * n + WORD),
    "parts": lambda n: "</part><part>".join([part(WORD)] * n),
    "voices": lambda n: part("".join(note(lyrics="a", voice=str(i)) for i in range(n))),
    "repeats": lambda n: part(*[WORD + BACK] * n),
    "endings": lambda n: part(
        *[f'<barline><ending number="1-99" type="start"/></barline>{WORD}{BACK}'] * n
    ),
    "jumps": lambda n: part(*[WORD + '<sound dalsegno="s"/>'] * n),
    "codas": lambda n: part(*[WORD + '<sound tocoda="s" /><sound dacapo="yes"/>'] * n),
}


@pytest.mark.parametrize("kind", GROWING_MIDI)
def test_midi_is_read_in_linear_time(kind: str) -> None:
    once, twice = (steps(lambda n=n: read_midi(GROWING_MIDI[kind](n), "song")) for n in (150, 300))
    assert once > 150 and twice < 2.3 * once


@pytest.mark.parametrize("kind", GROWING_XML)
def test_musicxml_is_read_in_linear_time(kind: str) -> None:
    once, twice = (
        steps(lambda n=n: read_musicxml(score(GROWING_XML[kind](n)).encode(), "song"))
        for n in (150, 300)
    )
    assert once > 150 and twice < 2.3 * once


def test_words_are_laid_out_in_linear_time() -> None:
    notes = [(60, 0.5, "hello"), (62, 0.5, "-"), (0, 0.5, ""), (64, 0.5, "_")] * 100
    lay_out(read_score(notes), 50.0)  # the lexicon is read once
    once, twice = (steps(lambda k=k: lay_out(read_score(notes * k), 50.0)) for k in (1, 2))
    assert once > 400 and twice < 2.3 * once


def test_an_archive_that_unpacks_to_more_than_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MAX_BYTES", 10_000)
    for name, size, count, expected in (
        ("large.mxl", 1_000_000, 1, "at most 10000 bytes unpacked"),
        ("many.mxl", 1, 1001, "at most 1000 files"),
    ):
        monkeypatch.setattr(files, "_MAX_BYTES", 10_000 if count == 1 else 1 << 20)
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(count):
                archive.writestr(f"{i}.xml", b" " * size)
        with pytest.raises(InputError, match=expected):
            read_score(tmp_path / name)


@pytest.mark.parametrize("name", ["song.mid", "song.xml"])
def test_files_larger_than_a_score(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(InputError, match="expected at most"):
        read_score(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_special_files_and_paths(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "song.xml")
    for path in (
        tmp_path / "song.xml",
        "nul\0.mid",
        "x" * 5000 + ".mid",
        f"{tmp_path}/no/song.mid",
    ):
        with pytest.raises(InputError) as e:
            read_score(path)
        assert "\n" not in str(e.value)


MIDI = midi(track(meta(0x58, b"\3\2\0\0"), sung(["hel-", "lo ", None, "_", "you"])))
XML = score(
    part(
        '<sound tempo="90"/>'
        + note(lyrics=text("a", "begin"))
        + note("R")
        + note("E4", "", "chord"),
        '<barline><ending number="1" type="start"/></barline>' + note(inside="grace") + WORD + BACK,
        note(lyrics=text("men", "end"), inside='<tie type="stop"/>') + '<sound dacapo="yes"/>',
    )
).encode()


@settings(max_examples=300)
@given(
    st.sampled_from([MIDI, XML]),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 3), st.binary(max_size=6)), max_size=6),
)
def test_damaged_files_are_read_or_refused(
    data: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for at, cut, put in edits:
        at %= len(data) + 1
        data = data[:at] + put + data[at + cut :]
    for read in (read_midi, read_musicxml):
        try:
            notes = read(data, "song")
        except InputError as e:
            assert "\n" not in str(e)
        else:
            assert all(n.seconds >= 0 for n in notes)
