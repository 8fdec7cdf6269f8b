"""The language model as single-step graphs with explicit state: the modules that the exporter
traces.

n steps per call, C cache capacity, K codebooks, V vocabulary, D width, S aligned slots, B rows of
the local stack.

Caches are ordered by time, ``[C, kv_heads, head_dim]`` per layer: the first rows of a larger buffer
are a smaller cache. A caller can bind only the used part of a buffer, and the same memory for input
and output. Unwritten rows are masked, but must be finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.lm import (
    Attention,
    Block,
    MultiScaleLM,
    Stack,
    apply_rope,
    mapped,
    rope_tables,
    visible,
)


def attend_cache(
    attn: Attention,
    x: Tensor,
    positions: Tensor,
    rope: tuple[Tensor, Tensor] | None,
    keys: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, D] at ``positions`` [n] -> (attended [n, D], keys, values), with the new rows in the
    caches.
    """
    n, (h, kv, dim) = x.shape[0], (attn.heads, attn.kv_heads, attn.head_dim)
    q, k, v = attn.project(x)
    if rope is not None:
        tables = rope[0][:, None], rope[1][:, None]
        q, k = apply_rope(q, *tables), apply_rope(k, *tables)
    keys, values = keys.index_put((positions,), k), values.index_put((positions,), v)
    there = visible(positions, torch.arange(keys.shape[0]), attn.window)  # [n, C]
    q = q.view(n, kv, h // kv, dim).permute(1, 2, 0, 3)  # [kv, group, n, dim]
    scores = (q @ keys.permute(1, 2, 0)[:, None]).float() * dim**-0.5
    p = scores.masked_fill(~there, -torch.inf).softmax(-1).to(values.dtype)
    y = (p @ values.permute(1, 0, 2)[:, None]).permute(2, 0, 1, 3).reshape(n, h * dim)
    return attn.o(y), keys, values


def run_block(
    block: Block,
    x: Tensor,
    positions: Tensor,
    rope: tuple[Tensor, Tensor] | None,
    keys: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    y, keys, values = attend_cache(block.attn, block.attn_norm(x), positions, rope, keys, values)
    x = x + y
    return x + block.mlp(block.mlp_norm(x)), keys, values


class GlobalSteps(nn.Module):
    """n steps of the global stack.

    Inputs:

    - ``previous`` int64 [n, K]: the frame before each step (start ids before the first)
    - ``position`` int64 [1] of the first step
    - ``aligned`` int64 [n, S], -1 for none (models with aligned rows)
    - for each continuous input ``continuous_NAME`` float [n, width] and ``is_NAME`` bool [n], which
      selects the steps where it replaces ``previous``
    - ``keys_i``, ``values_i`` of each layer

    Outputs: ``hidden`` float [n, D], normalised; the caches.
    """

    cos: Tensor  # with rope: [frames, head_dim / 2]
    sin: Tensor

    def __init__(self, lm: MultiScaleLM) -> None:
        super().__init__()
        self.config = lm.config
        # Not the model itself: "global" is a keyword, which traced code cannot use as a name.
        self.stack, self.aligned, self.continuous = lm.global_, lm.guide, lm.continuous
        c = lm.config.global_
        if c.positions == "rope":
            cos, sin = rope_tables(torch.arange(lm.config.max_frames), c)
            self.register_buffer("cos", cos)
            self.register_buffer("sin", sin)

    def forward(
        self, previous: Tensor, position: Tensor, beside: list[Tensor], caches: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """``beside``: the aligned rows and the continuous inputs that the model has."""
        stack = self.stack
        e = stack.embed(previous)
        x = e.flatten(-2) if self.config.embedding == "concat" else e.sum(-2)
        given = iter(beside)
        aligned = next(given) if self.aligned is not None else None
        for name in self.config.continuous:
            values, here = next(given), next(given)
            x = torch.where(here[:, None], self.continuous[name](values.to(x.dtype)), x)
        if self.aligned is not None and aligned is not None:
            x = x + (
                self.aligned(aligned.clamp(min=0)) * (aligned >= 0)[..., None].to(x.dtype)
            ).sum(1)
        positions = position + torch.arange(previous.shape[0])
        rope = None
        if stack.positions is not None:
            x = x + stack.positions(positions)
        else:
            rope = self.cos[positions], self.sin[positions]
        out = []
        for i, layer in enumerate(stack.blocks()):
            x, keys, values = run_block(layer, x, positions, rope, caches[2 * i], caches[2 * i + 1])
            out += [keys, values]
        return (stack.norm(x).float(), *out)


class LocalStep(nn.Module):
    """One code of the frame, for B rows at once.

    Inputs: ``hidden`` float [B, D]; ``code`` int64 [B], the id of the previous slot (any at slot
    0);
    ``slot`` int64 [1]; ``keys_i``, ``values_i`` [B, K, kv_heads, head_dim] of each layer.
    Outputs: ``logits`` float [B, V]; the caches.
    """

    cos: Tensor  # with rope: [slots, head_dim / 2]
    sin: Tensor

    def __init__(self, lm: MultiScaleLM) -> None:
        super().__init__()
        self.config = lm.config
        self.stack, self.bridge, self.head = lm.local, lm.bridge, lm.head
        self.global_head = lm.global_head  # registered: it is traced with the rest
        self.first_logits = lm.first_logits if lm.global_head is not None else None
        self.embed_slots, self.head_logits = lm.embed_slots, lm.head_logits
        c = lm.config.local
        if c.positions == "rope":
            cos, sin = rope_tables(torch.arange(lm.config.local_slots), c)
            self.register_buffer("cos", cos)
            self.register_buffer("sin", sin)

    def begin(self, hidden: Tensor, code: Tensor, slot: Tensor) -> Tensor:
        """The input of the slot, [B, local width]."""
        c, embed = self.config, self.embed_slots
        hidden = hidden.to(self.bridge.weight.dtype)
        first = slot == 0
        if c.conditioning == "project":
            before = embed(torch.where(first, c.local_start_id, code))
            return before + mapped(self.bridge, hidden, self.position(slot))
        if c.conditioning == "add":
            slices = hidden.view(hidden.shape[0], c.num_codebooks, -1)
            return embed(torch.where(first, c.local_start_id, code)) + self.bridge(
                slices.index_select(1, slot)[:, 0]
            )
        return torch.where(first[:, None], self.bridge(hidden), embed(code))

    def position(self, slot: Tensor) -> Tensor:
        """Of a slot in the stack. What slot 0 puts at the first one, where it does not pass through
        the stack, slot 1 replaces.
        """
        return (slot - self.config.first_local).clamp(min=0) if self.config.first_local else slot

    def step(
        self, hidden: Tensor, code: Tensor, slot: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        stack: Stack = self.stack
        x = self.begin(hidden, code, slot)
        at = self.position(slot)
        rope = None
        if stack.positions is not None:
            x = x + stack.positions(at)
        else:
            rope = self.cos[at], self.sin[at]
        out = []
        for i, block in enumerate(stack.blocks()):
            y, keys, values = self.attend(
                block.attn, block.attn_norm(x), at, rope, caches[2 * i], caches[2 * i + 1]
            )
            x = x + y
            x = x + block.mlp(block.mlp_norm(x), at)
            out += [keys, values]
        logits = self.head_logits(stack.norm(x))
        if self.first_logits is not None:
            logits = torch.where(
                slot[:, None] == 0, self.first_logits(hidden.to(logits.dtype)), logits
            )
        return logits.float(), out

    def attend(
        self, attn: Attention, x: Tensor, slot: Tensor, rope: Any, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, width] at ``slot`` over caches [B, K, kv_heads, head_dim]."""
        b, (h, kv, dim) = x.shape[0], (attn.heads, attn.kv_heads, attn.head_dim)
        q, k, v = attn.project(x, slot)
        if rope is not None:
            q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        slots = torch.arange(keys.shape[1])
        here = (slots == slot)[None, :, None, None]
        keys, values = torch.where(here, k[:, None], keys), torch.where(here, v[:, None], values)
        q = q.view(b, kv, h // kv, dim)
        scores = (q @ keys.permute(0, 2, 3, 1)).float() * dim**-0.5  # [B, kv, group, K]
        there = visible(slot, slots, attn.window)  # [1, K]
        p = scores.masked_fill(~there, -torch.inf).softmax(-1).to(values.dtype)
        y = (p @ values.permute(0, 2, 1, 3)).reshape(b, h * dim)
        return mapped(attn.o, y, slot), keys, values

    def forward(
        self, hidden: Tensor, code: Tensor, slot: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, ...]:
        logits, out = self.step(hidden, code, slot, caches)
        return (logits, *out)


class LocalFrame(nn.Module):
    """All K codes of a frame, sampled inside the graph by the rules of csrc/sampling.cc, without
    its repetition guard and guidance.

    Inputs: ``hidden`` float [1, D]; ``uniform`` double [K] in [0, 1), the noise; ``temperature``
    float [1]; ``top_k`` int64 [1] (0: all, 1: greedy); ``top_p`` double [1]; ``allowed`` bool [K,
    V], the ids permitted in each slot. Output: ``codes`` int64 [K].
    """

    def __init__(self, lm: MultiScaleLM) -> None:
        super().__init__()
        self.local = LocalStep(lm)

    def forward(
        self,
        hidden: Tensor,
        uniform: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        allowed: Tensor,
    ) -> Tensor:
        c = self.local.config
        s = c.local
        zero = hidden.new_zeros(1, c.num_codebooks, s.num_kv_heads, s.head_dim).to(
            self.local.bridge.weight.dtype
        )
        caches = [zero] * (2 * s.layers)
        code = torch.zeros(1, dtype=torch.int64)
        codes = []
        for k in range(c.num_codebooks):
            slot = torch.full((1,), k, dtype=torch.int64)
            logits, caches = self.local.step(hidden, code, slot, caches)
            code = draw(logits[0], allowed[k], uniform[k], temperature, top_k, top_p)
            codes.append(code)
        return torch.cat(codes)


def draw(
    logits: Tensor,
    allowed: Tensor,
    uniform: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
) -> Tensor:
    """Samples an id [1] from logits [V].

    Keeps the ``top_k`` largest (ties: lowest id first), then the most likely of these until their
    sum reaches ``top_p``. The id is the one whose share of the cumulative sum, in the order of ids,
    contains ``uniform``.
    """
    v = logits.shape[0]
    x = torch.where(allowed, logits / temperature, -torch.inf)
    top, order = x.topk(v)
    mass = torch.where(top > -torch.inf, (top - top[:1]).exp(), 0.0).double()
    rank = torch.arange(v)
    mass = torch.where((rank < top_k) | (top_k == 0), mass, 0.0)
    before = mass.cumsum(0) - mass
    mass = torch.where((before < top_p * mass.sum()) | (rank == 0), mass, 0.0)
    by_id = torch.zeros(v, dtype=torch.float64).scatter(0, order, mass)
    upto = by_id.cumsum(0)
    mark = uniform * upto[-1]
    # Below the sum even after rounding. An id without mass is never the first whose cumulative sum
    # exceeds the threshold.
    last = torch.where(by_id > 0, torch.arange(v), 0).max()
    return torch.minimum((upto <= mark).sum(), last)[None]
