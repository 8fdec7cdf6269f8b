"""ONNX Runtime, text to sound: the language model of ``onnx_lm`` and a graph for each stage of the
codec's decoder.

float32, or int8 by ``quantize_dynamic``, all products of the language model and of the decoder.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .onnx_graph import Graph, graphs, quantize, save_once
from .onnx_lm import OnnxLM, Stepper, open_sessions
from .speech import Source, SpeechPeer, SpeechSpec, Stage


def stage_graph(stage: Stage, w: dict[str, NDArray[np.float32]]) -> Graph:
    """x [1, T, in] -> y [1, T, out]."""
    from onnx import TensorProto

    g = Graph(w)
    width = w[f"{stage.name}.input.weight"].shape[1]
    x = g.linear(g.input("x", TensorProto.FLOAT, [1, "T", width]), [f"{stage.name}.input"])
    y = g.linear(g.stack(x, stage.name, stage.config, stage.window), [f"{stage.name}.output"])
    g.output(y, "y", TensorProto.FLOAT, [1, "T", w[f"{stage.name}.output.weight"].shape[0]])
    return g


def paths(source: Source, dtype: str) -> dict[str, Path]:
    """Of the graphs by name."""
    slots = range(source.model.config.num_codebooks)
    names = ["global", "local", *(f"head{k}" for k in slots), *(s.name for s in source.stages)]
    return {name: source.folder / "graphs" / f"{name}-{dtype}.onnx" for name in names}


def write_graphs(source: Source, dtypes: tuple[str, ...]) -> None:
    """Write the graphs that are not there; float32 goes first."""
    folder = source.folder / "graphs"
    folder.mkdir(exist_ok=True)
    if all(p.exists() for d in dtypes for p in paths(source, d).values()):
        return
    weights, decoder = source.weights(), source.decoder()
    for dtype in ("float32", *(d for d in dtypes if d != "float32")):
        graphs(source.model, weights, folder, dtype)
        for stage in source.stages:
            path, whole = (paths(source, d)[stage.name] for d in (dtype, "float32"))
            if dtype == "float32":
                save_once(path, stage_graph(stage, decoder).save)
            else:
                save_once(path, functools.partial(quantize, whole, dtype=dtype))


class SpeechOnnx(SpeechPeer):
    version = f"onnxruntime {ort.__version__}"

    def _load(self, spec: SpeechSpec) -> None:
        source = self.source
        sessions = open_sessions(paths(source, spec.dtype), spec.threads)
        self.lm = OnnxLM(source.model, sessions)
        self.steppers = [Stepper(sessions[s.name], s.config, "y") for s in source.stages]
        decoder = source.decoder()
        self.table, self.bias = decoder["table"], decoder["bias"]

    def begin(self, rows: int, frames: int) -> None:
        self.lm.begin(1, rows)
        rows = frames
        for stage, stepper in zip(self.source.stages, self.steppers, strict=True):
            rows *= stage.split
            assert rows <= stage.window, "a clip within the windows"
            stepper.begin(1, rows)

    def generate(self, prompt: NDArray[np.int32], count: int) -> NDArray[np.int32]:
        self.lm.hear(prompt.astype(np.int64))
        made = []
        for _ in range(count):
            self.lm.step()
            made.append(self.lm.last[0])
        return np.concatenate(made).astype(np.int32)

    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        out = self.lm.logits(frames, known)
        return np.concatenate(out, axis=1).reshape(len(frames) - known, -1)

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        x = self.bias + sum(table[row] for row, table in zip(codes, self.table, strict=True))
        for stage, stepper in zip(self.source.stages, self.steppers, strict=True):
            x = np.ascontiguousarray(x.reshape(len(x) * stage.split, -1), np.float32)
            stepper.at = 0
            x = stepper.run(len(x), x=x[None])[0]
        return np.ascontiguousarray(x.reshape(-1, 2).T)
