"""Units of work for the language model: known frames to read, or frames to generate; or none, until
something comes.

Whoever runs them decides how many frames are done at a time. That never changes a result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..backends.protocols import Continuous, Ids, Session

if TYPE_CHECKING:
    from .._C import Sampling


@dataclass
class Prefill:
    """Read ``frames`` [n, K] into ``session``.

    ``aligned`` [n, S]: their aligned rows. ``continuous``: the inputs that replace some of them.
    Several streams may wait for the same one; whoever comes first advances it.
    """

    session: Session
    frames: Ids
    aligned: Ids | None = None
    continuous: Continuous | None = None
    done: int = 0
    over: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, most: int | None = None) -> int:
        """Read up to ``most`` more frames (None: all). Returns how many."""
        with self.lock:
            if self.over:
                return 0
            begin, left = self.done, len(self.frames) - self.done
            end = begin + (left if most is None else min(left, most))
            self.session.prefill(
                self.frames[begin:end],
                None if self.aligned is None else self.aligned[begin:end],
                _between(self.continuous, begin, end),
            )
            self.done, self.over = end, end == len(self.frames)
            return end - begin


def _between(continuous: Continuous | None, begin: int, end: int) -> Continuous | None:
    """The continuous inputs of the frames from ``begin`` to ``end``, counted from ``begin``."""
    if not continuous:
        return None
    found = {}
    for name, (values, frames) in continuous.items():
        where = np.asarray(frames)
        here = (where >= begin) & (where < end)
        if here.any():
            found[name] = np.asarray(values)[here], (where[here] - begin).astype(np.int32)
    return found or None


@dataclass
class Step:
    """Generate up to ``n`` frames in ``session``; fewer where the model ends them.

    ``aligned`` [n, S]: the aligned rows of these frames. ``is_target``: the frames are what was
    asked for; otherwise they are durations. ``until``: the number of frames at which whoever asked
    wants to see them.
    """

    session: Session
    n: int
    sampling: Sampling
    aligned: Ids | None
    is_target: bool
    until: int = -1
    parts: list[Ids] = field(default_factory=list)
    done: int = 0
    taken: int = 0

    def __post_init__(self) -> None:
        self.until = self.n

    def rows(self, n: int) -> Ids | None:
        """The aligned rows of the next ``n`` frames."""
        return None if self.aligned is None else self.aligned[self.done : self.done + n]

    def add(self, frames: Ids) -> None:
        self.parts.append(frames)
        self.done += len(frames)

    @property
    def left(self) -> int:
        """Frames to generate now; 0 once the model ended the target."""
        return 0 if self.session.finished else self.until - self.done

    @property
    def over(self) -> bool:
        """Whether no frame will follow."""
        return self.done == self.n or self.session.finished

    def take(self) -> Ids:
        """The frames [m, K] since the last call."""
        frames = self.result()[self.taken :]
        self.taken = self.done
        return frames

    def result(self) -> Ids:
        """All frames so far."""
        if len(self.parts) > 1:
            self.parts = [np.concatenate(self.parts)]
        return self.parts[0]


@dataclass
class Wait:
    """Nothing to do until something comes.

    ``subscribe``: takes a function, which is then called once, from any thread: when there is
    something to do, or perhaps sooner.
    """

    subscribe: Callable[[Callable[[], object]], object]

    def block(self) -> None:
        """Return when there is something to do."""
        event = threading.Event()
        self.subscribe(event.set)
        event.wait()


Work = Prefill | Step
