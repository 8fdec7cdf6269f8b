"""uniaudio-engine itself."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from models import load_weights, split_format
from numpy.typing import NDArray

from uniaudio_engine import __version__
from uniaudio_engine.backends.core import core

from .base import Spec

WARM_UP = 2  # frames before timing, to wake threads and fill caches


def make_lm(spec: Spec) -> Any:
    """The compiled LM of a spec; ``models.split_format`` parses its dtype."""
    model = spec.find_model()
    dtype, options = split_format(spec.dtype)
    return core().LM(
        model.json, load_weights(model, spec.seed, spec.cache), dtype, spec.threads, **options
    )


class Native:
    def __init__(self, spec: Spec) -> None:
        self.model, self.seed = spec.find_model(), spec.seed
        self.version = f"uniaudio-engine {__version__}, {core().isa()}"
        self.lm = make_lm(spec)
        self.kept: dict[tuple[int, int], Any] = {}
        # The engine samples, as in normal use; peers take the best id, which costs less.
        self.samplings = [
            core().Sampling(
                temperature=0.8,
                top_k=30,
                seed=self.seed + i,
                allowed=[list(r) for r in self.model.allowed],
            )
            for i in range(64)
        ]

    def prepare(self, streams: int, context: int, count: int) -> None:
        if (context, count) not in self.kept:
            while len(self.kept) > 1:  # keep two: a row may compare two contexts
                del self.kept[next(iter(self.kept))]
            session = self.lm.session(context + count + WARM_UP)
            session.prefill(self.model.frames(context, self.seed), self.model.aligned(context))
            self.kept[context, count] = session
        self.base, self.streams = self.kept[context, count], streams

    def frames(self, count: int) -> float:
        sessions = [self.base.fork() for _ in range(self.streams)]
        self._step(sessions, WARM_UP)
        begin = time.perf_counter()
        self._step(sessions, count)
        return time.perf_counter() - begin

    def _step(self, sessions: list, count: int) -> None:
        aligned_rows = (
            [self.model.aligned(count)] * len(sessions) if self.model.config.aligned_slots else None
        )
        self.lm.generate_batch(sessions, count, self.samplings[: len(sessions)], aligned_rows)

    def prefill(self, count: int) -> float:
        session = self.lm.session(count)
        frames, aligned = self.model.frames(count, self.seed), self.model.aligned(count)
        begin = time.perf_counter()
        session.prefill(frames, aligned)
        return time.perf_counter() - begin

    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        out = self.lm.logits(frames, self.model.aligned(len(frames)))[known:]
        return np.stack([out[:, k, self.model.rows(k)] for k in range(frames.shape[1])], axis=1)

    def greedy_agreement(self, known: int, count: int) -> float:
        """Share of greedily generated ids that are the best of the teacher-forced pass, which shows
        that the timed steps compute the same function.
        """
        frames = self.model.frames(known, self.seed)
        aligned = self.model.aligned(known + count)
        session = self.lm.session(known + count)
        session.prefill(frames, None if aligned is None else aligned[:known])
        greedy = core().Sampling(greedy=True, allowed=[list(r) for r in self.model.allowed])
        made = session.generate(count, greedy, None if aligned is None else aligned[known:])
        best = self.logits(np.concatenate((frames, made)), known).argmax(-1)
        ids = np.stack([self.model.rows(k)[best[:, k]] for k in range(best.shape[1])], axis=1)
        return float((ids == made).mean())

    def weight_bytes(self) -> int:
        return int(self.lm.weight_bytes(len(self.model.rows(0))))
