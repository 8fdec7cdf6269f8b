"""Speed of EnCodec's three published shapes: ``python benchmarks/encodec.py [--json] [--threads N]
[--repeat N]``.

Random weights, clips of 4 s, 6 kbit/s (32 kHz: 2.2). Every figure is the median of the repeats. The
v1 codec of ``codec.py`` is measured in the same run for comparison. GFLOP/s count a multiply-add as
two, over the computed frames (at 48 kHz chunks overlap, and the last one is padded).
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import numpy as np
from codec import V1, cpu_name, median, seanet_macs

from uniaudio_engine import _C
from uniaudio_engine.importers.shapes import ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ
from uniaudio_engine.storage.config import CodecConfig, to_dict
from uniaudio_engine.storage.weight_shapes import codec_shapes

SECONDS = 4.0
SHAPES: dict[str, tuple[CodecConfig, int]] = {  # and the number of codebooks used
    "v1, 16 kHz": (V1, 3),
    "EnCodec 24 kHz": (ENCODEC_24KHZ, 8),
    "EnCodec 32 kHz": (ENCODEC_32KHZ, 4),
    "EnCodec 48 kHz, stereo": (ENCODEC_48KHZ, 4),
}


def random_weights(c: CodecConfig) -> dict[str, np.ndarray]:
    """Random float32 weights by tensor name, scaled so that signals keep their magnitude through
    the layers.
    """
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in codec_shapes(c).items():
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        scale = 0.3 if name == "quantizer.codebooks" else fan**-0.5
        weights[name] = (rng.standard_normal(shape) * scale + name.endswith("norm.weight")).astype(
            np.float32
        )
    return weights


def measure(threads: int, repeat: int) -> dict[str, Any]:
    """Milliseconds per second of audio, and the corresponding arithmetic rate."""
    rows = []
    for name, (c, k) in SHAPES.items():
        codec = _C.Codec(json.dumps(to_dict(c)), random_weights(c), threads)
        n = int(SECONDS * (c.chunk[1] or c.sample_rate))
        x = (np.random.default_rng(1).standard_normal((c.channels, n)) * 0.1).astype(np.float32)
        codes, scales = codec.encode_scaled(x, k)
        seconds, computed = n / c.sample_rate, codes.shape[1] / c.frame_rate
        encode, decode = seanet_macs(c)
        rvq = k * c.codebook_size * c.codebook_dim * c.frame_rate
        row: dict[str, Any] = {"codec": name, "codebooks": k}
        for part, macs, run in (
            ("encode", encode + rvq, lambda codec=codec, x=x, k=k: codec.encode_scaled(x, k)),
            (
                "decode",
                decode,
                lambda codec=codec, codes=codes, scales=scales: codec.decode(codes, scales),
            ),
        ):
            ms = median(run, repeat)
            row[part] = {
                "ms_per_second": round(ms / seconds, 2),
                "realtime": round(1e3 * seconds / ms, 1),
                "gflops": round(2e-6 * macs * computed / ms, 1),
            }
        rows.append(row)
    machine = f"{cpu_name()}, {os.cpu_count()} processors"
    return {
        "machine": machine,
        "isa": _C.isa(),
        "threads": threads,
        "repeat": repeat,
        "codecs": rows,
    }


def show(r: dict[str, Any]) -> None:
    print(f"{r['machine']}, {r['isa']}, {r['threads']} threads, medians of {r['repeat']}\n")
    print(
        "| codec | codebooks | encode, ms per second of audio | × realtime | GFLOP/s | decode, "
        "ms | × realtime | GFLOP/s |\n|---|---|---|---|---|---|---|---|"
    )
    for row in r["codecs"]:
        parts = " | ".join(
            f"{row[p]['ms_per_second']} | {row[p]['realtime']} | {row[p]['gflops']}"
            for p in ("encode", "decode")
        )
        print(f"| {row['codec']} | {row['codebooks']} | {parts} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=9)
    a = parser.parse_args()
    result = measure(a.threads, a.repeat)
    if a.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
