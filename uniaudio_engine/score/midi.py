"""MIDI files with lyrics -> notes: which voice is sung, and which syllable is on which note.

Lyric events follow RP-017; text events with line marks follow karaoke files (``.kar``).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable

from ..errors import InputError
from .lyrics import Sung, decode, karaoke, notes
from .midi_events import MidiFile, Track, read_events
from .notes import MOST_NOTES, Note

Voice = list[tuple[int, int, int]]  # (start, end, pitch) in ticks
Lyrics = list[tuple[int, bytes]]
_PERCUSSION = 9  # channel 10, counted from 0
_NEAR, _FAR = 0.06, 0.5  # s from a lyric to its note: beside it; early or late
_CHORD = 0.03  # s between the notes of a chord
_ALIKE = 0.8  # of the best fit of lyrics and notes is as good
_MOST_STREAMS = 8  # lyrics of this many tracks are looked at
_NOT_SUNG = re.compile(rb"\s*(@|\(c\)|\xa9|\xc2\xa9|copyright)", re.IGNORECASE)
_LANGUAGE = re.compile(rb"\{@([A-Za-z0-9_-]{1,12})\}")  # RP-026
_BETWEEN = b"\1"  # no sign of any text
_ENCODINGS = {b"LATIN": "cp1252", b"JP": "shift_jis"}


def read_midi(data: bytes, where: str) -> list[Note]:
    """The voice that fits the lyrics best; of chords the highest note.  Raises
    :class:`InputError` for what is no MIDI file, or one without lyrics or notes.
    """
    try:
        file = read_events(data)
    except (IndexError, ValueError):
        raise InputError(
            f"{where}: expected a whole MIDI file, got a broken one or something else"
        ) from None
    if file.separate:
        file.tracks = [t for t in file.tracks if t.notes and (t.lyrics or t.texts)][:1]
    seconds = _clock(file)
    found = _lyrics_and_voice(file, seconds)
    if found is None:
        raise InputError(
            f"{where}: expected notes with lyric events, got none; put words into the file, or use "
            "the text form"
        )
    lyrics, voice = found
    if len(voice) > MOST_NOTES:
        raise InputError(f"{where}: expected at most {MOST_NOTES} notes, got {len(voice)}")
    place = _bars(file, where)
    times = [seconds(t) for t, _ in lyrics]
    line = [Sung(seconds(s), seconds(e), p, (), place(s)) for s, e, p in voice]
    line = _one_voice(line, times)
    syllables = karaoke(_decoded([text for _, text in lyrics]))
    for i, syllable in zip(_beside(times, line), syllables, strict=True):
        line[i].syllables = [*line[i].syllables, *syllable]
    return notes(line)


def _clock(file: MidiFile) -> Callable[[int], float]:
    """Ticks -> seconds."""
    if file.second:
        return lambda tick: tick / file.second
    ticks, starts, rates = [0], [0.0], [0.5 / file.beat]
    for tick, tempo in sorted((c for t in file.tracks for c in t.tempos), key=lambda c: c[0]):
        starts.append(starts[-1] + (tick - ticks[-1]) * rates[-1])
        ticks.append(tick)
        rates.append(tempo / 1e6 / file.beat)

    def seconds(tick: int) -> float:
        i = bisect_right(ticks, tick) - 1
        return starts[i] + (tick - ticks[i]) * rates[i]

    return seconds


def _bars(file: MidiFile, where: str) -> Callable[[int], str]:
    """Ticks -> what an error message calls the place."""
    if file.second:
        return lambda tick: f"{where} at {tick / file.second:.1f} s"
    ticks, starts, lengths = [0], [1.0], [4.0 * file.beat]
    for tick, beats in sorted((c for t in file.tracks for c in t.times), key=lambda c: c[0]):
        starts.append(starts[-1] + (tick - ticks[-1]) / lengths[-1])
        ticks.append(tick)
        lengths.append(beats * file.beat)

    def place(tick: int) -> str:
        i = bisect_right(ticks, tick) - 1
        return f"{where} bar {int(starts[i] + (tick - ticks[i]) / lengths[i] + 1e-6)}"

    return place


def _lyrics_and_voice(
    file: MidiFile, seconds: Callable[[int], float]
) -> tuple[Lyrics, Voice] | None:
    """The first lyrics and the first channel of a track that begin together nearly as often as any
    do; lyric events go before text events, channels of the same track before others.
    """
    streams: list[tuple[Track, Lyrics, bool]] = []
    for plain in (False, True):
        for track in file.tracks:
            events = [e for e in (track.texts if plain else track.lyrics) if _is_sung(e[1])]
            if any(text.strip() for _, text in events):
                streams.append((track, events, plain))
    streams = sorted(streams, key=lambda s: -len(s[1]))[:_MOST_STREAMS]
    voices = [(t, c, v) for t in file.tracks for c, v in t.notes.items()]
    voices = [v for v in voices if v[1] != _PERCUSSION] or voices
    begun: dict[int, list[int]] = defaultdict(list)  # tenths of a second -> voices that begin then
    sizes = []
    for i, (_, _, voice) in enumerate(voices):
        tenths = {round(seconds(start) * 10) for start, _, _ in voice}
        sizes.append(len(tenths))
        for t in tenths:
            begun[t].append(i)
    fits: list[tuple[tuple[bool, bool, int, int], float, Lyrics, Voice]] = []
    for k, (track, events, plain) in enumerate(streams):
        tenths = {round(seconds(tick) * 10) for tick, _ in events}
        together = Counter(
            i
            for t in tenths
            for i in {i for near in (t - 1, t, t + 1) for i in begun.get(near, ())}
        )
        for i, (own, _, voice) in enumerate(voices):
            fit = 2 * together[i] / (len(tenths) + sizes[i])
            if not plain or fit > 0.1:  # other texts in a file without words
                order = (plain, own is not track, k, i)
                fits.append((order, fit, events, voice))
    best = max((fit for _, fit, _, _ in fits), default=0.0)
    good = [f for f in fits if f[1] >= _ALIKE * best]
    if not good:
        return None
    _, _, events, voice = min(good, key=lambda f: f[0])
    return events, voice


def _is_sung(text: bytes) -> bool:
    return not _NOT_SUNG.match(text) or _LANGUAGE.match(text.strip()) is not None


def _decoded(texts: list[bytes]) -> list[str]:
    language = next((m[1].upper() for t in texts if (m := _LANGUAGE.search(t))), b"")
    # The first byte of the whole is the mark between texts: none of them decides the encoding.
    whole = b"".join(_BETWEEN + _LANGUAGE.sub(b"", t).translate(None, b"\0\1") for t in texts)
    return decode(whole, _ENCODINGS.get(language, "")).split(_BETWEEN.decode())[1:]


def _one_voice(line: list[Sung], lyrics: list[float]) -> list[Sung]:
    """One note at a time: of a chord the highest; no note within a higher one, unless a lyric
    begins on it.
    """
    out: list[Sung] = []
    for e in line:
        last = out[-1] if out else None
        if last is None or e.start >= last.end - 1e-6:
            out.append(e)
        elif e.start - last.start < _CHORD:
            if e.pitch > last.pitch:
                last.pitch, last.end = e.pitch, e.end
        elif e.pitch > last.pitch or e.end > last.end or _near(lyrics, e.start) <= _NEAR:
            last.end = e.start
            out.append(e)
    return out


def _near(times: list[float], t: float) -> float:
    """How far t is from the nearest of the times, which are in order."""
    i = bisect_right(times, t)
    return min((abs(times[k] - t) for k in (i - 1, i) if 0 <= k < len(times)), default=1e9)


def _beside(times: list[float], line: list[Sung]) -> list[int]:
    """For each lyric the index of its note, in order: the one that begins beside it; else a near
    one that has no lyric; else the one that sounds then.
    """
    starts = [e.start for e in line]

    def nearest(t: float, low: int, high: int) -> int:
        i = bisect_right(starts, t)
        i -= i == len(starts) or (i > 0 and t - starts[i - 1] <= starts[i] - t)
        return min(max(i, low), high)

    last = len(starts) - 1
    places: list[int | None] = []
    for t in times:
        i = nearest(t, 0, last)
        places.append(i if abs(starts[i] - t) <= _NEAR else None)
    following = [last + 1] * (len(times) + 1)  # the next place that is already known
    for k in range(len(times) - 1, -1, -1):
        found = places[k]
        following[k] = following[k + 1] if found is None else found
    out: list[int] = []
    before = -1
    for k, t in enumerate(times):
        found = places[k]
        if found is None:
            free = nearest(t, before + 1, following[k] - 1)
            if before < free < following[k] and abs(starts[free] - t) <= _FAR:
                found = free
            else:
                sounding = bisect_right(starts, t) - 1
                found = min(max(sounding, before, 0), following[k], last)
        out.append(found)
        before = found
    return out
