"""What an engine is made of, whatever runs it: a codec, a language model, a semantic tokenizer,
behind the compiled core's interfaces.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from ..audio.voice import codec_fingerprint
from ..errors import InputError, shown
from ..storage.config import to_dict
from ..storage.dtypes import KV_DTYPES, auto_kv_dtype, weight_format
from ..storage.folder import ModelFolder, load_folder
from . import cuda
from .core import core
from .cuda_codec import CudaCodec
from .graph_codec import GraphCodec
from .graph_lm import GraphLM
from .onnx_folder import Exported, OnnxFolder, is_exported
from .tensorrt import TrtFolder

BACKENDS = ("native", "onnx", "tensorrt")


@dataclass(frozen=True)
class Parts:
    """``codec`` as ``_C.Codec``; ``lm`` as ``_C.LM`` and ``semantic`` as ``_C.Codec``, where the
    model has them; ``fingerprint`` of the codec.

    ``dtype``, ``kv_dtype`` and ``device`` are what runs, never auto.
    """

    folder: ModelFolder
    backend: str
    device: str
    dtype: str
    kv_dtype: str
    codec: Any
    lm: Any
    semantic: Any
    fingerprint: str
    parameters: int
    capacity: int = 0  # frames of a session, where what runs the graphs has fixed them


def load_parts(
    path: str | os.PathLike[str] | None,
    device: str,
    dtype: str,
    backend: str,
    kv_dtype: str,
    threads: int,
) -> Parts:
    """What ``Engine.from_pretrained`` asks for, each of ``device``, ``dtype`` and ``kv_dtype``
    perhaps auto.

    Raises :class:`InputError` for what cannot be had.
    """
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
    if backend == "tensorrt":
        return _graph_parts(
            TrtFolder(os.fspath(path or ""), "cuda" if device == "auto" else device), backend
        )
    if not is_exported(path):
        raise InputError(
            f"{path}: expected a folder of graphs; make one: uniaudio export onnx -o FOLDER"
        )
    if device not in ("auto", "cpu"):
        cuda.device_index(device)  # that it names one
    return _graph_parts(
        OnnxFolder(os.fspath(path or ""), "cpu" if device == "auto" else device, threads), backend
    )


def _native_parts(
    path: str | os.PathLike[str] | None, device: str, dtype: str, kv_dtype: str, threads: int
) -> Parts:
    """The compiled core, or the CUDA library where ``device`` is one; codecs that look at whole
    clips run on the CPU beside it.
    """
    if device != "cpu":
        cuda.check_device(device)
    if is_exported(path):
        raise InputError(
            f"{path}: expected a model folder, got graphs that were exported; use backend onnx "
            "(or tensorrt)"
        )
    folder = load_folder(path)
    config = folder.config
    c = config.codec
    if config.lm is not None and (c.channels != 1 or c.normalizes or c.chunk[0]):
        raise InputError(
            f"{folder.path}: expected a mono codec of whole clips beside the language model, got "
            "one of several channels, in chunks or without loudness"
        )
    dtype = weight_format(dtype, folder)[0]
    kv_dtype = auto_kv_dtype(dtype, device) if kv_dtype == "auto" else kv_dtype

    def codec(c: Any, weights: Any) -> Any:
        cpu = core().Codec(json.dumps(to_dict(c)), dict(weights), threads)
        return (
            CudaCodec(c, weights, cpu, cuda.device_index(device))
            if device != "cpu" and CudaCodec.fits(c)
            else cpu
        )

    lm: Any = None
    if config.lm is not None and device == "cpu":
        lm = core().LM(json.dumps(to_dict(config.lm)), folder.lm, dtype, threads, kv_dtype)
    elif config.lm is not None:
        lm = cuda.CudaLM(config.lm, folder.lm, dtype, kv_dtype, cuda.device_index(device))
    semantic = (
        codec(config.semantic.encoder, folder.semantic) if config.semantic is not None else None
    )
    parameters = sum(
        w.size for part in (folder.codec, folder.lm, folder.semantic) for w in part.values()
    )
    fingerprint = codec_fingerprint(folder.codec["quantizer.codebooks"])
    return Parts(
        folder,
        "native",
        device,
        dtype,
        kv_dtype,
        codec(c, folder.codec),
        lm,
        semantic,
        fingerprint,
        parameters,
    )


def _graph_parts(exported: Exported, backend: str) -> Parts:
    """The graphs of an exported folder, by what runs them."""
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
        fingerprint,
        parameters,
        exported.capacity,
    )
