"""Data-parallel training: each process computes a share of a step's items, gradients are averaged,
and weights stay bit-identical.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class Team:
    """The processes of a run, from the view of one of them; ``Team()`` is a single process."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints, curves and messages."""
        return self.rank == 0

    def seed(self, seed: int) -> int | tuple[int, int]:
        """The seed of this process's batches; with a single process, that of the run."""
        return seed if self.size == 1 else (seed, self.rank)

    def average(
        self, parameters: Sequence[nn.Parameter], stopping: bool, share: float
    ) -> tuple[bool, float]:
        """Averages the gradients over the processes; a missing one counts as 0.

        Returns whether any process wants to stop, and the mean of ``share`` (the finished part of
        the run), so that all processes follow one clock.
        """
        if self.size == 1:
            return stopping, share
        trained = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        extra = gradients[0].new_tensor([float(stopping), share])
        flat = torch.cat([*(g.flatten() for g in gradients), extra])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for p, g in zip(trained, gradients, strict=True):
            p.grad = flat[start : start + g.numel()].view_as(g)
            start += g.numel()
        return bool(flat[-2] > 0), float(flat[-1])


def run_team(work: Callable[..., None], size: int, *args: Any) -> None:
    """Calls ``work(team, *args)`` in ``size`` processes; in this process where ``size`` is 1.

    Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"processes: expected at least 1, got {size}")
    if size == 1:
        work(Team(), *args)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        torch.multiprocessing.spawn(_member, (size, store, work, args), nprocs=size)


def _member(
    rank: int, size: int, store: str, work: Callable[..., None], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    # gloo averages gradients on CPUs; several GPUs would need nccl, which is untested
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        work(Team(rank, size), *args)
    finally:
        dist.destroy_process_group()
