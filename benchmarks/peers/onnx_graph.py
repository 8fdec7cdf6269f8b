"""The same model as ONNX graphs, written node by node: one global step, one local step, one head
per slot.

Attention is ONNX Runtime's GroupQueryAttention on key-value buffers updated in place (the operator
of its own generation library). int8 is ``onnxruntime.quantization.quantize_dynamic`` per channel;
int4 and int8-blocks are ``MatMulNBits`` in blocks of 32 with int8 arithmetic (accuracy level 4).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from models import Model, whole_file
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from uniaudio_engine.storage.config import StackConfig

OPSET, MICROSOFT = 20, "com.microsoft"
Weights = dict[str, NDArray[np.float32]]


class Graph:
    """Nodes in order; every method returns the name of a value."""

    def __init__(self, w: Weights) -> None:
        self.w = w
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object
    ) -> str:
        name = f"v{len(self.nodes)}"
        names = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        self.nodes.append(
            helper.make_node(
                kind, list(inputs), names, domain=domain, name=f"n{name}", **attributes
            )
        )
        return name

    def constant(self, name: str, value: NDArray) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def input(self, name: str, kind: int, shape: list) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, kind: int, shape: list) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def linear(self, x: str, names: list[str]) -> str:
        """x times the stacked weights of ``names``, transposed here once."""
        label = "+".join(names)
        weights = [self.w[f"{n}.weight"] for n in names]
        y = self.op("MatMul", x, self.constant(f"{label}.w", np.concatenate(weights).T))
        biases = [self.w.get(f"{n}.bias") for n in names]
        if all(b is None for b in biases):
            return y
        pairs = zip(weights, biases, strict=True)
        bias = np.concatenate([np.zeros(len(m), np.float32) if b is None else b for m, b in pairs])
        return self.op("Add", y, self.constant(f"{label}.b", bias))

    def norm(self, x: str, name: str, c: StackConfig) -> str:
        weight = self.constant(f"{name}.w", self.w[f"{name}.weight"])
        if c.norm == "rmsnorm":
            return self.op("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=c.norm_eps)
        bias = self.constant(f"{name}.b", self.w[f"{name}.bias"])
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=c.norm_eps)

    def block(self, x: str, name: str, i: int, c: StackConfig, rope: list[str]) -> str:
        cache = [
            self.input(f"{side}_{i}", TensorProto.FLOAT, ["B", c.num_kv_heads, "room", c.head_dim])
            for side in ("k", "v")
        ]
        qkv = self.linear(self.norm(x, f"{name}.attn_norm", c), [f"{name}.attn.{p}" for p in "qkv"])
        y = self.op(
            "GroupQueryAttention",
            *(self.normed(qkv, f"{name}.attn", c) if c.qk_norm else (qkv, "", "")),
            *cache,
            "seqlens",
            "total",
            *rope,
            outputs=3,
            domain=MICROSOFT,
            num_heads=c.heads,
            kv_num_heads=c.num_kv_heads,
            do_rotary=int(bool(rope)),
        )
        for n, side in enumerate("kv"):
            self.nodes[-1].output[1 + n] = f"new_{side}_{i}"
            shape = ["B", c.num_kv_heads, "room", c.head_dim]
            self.outputs.append(
                helper.make_tensor_value_info(f"new_{side}_{i}", TensorProto.FLOAT, shape)
            )
        x = self.op("Add", x, self.linear(y, [f"{name}.attn.o"]))
        h = self.norm(x, f"{name}.mlp_norm", c)
        up = self.linear(h, [f"{name}.mlp.up"])
        if c.activation == "swiglu":
            gate = self.linear(h, [f"{name}.mlp.gate"])
            h = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), up)
        else:
            h = self.op("Gelu", up, approximate="tanh" if c.activation == "gelu_tanh" else "none")
        return self.op("Add", x, self.linear(h, [f"{name}.mlp.down"]))

    def normed(self, qkv: str, name: str, c: StackConfig) -> list[str]:
        """Queries and keys, each head with its norm, and values, of their joint projection."""
        kv = c.num_kv_heads * c.head_dim
        sizes = self.constant(f"{name}.sizes", np.array([c.query_width, kv, kv], np.int64))
        parts = [self.op("Split", qkv, sizes, outputs=3, axis=-1)]
        parts += self.nodes[-1].output[1:]
        heads = self.constant("heads", np.array([0, 0, -1, c.head_dim], np.int64))
        flat = self.constant("flat", np.array([0, 0, -1], np.int64))
        for i, side in enumerate("qk"):
            weight = self.constant(f"{name}.{side}_norm.w", self.w[f"{name}.{side}_norm.weight"])
            x = self.op("Reshape", parts[i], heads)
            x = self.op("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=c.norm_eps)
            parts[i] = self.op("Reshape", x, flat)
        return parts

    def stack(self, x: str, name: str, c: StackConfig, positions: int) -> str:
        """Blocks and, if there is one, the final norm; ``place`` [T] are the positions."""
        self.input("seqlens", TensorProto.INT32, ["B"])
        self.input("total", TensorProto.INT32, [])
        rope: list[str] = []
        if c.positions == "learned":
            self.input("place", TensorProto.INT64, ["T"])
            table = self.constant(f"{name}.positions", self.w[f"{name}.positions.weight"])
            x = self.op("Add", x, self.op("Gather", table, "place"))
        else:
            angle = np.arange(positions)[:, None] * c.rope_base ** -(
                np.arange(0, c.head_dim, 2) / c.head_dim
            )
            rope = [
                self.constant(f"{f.__name__}", f(angle).astype(np.float32))
                for f in (np.cos, np.sin)
            ]
        for i in range(c.layers):
            x = self.block(x, f"{name}.layers.{i}", i, c, rope)
        return self.norm(x, f"{name}.norm", c) if c.final_norm else x

    def save(self, path: Path) -> None:
        graph = helper.make_graph(
            self.nodes, path.stem, self.inputs, self.outputs, list(self.constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))


def global_graph(model: Model, w: Weights) -> Graph:
    """ids [B, T, K] (and aligned rows [B, T, S]) of known frames -> ``h`` [B, K or 1, local width]
    of the last one, after the bridge.
    """
    c, g = model.config, Graph(w)
    ids = g.input("ids", TensorProto.INT64, ["B", "T", c.num_codebooks])
    e = g.op("Gather", g.constant("embed", w["global.embed.weight"]), ids)
    if c.embedding == "concat":
        x = g.op("Reshape", e, g.constant("flat", np.array([0, 0, -1], np.int64)))
    else:
        x = g.op("ReduceSum", e, g.constant("axis", np.array([2], np.int64)), keepdims=0)
    if c.aligned_slots:
        aligned = g.input("guide", TensorProto.INT64, ["B", "T", c.aligned_slots])
        rows = g.op("Gather", g.constant("aligned_rows", w["guide.weight"]), aligned)
        x = g.op(
            "Add",
            x,
            g.op("ReduceSum", rows, g.constant("axis", np.array([2], np.int64)), keepdims=0),
        )
    h = g.stack(x, "global", c.global_, c.max_frames)
    h = g.op("Gather", h, g.constant("last", np.array([-1], np.int64)), axis=1)  # [B, 1, D]
    if c.conditioning == "add":
        h = g.op("Reshape", h, g.constant("slices", np.array([0, c.num_codebooks, -1], np.int64)))
    g.output(g.linear(h, ["bridge"]), "h", TensorProto.FLOAT, ["B", "n", c.local.width])
    return g


def local_graph(model: Model, w: Weights) -> Graph:
    """ids [B, 1] of the previous slot and ``h`` [B, 1, width] -> hidden ``y`` [B, 1, width].

    The input is their sum. For prefix conditioning the caller passes zeros for the one that a slot
    does not have.
    """
    c, g = model.config, Graph(w)
    ids = g.input("ids", TensorProto.INT64, ["B", 1])
    h = g.input("h", TensorProto.FLOAT, ["B", 1, c.local.width])
    scale = g.input("embed_scale", TensorProto.FLOAT, [1])
    table = "global" if c.tied_local else "local"
    e = g.op("Gather", g.constant("embed", w[f"{table}.embed.weight"]), ids)
    y = g.stack(g.op("Add", g.op("Mul", e, scale), h), "local", c.local, c.num_codebooks)
    g.output(y, "y", TensorProto.FLOAT, ["B", 1, c.local.width])
    return g


def head_graph(model: Model, w: Weights, slot: int) -> Graph:
    """y [B, 1, width] -> ``logits`` [B, R] of the ids that the slot may emit, and the ``best`` [B]
    of them.
    """
    c = model.config
    tied = "global.embed" if c.tied_local else "local.embed"
    head = w[f"{tied if c.tied_head else 'head'}.weight"]
    g = Graph({"head.weight": head[model.rows(slot)]})
    y = g.input("y", TensorProto.FLOAT, ["B", 1, c.local.width])
    logits = g.op("Squeeze", g.linear(y, ["head"]), g.constant("axis", np.array([1], np.int64)))
    g.output(logits, "logits", TensorProto.FLOAT, ["B", len(model.rows(slot))])
    g.output(g.op("ArgMax", logits, axis=-1, keepdims=0), "best", TensorProto.INT64, ["B"])
    return g


def graphs(model: Model, w: Weights, folder: Path, dtype: str) -> dict[str, Path]:
    """Paths of all graphs in a weight format, made where absent."""
    slots = range(model.config.num_codebooks)
    paths = {
        name: folder / f"{name}-{dtype}.onnx"
        for name in ("global", "local", *(f"head{k}" for k in slots))
    }
    for name, path in paths.items():
        if dtype != "float32":
            whole = folder / f"{name}-float32.onnx"
            if not path.exists():
                graphs(model, w, folder, "float32")
            save_once(path, functools.partial(quantize, whole, dtype=dtype))
        elif name.startswith("head"):
            save_once(path, lambda part, k=int(name[4:]): head_graph(model, w, k).save(part))
        else:
            made = global_graph if name == "global" else local_graph
            save_once(path, lambda part, made=made: made(model, w).save(part))
    return paths


def save_once(path: Path, save: Callable[[Path], None]) -> None:
    """Writes a file that is not there yet."""
    if not path.exists():
        with whole_file(path) as part:
            save(part)


def quantize(source: Path, target: Path, dtype: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger("onnxruntime").setLevel(logging.WARNING)  # otherwise it logs a line per node
    logging.getLogger().setLevel(logging.ERROR)
    if dtype == "int8":
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={
                "DefaultTensorType": TensorProto.FLOAT
            },  # shape inference stops at Microsoft's own operators
        )
        return
    q = MatMulNBitsQuantizer(
        onnx.load(str(source)),
        bits=4 if dtype == "int4" else 8,
        block_size=32,
        is_symmetric=True,
        accuracy_level=4,
    )
    q.process()
    q.model.save_model_to_file(str(target), False)
