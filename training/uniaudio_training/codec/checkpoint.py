"""Reads a codec run back as a module."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from uniaudio_engine.storage.config import CodecConfig, from_dict

from ..models.spectral import SpectralCodec


def load_codec(folder: str | Path) -> SpectralCodec:
    """The codec of a training run's folder (``codec.json`` + ``checkpoint.pt``).

    Raises FileNotFoundError if there is none yet.
    """
    folder = Path(folder)
    config = from_dict(CodecConfig, json.loads((folder / "codec.json").read_text()), "codec")
    model = SpectralCodec(config)
    model.load_state_dict(
        torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=False)["parts"][
            "model"
        ]
    )
    return model.eval()
