"""Trains the letter-to-phone trees: one decision tree per letter, grown on labelled letters.

Words with the phones of each letter become the arrays that `uniaudio_engine.text.letters` reads.
The labels come from `build_lexicon`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from uniaudio_engine.text.letters import CONTEXT, LEAF, windows


class Forest:
    """The trees of all letters in one array of nodes, in the engine's format."""

    def __init__(self) -> None:
        self.units: list[str] = []
        self.feature: list[int] = []
        self.value: list[int] = []
        self.no: list[int] = []
        self.roots: dict[str, int] = {}

    def _leaf(self, unit: int) -> None:
        self.feature.append(LEAF)
        self.value.append(unit)
        self.no.append(0)

    def _grow(
        self, context: np.ndarray, target: np.ndarray, classes: np.ndarray, least: int
    ) -> None:
        counts = np.bincount(target, minlength=len(classes))
        top = int(counts.argmax())
        if counts[top] == len(target) or len(target) < 2 * least:
            self._leaf(int(classes[top]))
            return
        best, split = 1e-9, (-1, 0)
        whole = _entropy(counts[None])[0]
        for position in range(CONTEXT):
            column = context[:, position]
            table = np.bincount(column * len(classes) + target, minlength=32 * len(classes))
            yes = table.reshape(32, -1)
            sizes = yes.sum(1)
            gain = whole - _entropy(yes) - _entropy(counts - yes)
            gain[(sizes < least) | (len(target) - sizes < least)] = 0.0
            letter = int(gain.argmax())
            if gain[letter] > best:
                best, split = float(gain[letter]), (position, letter)
        if split[0] < 0:
            self._leaf(int(classes[top]))
            return
        mask = context[:, split[0]] == split[1]
        node = len(self.feature)
        self.feature.append(split[0])
        self.value.append(split[1])
        self.no.append(0)
        self._grow(*_compact(context[mask], target[mask], classes), least)
        self.no[node] = len(self.feature)
        self._grow(*_compact(context[~mask], target[~mask], classes), least)

    def fit(self, aligned: Iterable[tuple[str, list[str]]], least: int = 1) -> None:
        """Grows one tree per letter; `least` is the minimum number of samples on either side of a
        question.
        """
        samples: dict[str, tuple[list[bytes], list[int]]] = defaultdict(lambda: ([], []))
        index: dict[str, int] = {}
        for word, units in aligned:
            for letter, window, unit in zip(word, windows(word), units, strict=True):
                contexts, targets = samples[letter]
                contexts.append(window)
                targets.append(index.setdefault(unit, len(index)))
        self.units = list(index)
        for letter in sorted(samples):
            contexts, targets = samples[letter]
            matrix = (
                np.frombuffer(b"".join(contexts), np.uint8).reshape(-1, CONTEXT).astype(np.int64)
            )
            self.roots[letter] = len(self.feature)
            self._grow(*_compact(matrix, np.array(targets), np.arange(len(index))), least)


def _compact(
    context: np.ndarray, target: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Renumbers the remaining targets, which keeps the histograms of deep nodes small."""
    kept, renumbered = np.unique(target, return_inverse=True)
    return context, renumbered, classes[kept]


def _entropy(counts: np.ndarray) -> Any:
    """Total entropy of rows of counts, in nats: sum(n) * entropy."""
    counts = counts.astype(np.float64)
    total = counts.sum(1)
    inner = (counts * np.log(np.maximum(counts, 1))).sum(1)
    return total * np.log(np.maximum(total, 1)) - inner
