"""A small delayed-streams TTS in the files of the package moshi, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny import random_weights

from uniaudio_engine.storage.tensors import save_tensors

# Of kyutai/tts-0.75b-en-public in kind: a text that looks ahead, low rank, shared sets of weights.
LM: dict[str, Any] = {
    "model_type": "tts",
    "card": 24,
    "n_q": 4,
    "dep_q": 4,
    "delays": [0, 0, 2, 2, 2],
    "dim": 32,
    "text_card": 60,
    "text_card_out": 5,
    "existing_text_padding_id": 3,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 40,
    "max_period": 10000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 24,
    "depformer_dim_feedforward": 72,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_multi_linear": True,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "depformer_weights_per_step_schedule": [0, 1, 2, 2],
    "depformer_low_rank_embeddings": 8,
    "demux_second_stream": True,
    "conditioners": {},
    "cross_attention": False,
}
TTS = {"audio_delay": 0.32, "second_stream_ahead": 2}
# What an earlier kind has: one text, tables of full width, weights of each codebook.
PLAIN = {
    "demux_second_stream": False,
    "depformer_low_rank_embeddings": None,
    "depformer_weights_per_step_schedule": None,
    "depformer_dim_feedforward": 96,
    "text_card_out": None,
    "context": 800,
}


def lm_config(plain: bool = False, **changes: Any) -> dict[str, Any]:
    """A ``config.json``."""
    tts = {**TTS, "second_stream_ahead": 0 if plain else 2}
    return {**LM, **(PLAIN if plain else {}), "tts_config": tts, **changes}


def lm_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint."""
    d, w, k, low = c["dim"], c["depformer_dim"], c["n_q"], c["depformer_low_rank_embeddings"]
    sets = max(c["depformer_weights_per_step_schedule"] or range(k)) + 1
    shapes: dict[str, tuple[int, ...]] = {}

    def table(name: str, rows: int, width: int, narrow: int | None, mixed: bool = False) -> None:
        shapes[f"{name}.weight"] = (rows, narrow or width)
        if narrow:
            shapes[f"{name}.low_rank.weight"] = (width, narrow)
        for part in ("out1", "out2") if mixed else ():
            shapes[f"{name}.{part}.weight"] = (width, narrow or width)

    def layers(name: str, count: int, width: int, hidden: int, own: list[str]) -> None:
        for i in range(count):
            at = f"{name}.layers.{i}"
            for part in ("norm1", "norm2"):
                shapes[f"{at}.{part}.alpha"] = (1, 1, width)
            for s in range(len(own)):
                shapes[f"{at}.self_attn.in_projs.{s}.weight"] = (3 * width, width)
                shapes[f"{at}.self_attn.out_projs.{s}.weight"] = (width, width)
            for s in own:
                shapes[f"{at}.gating{s}.linear_in.weight"] = (2 * hidden, width)
                shapes[f"{at}.gating{s}.linear_out.weight"] = (width, hidden)

    mixed = c["demux_second_stream"]
    table("text_emb", c["text_card"] + 1, d, None, mixed)
    table("depformer_text_emb", c["text_card"] + 1, w, low, mixed)
    for i in range(k):
        table(f"emb.{i}", c["card"] + 1, d, None)
        shapes[f"linears.{i}.weight"] = (c["card"], w)
    for i in range(k - 1):
        table(f"depformer_emb.{i}", c["card"] + 1, w, low)
    for s in range(sets):
        shapes[f"depformer_in.{s}.weight"] = (w, d)
    shapes["text_linear.weight"] = (c["text_card_out"] or c["text_card"], d)
    shapes["out_norm.alpha"] = (1, 1, d)
    layers("transformer", c["num_layers"], d, 2 * int(c["hidden_scale"] * d) // 3, [""])
    wide = c["depformer_dim_feedforward"]
    hidden = 21 * w // 8 if wide == 4 * w else 2 * wide // 3
    layers("depformer", c["depformer_num_layers"], w, hidden, [f".{s}" for s in range(sets)])
    return shapes


def lm_state(c: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, lively enough that greedy codes vary."""
    state = random_weights(lm_shapes(c), seed, 1.5)
    rng = np.random.default_rng(seed + 1)
    for name in state:
        if name.endswith("alpha"):
            state[name] = (1 + 0.1 * rng.standard_normal(state[name].shape)).astype(np.float32)
    return state


def write_lm(folder: Path, config: dict[str, Any], state: dict[str, np.ndarray]) -> Path:
    """The files of a checkpoint but the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"moshi_name": "dsm_tts.safetensors", "tokenizer_name": "tokenizer.model"}
    (folder / "config.json").write_text(json.dumps({**config, **names}))
    save_tensors(folder / "dsm_tts.safetensors", state)
    return folder
