"""Score files: the text form, MIDI (formats 0 and 1, the track with lyric events) and MusicXML (the
first part's first voice).

Sources: the Standard MIDI Files specification (RP-001, lyric events RP-017) and W3C MusicXML 4.0.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.etree import ElementTree

from ..errors import InputError, shown
from .reading import Note, parse_score

_MAX_BYTES = 4 << 20


def read_file(path: Path, name: str) -> list[Note]:
    """Notes of a score file.  Raises :class:`InputError` in one line for what is none."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(
                f"{name}: {path}: expected at most {_MAX_BYTES} bytes, got {path.stat().st_size}"
            )
        data = path.read_bytes()
    except OSError as e:
        raise InputError(
            f"{name}: {path}: expected a readable score, got: {e.strerror or e}"
        ) from None
    if path.suffix.lower() in (".mid", ".midi"):
        return read_midi(data, f"{name}: {path}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        kind = "a compressed score; unpack it" if zipfile.is_zipfile(path) else "other bytes"
        raise InputError(f"{name}: {path}: expected UTF-8 text, got {kind}") from None
    return (
        read_musicxml(text, f"{name}: {path}")
        if path.suffix.lower() != ".txt"
        else parse_score(text, f"{name}: {path}")
    )


def read_midi(data: bytes, where: str) -> list[Note]:
    """The track with lyrics: its notes one after the other (of chords the last begun), each with
    the lyric at its start.
    """
    try:
        division, tracks = _midi_tracks(data)
    except (IndexError, ValueError):
        raise InputError(
            f"{where}: expected a whole MIDI file with ticks per beat, got a broken or another one"
        ) from None
    tempos = sorted((t, int(v)) for track in tracks for t, kind, v in track if kind == "tempo")
    sung = [t for t in tracks if any(kind == "lyric" for _, kind, _ in t)]
    if not sung:
        raise InputError(
            f"{where}: expected lyric events with the notes, got none; put words into the file, "
            "or use the text form"
        )

    def seconds(tick: int) -> float:
        total, last, tempo = 0.0, 0, 500000
        for at, value in tempos:
            if at >= tick:
                break
            total, last, tempo = total + (at - last) * tempo, at, value
        return (total + (tick - last) * tempo) / division / 1e6

    lyrics = {t: str(v) for t, kind, v in sung[0] if kind == "lyric"}
    spans: list[tuple[int, int, int]] = []  # start, end, pitch
    open_note: tuple[int, int] | None = None
    for t, kind, v in sung[0]:
        if kind == "on":
            if open_note is not None and t > open_note[0]:
                spans.append((open_note[0], t, open_note[1]))
            open_note = (t, int(v))
        elif kind == "off" and open_note is not None and open_note[1] == v:
            spans.append((open_note[0], t, int(v)))
            open_note = None
    notes: list[Note] = []
    now = 0
    for start, end, pitch in spans:
        if start > now and seconds(start) - seconds(now) >= 0.03:
            notes.append(Note(0, seconds(start) - seconds(now)))
        notes.append(
            Note(
                pitch,
                seconds(end) - seconds(start),
                _syllable_word(lyrics, start, [s for s, *_ in spans]),
            )
        )
        now = end
    return notes


def _syllable_word(lyrics: dict[int, str], start: int, starts: list[int]) -> str:
    """The whole word on its first note: lyric events hold syllables, "hel-" goes on in the next
    one; "-" after the first.
    """
    order = [t for t in starts if lyrics.get(t, "").strip()]
    if start not in order:
        return "-"
    words: dict[int, str] = {}
    first = None
    for t in order:
        text = lyrics[t].strip()
        if first is None:
            first = t
            words[first] = ""
        else:
            words[t] = "-"
        words[first] += text.rstrip("-")
        if not text.endswith("-"):
            first = None
    return words[start] or "-"


def _midi_tracks(data: bytes) -> tuple[int, list[list[tuple[int, str, int | str]]]]:
    if data[:4] != b"MThd" or int.from_bytes(data[4:8], "big") != 6:
        raise ValueError
    kind, count, division = (int.from_bytes(data[i : i + 2], "big") for i in (8, 10, 12))
    if kind > 1 or not 0 < division < 0x8000:
        raise ValueError
    tracks, at = [], 14
    for _ in range(count):
        if data[at : at + 4] != b"MTrk":
            raise ValueError
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
        if end > len(data):
            raise ValueError
        tracks.append(_midi_events(data[at + 8 : end]))
        at = end
    return division, tracks


def _midi_events(data: bytes) -> list[tuple[int, str, int | str]]:
    """(tick, kind, value): on and off with the pitch, lyric with its text, tempo in microseconds a
    beat.
    """
    events: list[tuple[int, str, int | str]] = []
    at = tick = status = 0

    def number() -> int:
        nonlocal at
        value = 0
        for _ in range(4):
            byte = data[at]
            at += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise ValueError

    while at < len(data):
        tick += number()
        if (
            data[at] >= 0xF0
        ):  # meta and exclusive events; some writers go on with the running status after them
            meta = data[at] == 0xFF
            kind = data[at + 1] if meta else 0
            at += 2 if meta else 1
            length = number()
            body = data[at : at + length]
            if len(body) < length:
                raise ValueError
            at += length
            if kind == 5:
                events.append((tick, "lyric", body.decode("utf-8", "replace")))
            elif kind == 0x51 and length == 3:
                events.append((tick, "tempo", int.from_bytes(body, "big")))
            continue
        if data[at] >= 0x80:
            status = data[at]
            at += 1
        high = status & 0xF0
        if high < 0x80:
            raise ValueError
        first = data[at]
        second = data[at + 1] if high not in (0xC0, 0xD0) else 0
        at += 1 if high in (0xC0, 0xD0) else 2
        if high == 0x90 and second:
            events.append((tick, "on", first))
        elif high == 0x80 or high == 0x90:
            events.append((tick, "off", first))
    return events


def read_musicxml(text: str, where: str) -> list[Note]:
    """The first part's first voice; chords by their first note, ties joined, tempo from <sound
    tempo>.
    """
    if "<!ENTITY" in text:
        raise InputError(f"{where}: expected MusicXML without entity definitions, got some")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as e:
        raise InputError(f"{where}: expected MusicXML, got: {e}") from None
    part = root.find("part")
    if root.tag != "score-partwise" or part is None:
        raise InputError(f"{where}: expected a partwise MusicXML score, got <{shown(root.tag)}>")
    try:
        return _part_notes(part)
    except (ValueError, ZeroDivisionError, AttributeError, TypeError):
        raise InputError(
            f"{where}: expected whole MusicXML notes with pitch and duration, got a broken score"
        ) from None


def _part_notes(part: ElementTree.Element) -> list[Note]:
    notes: list[Note] = []
    divisions, tempo = 1.0, 120.0
    word: int | None = None  # the note on which the current word began
    for e in part.iter():
        if e.tag == "divisions":
            divisions = float(e.text or 1)
        elif e.tag == "sound" and e.get("tempo"):
            tempo = float(e.get("tempo") or tempo)
        elif (
            e.tag != "note"
            or e.find("chord") is not None
            or e.find("grace") is not None
            or e.findtext("voice", "1") != "1"
        ):
            continue
        else:
            seconds = float(e.findtext("duration") or "") / divisions * 60 / tempo
            pitch = e.find("pitch")
            if pitch is None:
                notes.append(Note(0, seconds))
                word = None
                continue
            step, octave = pitch.findtext("step") or "", int(pitch.findtext("octave") or "")
            midi = (
                12 * (octave + 1)
                + {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}.get(step, -99)
                + int(float(pitch.findtext("alter") or 0))
            )
            if (
                any(t.get("type") == "stop" for t in e.findall("tie"))
                and notes
                and notes[-1].pitch == midi
            ):
                notes[-1] = Note(midi, notes[-1].seconds + seconds, notes[-1].word)
                continue
            lyric = e.find("lyric")
            text = (lyric.findtext("text") or "").strip() if lyric is not None else ""
            kind = (lyric.findtext("syllabic") or "single") if lyric is not None else ""
            if text and kind in ("single", "begin"):
                word = len(notes)
                notes.append(Note(midi, seconds, text))
                continue
            if text and word is not None:
                notes[word] = Note(notes[word].pitch, notes[word].seconds, notes[word].word + text)
            notes.append(Note(midi, seconds, "-"))
    return notes
