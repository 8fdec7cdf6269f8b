"""Reads a semantic run back as a module."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from uniaudio_engine.storage.config import SemanticConfig, from_dict

from ..models.spectral import SpectralCodec


def load_semantic(folder: str | Path) -> tuple[SemanticConfig, SpectralCodec]:
    """The tokenizer of a training run's folder (``semantic.json`` + ``checkpoint.pt``).

    Raises FileNotFoundError if there is none yet.
    """
    folder = Path(folder)
    config = from_dict(
        SemanticConfig, json.loads((folder / "semantic.json").read_text()), "semantic"
    )
    model = SpectralCodec(config.encoder)
    model.load_state_dict(
        torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=False)["parts"][
            "model"
        ]
    )
    return config, model.eval()
