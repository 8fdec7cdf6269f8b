"""Which phones a sound has where they should be, as the semantic tokenizer hears them.

A table counts which phones each unit stands for. The planned phones are aligned with the units of the
sound (Viterbi); a phone is missed where none of its frames has a unit for which it is the likeliest
phone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .alignment import best_path
from .semantic import SemanticEncoder

_PROBABILITY_FLOOR = 1e-3  # that a unit stands for a phone that it was never counted with


@dataclass(frozen=True)
class Heard:
    """``missed``: share of the phones, pauses left out, that are not heard where they should be.
    ``log_likelihood``: of the phones in the frames where they should be, pauses left out: mean, in
    nats.
    """

    missed: float
    log_likelihood: float

    @property
    def key(self) -> tuple[float, float]:
        """Sorts from the clearest on."""
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
        """Sound [N] at the model's rate that should have ``phones`` [P], ids in order.

        Raises ValueError for NaN and infinity.
        """
        wanted = np.asarray(phones, np.int64)
        optional = np.isin(wanted, self._pauses)
        if optional.all():
            return Heard(0.0, 0.0)
        units = self.encoder.encode(samples)
        begins = best_path(self._log[units], wanted, optional)
        if begins is None:
            return NOTHING
        path = np.repeat(np.arange(len(wanted)), np.diff(begins))  # the phone of each frame
        heard = np.zeros(len(wanted), bool)
        heard[path[self._likeliest[units, wanted[path]]]] = True
        likelihood = self._log[units, wanted[path]][~optional[path]]
        return Heard(float(1 - heard[~optional].mean()), float(likelihood.mean()))
