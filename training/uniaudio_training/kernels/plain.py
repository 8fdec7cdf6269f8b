"""The plain torch versions of the kernels: what a CPU runs, and what the kernels must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Quantized(NamedTuple):
    """A residual vector quantization of N vectors of width E by K stages of C codewords.

    ``value`` and ``first`` [N, E]: the sum of all codewords and the one of the first stage, with
    straight-through gradients. ``codes`` [K, N]. ``commitment`` []: mean squared distance to the
    codewords, averaged over stages, with gradients. ``counts`` [K, C]: how often each was chosen.
    """

    value: Tensor
    first: Tensor
    codes: Tensor
    commitment: Tensor
    counts: Tensor


def nearest(x: Tensor, codewords: Tensor) -> Tensor:
    """x [N, E], codewords [C, E] -> indices [N]: arg-max of -(x^2 - 2 x.e + e^2)."""
    score = -(x.square().sum(1, keepdim=True) - 2 * x @ codewords.T + codewords.square().sum(1))
    return score.argmax(1)


def residual_vq(x: Tensor, codebooks: Tensor) -> Quantized:
    residual, total = x.detach(), torch.zeros_like(x)
    first, commit = total, x.new_zeros(())
    codes, counts = [], []
    for k, codewords in enumerate(codebooks):
        index = nearest(residual, codewords)
        word = codewords[index].detach()
        commit = commit + F.mse_loss(x - total, word)
        residual, total = residual - word, total + word
        codes.append(index)
        counts.append(torch.bincount(index, minlength=codewords.shape[0]))
        first = first if k else total
    return Quantized(
        x + (total - x).detach(),
        x + (first - x).detach(),
        torch.stack(codes),
        commit / codebooks.shape[0],
        torch.stack(counts),
    )


def codebook_losses(
    y: Tensor,
    weight: Tensor,
    ranges: Sequence[tuple[int, int]],
    extra: int | None,
    target: Tensor,
) -> Tensor:
    each = []
    for k, (start, size) in enumerate(ranges):
        rows = weight[start : start + size]
        if extra is not None:
            rows = torch.cat((rows, weight[extra : extra + 1]))
        each.append(F.cross_entropy(F.linear(y[:, k], rows).float(), target[:, k]))
    return torch.stack(each)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention with softmax in float32.

    q [B, heads, L, d], k and v [B, kv_heads, S, d], mask [L, S], True where a query may attend ->
    [B, heads, L, d].
    """
    gqa = q.shape[1] != k.shape[1]
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=gqa)
    # Plain products: for sequences as short as the slots of a frame, or a few hundred frames, twice
    # as fast on a CPU as the fused kernel.
    if gqa:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
    # the kernel of softmax computes in float32 whatever it reads: copies would only cost time
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).add_(bias).softmax(-1) @ v


def slot_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    slots = q.shape[1]
    causal = torch.ones(slots, slots, dtype=torch.bool, device=q.device).tril()
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return attend(q, k, v, causal).transpose(1, 2)


def add_norm(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    if branch is not None:
        x = x + branch
    y = x.float()
    if bias is not None:
        y = F.layer_norm(y, y.shape[-1:], weight, bias, eps)
    else:
        y = F.rms_norm(y, y.shape[-1:], weight, eps)
    # under autocast one copy for the several products that read it
    return x, y.to(norm_dtype(x))


def norm_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a norm's result: autocast's under autocast, else that of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
