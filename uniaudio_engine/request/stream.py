"""Running a plan as a stream of audio chunks; the one-shot call is this stream, concatenated.

Not responsible for what the language model is asked (``steps.py``) nor for turning frames into
samples (``decoding.py``).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..audio.sound import Audio, AudioChunk, concatenate
from ..errors import InputError, shown
from ..model import Model
from .best_of import best_work, tries
from .decoding import Decoding
from .heard import Heard, Interrupted
from .plan import Piece, Plan
from .scheduler import Run, Scheduler
from .sequence import Ids
from .steps import piece_work, run_work
from .work import Prefill, Wait, Work

# Seconds of successive chunks: the first is small for a quick start; the last size repeats.
_CHUNKS = (0.08, 0.16, 0.32, 0.64, 1.0)


def chunk_frames(frame_rate: float) -> list[int]:
    """Frames of successive chunks, of codecs with frames at ``frame_rate`` Hz."""
    return [max(1, round(seconds * frame_rate)) for seconds in _CHUNKS]


class ChunkSizes:
    """Sizes of successive chunks in frames; None: those of :func:`chunk_frames`."""

    def __init__(self, sizes: Sequence[int] | None, frame_rate: float) -> None:
        found = chunk_frames(frame_rate) if sizes is None else sizes
        self.sizes = tuple(found) if isinstance(found, Iterable) else ()
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

    def slices(self, count: int) -> Iterator[slice]:
        """Those of the next chunks that make up ``count`` frames."""
        at = 0
        while at < count:
            end = min(count, at + self.next())
            yield slice(at, end)
            at = end


def audio_chunks(
    model: Model, plan: Plan, sizes: ChunkSizes, meta: dict[str, Any], planned: float = 0.0
) -> Generator[Work | Wait | AudioChunk, None, None]:
    """The work of a plan, and its chunks as they are complete; fills ``meta``.

    ``planned``: seconds that making the plan took.
    """
    begin, paused = time.perf_counter() - planned, 0.0
    decoding = Decoding(model, plan)
    no_codes = model.layout.no_codes
    rate = model.sample_rate
    position, frames_made = 0, 0
    silent: list[Ids] = []  # codes whose samples are still held back
    head = decoding.head()
    if head.shape[-1]:
        now = time.perf_counter()
        meta["first_chunk_ms"] = round(1000 * (now - begin), 3)
        yield AudioChunk(head, rate, 0, no_codes)
        paused += time.perf_counter() - now
        position = head.shape[-1]
    for piece in plan.arriving:
        if isinstance(piece, Wait):
            now = time.perf_counter()
            yield piece
            paused += time.perf_counter() - now
            continue
        samples = decoding.begin(piece)
        if samples.shape[-1]:
            yield AudioChunk(samples, rate, position, no_codes)
            position += samples.shape[-1]
        for made in _piece_frames(model, plan, piece, sizes):
            if isinstance(made, int):
                samples, codes = decoding.filter(made), no_codes
            elif isinstance(made, np.ndarray):
                codes = model.layout.frames_to_codes(made)
                samples = decoding.push(codes)
            else:
                yield made
                continue
            frames_made += len(codes)
            silent.append(codes)
            if not samples.shape[-1]:
                continue
            now = time.perf_counter()
            meta.setdefault("first_chunk_ms", round(1000 * (now - begin - paused), 3))
            yield AudioChunk(samples, rate, position, np.concatenate(silent))
            silent.clear()
            paused += time.perf_counter() - now
            position += samples.shape[-1]
    samples = decoding.flush()
    compute = time.perf_counter() - begin - paused
    seconds = (position + samples.shape[-1]) / rate
    words = plan.word_times(model.frame_rate)
    meta.update(
        **plan.meta,
        **({"words": words} if words else {}),
        frames=frames_made,
        seconds=seconds,
        compute_seconds=round(compute, 6),
        realtime_factor=round(seconds / max(compute, 1e-9), 3),
    )
    codes = np.concatenate(silent) if silent else no_codes
    yield AudioChunk(samples, rate, position, codes, last=True)


def _piece_frames(
    model: Model, plan: Plan, piece: Piece, sizes: ChunkSizes
) -> Generator[Work | Ids | int, None, None]:
    """The work of one piece, and its target frames [n, K] in chunks as they are complete; of a piece
    that is not answered only their number.
    """
    if not plan.answered:
        for part in sizes.slices(piece.frames):
            yield part.stop - part.start
        return
    if tries(plan) > 1:
        for frames in (yield from best_work(model, plan, piece)):
            for part in sizes.slices(len(frames)):
                yield frames[part]
        return
    for unit in run_work(piece_work(model, plan, piece)):
        if isinstance(unit, Prefill) or not unit.is_target:
            yield unit
            continue
        while not unit.over:
            unit.until = min(unit.done + sizes.next(), unit.n)
            yield unit
            frames = unit.take()
            if len(frames):
                yield frames


class AudioStream:
    """Iterator over :class:`AudioChunk`.

    ``close()``, leaving the ``with`` block or garbage collection stops the work; ``cancel()`` does
    so from any thread, within a frame. ``meta`` is complete once the iterator ends. Its
    ``first_chunk_ms`` and ``compute_seconds`` include the ``planned`` seconds (text to phones, the
    voice) and the time given to other streams meanwhile, but not the time that the consumer takes
    and not the time in which no text comes.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        plan: Plan,
        sizes: ChunkSizes | None = None,
        planned: float = 0.0,
    ) -> None:
        model = scheduler.model
        self.sample_rate = model.sample_rate
        self.meta: dict[str, Any] = plan.describe(model)
        # Seconds of the source, where it is long; for a progress bar.
        self.expected_seconds: float | None = plan.meta.get("source_seconds")
        self._scheduler = scheduler
        self._heard = Heard(plan)
        self._run = audio_run(
            scheduler, plan, sizes or ChunkSizes(None, model.frame_rate), self.meta, planned
        )

    @property
    def cancelled(self) -> bool:
        return self._run.cancelled

    def __iter__(self) -> Iterator[AudioChunk]:
        return self

    def __next__(self) -> AudioChunk:
        chunk = self._scheduler.take(self._run)
        if chunk is None:
            if self.cancelled:
                self.meta["cancelled"] = True
            raise StopIteration
        self._heard.add(chunk)
        return chunk

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_run"):
            self._run.stop()
            self._heard.close()

    def cancel(self) -> None:
        """Stop after the current frame; the iterator then ends. Callable from any thread."""
        self._scheduler.cancel(self._run)
        self._heard.close()

    def interrupt(self, played: float | None = None) -> Interrupted:
        """:meth:`cancel`, and say what was spoken; see :class:`Interrupted`.

        ``played``: how many seconds the listener has heard; by default all that was given out.
        """
        self.cancel()
        return self._heard.until(played)

    def close(self) -> None:
        """Stop and free the sessions."""
        self._scheduler.close(self._run)
        self._heard.close()


def audio_run(
    scheduler: Scheduler,
    plan: Plan,
    sizes: ChunkSizes,
    meta: dict[str, Any],
    planned: float,
    ahead: float = 0.0,
) -> Run[AudioChunk]:
    """The run of :func:`audio_chunks`, ``ahead`` seconds in advance of whoever takes them.

    Raises :class:`Busy` where there is no room for it.
    """
    chunks = audio_chunks(scheduler.model, plan, sizes, meta, planned)
    work = plan.timed(chunks, scheduler.model.frame_rate)
    try:
        return scheduler.admit(Run(work, _seconds, ahead, scheduler.bytes_of(plan)))
    except BaseException:
        plan.close()
        raise


def _seconds(chunk: AudioChunk) -> float:
    return chunk.samples.shape[-1] / chunk.sample_rate


def collect(stream: AudioStream) -> Audio:
    """All of a stream's chunks as one sound."""
    with stream:
        chunks = list(stream)
    return Audio(concatenate(chunks, stream.sample_rate), stream.sample_rate, stream.meta)
