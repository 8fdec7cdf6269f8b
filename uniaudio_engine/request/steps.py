"""What a piece of a plan asks of the language model, one unit of work at a time.

The scheduler runs the work of several pieces together (``scheduler.py``).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from ..backends.protocols import Session
from ..errors import InputError
from ..model import Model
from .plan import Piece, Plan, split_phones
from .sampling import audio_sampling, duration_sampling, target_sampling
from .sequence import Ids, scale_durations, token_durations
from .sequence_builder import Guided, Spoken
from .text_slot import feed_words
from .work import Prefill, Step, Work

PieceWork = Generator[Work, Ids | None, None]
Steps = Generator[Step, Ids, None]


def piece_work(model: Model, plan: Plan, piece: Piece) -> PieceWork:
    """The work of one piece in order.

    Yields each unit once the one before it is over, and is sent the frames [n, K] of each
    :class:`Step`.
    """
    session = yield from _prefilled(model, plan, piece.asked)
    if piece.asked.conditional.spoken is None:
        yield from _target_work(session, plan, piece)
    else:
        yield from _spoken_work(model, session, plan, piece)


def run_work(work: PieceWork) -> Iterator[Work]:
    """The units of a piece one by one; each must be over before the next is requested."""
    frames: Ids | None = None
    while True:
        try:
            unit = work.send(frames)
        except StopIteration:
            return
        yield unit
        frames = unit.result() if isinstance(unit, Step) else None


def piece_steps(model: Model, plan: Plan, piece: Piece) -> Steps:
    """As :func:`piece_work` without its prefills, which are done before the step is yielded."""
    work, frames = piece_work(model, plan, piece), None
    while True:
        try:
            unit = work.send(frames)
        except StopIteration:
            return
        if isinstance(unit, Prefill):
            unit.advance()
            frames = None
        else:
            frames = yield unit


def _prefilled(model: Model, plan: Plan, sequence: Guided) -> Generator[Work, Ids | None, Session]:
    """A session that has read the known part of a sequence, guided where the plan says so."""
    yield model.prefix(sequence.conditional.shared)
    session = model.fork_prefix(sequence.conditional.shared)
    unconditional = None if sequence.unconditional is None else session.fork()
    for one, known in ((session, sequence.conditional), (unconditional, sequence.unconditional)):
        if one is not None and known is not None:
            yield Prefill(one, known.body.frames, None, known.body.continuous or None)
    if unconditional is not None:
        session.set_guidance(unconditional, plan.options["guidance"])
    return session


def guide_by_rows(session: Session, plan: Plan) -> None:
    """Classifier-free guidance by the aligned rows of the target, which begins here."""
    if plan.task.guided_by == "rows" and plan.options["guidance"] != 1.0:
        session.set_guidance(session.fork(), plan.options["guidance"], aligned=False)


def _target_work(session: Session, plan: Plan, piece: Piece) -> PieceWork:
    """The target of a piece without spoken phones."""
    sequence = piece.asked.conditional
    rows = sequence.target_rows(piece.frames) if sequence.is_aligned else None
    begin, end = sequence.predicted(piece.frames)
    guide_by_rows(session, plan)
    if begin and rows is not None:  # an edit continues the source's own frames
        yield Prefill(session, sequence.known_target(piece.frames), rows[:begin])
    sampling = target_sampling(
        sequence.layout, plan.task, plan.options, piece.seed, piece.min_frames
    )
    rows = None if rows is None else rows[begin:end]
    slot, text = sequence.layout.text_slot, plan.task.text_input
    if slot is not None and slot.words is not None and text is not None:
        spoken = sequence.values[text.name]
        assert isinstance(spoken, Spoken)
        feed_words(session, sequence.layout, spoken.phones)
    yield Step(session, end - begin, sampling, rows, True)


def _spoken_work(model: Model, session: Session, plan: Plan, piece: Piece) -> PieceWork:
    """Durations for the phones of a piece, then as many audio frames as they say."""
    sequence, options = piece.asked.conditional, plan.options
    layout, spoken = sequence.layout, sequence.spoken
    assert spoken is not None
    n = len(spoken)
    rows = sequence.duration_rows()
    # The model must read the durations as they are spoken. At another speed, or with a pause of a
    # given length, they are planned in a fork, changed, and then prefilled here.
    speed = options["speed"] * piece.rate
    planner = session if speed == 1.0 and piece.pause is None else session.fork()
    planned = yield Step(planner, n, duration_sampling(layout, options, piece.seed), rows, False)
    assert planned is not None
    durations = scale_durations(token_durations(layout, planned), speed)
    if piece.pause is not None:
        durations[-1] = max(1, round(piece.pause * model.frame_rate))
    frames = int(durations.sum())
    if len(sequence) + n + 2 + frames > model.capacity:
        if n == 1:
            what = f"speed {speed:g}" if piece.pause is None else f"a pause of {piece.pause:g} s"
            raise InputError(f"{what} needs more than the model's {model.capacity} frames")
        halves = split_phones(spoken.phones, (n + 1) // 2, model.pause_id)
        begin = 0
        for i, half in enumerate(halves):
            part = piece.part(i, begin, half, i == len(halves) - 1)
            yield from piece_work(model, plan, part)
            begin += len(half)
        return
    plan.spoken[piece.order] = piece.labels, durations
    sequence = sequence.with_durations(durations)
    if planner is not session:
        yield Prefill(session, sequence.duration_frames(), rows)
    yield Prefill(session, sequence.after_durations())
    guide_by_rows(session, plan)
    sampling = audio_sampling(layout, options, piece.seed)
    yield Step(session, frames, sampling, sequence.target_rows(frames), True)
