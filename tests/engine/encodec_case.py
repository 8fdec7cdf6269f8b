"""EnCodec checkpoints in the layout of transformers, made from our tensors: the three published
configurations with random weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from uniaudio_engine.importers.archive import Member
from uniaudio_engine.importers.encodec import read_config
from uniaudio_engine.importers.seanet import seanet_names
from uniaudio_engine.storage.config import CodecConfig
from uniaudio_engine.storage.tensors import save_tensors

# config.json of facebook/encodec_24khz, _32khz and _48khz, as far as they say something about the
# model
COMMON: dict[str, Any] = {
    "architectures": ["EncodecModel"],
    "model_type": "encodec",
    "torch_dtype": "float32",
    "transformers_version": "4.31.0",
    "audio_channels": 1,
    "chunk_length_s": None,
    "codebook_dim": 128,
    "codebook_size": 1024,
    "compress": 2,
    "dilation_growth_rate": 2,
    "hidden_size": 128,
    "kernel_size": 7,
    "last_kernel_size": 7,
    "norm_type": "weight_norm",
    "normalize": False,
    "num_filters": 32,
    "num_lstm_layers": 2,
    "num_residual_layers": 1,
    "overlap": None,
    "pad_mode": "reflect",
    "residual_kernel_size": 3,
    "sampling_rate": 24000,
    "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0],
    "trim_right_ratio": 1.0,
    "upsampling_ratios": [8, 5, 4, 2],
    "use_causal_conv": True,
    "use_conv_shortcut": True,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "24 kHz": COMMON,
    "32 kHz": COMMON
    | {
        "codebook_size": 2048,
        "num_filters": 64,
        "sampling_rate": 32000,
        "target_bandwidths": [2.2],
        "use_causal_conv": False,
        "upsampling_ratios": [8, 5, 4, 4],
        "use_conv_shortcut": False,
    },
    "48 kHz": COMMON
    | {
        "audio_channels": 2,
        "chunk_length_s": 1.0,
        "norm_type": "time_group_norm",
        "normalize": True,
        "overlap": 0.01,
        "sampling_rate": 48000,
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
        "use_causal_conv": False,
    },
}


def codec_of(config: dict[str, Any], folder: Path) -> CodecConfig:
    """What the importer makes of a configuration."""
    path = folder / "codec_of.json"
    path.write_text(json.dumps(config))
    return read_config(Member(path, path.name, path))[0]


def hf_state(
    c: CodecConfig, tensors: dict[str, np.ndarray], spelling: str = "original"
) -> dict[str, np.ndarray]:
    """Our tensors under transformers' names; weight norm unfolded as ``original`` (torch's
    parametrization), ``g`` (its older hook), or left ``plain``.
    """
    assert c.seanet is not None
    state: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(5)
    for ours, theirs in seanet_names(c.seanet, "transformers"):
        for name, x in tensors.items():
            if not name.startswith(f"{ours}."):
                continue
            part = name.removeprefix(f"{ours}.")
            if part.startswith("norm."):
                state[f"{theirs.rpartition('.')[0]}.{part}"] = x
            elif part == "weight" and c.seanet.norm == "none" and spelling != "plain":
                length = np.sqrt((x.astype(np.float64) ** 2).sum(axis=(1, 2), keepdims=True))
                keys = (
                    ("weight_g", "weight_v")
                    if spelling == "g"
                    else [f"parametrizations.weight.original{i}" for i in (0, 1)]
                )
                state[f"{theirs}.{keys[0]}"] = length.astype(np.float32)
                state[f"{theirs}.{keys[1]}"] = (x * rng.uniform(0.5, 2)).astype(np.float32)
            else:
                state[f"{theirs}.{part}"] = x
    for i, book in enumerate(tensors["quantizer.codebooks"]):
        place = f"quantizer.layers.{i}.codebook"
        ones = np.ones(1, np.float32)
        state |= {
            f"{place}.embed": book,
            f"{place}.embed_avg": book,
            f"{place}.cluster_size": ones,
            f"{place}.inited": ones,
        }
    return state


def write_hf(
    folder: Path, config: dict[str, Any], state: dict[str, np.ndarray], kind: str = "safetensors"
) -> Path:
    """``config.json`` and weights, as ``safetensors`` or (with torch) as a ``bin``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if kind == "safetensors":
        save_tensors(folder / "model.safetensors", state, {"format": "pt"})
    else:
        import torch

        torch.save(
            {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()},
            folder / "pytorch_model.bin",
        )
    return folder
