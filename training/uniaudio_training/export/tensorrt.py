"""``uniaudio export tensorrt``: builds engines (plans) of exported graphs for the GPU of this
machine.

Operators, types and shapes are checked first, without the library. The table follows the operator
list of NVIDIA's ONNX parser (onnx-tensorrt, docs/operators.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from uniaudio_engine.backends.onnx_folder import load_exported, ports_of
from uniaudio_engine.backends.tensorrt import (
    FORMAT,
    NEEDED,
    changed_profiles,
    default_profiles,
    plan_key,
    shapes_of,
)
from uniaudio_engine.backends.trt_api import Api
from uniaudio_engine.errors import InputError, first_few
from uniaudio_engine.storage.files import atomic_folder

OPERATORS = frozenset(
    """Abs Add And ArgMax ArgMin Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose
    Cos CumSum DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
    GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity If LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax Loop LSTM MatMul Max Mean Min Mod Mul Neg NonZero
    Not OneHot Or Pad Pow PRelu QuantizeLinear Range Reciprocal ReduceL2 ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape ScatterElements ScatterND Shape
    Sigmoid Sign Sin Size Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Tile TopK
    Transpose Trilu Unsqueeze Where Xor""".split()
)
TYPES = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT8,
        onnx.TensorProto.INT32,
        onnx.TensorProto.INT64,
        onnx.TensorProto.BOOL,
    }
)
_CONSTANTS = {
    "CumSum": (1,),
    "ConvTranspose": (1,),
    "DequantizeLinear": (1,),
}  # inputs that must be constant when the plan is built


def unsupported(proto: onnx.ModelProto) -> list[str]:
    """What TensorRT does not support in a graph, one line each."""
    found = []
    known = {t.name for t in proto.graph.initializer} | {
        n.output[0] for n in proto.graph.node if n.op_type == "Constant"
    }
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx"):
            found.append(f"{node.op_type} of {node.domain}")
        elif node.op_type not in OPERATORS:
            found.append(f"operator {node.op_type}")
        found += [
            f"{node.op_type} with an input {i} that is computed"
            for i in _CONSTANTS.get(node.op_type, ())
            if node.input[i] not in known
        ]
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    types = {v.type.tensor_type.elem_type for v in values} | {
        t.data_type for t in proto.graph.initializer
    }
    found += [f"type {onnx.TensorProto.DataType.Name(t)}" for t in sorted(types - TYPES) if t]
    return sorted(set(found))


def export_tensorrt(
    exported: str | os.PathLike[str],
    out: str | os.PathLike[str],
    profile: list[str],
    device: int = 0,
    compatible: bool = False,
    timing_cache: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes the folder ``out``, completely or not at all; returns the contents of ``plans.json``.

    ``timing_cache``: a file that is read where it exists, and written.
    Raises :class:`InputError` where ``out`` exists, the source folder is broken, TensorRT does not
    support the graphs, or the library is missing.
    """
    source, target = Path(exported), Path(out)
    if target.exists():
        raise InputError(
            f"{target}: expected a folder that is not there yet, got one that is; remove it or "
            "choose another"
        )
    about, folder = load_exported(source)
    profiles, capacity = changed_profiles(default_profiles(folder.config.codec.frame_size), profile)
    names = [n for n in NEEDED if n in about["graphs"]]
    shapes = {
        n: [shapes_of(ports_of(about["graphs"][n]), p, capacity) for p in profiles[n]]
        for n in names
    }
    for name in names:
        wrong = unsupported(onnx.load(source / f"{name}.onnx", load_external_data=False))
        if wrong:
            raise InputError(f"{source / name}.onnx: TensorRT does not support {first_few(wrong)}")
    api = Api(device)
    cache = (
        Path(timing_cache).read_bytes()
        if timing_cache is not None and Path(timing_cache).is_file()
        else b""
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as work:
        folder_out = work / "new"
        shutil.copytree(source, folder_out, dirs_exist_ok=True)
        plans: dict[str, Any] = {}
        sums = about["sha256"]
        for name in names:
            progress(f"{name}: building")
            plan, cache = api.build(source / f"{name}.onnx", shapes[name], cache, compatible)  # type: ignore[arg-type]
            (folder_out / f"{name}.plan").write_bytes(plan)
            key = plan_key(
                sums[f"{name}.onnx"],
                sums["weights.bin"],
                api.version,
                api.gpu,
                profiles[name],
                capacity,
                compatible,
            )
            plans[name] = {
                "key": key,
                "sha256": hashlib.sha256(plan).hexdigest(),
                "profiles": profiles[name],
            }
        made = {
            "format": FORMAT,
            "tensorrt": api.version,
            "gpu": api.gpu,
            "capacity": capacity,
            "compatible": compatible,
            "plans": plans,
        }
        (folder_out / "plans.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        if timing_cache is not None:
            Path(timing_cache).write_bytes(cache)
    return made
