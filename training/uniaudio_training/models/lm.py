"""The multi-scale LM in torch: what the trainer trains, and the numerical reference for ``csrc/``.

B batch, T frames, K codebooks (slots per frame), D model width, V vocabulary, S aligned slots.
After UniAudio (arXiv 2310.00704) section 3.3 and MegaByte (arXiv 2305.07185). State-dict names are
the tensor names of the native model folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uniaudio_engine.storage.config import LMConfig, StackConfig
from uniaudio_engine.storage.delays import places

from .. import kernels
from ..kernels import plain


class Norm(nn.Module):
    """LayerNorm or RMSNorm, always computed in float32."""

    def __init__(self, width: int, kind: str, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if kind == "layernorm" else None

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, None)[1]

    def add(self, x: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + branch, and the norm of that sum."""
        # Sharded weights may come in bfloat16; a model in float64 keeps its own.
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        return kernels.add_norm(x, branch, self.weight.to(dtype), bias, self.eps)


def rope_tables(positions: Tensor, c: StackConfig) -> tuple[Tensor, Tensor]:
    """cos and sin [..., head_dim/2] for positions [...]; pairs are (i, i + head_dim/2)."""
    dim = c.head_dim
    even = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float64)
    freq = (
        even.new_tensor(c.rope_frequencies) if c.rope_frequencies else c.rope_base ** (-even / dim)
    )
    angle = positions.double()[..., None] * freq
    return angle.cos().float(), angle.sin().float()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., T, head_dim]; tables [T, head_dim/2] or broadcastable."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def visible(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Mask [L, S]: whether positions [L] see positions [S], at most ``window`` of them (0: any)."""
    ahead = queries[:, None] - keys
    return (ahead >= 0) & (ahead < window) if window else ahead >= 0


@dataclass(frozen=True)
class SharedPrompt:
    """Rows of several sentences that share one prompt, flattened to [b * p + b * n * length, D].

    b prompts of p items, then n sentences of ``length`` items for each. A sentence attends to its
    prompt and itself, and its positions continue from the prompt.
    """

    b: int
    p: int
    n: int
    length: int


class SlotLinear(nn.Linear):
    """A linear map of each of ``slots`` slots; ``weight`` [slots x out, in] has one after the
    other.
    """

    def __init__(self, dim_in: int, dim_out: int, slots: int, bias: bool) -> None:
        super().__init__(dim_in, slots * dim_out, bias)
        self.slots = slots

    def forward(self, x: Tensor, slot: Tensor | None = None) -> Tensor:
        """x [N, n, in], of slots 0 .. n - 1, -> [N, n, out]; or x [N, in] of ``slot`` [1] alone."""
        return self.product(x, self.weight, slot)

    def product(self, x: Tensor, weight: Tensor, slot: Tensor | None = None) -> Tensor:
        """The same with another ``weight``."""
        weight = weight.view(self.slots, -1, self.in_features)
        bias = None if self.bias is None else self.bias.view(self.slots, -1)
        if slot is not None:
            of = None if bias is None else bias.index_select(0, slot)[0]
            return F.linear(x, weight.index_select(0, slot)[0], of)
        n = x.shape[1]
        y = torch.einsum("nki,koi->nko", x, weight[:n])
        return y if bias is None else y + bias[:n]


def linear(dim_in: int, dim_out: int, bias: bool, slots: int = 1) -> nn.Linear:
    """One map, or with several ``slots`` one of each."""
    if slots == 1:
        return nn.Linear(dim_in, dim_out, bias)
    return SlotLinear(dim_in, dim_out, slots, bias)


def mapped(layer: nn.Linear, x: Tensor, slot: Tensor | None) -> Tensor:
    """``layer(x)``; x is of ``slot`` [1], or where that is None of as many as x [N, n, in] has."""
    return layer(x, slot) if isinstance(layer, SlotLinear) else layer(x)


class Attention(nn.Module):
    def __init__(self, c: StackConfig, slots: int = 1) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.heads, c.num_kv_heads, c.head_dim
        kv = self.kv_heads * self.head_dim
        self.q = linear(c.width, c.query_width, c.q_bias, slots)
        self.k = linear(c.width, kv, c.k_bias, slots)
        self.v = linear(c.width, kv, c.v_bias, slots)
        self.o = linear(c.query_width, c.width, c.o_bias, slots)
        self.window = c.window
        self.q_norm = Norm(self.head_dim, "rmsnorm", c.norm_eps) if c.qk_norm else None
        self.k_norm = Norm(self.head_dim, "rmsnorm", c.norm_eps) if c.qk_norm else None

    def project(self, x: Tensor, slot: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x [..., D] -> q [..., heads, head_dim], k and v [..., kv_heads, head_dim], before rope."""
        q, k, v = (
            mapped(layer, x, slot).unflatten(-1, (-1, self.head_dim))
            for layer in (self.q, self.k, self.v)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        shared: SharedPrompt | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; with ``shared``, x is as that says."""
        if shared is not None:
            assert rope is not None
            return self._shared(x, *rope, shared)
        b, t, _ = x.shape
        q, k, v = self.project(x)
        if rope is not None:
            cos, sin = (table[:, None] for table in rope)
            q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        if self.window:
            at = torch.arange(t, device=x.device)
            q, k, v = (y.transpose(1, 2) for y in (q, k, v))
            y = plain.attend(q, k, v, visible(at, at, self.window)).transpose(1, 2)
        else:
            y = kernels.slot_attention(q, k, v)
        return self.o(y.reshape(b, t, -1))

    def _shared(self, x: Tensor, cos: Tensor, sin: Tensor, s: SharedPrompt) -> Tensor:
        def heads(t: Tensor, rows: int) -> Tensor:
            return t.unflatten(0, (rows, -1)).transpose(1, 2)

        split, sentences = s.b * s.p, s.b * s.n
        before, after = (cos[: s.p], sin[: s.p]), (cos[s.p :], sin[s.p :])
        positions = torch.arange(s.p + s.length, device=x.device)
        q, k, v = self.project(x)
        kp, vp = apply_rope(heads(k[:split], s.b), *before), heads(v[:split], s.b)
        causal = visible(positions[: s.p], positions[: s.p], self.window)
        prompt = plain.attend(apply_rope(heads(q[:split], s.b), *before), kp, vp, causal)
        own = apply_rope(heads(k[split:], sentences), *after)
        ks = torch.cat((kp.repeat_interleave(s.n, 0), own), dim=2)
        vs = torch.cat((vp.repeat_interleave(s.n, 0), heads(v[split:], sentences)), dim=2)
        mask = visible(positions[s.p :], positions, self.window)
        said = plain.attend(apply_rope(heads(q[split:], sentences), *after), ks, vs, mask)
        y = torch.cat(
            (
                prompt.transpose(1, 2).reshape(split, -1),
                said.transpose(1, 2).reshape(sentences * s.length, -1),
            )
        )
        return self.o(y)


class MLP(nn.Module):
    def __init__(self, c: StackConfig, slots: int = 1) -> None:
        super().__init__()
        self.up = linear(c.width, c.hidden, c.mlp_bias, slots)
        self.gate = (
            linear(c.width, c.hidden, c.mlp_bias, slots) if c.activation == "swiglu" else None
        )
        self.down = linear(c.hidden, c.width, c.mlp_bias, slots)
        self.approximate = "tanh" if c.activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor, slot: Tensor | None = None) -> Tensor:
        up = mapped(self.up, x, slot)
        if self.gate is not None:
            return mapped(self.down, F.silu(mapped(self.gate, x, slot)) * up, slot)
        return mapped(self.down, F.gelu(up, approximate=self.approximate), slot)


class Block(nn.Module):
    """Pre-norm transformer block.

    ``recompute``: the backward pass computes the activations again instead of keeping them.
    ``compiled``: computes what :meth:`run` does, where that was compiled; passes without gradients
    are few, and not worth compiling.
    """

    recompute = False
    compiled: Callable[..., Tensor] | None = None

    def __init__(self, c: StackConfig, slots: int = 1) -> None:
        super().__init__()
        self.attn_norm = Norm(c.width, c.norm, c.norm_eps)
        self.attn = Attention(c, slots)
        self.mlp_norm = Norm(c.width, c.norm, c.norm_eps)
        self.mlp = MLP(c, slots)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        shared: SharedPrompt | None = None,
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return self.run(x, rope, shared)
        run = self.compiled or self.run
        if self.recompute:
            return checkpoint(run, x, rope, shared, use_reentrant=False)
        return run(x, rope, shared)

    def run(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, shared: SharedPrompt | None
    ) -> Tensor:
        """The block itself: its forward pass, whose activations are kept."""
        x, y = self.mlp_norm.add(x, self.attn(self.attn_norm(x), rope, shared))
        return x + self.mlp(y)


class Stack(nn.Module):
    """Blocks and, where configured, a final norm and learned positions. ``embed`` is part of the stack
    that it feeds, unless it is given, as another stack's. With several ``slots`` the projections of
    position i are slot i's own.
    """

    def __init__(
        self,
        c: StackConfig,
        vocab_size: int,
        embed_width: int,
        max_positions: int,
        embed: nn.Embedding | None = None,
        slots: int = 1,
    ) -> None:
        super().__init__()
        self.config = c
        self._shared = (embed,)  # in a tuple: it is another stack's parameter
        if embed is None:
            self._modules["embed"] = nn.Embedding(vocab_size, embed_width)
        self.positions = nn.Embedding(max_positions, c.width) if c.positions == "learned" else None
        self.layers = nn.ModuleList(Block(c, slots) for _ in range(c.layers))
        self.norm = Norm(c.width, c.norm, c.norm_eps) if c.final_norm else nn.Identity()

    @property
    def embed(self) -> nn.Embedding:
        return self._shared[0] or cast("nn.Embedding", self._modules["embed"])

    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> hidden [B, T, D] after the final norm; positions are 0..T-1."""
        pos = torch.arange(x.shape[1], device=x.device)
        rope = None
        if self.positions is not None:
            x = x + self.positions(pos)
        else:
            rope = rope_tables(pos, self.config)
        for layer in self.blocks():
            x = layer(x, rope)
        return self.norm(x)


class MultiScaleLM(nn.Module):
    """A global transformer over frames and a local transformer over the K slots of a frame."""

    def __init__(self, c: LMConfig) -> None:
        super().__init__()
        c.check()
        self.config = c
        d = c.global_.width
        self.add_module("global", Stack(c.global_, c.vocab_size, c.embed_width, c.max_frames))
        shared = self.global_.embed if c.tied_local else None
        self.local = Stack(
            c.local, c.local_rows, c.local.width, c.local_slots, shared, c.weight_sets
        )
        self.bridge = linear(
            c.bridge_shape[1], c.local.width, True, c.bridge_shape[0] // c.local.width
        )
        head = nn.Linear(c.local.width, c.local_rows, bias=False)
        if c.tied_head:
            head.weight = self.local.embed.weight
        else:
            self._modules["head"] = head
        self.global_head = (
            nn.Linear(d, c.global_head_size, bias=False) if c.global_head_size else None
        )
        self._head = (head,)  # in a tuple: a tied one is no parameter of its own
        self.continuous = nn.ModuleDict(
            {name: nn.Linear(width, d) for name, width in c.continuous.items()}
        )
        self.guide = nn.Embedding(c.aligned_vocab, d) if c.aligned_slots else None

    @property
    def global_(self) -> Stack:
        return self._modules["global"]  # type: ignore[return-value]

    @property
    def head(self) -> nn.Linear:
        return self._head[0]

    def first_logits(self, h: Tensor) -> Tensor:
        """Slot 0's logits [..., V] of global outputs h [..., D], where they have a head of their
        own; -inf beyond its ids.
        """
        assert self.global_head is not None
        c = self.config
        after = c.vocab_size - c.global_head_start - c.global_head_size
        return F.pad(self.global_head(h), (c.global_head_start, after), value=-torch.inf)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """frames [..., K] ids -> [..., D]."""
        e = self.global_.embed(frames)
        return e.flatten(-2) if self.config.embedding == "concat" else e.sum(-2)

    def embed_aligned(self, aligned: Tensor) -> Tensor:
        """aligned rows [..., S] ids, -1 for none -> [..., D]."""
        assert self.guide is not None
        there = aligned >= 0
        flat = F.embedding_bag(
            aligned.clamp(min=0).flatten(0, -2),
            self.guide.weight,
            mode="sum",
            per_sample_weights=there.flatten(0, -2).to(self.guide.weight.dtype),
        )
        return flat.view(*aligned.shape[:-1], -1)

    def global_hidden(
        self,
        frames: Tensor,
        aligned: Tensor | None = None,
        continuous: dict[str, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] that predict each frame from the frames before it.

        frames [B, T, K]; aligned [B, T, S], ids of the predicted frame, -1 for none; continuous:
        name -> (values [B, T, width], where [B, T] bool), which replace the embeddings of those
        frames.
        """
        b, _, k = frames.shape
        e = self.embed_frames(frames)
        for name, (values, where) in (continuous or {}).items():
            e = torch.where(where[..., None], self.continuous[name](values), e)
        start = self.embed_frames(frames.new_full((b, 1, k), self.config.start_id))
        x = torch.cat((start, e[:, :-1]), dim=1)
        if aligned is not None:
            x = x + self.embed_aligned(aligned)
        return self.global_(x)

    def embed_slots(self, codes: Tensor) -> Tensor:
        """codes [...] -> rows [..., local width]; zeros where the table has none."""
        if not self.config.local_table_size:
            return self.local.embed(codes)
        row = codes - self.config.local_table_start
        inside = (row >= 0) & (row < self.config.local_rows)
        return self.local.embed(row.where(inside, 0)) * inside[..., None]

    def head_logits(self, y: Tensor) -> Tensor:
        """Local outputs y [..., local width] -> logits [..., V]; -inf where the head has no id."""
        c = self.config
        if not c.local_table_size:
            return self.head(y)
        after = c.vocab_size - c.local_table_start - c.local_rows
        return F.pad(self.head(y), (c.local_table_start, after), value=-torch.inf)

    def bridged(self, h: Tensor, n: int) -> Tensor:
        """h [N, D] -> [N, n, local width], by each slot's own map."""
        return mapped(self.bridge, h[:, None].expand(-1, n, -1), None)

    def local_hidden(self, h: Tensor, codes: Tensor) -> Tensor:
        """h [N, D] of N frames and their first n <= K codes [N, n] -> hidden states [N, n, local
        width] that predict each slot; without slot 0 where that does not pass through the stack.
        """
        c = self.config
        n = codes.shape[1]
        if c.conditioning == "project":
            first = codes.new_full((codes.shape[0], 1), c.local_start_id)
            before = torch.cat((first, codes[:, :-1]), dim=1)[:, c.first_local :]
            x = self.embed_slots(before) + self.bridged(h, before.shape[1])
            if c.given_slots and n > c.first_local:
                x[:, 0] += self.embed_slots(codes[:, : c.given_slots]).sum(1)
        elif c.conditioning == "add":
            first = codes.new_full((codes.shape[0], 1), c.local_start_id)
            x = self.local.embed(torch.cat((first, codes[:, :-1]), dim=1))
            x = x + self.bridge(h.view(h.shape[0], c.num_codebooks, -1)[:, :n])
        else:
            x = torch.cat((self.bridge(h)[:, None], self.embed_slots(codes[:, :-1])), dim=1)
        return self.local(x)

    def forward(
        self,
        frames: Tensor,
        aligned: Tensor | None = None,
        continuous: dict[str, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Teacher-forced logits [B, T, K, V] of each slot of frames [B, T, K], given all before it.

        With delays, before it in steps: the frames are laid out as ``storage/delays.py`` says.
        """
        if self.config.delays:
            count = frames.shape[1]
            logits = self._logits(self.delayed(frames))
            slots = [logits[:, d : d + count, k] for k, d in enumerate(self.config.delays)]
            return torch.stack(slots, 2)
        return self._logits(frames, aligned, continuous)

    def delayed(self, frames: Tensor) -> Tensor:
        """frames [B, T, K] -> the ids of each step [B, T + max delay, K]."""
        frame, ids = (
            torch.from_numpy(x).to(frames.device) for x in places(self.config, frames.shape[1])
        )
        there = frames.gather(1, frame.clamp(min=0).expand(len(frames), -1, -1))
        return torch.where(frame >= 0, there, ids.to(frames.dtype))

    def _logits(
        self,
        frames: Tensor,
        aligned: Tensor | None = None,
        continuous: dict[str, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Logits [B, T, K, V] of the ids of T steps."""
        b, t, k = frames.shape
        h = self.global_hidden(frames, aligned, continuous)
        y = self.local_hidden(h.reshape(b * t, -1), frames.reshape(b * t, k))
        if self.global_head is None:
            return self.head_logits(y).view(b, t, k, -1)
        given = self.config.given_slots
        others = self.head_logits(y[:, y.shape[1] - k + 1 + given :]).view(b, t, k - 1 - given, -1)
        first = self.first_logits(h)[:, :, None]
        nothing = torch.full_like(first, -torch.inf).expand(-1, -1, given, -1)
        return torch.cat((first, nothing, others), dim=2)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> None:
        """Initialises weights from about Normal(0, 0.02); residual outputs are scaled by depth
        (GPT-2).
        """
        g = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.dim() < 2:
                continue
            std = (
                0.02
                if "embed" in name or "positions" in name or "guide" in name
                else p.shape[1] ** -0.5
            )
            if name.endswith(("attn.o.weight", "mlp.down.weight")):
                depth = (
                    self.config.global_ if name.startswith("global") else self.config.local
                ).layers
                std /= (2 * depth) ** 0.5
            p.copy_(torch.randn(p.shape, generator=g) * std)
