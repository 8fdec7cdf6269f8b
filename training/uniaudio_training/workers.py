"""Many independent shards: in this process, in several, or on a Ray cluster.

Each shard's files are complete or absent and depend on nothing but the shard. A command that is
stopped resumes when it is run again, on any number of workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from uniaudio_engine import cluster
from uniaudio_engine.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def add_arguments(p: argparse.ArgumentParser, default: int = 1) -> None:
    p.add_argument(
        "--workers",
        type=int,
        help=f"worker processes (default: {default}; with --ray, as many as the cluster has CPUs "
        "for); the result does not depend on it",
    )
    p.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help=f"run on a Ray cluster: {cluster.ADDRESS}",
    )
    p.set_defaults(default_workers=default)


@dataclass(frozen=True)
class Workers:
    """Where shards are made. ``count``: 0 for as many as a cluster has room for."""

    count: int = 1
    ray: str | None = None
    cpus: float = 1.0  # of each

    @classmethod
    def of(cls, args: argparse.Namespace, cpus: float = 1.0) -> Workers:
        """From the arguments of :func:`add_arguments`. Raises InputError."""
        if args.workers is not None and args.workers < 1:
            raise InputError(f"--workers: expected 1 or more, got {args.workers}")
        if args.ray is not None:
            cluster.check_installed()
            return cls(args.workers or 0, args.ray, cpus)
        return cls(args.workers or args.default_workers, None, cpus)

    def each(self, make: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Iterator[R]:
        """The result of every item, in any order.

        ``make`` is called once in each worker and returns what does one item; all of it is pickled.
        Raises RuntimeError where a worker process dies; Ray starts another.
        """
        if self.ray is not None:
            with cluster.connected(self.ray):
                yield from cluster.each(make, items, cluster.Workers(self.count, self.cpus))
        elif self.count == 1 or len(items) <= 1:
            if items:
                yield from map(make(), items)
        else:
            yield from _in_processes(make, items, self.count)


ONE = Workers()  # this process


def _in_processes(
    make: Callable[[], Callable[[T], R]], items: Sequence[T], count: int
) -> Iterator[R]:
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(count, len(items)), spawn, _begin, (make,))
    try:
        for done in as_completed([pool.submit(_work, item) for item in items]):
            yield done.result()
    except BrokenProcessPool:
        raise RuntimeError("a worker process died; run the command again, it resumes") from None
    finally:
        pool.shutdown(cancel_futures=True)


_made: list[Callable[[Any], Any]] = []


def _begin(make: Callable[[], Callable[[Any], Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    _made.append(make())


def _work(item: Any) -> Any:
    return _made[0](item)
