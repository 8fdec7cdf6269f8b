"""Reads codecs, semantic tokenizers and post-filters from runs, model folders and files of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uniaudio_engine.storage.config import (
    CodecConfig,
    PostFilterConfig,
    SemanticConfig,
    from_dict,
    to_dict,
)
from uniaudio_engine.storage.folder import load_codec as load_stored_codec
from uniaudio_engine.storage.folder import load_config, load_folder
from uniaudio_engine.storage.tensors import from_bfloat16

from . import packed, run_checkpoint
from .models.spectral import SpectralCodec

# Next to the checkpoint of a run:
_CODEC, _SEMANTIC, _POSTFILTER = "codec.json", "semantic.json", "postfilter.json"


def write_codec_config(config: CodecConfig, folder: str | Path) -> None:
    """Writes ``codec.json``, the architecture of the run's checkpoint."""
    (Path(folder) / _CODEC).write_text(json.dumps(to_dict(config), indent=2))


def write_semantic_config(config: SemanticConfig, folder: str | Path) -> None:
    """Writes ``semantic.json``, the architecture of the run's checkpoint."""
    (Path(folder) / _SEMANTIC).write_text(json.dumps(to_dict(config), indent=2))


def write_postfilter_config(config: PostFilterConfig, folder: str | Path) -> None:
    """Writes ``postfilter.json``, the architecture of the run's checkpoint."""
    (Path(folder) / _POSTFILTER).write_text(json.dumps(to_dict(config), indent=2))


def load_codec(folder: str | Path, averaged: bool = True) -> SpectralCodec:
    """The codec of a run folder, in evaluation mode; with ``averaged``, its averaged weights if it
    has them.

    Raises FileNotFoundError where the folder has no checkpoint yet.
    """
    text = (Path(folder) / _CODEC).read_text()
    return _load(from_dict(CodecConfig, json.loads(text), "codec"), folder, averaged)


def read_codec(path: str | Path) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Config and float32 weights of a codec: of a run (averaged, if it keeps an average), of a
    model folder or its ``codec.safetensors`` with ``config.json`` beside it, or of a file that
    ``codec.joint.export`` wrote.

    Raises OSError where there is nothing to read, ValueError where a file holds something else.
    """
    path = Path(path)
    is_file = path.suffix == ".safetensors"
    folder = path.parent if is_file else path
    if (folder / "config.json").exists():
        config = load_config(folder).codec
        file = path if is_file else folder / "codec.safetensors"
        return config, float32_tensors(load_stored_codec(file, config, False))
    if is_file:
        described, weights = _packed(path, "codec")
        return from_dict(CodecConfig, described, "codec"), weights
    model = load_codec(path)
    return model.config, {k: v.float() for k, v in model.state_dict().items()}


def load_semantic(folder: str | Path) -> tuple[SemanticConfig, SpectralCodec]:
    """The semantic tokenizer of a run or model folder: its config, and its encoder in evaluation
    mode.

    Raises FileNotFoundError where a run has no checkpoint yet, ValueError where a model has none.
    """
    if (Path(folder) / "config.json").exists():
        found = load_folder(folder)
        if found.config.semantic is None:
            raise ValueError(f"{folder}: expected a folder with a semantic tokenizer, it has none")
        model = SpectralCodec(found.config.semantic.encoder)
        model.load_state_dict(float32_tensors(found.semantic))
        return found.config.semantic, model.eval()
    text = (Path(folder) / _SEMANTIC).read_text()
    config = from_dict(SemanticConfig, json.loads(text), "semantic")
    return config, _load(config.encoder, folder)


def load_postfilter(
    folder: str | Path, name: str = "postfilter"
) -> tuple[PostFilterConfig, dict[str, Tensor]]:
    """The post-filter of a run, or the filter ``name`` of a model folder: its config and float32
    weights.

    Raises OSError where a run has no checkpoint yet, ValueError where a model has none.
    """
    if (Path(folder) / "config.json").exists():
        found = load_folder(folder)
        if name not in found.config.filters:
            raise ValueError(f"{folder}: expected a folder with a {name}, it has none")
        return found.config.filters[name], float32_tensors(found.filters[name])
    text = (Path(folder) / _POSTFILTER).read_text()
    config = from_dict(PostFilterConfig, json.loads(text), "postfilter")
    weights = run_checkpoint.weights(folder, averaged=False)
    return config, {name: w.float() for name, w in weights.items()}


def read_lm(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What describes an LM (the contents of a run's ``lm.json``) and its weights: of a run, or of a
    file that ``training/gpu/export.py`` wrote.

    Raises OSError where there is nothing to read, ValueError where the file holds something else.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _packed(path, "lm")
    described = json.loads((path / "lm.json").read_text(encoding="utf-8"))
    return described, run_checkpoint.weights(path, averaged=False)


def _packed(path: Path, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description of a codec or lm in a packed file, and its weights."""
    weights, about = packed.load(path)
    if what not in about:
        raise ValueError(
            f"{path}: expected a packed {what}, got one of {', '.join(about) or 'no kind'}"
        )
    return json.loads(about[what]), weights


def float32_tensors(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The tensors of a model folder, which stores bfloat16 as uint16."""
    arrays = {
        k: from_bfloat16(v) if v.dtype == np.uint16 else np.asarray(v, np.float32)
        for k, v in tensors.items()
    }
    return {k: torch.from_numpy(v.copy()) for k, v in arrays.items()}


def _load(config: CodecConfig, folder: str | Path, averaged: bool = True) -> SpectralCodec:
    model = SpectralCodec(config)
    model.load_state_dict(run_checkpoint.weights(folder, averaged))
    return model.eval()
