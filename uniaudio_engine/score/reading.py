"""Scores to sing, from a file, a text or notes.

As text, one note a line, ``PITCH BEATS WORD``::

    tempo 120
    C4 1 hello       a word stands on its first note,
    E4 2 -           "-" sings its next syllable, or holds its last one
    D4 1 _           "_" holds the same syllable on another note
    R  1             a rest
    67 1.5 you       MIDI numbers will do

The song must be one that you have the right to sing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from .layout import Song, lay_out
from .notes import Note, checked

__all__ = ["Note", "Song", "lay_out", "parse_pitch", "parse_score", "read_score", "read_song"]

SUFFIXES = (".txt", ".mid", ".midi", ".kar", ".rmi", ".musicxml", ".mxl", ".xml")
STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_PITCH = re.compile(r"([a-g])(#{0,2}|b{0,2})(-?\d)")


def read_score(value: Any, name: str = "score") -> list[Note]:
    """Notes of a file (one of :data:`SUFFIXES`), a text, or a sequence of notes or (pitch, seconds,
    word).  Raises :class:`InputError` in one line for what is none.
    """
    if isinstance(value, (str, os.PathLike)) and Path(value).suffix.lower() in SUFFIXES:
        from .files import read_file

        return checked(read_file(Path(value), name), name)
    if isinstance(value, str):
        return checked(parse_score(value, name), name)
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
    return checked(notes, name)


def parse_score(text: str, name: str = "score") -> list[Note]:
    """The text form.  ``tempo`` is in beats a minute, 120 where it is not given; ``#`` begins a
    comment.
    """
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
        word = parts[2] if len(parts) == 3 and pitch else ""
        notes.append(Note(pitch, 60 * beats / tempo, word, where))
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
        return 12 * (int(octave) + 1) + STEPS[step] + bend.count("#") - bend.count("b")
    if low.isdecimal() and len(low) <= 3 and int(low) < 128:
        return int(low)
    raise InputError(
        f"{where}: expected a pitch such as C4, F#3, Bb4, a MIDI number, or R for a rest, got "
        f"{shown(text)}"
    )


def _number(text: str, where: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError(f"{where}: expected a number from {low:g} to {high:g}, got {shown(text)}")
    return value


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
