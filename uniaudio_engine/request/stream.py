"""Running a plan as a stream of audio chunks; the one-shot call is this stream, concatenated.

Not responsible for what the language model is asked (``steps.py``) nor for turning frames into
samples (``decoding.py``).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from ..audio.sound import Audio, AudioChunk, concatenate
from ..errors import InputError, shown
from ..model import Model
from .decoding import Decoding
from .plan import Plan
from .steps import Step, piece_steps, run_steps

# Frames of successive chunks: the first is small for a quick start; the last size repeats.
CHUNK_FRAMES = (4, 8, 16, 32, 50)


class ChunkSizes:
    """Sizes of successive chunks in frames; see :data:`CHUNK_FRAMES`."""

    def __init__(self, sizes: Sequence[int] | None) -> None:
        self.sizes = tuple(CHUNK_FRAMES if sizes is None else sizes)
        if not self.sizes or not all(type(n) is int and n >= 1 for n in self.sizes):
            raise InputError(
                "chunk_frames: expected whole numbers of frames, each at least 1, got "
                f"{shown(sizes)}"
            )
        self.used = 0

    def next(self) -> int:
        size = self.sizes[min(self.used, len(self.sizes) - 1)]
        self.used += 1
        return size


class AudioStream:
    """Iterator over :class:`AudioChunk`.

    ``close()``, leaving the ``with`` block or garbage collection stops the work; ``cancel()`` does
    so from any thread, within a frame. ``meta`` is complete once the iterator ends. Its
    ``first_chunk_ms`` and ``compute_seconds`` include the ``planned`` seconds (text to phones, the
    voice), but not the time that the consumer takes.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        chunk_frames: Sequence[int] | None = None,
        planned: float = 0.0,
    ) -> None:
        self.sample_rate = model.sample_rate
        self.meta: dict[str, Any] = plan.describe(model)
        self.cancelled = False
        self._session: Any = None
        self._planned = planned
        self._chunks = self._run(model, plan, ChunkSizes(chunk_frames))

    def __iter__(self) -> Iterator[AudioChunk]:
        return self

    def __next__(self) -> AudioChunk:
        return next(self._chunks)

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cancel(self) -> None:
        """Stop after the current frame; the iterator then ends. Callable from any thread."""
        self.cancelled = True
        session = self._session
        if session is not None:
            session.cancel()

    def close(self) -> None:
        """Stop and free the sessions. Call it from the thread that iterates."""
        self._chunks.close()

    def _run(
        self, model: Model, plan: Plan, sizes: ChunkSizes
    ) -> Generator[AudioChunk, None, None]:
        begin, paused = time.perf_counter() - self._planned, 0.0
        decoding = Decoding(model, plan)
        no_codes = np.zeros((0, model.layout.num_codebooks), np.int32)
        position, frames_made = 0, 0
        head = decoding.head()
        if len(head):
            self.meta["first_chunk_ms"] = round(1000 * (time.perf_counter() - begin), 3)
            now = time.perf_counter()
            yield AudioChunk(head, self.sample_rate, 0, no_codes)
            paused += time.perf_counter() - now
            position = len(head)
        for piece in plan.pieces:
            steps = piece_steps(model, plan, piece)
            for step in run_steps(steps):
                while not step.over:
                    frames = self._generate(step, sizes)
                    if self.cancelled:
                        break
                    step.add(frames)
                    if not step.is_target or not len(frames):
                        continue
                    codes = model.layout.frames_to_codes(frames)
                    samples = decoding.push(codes)
                    frames_made += len(frames)
                    now = time.perf_counter()
                    self.meta.setdefault("first_chunk_ms", round(1000 * (now - begin), 3))
                    yield AudioChunk(samples, self.sample_rate, position, codes)
                    paused += time.perf_counter() - now
                    position += len(samples)
                if self.cancelled:
                    steps.close()
                    self.meta["cancelled"] = True
                    return
        samples = decoding.flush()
        compute = time.perf_counter() - begin - paused
        seconds = (position + len(samples)) / self.sample_rate
        self.meta.update(
            **plan.meta,
            frames=frames_made,
            seconds=seconds,
            compute_seconds=round(compute, 6),
            realtime_factor=round(seconds / max(compute, 1e-9), 3),
        )
        yield AudioChunk(samples, self.sample_rate, position, no_codes, last=True)

    def _generate(self, step: Step, sizes: ChunkSizes) -> Any:
        """The frames [n, K] of the next chunk, or of all durations; None where it was cancelled."""
        left = step.n - step.done
        n = min(sizes.next(), left) if step.is_target else left
        # cancel() sets the flag first and then looks for the session; here the order is reversed
        self._session = step.session
        if self.cancelled:
            return None
        frames = step.session.generate(n, step.sampling, step.rows(n))
        if len(frames) < n and not step.session.finished:
            self.cancelled = True
        return frames


def collect(stream: AudioStream) -> Audio:
    """All of a stream's chunks as one sound."""
    with stream:
        chunks = list(stream)
    return Audio(concatenate(chunks, stream.sample_rate), stream.sample_rate, stream.meta)
