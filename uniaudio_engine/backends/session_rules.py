"""The rules of a session, once for all backends that are written in Python; ``csrc/`` has them for
the compiled ones.

:class:`SessionRules` holds the state that :class:`~.protocols.Session` shows and the guard against
use from two threads. The functions check arguments and return them as the arrays that a backend
works on. All raise :class:`InputError`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, shown
from ..storage.config import LMConfig
from .protocols import Continuous, Ids, Session

if TYPE_CHECKING:
    from typing_extensions import Self


class SessionRules:
    """One sequence of ``model``: what it holds, and what it refuses.

    A backend adds prefill, generate and fork. ``most``: the largest ``max_frames``.
    """

    def __init__(self, model: object, max_frames: int, most: int) -> None:
        if type(max_frames) is not int or not 1 <= max_frames <= most:
            raise InputError(f"max_frames: expected 1 to the limit {most}, got {shown(max_frames)}")
        self.capacity = max_frames
        self._model = model
        self._busy = threading.Lock()
        self._start()

    def _start(self) -> None:
        """No frames, no guidance."""
        self.frames, self.finished = 0, False
        self._generated, self._offset, self._cancelled = 0, 0, False
        self._unconditional: Self | None = None
        self._scale, self._guidance_aligned = 1.0, True

    def _copied_to(self, other: Self) -> Self:
        """``other`` with this session's state, guidance included."""
        other.frames, other.finished = self.frames, self.finished
        other._generated, other._offset = self._generated, self._offset
        other._unconditional = None if self._unconditional is None else self._unconditional.fork()
        other._scale, other._guidance_aligned = self._scale, self._guidance_aligned
        return other

    @property
    def guided(self) -> bool:
        return self._unconditional is not None

    @property
    def frame_offset(self) -> int:
        """Added to the frame index that keys the random numbers; 0 or more."""
        return self._offset

    @frame_offset.setter
    def frame_offset(self, offset: int) -> None:
        if offset < 0:
            raise InputError(f"frame_offset: expected 0 or more, got {offset}")
        with self._use():
            self._offset = int(offset)

    def fork(self) -> Self:
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop a running generate after its frame, or else the next one at once.  Any thread."""
        self._cancelled = True

    def set_guidance(self, unconditional: Session, scale: float, aligned: bool = True) -> None:
        """From here on ids are drawn from the logits unconditional + scale (own - unconditional).

        Keeps a fork of ``unconditional``, which takes in all that this session takes in, aligned
        rows only if ``aligned``.
        """
        if (
            not isinstance(unconditional, type(self))
            or unconditional is self
            or unconditional._model is not self._model
            or unconditional.guided
        ):
            raise InputError(
                "set_guidance: expected another session of the same LM that is not guided itself"
            )
        if not 0 <= scale <= 100:
            raise InputError(f"set_guidance: expected a scale from 0 to 100, got {shown(scale)}")
        fork = unconditional.fork()
        with self._use():
            self._unconditional, self._scale = cast("Self", fork), float(scale)
            self._guidance_aligned = aligned

    def reset(self) -> None:
        """Back to no frames and no guidance."""
        with self._use():
            self._start()

    def check_room(self, what: str, n: int) -> None:
        """That ``n`` more frames fit, here and into the unconditional session."""
        if type(n) is not int or n < 0:
            raise InputError(f"{what}: expected 0 or more frames, got {shown(n)}")
        for s in self._sides():
            if n > s.capacity - s.frames:
                raise InputError(
                    f"{what}: expected at most {s.capacity - s.frames} more frames (capacity "
                    f"{s.capacity}, {s.frames} used), got {n}; make the session with a larger "
                    "max_frames"
                )

    def _sides(self) -> list[Self]:
        """This session and, under guidance, the unconditional one."""
        return [self] if self._unconditional is None else [self, self._unconditional]

    @contextmanager
    def _use(self) -> Iterator[None]:
        """One call at a time, or an error."""
        if not self._busy.acquire(blocking=False):
            raise InputError(
                "session: expected one call at a time, but another thread is using it; fork it or "
                "wait"
            )
        try:
            yield
        finally:
            self._busy.release()


def check_batch(sessions: Sequence[object], *others: Sequence[object] | None) -> None:
    """That the sessions are distinct, and one sampling and one set of aligned rows is there for
    each.
    """
    if len(set(map(id, sessions))) < len(sessions):
        raise InputError("generate_batch: expected distinct sessions, got one twice")
    lengths = [len(o) for o in others if o is not None]
    if any(n != len(sessions) for n in lengths):
        raise InputError(
            "generate_batch: expected one sampling and one set of aligned rows per session "
            f"({len(sessions)}), got {' and '.join(map(str, lengths))}"
        )


def id_matrix(
    values: ArrayLike, what: str, columns: int, below: int, least: int = 0
) -> NDArray[np.int32]:
    """Ids from ``least`` to ``below`` - 1 as int32 [n, columns]."""
    a = np.asarray(values)
    if a.ndim != 2 or a.shape[1] != columns or (a.size and a.dtype.kind not in "iu"):
        raise InputError(
            f"{what}: expected whole numbers [n, {columns}], got {a.dtype} {list(a.shape)}"
        )
    if a.size and (a.min() < least or a.max() >= below):
        raise InputError(
            f"{what}: expected an id from {least} to {below - 1}, got {a.min()} to {a.max()}"
        )
    return np.ascontiguousarray(a, np.int32)


def frame_matrix(frames: ArrayLike, config: LMConfig, what: str = "frames") -> Ids:
    """Known frames as int32 [n, K]."""
    return id_matrix(frames, what, config.num_codebooks, config.vocab_size)


def aligned_matrix(aligned: ArrayLike | None, config: LMConfig, rows: int) -> Ids | None:
    """The aligned rows of ``rows`` frames as int32 [rows, S], -1 for none."""
    if aligned is None:
        return None
    if not config.aligned_slots:
        raise InputError(
            "aligned: expected none, since this model has no aligned slots; leave it out"
        )
    g = id_matrix(aligned, "aligned", config.aligned_slots, config.aligned_vocab, -1)
    if len(g) != rows:
        raise InputError(f"aligned: expected one row per frame ({rows}), got {len(g)}")
    return g


def continuous_rows(
    continuous: Continuous | None, config: LMConfig, rows: int
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """name -> (values [rows, width], where [rows]), for every continuous input of the model."""
    given: dict[str, tuple[Any, Any]] = dict(continuous or {})
    unknown = sorted(set(given) - set(config.continuous))
    if unknown:
        raise InputError(
            f'continuous["{unknown[0]}"]: expected one of this model\'s inputs: '
            f"{', '.join(config.continuous) or 'none'}"
        )
    out, taken = {}, np.zeros(rows, np.bool_)
    for name, width in config.continuous.items():
        where = f'continuous["{name}"]'
        values, here = np.zeros((rows, width), np.float32), np.zeros(rows, np.bool_)
        v, index = (np.asarray(x) for x in given.get(name, (values[:0], np.zeros(0, np.int32))))
        if v.ndim != 2 or v.shape[1] != width or index.shape != (len(v),):
            raise InputError(
                f"{where}: expected values of shape [n, {width}] and n frames, got "
                f"{list(v.shape)} and {list(index.shape)}"
            )
        if not np.isfinite(v).all():
            raise InputError(f"{where}: expected finite values, got infinity or NaN")
        if len(index) and (index.min() < 0 or index.max() >= rows):
            raise InputError(
                f"{where}: expected frame indices from 0 to {rows - 1}, got {index.min()} to "
                f"{index.max()}"
            )
        if len(np.unique(index)) < len(index) or taken[index].any():
            raise InputError(f"{where}: a frame is given twice; give each frame one input")
        values[index], here[index], taken[index] = v, True, True
        out[name] = values, here
    return out
