"""Cross-entropy of each slot over its own rows of the output head, without materialised logits.

The forward pass keeps a tile of logits in registers and writes one log-sum-exp per slot. The
backward pass recomputes the tiles and writes the gradient of the logits for a bounded number of
frames at a time, in the dtype of the hidden states; two plain matrix products, which cuBLAS does at
full speed, consume it. Nothing is summed by atomics, so that a step is reproducible.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import FLOAT32_PRODUCTS, INTERPRETED, configs

# Gradients of logits held at a time, in elements: 64 MiB in bfloat16.
_CHUNK = 1024 if INTERPRETED else 1 << 25

_CONFIGS = configs(
    [
        triton.Config({"BLOCK_N": 128, "BLOCK_C": 128, "BLOCK_D": 64}, num_warps=8, num_stages=3),
        triton.Config({"BLOCK_N": 64, "BLOCK_C": 128, "BLOCK_D": 64}, num_warps=4, num_stages=4),
        triton.Config({"BLOCK_N": 64, "BLOCK_C": 128, "BLOCK_D": 32}, num_warps=4, num_stages=3),
    ],
    {"BLOCK_N": 16, "BLOCK_C": 16, "BLOCK_D": 16},
)


@triton.jit
def _logits(
    y,
    weight,
    rows,
    there,
    stride,
    begin,
    start,
    size,
    extra,
    columns,
    D,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile [BLOCK_N, BLOCK_C] of logits from column ``begin`` on; -inf beyond ``columns``."""
    c = begin + tl.arange(0, BLOCK_C)
    ids = tl.where(c < size, start + c, extra).to(tl.int64)
    tile = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        a = tl.load(
            y + rows[:, None] * stride + d[None, :],
            mask=there[:, None] & (d < D)[None, :],
            other=0.0,
        )
        b = tl.load(
            weight + ids[None, :] * D + d[:, None],
            mask=(c < columns)[None, :] & (d < D)[:, None],
            other=0.0,
        )
        tile = tl.dot(a, b, tile, input_precision=PRECISION)
    return tl.where((c < columns)[None, :], tile, float("-inf"))


@triton.autotune(configs=_CONFIGS, key=["D", "K"])
@triton.jit
def _forward(
    y,
    weight,
    starts,
    sizes,
    extra,
    target,
    losses,
    normalisers,
    n,
    K,
    D,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1)
    there = rows < n
    start, size = tl.load(starts + k), tl.load(sizes + k)
    columns = size + (extra >= 0).to(tl.int32)
    wanted = tl.load(target + rows * K + k, mask=there, other=-1)
    top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_N], tl.float32)
    picked = tl.zeros([BLOCK_N], tl.float32)
    for begin in range(0, columns, BLOCK_C):
        tile = _logits(
            y + k * D,
            weight,
            rows,
            there,
            K * D,
            begin,
            start,
            size,
            extra,
            columns,
            D,
            BLOCK_N,
            BLOCK_C,
            BLOCK_D,
            PRECISION,
        )
        higher = tl.maximum(top, tl.max(tile, 1))
        mass = mass * tl.exp(top - higher) + tl.sum(tl.exp(tile - higher[:, None]), 1)
        top = higher
        c = begin + tl.arange(0, BLOCK_C)
        picked += tl.sum(tl.where(c[None, :] == wanted[:, None], tile, 0.0), 1)
    normaliser = top + tl.log(mass)
    at = k.to(tl.int64) * n + rows
    tl.store(normalisers + at, normaliser, mask=there)
    tl.store(losses + at, normaliser - picked, mask=there)


@triton.autotune(configs=_CONFIGS, key=["D", "K"])
@triton.jit
def _logit_gradients(
    y,
    weight,
    target,
    normalisers,
    grads,
    out,
    start,
    size,
    extra,
    columns,
    stride,
    n,
    K,
    D,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(softmax - one-hot) x gradient [n, columns], of one slot of n frames."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = rows < n
    begin = tl.program_id(1) * BLOCK_C
    tile = _logits(
        y,
        weight,
        rows,
        there,
        K * D,
        begin,
        start,
        size,
        extra,
        columns,
        D,
        BLOCK_N,
        BLOCK_C,
        BLOCK_D,
        PRECISION,
    )
    c = begin + tl.arange(0, BLOCK_C)
    wanted = tl.load(target + rows * K, mask=there, other=-1)
    normaliser = tl.load(normalisers + rows, mask=there, other=0.0)
    grad = tl.load(grads + rows, mask=there, other=0.0)
    p = tl.exp(tile - normaliser[:, None])
    p = tl.where(c[None, :] == wanted[:, None], p - 1.0, p) * grad[:, None]
    tl.store(
        out + rows[:, None] * stride + c[None, :],
        p.to(out.dtype.element_ty),
        mask=there[:, None] & (c < columns)[None, :],
    )


@torch.library.custom_op("uniaudio::codebook_cross_entropy", mutates_args=())
def _losses(
    y: Tensor, weight: Tensor, starts: list[int], sizes: list[int], extra: int, target: Tensor
) -> tuple[Tensor, Tensor]:
    """(losses [K, N], log-sum-exps [K, N]); ``extra`` is -1 for none."""
    n, slots, width = y.shape
    y, weight, target = y.contiguous(), weight.contiguous(), target.contiguous()
    losses = torch.empty(slots, n, dtype=torch.float32, device=y.device)
    normalisers = torch.empty_like(losses)
    if n:
        on_device = torch.tensor([starts, sizes], dtype=torch.int32, device=y.device)
        _forward[lambda meta: (triton.cdiv(n, meta["BLOCK_N"]), slots)](
            y,
            weight,
            on_device[0],
            on_device[1],
            extra,
            target,
            losses,
            normalisers,
            n,
            slots,
            width,
            PRECISION=FLOAT32_PRODUCTS,
        )
    return losses, normalisers


@_losses.register_fake
def _(
    y: Tensor, weight: Tensor, starts: list[int], sizes: list[int], extra: int, target: Tensor
) -> tuple[Tensor, Tensor]:
    losses = y.new_empty(y.shape[1], y.shape[0], dtype=torch.float32)
    return losses, torch.empty_like(losses)


@torch.library.custom_op("uniaudio::codebook_cross_entropy_backward", mutates_args=())
def _losses_backward(
    grads: Tensor,
    y: Tensor,
    weight: Tensor,
    starts: list[int],
    sizes: list[int],
    extra: int,
    target: Tensor,
    normalisers: Tensor,
) -> tuple[Tensor, Tensor]:
    n, slots, width = y.shape
    y, weight, target, grads = (t.contiguous() for t in (y, weight, target, grads))
    grad_y = torch.empty_like(y)
    grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=y.device)
    for k, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        columns = size + (extra >= 0)
        stride = -(-columns // 64) * 64  # aligned rows: cuBLAS needs them for its fast kernels
        rows = weight[start : start + size]
        for i in range(0, n, step := max(1, _CHUNK // stride)):
            count = min(step, n - i)
            out = torch.empty(count, stride, dtype=y.dtype, device=y.device)
            _logit_gradients[
                lambda meta, m=count, c=columns: (
                    triton.cdiv(m, meta["BLOCK_N"]),
                    triton.cdiv(c, meta["BLOCK_C"]),
                )
            ](
                y[i:, k],
                weight,
                target[i:, k],
                normalisers[k, i:],
                grads[k, i:],
                out,
                start,
                size,
                extra,
                columns,
                stride,
                count,
                slots,
                width,
                PRECISION=FLOAT32_PRODUCTS,
            )
            hidden, inner = y[i : i + count, k], out[:, :size]
            below = inner @ rows
            grad_weight[start : start + size] += inner.T @ hidden
            if extra >= 0:
                below += out[:, size : size + 1] * weight[extra]
                grad_weight[extra] += out[:, size] @ hidden
            grad_y[i : i + count, k] = below
    return grad_y, grad_weight.to(weight.dtype)


@_losses_backward.register_fake
def _(
    grads: Tensor,
    y: Tensor,
    weight: Tensor,
    starts: list[int],
    sizes: list[int],
    extra: int,
    target: Tensor,
    normalisers: Tensor,
) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), weight.new_empty(weight.shape)


def _keep(ctx, inputs, output):
    y, weight, ctx.starts, ctx.sizes, ctx.extra, target = inputs
    ctx.save_for_backward(y, weight, target, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx, grads, _):
    y, weight, target, normalisers = ctx.saved_tensors
    below = _losses_backward(
        grads, y, weight, ctx.starts, ctx.sizes, ctx.extra, target, normalisers
    )
    return *below, None, None, None, None


_losses.register_autograd(_gradients, setup_context=_keep)


def codebook_losses(
    y: Tensor,
    weight: Tensor,
    ranges: Sequence[tuple[int, int]],
    extra: int | None,
    target: Tensor,
) -> Tensor:
    """As ``plain.codebook_losses``; logits keep float32, also under autocast."""
    device = y.device.type
    if torch.is_autocast_enabled(device):
        y, weight = (t.to(torch.get_autocast_dtype(device)) for t in (y, weight))
    starts, sizes = ([r[i] for r in ranges] for i in (0, 1))
    losses, _ = _losses(y, weight, starts, sizes, -1 if extra is None else extra, target)
    return losses.mean(1)
