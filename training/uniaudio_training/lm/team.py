"""Several processes that train one model: each takes its share of a step's items, gradients are
averaged, weights stay equal to the bit.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class Team:
    """The processes of a run as one of them sees it; ``Team(0, 1)`` is a run by itself."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this one writes checkpoints and curves and speaks."""
        return self.rank == 0

    def seed(self, seed: int) -> int | tuple[int, int]:
        """Of this process' batches; alone it is the seed itself."""
        return seed if self.size == 1 else (seed, self.rank)

    def average(self, model: nn.Module, stopping: bool, clock: float) -> tuple[bool, float]:
        """Gradients become their mean over the team (a missing one counts as 0); so does ``clock``,
        since all must go by the same one. Returns whether any member wants to stop, and the clock.
        """
        if self.size == 1:
            return stopping, clock
        params = [p for p in model.parameters() if p.requires_grad]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        flat = torch.cat(
            [*(g.flatten() for g in parts), parts[0].new_tensor([float(stopping), clock])]
        )
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for p, g in zip(params, parts, strict=True):
            p.grad = flat[start : start + g.numel()].view_as(g)
            start += g.numel()
        return bool(flat[-2] > 0), float(flat[-1])


def run_team(work: Callable[..., None], size: int, *args: Any) -> None:
    """``work(team, *args)`` in ``size`` processes; alone in this one where that is 1."""
    if size < 1:
        raise ValueError(f"processes: expected at least 1, got {size}")
    if size == 1:
        work(Team(0, 1), *args)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            _member, (size, os.path.join(folder, "store"), work, args), nprocs=size
        )


def _member(
    rank: int, size: int, store: str, work: Callable[..., None], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    # gloo: gradients of a CPU step; a run on several GPUs would want nccl, which nobody here could
    # try
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        work(Team(rank, size), *args)
    finally:
        dist.destroy_process_group()
