"""The interface of an engine under test, and its name.

A *cell* is a number of streams with a number of frames of context. All engines have the same
weights and compute the same function, which ``logits`` verifies by the steps that ``frames`` times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from models import Model, find_model
from numpy.typing import NDArray


class AnySpec(Protocol):
    """``kind`` is one of ``worker.KINDS``."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def threads(self) -> int: ...


@dataclass(frozen=True)
class Spec:
    """One engine of a run: ``kind`` is its family, ``dtype`` its weight format."""

    kind: str
    dtype: str
    model: str
    seed: int
    threads: int
    cache: Path

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.dtype}"

    def find_model(self) -> Model:
        return find_model(self.model)


class Peer(Protocol):
    """T frames, K slots, R ids that a slot may emit (``Model.rows``)."""

    version: str

    def prepare(self, streams: int, context: int, count: int) -> None:
        """Makes ``streams`` sequences with ``context`` frames of context and room for ``count``
        more.
        """

    def frames(self, count: int) -> float:
        """Seconds for ``count`` frames of every stream after the prepared context, including the
        choice of ids.
        """

    def prefill(self, count: int) -> float:
        """Seconds to prefill ``count`` frames of one stream."""

    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        """Teacher-forced logits [T - known, K, R] of frames[known:], step by step after a prefill
        of ``known`` frames.
        """

    def weight_bytes(self) -> int:
        """Bytes of weights read per frame, 0 where the engine does not know."""
