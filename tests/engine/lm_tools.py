"""Tiny random LMs for tests: the torch reference and the native LM with the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from uniaudio_training.kernels import plain
from uniaudio_training.models.lm import MultiScaleLM

from uniaudio_engine import _C
from uniaudio_engine.storage.config import LMConfig, StackConfig, to_dict

GLOBAL = StackConfig(layers=2, width=24, heads=3, mlp_width=40)
LOCAL = StackConfig(layers=2, width=20, heads=2, mlp_width=36)
BASE = LMConfig(
    vocab_size=53,
    num_codebooks=3,
    global_=GLOBAL,
    local=LOCAL,
    start_id=2,
    local_start_id=3,
    max_frames=64,
)


def both(c: LMConfig, **options: Any) -> LMConfig:
    return replace(c, global_=replace(c.global_, **options), local=replace(c.local, **options))


BIASES = {f"{name}_bias": True for name in ("q", "k", "v", "o", "mlp")}
WITH_ALIGNED = replace(BASE, aligned_slots=2, aligned_vocab=7)
CONFIGS: dict[str, LMConfig] = {
    "base": BASE,
    "layernorm": both(BASE, norm="layernorm"),
    "gelu": both(BASE, activation="gelu"),
    "learned": both(BASE, positions="learned"),
    "q_bias": both(BASE, q_bias=True),
    "k_bias": both(BASE, k_bias=True),
    "v_bias": both(BASE, v_bias=True),
    "o_bias": both(BASE, o_bias=True),
    "mlp_bias": both(BASE, mlp_bias=True),
    "gelu_bias": both(BASE, activation="gelu", mlp_bias=True),
    "gqa": replace(
        BASE,
        global_=replace(GLOBAL, width=32, heads=4, kv_heads=2),
        local=replace(LOCAL, heads=2, kv_heads=1),
    ),
    "mqa": replace(BASE, global_=replace(GLOBAL, kv_heads=1)),
    "concat": replace(BASE, embedding="concat"),
    "add": replace(BASE, conditioning="add"),
    "aligned": WITH_ALIGNED,
    "continuous": replace(BASE, continuous={"text": 11, "style": 5}),
    "one_codebook": replace(BASE, num_codebooks=1),
    "odd_widths": replace(
        BASE,
        global_=replace(GLOBAL, width=21, positions="learned", mlp_width=17),
        local=replace(LOCAL, width=10, mlp_width=9, positions="learned"),
    ),
    "reference": replace(
        both(
            BASE,
            norm="layernorm",
            activation="gelu",
            positions="learned",
            o_bias=True,
            mlp_bias=True,
        ),
        embedding="concat",
        conditioning="add",
    ),
    "everything": replace(
        both(BASE, norm="layernorm", **BIASES),
        embedding="concat",
        conditioning="add",
        aligned_slots=2,
        aligned_vocab=7,
        continuous={"text": 11},
        global_=replace(
            GLOBAL, width=36, heads=6, kv_heads=3, norm="layernorm", rope_base=500.0, **BIASES
        ),
    ),
    "gelu_tanh": both(BASE, activation="gelu_tanh"),
    "gelu_tanh_bias": both(BASE, activation="gelu_tanh", mlp_bias=True),
    "head_width": replace(  # queries wider, and narrower, than the stack
        BASE,
        global_=replace(GLOBAL, head_width=14, kv_heads=1),
        local=replace(LOCAL, heads=3, head_width=6),
    ),
    "qk_norm": both(BASE, qk_norm=True),
    "qk_norm_grouped": replace(
        BASE,
        global_=replace(GLOBAL, width=40, heads=4, kv_heads=2, head_width=18, qk_norm=True),
        local=replace(LOCAL, heads=4, kv_heads=2, head_width=6, qk_norm=True, positions="learned"),
    ),
    "no_final_norm": both(BASE, final_norm=False),
    "window": replace(BASE, global_=replace(GLOBAL, window=9), local=replace(LOCAL, window=2)),
    "global_head": replace(BASE, global_head_start=11, global_head_size=30),
    "local_table": replace(  # with ids of slot 0 that it lacks
        BASE,
        global_head_start=11,
        global_head_size=30,
        local_table_start=20,
        local_table_size=31,
    ),
    "project": replace(BASE, conditioning="project"),
    "project_head": replace(  # slot 0 does not pass through the local stack
        BASE,
        conditioning="project",
        local=replace(LOCAL, positions="learned"),
        global_head_start=11,
        global_head_size=30,
    ),
    "slot_weights": replace(BASE, slot_weights=True),
    "slot_weights_bias": replace(
        BASE,
        num_codebooks=4,
        conditioning="add",
        slot_weights=True,
        local=replace(LOCAL, activation="gelu", qk_norm=True, kv_heads=1, **BIASES),
    ),
    # a depth transformer: text first, projections of each slot, no positions
    "depth": replace(
        BASE,
        num_codebooks=4,
        conditioning="project",
        global_head_start=11,
        global_head_size=9,
        local_table_start=11,
        local_table_size=40,
        slot_weights=True,
        local=replace(LOCAL, rope_frequencies=(0.0,) * 5, final_norm=False),
    ),
    "delays": replace(BASE, delays=(0, 1, 3), delay_ids=((5, 6, 7), (5, 6, 8))),
    "delays_depth": replace(  # as depth transformers have them: text first, then the codes
        BASE,
        num_codebooks=4,
        conditioning="project",
        global_head_start=11,
        global_head_size=9,
        slot_weights=True,
        local=replace(LOCAL, rope_frequencies=(0.0,) * 5),
        global_=replace(GLOBAL, window=20),
        delays=(1, 0, 2, 2),
        delay_ids=((5, 6, 7, 8),),
    ),
    # all that models of other projects have
    "others": replace(
        BASE,
        global_=replace(
            GLOBAL,
            heads=4,
            kv_heads=2,
            head_width=10,
            activation="gelu_tanh",
            qk_norm=True,
            rope_frequencies=(1.0, 0.5, 0.2, 0.03, 0.001),
            window=20,
        ),
        local=replace(
            LOCAL,
            width=24,
            head_width=14,
            activation="gelu_tanh",
            qk_norm=True,
            final_norm=False,
            positions="learned",
        ),
        tied_local=True,
        tied_head=True,
    ),
    "rope_frequencies": replace(
        BASE,
        global_=replace(GLOBAL, rope_frequencies=(1.0, 0.3, 0.02, 0.0)),
        local=replace(LOCAL, rope_frequencies=(0.5, 0.25, 0.125, 0.0625, 0.01)),
    ),
    "tied": replace(BASE, local=replace(LOCAL, width=24, heads=2), tied_local=True, tied_head=True),
    "tied_head": replace(BASE, tied_head=True),
    "tied_local_concat": replace(
        BASE,
        global_=replace(GLOBAL, width=60),
        local=LOCAL,
        embedding="concat",
        tied_local=True,
    ),
    "wide": replace(
        BASE,
        global_=replace(GLOBAL, width=192, heads=3, mlp_width=512),
        local=replace(LOCAL, width=128, heads=2, mlp_width=256),
        vocab_size=300,
    ),
}
# two slots of text, of which the second is never predicted
GIVEN = replace(
    BASE,
    num_codebooks=5,
    conditioning="project",
    global_head_start=11,
    global_head_size=9,
    local_table_start=11,
    local_table_size=40,
    given_slots=1,
    slot_weights=True,
)


def torch_lm(c: LMConfig, seed: int = 0) -> MultiScaleLM:
    """A random model with lively logits: embeddings and biases are not small, norms are not one."""
    model = MultiScaleLM(c)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_(
                    torch.randn(p.shape, generator=g) * 0.2
                    + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
                )
            else:
                p.copy_(
                    torch.randn(p.shape, generator=g)
                    * (
                        0.5
                        if "embed" in name or "positions" in name or "guide" in name
                        else 1.5 * p.shape[1] ** -0.5
                    )
                )
        if not c.local.final_norm:  # the rows that the head reads are several times as large
            model.head.weight *= 0.1
    return model.eval()


def native_lm(c: LMConfig, model: MultiScaleLM, dtype: str = "float32", threads: int = 1) -> _C.LM:
    """``dtype`` of the weights, or weights/keys and values: "int8/bfloat16"."""
    dtype, _, kv_dtype = dtype.partition("/")
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    return _C.LM(json.dumps(to_dict(c)), weights, dtype, threads, kv_dtype or "float32")


def random_inputs(
    c: LMConfig, frames: int, seed: int = 1
) -> tuple[np.ndarray, np.ndarray | None, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """frames [T, K], aligned rows [T, S] or None, continuous inputs."""
    r = np.random.default_rng(seed)
    ids = r.integers(0, c.vocab_size, (frames, c.num_codebooks)).astype(np.int32)
    if c.global_head_size:  # slot 0 is one of its head's ids
        ids[:, 0] = c.global_head_start + ids[:, 0] % c.global_head_size
    if c.local_table_size:
        ids[:, 1:] = c.local_table_start + ids[:, 1:] % c.local_table_size
    aligned = (
        r.integers(-1, c.aligned_vocab, (frames, c.aligned_slots)).astype(np.int32)
        if c.aligned_slots
        else None
    )
    where = r.permutation(frames)
    continuous = {}
    for i, (name, width) in enumerate(c.continuous.items()):
        index = np.sort(where[i * 3 : i * 3 + 3]).astype(np.int32)
        continuous[name] = (r.standard_normal((len(index), width)).astype(np.float32), index)
    return ids, aligned, continuous


def torch_logits(
    model: MultiScaleLM, inputs: tuple[Any, Any, Any], dtype: torch.dtype
) -> np.ndarray:
    """Logits [T, K, V] of the torch module computed in `dtype`."""
    ids, aligned, continuous = inputs
    t = len(ids)
    dense = {}
    for name, (values, index) in continuous.items():
        full = torch.zeros(1, t, values.shape[1], dtype=dtype)
        mask = torch.zeros(1, t, dtype=torch.bool)
        full[0, index] = torch.from_numpy(values).to(dtype)
        mask[0, index] = True
        dense[name] = (full, mask)
    with torch.no_grad():
        model = model.to(dtype)
        out = model(
            torch.from_numpy(ids).long()[None],
            None if aligned is None else torch.from_numpy(aligned).long()[None],
            dense,
        )
        model.float()
    return out[0].numpy()


def there(logits: np.ndarray) -> np.ndarray:
    """0 in place of -inf, which ids have that a slot cannot be."""
    return np.where(np.isneginf(logits), 0, logits)


def truth_logits(model: MultiScaleLM, inputs: tuple[Any, Any, Any]) -> np.ndarray:
    """The same module in float64 throughout: its norms, which insist on float32, included."""

    def add_norm(
        x: torch.Tensor,
        branch: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = x if branch is None else x + branch
        if bias is not None:
            return x, torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
        return x, torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)

    with mock.patch.object(plain, "add_norm", add_norm):
        return torch_logits(model, inputs, torch.float64)
