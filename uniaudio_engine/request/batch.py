"""Running several plans together: higher throughput, and the same tokens as each gives alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.sound import Audio
from ..model import Model
from .decoding import Decoding
from .plan import Plan
from .sequence import Ids
from .steps import Step, Steps, piece_steps
from .stream import ChunkSizes

# Sessions that are stepped together. Beyond about eight, arithmetic is the limit, not memory.
BATCH = 8
# Frames between checks for sessions that have ended and others that may begin.
_FRAMES_TOGETHER = 50


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


def run_together(model: Model, plans: Sequence[Plan], batch: int = BATCH) -> list[list[Ids]]:
    """Run all pieces of all plans, up to ``batch`` sessions at a time.

    Returns for each plan a list of its pieces' target frames [n, K]. Tokens are identical to
    running each plan alone.
    """
    pieces = [
        (i, j, plan, piece) for i, plan in enumerate(plans) for j, piece in enumerate(plan.pieces)
    ]
    waiting = [(i, j, piece_steps(model, plan, piece)) for i, j, plan, piece in reversed(pieces)]
    made: dict[tuple[int, int], list[Ids]] = {}
    active: list[tuple[int, int, Steps, Step]] = []

    def advance(i: int, j: int, steps: Steps, reply: Ids | None) -> None:
        try:
            step = next(steps) if reply is None else steps.send(reply)
        except StopIteration:
            return
        active.append((i, j, steps, step))

    while waiting or active:
        while waiting and len(active) < batch:
            advance(*waiting.pop(), None)
        # a session that ends sooner waits for the others
        n = min(_FRAMES_TOGETHER, *(step.n - step.done for *_, step in active))
        frames_of_all = model.lm.generate_batch(
            [s.session for *_, s in active],
            n,
            [s.sampling for *_, s in active],
            [s.rows(n) for *_, s in active],
        )
        running, active = active, []
        for (i, j, steps, step), frames in zip(running, frames_of_all, strict=True):
            step.add(frames)
            if not step.over:
                active.append((i, j, steps, step))
                continue
            if step.is_target:
                made.setdefault((i, j), []).append(step.result())
            advance(i, j, steps, step.result())
    results: list[list[Ids]] = [[] for _ in plans]
    for i, j, *_ in pieces:
        results[i] += made[i, j]
    return results


def generate_together(model: Model, plans: Sequence[Plan]) -> list[Audio]:
    """The sounds of several plans, run together."""
    begin = time.perf_counter()
    results = []
    for plan, frames in zip(plans, run_together(model, plans), strict=True):
        samples = decode_frames(model, plan, frames)
        meta = plan.describe(model)
        meta.update(
            frames=sum(map(len, frames)),
            seconds=len(samples) / model.sample_rate,
            batch=len(plans),
        )
        results.append(Audio(samples, model.sample_rate, meta))
    compute = time.perf_counter() - begin
    for audio in results:
        audio.meta.update(batch_compute_seconds=round(compute, 6))
    return results


def run_tokens(model: Model, plan: Plan) -> Answer:
    """The answer of a plan whose target is not sound."""
    target = plan.task.target
    frames = np.concatenate([f for parts in run_together(model, [plan]) for f in parts])
    start = model.layout.vocabulary.span(target).start
    tokens = tuple(int(t) - start for t in frames[:, 0])
    labels = model.labels(target)
    named = tuple(labels[t] for t in tokens) if labels else ()
    return Answer(tokens, named, plan.describe(model))


def decode_frames(
    model: Model, plan: Plan, parts: Sequence[Ids], chunk_frames: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Audio frames [n, K] of a plan's successive pieces -> samples [N].

    They are decoded in the same chunks as in a stream.
    """
    sizes, decoding = ChunkSizes(chunk_frames), Decoding(model, plan)
    out = [np.zeros(0, np.float32), decoding.head()]
    for frames in parts:
        at = 0
        while at < len(frames):
            n = sizes.next()
            out.append(decoding.push(model.layout.frames_to_codes(frames[at : at + n])))
            at += n
    return np.concatenate([*out, decoding.flush()])
