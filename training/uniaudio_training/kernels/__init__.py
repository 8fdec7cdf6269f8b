"""Fused Triton kernels of the training hot spots, each beside the plain torch function it equals.

| function | module | what stays on chip |
|---|---|---|
| ``residual_vq`` | ``rvq`` | the residual, over all stages |
| ``codebook_losses`` | ``cross_entropy`` | the logits |
| ``slot_attention`` | ``attention`` | scores and probabilities, of many frames at a time |
| ``add_norm`` | ``norm`` | the sum, between the addition and the norm |

The functions here choose: ``auto`` takes Triton for CUDA tensors where it is installed, ``torch``
and ``triton`` force one. The plain versions in ``plain`` are what a CPU runs, and the truth of the
tests. On a CPU the kernels run in Triton's interpreter (``TRITON_INTERPRET=1``), for tests only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from . import plain

Kernels = Literal["auto", "torch", "triton"]

MAX_SLOTS = 32  # of slot_attention
MAX_DIM = 128  # of residual_vq: wider blocks of residuals and codewords do not fit on chip

_mode: Kernels = "auto"
# Not a function: compiled code, which chooses too, cannot look for a package.
_installed = importlib.util.find_spec("triton") is not None


def select(mode: Kernels) -> None:
    """Chooses the kernels of this process. Raises ValueError for ``triton`` where it is missing."""
    global _mode
    if mode == "triton" and not _installed:
        raise ValueError(
            "kernels: expected triton to be installed, found none; pip install triton, or set "
            "kernels=auto"
        )
    _mode = mode


def selected() -> Kernels:
    """The current choice."""
    return _mode


def fused(x: Tensor) -> bool:
    """Whether the Triton kernels compute on this tensor."""
    return _mode == "triton" or (_mode == "auto" and x.is_cuda and _installed)


def residual_vq(x: Tensor, codebooks: Tensor) -> plain.Quantized:
    """Nearest codewords of each stage's residual: x [N, E], codebooks [K, C, E], both float32."""
    if fused(x) and x.shape[1] <= MAX_DIM:
        from . import rvq

        return rvq.residual_vq(x, codebooks)
    return plain.residual_vq(x, codebooks)


def codebook_losses(
    y: Tensor,
    weight: Tensor,
    ranges: Sequence[tuple[int, int]],
    extra: int | None,
    target: Tensor,
) -> Tensor:
    """Mean cross-entropy of each slot over its own rows of the output head, in nats [K].

    y [N, K, D]; weight [V, D]; ``ranges``: the rows (start, size) of each slot; ``extra``: one more
    row of every slot, after the others; target [N, K]: columns, relative to ``start``.
    """
    if fused(y):
        from . import cross_entropy

        return cross_entropy.codebook_losses(y, weight, ranges, extra, target)
    return plain.codebook_losses(y, weight, ranges, extra, target)


def slot_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over the K slots of each of N frames.

    q [N, K, heads, d], k and v [N, K, kv_heads, d] -> [N, K, heads, d].
    """
    if fused(q) and q.shape[1] <= MAX_SLOTS:
        from . import attention

        return attention.slot_attention(q, k, v)
    return plain.slot_attention(q, k, v)


def add_norm(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """(x + branch, norm of that) of tensors [..., D], computed in float32.

    LayerNorm with a ``bias``, RMSNorm without. Under autocast the norm comes in autocast's dtype,
    else in that of the sum. In compiled code the plain version, which Inductor fuses further.
    """
    if fused(x) and not torch.compiler.is_compiling():
        from . import norm

        return norm.add_norm(x, branch, weight, bias, eps)
    return plain.add_norm(x, branch, weight, bias, eps)
