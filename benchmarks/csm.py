"""Milliseconds a frame of the language models of CSM-1B and Qwen3-TTS 0.6B: ``python benchmarks/csm.py
[--model csm|qwen3-tts] [--json] [--threads N] [--repeat N] [--frames N] [--dtype int4|int8]``.

The published shape with random weights that are stored quantized. A frame is 80 ms of sound. Beside
the median is the least time in which this machine can read the frame's weights once: at the
bandwidth of large reads what is read once a frame, and at that of the local stack's size what each
slot reads again. The codec is not part of it; see ``windowed_codecs.py``.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from codec import cpu_name

from uniaudio_engine import _C
from uniaudio_engine.importers.estimate import estimate
from uniaudio_engine.importers.shapes import CSM_1B, MIMI, QWEN3_TOKENIZER, QWEN3_TTS
from uniaudio_engine.storage.config import LMConfig, to_dict
from uniaudio_engine.storage.tensors import to_bfloat16
from uniaudio_engine.storage.weight_shapes import lm_shapes, matrix_part, quantized_shapes

PROMPT = 40  # rows
MODELS = {"csm": (CSM_1B, MIMI), "qwen3-tts": (QWEN3_TTS, QWEN3_TOKENIZER)}


def stored_weights(config: LMConfig, dtype: str) -> dict[str, np.ndarray]:
    """Matrices as random bytes of their type, tables in bfloat16, of which most rows are zeros."""
    rng = np.random.default_rng(0)
    parts, weights = _C.lm_dtype(dtype)[1], {}
    for name, shape in lm_shapes(config).items():
        part = matrix_part(name)
        if part is None and len(shape) == 2:
            weights[name] = np.zeros(shape, np.uint16)
            rows = to_bfloat16(rng.standard_normal((4096, shape[1]), np.float32))
            weights[name][-len(rows) :] = rows
        elif part is None:
            weights[name] = np.full(shape, "norm" in name, np.float32)
        else:
            size, scales = quantized_shapes((shape[0], shape[1]), parts[part])
            scale = np.full(scales, shape[1] ** -0.5 / (64 if parts[part] == "int8" else 4))
            data = np.frombuffer(rng.bytes(size[0] * size[1]), np.uint8).reshape(size)
            if parts[part] == "int8":
                weights[name] = np.maximum(data.view(np.int8), -127)
                weights[f"{name}_scale"] = scale.astype(np.float32)
            else:
                weights[name], weights[f"{name}_scale"] = data, to_bfloat16(scale)
    return weights


def measure(model: str, dtype: str, threads: int, frames: int, repeat: int) -> dict[str, Any]:
    c, codec = MODELS[model]
    weights = stored_weights(c, dtype)
    begin = time.perf_counter()
    lm = _C.LM(json.dumps(to_dict(c)), weights, dtype, threads, "int8")
    load = time.perf_counter() - begin
    codebooks, size = c.num_codebooks - 1, codec.codebook_size  # the last slot is one of text
    text = np.zeros((PROMPT, c.num_codebooks), np.int32)
    text[:, -1] = np.random.default_rng(1).integers(c.vocab_size - 4096, c.vocab_size, PROMPT)
    audio = [[(c.local_table_start + k * size, size)] for k in range(codebooks)]
    sampling = _C.Sampling(
        seed=1,
        temperature=0.9,
        top_k=50,
        allowed=[*audio, [(0, 1)]],
        forced=[*[-1] * codebooks, 0],
    )
    times, prefill = [], []
    for _ in range(repeat):
        session = lm.session(PROMPT + frames)
        begin = time.perf_counter()
        session.prefill(text)
        prefill.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        session.generate(frames, sampling)
        times.append((time.perf_counter() - begin) / frames)
    counted = estimate(codec, c, _C.lm_dtype(dtype)[1])
    slot_mb = min(256, max(1, counted.slot_bytes >> 20))
    once, again = (
        1e9 * float(np.median([_C.read_bandwidth(threads, mb) for _ in range(5)]))
        for mb in (256, slot_mb)
    )
    least = counted.once_bytes / once + counted.slots * counted.slot_bytes / again
    ms = 1000 * float(np.median(times))
    return {
        "model": model,
        "dtype": dtype,
        "ms_per_frame": round(ms, 1),
        "realtime": round(1000 / ms / counted.frame_rate, 2),
        "bound_ms": round(1000 * least, 1),
        "bytes_per_frame": counted.bytes_per_frame,
        "prefill_ms_per_row": round(1000 * float(np.median(prefill)) / PROMPT, 2),
        "read_gb_per_s": round(once / 1e9, 1),
        "slot_read_gb_per_s": round(again / 1e9, 1),
        "load_s": round(load, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--dtype", default="int4")
    parser.add_argument("--model", choices=list(MODELS), default="csm")
    args = parser.parse_args()
    row = measure(args.model, args.dtype, args.threads, args.frames, args.repeat)
    if args.json:
        print(json.dumps({"cpu": cpu_name(), "threads": args.threads, **row}))
        return
    print(f"{cpu_name()}, {args.threads} threads")
    print(
        f"{row['model']} {row['dtype']}: {row['ms_per_frame']} ms a frame ({row['realtime']} x realtime), least "
        f"{row['bound_ms']} ms, prefill {row['prefill_ms_per_row']} ms a row, load "
        f"{row['load_s']} s"
    )


if __name__ == "__main__":
    main()
