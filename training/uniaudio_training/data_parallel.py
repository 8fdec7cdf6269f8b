"""Data-parallel training: a step is made of parts, each process computes some of them, gradients are
averaged, and weights stay bit-identical.

A part is a batch of its own, drawn from (seed, part, step). Which process computes it does not
matter: a run gives the same curve, to rounding, on any number of processes that divides the number
of parts, and resumes on another number. The parts of one process accumulate in its gradients.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from .settings import Sharding

T = TypeVar("T")


class Team:
    """The processes of a run, from the view of one of them; ``Team()`` is a single process.

    ``parts``: the parts of a step; 0 means one for each process. ``per_machine``: processes on one
    machine; 0 means all. ``sharding``: see ``LMSettings``. Raises ValueError where the
    processes cannot share the parts evenly, or the machines have not the same number of processes.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        parts: int = 0,
        per_machine: int = 0,
        sharding: Sharding = "none",
    ) -> None:
        self.rank, self.size, self.parts = rank, size, parts or size
        self.per_machine = per_machine or size
        self.shards = {"none": 1, "node": self.per_machine, "all": size}[sharding]
        if size % self.per_machine:
            raise ValueError(
                f"processes: expected a multiple of the {self.per_machine} on this machine, got "
                f"{size}; start as many on each machine"
            )
        if self.parts % size:
            raise ValueError(
                f"parts: expected a multiple of the {size} processes, got {self.parts}; change "
                "parts or the number of processes"
            )

    @property
    def sharded(self) -> bool:
        """Whether several processes (``shards``) hold one copy of the weights."""
        return self.shards > 1

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints, curves and messages."""
        return self.rank == 0

    @property
    def own_parts(self) -> range:
        """The parts of a step that this process computes."""
        return range(self.rank, self.parts, self.size)

    def keys(self, seed: int, step: int) -> Iterator[tuple[int, ...]]:
        """The random keys of this process's batches from a step on, in the order of use."""
        for i in itertools.count(step):
            for part in self.own_parts:
                yield (seed, i) if self.parts == 1 else (seed, part, i)

    def average(
        self, parameters: Sequence[nn.Parameter], loss: torch.Tensor, values: Sequence[float]
    ) -> tuple[torch.Tensor, list[float]]:
        """Averages the gradients, summed over own parts, over all parts; a missing one counts as 0.
        Those of sharded parameters are sums over all parts already.

        Returns ``loss``, a sum over own parts, as the mean over all parts, and the means of
        ``values`` over the processes, which all processes can thus agree on.
        """
        if self.parts == 1:
            return loss, list(values)
        trained = [p for p in parameters if p.requires_grad]
        extra = loss.new_tensor([*(v * self.parts / self.size for v in values), 0])
        extra[-1] = loss
        if isinstance(trained[0], DTensor):
            for p in trained:
                if p.grad is not None:
                    p.grad /= self.parts
            gradients = []
        else:
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([*(g.flatten() for g in gradients), extra])
        if self.size > 1:
            dist.all_reduce(flat)
        flat /= self.parts
        start = 0
        for p, g in zip(trained, gradients, strict=False):
            p.grad = flat[start : start + g.numel()].view_as(g)
            start += g.numel()
        return flat[-1], flat[start:-1].tolist()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of ``values`` over the processes, in all of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: Callable[[], T]) -> T:
        """What the leading process finds, in all processes."""
        found: list[Any] = [value() if self.leads else None]
        if self.size > 1:
            dist.broadcast_object_list(found, src=0)
        result: T = found[0]
        return result


def launched() -> bool:
    """Whether ``torchrun`` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process among those of its machine; a CPU is shared."""
    if device.type != "cuda" or device.index is not None or not launched():
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def run_launched(
    work: Callable[[Team], None], device: torch.device, parts: int, sharding: Sharding = "none"
) -> None:
    """Calls ``work(team)`` in a process that ``torchrun`` started, with its team."""
    rank, size, here = (int(os.environ[n]) for n in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    team = Team(rank, size, parts, here, sharding)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The store outlives a restart: under the same keys, processes would look for those that died.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt {attempt}", next(dist.rendezvous("env://"))[0])
    # Gloo beside NCCL: checkpoints are exchanged on the CPU
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        work(team)
    finally:
        dist.destroy_process_group()


def run_team(
    work: Callable[..., None], size: int, parts: int, sharding: Sharding, *args: Any
) -> None:
    """Calls ``work(team, *args)`` in ``size`` processes; in this process where ``size`` is 1.

    Raises ValueError for a size below 1 and for parts that are no multiple of it, and the OSError or
    ValueError that ``work`` raised in a process.
    """
    if size < 1:
        raise ValueError(f"processes: expected at least 1, got {size}")
    team = Team(0, size, parts, sharding=sharding)
    if size == 1:
        work(team, *args)
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.multiprocessing.spawn(
                _member, (size, parts, sharding, folder, work, args), nprocs=size
            )
        except torch.multiprocessing.ProcessRaisedException as e:
            raised = _raised(Path(folder), e.error_index)
            if raised is None:
                raise
            raise raised from None


def _member(
    rank: int,
    size: int,
    parts: int,
    sharding: Sharding,
    folder: str,
    work: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    store = os.path.join(folder, "store")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        work(Team(rank, size, parts, sharding=sharding), *args)
    except (OSError, ValueError) as e:
        # torch passes on a traceback, not the error
        (Path(folder) / f"error-{rank}").write_bytes(pickle.dumps(e))
        raise
    finally:
        dist.destroy_process_group()
    # All is written. While Python is torn down, a thread of gloo that is just ending aborts the
    # process (seen once in many runs), and the run would count as failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _raised(folder: Path, rank: int) -> Exception | None:
    """The error that a process left, if it did."""
    path = folder / f"error-{rank}"
    if not path.exists():
        return None
    error: Exception = pickle.loads(path.read_bytes())
    return error
