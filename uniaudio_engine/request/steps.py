"""What a piece of a plan asks of the language model, one generation at a time.

A stream runs the steps of one piece after another (``stream.py``); a batch runs the steps of
several pieces together (``batch.py``).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..model import Model
from .plan import Piece, Plan, piece_seed, split_phones
from .sampling import audio_sampling, duration_sampling, target_sampling
from .sequence import Ids, scale_durations, token_durations
from .sequence_builder import Guided


@dataclass
class Step:
    """Generate up to ``n`` frames in ``session``; fewer where the model ends them.

    ``aligned`` [n, S]: the aligned rows of these frames. ``is_target``: the frames are what was
    asked for; otherwise they are durations.
    """

    session: Any
    n: int
    sampling: Any
    aligned: Ids | None
    is_target: bool
    parts: list[Ids] = field(default_factory=list)
    done: int = 0

    def rows(self, n: int) -> Ids | None:
        """The aligned rows of the next ``n`` frames."""
        return None if self.aligned is None else self.aligned[self.done : self.done + n]

    def add(self, frames: Ids) -> None:
        self.parts.append(frames)
        self.done += len(frames)

    @property
    def over(self) -> bool:
        return self.done == self.n or bool(self.session.finished)

    def result(self) -> Ids:
        return np.concatenate(self.parts)


Steps = Generator[Step, Ids, None]


def piece_steps(model: Model, plan: Plan, piece: Piece) -> Steps:
    """The steps of one piece: yields each, and is sent its frames."""
    session = _prefilled(model, plan, piece.sequence)
    if piece.sequence.conditional.spoken is None:
        yield _target_step(session, plan, piece)
    else:
        yield from _spoken_steps(model, session, plan, piece)


def run_steps(steps: Steps) -> Iterator[Step]:
    """The steps one by one; each must be over before the next is requested."""
    step = next(steps, None)
    while step is not None:
        yield step
        try:
            step = steps.send(step.result())
        except StopIteration:
            return


def _prefilled(model: Model, plan: Plan, sequence: Guided) -> Any:
    """A session that has read the known part of a sequence, guided where the plan says so."""
    session = model.fork_prefix(sequence.conditional.shared)
    unconditional = None if sequence.unconditional is None else session.fork()
    for one, known in ((session, sequence.conditional), (unconditional, sequence.unconditional)):
        if one is not None and known is not None:
            one.prefill(known.body.frames, None, known.body.continuous or None)
    if unconditional is not None:
        session.set_guidance(unconditional, plan.options["guidance"])
    return session


def _target_step(session: Any, plan: Plan, piece: Piece) -> Step:
    """The target of a piece without spoken phones."""
    sequence = piece.sequence.conditional
    rows = sequence.target_rows(piece.frames) if sequence.is_aligned else None
    begin, end = sequence.predicted(piece.frames)
    if begin and rows is not None:  # an edit continues the source's own frames
        session.prefill(sequence.known_target(piece.frames), rows[:begin])
    sampling = target_sampling(
        sequence.layout, plan.task, plan.options, piece.seed, piece.min_frames
    )
    rows = None if rows is None else rows[begin:end]
    return Step(session, end - begin, sampling, rows, True)


def _spoken_steps(model: Model, session: Any, plan: Plan, piece: Piece) -> Steps:
    """Durations for the phones of a piece, then as many audio frames as they say."""
    sequence, options = piece.sequence.conditional, plan.options
    layout, spoken = sequence.layout, sequence.spoken
    assert spoken is not None
    n = len(spoken)
    rows = sequence.duration_rows()
    # The model must read the durations as they are spoken. At another speed they are planned in a
    # fork, scaled, and then prefilled here.
    planner = session if options["speed"] == 1.0 else session.fork()
    planned = yield Step(planner, n, duration_sampling(layout, options, piece.seed), rows, False)
    durations = scale_durations(token_durations(layout, planned), options["speed"])
    frames = int(durations.sum())
    if len(sequence) + n + 2 + frames > model.capacity:
        if n == 1:
            raise InputError(
                f"speed {options['speed']:g} needs more than the model's {model.capacity} frames"
            )
        for i, half in enumerate(split_phones(spoken.phones, (n + 1) // 2, model.pause_id)):
            seed = piece_seed(piece.seed, i)
            part = replace(piece, sequence=piece.sequence.with_phones(half), seed=seed)
            yield from piece_steps(model, plan, part)
        return
    sequence = sequence.with_durations(durations)
    if planner is not session:
        session.prefill(sequence.duration_frames(), rows)
    session.prefill(sequence.after_durations())
    sampling = audio_sampling(layout, options, piece.seed)
    yield Step(session, frames, sampling, sequence.target_rows(frames), True)
