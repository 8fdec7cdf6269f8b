"""What the workers of the tests do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from uniaudio_training.places import write_whole


def make_slow(folder: str, seconds: float) -> Callable[[int], int]:
    """Writes ``folder/ITEM``, and to ``folder/log`` who began with which item."""
    place = Path(folder)

    def work(item: int) -> int:
        with (place / "log").open("a") as f:
            f.write(f"{item} {os.getpid()}\n")
        time.sleep(seconds)
        write_whole(place / f"{item}.out", lambda f: f.write(b"%d" % item**2))
        return item**2

    return work


def make_deadly(item: int) -> Callable[[int], int]:
    """One item kills its worker, as a library's crash does."""

    def work(n: int) -> int:
        if n == item:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    return work


def make_failing() -> Callable[[int], int]:
    def work(n: int) -> int:
        raise ValueError(f"expected no work, got {n}")

    return work


def make_waiting(folder: str) -> Callable[[int], int]:
    """Each item waits until the caller has had the one before the last."""

    def work(n: int) -> int:
        limit = time.monotonic() + 60
        while n > 1 and not (Path(folder) / f"{n - 2}.had").exists():
            if time.monotonic() > limit:
                raise TimeoutError(f"nobody had the result of item {n - 2}")
            time.sleep(0.01)
        return n

    return work
