"""The arithmetic of a run: float32, or products in bfloat16, whichever is faster on this machine.

Processors without bfloat16 instructions emulate them at a fraction of the float32 speed, so the
choice is measured. A resumed run keeps its precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import run_checkpoint
from .settings import Precision

MARGIN = 0.9  # bfloat16 must be at least this much faster, since float32 is more accurate


@dataclass(frozen=True)
class Arithmetic:
    """The device and dtype of a run; ``dtype`` is float32 or bfloat16."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes: products in ``dtype``, weights in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@torch.no_grad()
def time_products(device: torch.device, repeats: int = 5) -> dict[torch.dtype, float]:
    """Seconds of the products of a layer, forward and backward under autocast, by dtype.

    The best of ``repeats`` rounds of both, after a warm-up round that selects kernels. On a CPU it
    is the computing time of one thread, which other processes hardly affect.
    """
    x, weight = torch.ones(512, 256, device=device), torch.ones(704, 256, device=device)
    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for repeat in range(repeats + 1):
            for dtype in best:
                begin = _seconds(device)
                with Arithmetic(device, dtype).autocast():
                    y = torch.nn.functional.linear(x, weight)
                    _ = torch.mm(y, weight), torch.mm(y.T, x)
                if repeat:
                    best[dtype] = min(best[dtype], _seconds(device) - begin)
    finally:
        torch.set_num_threads(threads)
    return best


def _seconds(device: torch.device) -> float:
    if device.type != "cuda":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def choose(
    wanted: Precision, device: torch.device, folder: str | Path, say: Callable[[str], None] = print
) -> Arithmetic:
    """Selects the arithmetic of a run in ``folder``; reports the choice and its reason in one line.

    ``wanted`` float32 or bfloat16 is used as it is. ``auto`` is the precision of the run's
    checkpoint or, for a new run, the faster one on ``device``.
    """
    if wanted != "auto":
        say(f"precision: {wanted}, from the settings")
        return Arithmetic(device, getattr(torch, wanted))
    if (kept := checkpoint_precision(folder)) is not None:
        say(f"precision: {kept}, from the checkpoint; --set precision=float32|bfloat16 changes it")
        return Arithmetic(device, getattr(torch, kept))
    float32, bfloat16 = time_products(device).values()
    dtype = torch.bfloat16 if bfloat16 < MARGIN * float32 else torch.float32
    say(
        f"precision: {name(dtype)}; the products of a layer take {1e3 * float32:.2f} ms "
        f"in float32 and {1e3 * bfloat16:.2f} ms in bfloat16 on {device}"
    )
    return Arithmetic(device, dtype)


def name(dtype: torch.dtype) -> str:
    """ "float32" or "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def checkpoint_precision(folder: str | Path) -> str | None:
    """The precision of a run's checkpoint; None where there is no checkpoint.

    Old checkpoints have no entry; they were trained in bfloat16.
    """
    path = run_checkpoint.newest(folder)
    return None if path is None else str(run_checkpoint.head(path).get("precision", "bfloat16"))
