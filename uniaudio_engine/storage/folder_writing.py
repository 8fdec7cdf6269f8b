"""Writes model folders, and replaces parts of them. What is in one: ``folder.py``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codec_int8 import from_int8, to_int8
from .config import CodecConfig, ModelConfig, PostFilterConfig, SemanticConfig
from .files import atomic_write
from .folder import (
    UNIT_PHONES,
    check_model,
    check_weights,
    find_folder,
    load_config,
    load_described,
    load_weights,
    speaker_shapes,
    unit_phones_shape,
)
from .tensors import from_bfloat16, save_tensors
from .weight_shapes import Shapes, codec_shapes, in_codec, lm_shapes, postfilter_shapes


def save_folder(
    path: str | os.PathLike[str],
    config: ModelConfig,
    codec: Mapping[str, NDArray[Any]],
    lm: Mapping[str, NDArray[Any]] | None = None,
    phones: Iterable[str] = (),
    dtype: str = "float32",
    semantic: Mapping[str, NDArray[Any]] | None = None,
    captions: bytes = b"",
    labels: Mapping[str, tuple[str, ...]] | None = None,
    tokenizer: bytes = b"",
    speaker: Mapping[str, NDArray[Any]] | None = None,
    codec_dtype: str | None = None,
) -> None:
    """Write a model folder of float32 arrays by state-dict name; ``dtype`` "bfloat16" rounds all
    but vectors and codebooks (a rounded codebook would give other codes than those the LM has
    learned). ``codec_dtype``: that of the codec, if it is another one; it may be int8.
    """
    folder = Path(path)
    phones = tuple(phones)
    config.check()
    check_model(config, phones, folder, labels)
    parts = [("codec.safetensors", codec, codec_shapes(config.codec))]
    if config.lm is not None:
        parts.append(("lm.safetensors", lm or {}, lm_shapes(config.lm)))
    if config.semantic is not None:
        parts.append(
            ("semantic.safetensors", semantic or {}, codec_shapes(config.semantic.encoder))
        )
    if shapes := speaker_shapes(config):
        parts.append(("speaker.safetensors", speaker or {}, shapes))
    for name, tensors, shapes in parts:
        check_weights(tensors, shapes, str(folder / name))
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors, _ in parts:
        own = codec_dtype or dtype if name == "codec.safetensors" else dtype
        stored = to_int8(tensors) if own == "int8" else tensors
        save_tensors(folder / name, stored, rounded=_rounded(stored, own))
    if phones:
        with atomic_write(folder / "phones.txt") as f:
            f.write("".join(f"{p}\n" for p in phones).encode())
    for name, content in (("text.model", captions), ("tokenizer.json", tokenizer)):
        if content:
            with atomic_write(folder / name) as f:
                f.write(content)
    for span, names in (labels or {}).items():
        (folder / "labels").mkdir(exist_ok=True)
        with atomic_write(folder / "labels" / f"{span}.txt") as f:
            f.write("".join(f"{name}\n" for name in names).encode())
    _write_config(folder, config)  # last: a folder without it is no model yet


def add_semantic(
    path: str | os.PathLike[str],
    semantic: SemanticConfig,
    tensors: Mapping[str, NDArray[Any]],
    dtype: str = "bfloat16",
) -> None:
    """Put a semantic tokenizer (float32 arrays by state-dict name) into a model folder, or replace
    the one that is there. What the units of that one stand for is removed.
    """
    folder = find_folder(path)
    config = dataclasses.replace(load_config(folder), semantic=semantic)
    (folder / UNIT_PHONES).unlink(missing_ok=True)
    _add_part(folder, config, "semantic", tensors, codec_shapes(semantic.encoder), dtype)


def add_unit_phones(path: str | os.PathLike[str], probability: NDArray[np.float32]) -> None:
    """Put the probability [units, phones] of each phone given each semantic unit into a model folder.

    Raises :class:`InputError` where the shape is not that of its tokenizer and phones.
    """
    described = load_described(find_folder(path))
    file = described.path / UNIT_PHONES
    shape = unit_phones_shape(described.config, described.phones)
    tensors = {"probability": np.asarray(probability, np.float32)}
    check_weights(tensors, {"probability": shape}, str(file))
    save_tensors(file, tensors, rounded={"probability"})


def add_postfilter(
    path: str | os.PathLike[str],
    postfilter: PostFilterConfig,
    tensors: Mapping[str, NDArray[Any]],
    dtype: str = "bfloat16",
) -> None:
    """Put a post-filter (float32 arrays by state-dict name) into a model folder, or replace the one
    that is there: its voice filter where ``postfilter`` hears a voice, else the one of clean-up.
    ``dtype``: float32, bfloat16 or int8.
    """
    folder = find_folder(path)
    change: dict[str, Any] = {postfilter.name: postfilter}
    config = dataclasses.replace(load_config(folder), **change)
    _add_part(folder, config, postfilter.name, tensors, postfilter_shapes(postfilter), dtype)


def _add_part(
    folder: Path,
    config: ModelConfig,
    part: str,
    tensors: Mapping[str, NDArray[Any]],
    shapes: Shapes,
    dtype: str,
) -> None:
    config.check()
    file = folder / f"{part}.safetensors"
    check_weights(tensors, shapes, str(file))
    stored = to_int8(tensors) if dtype == "int8" else tensors
    save_tensors(file, stored, rounded=_rounded(stored, dtype))
    _write_config(folder, config)


def replace_codec(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    codec: CodecConfig | None = None,
) -> None:
    """Replace the weights of a model folder's codec (float32 arrays by state-dict name), and its
    config by ``codec`` if that is given.

    They are stored in the types that the folder's have. Those that do not change keep their bits.
    """
    folder = find_folder(path)
    config = load_config(folder)
    made = dataclasses.replace(config, codec=codec or config.codec)
    made.check()
    file = folder / "codec.safetensors"
    check_weights(tensors, codec_shapes(made.codec), str(file))
    before = load_weights(file, codec_shapes(config.codec), quantized=in_codec)
    dtypes = {x.dtype for x in before.values()}
    after = to_int8(tensors) if np.dtype(np.int8) in dtypes else dict(tensors)
    old = from_int8(before)
    for name in tensors.keys() & old.keys():
        same = from_bfloat16(old[name]) if old[name].dtype == np.uint16 else old[name]
        if np.array_equal(same, tensors[name]):
            after |= {n: before[n] for n in (name, f"{name}_scale") if n in before}
    half = np.dtype(np.uint16)
    rounded = {
        n
        for n in _rounded(after, "bfloat16")
        if (before[n].dtype == half if n in before else half in dtypes)
    }
    save_tensors(file, after, rounded=rounded)
    if made != config:
        _write_config(folder, made)


def _write_config(folder: Path, config: ModelConfig) -> None:
    with atomic_write(folder / "config.json") as f:
        f.write((config.to_json() + "\n").encode())


def _rounded(tensors: Mapping[str, NDArray[Any]], dtype: str) -> set[str]:
    """The tensors that a folder of this ``dtype`` stores as bfloat16."""
    return {
        name
        for name, x in tensors.items()
        if dtype == "bfloat16"
        and x.dtype == np.float32
        and x.ndim > 1
        and not name.startswith("quantizer.")
    }
