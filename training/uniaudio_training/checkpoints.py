"""Loads finished codec and semantic-tokenizer runs as modules."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from uniaudio_engine.storage.config import CodecConfig, SemanticConfig, from_dict, to_dict

from .models.spectral import SpectralCodec

_CODEC, _SEMANTIC = "codec.json", "semantic.json"  # next to checkpoint.pt of a run


def write_codec_config(config: CodecConfig, folder: str | Path) -> None:
    """Writes ``codec.json``, the architecture of the run's checkpoint."""
    (Path(folder) / _CODEC).write_text(json.dumps(to_dict(config), indent=2))


def write_semantic_config(config: SemanticConfig, folder: str | Path) -> None:
    """Writes ``semantic.json``, the architecture of the run's checkpoint."""
    (Path(folder) / _SEMANTIC).write_text(json.dumps(to_dict(config), indent=2))


def load_codec(folder: str | Path, averaged: bool = True) -> SpectralCodec:
    """The codec of a run folder, in evaluation mode; with ``averaged``, its averaged weights if it
    has them.

    Raises FileNotFoundError where the folder has no checkpoint yet.
    """
    text = (Path(folder) / _CODEC).read_text()
    return _load(from_dict(CodecConfig, json.loads(text), "codec"), folder, averaged)


def load_semantic(folder: str | Path) -> tuple[SemanticConfig, SpectralCodec]:
    """The semantic tokenizer of a run folder: its config, and its encoder in evaluation mode.

    Raises FileNotFoundError where the folder has no checkpoint yet.
    """
    text = (Path(folder) / _SEMANTIC).read_text()
    config = from_dict(SemanticConfig, json.loads(text), "semantic")
    return config, _load(config.encoder, folder)


def _load(config: CodecConfig, folder: str | Path, averaged: bool = True) -> SpectralCodec:
    model = SpectralCodec(config)
    state = torch.load(Path(folder) / "checkpoint.pt", map_location="cpu", weights_only=False)
    parts = state["parts"]
    model.load_state_dict(parts.get("average", parts["model"]) if averaged else parts["model"])
    return model.eval()
