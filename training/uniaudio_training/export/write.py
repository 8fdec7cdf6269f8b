"""``uniaudio export onnx``: a model folder -> a folder of ONNX graphs that share one weights file.

``OUT/`` contains:

- one file per graph
- ``weights.bin``: every larger tensor once
- ``export.json``: the contents, with a checksum of each file
- ``golden.safetensors``: inputs and outputs of each graph
- the model's ``config.json``, tokenizers, labels and voices
- ``example.py`` and ``example.cc``
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from uniaudio_engine import __version__
from uniaudio_engine.audio.voice import codec_fingerprint
from uniaudio_engine.backends.core import core
from uniaudio_engine.errors import InputError, shown
from uniaudio_engine.storage.files import atomic_folder
from uniaudio_engine.storage.folder import UNIT_PHONES, ModelFolder, load_folder
from uniaudio_engine.storage.postfilter_config import FILTERS
from uniaudio_engine.storage.tensors import save_tensors

from .graphs import Graph, model_graphs

FORMAT = "uniaudio-onnx-1"
OPSET = 20
DTYPES = ("float32", "float16", "int8")
LARGE = 1024  # bytes; larger tensors are stored in the shared file
ALIGN = 4096  # bytes, so that a runtime can map the tensors
COPIED = (
    "config.json",
    "phones.txt",
    "text.model",
    "lexicon.txt",
    "README.md",
    "labels",
    "voices",
    *(f"{name}.safetensors" for name in FILTERS),
    UNIT_PHONES,
)


class Weights:
    """``weights.bin``: concatenated tensors; identical bytes are stored once."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._places: dict[bytes, int] = {}
        self._file = path.open("wb")

    def put(self, data: bytes) -> int:
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self.size % ALIGN))
            self.size += -self.size % ALIGN
            self._places[key] = self.size
            self._file.write(data)
            self.size += len(data)
        return self._places[key]

    def close(self) -> None:
        self._file.close()


def export_onnx(
    model: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    dtype: str = "float32",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes the folder ``out``, completely or not at all; returns the contents of ``export.json``.

    Raises :class:`InputError` where ``out`` exists, or for models without graphs: codecs with
    several channels, chunks, transformers or loudness normalisation, and quantized weights.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: expected {', '.join(DTYPES)}, got {shown(dtype)}")
    target = Path(out)
    if target.exists():
        raise InputError(
            f"{target}: expected a folder that is not there yet, got one that is; remove it or "
            "choose another"
        )
    folder = load_folder(model)
    c = folder.config.codec
    if c.channels != 1 or c.normalizes or c.chunk[0] or c.core_only:
        raise InputError(
            f"{folder.path}: expected a mono codec of whole clips, got one of several channels, "
            "in chunks, with transformers or that normalises loudness; these have no graphs"
        )
    if folder.config.lm is not None and (folder.config.lm.delays or folder.config.lm.given_slots):
        raise InputError(
            f"{folder.path}: expected a language model without delays of slots or given slots, which "
            "graphs do not have; run it on the native backend"
        )
    if any(k.endswith("_scale") for k in folder.lm):
        raise InputError(
            f"{folder.path}: expected weights in float32 or bfloat16, got quantized ones; export "
            "the folder that was quantized"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as work:
        return _write(folder, work / "new", dtype, progress)


def _write(
    folder: ModelFolder, out: Path, dtype: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    weights = Weights(out / "weights.bin")
    graphs: dict[str, Any] = {}
    golden: dict[str, Any] = {}
    metadata = {
        "model": folder.config.name,
        "licence": folder.config.licence,
        "dtype": dtype,
        "format": FORMAT,
        "version": __version__,
    }
    for graph in model_graphs(folder, dtype):
        progress(f"{graph.name}: tracing")
        proto = trace(graph)
        if dtype == "int8" and graph.name.startswith(("global", "local")):
            quantize(proto)
        proto.producer_name, proto.producer_version = "uniaudio-engine", __version__
        helper.set_model_props(proto, {**metadata, "graph": graph.name})
        golden |= _golden(graph)
        store(proto, out / f"{graph.name}.onnx", weights)
        graphs[graph.name] = {
            "inputs": _ports(proto.graph.input),
            "outputs": _ports(proto.graph.output),
            **graph.about,
        }
    weights.close()
    save_tensors(out / "golden.safetensors", golden)
    for name in COPIED:
        if (folder.path / name).is_dir():
            shutil.copytree(folder.path / name, out / name)
        elif (folder.path / name).exists():
            shutil.copyfile(folder.path / name, out / name)
    for name in ("example.py", "example.cc"):
        shutil.copyfile(Path(__file__).with_name(name), out / name)
    sums = {
        p.name: _sha256(p)
        for p in sorted(out.iterdir())
        if p.suffix in (".onnx", ".bin", ".safetensors", ".json")
    }
    about = {
        **metadata,
        "opset": OPSET,
        "codec": codec_fingerprint(folder.codec["quantizer.codebooks"]),
        "parameters": sum(w.size for part in folder.weights for w in part.values()),
        "source": {p.name: _sha256(p) for p in sorted(folder.path.glob("*.safetensors"))},
        "graphs": graphs,
        "sha256": sums,
    }
    (out / "export.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def trace(graph: Graph) -> onnx.ModelProto:
    """The module as a graph with named dynamic dimensions."""
    flat, counts = _flat(graph.arguments), iter(graph.inputs)
    dims: dict[str, Any] = {}
    names = {id(t): next(counts) for t in flat}

    def shape(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            axes = graph.axes.get(names[id(value)])
            return (
                {i: dims.setdefault(n, torch.export.Dim(n, min=1)) for i, n in axes.items()}
                if axes
                else None
            )
        return None if value is None else type(value)(shape(v) for v in value)

    with _quiet():
        program = torch.onnx.export(
            graph.module,
            graph.arguments,
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shape(graph.arguments),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _name_axes(proto, graph)
    del proto.metadata_props[:]
    for node in proto.graph.node:  # drop source locations: they contain local paths
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.initializer,
    ):
        del value.metadata_props[:]
    onnx.checker.check_model(proto)
    return proto


def _name_axes(proto: onnx.ModelProto, graph: Graph) -> None:
    """Replaces the names that the exporter invents for dimensions of nested inputs with those of
    the table.
    """
    names = {}
    for value in proto.graph.input:
        for i, name in graph.axes.get(value.name, {}).items():
            names[value.type.tensor_type.shape.dim[i].dim_param] = name
    names.pop("", None)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def quantize(proto: onnx.ModelProto) -> None:
    """Stores the matrices of products as int8 with a float32 scale per output, rounded as in the
    engine.

    A DequantizeLinear precedes each product.
    """
    tensors = {t.name: t for t in proto.graph.initializer}
    made: dict[str, str] = {}
    nodes = []
    for node in proto.graph.node:
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in tensors:
            name = node.input[1]
            w = numpy_helper.to_array(tensors[name])
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            if w.ndim == 2 and w.dtype == np.float32:
                if name not in made:
                    q, scale = core().quantize(
                        np.ascontiguousarray(w if transposed else w.T), "int8"
                    )
                    made[name] = f"{name}_dequantized"
                    proto.graph.initializer.append(
                        numpy_helper.from_array(
                            q if transposed else np.ascontiguousarray(q.T), f"{name}_int8"
                        )
                    )
                    proto.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
                    nodes.append(
                        helper.make_node(
                            "DequantizeLinear",
                            [f"{name}_int8", f"{name}_scale"],
                            [made[name]],
                            axis=0 if transposed else 1,
                        )
                    )
                node.input[1] = made[name]
        nodes.append(node)
    used = {i for n in nodes for i in n.input}
    kept = [t for t in proto.graph.initializer if t.name in used]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(kept)
    onnx.checker.check_model(proto)


def store(proto: onnx.ModelProto, path: Path, weights: Weights) -> None:
    for t in proto.graph.initializer:
        array = numpy_helper.to_array(t)
        if array.nbytes < LARGE:
            continue
        data = array.tobytes()
        at = weights.put(data)
        t.ClearField("raw_data")
        for field in ("float_data", "int32_data", "int64_data", "double_data"):
            t.ClearField(field)
        t.data_location = TensorProto.EXTERNAL
        del t.external_data[:]
        for key, value in (("location", weights.path.name), ("offset", at), ("length", len(data))):
            t.external_data.add(key=key, value=str(value))
    path.write_bytes(proto.SerializeToString())


def _golden(graph: Graph) -> dict[str, np.ndarray]:
    """The torch module's outputs for the example inputs. The state is ``example_state`` and need
    not be stored.
    """
    with torch.no_grad():
        out = graph.module(*graph.arguments)
    arrays = {
        f"{graph.name}.in.{n}": t.numpy()
        for n, t in zip(graph.inputs, _flat(graph.arguments), strict=True)
        if n not in graph.about.get("state", ())
    }
    outs = {
        f"{graph.name}.out.{n}": t.numpy()
        for n, t in zip(graph.outputs, out if isinstance(out, tuple) else (out,), strict=True)
    }
    return {k: _stored(v) for k, v in (arrays | outs).items()}


def _stored(a: np.ndarray) -> np.ndarray:
    wide = {
        np.dtype(np.int64): np.int32,
        np.dtype(np.bool_): np.uint8,
        np.dtype(np.float16): np.float32,
        np.dtype(np.float64): np.float32,
    }
    return np.ascontiguousarray(a.astype(wide.get(a.dtype, a.dtype)))


def _flat(value: Any) -> list[torch.Tensor]:
    if value is None:
        return []
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in _flat(v)]


def _ports(values: Any) -> dict[str, Any]:
    found = {}
    for v in values:
        t = v.type.tensor_type
        found[v.name] = [
            TensorProto.DataType.Name(t.elem_type).lower(),
            *(d.dim_param or d.dim_value for d in t.shape.dim),
        ]
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return (
            hashlib.file_digest(f, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(f.read()).hexdigest()
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which prints and warns; only errors reach the user."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
