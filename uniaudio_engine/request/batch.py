"""Running several plans together: higher throughput, and the same tokens as each gives alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.sound import Audio
from ..errors import Busy
from ..model import Model
from .best_of import best_work, tries
from .decoding import Decoding
from .plan import Piece, Plan
from .scheduler import Run, Scheduler
from .sequence import Ids
from .steps import piece_work, run_work
from .stream import ChunkSizes
from .work import Prefill, Work


@dataclass(frozen=True)
class Answer:
    """The result of a task whose target is not sound.

    ``tokens``: ids from the start of the target's span. ``labels``: their labels, where the model
    folder has them. ``meta``: the seed and the options.
    """

    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    meta: dict[str, Any]

    def __str__(self) -> str:
        return " ".join(self.labels or map(str, self.tokens))


Made = list[tuple[Piece, list[Ids]]]  # the pieces of a plan, and the target frames [n, K] of each

# Frames after which a piece's place among the others is decided again.
_FRAMES = 50


def run_together(scheduler: Scheduler, plans: Sequence[Plan]) -> list[Made]:
    """Run all pieces of all plans, as many at a time as the scheduler steps together.

    Returns for each plan its pieces with their target frames. Tokens are identical to running each
    plan alone. Raises :class:`Busy` where there is no room for any of them.
    """
    made: list[Made] = [[(piece, []) for piece in plan.pieces] for plan in plans]
    waiting = deque(
        (plan, piece, frames)
        for plan, pieces in zip(plans, made, strict=True)
        for piece, frames in pieces
    )
    runs: list[Run[None]] = []
    while waiting or runs:
        while waiting and len(runs) < scheduler.slots:
            work = _piece_run(scheduler.model, *waiting[0])
            run: Run[None] = Run(work, memory=scheduler.bytes_of(waiting[0][0]))
            try:
                runs.append(scheduler.admit(run))
            except Busy:
                if not runs:
                    raise
                break  # until one of ours has ended
            waiting.popleft()
        scheduler.wait(runs)
        for run in [run for run in runs if run.over]:
            scheduler.take(run)
            runs.remove(run)
    return made


def _piece_run(
    model: Model, plan: Plan, piece: Piece, frames: list[Ids]
) -> Generator[Work, None, None]:
    """The work of one piece; its target frames are appended to ``frames``."""
    if not plan.answered:
        return
    if tries(plan) > 1:
        frames += yield from best_work(model, plan, piece)
        return
    for unit in run_work(piece_work(model, plan, piece)):
        if isinstance(unit, Prefill) or not unit.is_target:
            yield unit
            continue
        while not unit.over:
            unit.until = min(unit.done + _FRAMES, unit.n)
            yield unit
            unit.take()
        frames.append(unit.result())


def generate_together(scheduler: Scheduler, plans: Sequence[Plan]) -> list[Audio]:
    """The sounds of several plans, run together."""
    begin, model = time.perf_counter(), scheduler.model
    results = []
    for plan, pieces in zip(plans, run_together(scheduler, plans), strict=True):
        samples = decode_frames(model, plan, pieces)
        meta = plan.describe(model)
        words = plan.word_times(model.frame_rate)
        meta.update(
            {"words": words} if words else {},
            frames=sum(len(f) for _, parts in pieces for f in parts),
            seconds=samples.shape[-1] / model.sample_rate,
            batch=len(plans),
        )
        results.append(Audio(samples, model.sample_rate, meta))
    compute = time.perf_counter() - begin
    for audio in results:
        audio.meta.update(batch_compute_seconds=round(compute, 6))
    return results


def run_tokens(scheduler: Scheduler, plan: Plan) -> Answer:
    """The answer of a plan whose target is not sound."""
    model, target = scheduler.model, plan.task.target
    (pieces,) = run_together(scheduler, [plan])
    frames = np.concatenate([f for _, parts in pieces for f in parts])
    start = model.layout.vocabulary.span(target).start
    tokens = tuple(int(t) - start for t in frames[:, 0])
    labels = model.labels(target)
    named = tuple(labels[t] for t in tokens) if labels else ()
    return Answer(tokens, named, plan.describe(model))


def decode_frames(
    model: Model, plan: Plan, pieces: Made, chunk_frames: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Audio frames of a plan's successive pieces -> samples [N], or [C, N] of several channels.

    They are decoded in the same chunks as in a stream.
    """
    sizes, decoding = ChunkSizes(chunk_frames, model.frame_rate), Decoding(model, plan)
    out = [decoding.head()]
    for piece, parts in pieces:
        out.append(decoding.begin(piece))
        if not plan.answered:
            out.append(decoding.filter(piece.frames))
        for frames in parts:
            for part in sizes.slices(len(frames)):
                out.append(decoding.push(model.layout.frames_to_codes(frames[part])))
    return np.concatenate([*out, decoding.flush()], axis=-1)
