"""MIDI files as written by karaoke and notation programs are sung as written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_tools import BEAT, lyric, meta, midi, off, on, quantity, read, said, sung, track

from uniaudio_engine import InputError
from uniaudio_engine.score.lyrics import karaoke
from uniaudio_engine.score.midi import read_midi

TEMPO = track(meta(0x51, (500_000).to_bytes(3, "big")))
TWO = midi(TEMPO, track(sung(["one", "two"])))
RIFF = b"RIFF" + (len(TWO) + 12).to_bytes(4, "little") + b"RMIDdata"
HELLO = "60:hello 60:- 60:you"
BIRTHDAY = "60:Happy 60:- 60:birthday 60:-"
PAIR = "60:one 60:two"

CASES: dict[str, tuple[bytes, str]] = {
    "hyphens": (midi(TEMPO, track(sung(["hel-", "lo", "you"]))), HELLO),
    "spaces after words": (midi(TEMPO, track(sung(["Hap", "py ", "birth", "day "]))), BIRTHDAY),
    "spaces before words": (midi(TEMPO, track(sung([" Hap", "py", " birth", "day"]))), BIRTHDAY),
    "line marks": (midi(TEMPO, track(sung(["/Hap", "py ", "\\birth", "day "]))), BIRTHDAY),
    "line ends": (
        midi(TEMPO, track(sung(["Hap", "py\r", "birth", "day ", "to "]))),
        BIRTHDAY + " 60:to",
    ),
    "line ends among hyphens": (midi(TEMPO, track(sung(["hel-", "lo\r", "you\n"]))), HELLO),
    "empty lyrics hold": (
        midi(TEMPO, track(sung(["Glo", "", "", "ri", "a "]))),
        "60:Gloria 60:_ 60:_ 60:- 60:-",
    ),
    "notes without lyrics hold": (
        midi(TEMPO, track(sung(["Glo-", None, None, "ri-", "a"]))),
        "60:Gloria 60:_ 60:_ 60:- 60:-",
    ),
    "low lines hold": (midi(TEMPO, track(sung(["love", "_", "me"]))), "60:love 60:_ 60:me"),
    "plus signs hold": (midi(TEMPO, track(sung(["love", "+", "me"]))), "60:love 60:_ 60:me"),
    "two words on a note": (
        midi(track(lyric("one"), lyric(" two"), on(60), off(60))),
        "60:one\u203ftwo",
    ),
    "karaoke text": (
        midi(
            track(lyric("@KMIDI KARAOKE FILE", kind=1)),
            track(
                meta(3, b"Words"),
                lyric("@LENGL", kind=1),
                lyric("\\Hap", kind=1),
                lyric("py ", BEAT, kind=1),
                lyric("day ", BEAT, kind=1),
            ),
            track(sung([None] * 3)),
        ),
        "60:Happy 60:- 60:day",
    ),
    "words in a track of their own": (
        midi(TEMPO, track(lyric("one"), lyric("two", BEAT)), track(sung([None] * 2))),
        PAIR,
    ),
    "a copyright line": (
        midi(TEMPO, track(lyric("(c) 1999")), track(sung(["one", "two"]))),
        PAIR,
    ),
    "percussion with the voice": (
        midi(
            track(
                lyric("one"),
                on(36, 0, 9),
                on(60),
                off(36, 240, 9),
                on(38, 0, 9),
                off(60, 240),
                off(38, 0, 9),
                lyric("two"),
                on(36, 0, 9),
                on(62),
                off(62),
                off(36, 0, 9),
            ),
            kind=0,
        ),
        "60:one 62:two",
    ),
    "other instruments in the track": (
        midi(
            track(
                lyric("one"),
                on(40, 0, 1),
                on(60, 0, 3),
                off(60, 480, 3),
                lyric("two"),
                on(62, 0, 3),
                off(62, 480, 3),
                off(40, 0, 1),
            ),
            kind=0,
        ),
        "60:one 62:two",
    ),
    "only the percussion channel": (midi(track(sung(["one", "two"], channel=9))), PAIR),
    "chords": (
        midi(track(lyric("one"), on(60), on(72), on(64), off(72), off(60, 0), off(64, 0))),
        "72:one",
    ),
    "an inner voice": (
        midi(track(lyric("one"), on(72), on(60, 120), off(60, 120), off(72, 240))),
        "72:one",
    ),
    "legato": (
        midi(track(lyric("one"), on(60), lyric("two", BEAT), on(58), off(60, 20), off(58, 460))),
        "60:one 58:two",
    ),
    "no last note-off": (
        midi(TEMPO, track(sung(["one"]), lyric("two"), on(62), meta(6, b"end", 2 * BEAT))),
        "60:one 62:1:two",
    ),
    "no note-off and no time": (midi(track(lyric("one"), on(62))), "62:one"),
    "a note struck again": (
        midi(track(lyric("one"), on(60), lyric("two", BEAT), on(60), off(60))),
        PAIR,
    ),
    "no end mark": (midi(TEMPO, track(sung(["one", "two"]), end=b"")), PAIR),
    "a cut end mark": (TWO[:-3], PAIR),
    "a longer header": (midi(TEMPO, track(sung(["one", "two"])), extra=b"abcd"), PAIR),
    "another chunk between": (
        midi(TEMPO, b"XFIH\0\0\0\4abcd", track(sung(["one", "two"])), count=2),
        PAIR,
    ),
    "too many tracks said": (midi(TEMPO, track(sung(["one", "two"])), count=7), PAIR),
    "too few tracks said": (midi(TEMPO, track(sung(["one", "two"])), count=1), PAIR),
    "in a RIFF file": (RIFF + len(TWO).to_bytes(4, "little") + TWO, PAIR),
    "after a header of another system": (b"\0" * 128 + TWO, PAIR),
    "format 2": (midi(track(sung(["one", "two"])), track(sung(["three"])), kind=2), PAIR),
    "SMPTE time": (
        midi(track(sung(["one", "two"])), division=0xE728),  # 25 frames of 40 ticks
        "60:0.48:one 60:0.48:two",
    ),
    "a lyric a tick early": (
        midi(track(lyric("one"), on(60, 1), off(60), lyric("two"), on(62, 1), off(62))),
        "60:0.5021:one 62:two",
    ),
    "a lyric a tick late": (
        midi(track(on(60), lyric("one", 1), off(60, 479), on(62), lyric("two", 1), off(62, 479))),
        "60:one 62:two",
    ),
    "running status": (
        midi(
            track(
                lyric("one"),
                on(60),
                b"\x83\x60\x3c\0",
                b"\0\xf0\5\x7e\x7f\x09\1\xf7",
                lyric("two"),
                b"\0\x3e\x50",
                b"\x83\x60\x3e\0",
            )
        ),
        "60:one 62:two",
    ),
    "a tempo of nothing": (midi(track(meta(0x51, b"\0\0\0")), track(sung(["one", "two"]))), PAIR),
    "a change of tempo": (
        midi(
            track(meta(0x51, b"\x07\xa1\x20"), meta(0x51, b"\x0f\x42\x40", 240)),
            track(sung(["one", "two"])),
        ),
        "60:0.75:one 60:1:two",
    ),
    "a tempo after the words": (
        midi(track(sung(["one", "two"])), track(meta(0x51, b"\x0f\x42\x40"))),
        "60:1:one 60:1:two",
    ),
    "a note too short to hear": (
        midi(TEMPO, track(sung(["one"]), on(61), off(61, 9), sung(["two"]))),
        "60:0.5094:one 60:two",
    ),
    "Latin-1": (midi(track(sung(["caf\u00e9".encode("latin-1"), "two"]))), "60:caf\u00e9 60:two"),
    "UTF-8": (midi(track(sung(["caf\u00e9", "two"]))), "60:caf\u00e9 60:two"),
    "a named encoding": (midi(track(lyric("{@LATIN}"), sung([b"caf\xe9"]))), "60:caf\u00e9"),
    "a rest": (midi(track(sung(["one"]), lyric("two", BEAT), on(62), off(62))), "60:one R 62:two"),
    "a word over a rest": (
        midi(track(sung(["a-"]), lyric("men", BEAT), on(62), off(62))),
        "60:amen R 62:-",
    ),
    "notes before the words": (midi(track(sung([None, None, "one"]))), "60:ah 60:_ 60:one"),
}


@pytest.mark.parametrize("case", CASES)
def test_sung_as_written(case: str, tmp_path: Path) -> None:
    data, expected = CASES[case]
    assert said(read(tmp_path, "song.mid", data)) == expected


def test_karaoke_suffix(tmp_path: Path) -> None:
    assert said(read(tmp_path, "song.kar", CASES["karaoke text"][0])) == "60:Happy 60:- 60:day"


REFUSED = {
    "cut inside a note": (TWO[:-20], "expected a whole MIDI file"),
    "cut between notes": (
        midi(TEMPO, track(sung(["one", "two", "three"])))[:-21],
        "whole MIDI file",
    ),
    "words without notes": (midi(track(lyric("one"))), "expected notes with lyric events"),
    "notes without words": (midi(track(sung([None]))), "expected notes with lyric events"),
    "comments are no words": (
        midi(track(lyric("Piano", kind=1), sung([None] * 40))),
        "expected notes with lyric events",
    ),
    "no ticks": (midi(track(sung(["one"])), division=0), "expected a whole MIDI file"),
    "low": (midi(track(sung(["a"] * 4), sung(["one"], pitch=20))), "song.mid bar 2: expected MIDI"),
    "low, in 3/4": (
        midi(track(meta(0x58, b"\3\2\x18\x08"), sung(["a"] * 3), sung(["one"], pitch=20))),
        "song.mid bar 2: expected MIDI pitches 36 to 98 (0: a rest), got 20",
    ),
    "low, in seconds": (midi(track(sung(["one"], pitch=20)), division=0xE728), "at 0.0 s"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path) -> None:
    data, words = REFUSED[case]
    with pytest.raises(InputError) as e:
        read(tmp_path, "song.mid", data)
    assert words in str(e.value) and "song.mid" in str(e.value) and "\n" not in str(e.value)


WORDS = st.lists(
    st.lists(st.text("abcdexyz", min_size=1, max_size=4), min_size=1, max_size=4),
    min_size=1,
    max_size=12,
)


@given(WORDS)
def test_the_conventions_say_the_same(words: list[list[str]]) -> None:
    hyphens = [s + "-" * (i + 1 < len(w)) for w in words for i, s in enumerate(w)]
    trailing = [s + " " * (i + 1 == len(w)) for w in words for i, s in enumerate(w)]
    leading = [" " * (i == 0) + s for w in words for i, s in enumerate(w)]
    expected = [(s, i > 0) for w in words for i, s in enumerate(w)]
    for texts in (hyphens, trailing, leading):
        assert [(s.text, s.joined) for on_note in karaoke(texts) for s in on_note] == expected


@given(
    st.lists(
        st.tuples(st.integers(0, 700), st.integers(10, 900), st.integers(40, 90)),
        min_size=1,
        max_size=30,
    ),
    st.lists(st.integers(0, 900), min_size=1, max_size=30),
)
def test_every_lyric_is_sung_once_and_time_is_kept(
    steps: list[tuple[int, int, int]], waits: list[int]
) -> None:
    """Whatever overlaps, and wherever the lyrics are."""
    events: list[tuple[int, int, bytes]] = []
    at = end = 0
    for wait, length, pitch in steps:
        at += wait
        end = max(end, at + length)
        events += [(at, 1, bytes([0x90, pitch, 80])), (at + length, 0, bytes([0x80, pitch, 0]))]
    lyrics = [f"l{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(len(waits))]
    at = 0
    for word, wait in zip(lyrics, waits, strict=True):
        at += wait
        events.append((at, 2, lyric(word)[1:]))
    now, data = 0, b""
    for tick, _, body in sorted(events):
        data += quantity(tick - now) + body
        now = tick
    notes = read_midi(midi(track(data)), "song")
    assert [w for n in notes for w in n.word.split("\u203f") if w[:1] == "l"] == lyrics
    assert all(n.seconds >= 0.02 for n in notes)
    total = sum(n.seconds for n in notes)
    short = 0.02 * len(notes) + 0.03
    assert total <= end / 960 + short and total >= 0.02
