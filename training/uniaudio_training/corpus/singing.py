"""Synthetic singing: flite's phones stretched to notes, with F0 following a random-walk melody, by
the corpus's own vocoder.

Labels are exact: note starts, phone ends and the F0 contour are drawn first, and the sound is made
from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .flite import VOWELS, Segment
from .music import KEYS, SCALES
from .pitch import SAMPLE_RATE, hz
from .schema import Note, Phone, Vibrato, Word
from .speech import Speaker, set_level, speak
from .vocoder import envelopes, synthesize

Floats = NDArray[np.floating]

REST = 0.2  # s of silence before and after a song, and the minimum between phrases
_PORTAMENTO = 0.06  # s, glide from one pitch to the next
_LONG = 0.4  # s, notes at least this long have vibrato
_VIBRATO_AFTER, _VIBRATO_RISE = 0.12, 0.15  # s

# Cutoff in Hz up to which each phone is voiced (0: unvoiced); above it the sound is noise.
_VOICED_TO = {
    **dict.fromkeys("l r w y m n ng".split(), 5000.0),
    **dict.fromkeys("b d g".split(), 2500.0),
    **dict.fromkeys("v dh".split(), 1800.0),
    **dict.fromkeys("z zh jh".split(), 1000.0),
    **dict.fromkeys(VOWELS, 5500.0),
}


@dataclass(frozen=True)
class Song:
    """float32 samples [N] at 16 kHz, with notes, lyrics and phone end times."""

    samples: NDArray[np.float32]
    text: str
    speaker: str
    notes: tuple[Note, ...]
    phones: tuple[Phone, ...]
    words: tuple[Word, ...]
    vibrato: Vibrato
    key: str
    mode: str
    tempo: int


def contour(notes: tuple[Note, ...], vibrato: Vibrato, count: int) -> Floats:
    """F0 in Hz at each of ``count`` samples: the notes' pitches with portamento, and vibrato on
    long notes.

    A rest holds the previous pitch (before the first note: the pitch of the first). Rests are
    unvoiced.
    """
    midi = np.full(count, float(notes[0].pitch))
    wave = np.zeros(count)
    for note in notes:
        first, last = (
            round(note.start * SAMPLE_RATE),
            round((note.start + note.duration) * SAMPLE_RATE),
        )
        midi[first:] = note.pitch
        if note.duration >= _LONG:
            t = np.arange(min(last, count) - first) / SAMPLE_RATE
            depth = np.clip((t - _VIBRATO_AFTER) / _VIBRATO_RISE, 0, 1) * np.clip(
                (note.duration - t) / 0.08, 0, 1
            )
            wave[first : first + len(t)] = (
                depth
                * vibrato.cents
                / 100
                * np.sin(2 * np.pi * vibrato.hz * np.maximum(0.0, t - _VIBRATO_AFTER))
            )
    n = int(_PORTAMENTO * SAMPLE_RATE)
    bend = np.hanning(n)
    bend /= bend.sum()
    smooth = midi.copy()
    padded = np.pad(midi, (n, n), mode="edge")
    for step in np.flatnonzero(np.diff(midi)):  # smoothing changes nothing elsewhere
        lo, hi = max(0, step - n), min(count, step + n)
        smooth[lo:hi] = np.convolve(padded[lo : hi + 2 * n], bend, "same")[n : n + hi - lo]
    return hz(smooth + wave)


@dataclass
class _Syllable:
    """Segments ``first`` to ``last - 1`` of the utterance; ``nucleus`` is the index of the vowel
    among them, -1 where there is none.
    """

    first: int
    last: int
    nucleus: int
    lyric: str
    stressed: bool = False


def _syllables(segments: tuple[Segment, ...]) -> list[_Syllable | None]:
    """Syllables in order, None for each pause. A syllable without a vowel joins its neighbour."""
    found: list[_Syllable | None] = []
    for i, s in enumerate(segments):
        if s.phone == "pau":
            found.append(None)
            continue
        vowel = s.phone.rstrip("012") in VOWELS
        last = found[-1] if found else None
        if last is None or (s.begins and last.nucleus >= 0):
            last = _Syllable(i, i + 1, i if vowel else -1, s.word if s.begins == "word" else "-")
            found.append(last)
        else:
            last.last = i + 1
            if vowel and last.nucleus < 0:
                last.nucleus = i
        last.stressed |= s.phone.endswith("1")
    return found


def melody(
    rng: np.random.Generator, stressed: list[bool], centre: float
) -> tuple[list[int], list[float], str, str, int]:
    """A random walk within a ninth around ``centre`` (MIDI), with a note for each syllable.

    Returns pitches, note lengths in s, key, mode and tempo. Stressed syllables get longer notes.
    """
    count = len(stressed)
    key, mode = int(rng.integers(12)), ("major", "minor")[int(rng.integers(2))]
    tempo = int(rng.choice([120, 132, 144, 156, 168, 180]))
    scale = [p for p in range(30, 90) if (p - key) % 12 in SCALES[mode]]
    middle = int(np.argmin([abs(p - centre) for p in scale]))
    at = middle + int(rng.integers(-2, 3))
    pitches, lengths = [], []
    for i in range(count):
        pitches.append(scale[at])
        share = [0.55, 0.4, 0.05] if stressed[i] else [0.9, 0.1, 0.0]
        beats = float(rng.choice([0.5, 1.0, 1.5], p=share)) if i < count - 1 else 1.5
        lengths.append(beats * 60 / tempo)
        at = int(
            np.clip(
                at
                + rng.choice([-3, -2, -1, 0, 1, 2, 3], p=[0.05, 0.15, 0.25, 0.1, 0.25, 0.15, 0.05]),
                middle - 4,
                middle + 4,
            )
        )
    return pitches, lengths, KEYS[key], mode, tempo


def _stretch(old: float, new: float, length: float, count: int) -> Floats:
    """Source times of the ``count`` samples of a phone, sung for ``new`` seconds.

    The phone begins at ``old`` and lasts ``length`` seconds. Its edges keep their speed; the middle
    is stretched.
    """
    edge = min(0.05, 0.3 * length, 0.3 * new)
    t = np.arange(count) / SAMPLE_RATE
    return old + np.interp(t, [0.0, edge, new - edge, new], [0.0, edge, length - edge, length])


def sing(rng: np.random.Generator, text: str, speaker: Speaker, level_db: float = -23.0) -> Song:
    """One phrase or sentence sung by a virtual speaker to a random melody."""
    u = speak(text, speaker, rate_scale=0.9, noise_seed=int(rng.integers(1 << 31)))
    low = speaker.f0 * 0.6
    frames = envelopes(u.samples, low, speaker.f0 * 1.7)
    syllables = _syllables(u.segments)
    starts = [0.0, *(s.end for s in u.segments[:-1])]
    natural = [s.end - b for s, b in zip(u.segments, starts, strict=True)]
    sung = [s for s in syllables if s is not None]
    centre = 69 + 12 * np.log2(speaker.f0 * float(rng.uniform(1.0, 1.35)) / 440)
    pitches, lengths, key, mode, tempo = melody(rng, [s.stressed for s in sung], centre)
    vibrato = Vibrato(round(float(rng.uniform(20, 60)), 1), round(float(rng.uniform(4.8, 6.2)), 2))

    notes: list[Note] = []
    phones: list[Phone] = []
    words: list[Word] = []
    pieces: list[Floats] = []
    corners: list[Floats] = []
    now = 0  # samples

    def add(i: int, seconds: float) -> None:
        nonlocal now
        count = max(1, round(seconds * SAMPLE_RATE))
        pieces.append(_stretch(starts[i], count / SAMPLE_RATE, natural[i], count))
        corners.append(np.full(count, _VOICED_TO.get(u.segments[i].phone.rstrip("012"), 0.0)))
        now += count
        phones.append(Phone(u.segments[i].phone, now / SAMPLE_RATE))

    k = 0
    place = 0
    for s in syllables:
        if s is None:
            add(
                place,
                max(REST, 0.0)
                if phones == [] or place == len(u.segments) - 1
                else max(REST, round(natural[place], 2)),
            )
            place += 1
            continue
        begin, total = now, lengths[k]
        consonants = [i for i in range(s.first, s.last) if i != s.nucleus]
        room = {i: min(natural[i], 0.14) for i in consonants}
        if s.nucleus >= 0 and sum(room.values()) > 0.55 * total:
            shrink = 0.55 * total / sum(room.values())
            room = {i: d * max(shrink, 0.5) for i, d in room.items()}
        total = max(total, sum(room.values()) + 0.12)
        for i in range(s.first, s.last):
            add(i, total - sum(room.values()) if i == s.nucleus else room[i])
        length = (now - begin) / SAMPLE_RATE
        if length > 0.8 and rng.random() < 0.5:  # two notes on one syllable
            cut = round(length / 2 * SAMPLE_RATE) / SAMPLE_RATE
            other = pitches[k] + int(rng.choice([-2, 2]))
            notes += [
                Note(pitches[k], begin / SAMPLE_RATE, cut, s.lyric),
                Note(other, begin / SAMPLE_RATE + cut, length - cut, "-"),
            ]
        else:
            notes.append(Note(pitches[k], begin / SAMPLE_RATE, length, s.lyric))
        if s.lyric != "-" or not words:
            words.append(Word(s.lyric, begin / SAMPLE_RATE, now / SAMPLE_RATE))
        else:
            words[-1] = words[-1]._replace(end=now / SAMPLE_RATE)
        k += 1
        place = s.last
    f0 = contour(tuple(notes), vibrato, now)
    corner = np.concatenate(corners)
    n = 160  # 10 ms: voicing changes gradually
    smooth = np.convolve(
        np.pad(corner, (n // 2, n - n // 2 - 1), mode="edge"), np.ones(n) / n, "valid"
    )
    corner = np.where(smooth < 200.0, 0.0, smooth)
    samples = synthesize(rng, frames, np.concatenate(pieces), f0, corner, now)
    return Song(
        set_level(samples, level_db),
        text,
        speaker.name,
        tuple(notes),
        tuple(phones),
        tuple(words),
        vibrato,
        key,
        mode,
        tempo,
    )
