"""The checkpoint of a run: a file or, where processes hold shards, a folder that all of them write.

``checkpoint.pt`` is a nested state: step, precision, parts by name, random states. A folder
``checkpoint-<step>-<number>`` has the same state in ``state.pt``, in which each sharded tensor is a
:class:`Piece`; their values are in torch's distributed checkpoint format beside it. Either is read
by any number of processes. A run keeps one checkpoint, the newest.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from uniaudio_engine.storage.files import atomic_write, sync_folder

from .data_parallel import Team

FILE = "checkpoint.pt"
_STATE = "state.pt"
_NAME = re.compile(r"checkpoint-(\d+)-(\d+)")

Keys = tuple[Any, ...]  # where a value is in a nested state


@dataclass(frozen=True)
class Piece:
    """Stands for a sharded tensor in ``state.pt``; ``name`` is its key in the distributed files."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def newest(run: str | Path) -> Path | None:
    """The newest whole checkpoint of a run folder; None where there is none."""
    folders = _folders(Path(run))
    file = Path(run) / FILE
    if not file.is_file():
        return folders[-1] if folders else None
    return folders[-1] if folders and _number(folders[-1])[0] >= head(file)["step"] else file


def head(path: Path) -> dict[str, Any]:
    """The state of a checkpoint without reading its tensors: they are mapped, or pieces."""
    # trusted files, with optimizer and random states besides the weights
    found = torch.load(_state(path), map_location="cpu", weights_only=False, mmap=True)
    return cast("dict[str, Any]", found)


def read(
    path: Path,
    parts: Collection[str] | None = None,
    like: Callable[[Keys, tuple[int, ...]], DTensor | None] = lambda keys, shape: None,
) -> dict[str, Any]:
    """The state of a checkpoint, on the CPU; of those ``parts`` that it has, or of all.

    ``like``: a sharded tensor whose placement a tensor at these keys and of this shape gets; each
    process then reads its own shard.
    """
    mapped = parts is not None and path.is_file()
    state = torch.load(_state(path), map_location="cpu", weights_only=False, mmap=mapped)
    if parts is not None:
        state["parts"] = {name: p for name, p in state["parts"].items() if name in parts}
    pieces: dict[str, Tensor] = {}

    def placed(keys: Keys, value: Any) -> Any:
        if isinstance(value, Piece):
            pattern = like(keys, value.shape)
            pieces[value.name] = (
                torch.empty(value.shape, dtype=value.dtype)
                if pattern is None
                else torch.empty_like(pattern, dtype=value.dtype)
            )
            return pieces[value.name]
        if isinstance(value, Tensor) and (pattern := like(keys, tuple(value.shape))) is not None:
            # every process has the whole tensor, so nothing is sent
            whole = value.to(pattern.device)
            return distribute_tensor(
                whole, pattern.device_mesh, pattern.placements, src_data_rank=None
            )
        return value

    state = _mapped(state, placed)
    if pieces:
        with warnings.catch_warnings():  # each process reads for itself, which torch remarks on
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(pieces, checkpoint_id=path, no_dist=True)
    return cast("dict[str, Any]", state)


def read_run(run: str | Path, parts: Collection[str] | None = None) -> dict[str, Any]:
    """:func:`read` of the newest checkpoint. Raises FileNotFoundError where there is none."""
    path = newest(run)
    if path is None:
        raise FileNotFoundError(f"{run}: expected a run with a checkpoint, found none")
    return read(path, parts)


def weights(run: str | Path, averaged: bool = True) -> dict[str, Tensor]:
    """The model's weights in the newest checkpoint; its averaged ones if it has them, unless
    ``averaged`` is off. Raises FileNotFoundError where there is no checkpoint.
    """
    parts = read_run(run, ("model", "average") if averaged else ("model",))["parts"]
    return cast("dict[str, Tensor]", parts.get("average", parts["model"]))


def placements(parts: Mapping[str, Any]) -> Callable[[Keys, tuple[int, ...]], DTensor | None]:
    """``like`` of :func:`read` for the parts of a run: the tensors of a module by name, and those
    of an optimizer that have the shape of their parameter.
    """
    sharded: dict[Keys, DTensor] = {}
    for part, value in parts.items():
        tensors: dict[Keys, Any] = {}
        if isinstance(value, nn.Module):
            tensors = {("parts", part, name): t for name, t in value.state_dict().items()}
        elif isinstance(value, torch.optim.Optimizer):
            params = [p for group in value.param_groups for p in group["params"]]
            tensors = {("parts", part, "state", i): p for i, p in enumerate(params)}
        sharded |= {keys: t for keys, t in tensors.items() if isinstance(t, DTensor)}

    def like(keys: Keys, shape: tuple[int, ...]) -> DTensor | None:
        found = sharded.get(keys[:4] if keys[2:3] == ("state",) else keys)
        return found if found is not None and tuple(found.shape) == shape else None

    return like


class Writer:
    """Writes the checkpoints of a run; all processes of its team call it together."""

    def __init__(self, run: Path, team: Team) -> None:
        self.run, self.team = run, team
        self._written: Future[None] | None = None
        self._group: dist.ProcessGroup | None = None

    def write(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint by one of ``state``, atomically.

        A state without sharded tensors is written at once, by the leading process. Sharded ones are
        copied to the CPU and written in the background: see :meth:`wait`.
        """
        sharded: dict[str, Tensor] = {}

        def piece(keys: Keys, value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            name = "/".join(map(str, keys))
            sharded[name] = value
            return Piece(name, tuple(value.shape), value.dtype)

        self.wait()
        plain = _mapped(state, piece)
        if sharded:
            self._write_folder(plain, sharded)
        elif self.team.leads:
            with atomic_write(self.run / FILE) as file:
                torch.save(state, file)
            _remove(_folders(self.run))

    def wait(self) -> None:
        """Waits until the last checkpoint is in place; raises what went wrong with it."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _write_folder(self, plain: dict[str, Any], sharded: dict[str, Tensor]) -> None:
        if self._group is None:
            # of its own: the thread that writes must not meet the messages of the steps
            self._group = dist.new_group(backend="gloo")
        target = self.run / self.team.agree(lambda: self._begin(plain))
        part = _part(target)
        saving = dcp.async_save(
            sharded,
            storage_writer=dcp.FileSystemWriter(part),
            process_group=self._group,
        )
        assert isinstance(saving, Future)
        written: Future[None] = Future()
        saving.add_done_callback(lambda done: self._end(done, written, part, target))
        self._written = written

    def _begin(self, plain: dict[str, Any]) -> str:
        """Makes the unfinished folder of a new checkpoint; returns the name of the finished one."""
        _remove([p for p in self.run.glob(".checkpoint-*.part") if p.is_dir()])
        here = [_number(p) for p in _folders(self.run)]
        number = 1 + max((n for step, n in here if step == plain["step"]), default=-1)
        name = f"checkpoint-{plain['step']:08d}-{number}"
        part = _part(self.run / name)
        part.mkdir()
        with (part / _STATE).open("wb") as file:
            torch.save(plain, file)
            file.flush()
            os.fsync(file.fileno())
        return name

    def _end(self, saving: Future[Any], written: Future[None], part: Path, target: Path) -> None:
        """Called in the thread that has written. In the leading process all have written then."""
        try:
            saving.result()
            if self.team.leads:
                part.rename(target)
                sync_folder(self.run)
                _remove([p for p in _folders(self.run) if p != target])
                (self.run / FILE).unlink(missing_ok=True)
        except dcp.CheckpointException as e:  # no Exception; of each process that failed
            rank, (error, _) = next(iter(e.failures.items()))
            written.set_exception(
                OSError(f"{target}: expected to write it, process {rank} failed: {error}")
            )
        except BaseException as e:
            written.set_exception(e)
        else:
            written.set_result(None)


def _state(path: Path) -> Path:
    return path / _STATE if path.is_dir() else path


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _folders(run: Path) -> list[Path]:
    """The whole checkpoints of a run that are folders, the oldest first."""
    found = [p for p in run.glob("checkpoint-*") if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=_number)


def _number(folder: Path) -> tuple[int, int]:
    found = _NAME.fullmatch(folder.name)
    assert found is not None
    return int(found[1]), int(found[2])


def _remove(folders: list[Path]) -> None:
    """Removes folders; under another name first, so that none is taken for a whole one."""
    for folder in folders:
        if not folder.name.startswith("."):
            with contextlib.suppress(OSError):
                folder = folder.rename(_part(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _mapped(value: Any, change: Callable[[Keys, Any], Any], keys: Keys = ()) -> Any:
    """A copy of nested dictionaries and lists with each leaf changed."""
    if isinstance(value, dict):
        return {k: _mapped(v, change, (*keys, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_mapped(v, change, (*keys, i)) for i, v in enumerate(value)]
    return change(keys, value)
