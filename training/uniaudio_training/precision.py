"""The arithmetic of a run: float32, or products in bfloat16, whichever this machine does faster.

Processors without bfloat16 instructions emulate them at a small fraction of the float32 speed, so
the choice is measured, not assumed. A resumed run keeps the precision that it began with.
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

MARGIN = 0.9  # bfloat16 must take at most this share of the time of float32: float32 is more exact


@dataclass(frozen=True)
class Arithmetic:
    """How a run computes on ``device``: ``dtype`` is float32 or bfloat16."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes: products in ``dtype``; weights stay in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@torch.no_grad()
def time_products(device: torch.device, repeats: int = 5) -> dict[torch.dtype, float]:
    """Seconds of a layer's products, forward and backward, as autocast computes them, by dtype.

    The best of ``repeats`` rounds of both; a first one, which chooses kernels, does not count. On a
    CPU it is the computing time of one thread, which other processes hardly change.
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
    """The arithmetic of a run in ``folder``; says in one line what it is, and why.

    ``wanted`` float32 or bfloat16 is taken as it is. ``auto`` is that of the run's checkpoint, or,
    for a new run, the faster one on ``device``.
    """
    if wanted != "auto":
        say(f"precision: {wanted}, as the settings say")
        return Arithmetic(device, getattr(torch, wanted))
    if (kept := checkpoint_precision(folder)) is not None:
        say(f"precision: {kept}, as in the checkpoint; --set precision=float32|bfloat16 changes it")
        return Arithmetic(device, getattr(torch, kept))
    float32, bfloat16 = time_products(device).values()
    dtype = torch.bfloat16 if bfloat16 < MARGIN * float32 else torch.float32
    say(
        f"precision: {name(dtype)}; a layer's products take {1e3 * float32:.2f} ms in float32 and "
        f"{1e3 * bfloat16:.2f} ms in bfloat16 on {device}"
    )
    return Arithmetic(device, dtype)


def name(dtype: torch.dtype) -> str:
    """ "float32" or "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def checkpoint_precision(folder: str | Path) -> str | None:
    """The precision of a run's checkpoint; None where there is no checkpoint.

    Checkpoints without the entry are older than the choice: they were trained in bfloat16.
    """
    path = Path(folder) / "checkpoint.pt"
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    return str(state.get("precision", "bfloat16"))


class Muon(torch.optim.Muon):
    """Muon whose orthogonalization runs in a dtype of choice.

    torch's computes it in bfloat16 always (arXiv 2502.16982 gives the method); so does this one
    where ``dtype`` says so, to the same bits. The state is torch's.
    """

    def __init__(
        self, params: Sequence[Tensor], lr: float, weight_decay: float, dtype: torch.dtype
    ):
        super().__init__(list(params), lr=lr, momentum=0.95, weight_decay=weight_decay)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all parameters that have a gradient; ``closure`` is not supported."""
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
    """The nearest matrix [m, n] with singular values of about 1, by Newton-Schulz iterations."""
    a, b, c = coefficients
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if x.shape[0] > x.shape[1] else wide
