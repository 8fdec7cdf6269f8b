"""Which phones a sound has where they should be, as the semantic tokenizer hears them.

A table counts which phones each unit stands for. The planned phones are aligned with the units of the
sound (Viterbi); a phone is missed where none of its frames has a unit for which it is the likeliest
phone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .semantic import SemanticEncoder

_PROBABILITY_FLOOR = 1e-3  # that a unit stands for a phone that it was never counted with


@dataclass(frozen=True)
class Heard:
    """``missed``: share of the phones, pauses left out, that are not heard where they should be.
    ``log_likelihood``: mean of the others' frames and theirs, in nats.

    Sorts from the clearest on.
    """

    missed: float
    log_likelihood: float

    @property
    def key(self) -> tuple[float, float]:
        return self.missed, -self.log_likelihood


NOTHING = Heard(1.0, -np.inf)


class PhoneHearing:
    """Immutable; safe to share between threads."""

    def __init__(
        self, encoder: SemanticEncoder, probability: NDArray[np.float32], pauses: ArrayLike
    ) -> None:
        """``probability`` [units, phones] of the phone given the unit; ``pauses``: ids of phones that
        may be left out.
        """
        self.encoder = encoder
        self._log = np.log(np.maximum(probability, _PROBABILITY_FLOOR))
        self._likeliest = probability >= probability.max(1, keepdims=True)
        self._pauses = np.asarray(pauses, np.int64)

    def __call__(self, samples: NDArray[np.float32], phones: ArrayLike) -> Heard:
        """Sound [N] at the model's rate that should have ``phones`` [P], ids in order."""
        wanted = np.asarray(phones, np.int64)
        optional = np.isin(wanted, self._pauses)
        if optional.all():
            return Heard(0.0, 0.0)
        units = self.encoder.encode(samples)
        scores = self._log[units][:, wanted]
        path = align(scores, optional)
        if path is None:
            return NOTHING
        frames = np.arange(len(path))
        spoken = ~optional[path]
        heard = np.zeros(len(wanted), bool)
        heard[path[self._likeliest[units, wanted[path]]]] = True
        return Heard(float(1 - heard[~optional].mean()), float(scores[frames, path][spoken].mean()))


def align(scores: NDArray[np.float32], optional: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """The best path through states in order: the state of each frame, [T].

    ``scores`` [T, P] of the states in each frame; states that are ``optional`` [P] may be skipped,
    one at a time. None where there are too few frames.
    """
    frames, states = scores.shape
    if not frames:
        return None
    best = np.full(states, -np.inf)
    best[0] = scores[0, 0]
    if states > 1 and optional[0]:
        best[1] = scores[0, 1]
    may_skip = np.zeros(states, bool)  # the state before
    may_skip[2:] = optional[1:-1]
    came = np.zeros((frames, states), np.int8)  # states advanced into each frame
    ways = np.full((3, states), -np.inf)
    for t in range(1, frames):
        ways[0], ways[1, 1:] = best, best[:-1]
        ways[2, 2:] = np.where(may_skip[2:], best[:-2], -np.inf)
        came[t] = ways.argmax(0)
        best = ways.max(0) + scores[t]
    last = states - 1
    if states > 1 and optional[-1] and best[-2] > best[-1]:
        last -= 1
    if best[last] == -np.inf:
        return None
    path = np.empty(frames, np.int64)
    for t in range(frames - 1, -1, -1):
        path[t] = last
        last -= came[t, last]
    return path
