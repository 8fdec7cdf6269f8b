"""Stacks of the Llama kind in transformers' layout: configuration and weights under our names."""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError
from ..storage.config import StackConfig
from ..storage.tensors import Tensors
from .hub_files import Reader, Settings


def llama_stack(settings: Settings, context: int = 0) -> StackConfig:
    """The stack that a configuration describes.

    ``context``: positions for which rope's frequencies are scaled, where the file does not say.
    """
    settings.expect("hidden_act", "silu", "silu")
    settings.expect("attention_bias", False, False)
    settings.expect("mlp_bias", False, False)
    width, heads = settings.integer("hidden_size"), settings.integer("num_attention_heads")
    if heads < 1:
        raise InputError(f"{settings.where}: num_attention_heads: expected 1 or more, got {heads}")
    dim = settings.integer("head_dim", width // heads)
    base, frequencies = _rope(settings, dim)
    return StackConfig(
        settings.integer("num_hidden_layers"),
        width,
        heads,
        kv_heads=settings.integer("num_key_value_heads", heads),
        mlp_width=settings.integer("intermediate_size"),
        norm_eps=settings.real("rms_norm_eps", 1e-5),
        rope_base=base,
        rope_frequencies=frequencies,
        head_width=0 if dim * heads == width else dim,
    )


def llama_tensors(tensors: Tensors, source: Reader, ours: str, theirs: str, c: StackConfig) -> None:
    """Take a stack's weights out of ``source``; ``ours`` and ``theirs`` are the names' prefixes."""
    d, kv, q = c.width, c.num_kv_heads * c.head_dim, c.query_width
    for i in range(c.layers):
        to, of = f"{ours}.layers.{i}", f"{theirs}.layers.{i}"
        for name, other, shape in (
            ("attn_norm", "input_layernorm", (d,)),
            ("attn.q", "self_attn.q_proj", (q, d)),
            ("attn.k", "self_attn.k_proj", (kv, d)),
            ("attn.v", "self_attn.v_proj", (kv, d)),
            ("attn.o", "self_attn.o_proj", (d, q)),
            ("mlp_norm", "post_attention_layernorm", (d,)),
            ("mlp.gate", "mlp.gate_proj", (c.hidden, d)),
            ("mlp.up", "mlp.up_proj", (c.hidden, d)),
            ("mlp.down", "mlp.down_proj", (d, c.hidden)),
        ):
            tensors[f"{to}.{name}.weight"] = source.take(f"{of}.{other}.weight", *shape)
    tensors[f"{ours}.norm.weight"] = source.take(f"{theirs}.norm.weight", d)


def _rope(settings: Settings, dim: int) -> tuple[float, tuple[float, ...]]:
    """The base, and the frequencies where they are not those of the base.

    Newer files have all of it in ``rope_parameters``, older ones in ``rope_theta`` and
    ``rope_scaling``.
    """
    found = settings.optional("rope_parameters") or settings.optional("rope_scaling")
    default = settings.real("rope_theta", 500000.0)
    if found is None:
        return default, ()
    base = found.real("rope_theta", default)
    kind = found.choice("rope_type", {k: k for k in ("default", "llama3")}, "default")
    if kind == "default":
        return base, ()
    factor, low = found.real("factor"), found.real("low_freq_factor")
    high, trained = found.real("high_freq_factor"), found.real("original_max_position_embeddings")
    if not (base > 1 and factor >= 1 and 0 < low < high and trained >= 1 and 2 <= dim <= 1024):
        raise InputError(
            f"{found.where}: expected factor of at least 1, and low_freq_factor below "
            f"high_freq_factor, got {factor:g}, {low:g} and {high:g}"
        )
    plain = base ** (-np.arange(0, dim, 2) / dim)
    turns = trained * plain / (2 * math.pi)  # of a pair within the length of the training
    blend = np.clip((turns - low) / (high - low), 0, 1)
    scaled = blend * plain + (1 - blend) * plain / factor
    return base, tuple(float(f) for f in scaled)
