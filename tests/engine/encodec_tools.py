"""Small EnCodec checkpoints, and an engine on the imported folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from codec_tools import build, double_of
from encodec_case import COMMON, PUBLISHED, codec_of, hf_state, write_hf

from uniaudio_engine import Engine, InputError
from uniaudio_engine.importers.encodec import import_encodec
from uniaudio_engine.storage.weight_shapes import codec_shapes

Config = dict[str, Any]
SMALL = {"num_filters": 6, "hidden_size": 24, "codebook_dim": 24, "codebook_size": 64}


def small(name: str, **changes: Any) -> Config:
    """A published configuration with few filters, of about as many codebooks (6 bits each instead
    of 10 or 11).
    """
    config = PUBLISHED[name] | SMALL | changes
    return config | {
        "target_bandwidths": [
            b * 6 / (11 if name == "32 kHz" else 10) for b in config["target_bandwidths"]
        ]
    }


class Case:
    """A small random model of one published shape: the torch module, and a checkpoint of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.config = name, small(name)
        self.codec = codec_of(self.config, folder)
        self.model = build(self.codec)
        self.double = double_of(self.codec, self.model)
        self.tensors = {k: v.numpy() for k, v in self.model.state_dict().items()}
        self.source = write_hf(folder / "source", self.config, hf_state(self.codec, self.tensors))
        import_encodec(self.source, folder / "ours")
        self.folder = folder / "ours"
        self.engine = Engine.from_pretrained(self.folder, threads=2)


def tiny(tmp_path: Path, **changes: Any) -> tuple[Path, Config, dict[str, np.ndarray]]:
    """A checkpoint of some kilobytes: (its folder, its configuration, its weights)."""
    config = (
        COMMON
        | SMALL
        | {
            "num_filters": 2,
            "upsampling_ratios": [3, 2],
            "hidden_size": 5,
            "codebook_dim": 5,
            "codebook_size": 16,
            "sampling_rate": 6000,
            "target_bandwidths": [4.0, 12.0],
        }
        | changes
    )
    codec = codec_of(config, tmp_path)
    rng = np.random.default_rng(0)
    state = hf_state(
        codec,
        {k: rng.standard_normal(s).astype(np.float32) for k, s in codec_shapes(codec).items()},
    )
    return write_hf(tmp_path / "source", config, state), config, state


def lengths(case: Case) -> list[int]:
    if case.name == "48 kHz":
        return [1, 47520, 47521, 48000, 48001, 99999]
    return [1, case.codec.frame_size, case.codec.frame_size + 1, 7777]


def refused(tmp_path: Path, source: Path, *words: str) -> None:
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError) as e:
        import_encodec(source, tmp_path / "ours")
    message = str(e.value)
    assert (
        "\n" not in message
        and len(message) < 500
        and any(w in message for w in ("config.json", "model.", source.name))
    )
    for word in words:
        assert word in message, message
    assert sorted(os.listdir(tmp_path)) == before
