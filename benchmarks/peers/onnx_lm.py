"""ONNX Runtime on the graphs of ``onnx_graph``: one thread pool for all of them, key-value buffers
bound once and updated in place.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from models import Model, cache_folder, load_weights
from numpy.typing import NDArray

from uniaudio_engine.storage.config import StackConfig

from .base import Spec
from .onnx_graph import graphs

WARM_UP = 2


class Stepper:
    """A stack's session with its caches, which hold ``at`` frames."""

    def __init__(self, session: ort.InferenceSession, c: StackConfig, output: str) -> None:
        self.session, self.c, self.output = session, c, output
        self.places = any(i.name == "place" for i in session.get_inputs())

    def begin(self, streams: int, room: int) -> None:
        shape = (streams, self.c.num_kv_heads, room, self.c.head_dim)
        some = np.random.default_rng(0).standard_normal(
            shape, np.float32
        )  # as if there were context
        self.streams, self.at = streams, 0
        self.binding = self.session.io_binding()
        self.caches = []
        for i in range(self.c.layers):
            for side in "kv":
                buffer = ort.OrtValue.ortvalue_from_numpy(some.copy())  # ORT does not copy it
                self.caches.append(buffer)
                self.binding.bind_ortvalue_input(f"{side}_{i}", buffer)
                self.binding.bind_ortvalue_output(
                    f"new_{side}_{i}", buffer
                )  # the same memory: updated in place
        self.binding.bind_output(self.output, "cpu")

    def run(self, count: int, **inputs: NDArray) -> NDArray[np.float32]:
        """Runs ``count`` new positions."""
        total = self.at + count
        inputs["seqlens"] = np.full(self.streams, total - 1, np.int32)
        inputs["total"] = np.array(total, np.int32)
        if self.places:
            inputs["place"] = np.arange(self.at, total, dtype=np.int64)
        for name, value in inputs.items():
            self.binding.bind_cpu_input(name, value)
        self.session.run_with_iobinding(self.binding)
        self.at = total
        return self.binding.get_outputs()[-1].numpy()


@functools.cache  # a process has one
def make_thread_pool(threads: int) -> None:
    ort.set_global_thread_pool_sizes(threads, 1)


def open_sessions(paths: Mapping[str, Path], threads: int) -> dict[str, ort.InferenceSession]:
    """Sessions of graphs by their names, with one thread pool for all: otherwise every session would
    spin its own threads.
    """
    ort.set_default_logger_severity(3)
    make_thread_pool(threads)
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return {
        n: ort.InferenceSession(str(p), options, ["CPUExecutionProvider"]) for n, p in paths.items()
    }


class OnnxLM:
    """The language model; ``step`` computes a whole frame for B streams."""

    def __init__(self, model: Model, sessions: Mapping[str, ort.InferenceSession]) -> None:
        self.model, self.c = model, model.config
        c = model.config
        self.global_ = Stepper(sessions["global"], c.global_, "h")
        self.local = Stepper(sessions["local"], c.local, "y")
        self.heads = [sessions[f"head{k}"] for k in range(c.num_codebooks)]
        self.rows = [model.rows(k) for k in range(c.num_codebooks)]

    def begin(self, streams: int, room: int) -> None:
        k = self.c.num_codebooks
        self.global_.begin(streams, room)
        self.local.begin(streams, k)
        self.streams = streams
        self.last = np.full((streams, 1, k), self.c.start_id, np.int64)
        self.no_ids = np.full((streams, 1), self.c.local_start_id, np.int64)
        self.nothing = np.zeros((streams, 1, self.c.local.width), np.float32)

    def hear(self, frames: NDArray[np.int64]) -> None:
        """Appends known frames [T, K] of one stream; the last one is processed in the next step."""
        ids = np.concatenate((self.last, frames[None, :-1]), axis=1)
        self.global_.run(len(frames), ids=ids, **self._aligned(len(frames)))
        self.last = frames[None, -1:]

    def _aligned(self, count: int) -> dict[str, NDArray]:
        aligned = self.model.aligned(count)
        return (
            {}
            if aligned is None
            else {"guide": np.tile(aligned.astype(np.int64), (self.streams, 1, 1))}
        )

    def step(self, forced: NDArray[np.int64] | None = None, out: list | None = None) -> None:
        """The next frame of every stream: the best ids, or ``forced`` [B, K]."""
        c = self.c
        h = self.global_.run(1, ids=self.last, **self._aligned(1))
        self.local.at = 0
        ids, chosen = self.no_ids, []
        for k in range(c.num_codebooks):
            if c.conditioning == "add":
                given, scale = h[:, k : k + 1], 1.0
            else:
                given, scale = (h, 0.0) if k == 0 else (self.nothing, 1.0)
            given = np.ascontiguousarray(given)
            y = self.local.run(1, ids=ids, h=given, embed_scale=np.array([scale], np.float32))
            logits, best = self.heads[k].run(None, {"y": y})
            if out is not None:
                out.append(logits)
            ids = (self.rows[k][best] if forced is None else forced[:, k])[:, None]
            chosen.append(ids)
        self.last = np.stack(chosen, axis=2)

    def logits(self, frames: NDArray[np.int32], known: int) -> list[NDArray[np.float32]]:
        """Logits of each slot of the frames after the first ``known``, one stream teacher-forced."""
        ids = frames.astype(np.int64)
        self.begin(1, len(frames))
        self.hear(ids[:known])
        out: list[NDArray[np.float32]] = []
        for t in range(known, len(frames)):
            self.step(ids[t : t + 1], out)
        return out


class OnnxPeer:
    def __init__(self, spec: Spec) -> None:
        self.spec, self.model = spec, spec.find_model()
        self.c = self.model.config
        self.version = f"onnxruntime {ort.__version__}"
        weights = load_weights(self.model, spec.seed, spec.cache)
        paths = graphs(
            self.model, weights, cache_folder(self.model, spec.seed, spec.cache), spec.dtype
        )
        self.lm = OnnxLM(self.model, open_sessions(paths, spec.threads))
        self.bytes = sum(self._weight_bytes(n, p) for n, p in paths.items())

    def _weight_bytes(self, name: str, path) -> int:
        """Bytes read per frame: the local graph runs K times; embeddings and positions are not read
        whole.
        """
        uses = self.c.num_codebooks if name == "local" else 1
        tables = ("embed", "positions", "aligned_rows", "cos", "sin")
        import onnx

        return uses * sum(
            len(t.raw_data)
            for t in onnx.load(str(path)).graph.initializer
            if not t.name.endswith(tables)
        )

    def prepare(self, streams: int, context: int, count: int) -> None:
        self.lm.begin(streams, context + count + WARM_UP)
        self.context = context

    def frames(self, count: int) -> float:
        self.lm.global_.at = self.context
        for _ in range(WARM_UP):
            self.lm.step()
        begin = time.perf_counter()
        for _ in range(count):
            self.lm.step()
        return time.perf_counter() - begin

    def prefill(self, count: int) -> float:
        frames = self.model.frames(count, self.spec.seed).astype(np.int64)
        self.lm.begin(1, count)
        begin = time.perf_counter()
        self.lm.hear(frames)
        return time.perf_counter() - begin

    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        return np.concatenate(self.lm.logits(frames, known)).reshape(
            len(frames) - known, frames.shape[1], -1
        )

    def weight_bytes(self) -> int:
        return self.bytes
