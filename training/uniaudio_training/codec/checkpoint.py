"""Reads a codec run back as a module."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from uniaudio_engine.storage.config import CodecConfig, from_dict

from ..models.spectral import SpectralCodec


def load_codec(folder: str | Path, averaged: bool = True) -> SpectralCodec:
    """The codec of a training run's folder (``codec.json`` + ``checkpoint.pt``).

    Raises FileNotFoundError if there is none yet.

    ``averaged``: the average of its weights, where the run keeps one.
    """
    folder = Path(folder)
    config = from_dict(CodecConfig, json.loads((folder / "codec.json").read_text()), "codec")
    model = SpectralCodec(config)
    checkpoint = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=False)
    parts = checkpoint["parts"]
    model.load_state_dict(parts.get("average", parts["model"]) if averaged else parts["model"])
    return model.eval()
