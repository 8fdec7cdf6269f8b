"""Many independent items on a Ray cluster. It needs the extra ``ray``.

Each item is a task. Ray repeats those that are lost when a worker or a node dies. An item can
therefore run more than once. Its outputs are still there exactly once if they are complete
or absent and a function of the item alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from .errors import InputError

T = TypeVar("T")
R = TypeVar("R")
# Called once in each worker process: loads what all of its items need, and returns what does one item.
MakeWorker = Callable[[], Callable[[T], R]]

LOCAL = "local"
# What help texts say about an address.
ADDRESS = (
    "its HOST:PORT, auto (RAY_ADDRESS, or the cluster of this machine), or local (a new cluster of "
    "this machine); needs the extra ray"
)
_KNOCK_SECONDS = 10.0
_RETRIES = 3  # of an item whose worker dies: it may be the item that kills it
TASK = "uniaudio"  # what Ray calls the task of an item, and its process meanwhile


def check_installed() -> None:
    """Raise :class:`InputError` where the extra ``ray`` is missing."""
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "--ray needs ray, not installed here; install the extra: "
            "pip install 'uniaudio-engine[ray]'"
        )


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to a cluster, closed with the block; one that is already open is left open.

    ``address``: ``host:port``, ``auto`` for RAY_ADDRESS or the cluster of this machine, or
    ``local`` for a new cluster of this machine alone that ends with the block.
    Raises :class:`InputError` where there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    _errors_to_stderr()
    if ray.is_initialized():
        yield
        return
    given: dict[str, Any] = {"address": address}
    if address == LOCAL:
        given["include_dashboard"] = False
    elif address == "auto":
        given["address"] = os.environ.get("RAY_ADDRESS", "auto")
    try:
        _knock(given["address"])
        ray.init(**given, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, ValueError) as e:
        raise InputError(
            f"--ray {address}: expected a running Ray cluster, got: {str(e)[:100]}; start one: ray "
            "start --head, or use --ray local"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _errors_to_stderr() -> None:
    """Ray prints what goes wrong on a cluster, such as the death of a worker, to the standard output
    of this process, between the results. It has no setting for that.
    """
    from ray._private import worker

    show = getattr(worker, "print_to_stdstream", None)
    if show is not None and not hasattr(show, "func"):
        worker.print_to_stdstream = partial(_as_error, show)


def _as_error(show: Callable[..., None], data: dict[str, Any], **given: Any) -> None:
    show(data | {"is_err": True}, **given)


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at ``host:port``: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()


@dataclass(frozen=True)
class Workers:
    """How many workers run, and what each of them reserves.

    ``count``: 0 for as many as the cluster has room for now. ``cpus`` and ``gpus``: of each.
    """

    count: int = 0
    cpus: float = 1.0
    gpus: float = 0.0

    def check(self) -> None:
        """Raise :class:`InputError` where the cluster that this process uses has no room for one."""
        import ray

        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        if cpus < self.cpus or gpus < self.gpus:
            raise InputError(
                f"--ray: expected a cluster with {self.cpus:g} CPUs and {self.gpus:g} GPUs for a "
                f"worker, got {cpus:g} and {gpus:g}"
            )

    def room(self) -> int:
        """``count``, or how many the cluster has CPUs and GPUs for now; 1 or more."""
        import ray

        if self.count:
            return self.count
        have = ray.cluster_resources()
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        return max(1, int(min(have.get(k, 0.0) / n for k, n in needs.items() if n)))


def each(make: MakeWorker[T, R], items: Sequence[T], workers: Workers) -> Iterator[R]:
    """The result of every item, in any order; the first exception of an item ends it.

    ``make``, items and results are pickled, and what they name is imported by the workers: this
    package must be installed on all nodes. Call it inside :func:`connected`. Raises RuntimeError
    for an item whose workers die again and again.
    """
    if not items:
        return
    import ray

    workers.check()
    # Tasks, not actors: Ray repeats a lost task anywhere, but gives up on an actor that it cannot
    # reach. A task's process is used again, so what `make` loads is loaded once in each.
    task: Any = ray.remote(
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
        max_calls=0,  # a process with a GPU would end after one task
        max_retries=_RETRIES,
    )(_work)
    task = task.options(name=TASK)
    making = ray.cloudpickle.dumps(make)
    left = iter(items)
    running: list[Any] = []

    def fill() -> None:
        free = max(0, workers.room() - len(running))
        running.extend(task.remote(making, pickle.dumps(item)) for item in islice(left, free))

    fill()
    try:
        while running:
            [done], running = ray.wait(running)
            fill()  # before the caller uses the result: that may take long
            result = pickle.loads(ray.get(done))
            if isinstance(result, _Failed):
                raise result.error
            yield result
    except ray.exceptions.RayError as e:
        raise RuntimeError(
            "--ray: the workers of an item died again and again, or the cluster is gone: "
            f"{one_line(str(e))}; what is done is kept"
        ) from None
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            for lost in running:
                ray.cancel(lost)


def one_line(text: str) -> str:
    """The beginning of an error of Ray, whose messages have many lines."""
    return " ".join(text.split())[:200]


@dataclass
class _Failed:
    error: Exception


_made: dict[bytes, Callable[[Any], Any]] = {}  # in a worker's process: the last that was made


def _work(make: bytes, item: bytes) -> bytes:
    """The task of an item: its pickled result."""
    # Exceptions are results: Ray would hide their message in a traceback.
    try:
        if make not in _made:
            _made.clear()
            _made[make] = pickle.loads(make)()
        return pickle.dumps(_made[make](pickle.loads(item)))
    except Exception as e:
        return pickle.dumps(_Failed(_as_text(e)))


def _as_text(e: Exception) -> Exception:
    """``e``, or a RuntimeError of the same text where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(e))
        return e
    except Exception:
        return RuntimeError(f"{type(e).__name__}: {e}")
