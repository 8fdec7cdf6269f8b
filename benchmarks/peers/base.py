"""What an engine under test has to offer; what each is called.

A *cell* is so many streams with so many frames of context. All engines get the same weights and
compute the same function: ``logits`` shows it by the very steps that ``frames`` times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from models import Model, find_model
from numpy.typing import NDArray


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
    """T frames, K slots, R the ids that a slot may emit (``Model.rows``)."""

    version: str

    def prepare(self, streams: int, context: int, count: int) -> None:
        """Make ``streams`` sequences that have heard ``context`` frames, with room for ``count``
        more.
        """

    def frames(self, count: int) -> float:
        """Seconds for ``count`` frames of every stream, from the prepared context on, each id
        chosen from its logits.
        """

    def prefill(self, count: int) -> float:
        """Seconds for one stream to hear ``count`` frames."""

    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        """Logits [T - known, K, R] of frames[known:], forced, step by step after a prefill of
        ``known`` frames.
        """

    def weight_bytes(self) -> int:
        """Bytes of weights that a frame reads, where the engine knows them, else 0."""
