"""Speech made several times, of which the clearest is kept.

Of a plan with the option ``best_of`` each sentence is made with as many seeds. The one with the fewest
phones missed is kept, as the model's semantic tokenizer hears them (``tokenizers/phone_hearing.py``).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from ..model import Model
from .options import MAX_SEED
from .plan import Piece, Plan
from .sequence import Ids
from .steps import piece_work, run_work
from .work import Step, Work


def tries(plan: Plan) -> int:
    """How many times each piece of a plan is made."""
    return int(plan.options.get("best_of", 1))


def best_work(model: Model, plan: Plan, piece: Piece) -> Generator[Work, None, list[Ids]]:
    """The work of all tries of a piece, one after the other; returns the frames of the clearest.

    The first try has the seed of the piece. The phones of the clearest become those of ``plan``.
    """
    made = []
    for k in range(tries(plan)):
        own = replace(plan, pieces=(), arriving=(), spoken={}, live=None)
        frames: list[Ids] = []
        for unit in run_work(piece_work(model, own, _try(piece, k))):
            yield unit
            if isinstance(unit, Step) and unit.is_target:
                frames.append(unit.result())
        made.append((_key(model, own, frames), k, own.spoken, frames))
    _, chosen, spoken, frames = min(made, key=lambda one: one[:2])
    plan.spoken.update(spoken)
    kept = plan.meta.setdefault("chosen", [])
    number = piece.order[0]  # pieces of a batch may end in any order
    kept.extend([0] * (number + 1 - len(kept)))
    kept[number] = chosen
    return frames


def _try(piece: Piece, k: int) -> Piece:
    return replace(piece, seed=(piece.seed + k) & MAX_SEED)


def _key(model: Model, plan: Plan, frames: Sequence[Ids]) -> tuple[float, float]:
    """Of what was made of the one piece of ``plan``; less is clearer."""
    labels = [label for _, (part, _) in sorted(plan.spoken.items()) for label in part]
    ids = model.label_ids("phone")
    codes = model.layout.frames_to_codes(np.concatenate(frames))
    samples = model.codec.decode(np.ascontiguousarray(codes.T))
    return model.hearing(samples, [ids[phone] for _, phone, _ in labels]).key
