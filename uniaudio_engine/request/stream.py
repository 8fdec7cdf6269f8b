"""Running a plan: model steps, decoding, chunks.  The one-shot call is this stream, concatenated.

Not responsible for what the pieces are (``plan.py``) nor for samples (``finish.py``).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..audio.sound import AudioChunk
from ..backends.core import core
from ..errors import InputError, shown
from .aligned import phone_features, phone_rows
from .decoding import Decoding
from .plan import Piece, Plan, phone_piece, piece_seed, split_phones
from .sequence import Ids, audio_begin, duration_tokens, scale_durations, token_durations

if TYPE_CHECKING:
    from ..engine import Engine

CHUNK_FRAMES = (
    4,
    8,
    16,
    32,
    50,
)  # the first chunk is small for a quick start; the last size repeats
_TOGETHER = 50  # frames between looks at which sessions have ended and which may begin
BATCH = (
    8  # sessions that are stepped together; beyond about eight the arithmetic binds, not the memory
)


@dataclass(frozen=True)
class Answer:
    """What a task whose target is not sound has to say: ``tokens`` of its span (from 0), and their
    ``labels`` where the model folder names them. ``meta`` has the seed and the options.
    """

    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    meta: dict[str, Any]

    def __str__(self) -> str:
        return " ".join(self.labels or map(str, self.tokens))


@dataclass
class Step:
    """Generate up to ``n`` frames in ``session``: fewer when the model ends them. ``aligned`` [n,
    S]. ``target``: they are what was asked for (else durations).
    """

    session: Any
    n: int
    sampling: Any
    aligned: Ids | None
    target: bool
    parts: list[Ids] = field(default_factory=list)
    done: int = 0

    def rows(self, n: int) -> Ids | None:
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


def piece_steps(engine: Engine, plan: Plan, piece: Piece) -> Steps:
    """What one piece asks the model for: yields steps, is sent their frames."""
    layout, options = engine.layout, plan.options
    session = engine.fork_prefix(piece.shared)
    if piece.plain is None:
        session.prefill(piece.body.frames, None, piece.body.continuous or None)
    else:
        plain = session.fork()
        for side, prefix in ((session, piece.body), (plain, piece.plain)):
            side.prefill(prefix.frames, None, prefix.continuous or None)
        session.set_guidance(plain, options["guidance"])
    known = len(piece.shared) + len(piece.body)
    if piece.lead is not None:
        session.prefill(*piece.lead)
    if piece.phones is None:
        yield Step(session, piece.frames, target_sampling(engine, plan, piece), piece.aligned, True)
        return
    features = phone_features(layout, piece.phones)
    n = len(features)
    # At another speed the durations that the model hears are the scaled ones: plan them in a fork,
    # feed them here.
    planner = session if options["speed"] == 1.0 else session.fork()
    frames = yield Step(planner, n, duration_sampling(engine, options, piece.seed), features, False)
    durations = scale_durations(token_durations(layout, frames), options["speed"])
    aligned = phone_rows(layout, piece.phones, durations)
    if known + n + 2 + len(aligned) > engine.capacity:
        if n == 1:
            raise InputError(
                f"speed {options['speed']:g} needs more than the model's {engine.capacity} frames"
            )
        for i, half in enumerate(split_phones(piece.phones, (n + 1) // 2, engine.pause_id)):
            part = phone_piece(layout, piece.shared, half, piece_seed(piece.seed, i), piece.rest)
            yield from piece_steps(engine, plan, part)
        return
    if planner is not session:
        session.prefill(duration_tokens(layout, durations), features)
    session.prefill(audio_begin(layout))
    yield Step(session, len(aligned), audio_sampling(engine, options, piece.seed), aligned, True)


def audio_sampling(engine: Engine, options: dict[str, Any], seed: int) -> Any:
    """The core's sampling for audio frames."""
    return make_sampling(options, seed, options["temperature"], engine.layout.audio_ranges())


def target_sampling(engine: Engine, plan: Plan, piece: Piece) -> Any:
    """The core's sampling for a piece without phones. Where the model may end it, the end token is
    allowed in every slot, and the frame that holds it is not part of the answer: UniAudio's
    inference cuts there, too.
    """
    layout, target = engine.layout, plan.task.target
    ranges = layout.audio_ranges() if target == "audio" else layout.span_ranges(target)
    more: dict[str, Any] = {}
    if piece.least is not None:
        more.update(
            end_id=layout.vocabulary.special(f"{target}_end"),
            end_slots="any",
            min_frames=piece.least,
        )
    return make_sampling(plan.options, piece.seed, plan.options["temperature"], ranges, **more)


def duration_sampling(engine: Engine, options: dict[str, Any], seed: int) -> Any:
    """The core's sampling for duration tokens: one id in all slots."""
    plain = {"top_k": 0, "top_p": options["top_p"]}
    ranges = engine.layout.span_ranges("duration")
    return make_sampling(plain, seed, options["duration_temperature"], ranges, tie_slots=True)


def make_sampling(
    options: dict[str, Any],
    seed: int,
    temperature: float,
    allowed: list[list[tuple[int, int]]],
    **more: Any,
) -> Any:
    """``_C.Sampling`` from checked options; temperature 0 is greedy."""
    return core().Sampling(
        temperature=temperature or 1.0,
        greedy=temperature == 0,
        top_k=options.get("top_k", 0),
        top_p=options.get("top_p", 1.0),
        repetition_window=options.get("repetition_window", 0),
        repetition_penalty=options.get("repetition_penalty", 1.0),
        seed=seed,
        allowed=allowed,
        **more,
    )


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
    """Iterator of :class:`AudioChunk`.

    ``close()`` (or leaving the ``with`` block, or garbage collection) stops the work; ``cancel()``
    does so from any thread, within a frame. ``meta`` fills up while it runs; its ``first_chunk_ms``
    and ``compute_seconds`` count the planning too (``planned`` seconds: text to phones, the voice),
    but not the consumer.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        chunk_frames: Sequence[int] | None = None,
        planned: float = 0.0,
    ) -> None:
        self.sample_rate = engine.sample_rate
        self.meta: dict[str, Any] = engine.describe(plan)
        self.cancelled = False
        self._session: Any = None
        self._planned = planned
        self._chunks = self._run(engine, plan, ChunkSizes(chunk_frames))

    def __iter__(self) -> Iterator[AudioChunk]:
        return self

    def __next__(self) -> AudioChunk:
        return next(self._chunks)

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cancel(self) -> None:
        """Stop after the current frame; the iterator then ends.  From any thread."""
        self.cancelled = True
        session = self._session
        if session is not None:
            session.cancel()

    def close(self) -> None:
        """Stop and free the sessions.  From the thread that iterates."""
        self._chunks.close()

    def _run(
        self, engine: Engine, plan: Plan, sizes: ChunkSizes
    ) -> Generator[AudioChunk, None, None]:
        begin, paused = time.perf_counter() - self._planned, 0.0
        decoding = Decoding(engine, plan)
        position, frames_made = 0, 0
        head = decoding.head()
        if len(head):
            self.meta["first_chunk_ms"] = round(1000 * (time.perf_counter() - begin), 3)
            now = time.perf_counter()
            yield AudioChunk(
                head, self.sample_rate, 0, np.zeros((0, engine.layout.num_codebooks), np.int32)
            )
            paused += time.perf_counter() - now
            position = len(head)
        for piece in plan.pieces:
            steps = piece_steps(engine, plan, piece)
            for step in _drive(steps):
                while not step.over:
                    n = min(sizes.next(), step.n - step.done) if step.target else step.n - step.done
                    self._session = (
                        step.session
                    )  # before the look at the flag: cancel() sets the flag first
                    if self.cancelled:
                        break
                    frames = step.session.generate(n, step.sampling, step.rows(n))
                    if self.cancelled or (len(frames) < n and not step.session.finished):
                        self.cancelled = True
                        break
                    step.add(frames)
                    if not step.target or not len(frames):
                        continue
                    codes = engine.layout.frames_to_codes(frames)
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
        empty = np.zeros((0, engine.layout.num_codebooks), np.int32)
        yield AudioChunk(samples, self.sample_rate, position, empty, last=True)


def _drive(steps: Steps) -> Iterator[Step]:
    """The steps of a piece one by one; each must be done when the next is asked for."""
    step = next(steps, None)
    while step is not None:
        yield step
        try:
            step = steps.send(step.result())
        except StopIteration:
            return


def run_together(engine: Engine, plans: Sequence[Plan], batch: int = BATCH) -> list[list[Ids]]:
    """All plans' pieces, up to ``batch`` sessions stepped together; returns each plan's audio
    frames, a list a plan of frames [n, K] a piece. Tokens are those that each plan gives alone.
    """
    pieces = [
        (i, j, plan, piece) for i, plan in enumerate(plans) for j, piece in enumerate(plan.pieces)
    ]
    waiting = [(i, j, piece_steps(engine, plan, piece)) for i, j, plan, piece in reversed(pieces)]
    audio: dict[tuple[int, int], list[Ids]] = {}
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
        n = min(
            _TOGETHER, *(step.n - step.done for *_, step in active)
        )  # one that ends sooner waits until then
        made = engine.lm.generate_batch(
            [s.session for *_, s in active],
            n,
            [s.sampling for *_, s in active],
            [s.rows(n) for *_, s in active],
        )
        running, active = active, []
        for (i, j, steps, step), frames in zip(running, made, strict=True):
            step.add(frames)
            if not step.over:
                active.append((i, j, steps, step))
                continue
            if step.target:
                audio.setdefault((i, j), []).append(step.result())
            advance(i, j, steps, step.result())
    parts: list[list[Ids]] = [[] for _ in plans]
    for i, j, *_ in pieces:
        parts[i] += audio[i, j]
    return parts


def run_tokens(engine: Engine, plan: Plan) -> tuple[int, ...]:
    """The tokens of a plan whose target is not sound, numbered from the start of their span."""
    frames = np.concatenate([f for parts in run_together(engine, [plan]) for f in parts])
    return tuple(
        int(t) for t in frames[:, 0] - engine.layout.vocabulary.span(plan.task.target).start
    )


def decode_parts(
    engine: Engine, plan: Plan, parts: Sequence[Ids], chunk_frames: Sequence[int] | None = None
) -> Any:
    """Audio frames [n, K] of a plan's successive pieces -> samples [N], decoded in the stream's own
    chunks.
    """
    sizes, decoding = ChunkSizes(chunk_frames), Decoding(engine, plan)
    out = [np.zeros(0, np.float32), decoding.head()]
    for frames in parts:
        at = 0
        while at < len(frames):
            n = sizes.next()
            out.append(decoding.push(engine.layout.frames_to_codes(frames[at : at + n])))
            at += n
    return np.concatenate([*out, decoding.flush()])
