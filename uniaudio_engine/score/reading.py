"""Scores to sing, from a file, a text or notes.

The song must be one that you have the right to sing.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from .layout import Song, lay_out
from .notes import Note, checked
from .text_form import parse_pitch, parse_score

__all__ = ["Note", "Song", "lay_out", "parse_pitch", "parse_score", "read_score", "read_song"]

SUFFIXES = (".txt", ".mid", ".midi", ".kar", ".rmi", ".musicxml", ".mxl", ".xml")


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
    """Notes of a file (one of :data:`SUFFIXES`), a text, or a sequence of notes or (pitch, seconds,
    word).  Raises :class:`InputError` in one line for what is none.
    """
    if isinstance(value, (str, os.PathLike)) and Path(value).suffix.lower() in SUFFIXES:
        from .files import read_file  # only files need the readers of XML and MIDI

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
