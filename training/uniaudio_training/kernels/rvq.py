"""Nearest codewords over all stages of a residual vector quantizer, in one kernel.

A program keeps the residuals of a block of vectors in registers from the first stage to the last.
Codebooks stream through shared memory; distances [N, C] are never written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .plain import Quantized
from .tuning import FLOAT32_PRODUCTS, block, configs

_CONFIGS = configs(
    [
        triton.Config({"BLOCK_N": 64, "BLOCK_C": 64}, num_warps=4, num_stages=2),
        triton.Config({"BLOCK_N": 64, "BLOCK_C": 32}, num_warps=4, num_stages=2),
        triton.Config({"BLOCK_N": 128, "BLOCK_C": 32}, num_warps=8, num_stages=2),
    ],
    {"BLOCK_N": 16, "BLOCK_C": 16},
)


@triton.autotune(configs=_CONFIGS, key=["K", "C", "E"], reset_to_zero=["counts"])
@triton.jit
def _residual_codes(
    x,
    codebooks,
    norms,
    codes,
    value,
    first,
    behind,
    squares,
    counts,
    n,
    K,
    C,
    E,
    BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    e = tl.arange(0, BLOCK_E)
    there = rows < n
    inside = there[:, None] & (e < E)[None, :]
    at = rows[:, None] * E + e[None, :]
    residual = tl.load(x + at, mask=inside, other=0.0)
    total = tl.zeros_like(residual)
    passed = tl.zeros_like(residual)  # the sum of all residuals: the commitment's gradient
    square = tl.zeros([BLOCK_N], tl.float32)
    for k in range(K):
        best = tl.full([BLOCK_N], float("-inf"), tl.float32)
        index = tl.zeros([BLOCK_N], tl.int32)
        for begin in range(0, C, BLOCK_C):
            c = begin + tl.arange(0, BLOCK_C)
            words = tl.load(
                codebooks + (k * C + c)[None, :] * E + e[:, None],
                mask=(c < C)[None, :] & (e < E)[:, None],
                other=0.0,
            )
            norm = tl.load(norms + k * C + c, mask=c < C, other=float("inf"))
            score = 2.0 * tl.dot(residual, words, input_precision=PRECISION) - norm[None, :]
            top, column = tl.max(score, 1, return_indices=True, return_indices_tie_break_left=True)
            better = top > best  # the lowest index on ties
            index = tl.where(better, begin + column, index)
            best = tl.where(better, top, best)
        chosen = tl.load(
            codebooks + (k * C + index)[:, None] * E + e[None, :], mask=inside, other=0.0
        )
        residual -= chosen
        total += chosen
        passed += residual
        square += tl.sum(residual * residual, 1)
        tl.store(codes + k * n + rows, index.to(tl.int64), mask=there)
        tl.atomic_add(counts + k * C + index, 1, mask=there)
        tl.store(first + at, total, mask=inside & (k == 0))
    tl.store(value + at, total, mask=inside)
    tl.store(behind + at, passed, mask=inside)
    tl.store(squares + rows, square, mask=there)


@torch.library.custom_op("uniaudio::residual_codes", mutates_args=())
def residual_codes(
    x: Tensor, codebooks: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(value, first, squares [N], codes [K, N], counts [K, C], sum of residuals [N, E])."""
    n, e = x.shape
    stages, size, _ = codebooks.shape
    x, codebooks = x.contiguous(), codebooks.contiguous()
    value, first, behind = (torch.empty_like(x) for _ in range(3))
    squares = x.new_empty(n)
    codes = torch.empty(stages, n, dtype=torch.int64, device=x.device)
    counts = torch.zeros(stages, size, dtype=torch.int32, device=x.device)
    if n:
        _residual_codes[lambda meta: (triton.cdiv(n, meta["BLOCK_N"]),)](
            x,
            codebooks,
            codebooks.square().sum(-1),
            codes,
            value,
            first,
            behind,
            squares,
            counts,
            n,
            stages,
            size,
            e,
            BLOCK_E=block(e),
            PRECISION=FLOAT32_PRODUCTS,
        )
    return value, first, squares, codes, counts, behind


@residual_codes.register_fake
def _(x: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    n = x.shape[0]
    stages, size, _ = codebooks.shape
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(x, memory_format=torch.contiguous_format),
        x.new_empty(n),
        x.new_empty(stages, n, dtype=torch.int64),
        x.new_empty(stages, size, dtype=torch.int32),
        torch.empty_like(x, memory_format=torch.contiguous_format),
    )


def _keep(ctx, inputs, output):
    ctx.save_for_backward(output[5])
    ctx.mark_non_differentiable(output[3], output[4], output[5])


def _straight_through(ctx, value, first, squares, codes, counts, behind):
    (passed,) = ctx.saved_tensors
    return value + first + 2 * squares[:, None] * passed, None


residual_codes.register_autograd(_straight_through, setup_context=_keep)


def residual_vq(x: Tensor, codebooks: Tensor) -> Quantized:
    """As ``plain.residual_vq``; ``value`` is the exact sum of the codewords."""
    if x.dtype != torch.float32 or codebooks.dtype != torch.float32:
        raise ValueError(
            f"residual_vq: expected float32, got {x.dtype} and {codebooks.dtype}; codes of a lower "
            "precision are other codes"
        )
    value, first, squares, codes, counts, _ = residual_codes(x, codebooks.detach())
    commitment = squares.sum() / (x.numel() * codebooks.shape[0])
    return Quantized(value, first, codes, commitment, counts.long())
