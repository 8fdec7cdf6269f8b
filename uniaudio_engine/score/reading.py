"""Scores: notes with words -> what rides beside a song: phones, how long each still lasts, the
note, how long it lasts.

A score is a list of :class:`Note` in order.  As text, one note a line, ``PITCH BEATS WORD``::

    tempo 120
    C4 1 hello       a word stands on its first note,
    E4 2 -           "-" carries its next syllable, or its vowel on, to another note
    R  1             a rest
    67 1.5 you       MIDI numbers will do

MIDI files (lyrics in lyric events) and MusicXML are read by ``score_files.py``. Not responsible for
singing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, shown
from ..text import PAUSE, sentence_words
from ..text.phones import is_vowel

REST = 0.2  # s of silence before and after a song
_LOW, _HIGH = 36, 98  # MIDI pitches that the aligned rows tells apart
_CONSONANT = 0.09  # s of a consonant, where the note has room
_SHARE = 0.55  # of a note at most goes to its consonants
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_PITCH = re.compile(r"([a-g])(#{0,2}|b{0,2})(-?\d)")


@dataclass(frozen=True)
class Note:
    """``pitch`` is a MIDI number (69 is 440 Hz), 0 a rest; ``seconds`` long; ``word`` on its first
    note, "-" where it goes on.
    """

    pitch: int
    seconds: float
    word: str = ""


@dataclass(frozen=True)
class Song:
    """``phones`` labels with ``durations`` frames each, ``pitches`` with ``note_frames`` each: both
    of the same length.
    """

    phones: tuple[str, ...]
    durations: tuple[int, ...]
    pitches: tuple[int, ...]
    note_frames: tuple[int, ...]


def read_song(value: Any, frame_rate: float, labels: Container[str], name: str = "score") -> Song:
    """A score given as a file, a text, or notes, laid out over frames.

    Raises :class:`InputError` for a score that cannot be read, and where it needs a phone that is
    not among ``labels``.
    """
    song = lay_out(read_score(value, name), frame_rate, name)
    unknown = sorted(p for p in set(song.phones) if p not in labels)
    if unknown:
        raise InputError(
            f"{name}: the model's phones.txt has no {unknown[0]}; it cannot sing these words"
        )
    return song


def read_score(value: Any, name: str = "score") -> list[Note]:
    """Notes from a file (.txt, .mid, .midi, .musicxml, .xml), a text, or a sequence of notes or
    (pitch, seconds, word).
    """
    if isinstance(value, (str, os.PathLike)) and Path(value).suffix.lower() in (
        ".txt",
        ".mid",
        ".midi",
        ".musicxml",
        ".xml",
    ):
        from .files import read_file

        return _checked(read_file(Path(value), name), name)
    if isinstance(value, str):
        return _checked(parse_score(value, name), name)
    if not isinstance(value, Sequence) or not len(value):
        raise InputError(f"{name}: expected notes, a text or a file of them, got {shown(value)}")
    notes = []
    for n in value:
        try:
            notes.append(n if isinstance(n, Note) else Note(*n))
        except TypeError:
            raise InputError(
                f"{name}: expected notes as (pitch, seconds, word), got {shown(n)}"
            ) from None
    return _checked(notes, name)


def parse_score(text: str, name: str = "score") -> list[Note]:
    """The text form; ``tempo`` in beats a minute, 120 where it is not said.  # begins a comment."""
    tempo, notes = 120.0, []
    for number, line in enumerate(text.splitlines(), 1):
        parts = re.split(r"(?:^|\s)#(?:\s|$)", line)[0].split()
        if not parts:
            continue
        where = f"{name} line {number}"
        if parts[0].lower() == "tempo" and len(parts) == 2:
            tempo = _number(parts[1], where, 10.0, 1000.0)
            continue
        if len(parts) not in (2, 3):
            raise InputError(
                f"{where}: expected PITCH BEATS WORD, as in C4 1 hello, got {shown(line.strip())}"
            )
        beats = _number(parts[1], where, 0.01, 64.0)
        pitch = parse_pitch(parts[0], where)
        if pitch and len(parts) == 2:
            raise InputError(
                f"{where}: expected a word after the length, or - where the last one goes on; got "
                f"{shown(line.strip())}"
            )
        notes.append(Note(pitch, 60 * beats / tempo, parts[2] if len(parts) == 3 and pitch else ""))
    if not notes:
        raise InputError(f"{name}: expected notes, one a line, as in C4 1 hello; got none")
    return notes


def parse_pitch(text: str, where: str) -> int:
    """C4 is 60; sharps #, flats b; a MIDI number as it is; R is a rest, 0."""
    low = text.lower()
    if low == "r":
        return 0
    found = _PITCH.fullmatch(low)
    if found:
        step, bend, octave = found.groups()
        return 12 * (int(octave) + 1) + _STEPS[step] + bend.count("#") - bend.count("b")
    if low.isdecimal() and int(low) < 128:
        return int(low)
    raise InputError(
        f"{where}: expected a pitch such as C4, F#3, Bb4, a MIDI number, or R for a rest, got "
        f"{shown(text)}"
    )


def lay_out(notes: Sequence[Note], frame_rate: float, name: str = "score") -> Song:
    """Words over notes, phones over frames: a syllable a note, its consonants short and its vowel
    as long as the note.

    Rests become pauses; one is added before and after.
    """
    groups: list[list[Note]] = []  # the notes of each word, or one rest
    for note in notes:
        if note.pitch and note.word in ("-", "") and (not groups or not groups[-1][0].pitch):
            raise InputError(
                f"{name}: expected a word on the first note after a rest, got "
                f"{note.word or 'none'!r}"
            )
        if note.pitch and note.word in ("-", ""):
            groups[-1].append(note)
        else:
            groups.append([note])
    if not any(g[0].pitch for g in groups):
        raise InputError(f"{name}: expected at least one note, got rests only")
    if groups[0][0].pitch:
        groups.insert(0, [Note(0, REST)])
    if groups[-1][0].pitch:
        groups.append([Note(0, REST)])
    phones: list[str] = []
    durations: list[int] = []
    pitches: list[int] = []
    frames: list[int] = []
    clock = 0.0
    for group in groups:
        bounds = []
        for note in group:
            begin, clock = round(clock * frame_rate), clock + note.seconds
            bounds.append(max(1, round(clock * frame_rate) - begin))
            pitches.append(note.pitch)
            frames.append(bounds[-1])
        if not group[0].pitch:
            phones.append(PAUSE)
            durations.append(bounds[0])
            continue
        syllables = _over_notes(_syllables(_word_phones(group[0].word, name)), bounds)
        for syllable, length in syllables:
            for phone, count in zip(
                syllable, _lengths(syllable, length, frame_rate, group[0].word, name), strict=True
            ):
                phones.append(phone)
                durations.append(count)
    return Song(tuple(phones), tuple(durations), tuple(pitches), tuple(frames))


def _word_phones(word: str, name: str) -> list[str]:
    words = sentence_words(word)
    phones = [p for w in words for p in w if w != [PAUSE]]
    if not any(is_vowel(p) for p in phones):
        raise InputError(f"{name}: expected a word that can be sung, got {shown(word)}")
    return phones


def _syllables(phones: list[str]) -> list[list[str]]:
    """One vowel each; of the consonants between two vowels the last goes to the second."""
    vowels = [i for i, p in enumerate(phones) if is_vowel(p)]
    cuts = [b - 1 if b - a > 1 else b for a, b in zip(vowels, vowels[1:], strict=False)]
    return [phones[a:b] for a, b in zip([0, *cuts], [*cuts, len(phones)], strict=True)]


def _over_notes(syllables: list[list[str]], notes: list[int]) -> list[tuple[list[str], int]]:
    """(phones, frames): a syllable a note; left-over notes prolong the last one, left-over
    syllables share the last note.
    """
    n = min(len(syllables), len(notes))
    out = [(syllables[i], notes[i]) for i in range(n - 1)]
    last = [p for s in syllables[n - 1 :] for p in s]
    return [*out, (last, sum(notes[n - 1 :]))]


def _lengths(phones: list[str], frames: int, frame_rate: float, word: str, name: str) -> list[int]:
    """Frames of each phone: at least one, consonants no more than their time and share, vowels the
    rest.
    """
    if frames < len(phones):
        raise InputError(
            f"{name}: expected notes of {len(phones) / frame_rate:.2g} s or more for {word!r}, "
            f"got {frames / frame_rate:.2g} s"
        )
    vowels = [i for i, p in enumerate(phones) if is_vowel(p)]
    others = len(phones) - len(vowels)
    each = max(
        1, min(round(_CONSONANT * frame_rate), int(_SHARE * frames / others) if others else 0)
    )
    left = frames - each * others
    if left < len(vowels):
        each = 1
        left = frames - others
    share, more = divmod(left, len(vowels))
    lengths = [each] * len(phones)
    for k, i in enumerate(vowels):
        lengths[i] = share + (k < more)
    return lengths


def _checked(notes: list[Note], name: str) -> list[Note]:
    for n in notes:
        good = (
            isinstance(n.pitch, (int, np.integer))
            and isinstance(n.seconds, (int, float))
            and isinstance(n.word, str)
        )
        if (
            not good
            or not (n.pitch == 0 or _LOW <= n.pitch <= _HIGH)
            or not 0.02 <= n.seconds <= 60
        ):
            raise InputError(
                f"{name}: expected MIDI pitches {_LOW} to {_HIGH} (0: rest) of 0.02 to 60 s with "
                f"a word, got {shown(n)}"
            )
    return notes


def _number(text: str, where: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError(f"{where}: expected a number from {low:g} to {high:g}, got {shown(text)}")
    return value
