"""Builders of small MIDI and MusicXML files, and their expected scores."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from uniaudio_engine.score.reading import Note, read_score

BEAT = 480


def quantity(n: int) -> bytes:
    out = [n & 127]
    while n := n >> 7:
        out.append(n & 127 | 128)
    return bytes(reversed(out))


def meta(kind: int, body: bytes, wait: int = 0) -> bytes:
    return quantity(wait) + bytes([0xFF, kind]) + quantity(len(body)) + body


def lyric(text: str | bytes, wait: int = 0, kind: int = 5) -> bytes:
    return meta(kind, text if isinstance(text, bytes) else text.encode(), wait)


def on(pitch: int, wait: int = 0, channel: int = 0) -> bytes:
    return quantity(wait) + bytes([0x90 | channel, pitch, 80])


def off(pitch: int, wait: int = BEAT, channel: int = 0) -> bytes:
    return quantity(wait) + bytes([0x80 | channel, pitch, 0])


def sung(words: Sequence[str | bytes | None], pitch: int = 60, channel: int = 0) -> bytes:
    """A beat for each, with its lyric where it has one."""
    notes = (on(pitch, 0, channel) + off(pitch, BEAT, channel) for _ in words)
    return b"".join((b"" if w is None else lyric(w)) + n for w, n in zip(words, notes, strict=True))


def track(*events: bytes, end: bytes = b"\0\xff\x2f\0") -> bytes:
    body = b"".join(events) + end
    return b"MTrk" + len(body).to_bytes(4, "big") + body


def midi(
    *chunks: bytes,
    kind: int = 1,
    division: int = BEAT,
    count: int | None = None,
    extra: bytes = b"",
) -> bytes:
    head = b"".join(
        n.to_bytes(2, "big") for n in (kind, len(chunks) if count is None else count, division)
    )
    return b"MThd" + (6 + len(extra)).to_bytes(4, "big") + head + extra + b"".join(chunks)


def text(word: str, syllabic: str = "single", number: str = "1", attributes: str = "") -> str:
    return (
        f'<lyric number="{number}" {attributes}><syllabic>{syllabic}</syllabic>'
        f"<text>{word}</text></lyric>"
    )


def note(
    pitch: str = "C4", lyrics: str = "", inside: str = "", duration: str = "4", voice: str = "1"
) -> str:
    """A note of a quarter, ``R`` a rest; ``lyrics``: elements, or a word."""
    if lyrics and not lyrics.startswith("<"):
        lyrics = text(lyrics)
    sign = (
        "<rest/>"
        if pitch == "R"
        else f"<pitch><step>{pitch[0]}</step><octave>{pitch[1]}</octave></pitch>"
    )
    chord = "<chord/>" if inside == "chord" else ""
    grace = "<grace/>" if inside == "grace" else ""
    rest = "" if chord or grace else inside
    length = "" if grace else f"<duration>{duration}</duration>"
    return f"<note>{grace}{chord}{sign}{length}<voice>{voice}</voice>{rest}{lyrics}</note>"


def part(*bars: str, attributes: str = "", divisions: int = 4) -> str:
    first = f"<attributes><divisions>{divisions}</divisions>{attributes}</attributes>"
    return "".join(
        f'<measure number="{i + 1}">{first if i == 0 else ""}{bar}</measure>'
        for i, bar in enumerate(bars)
    )


def score(*parts: str, declared: str = "UTF-8") -> str:
    """A partwise score; quarter notes last half a second unless a bar says otherwise."""
    body = "".join(f'<part id="P{i}">{p}</part>' for i, p in enumerate(parts))
    return (
        f'<?xml version="1.0" encoding="{declared}"?>'
        '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN"'
        ' "http://www.musicxml.org/dtds/partwise.dtd">'
        f"<score-partwise><part-list/>{body}</score-partwise>"
    )


def read(folder: Path, name: str, data: bytes | str) -> list[Note]:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_score(path)


def said(notes: Sequence[Note]) -> str:
    """``pitch:seconds:word`` of each note, ``R:seconds`` of a rest; half seconds are left out."""
    out = []
    for n in notes:
        length = "" if abs(n.seconds - 0.5) < 1e-6 else f":{n.seconds:.4g}"
        out.append(f"{n.pitch or 'R'}{length}" + (f":{n.word}" if n.pitch else ""))
    return " ".join(out)


def bars(*each: str, attributes: str = "", divisions: int = 4) -> str:
    return score(part(*each, attributes=attributes, divisions=divisions))


def repeat(direction: str, more: str = "") -> str:
    return f'<barline><repeat direction="{direction}" {more}/></barline>'


def ending(number: str, kind: str, more: str = "") -> str:
    return f'<barline><ending number="{number}" type="{kind}"/>{more}</barline>'


def words(said_there: str, sound: str = "") -> str:
    return f"<direction><direction-type><words>{said_there}</words></direction-type>{sound}</direction>"


def metronome(unit: str, a_minute: str) -> str:
    return (
        f"<direction><direction-type><metronome>{unit}<per-minute>{a_minute}</per-minute>"
        "</metronome></direction-type></direction>"
    )


def transpose(inside: str) -> str:
    return f"<transpose>{inside}</transpose>"


def packed(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return out.getvalue()
