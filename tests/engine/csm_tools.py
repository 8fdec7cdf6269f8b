"""Random CSM checkpoints in transformers' layout, small, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from windowed_tools import MIMI, mimi_state

from uniaudio_engine.storage.tensors import save_tensors

ROWS = 67  # of a codebook: three more than the codec has codes, as upstream
CSM: dict[str, Any] = {
    "model_type": "csm",
    "num_codebooks": 5,
    "vocab_size": ROWS,
    "text_vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 400,
    "bos_token_id": 298,
    "codebook_eos_token_id": 0,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 0.125,
        "high_freq_factor": 0.5,
        "original_max_position_embeddings": 64,
    },
    "depth_decoder_config": {
        "num_codebooks": 5,
        "backbone_hidden_size": 48,
        "vocab_size": ROWS,
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 500000.0,
    },
    "codec_config": MIMI,
}


def llama_layer(
    of: str, width: int, queries: int, keys: int, inner: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of a Llama layer's tensors; ``queries``, ``keys``: widths of all heads together."""
    return {
        f"{of}.self_attn.q_proj.weight": (queries, width),
        f"{of}.self_attn.k_proj.weight": (keys, width),
        f"{of}.self_attn.v_proj.weight": (keys, width),
        f"{of}.self_attn.o_proj.weight": (width, queries),
        f"{of}.mlp.gate_proj.weight": (inner, width),
        f"{of}.mlp.up_proj.weight": (inner, width),
        f"{of}.mlp.down_proj.weight": (width, inner),
        f"{of}.input_layernorm.weight": (width,),
        f"{of}.post_attention_layernorm.weight": (width,),
    }


def csm_state(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint of :data:`CSM`; ``folder`` is scratch."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embed_text_tokens.weight": (300, 48),
        "lm_head.weight": (ROWS, 48),
        "backbone_model.embed_tokens.embed_audio_tokens.weight": (5 * ROWS, 48),
        "depth_decoder.model.inputs_embeds_projector.weight": (40, 48),
        "depth_decoder.codebooks_head.weight": (4, 40, ROWS),
    }
    for name, c in (("backbone_model", CSM), ("depth_decoder.model", CSM["depth_decoder_config"])):
        d, m = c["hidden_size"], c["intermediate_size"]
        kv = d // c["num_attention_heads"] * c["num_key_value_heads"]
        for i in range(c["num_hidden_layers"]):
            shapes |= llama_layer(f"{name}.layers.{i}", d, d, kv, m)
        shapes[f"{name}.norm.weight"] = (d,)
    state = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape) * (0.5 if "embed_" in name else shape[-1] ** -0.5)
        state[name] = (x + (len(shape) == 1)).astype(np.float32)
    codec = {f"codec_model.{n}": x for n, x in mimi_state(MIMI, folder).items()}
    return state | codec


def write_csm(
    folder: Path, config: dict[str, Any] = CSM, state: dict[str, np.ndarray] | None = None
) -> Path:
    """``config.json``, ``model.safetensors`` and a byte-level ``tokenizer.json``."""
    folder.mkdir(exist_ok=True)
    tensors = csm_state(folder.parent) if state is None else state
    (folder / "config.json").write_text(json.dumps(config))
    save_tensors(folder / "model.safetensors", tensors)
    alphabet = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in alphabet] + [chr(256 + i) for i in range(256 - len(alphabet))]
    vocab = {c: i for i, c in enumerate(letters)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"use_regex": True},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder
