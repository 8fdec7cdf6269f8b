"""``uniaudio run --jsonl``: a task for each line of a file, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import cluster
from ..audio.sound import Audio, check_output
from ..engine import Engine
from ..errors import InputError, shown
from ..request.tasks import Task
from .output import report, show_progress
from .requests import in_line, read_requests

LoadEngine = Callable[[], Engine]


@dataclass(frozen=True)
class Request:
    """A line of the file: its number, the inputs and options, and the name of its sound file."""

    number: int
    values: dict[str, Any]
    output: str


def run_file(args: argparse.Namespace, task: Task, load: LoadEngine, seed: float | None) -> int:
    """Check all requests first, then run them batch by batch; each file is complete or absent.

    ``seed``: of the requests that have none of their own. ``load`` is pickled for a cluster.
    """
    if args.values:
        raise InputError(
            f"expected either NAME=VALUE or --jsonl, got both ({shown(args.values[0])})"
        )
    if not 1 <= args.batch <= 1024:
        raise InputError(f"--batch: expected 1 to 1024, got {args.batch}")
    folder = Path(args.output)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder for the sound files, got none; create it first"
        )
    if args.ray is not None:
        cluster.check_installed()
    requests = _requests(args.jsonl, task, seed)
    whole = len(requests)
    if args.resume:
        requests = [r for r in requests if not (folder / r.output).exists()]
    batches = [requests[at : at + args.batch] for at in range(0, len(requests), args.batch)]
    done = whole - len(requests)
    for batch, sounds in _sounds(args, task.name, load, batches):
        for request, audio in zip(batch, sounds, strict=True):
            target = folder / request.output
            audio.save(target)
            report(args, audio.meta | {"output": str(target)})
        done += len(batch)
        show_progress(f"{done} of {whole}")
    show_progress("")
    return 0


def _requests(path: str, task: Task, seed: float | None) -> list[Request]:
    seen: set[str] = set()
    requests = []
    for number, values in read_requests(path):
        with in_line(path, number):
            name = values.pop("output", f"{number:05d}.wav")
            if not isinstance(name, str) or Path(name).name != name or name in seen:
                raise InputError(f"output: expected a file name without folders, got {shown(name)}")
            seen.add(name)
            check_output(name)
            if seed is not None:
                values.setdefault("seed", seed)
            if values.pop("task", task.name) != task.name:
                raise InputError(f"task: expected {task.name} in every line of this run")
            requests.append(Request(number, values, name))
    return requests


Batch = list[Request]


def _sounds(
    args: argparse.Namespace, task: str, load: LoadEngine, batches: Sequence[Batch]
) -> Iterator[tuple[Batch, list[Audio]]]:
    """Each batch with its sounds; on a cluster in any order. Raises InputError before the first."""
    if args.ray is None:
        engine = load()
        plans = [[_plan(engine, args.jsonl, task, r) for r in batch] for batch in batches]
        for batch, group in zip(batches, plans, strict=True):
            yield batch, engine.run_plans(group)
        return
    workers = cluster.Workers(
        args.workers or 0, args.threads or 1, float(args.device.startswith("cuda"))
    )
    with cluster.connected(args.ray):
        make = partial(_make_worker, load, os.getcwd(), args.jsonl, task)
        wrong = [e for e in cluster.each(partial(make, _check), batches, workers) if e]
        if wrong:
            raise min(wrong, key=lambda found: found[0])[1]
        yield from cluster.each(partial(make, _run), batches, workers)


def _plan(engine: Engine, path: str, task: str, request: Request) -> Any:
    with in_line(path, request.number):
        return engine.plan(task, **request.values)


# On the workers of a cluster


def _make_worker(
    load: LoadEngine, folder: str, path: str, task: str, do: Callable[..., Any]
) -> Callable[[Batch], Any]:
    """``folder``: the paths of models and sounds are relative to it, as where the command runs."""
    os.chdir(folder)
    return partial(do, load(), path, task)


def _check(engine: Engine, path: str, task: str, batch: Batch) -> tuple[int, InputError] | None:
    """The first request that cannot be done: the number of its line, and why."""
    for request in batch:
        try:
            _plan(engine, path, task, request)
        except InputError as e:
            return request.number, e
    return None


def _run(engine: Engine, path: str, task: str, batch: Batch) -> tuple[Batch, list[Audio]]:
    return batch, engine.run_plans([_plan(engine, path, task, r) for r in batch])
