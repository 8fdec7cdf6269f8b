"""Speed of codecs with windowed transformers: ``python benchmarks/windowed_codecs.py [--json]
[--threads N] [--repeat N] [--torch]``.

The published shapes of Mimi, of MOSS-Audio-Tokenizer-Nano and of Qwen3-TTS's tokenizer with random
weights, all codebooks. The attention windows are full before a measurement begins. One call takes 4 s
of sound; streams take one frame a push. Every figure is the median of the repeats, in seconds of sound
per second. ``--torch`` measures ``MimiModel`` of transformers in the same run, whose clip of 4 s has no
past.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from codec import cpu_name
from encodec import random_weights

from uniaudio_engine import _C
from uniaudio_engine.importers.shapes import MIMI, MOSS_TOKENIZER_NANO, QWEN3_TOKENIZER
from uniaudio_engine.storage.config import CodecConfig, to_dict

SECONDS = 4.0


# seconds that fill all windows
PAST = {"Mimi": 10.0, "MOSS-Audio-Tokenizer-Nano": 20.0, "Qwen3-TTS-Tokenizer-12Hz": 10.0}


def realtime(run: Callable[[], Any], seconds: float, repeat: int) -> float:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return round(seconds / float(np.median(times)), 1)


def measure(name: str, c: CodecConfig, threads: int, repeat: int) -> dict[str, Any]:
    codec = _C.Codec(json.dumps(to_dict(c)), random_weights(c), threads)
    rng = np.random.default_rng(1)
    frames, past = round(SECONDS * c.frame_rate), round(PAST[name] * c.frame_rate)

    def sound(count: int) -> np.ndarray:
        shape = (c.channels, count * c.frame_size) if c.channels > 1 else (count * c.frame_size,)
        return (rng.standard_normal(shape) * 0.1).astype(np.float32)

    x, seconds = sound(frames), frames / c.frame_rate
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    encoder.push(sound(past))
    codes = rng.integers(0, c.codebook_size, (c.num_codebooks, past + frames)).astype(np.int32)
    decoder.push(codes[:, :past].copy())
    codes = codes[:, past:].copy()
    blocks = [np.ascontiguousarray(b) for b in np.split(x, frames, axis=-1)]
    columns = [np.ascontiguousarray(b) for b in np.split(codes, frames, axis=1)]
    return {
        "codec": name,
        "encode": realtime(lambda: encoder.push(x), seconds, repeat),
        "decode": realtime(lambda: decoder.push(codes), seconds, repeat),
        "encode, frame by frame": realtime(
            lambda: [encoder.push(b) for b in blocks], seconds, repeat
        ),
        "decode, frame by frame": realtime(
            lambda: [decoder.push(b) for b in columns], seconds, repeat
        ),
    }


def measure_torch(threads: int, repeat: int) -> dict[str, Any]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.MimiModel(transformers.MimiConfig()).eval()
    x = torch.randn(1, 1, round(SECONDS * 24000)) * 0.1
    codes = torch.randint(0, 2048, (1, 32, round(SECONDS * 12.5)))
    with torch.inference_mode():
        return {
            "codec": f"MimiModel, transformers {transformers.__version__}",
            "encode": realtime(lambda: model.encode(x), SECONDS, repeat),
            "decode": realtime(lambda: model.decode(codes), SECONDS, repeat),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=5)
    a = parser.parse_args()
    shapes = dict(zip(PAST, (MIMI, MOSS_TOKENIZER_NANO, QWEN3_TOKENIZER), strict=True))
    rows = [measure(name, c, a.threads, a.repeat) for name, c in shapes.items()]
    if a.torch:
        rows.append(measure_torch(a.threads, a.repeat))
    machine = f"{cpu_name()}, {_C.isa()}, {a.threads} threads, medians of {a.repeat}"
    if a.json:
        print(json.dumps({"machine": machine, "codecs": rows}, indent=2))
        return
    names = list(rows[0])
    print(f"{machine}; × realtime\n")
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in rows:
        print("| " + " | ".join(str(row.get(n, "")) for n in names) + " |")


if __name__ == "__main__":
    main()
