"""The same model in PyTorch, optimised for speed: the main peer.

Weights are those of ``uniaudio_training.models.lm``, with the same names. Query, key and value are
one product, the key-value cache is preallocated, attention is ``scaled_dot_product_attention``, the
head has only the rows that a slot may emit, and weights are packed for oneDNN. dtypes: float32,
bfloat16, and int8 by ``torch.ao.quantization.quantize_dynamic`` (weights per row, activations per
call).
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from models import Model, load_weights
from numpy.typing import NDArray
from torch import Tensor, nn

from uniaudio_engine.storage.config import StackConfig

from .base import Spec

WARM_UP = 2


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    out = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    out.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        out.bias = nn.Parameter(bias, requires_grad=False)
    return out


class Packed(nn.Module):
    """A linear layer with its weight in oneDNN's layout, as in ``torch.compile`` with freezing: up
    to twice as fast.
    """

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(source.weight.detach(), 1)
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def pack(module: nn.Module) -> None:
    """Replaces every linear layer inside the module."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Packed(child))
        else:
            pack(child)


def fused(w: dict[str, Tensor], names: list[str]) -> nn.Linear:
    """Several products of one input as one; a missing bias is zero where another one exists."""
    weights = [w[f"{n}.weight"] for n in names]
    biases = [w.get(f"{n}.bias") for n in names]
    bias = None
    if any(b is not None for b in biases):
        bias = torch.cat(
            [
                x.new_zeros(x.shape[0]) if b is None else b
                for x, b in zip(weights, biases, strict=True)
            ]
        )
    return linear(torch.cat(weights), bias)


class Norm(nn.Module):
    """LayerNorm where there is a bias, else RMSNorm."""

    def __init__(self, w: dict[str, Tensor], name: str, c: StackConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(w[f"{name}.weight"], requires_grad=False)
        bias = w.get(f"{name}.bias")
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.eps, self.shape = c.norm_eps, tuple(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)
        return F.rms_norm(x, self.shape, self.weight, self.eps)


class Block(nn.Module):
    def __init__(self, w: dict[str, Tensor], name: str, c: StackConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.heads, c.num_kv_heads, c.head_dim
        self.sizes = [n * c.head_dim for n in (c.heads, c.num_kv_heads, c.num_kv_heads)]
        self.attn_norm, self.mlp_norm = (
            Norm(w, f"{name}.attn_norm", c),
            Norm(w, f"{name}.mlp_norm", c),
        )
        self.qkv = fused(w, [f"{name}.attn.{x}" for x in "qkv"])
        self.o, self.down = fused(w, [f"{name}.attn.o"]), fused(w, [f"{name}.mlp.down"])
        self.gated = c.activation == "swiglu"
        self.approximate = "tanh" if c.activation == "gelu_tanh" else "none"
        self.qk_norms = [Norm(w, f"{name}.attn.{x}_norm", c) for x in "qk" if c.qk_norm]
        self.up = fused(w, [f"{name}.mlp.{x}" for x in (["gate", "up"] if self.gated else ["up"])])

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, at: int, rope: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """x [B, T, D] at positions ``at`` .. ``at + T - 1``; keys and values [B, H, room, head_dim]
        are written there. T > 1 only from position 0.
        """
        b, t, _ = x.shape
        parts = self.qkv(self.attn_norm(x)).split(self.sizes, dim=-1)
        q, k, v = (p.view(b, t, -1, self.head_dim).transpose(1, 2) for p in parts)
        if self.qk_norms:
            q, k = (norm(y) for norm, y in zip(self.qk_norms, (q, k), strict=True))
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        keys[:, :, at : at + t], values[:, :, at : at + t] = k, v
        k, v = keys[:, :, : at + t], values[:, :, : at + t]
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=t > 1, enable_gqa=self.kv_heads != self.heads
        )
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        h = self.up(self.mlp_norm(x))
        if self.gated:
            gate, up = h.chunk(2, dim=-1)
            h = F.silu(gate) * up
        else:
            h = F.gelu(h, approximate=self.approximate)
        return x + self.down(h)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Stack(nn.Module):
    def __init__(self, w: dict[str, Tensor], name: str, c: StackConfig, positions: int) -> None:
        super().__init__()
        self.config = c
        self.positions = w.get(f"{name}.positions.weight")
        self.layers = nn.ModuleList(Block(w, f"{name}.layers.{i}", c) for i in range(c.layers))
        self.norm = Norm(w, f"{name}.norm", c) if c.final_norm else nn.Identity()
        self.dtype = w[f"{name}.layers.0.attn.q.weight"].dtype
        self.rope: tuple[Tensor, Tensor] | None = None
        if self.positions is None:
            half = torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim
            angle = torch.arange(positions, dtype=torch.float64)[:, None] * c.rope_base**-half
            self.rope = (angle.cos().to(self.dtype), angle.sin().to(self.dtype))

    def cache(self, streams: int, room: int) -> list[tuple[Tensor, Tensor]]:
        shape = (streams, self.config.num_kv_heads, room, self.config.head_dim)
        some = torch.randn(shape, dtype=self.dtype)
        return [(some.clone(), some.clone()) for _ in self.layers]

    def forward(self, x: Tensor, cache: list[tuple[Tensor, Tensor]], at: int) -> Tensor:
        rope = None
        if self.positions is not None:
            x = x + self.positions[at : at + x.shape[1]]
        elif self.rope is not None:
            rope = (self.rope[0][at : at + x.shape[1]], self.rope[1][at : at + x.shape[1]])
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            x = layer(x, keys, values, at, rope)
        return self.norm(x)


class TorchLM(nn.Module):
    """The LM; ``step`` computes a whole frame for B streams."""

    def __init__(
        self, model: Model, weights: dict[str, NDArray[np.float32]], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.c = c = model.config
        w = {k: torch.from_numpy(np.array(v)).to(dtype) for k, v in weights.items()}
        self.global_ = Stack(w, "global", c.global_, c.max_frames)
        self.local = Stack(w, "local", c.local, c.num_codebooks)
        self.table = w["global.embed.weight"]
        self.local_table = self.table if c.tied_local else w["local.embed.weight"]
        head = self.local_table if c.tied_head else w["head.weight"]
        self.bridge = fused(w, ["bridge"])
        self.rows = [torch.from_numpy(model.rows(k)) for k in range(c.num_codebooks)]
        self.heads = nn.ModuleList(linear(head[rows], None) for rows in self.rows)
        self.aligned = w.get("guide.weight")

    def begin(self, streams: int, room: int) -> None:
        """Caches for ``streams`` sequences of ``room`` frames, filled with random numbers as if
        there were context.
        """
        self.at = 0
        self.cache, self.local_cache = (
            self.global_.cache(streams, room),
            self.local.cache(streams, self.c.num_codebooks),
        )
        self.last = self.embed(torch.full((streams, 1, self.c.num_codebooks), self.c.start_id))

    def embed(self, frames: Tensor) -> Tensor:
        """frames [B, T, K] -> [B, T, D]."""
        e = F.embedding(frames, self.table)
        return e.flatten(-2) if self.c.embedding == "concat" else e.sum(-2)

    def hear(self, frames: Tensor, aligned: Tensor | None) -> None:
        """Appends known frames [B, T, K]; aligned rows [T, S]."""
        e = self.embed(frames)
        x = torch.cat((self.last, e[:, :-1]), dim=1)
        self.global_(x if aligned is None else x + self.embed_aligned(aligned), self.cache, self.at)
        self.at += frames.shape[1]
        self.last = e[:, -1:]

    def embed_aligned(self, aligned: Tensor) -> Tensor:
        assert self.aligned is not None
        return F.embedding(aligned, self.aligned).sum(-2)

    def step(
        self, aligned: Tensor | None, forced: Tensor | None = None, out: list[Tensor] | None = None
    ) -> Tensor:
        """The next frame [B, K] of every stream: the best ids, or ``forced`` [B, K].

        Logits [B, R] of each slot are appended to ``out``.
        """
        c = self.c
        x = self.last if aligned is None else self.last + self.embed_aligned(aligned)
        h = self.global_(x, self.cache, self.at)
        b = h.shape[0]
        bridged = self.bridge(h.view(b, c.num_codebooks, -1) if c.conditioning == "add" else h)
        ids = torch.full((b,), c.local_start_id)
        chosen = []
        for k in range(c.num_codebooks):
            if c.conditioning == "add":
                y = F.embedding(ids, self.local_table)[:, None] + bridged[:, k : k + 1]
            else:
                y = bridged if k == 0 else F.embedding(ids, self.local_table)[:, None]
            logits = self.heads[k](self.local(y, self.local_cache, k)[:, 0])
            if out is not None:
                out.append(logits)
            ids = self.rows[k][logits.argmax(-1)] if forced is None else forced[:, k]
            chosen.append(ids)
        frame = torch.stack(chosen, dim=1)
        self.last = self.embed(frame[:, None])
        self.at += 1
        return frame


def optimized(module: nn.Module, dtype: str) -> nn.Module:
    """The module with its linear layers in int8 where ``dtype`` says so, else packed for oneDNN."""
    if dtype == "int8":
        engines = torch.backends.quantized.supported_engines
        torch.backends.quantized.engine = "x86" if "x86" in engines else "qnnpack"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.ao.quantization.quantize_dynamic(
                module, {nn.Linear}, dtype=torch.qint8, inplace=True
            )
    elif torch.backends.mkldnn.is_available():
        pack(module)
    return module.eval()


class TorchPeer:
    def __init__(self, spec: Spec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec, self.model = spec, spec.find_model()
        self.version = f"torch {torch.__version__}"
        weights: dict[str, Any] = load_weights(self.model, spec.seed, spec.cache)
        with torch.inference_mode():
            dtype = torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32
            self.lm: Any = optimized(TorchLM(self.model, weights, dtype), spec.dtype)
        aligned = self.model.aligned(1)
        self.aligned = None if aligned is None else torch.from_numpy(aligned).long()

    @torch.inference_mode()
    def prepare(self, streams: int, context: int, count: int) -> None:
        self.lm.begin(streams, context + count + WARM_UP)
        self.context = context

    @torch.inference_mode()
    def frames(self, count: int) -> float:
        self.lm.at = self.context
        for _ in range(WARM_UP):
            self.lm.step(self.aligned)
        begin = time.perf_counter()
        for _ in range(count):
            self.lm.step(self.aligned)
        return time.perf_counter() - begin

    @torch.inference_mode()
    def prefill(self, count: int) -> float:
        frames = torch.from_numpy(self.model.frames(count, self.spec.seed)).long()[None]
        aligned = self.model.aligned(count)
        rows = None if aligned is None else torch.from_numpy(aligned).long()
        self.lm.begin(1, count)
        begin = time.perf_counter()
        self.lm.hear(frames, rows)
        return time.perf_counter() - begin

    @torch.inference_mode()
    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        ids = torch.from_numpy(frames).long()[None]
        aligned = self.model.aligned(known)
        self.lm.begin(1, len(frames))
        self.lm.hear(ids[:, :known], None if aligned is None else torch.from_numpy(aligned).long())
        out: list[Tensor] = []
        for t in range(known, len(frames)):
            self.lm.step(self.aligned, ids[:, t], out)
        k = frames.shape[1]
        return torch.cat(out).float().view(len(frames) - known, k, -1).numpy()

    def weight_bytes(self) -> int:
        size = {"int8": 1, "bfloat16": 2, "float32": 4}[self.spec.dtype]
        return size * products_per_frame(self.model)


def products_per_frame(model: Model) -> int:
    """Number of weights that a frame multiplies by, counted once per use."""
    c = model.config

    def block(s: StackConfig) -> int:
        kv = s.num_kv_heads * s.head_dim
        return s.width * (2 * s.width + 2 * kv + s.hidden * (3 if s.activation == "swiglu" else 2))

    k, local = c.num_codebooks, c.local
    bridge = local.width * c.global_.width  # K uses of width D/K, or one of width D
    heads = sum(len(model.rows(i)) for i in range(k)) * local.width
    return c.global_.layers * block(c.global_) + k * local.layers * block(local) + bridge + heads
