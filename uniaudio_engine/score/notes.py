"""The notes of a score, as every reader gives them and the layout takes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError, shown

LOWEST, HIGHEST = 36, 98  # MIDI pitches that the aligned rows tell apart
SHORTEST, LONGEST = 0.02, 60.0  # s of a note
LONGEST_REST = 3600.0  # s
MOST_NOTES = 100_000  # of a score, with its repeats
NEXT, HOLD = "-", "_"  # words that go on: with the next syllable, with the same one
ELISION = "\u203f"  # between syllables that share a note


@dataclass(frozen=True)
class Note:
    """One note or rest.

    ``pitch``: MIDI number, 69 is 440 Hz; 0 is a rest.  ``seconds``: its length.  ``word``: the
    whole word on the note where it begins; ``-`` (or nothing) where its next syllable is sung;
    ``_`` where the same syllable goes on.  Syllables that share a note are joined by ``‿``:
    ``-‿in`` ends one word and begins the next.  ``where``: what an error message names, such as
    the file and the bar.
    """

    pitch: int
    seconds: float
    word: str = ""
    where: str = field(default="", compare=False, repr=False)


def checked(notes: Iterable[Note], name: str) -> list[Note]:
    """The notes, if all can be sung; raises :class:`InputError` for the first that cannot."""
    good = list(notes)
    for n in good:
        where = n.where if isinstance(n.where, str) and n.where else name
        if not (
            isinstance(n.pitch, (int, np.integer))
            and isinstance(n.seconds, (int, float))
            and isinstance(n.word, str)
        ):
            raise InputError(f"{where}: expected (pitch, seconds, word), got {shown(n)}")
        if n.pitch != 0 and not LOWEST <= n.pitch <= HIGHEST:
            raise InputError(
                f"{where}: expected MIDI pitches {LOWEST} to {HIGHEST} (0: a rest), got {n.pitch}; "
                "transpose the score"
            )
        longest = LONGEST if n.pitch else LONGEST_REST
        if not SHORTEST <= n.seconds <= longest:
            raise InputError(
                f"{where}: expected a {'note' if n.pitch else 'rest'} of {SHORTEST} to "
                f"{longest:g} s, got {n.seconds:.6g} s"
            )
    return good
