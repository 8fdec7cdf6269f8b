"""Causal attention over the few slots of a frame, for all frames in one kernel.

Sequences of K <= 32 are too short for a tile of their own. A tile holds the slots of as many whole
frames as fit, and a block-diagonal mask keeps frames apart: the masked products cost nothing beside
the memory traffic, which is one read of q, k and v and one write. The backward pass recomputes the
probabilities, so that nothing but q, k and v is kept. Tensors stay [N, K, heads, d], as the
projections write and read them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import FLOAT32_PRODUCTS, block, configs

_CONFIGS = configs(
    [
        triton.Config({"ROWS": 32}, num_warps=2),
        triton.Config({"ROWS": 64}, num_warps=4),
        triton.Config({"ROWS": 128}, num_warps=8),
    ],
    {"ROWS": 32},
)


@triton.jit
def _probabilities(q, k, scale, K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr):
    """Softmax over the earlier slots of the own frame; rows beyond the last frame see themselves."""
    r = tl.arange(0, ROWS)
    seen = (r[:, None] // K == r[None, :] // K) & (r[None, :] <= r[:, None])
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    s = tl.where(seen, s, float("-inf"))
    p = tl.exp(s - tl.max(s, 1)[:, None])
    return p / tl.sum(p, 1)[:, None]


@triton.autotune(configs=_CONFIGS, key=["K", "GROUP", "D"])
@triton.jit
def _forward(
    q,
    k,
    v,
    out,
    n,
    scale,
    HEADS,
    GROUP,
    D,
    K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
):
    r, d = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    rows = tl.program_id(0).to(tl.int64) * (ROWS // K * K) + r
    inside = ((r < ROWS // K * K) & (rows < n * K))[:, None] & (d < D)[None, :]
    kv_head = tl.program_id(1)
    at = (rows * (HEADS // GROUP) + kv_head)[:, None] * D + d[None, :]
    keys = tl.load(k + at, mask=inside, other=0.0)
    values = tl.load(v + at, mask=inside, other=0.0)
    for g in range(GROUP):
        at = (rows * HEADS + kv_head * GROUP + g)[:, None] * D + d[None, :]
        queries = tl.load(q + at, mask=inside, other=0.0)
        p = _probabilities(queries, keys, scale, K, ROWS, PRECISION)
        o = tl.dot(p.to(values.dtype), values, input_precision=PRECISION)
        tl.store(out + at, o.to(out.dtype.element_ty), mask=inside)


# 128 rows of float32 need more shared memory than a multiprocessor has
@triton.autotune(configs=_CONFIGS[:2], key=["K", "GROUP", "D"])
@triton.jit
def _backward(
    grad,
    q,
    k,
    v,
    dq,
    dk,
    dv,
    n,
    scale,
    HEADS,
    GROUP,
    D,
    K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
):
    r, d = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    rows = tl.program_id(0).to(tl.int64) * (ROWS // K * K) + r
    inside = ((r < ROWS // K * K) & (rows < n * K))[:, None] & (d < D)[None, :]
    kv_head = tl.program_id(1)
    kv_at = (rows * (HEADS // GROUP) + kv_head)[:, None] * D + d[None, :]
    keys = tl.load(k + kv_at, mask=inside, other=0.0)
    values = tl.load(v + kv_at, mask=inside, other=0.0)
    key_gradient = tl.zeros([ROWS, BLOCK_D], tl.float32)
    value_gradient = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for g in range(GROUP):
        at = (rows * HEADS + kv_head * GROUP + g)[:, None] * D + d[None, :]
        queries = tl.load(q + at, mask=inside, other=0.0)
        above = tl.load(grad + at, mask=inside, other=0.0)
        p = _probabilities(queries, keys, scale, K, ROWS, PRECISION)
        dp = tl.dot(above, tl.trans(values), input_precision=PRECISION)
        ds = (p * (dp - tl.sum(p * dp, 1)[:, None]) * scale).to(keys.dtype)
        value_gradient += tl.dot(tl.trans(p.to(above.dtype)), above, input_precision=PRECISION)
        key_gradient += tl.dot(tl.trans(ds), queries, input_precision=PRECISION)
        query_gradient = tl.dot(ds, keys, input_precision=PRECISION)
        tl.store(dq + at, query_gradient.to(dq.dtype.element_ty), mask=inside)
    tl.store(dk + kv_at, key_gradient.to(dk.dtype.element_ty), mask=inside)
    tl.store(dv + kv_at, value_gradient.to(dv.dtype.element_ty), mask=inside)


def _launch(kernel, q: Tensor, k: Tensor, *tensors: Tensor) -> None:
    n, slots, heads, d = q.shape
    kv_heads = k.shape[2]
    if q.numel() == 0:
        return
    kernel[lambda meta: (triton.cdiv(n, meta["ROWS"] // slots), kv_heads)](
        *tensors,
        n,
        d**-0.5,
        heads,
        heads // kv_heads,
        d,
        K=slots,
        BLOCK_D=block(d),
        PRECISION=FLOAT32_PRODUCTS,
    )


@torch.library.custom_op("uniaudio::slot_attention", mutates_args=())
def slot_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [N, K, heads, d], k and v [N, K, kv_heads, d] -> [N, K, heads, d]; see ``plain``."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    _launch(_forward, q, k, q, k, v, out)
    return out


@slot_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("uniaudio::slot_attention_backward", mutates_args=())
def slot_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad, q, k, v = grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    _launch(_backward, q, k, grad, q, k, v, dq, dk, dv)
    return dq, dk, dv


@slot_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad):
    return slot_attention_backward(grad, *ctx.saved_tensors)


slot_attention.register_autograd(_gradients, setup_context=_keep)
