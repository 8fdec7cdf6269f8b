"""Weights of a post-filter that goes on from another, and those that become a model folder's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from uniaudio_engine.storage.config import PostFilterConfig
from uniaudio_engine.storage.folder_writing import add_postfilter

from ..checkpoints import load_postfilter
from ..settings import require


def started(init: str | Path, like: PostFilterConfig) -> dict[str, Tensor]:
    """The weights of the run or model folder ``init`` in the shape of ``like``.

    Longer kernels begin with zeros for what lies further back. Without those of a voice, where ``init``
    hears none. Raises ConfigError where ``init`` has another shape.
    """
    has_own = (Path(init) / f"{like.name}.safetensors").exists()
    config, weights = load_postfilter(init, like.name if has_own else "postfilter")
    more = like.kernel_size - config.kernel_size
    fits = replace(config, kernel_size=like.kernel_size)
    if not config.voice:
        fits = replace(fits, voice=like.voice, voice_blocks=like.voice_blocks)
    require(
        more >= 0 and fits == like,
        "init",
        "a filter of the shape of postfilter, or with shorter kernels",
        config,
    )
    longer = {n for n in weights if n.startswith("net.") and n.endswith("depthwise.weight")}
    return {n: functional.pad(w, (more, 0)) if n in longer else w for n, w in weights.items()}


def put_in_folder(
    folder: Path, run: str, name: str = "postfilter", dtype: str = "int8", share: float = 1.0
) -> None:
    """Make the filter of ``run``, a run or a folder that has one called ``name``, that of a model
    folder. ``share`` below 1: weights between those of the folder's filter (0) and the run's.

    Raises ConfigError where the folder's filter has another shape, ValueError where it has none.
    """
    config, tensors = load_postfilter(run, name)
    if share < 1:
        began = started(folder, config)
        tensors = {k: share * v + (1 - share) * began[k] for k, v in tensors.items()}
    add_postfilter(folder, config, {k: v.numpy() for k, v in tensors.items()}, dtype)
