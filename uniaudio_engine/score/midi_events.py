"""Standard MIDI Files (RP-001): bytes -> notes, texts, tempos and times of each track, in ticks."""

from __future__ import annotations

from dataclasses import dataclass, field

_LYRIC, _TEXT, _TEMPO, _TIME, _END = 5, 1, 0x51, 0x58, 0x2F
_END_MARK = b"\xff\x2f\0"  # after a time, a byte or more


@dataclass
class Track:
    """What a track holds, in order of time; ``notes``: (start, end, pitch) for each channel."""

    notes: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    lyrics: list[tuple[int, bytes]] = field(default_factory=list)
    texts: list[tuple[int, bytes]] = field(default_factory=list)
    tempos: list[tuple[int, int]] = field(default_factory=list)  # microseconds a beat
    times: list[tuple[int, float]] = field(default_factory=list)  # beats a bar


@dataclass
class MidiFile:
    """``beat``: ticks a beat; ``second``: ticks a second where the file counts in those, or 0."""

    tracks: list[Track]
    beat: int
    second: float
    separate: bool  # the tracks are pieces of their own (format 2)


def read_events(data: bytes) -> MidiFile:
    """Raises ValueError or IndexError for what is no MIDI file, or one cut off inside an event.

    The header is looked for, since some files come wrapped (RMID, MacBinary); chunks of other
    kinds are skipped; how many tracks the header says does not matter.
    """
    at = data.find(b"MThd")
    length = int.from_bytes(data[at + 4 : at + 8], "big")
    if at < 0 or length < 6 or len(data) < at + 14:
        raise ValueError
    kind, _, division = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (8, 10, 12))
    beat, second = division, 0.0
    if division & 0x8000:  # frames a second, negative, and ticks a frame
        frames = 256 - (division >> 8)
        beat, second = 0, (30000 / 1001 if frames == 29 else frames) * (division & 0xFF)
    if kind > 2 or not (beat or second):
        raise ValueError
    tracks = []
    at += 8 + length
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
        if data[at : at + 4] == b"MTrk":
            tracks.append(_track(data[at + 8 : end], beat, max(0, end - len(data))))
        at = end
    return MidiFile(tracks, beat, second, kind == 2)


def _track(data: bytes, beat: int, missing: int) -> Track:
    """``missing``: how many bytes the track should have beyond ``data``; of the mark at its end
    at most, or else the song is cut off.
    """
    track = Track()
    opened: dict[tuple[int, int], int] = {}  # (channel, pitch) -> start
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

    def close(channel: int, pitch: int, end: int) -> None:
        start = opened.pop((channel, pitch), None)
        if start is not None and end > start:
            track.notes.setdefault(channel, []).append((start, end, pitch))

    ended = False
    while at < len(data) and not ended:
        tick += number()
        if missing and _END_MARK.startswith(data[at:]):
            break
        if data[at] >= 0xF0:  # some writers go on with the running status after these
            kind = data[at + 1] if data[at] == 0xFF else -1
            at += 2 if kind >= 0 else 1
            length = number()
            body = data[at : at + length]
            if len(body) < length:
                raise ValueError
            at += length
            _meta(track, kind, tick, body)
            ended = kind == _END
            continue
        if data[at] >= 0x80:
            status = data[at]
            at += 1
        command, channel = status & 0xF0, status & 15
        size = 1 if command in (0xC0, 0xD0) else 2
        body = data[at : at + size]
        if command < 0x80 or len(body) < size or max(body) > 0x7F:
            raise ValueError
        at += size
        if command in (0x80, 0x90):
            close(channel, body[0], tick)
            if command == 0x90 and body[1]:
                opened[channel, body[0]] = tick
    if missing > len(_END_MARK) + 1 and not ended:
        raise ValueError
    for (channel, pitch), start in list(opened.items()):  # never ended: to the track's end
        close(channel, pitch, tick if tick > start else start + (beat or 1))
    for notes in track.notes.values():
        notes.sort(key=lambda n: (n[0], -n[2]))
    return track


def _meta(track: Track, kind: int, tick: int, body: bytes) -> None:
    if kind == _LYRIC:
        track.lyrics.append((tick, body))
    elif kind == _TEXT:
        track.texts.append((tick, body))
    elif kind == _TEMPO and len(body) == 3 and any(body):
        track.tempos.append((tick, int.from_bytes(body, "big")))
    elif kind == _TIME and len(body) >= 2 and body[0]:
        track.times.append((tick, 4 * body[0] / 2 ** min(body[1], 7)))
