"""Pronunciation of unlisted words: one decision tree a letter, asking which letters stand around
it.

Responsible for walking the trees; `training/uniaudio_training/text/build_lexicon.py` grows them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

WINDOW = 4  # letters of context on either side
CONTEXT = 2 * WINDOW
LEAF = 255  # in place of a position: the node answers
_EDGE, _BEYOND = 27, 28  # codes of the word's border and of what lies outside; letters are 1 to 26


def windows(word: str) -> list[bytes]:
    """For every letter of a lower-case a-z word, the codes of the letters around it (left to
    right).
    """
    beyond = bytes([_BEYOND]) * (WINDOW - 1)
    codes = beyond + bytes([_EDGE]) + bytes(ord(c) - 96 for c in word) + bytes([_EDGE]) + beyond
    return [
        codes[i : i + WINDOW] + codes[i + WINDOW + 1 : i + CONTEXT + 1] for i in range(len(word))
    ]


class LetterTrees:
    """The trees of all letters; immutable, so shared between threads.

    `feature[i]` is the position asked at node i (LEAF: `value[i]` is the answer, an index into
    `units`), `value[i]` the letter code asked for; yes goes to node i + 1, no to `no[i]`.
    """

    def __init__(
        self,
        feature: list[int],
        value: list[int],
        no: list[int],
        roots: list[int],
        units: list[str],
    ) -> None:
        self._feature, self._value, self._no, self._roots = feature, value, no, roots
        self._units = [unit.split() for unit in units]

    @classmethod
    def from_arrays(cls, arrays: Any) -> LetterTrees:
        """From the arrays of the data file (a mapping of names to NumPy arrays)."""
        names = ("feature", "value", "no", "roots")
        feature, value, no, roots = (np.asarray(arrays[name]).tolist() for name in names)
        return cls(feature, value, no, roots, bytes(arrays["units"]).decode("ascii").split("\n"))

    def pronounce(self, word: str) -> list[str]:
        """Phones with stress of a lower-case word; characters outside a-z are skipped."""
        letters = "".join(c for c in word if "a" <= c <= "z")
        phones: list[str] = []
        feature, value, no = self._feature, self._value, self._no
        for letter, window in zip(letters, windows(letters), strict=True):
            node = self._roots[ord(letter) - 97]
            while (position := feature[node]) != LEAF:
                node = node + 1 if window[position] == value[node] else no[node]
            phones += self._units[value[node]]
        return phones
