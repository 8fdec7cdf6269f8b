"""Data-parallel training: a step is made of parts, each process computes some of them, gradients are
averaged, and weights stay bit-identical.

A part is a batch of its own, drawn from (seed, part, step). Which process computes it does not
matter: a run gives the same curve, to rounding, on any number of processes that divides the number
of parts, and resumes on another number. The parts of one process accumulate in its gradients.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


class Team:
    """The processes of a run, from the view of one of them; ``Team()`` is a single process.

    ``parts``: the parts of a step; 0 means one for each process. Raises ValueError where the
    processes cannot share them evenly.
    """

    def __init__(self, rank: int = 0, size: int = 1, parts: int = 0) -> None:
        self.rank, self.size, self.parts = rank, size, parts or size
        if self.parts % size:
            raise ValueError(
                f"parts: expected a multiple of the {size} processes, got {self.parts}; change "
                "parts or the number of processes"
            )

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
        self, parameters: Sequence[nn.Parameter], stopping: bool, share: float, loss: torch.Tensor
    ) -> tuple[bool, float, torch.Tensor]:
        """Averages the gradients, summed over own parts, over all parts; a missing one counts as 0.

        Returns whether any process wants to stop, the mean of ``share`` (the finished part of the
        run), so that all processes follow one clock, and ``loss``, a sum over own parts, as the
        mean over all parts.
        """
        if self.parts == 1:
            return stopping, share, loss
        trained = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        extra = gradients[0].new_tensor([float(stopping), share * self.parts / self.size, 0])
        extra[2] = loss
        flat = torch.cat([*(g.flatten() for g in gradients), extra])
        if self.size > 1:
            dist.all_reduce(flat)
        flat /= self.parts
        start = 0
        for p, g in zip(trained, gradients, strict=True):
            p.grad = flat[start : start + g.numel()].view_as(g)
            start += g.numel()
        return bool(flat[-3] > 0), float(flat[-2]), flat[-1]

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


def run_launched(work: Callable[[Team], None], device: torch.device, parts: int) -> None:
    """Calls ``work(team)`` in a process that ``torchrun`` started, with its team."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    team = Team(rank, size, parts)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The store outlives a restart: under the same keys, processes would look for those that died.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt {attempt}", next(dist.rendezvous("env://"))[0])
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        work(team)
    finally:
        dist.destroy_process_group()


def run_team(work: Callable[..., None], size: int, parts: int, *args: Any) -> None:
    """Calls ``work(team, *args)`` in ``size`` processes; in this process where ``size`` is 1.

    Raises ValueError for a size below 1 and for parts that are no multiple of it.
    """
    if size < 1:
        raise ValueError(f"processes: expected at least 1, got {size}")
    team = Team(0, size, parts)
    if size == 1:
        work(team, *args)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        torch.multiprocessing.spawn(_member, (size, parts, store, work, args), nprocs=size)


def _member(
    rank: int, size: int, parts: int, store: str, work: Callable[..., None], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        work(Team(rank, size, parts), *args)
    finally:
        dist.destroy_process_group()
