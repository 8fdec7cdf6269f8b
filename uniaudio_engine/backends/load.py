"""Choosing what runs a model: the compiled core, a device, or exported graphs, each behind the
protocols of ``protocols.py``.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from ..audio.voice import codec_fingerprint
from ..errors import InputError, shown
from ..storage.config import CodecConfig, to_dict
from ..storage.dtypes import KV_DTYPES, auto_kv_dtype, weight_format
from ..storage.folder import ModelFolder, load_folder
from . import cuda
from .core import core
from .onnx_folder import Exported, OnnxFolder, is_exported
from .protocols import Codec, LanguageModel, PostFilter

A = TypeVar("A")
B = TypeVar("B")

BACKENDS = ("native", "onnx", "tensorrt")


@dataclass(frozen=True)
class Parts:
    """A loaded model.  ``dtype``, ``kv_dtype`` and ``device`` are what runs, never auto.

    ``folder``: without the weights that the backend runs.
    """

    folder: ModelFolder
    backend: str
    device: str
    dtype: str
    kv_dtype: str
    codec: Codec
    lm: LanguageModel | None
    semantic: Codec | None
    """Runs the semantic tokenizer's encoder."""
    filters: Mapping[str, PostFilter]
    """By name."""
    fingerprint: str
    """Of the codec, as voices are marked with it."""
    parameters: int
    capacity: int = 0
    """Frames of a session where the exported graphs fix them, else 0."""


def load_parts(
    path: str | os.PathLike[str] | None,
    device: str,
    dtype: str,
    backend: str,
    kv_dtype: str,
    threads: int,
) -> Parts:
    """The model in the folder ``path``; ``device``, ``dtype`` and ``kv_dtype`` may be "auto".

    Raises :class:`InputError` for a choice that this machine, the backend or the model does not
    support.
    """
    if not isinstance(device, str):
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, got {shown(device)}")
    try:
        Path(path or "").is_dir()
    except (OSError, TypeError) as e:  # a name that is too long, or no name
        reason = e.strerror if isinstance(e, OSError) else e
        raise InputError(f"{shown(path)}: expected a model folder, got: {reason}") from None
    if backend not in BACKENDS:
        raise InputError(f"backend: expected {' or '.join(BACKENDS)}, got {shown(backend)}")
    if kv_dtype not in ("auto", *KV_DTYPES):
        raise InputError(f"kv_dtype: expected auto, {', '.join(KV_DTYPES)}, got {shown(kv_dtype)}")
    if backend == "native":
        return _native_parts(path, "cpu" if device == "auto" else device, dtype, kv_dtype, threads)
    if dtype != "auto" or kv_dtype != "auto":
        raise InputError(
            f"dtype and kv_dtype: expected auto with backend {backend}, since the export has "
            "fixed them; export with another --dtype"
        )
    if path is None:
        raise InputError(
            f"backend {backend}: expected a folder of graphs (-m FOLDER), got none; make one: "
            "uniaudio export onnx -o FOLDER"
        )
    if backend == "tensorrt":
        from .tensorrt import TrtFolder

        return _graph_parts(
            TrtFolder(os.fspath(path), "cuda" if device == "auto" else device), backend, threads
        )
    if not is_exported(path):
        raise InputError(
            f"{path}: expected a folder of graphs; make one: uniaudio export onnx -o FOLDER"
        )
    if device not in ("auto", "cpu"):
        cuda.device_index(device)  # raises unless it names one
    return _graph_parts(
        OnnxFolder(os.fspath(path), "cpu" if device == "auto" else device, threads),
        backend,
        threads,
    )


def _native_parts(
    path: str | os.PathLike[str] | None, device: str, dtype: str, kv_dtype: str, threads: int
) -> Parts:
    """The compiled core, or the CUDA module where ``device`` is one.

    Codecs that a device does not run (see :func:`cuda.fits`) run on the CPU.
    """
    if device != "cpu":
        cuda.check_device(device)
    if is_exported(path):
        raise InputError(
            f"{path}: expected a model folder, got graphs that were exported; use backend onnx "
            "(or tensorrt)"
        )
    folder = load_folder(path, mapped=True)
    config = folder.config
    c = config.codec
    if config.lm is not None and (c.normalizes or c.chunk[0]):
        raise InputError(
            f"{folder.path}: expected a codec of whole clips with their loudness beside the language "
            "model, got one in chunks or without loudness"
        )
    dtype = weight_format(dtype, folder)[0]
    kv_dtype = auto_kv_dtype(dtype, device) if kv_dtype == "auto" else kv_dtype

    index = None if device == "cpu" else cuda.device_index(device)

    def codec(c: CodecConfig, weights: Mapping[str, NDArray[Any]]) -> Codec:
        text = json.dumps(to_dict(c))
        if index is not None and cuda.fits(c):
            return cuda.module().Codec(text, dict(weights), index)
        return core().Codec(text, dict(weights), threads)

    def lm() -> LanguageModel | None:
        if config.lm is None:
            return None
        text, weights = json.dumps(to_dict(config.lm)), dict(folder.lm)
        if index is None:
            return core().LM(text, weights, dtype, threads, kv_dtype)
        return cuda.module().LM(text, weights, dtype, kv_dtype, index)

    def codecs() -> tuple[Codec, Codec | None]:
        semantic = config.semantic
        return (
            codec(c, folder.codec),
            None if semantic is None else codec(semantic.encoder, folder.semantic),
        )

    def codecs_and_filters() -> tuple[tuple[Codec, Codec | None], dict[str, PostFilter]]:
        return codecs(), _filters(folder, threads)

    # Each arranges its weights on one core, without the GIL.
    language_model, ((audio, semantic), filters) = _at_once(lm, codecs_and_filters)
    parameters = sum(w.size for part in folder.weights for w in part.values())
    fingerprint = codec_fingerprint(folder.codec["quantizer.codebooks"])
    # The backends have the weights as they run them.
    bare = replace(folder, codec={}, lm={}, semantic={}, filters={})
    return Parts(
        bare,
        "native",
        device,
        dtype,
        kv_dtype,
        audio,
        language_model,
        semantic,
        filters,
        fingerprint,
        parameters,
    )


def _filters(folder: ModelFolder, threads: int) -> dict[str, PostFilter]:
    """The filters that a model has. They are small: every backend runs them on the CPU."""
    return {
        name: core().PostFilter(json.dumps(to_dict(c)), dict(folder.filters[name]), threads)
        for name, c in folder.config.filters.items()
    }


def _at_once(one: Callable[[], A], other: Callable[[], B]) -> tuple[A, B]:
    """The results of both calls; the first runs in a thread of its own."""
    results: list[A] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(one())
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=run, name="uniaudio-load")
    try:
        thread.start()
    except RuntimeError:  # Python is exiting, and starts no more threads
        run()
    try:
        second = other()
    finally:
        if thread.ident is not None:
            thread.join()
    if errors:
        raise errors[0]
    return results[0], second


def _graph_parts(exported: Exported, backend: str, threads: int) -> Parts:
    """The graphs of an exported folder, by what runs them."""
    from .graph_codec import GraphCodec
    from .graph_lm import GraphLM

    folder, about = exported.folder, exported.about
    config = folder.config
    kv_dtype = "float16" if exported.dtype == "float16" else "float32"
    codec = GraphCodec(exported, config.codec)
    lm = GraphLM(exported) if config.lm is not None else None
    semantic = (
        GraphCodec(exported, config.semantic.encoder, "semantic_encoder", decoder=False)
        if config.semantic is not None
        else None
    )
    fingerprint, parameters = str(about["codec"]), int(about.get("parameters", 0))
    return Parts(
        folder,
        backend,
        exported.device,
        exported.dtype,
        kv_dtype,
        codec,
        lm,
        semantic,
        _filters(folder, threads),
        fingerprint,
        parameters,
        exported.capacity,
    )
