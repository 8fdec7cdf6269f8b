"""Scores as text, one note per line, ``PITCH BEATS WORD``::

tempo 120
C4 1 hello       a word stands on its first note,
E4 2 -           "-" sings its next syllable, or holds its last one
D4 1 _           "_" holds the same syllable on another note
R  1             a rest
67 1.5 you       MIDI numbers will do
"""

from __future__ import annotations

import re

from ..errors import InputError, shown
from .notes import Note

STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_PITCH = re.compile(r"([a-g])(#{0,2}|b{0,2})(-?\d)")


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
