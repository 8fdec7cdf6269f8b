"""The arithmetic of a run: float32, or products in bfloat16, whichever is faster on this machine.

Processors without bfloat16 instructions emulate them at a fraction of the float32 speed, so the
choice is measured. A resumed run keeps its precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    path = Path(folder) / "checkpoint.pt"
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    return str(state.get("precision", "bfloat16"))


class Muon(torch.optim.Muon):
    """Muon with a configurable dtype of the orthogonalization.

    torch's version always uses bfloat16 (the method: arXiv 2502.16982). With that ``dtype`` this
    one gives the same bits. The state is that of torch's.
    """

    def __init__(
        self, params: Sequence[Tensor], lr: float, weight_decay: float, dtype: torch.dtype
    ):
        super().__init__(list(params), lr=lr, momentum=0.95, weight_decay=weight_decay)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates all parameters that have a gradient. Raises ValueError for a ``closure``."""
        if closure is not None:
            raise ValueError("Muon: expected no closure, got one")
        if self.dtype == torch.bfloat16:
            super().step()
            return None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                buffer = state["momentum_buffer"]
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
                update = orthogonal(
                    update.to(self.dtype), group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                p.mul_(1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.add_(update, alpha=-rate)
        return None


def orthogonal(
    x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """The nearest matrix [m, n] whose singular values are about 1, by Newton-Schulz iterations."""
    a, b, c = coefficients
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if x.shape[0] > x.shape[1] else wide
