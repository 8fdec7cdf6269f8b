"""Speed of the bundled model from text to sound, by weight format: realtime factor, time to the
first chunk, prefill.

The figures are those of ``uniaudio bench --json``; the formats take turns in every round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import common
from common import median, say
from models import bundled, split_format

from uniaudio_engine import Engine, __version__
from uniaudio_engine.cli.bench import measure
from uniaudio_engine.errors import InputError

FORMATS = ("float32", "bfloat16", "int8", "int4", "int8+local=int4")
FIGURES = (
    "ms_per_frame",
    "decode_ms_per_frame",
    "prefill_ms",
    "first_chunk_ms",
    "realtime_factor",
    "bandwidth_gb_per_s",
    "bandwidth_fraction",
)
EPILOG = """examples:
  python benchmarks/first_chunk.py
  python benchmarks/first_chunk.py --formats int8,int4 --rounds 3
  python benchmarks/first_chunk.py --write                 write the table to docs/benchmarks.md
  uniaudio export onnx -o build/onnx
  python benchmarks/first_chunk.py --onnx build/onnx --formats float32,int8
a format is the engine's dtype with + for each comma; kv= is the key-value cache's
"""


def make_engine(text: str, model: Path, threads: int) -> Engine:
    dtype, options = split_format(text)
    return Engine.from_pretrained(model, dtype=dtype, threads=threads, **cast(Any, options))


def run(args: argparse.Namespace) -> dict[str, Any]:
    engines = {f: make_engine(f, args.model, args.threads) for f in args.formats.split(",")}
    if args.onnx:
        graphs = Engine.from_pretrained(args.onnx, backend="onnx", threads=args.threads)
        engines[f"ONNX Runtime {graphs.dtype}"] = graphs
    found: dict[str, Any] = {f: {k: [] for k in FIGURES} for f in engines}
    for n in range(args.rounds):
        for name, engine in engines.items():
            figures = measure(engine, args.seconds, args.repeat, args.seed)
            for key in FIGURES:
                found[name][key].append(figures[key])
            found[name].update(
                weight_bytes=figures["weight_bytes_per_frame"],
                prefill_frames=figures["prefill_frames"],
            )
            first, factor = figures["first_chunk_ms"], figures["realtime_factor"]
            say(
                f"round {n + 1} of {args.rounds}: {name}: first chunk {first:.1f} ms, "
                f"{factor:.1f} x realtime"
            )
    about = {
        "date": common.today(),
        "machine": common.machine(),
        "threads": args.threads,
        "seed": args.seed,
    }
    return {
        **about,
        "version": __version__,
        "rounds": args.rounds,
        "repeat": args.repeat,
        "formats": found,
    }


def section(results: dict[str, Any]) -> str:
    formats = results["formats"]
    first = next(iter(formats.values()))
    head = [
        "weights",
        "× realtime",
        "first chunk, ms",
        "LM, ms / frame",
        "codec decode, ms / frame",
        f"prefill of {first['prefill_frames']}, ms",
    ]
    head += ["MB of weights / frame", "bandwidth, GB/s", "fraction of it"]
    rows = []
    for name, f in formats.items():
        cells = [
            f"{median(f[k]):.{digits}f}"
            for k, digits in (
                ("realtime_factor", 1),
                ("first_chunk_ms", 1),
                ("ms_per_frame", 3),
                ("decode_ms_per_frame", 3),
                ("prefill_ms", 1),
            )
        ]
        cells += [
            f"{f['weight_bytes'] / 1e6:.1f}",
            f"{median(f['bandwidth_gb_per_s']):.0f}",
            f"{median(f['bandwidth_fraction']):.2f}",
        ]
        rows.append([name.replace("+", ", "), *cells])
    return "\n\n".join(
        [
            "### Bundled model, text to sound",
            f"{results['date']}, {common.machine_line(results['machine'])}; {results['threads']} "
            f"threads, seed {results['seed']}, uniaudio-engine "
            f"{results['version']}; medians of {results['rounds']} rounds of {results['repeat']} "
            "repeats.",
            common.table(head, rows),
            "Command: `python benchmarks/first_chunk.py`, then the same with `--write`.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="first_chunk.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_common(parser, "first_chunk.json")
    parser.add_argument(
        "--model", type=Path, default=bundled(), help="a model folder (the bundled one)"
    )
    parser.add_argument(
        "--formats", default=",".join(FORMATS), help="formats to measure, comma-separated"
    )
    parser.add_argument(
        "--onnx",
        type=Path,
        metavar="FOLDER",
        help="a folder by export onnx of the same model, measured as another engine",
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="length of the timed speech (10)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="repeats within a round (3)")
    args = parser.parse_args(argv)
    if not args.write:
        if args.seconds <= 0 or args.repeat < 1:
            raise InputError(
                f"expected --seconds above 0 and --repeat of 1 or more, got {args.seconds:g} and "
                f"{args.repeat}"
            )
        common.save_results(args.results, run(args))
        return 0
    results = common.load_results(args.results)
    if not results:
        raise InputError(f"{args.results}: no results yet; run the command without --write first")
    common.write_section(args.docs, "first-chunk", section(results))
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
