"""Residual addition and the norm that follows it, in one pass over memory.

RMSNorm without a bias, LayerNorm with one; statistics and gradients in float32. The gradients of
weight and bias are summed by a fixed number of programs and then over these, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .plain import norm_dtype
from .tuning import INTERPRETED

_TILE = 4096  # elements of a program's tile, in whole rows
_PROGRAMS = 2 if INTERPRETED else 512  # of the backward pass: a few per multiprocessor


@triton.jit
def _forward(
    x,
    branch,
    weight,
    bias,
    total,
    y,
    means,
    scales,
    n,
    D,
    eps,
    HAS_BRANCH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    there, wide = rows < n, d < D
    inside = there[:, None] & wide[None, :]
    at = rows[:, None] * D + d[None, :]
    h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BRANCH:
        h += tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
        # what the norm sees is what is stored
        h = h.to(total.dtype.element_ty)
        tl.store(total + at, h, mask=inside)
        h = h.to(tl.float32)
    if HAS_BIAS:
        mean = tl.sum(h, 1) / D
        h = tl.where(inside, h - mean[:, None], 0.0)
        tl.store(means + rows, mean, mask=there)
    scale = tl.rsqrt(tl.sum(h * h, 1) / D + eps)
    tl.store(scales + rows, scale, mask=there)
    out = h * scale[:, None] * tl.load(weight + d, mask=wide, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        out += tl.load(bias + d, mask=wide, other=0.0).to(tl.float32)[None, :]
    tl.store(y + at, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad_y,
    grad_total,
    total,
    weight,
    means,
    scales,
    grad_x,
    grad_weight,
    grad_bias,
    n,
    D,
    HAS_BRANCH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = tl.arange(0, BLOCK_D)
    wide = d < D
    w = tl.load(weight + d, mask=wide, other=0.0).to(tl.float32)[None, :]
    sum_weight = tl.zeros([BLOCK_D], tl.float32)
    sum_bias = tl.zeros([BLOCK_D], tl.float32)
    for begin in range(tl.program_id(0) * ROWS, n, tl.num_programs(0) * ROWS):
        rows = begin + tl.arange(0, ROWS).to(tl.int64)
        there = rows < n
        inside = there[:, None] & wide[None, :]
        at = rows[:, None] * D + d[None, :]
        g = tl.load(grad_y + at, mask=inside, other=0.0).to(tl.float32)
        h = tl.load(total + at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scales + rows, mask=there, other=0.0)[:, None]
        if HAS_BIAS:
            h -= tl.load(means + rows, mask=there, other=0.0)[:, None]
        hat = tl.where(inside, h * scale, 0.0)
        sum_weight += tl.sum(g * hat, 0)
        sum_bias += tl.sum(g, 0)
        g *= w
        out = g - hat * (tl.sum(g * hat, 1) / D)[:, None]
        if HAS_BIAS:
            out -= (tl.sum(g, 1) / D)[:, None]
        out *= scale
        if HAS_BRANCH:
            out += tl.load(grad_total + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_x + at, out.to(grad_x.dtype.element_ty), mask=inside)
    at = tl.program_id(0) * D + d
    tl.store(grad_weight + at, sum_weight, mask=wide)
    if HAS_BIAS:
        tl.store(grad_bias + at, sum_bias, mask=wide)


def _tile(width: int) -> dict[str, int]:
    columns = triton.next_power_of_2(width)
    rows = 2 if INTERPRETED else max(1, _TILE // columns)
    return {"ROWS": rows, "BLOCK_D": columns, "num_warps": 4 if columns <= _TILE else 8}


@torch.library.custom_op("uniaudio::add_norm", mutates_args=())
def _add_norm(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(sum, or nothing without a branch; norm; means [N] of a LayerNorm; scales [N])."""
    shape, width = x.shape, x.shape[-1]
    x = x.contiguous()
    n = x.numel() // width
    total = _sum_like(x, branch)
    y = torch.empty(shape, dtype=dtype, device=x.device)
    means, scales = (torch.empty(n, dtype=torch.float32, device=x.device) for _ in range(2))
    tile = _tile(width)
    if n:
        _forward[(triton.cdiv(n, tile["ROWS"]),)](
            x,
            x if branch is None else branch.contiguous(),
            weight,
            weight if bias is None else bias,
            total,
            y,
            means,
            scales,
            n,
            width,
            eps,
            HAS_BRANCH=branch is not None,
            HAS_BIAS=bias is not None,
            **tile,
        )
    return total, y, means, scales


def _sum_like(x: Tensor, branch: Tensor | None) -> Tensor:
    if branch is None:
        return x.new_empty(0)
    return x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, branch.dtype))


@_add_norm.register_fake
def _(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)
    y = x.new_empty(x.shape, dtype=dtype)
    return _sum_like(x, branch), y, rows, torch.empty_like(rows)


@torch.library.custom_op("uniaudio::add_norm_backward", mutates_args=())
def _add_norm_backward(
    grad_y: Tensor,
    grad_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    means: Tensor,
    scales: Tensor,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    width = total.shape[-1]
    n = total.numel() // width
    tile = _tile(width)
    programs = max(1, min(_PROGRAMS, triton.cdiv(n, tile["ROWS"])))
    grad_x = torch.empty_like(total)
    grad_weight = torch.zeros(programs, width, dtype=torch.float32, device=total.device)
    grad_bias = torch.zeros_like(grad_weight) if centred else grad_weight.new_zeros(1, 0)
    if n:
        _backward[(programs,)](
            grad_y.contiguous(),
            total if grad_total is None else grad_total.contiguous(),
            total,
            weight,
            means,
            scales,
            grad_x,
            grad_weight,
            grad_bias,
            n,
            width,
            HAS_BRANCH=grad_total is not None,
            HAS_BIAS=centred,
            **tile,
        )
    return grad_x, grad_weight.sum(0), grad_bias.sum(0)


@_add_norm_backward.register_fake
def _(
    grad_y: Tensor,
    grad_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    means: Tensor,
    scales: Tensor,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    width = total.shape[-1]
    rows = total.new_empty(width, dtype=torch.float32)
    bias = total.new_empty(width if centred else 0, dtype=torch.float32)
    return torch.empty_like(total), rows, bias


def _keep(ctx, inputs, output):
    x, branch, weight, bias, _, _ = inputs
    total, _, means, scales = output
    ctx.save_for_backward(x if branch is None else total, weight, means, scales)
    ctx.branch = None if branch is None else branch.dtype
    ctx.x, ctx.weight = x.dtype, weight.dtype
    ctx.bias = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(means, scales)


def _gradients(ctx, grad_total, grad_y, *_):
    total, weight, means, scales = ctx.saved_tensors
    grad, grad_weight, grad_bias = _add_norm_backward(
        grad_y,
        None if ctx.branch is None else grad_total,
        total.contiguous(),
        weight,
        means,
        scales,
        ctx.bias is not None,
    )
    return (
        grad.to(ctx.x),
        None if ctx.branch is None else grad.to(ctx.branch),
        grad_weight.to(ctx.weight),
        None if ctx.bias is None else grad_bias.to(ctx.bias),
        None,
        None,
    )


_add_norm.register_autograd(_gradients, setup_context=_keep)


def add_norm(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """As ``plain.add_norm``."""
    total, y, _, _ = _add_norm(x, branch, weight, bias, eps, norm_dtype(x))
    return (x if branch is None else total), y
