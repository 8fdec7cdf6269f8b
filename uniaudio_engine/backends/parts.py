"""What an engine is made of, whatever runs it: a codec, a language model, a semantic tokenizer, behind the compiled core's interfaces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .. import cuda
from ..config import to_dict
from ..core import core
from ..cuda_codec import CudaCodec
from ..folder import ModelFolder
from ..voice import codec_fingerprint
from .graph_codec import GraphCodec
from .graph_lm import GraphLM
from .onnx_folder import Exported

BACKENDS = ("native", "onnx", "tensorrt")


@dataclass(frozen=True)
class Parts:
    """``codec`` as ``_C.Codec``; ``lm`` as ``_C.LM`` and ``semantic`` as ``_C.Codec``, where the model has them; ``fingerprint`` of the codec."""

    backend: str
    codec: Any
    lm: Any
    semantic: Any
    fingerprint: str
    parameters: int
    capacity: int = 0  # frames of a session, where what runs the graphs has fixed them


def native_parts(folder: ModelFolder, dtype: str, kv_dtype: str, threads: int, device: str) -> Parts:
    """The compiled core, or the CUDA library where ``device`` is one; codecs that look at whole clips run on the CPU beside it."""
    config = folder.config

    def codec(c: Any, weights: Any) -> Any:
        cpu = core().Codec(json.dumps(to_dict(c)), dict(weights), threads)
        return CudaCodec(c, weights, cpu, cuda.device_index(device)) if device != "cpu" and CudaCodec.fits(c) else cpu

    lm: Any = None
    if config.lm is not None and device == "cpu":
        lm = core().LM(json.dumps(to_dict(config.lm)), folder.lm, dtype, threads, kv_dtype)
    elif config.lm is not None:
        lm = cuda.CudaLM(config.lm, folder.lm, dtype, kv_dtype, cuda.device_index(device))
    semantic = codec(config.semantic.encoder, folder.semantic) if config.semantic is not None else None
    parameters = sum(w.size for part in (folder.codec, folder.lm, folder.semantic) for w in part.values())
    return Parts("native", codec(config.codec, folder.codec), lm, semantic, codec_fingerprint(folder.codec["quantizer.codebooks"]), parameters)


def graph_parts(exported: Exported, backend: str) -> Parts:
    """The graphs of an exported folder, by what runs them."""
    config = exported.folder.config
    lm = GraphLM(exported) if config.lm is not None else None
    semantic = GraphCodec(exported, config.semantic.encoder, "semantic_encoder", decoder=False) if config.semantic is not None else None
    return Parts(backend, GraphCodec(exported, config.codec), lm, semantic, str(exported.about["codec"]), int(exported.about.get("parameters", 0)), exported.capacity)
