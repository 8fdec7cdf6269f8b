"""Answers to a sound that is still being made, frame by frame: the language model's, or a filter's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.protocols import PostFilterStream, Session
from ..errors import InputError
from ..model import Model
from .aligned import LOOKAHEAD
from .plan import Piece, Plan
from .sampling import audio_sampling
from .sequence import Ids
from .sequence_builder import TaskSequence, units_key
from .steps import guide_by_rows
from .tasks import Input
from .windows import WINDOW_SECONDS

Samples = NDArray[np.float32]
# A session holds as many frames as an offline window. The next one begins with the last third of
# them as its context, read this many at a time so that no frame has to wait.
_CONTEXT_SHARE, _CATCH_UP = 3, 8


class Answers(Protocol):
    """Answers to a sound: as many samples in all as were heard, or up to a frame more."""

    @property
    def wait(self) -> int:
        """Samples between a frame of the source and its answer."""

    @property
    def frames(self) -> int:
        """Frames that the language model made of this sound."""

    def push(self, frame: Samples) -> Iterator[Samples]:
        """A frame [n] of samples -> answers. Only the last frame of a sound may be short."""

    def flush(self) -> Iterator[Samples]:
        """The rest of the answers."""

    def reset(self) -> None:
        """Begin a new sound."""

    def cancel(self) -> None:
        """End a running call within a frame. Any thread."""

    def free(self) -> None:
        """Free the sessions."""


class Filtered:
    """The source itself, filtered; the language model does not run."""

    frames = 0

    def __init__(self, stream: PostFilterStream, delay: int) -> None:
        self._stream, self.wait = stream, delay

    def push(self, frame: Samples) -> Iterator[Samples]:
        yield self._stream.push(frame)

    def flush(self) -> Iterator[Samples]:
        yield self._stream.flush()

    def reset(self) -> None:
        self._stream.reset()

    def cancel(self) -> None:
        pass

    free = cancel


class ModelAnswers:
    """The source as aligned rows, the target's frames, their samples."""

    def __init__(self, model: Model, plan: Plan, spec: Input) -> None:
        (piece,) = plan.pieces
        self._layout = model.layout
        self._rows = _Rows(model, spec, piece.asked.conditional)
        self._frames = _Frames(model, plan, piece)
        self._decoder = model.codec.decoder_stream()
        size = model.config.codec.frame_size
        waits = LOOKAHEAD + math.ceil(self._rows.lookahead / size)
        self.wait = size * waits + model.codec.decoder_lookahead

    @property
    def frames(self) -> int:
        return self._frames.made

    def push(self, frame: Samples) -> Iterator[Samples]:
        return self._answered(self._rows.push(frame))

    def flush(self) -> Iterator[Samples]:
        yield from self._answered(self._rows.flush())
        yield np.clip(self._decoder.flush(), -1.0, 1.0)

    def _answered(self, rows: Ids) -> Iterator[Samples]:
        """Aligned rows [n, S] -> the samples of their frames."""
        for row in rows:
            frame = self._frames.next(row)
            if frame is None:
                return
            codes = self._layout.frames_to_codes(frame)
            yield np.clip(self._decoder.push(np.ascontiguousarray(codes.T)), -1.0, 1.0)

    def reset(self) -> None:
        for part in (self._rows, self._frames, self._decoder):
            part.reset()

    def cancel(self) -> None:
        self._frames.cancel()

    def free(self) -> None:
        self._frames.free()


class _Rows:
    """Samples of the source in, aligned rows of the target out, as soon as they are known."""

    def __init__(self, model: Model, spec: Input, sequence: TaskSequence) -> None:
        self._sequence = sequence
        self._streams: dict[str, Any] = {}
        self.lookahead = 0  # samples that an encoder needs after a frame
        if spec.modality == "audio":
            self._streams[spec.name] = model.codec.encoder_stream()
            self.lookahead = model.codec.encoder_lookahead
        if spec.modality == "units" or spec.units:
            name = spec.name if spec.modality == "units" else units_key(spec)
            self._streams[name] = model.semantic.stream()
            wait = model.semantic.lookahead + model.semantic.core.encoder_lookahead
            self.lookahead = max(self.lookahead, wait)
        self.reset()

    def reset(self) -> None:
        for stream in self._streams.values():
            stream.reset()
        self._values: dict[str, NDArray[Any]] = {}

    def push(self, frame: Samples) -> Ids:
        """A frame [n] of samples -> rows [m, S]. Only the last frame of a sound may be short."""
        self._take({name: s.push(frame) for name, s in self._streams.items()})
        return self._known(LOOKAHEAD)

    def flush(self) -> Ids:
        """The rows of the last frames."""
        self._take({name: s.flush() for name, s in self._streams.items()})
        return self._known(0)

    def _take(self, values: dict[str, Ids]) -> None:
        """Codes [K', t] and units [t] -> one value a frame."""
        new = {name: v.T for name, v in values.items()}
        old = self._values or {name: v[:0] for name, v in new.items()}
        self._values = {name: np.concatenate((old[name], v)) for name, v in new.items()}

    def _known(self, ahead: int) -> Ids:
        """The rows of all frames that ``ahead`` more follow; they are then forgotten."""
        n = min(map(len, self._values.values()))
        values = {name: v[:n] for name, v in self._values.items()}
        sequence = replace(self._sequence, values={**self._sequence.values, **values})
        rows = sequence.target_rows(n)[: max(0, n - ahead)]
        self._values = {name: v[len(rows) :] for name, v in self._values.items()}
        return rows


class _Frames:
    """Aligned rows in, the target's frames out, without end.

    A session's KV cache is bounded, and the model was trained on sequences of limited length. When
    a session is full, the next one goes on: it has read the task, the voice and the last frames of
    the target with their rows, as if it had begun with them. The frames of two sessions follow each
    other as those of one, so nothing has to be cross-faded. Random numbers stay keyed by the frame's
    number in the whole sound.
    """

    def __init__(self, model: Model, plan: Plan, piece: Piece) -> None:
        asked = piece.asked
        known = asked.conditional
        window = min(round(WINDOW_SECONDS * model.frame_rate), model.capacity - len(known))
        if window < 2 * _CONTEXT_SHARE:
            raise InputError(
                f"{plan.task.name}: expected room for {2 * _CONTEXT_SHARE} frames, got {window}; "
                "load the model with more max_seconds"
            )
        self._window, self._context = window, window // _CONTEXT_SHARE
        self._ahead = math.ceil(self._context / _CATCH_UP)  # frames that catching up may take
        self._sampling = audio_sampling(model.layout, plan.options, piece.seed)
        self._base: Session | None = None
        sessions = []
        for one in (known, asked.unconditional):
            if one is not None:
                session = model.lm.session(len(one) + window)
                for part in (one.shared, one.body):
                    session.prefill(part.frames, None, part.continuous or None)
                sessions.append(session)
        self._base = sessions[0]
        if len(sessions) == 2:
            self._base.set_guidance(sessions[1], plan.options["guidance"])
        guide_by_rows(self._base, plan)
        self.reset()

    def reset(self) -> None:
        assert self._base is not None
        self._session: Session | None = self._base.fork()
        self._next: Session | None = None
        self.made, self._held = 0, 0  # frames in all, and in this session
        self._frames: list[Ids] = []  # the context of the next session, and its rows
        self._rows: list[Ids] = []
        self._read = 0  # frames of it that the next session has read

    def next(self, row: Ids) -> Ids | None:
        """The aligned row [S] of a frame -> the frame [1, K]; None once it is cancelled."""
        session = self._session
        if session is None:
            return None
        frame = session.generate(1, self._sampling, row[None])
        if not len(frame):
            return None
        self.made, self._held = self.made + 1, self._held + 1
        left = self._window - self._held
        if left < self._context:
            self._frames.append(frame)
            self._rows.append(row)
        if left < self._ahead:
            self._catch_up()
        if not left:
            self._hand_over()
        return frame

    def _catch_up(self) -> None:
        """Let the next session read a part of its context."""
        if self._next is None:
            assert self._base is not None
            self._next = self._base.fork()
        part = slice(self._read, self._read + _CATCH_UP)
        self._next.prefill(np.concatenate(self._frames[part]), np.stack(self._rows[part]))
        self._read = min(part.stop, len(self._frames))

    def _hand_over(self) -> None:
        assert self._next is not None and self._read == self._context
        self._session, self._next = self._next, None
        self._session.frame_offset = self.made - self._context
        self._held, self._read = self._context, 0
        self._frames, self._rows = [], []

    def cancel(self) -> None:
        session = self._session
        if session is not None:
            session.cancel()

    def free(self) -> None:
        self._session = self._next = self._base = None
        self._frames, self._rows = [], []
