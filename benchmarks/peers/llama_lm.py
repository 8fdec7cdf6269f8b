"""llama.cpp (through llama-cpp-python) with the same sizes and weights: a gpt2 model for each
stack, the local one stepped K times.

Only the v1 shape fits that architecture (layer norm, GELU, learned positions, biases). Two
differences remain: llama.cpp's GELU is the tanh approximation, and the local model has one head
(the rows of slot 0) for all slots, at the same cost. Embedding and bridge are computed in NumPy.
q8_0 and q4_K are its formats, applied to every matrix; the cache has its default, float16.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from models import Model, cache_folder, load_weights, whole_file
from numpy.typing import NDArray

from uniaudio_engine.errors import InputError
from uniaudio_engine.storage.config import StackConfig

from .base import Spec

WARM_UP = 2
FILE_TYPES = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S,
}
UBATCH = 512


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user: Any) -> None:
    pass


def write_stack(
    path: Path, name: str, c: StackConfig, w: dict[str, NDArray], positions: int, head: NDArray
) -> None:
    """Writes one stack as a float32 GGUF; ``head`` [n, D] is its output matrix."""
    out = gguf.GGUFWriter(str(path), "gpt2")
    out.add_context_length(positions)
    out.add_embedding_length(c.width)
    out.add_block_count(c.layers)
    out.add_feed_forward_length(c.hidden)
    out.add_head_count(c.heads)
    out.add_layer_norm_eps(c.norm_eps)
    out.add_vocab_size(len(head))
    out.add_tokenizer_model("no_vocab")
    zeros = np.zeros(c.width, np.float32)

    def bias(layer: str) -> NDArray:
        return w.get(f"{layer}.bias", zeros)

    tensors = {
        "token_embd.weight": np.zeros((len(head), c.width), np.float32),
        "output.weight": head,
    }
    tensors["position_embd.weight"] = w[f"{name}.positions.weight"]
    for side in ("weight", "bias"):
        tensors[f"output_norm.{side}"] = w[f"{name}.norm.{side}"]
    for i in range(c.layers):
        a, b = f"{name}.layers.{i}", f"blk.{i}"
        for side in ("weight", "bias"):
            tensors[f"{b}.attn_norm.{side}"] = w[f"{a}.attn_norm.{side}"]
            tensors[f"{b}.ffn_norm.{side}"] = w[f"{a}.mlp_norm.{side}"]
            for theirs, ours in (
                ("attn_output", "attn.o"),
                ("ffn_up", "mlp.up"),
                ("ffn_down", "mlp.down"),
            ):
                tensors[f"{b}.{theirs}.{side}"] = w[f"{a}.{ours}.{side}"]
        tensors[f"{b}.attn_qkv.weight"] = np.concatenate([w[f"{a}.attn.{x}.weight"] for x in "qkv"])
        tensors[f"{b}.attn_qkv.bias"] = np.concatenate([bias(f"{a}.attn.{x}") for x in "qkv"])
    for key, value in tensors.items():
        out.add_tensor(key, np.ascontiguousarray(value, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def files(model: Model, w: dict[str, NDArray], folder: Path, dtype: str) -> dict[str, Path]:
    """GGUF files of both stacks in a format, made where absent."""
    c = model.config
    head = w["head.weight"]
    sizes = {
        "global": (c.global_, c.max_frames, head[:32]),
        "local": (c.local, c.num_codebooks, head[model.rows(0)]),
    }
    paths = {}
    for name, (stack, positions, rows) in sizes.items():
        paths[name] = path = folder / f"{name}-{dtype}.gguf"
        if path.exists():
            continue
        source = folder / f"{name}-float32.gguf"
        if not source.exists():
            with whole_file(source) as part:
                write_stack(part, name, stack, w, positions, rows)
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.pure, params.nthread = FILE_TYPES[dtype], True, 2
        with whole_file(path) as part:
            if (
                llama_cpp.llama_model_quantize(
                    str(source).encode(), str(part).encode(), ctypes.byref(params)
                )
                != 0
            ):
                raise InputError(f"llama.cpp could not quantize {source.name} to {dtype}")
    return paths


class ModelFile:
    """A loaded GGUF; ``bytes`` is the size of its matrices."""

    def __init__(self, path: Path, width: int, threads: int) -> None:
        self.width, self.threads = width, threads
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise InputError(f"llama.cpp could not load {path.name}")
        tensors = gguf.GGUFReader(str(path)).tensors
        self.bytes = sum(int(t.n_bytes) for t in tensors if t.name.startswith(("blk", "output")))
        self.head_bytes = sum(int(t.n_bytes) for t in tensors if t.name.startswith("output."))


class Context:
    """Room for ``streams`` sequences of ``room`` positions each."""

    def __init__(self, file: ModelFile, streams: int, room: int, embeddings: bool) -> None:
        self.width = file.width
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = streams * (-(-room // 256) * 256)
        params.n_seq_max = streams
        params.n_batch = params.n_ubatch = max(UBATCH, streams)
        params.n_threads = params.n_threads_batch = file.threads
        params.kv_unified = False
        params.embeddings = embeddings
        self.ctx = llama_cpp.llama_init_from_model(file.model, params)
        if not self.ctx:
            raise InputError(f"llama.cpp could not make a context of {streams} x {room}")
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.batch = llama_cpp.llama_batch_init(max(UBATCH, streams), self.width, 1)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.ctx)

    def run(self, x: NDArray[np.float32], places: NDArray, streams: NDArray, all_out: bool) -> None:
        """x [n, width] at ``places`` [n] of the sequences ``streams`` [n]; computes all outputs, or
        the last.
        """
        n, b = len(x), self.batch
        b.n_tokens = n
        ctypes.memmove(b.embd, np.ascontiguousarray(x, np.float32).ctypes.data, n * self.width * 4)
        for i in range(n):
            b.pos[i], b.n_seq_id[i], b.seq_id[i][0] = int(places[i]), 1, int(streams[i])
            b.logits[i] = all_out or i == n - 1
        if llama_cpp.llama_decode(self.ctx, b) != 0:
            raise InputError("llama.cpp could not decode a batch")

    def hidden(self, n: int) -> NDArray[np.float32]:
        """Outputs of the last run after the final norm, [n, width]."""
        return np.ctypeslib.as_array(
            llama_cpp.llama_get_embeddings(self.ctx), (n, self.width)
        ).copy()

    def logits(self, n: int, rows: int) -> NDArray[np.float32]:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.ctx), (n, rows))


class LlamaPeer:
    def __init__(self, spec: Spec) -> None:
        self.spec, self.model = spec, spec.find_model()
        self.c = c = self.model.config
        if c.local.width % 256 and spec.dtype == "q4_K":
            raise InputError(
                f"q4_K needs widths in multiples of 256, and this model's is {c.local.width}"
            )
        if c.global_.norm != "layernorm" or c.conditioning != "add" or c.aligned_slots:
            raise InputError(f"llama.cpp has no model type that fits {self.model.name}")
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self.w = load_weights(self.model, spec.seed, spec.cache)
        paths = files(
            self.model, self.w, cache_folder(self.model, spec.seed, spec.cache), spec.dtype
        )
        self.files = {
            n: ModelFile(paths[n], s.width, spec.threads)
            for n, s in (("global", c.global_), ("local", c.local))
        }
        self.kept: dict[tuple[int, ...], tuple[Context, Context]] = {}
        self.rows = [self.model.rows(k) for k in range(c.num_codebooks)]
        self.start = np.full((1, c.num_codebooks), c.start_id)

    def embed(self, frames: NDArray) -> NDArray[np.float32]:
        """[n, K] -> [n, D]; the v1 shape concatenates."""
        e = self.w["global.embed.weight"][frames]
        return e.reshape(len(frames), -1) if self.c.embedding == "concat" else e.sum(1)

    def bridge(self, h: NDArray[np.float32]) -> NDArray[np.float32]:
        """[B, D] -> [B, K, width]."""
        return (
            h.reshape(len(h), self.c.num_codebooks, -1) @ self.w["bridge.weight"].T
            + self.w["bridge.bias"]
        )

    def hear(self, stream: int, frames: NDArray) -> None:
        """Appends known frames [T, K] of a stream; the last one is processed in the next step."""
        x = self.embed(np.concatenate((self.start, frames[:-1])))
        llama_cpp.llama_set_embeddings(
            self.global_.ctx, False
        )  # otherwise every position would go through the head
        for at in range(0, len(x), UBATCH):
            n = min(UBATCH, len(x) - at)
            self.global_.run(x[at : at + n], np.arange(at, at + n), np.full(n, stream), False)
        llama_cpp.llama_set_embeddings(self.global_.ctx, True)

    def step(
        self, last: NDArray, at: int, forced: NDArray | None = None, out: list | None = None
    ) -> NDArray:
        """The frames [B, K] that follow ``last`` [B, K] at ``at``: the best ids, or ``forced``."""
        b = len(last)
        streams = np.arange(b)
        self.global_.run(self.embed(last), np.full(b, at), streams, True)
        bridged = self.bridge(self.global_.hidden(b))
        llama_cpp.llama_memory_clear(self.local.memory, False)
        ids = np.full(b, self.c.local_start_id)
        chosen = []
        for k in range(self.c.num_codebooks):
            self.local.run(
                self.w["local.embed.weight"][ids] + bridged[:, k], np.full(b, k), streams, True
            )
            if out is not None:
                out.append(self.local.hidden(b) @ self.w["head.weight"][self.rows[k]].T)
            best = self.local.logits(b, len(self.rows[0])).argmax(-1)
            ids = self.rows[k][best] if forced is None else forced[:, k]
            chosen.append(ids)
        return np.stack(chosen, axis=1)

    def open(self, streams: int, room: int, hidden: bool = False) -> None:
        """Contexts of both stacks; with ``hidden``, the local one also returns hidden states."""
        self.global_ = Context(self.files["global"], streams, room, True)
        self.local = Context(self.files["local"], streams, self.c.num_codebooks, hidden)

    def close(self) -> None:
        self.global_.close()
        self.local.close()

    def prepare(self, streams: int, context: int, count: int) -> None:
        key, known = (streams, context, count), self.model.frames(context, self.spec.seed)
        if key not in self.kept:
            while len(self.kept) > 1:  # keep two: a row may compare two contexts
                for old in self.kept.pop(next(iter(self.kept))):
                    old.close()
            self.open(streams, context + count + WARM_UP)
            for s in range(streams):
                self.hear(s, known)
            self.kept[key] = (self.global_, self.local)
        self.global_, self.local = self.kept[key]
        self.last, self.context, self.streams = np.tile(known[-1], (streams, 1)), context, streams

    def frames(self, count: int) -> float:
        last = self.last
        for s in range(self.streams):
            llama_cpp.llama_memory_seq_rm(self.global_.memory, s, self.context, -1)
        for i in range(WARM_UP):
            last = self.step(last, self.context + i)
        begin = time.perf_counter()
        for i in range(count):
            last = self.step(last, self.context + WARM_UP + i)
        return time.perf_counter() - begin

    def prefill(self, count: int) -> float:
        self.open(1, count)
        frames = self.model.frames(count, self.spec.seed)
        self.hear(0, frames)  # allocates the graph
        llama_cpp.llama_memory_clear(self.global_.memory, False)
        begin = time.perf_counter()
        self.hear(0, frames)
        llama_cpp.llama_synchronize(self.global_.ctx)
        seconds = time.perf_counter() - begin
        self.close()
        return seconds

    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        self.open(1, len(frames), hidden=True)
        self.hear(0, frames[:known])
        out: list[NDArray[np.float32]] = []
        for t in range(known, len(frames)):
            self.step(frames[t - 1 : t], t, frames[t : t + 1], out)
        self.close()
        return np.concatenate(out).reshape(len(frames) - known, frames.shape[1], -1)

    def weight_bytes(self) -> int:
        a, b = self.files["global"], self.files["local"]
        return a.bytes - a.head_bytes + self.c.num_codebooks * b.bytes
