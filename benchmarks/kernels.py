"""Each product of a language model alone, and the attention of one row to long contexts: time, and
its fraction of the machine's bounds.

The bounds are measured just before: reads from memory, float32 multiply-adds and multiply-adds of
bytes on registers. bfloat16 is multiplied as float32, int4 as bytes. One row is bound by memory,
many rows by arithmetic.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import common
from models import NAMES, find_model

from uniaudio_engine import _C
from uniaudio_engine.errors import InputError

DTYPES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5625}  # bytes a weight
ROWS = (1, 4, 8, 16, 150)
KV_DTYPES = {"float32": 4, "bfloat16": 2, "int8": 1}  # bytes an element
POSITIONS = (1500, 3000)
EPILOG = """examples:
  python benchmarks/kernels.py
  python benchmarks/kernels.py --model base --megabytes 0        from the caches
  UNIAUDIO_ISA=avx2 python benchmarks/kernels.py --dtypes int8 --rows 1,16
  python benchmarks/kernels.py --rows '' --positions 1500        attention alone
"""


def shapes(name: str) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the products of the model's global stack, by name."""
    model = find_model(name)
    c = model.config.global_
    qkv = c.width + 2 * c.num_kv_heads * c.head_dim
    gates = 2 if c.activation == "swiglu" else 1
    return {
        "q, k, v": (c.width, qkv),
        "attention output": (c.width, c.width),
        "MLP up": (c.width, gates * c.hidden),
        "MLP down": (c.hidden, c.width),
        "head of a slot": (model.config.local.width, len(model.rows(0))),
    }


def attention(
    name: str, positions: Sequence[int], threads: int, megabytes: int, seconds: float, reads: float
) -> list[dict[str, Any]]:
    """µs, and GB/s of keys, values and their scales, of the attention in one layer by format and
    positions; ``reads`` is the machine's bandwidth in GB/s.
    """
    stack = find_model(name).config.global_
    heads, dim = stack.num_kv_heads, stack.head_dim
    found = []
    for dtype, size in KV_DTYPES.items():
        position_bytes = 2 * heads * (dim * size + (4 if dtype == "int8" else 0))
        for count in positions:
            time = _C.attention_seconds(threads, dtype, count, heads, dim, megabytes, seconds)
            rate = count * position_bytes / time / 1e9
            found.append(
                {
                    "kv_dtype": dtype,
                    "positions": count,
                    "us": round(1e6 * time, 2),
                    "gb_per_s": round(rate, 2),
                    "of_bandwidth": round(rate / reads, 3),
                }
            )
    return found


def measure(
    sizes: dict[str, tuple[int, int]],
    dtypes: Sequence[str],
    rows: Sequence[int],
    threads: int,
    megabytes: int,
    seconds: float,
) -> dict[str, Any]:
    """Peaks, and µs, GFLOP/s (GOP/s), GB/s of weights and fractions of both bounds by product."""
    size = megabytes or 1
    peaks = {
        "float32_gflops": _C.fma_peak(threads),
        "bytes_gops": _C.byte_peak(threads),
        "gb_per_s": _C.read_bandwidth(threads, size),
    }
    products = []
    for dtype in dtypes:
        peak = peaks["bytes_gops" if dtype.startswith("int") else "float32_gflops"]
        for count in rows:
            for name, (width, out) in sizes.items():
                time = _C.product_seconds(threads, dtype, count, width, out, megabytes, seconds)
                rate = 2 * count * width * out / time / 1e9
                read = DTYPES[dtype] * width * out / time / 1e9
                products.append(
                    {
                        "dtype": dtype,
                        "rows": count,
                        "product": f"{name}, {width} × {out}",
                        "us": round(1e6 * time, 2),
                        "gops": round(rate, 1),
                        "of_peak": round(rate / peak, 3),
                        "gb_per_s": round(read, 2),
                        "of_bandwidth": round(read / peaks["gb_per_s"], 3),
                    }
                )
    return {
        "machine": common.machine_line(common.machine()),
        "threads": threads,
        "megabytes": megabytes,
        "peaks": {k: round(v, 1) for k, v in peaks.items()},
        "products": products,
    }


def text(r: dict[str, Any]) -> str:
    peaks = r["peaks"]
    where = f"{r['megabytes']} MiB in turn" if r["megabytes"] else "from the caches"
    rows = [
        [p["product"], p["dtype"], str(p["rows"])]
        + [str(p[k]) for k in ("us", "gops", "of_peak", "gb_per_s", "of_bandwidth")]
        for p in r["products"]
    ]
    head = ["product", "weights", "rows", "µs", "GFLOP/s", "of the peak", "GB/s", "of the reads"]
    about = (
        f"{common.today()}, {r['machine']}; {r['threads']} threads, {where}\n"
        f"peaks: float32 {peaks['float32_gflops']} GFLOP/s, bytes {peaks['bytes_gops']} GOP/s, "
        f"reads {peaks['gb_per_s']} GB/s"
    )
    attended = [[str(v) for v in a.values()] for a in r["attention"]]
    kv_head = ["attention: keys and values", "positions", "µs", "GB/s", "of the reads"]
    tables = [common.table(h, t) for h, t in ((head, rows), (kv_head, attended)) if t]
    return "\n\n".join([about, *tables])


def numbers(option: str, value: str) -> list[int]:
    """Whole numbers, comma-separated; none of an empty string. Raises InputError."""
    try:
        return [int(n) for n in value.split(",") if value]
    except ValueError:
        raise InputError(f"{option}: expected whole numbers, got {value!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="kernels.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=NAMES, default="v1", help="whose shapes (v1)")
    parser.add_argument(
        "--dtypes", default=",".join(DTYPES), help="weight formats, comma-separated (all)"
    )
    parser.add_argument(
        "--rows",
        default=",".join(map(str, ROWS)),
        help="numbers of rows, comma-separated (%(default)s)",
    )
    parser.add_argument(
        "--positions",
        default=",".join(map(str, POSITIONS)),
        help="positions that a row attends to, comma-separated (%(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, default=min(2, common.available_cores()), help="threads (2)"
    )
    parser.add_argument(
        "--megabytes",
        type=int,
        default=common.BANDWIDTH_MB,
        help="matrices, or caches, that take turns, MiB (%(default)s); 0: one, from the caches",
    )
    parser.add_argument("--seconds", type=float, default=0.05, help="time for each product (0.05)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    dtypes = args.dtypes.split(",")
    if not set(dtypes) <= set(DTYPES):
        raise InputError(f"--dtypes: expected {', '.join(DTYPES)}, got {args.dtypes!r}")
    rows, positions = numbers("--rows", args.rows), numbers("--positions", args.positions)
    turns = (args.threads, args.megabytes, args.seconds)
    try:
        found = measure(shapes(args.model), dtypes, rows, *turns)
        reads = found["peaks"]["gb_per_s"]
        found["attention"] = attention(args.model, positions, *turns, reads)
    except ValueError as e:
        raise InputError(str(e)) from None
    print(json.dumps(found, indent=1) if args.json else text(found))
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
