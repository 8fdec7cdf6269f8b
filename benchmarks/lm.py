"""The language model compared with its peers: ms per 20 ms frame by streams and context, prefill,
and the effect of a busy neighbour.

Every engine runs in its own process with the same weights. Engines take turns in every round (A B
C, A B C, ...), so that other load on the machine affects all of them; ratios are taken within
rounds. Before timing, the logits of each engine, from the steps that are timed, are compared with
the native float32 ones. Bandwidth and arithmetic peaks are measured in the same rounds.

Every engine chooses the ids of each frame: the native one samples (top-k 30), the peers take the
best.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import lm_table
import numpy as np
from common import say
from models import NAMES, find_model
from peers.base import Spec
from peers.worker import KINDS, Worker, missing, workers

from uniaudio_engine.backends.core import core
from uniaudio_engine.errors import InputError

ROWS = (
    "1@150",
    "4@150",
    "8@150",
    "16@150",
    "context@1500",
    "context@3000",
    "prefill@150",
    "neighbour@150",
)
ENGINES = {
    # + stands for the comma of the engine's own strings; kv= is the format of the key-value cache,
    # by default the engine's choice
    "native": ("float32", "bfloat16", "int8", "int4", "int8+local=int4", "int8+kv=float32"),
    "torch": ("float32", "bfloat16", "int8"),
    "onnx": ("int8", "int8blocks", "int4"),
    "llama": ("q8_0", "q4_K"),
}
SHORT = 150  # frames of context that longer contexts are compared with
CHECK_KNOWN, CHECK_STEPS = 16, 8
# Largest rms error of logits, in units of their standard deviation, with which an engine still
# counts as the same model.
EXACT, ROUNDED = 1e-3, 0.3
# Seconds between engines: OpenMP threads of the last one spin for a tenth of a second.
PAUSE = 0.15
EPILOG = """examples:
  python benchmarks/lm.py                                     all rows, all installed engines
  python benchmarks/lm.py --rows 1@150,4@150 --engines native,torch-int8
  python benchmarks/lm.py --engines native-int8+local=int4    (+ for the comma of a dtype)
  python benchmarks/lm.py --model base --rows 1@150
  python benchmarks/lm.py --prepare                           make weights and peer files only
  python benchmarks/lm.py --rows 4@150 --rounds 2 --append    two more rounds
  python benchmarks/lm.py --tier avx2                         all engines held to AVX2
  python benchmarks/lm.py --write                             write tables to docs/benchmarks.md
rows:
  STREAMS@CONTEXT
  context@CONTEXT      one stream, compared with 150 frames of context in the same round
  prefill@FRAMES
  neighbour@CONTEXT    one stream, alone and next to one busy process in the same round
peers: pip install torch onnxruntime onnx llama-cpp-python gguf; missing ones are skipped
"""


@dataclass(frozen=True)
class Row:
    """``kind``: frames, context, prefill or neighbour."""

    kind: str
    streams: int
    context: int

    @classmethod
    def parse(cls, text: str) -> Row:
        """Parses a row such as ``4@150`` or ``context@1000``. Raises InputError."""
        found = re.fullmatch(r"(context|prefill|neighbour|[0-9]{1,2})@([0-9]{1,5})", text)
        if not found or found[1] in ("0", "00") or int(found[2]) < 1:
            raise InputError(
                "--rows: expected STREAMS@CONTEXT, or context, prefill or neighbour@FRAMES, got "
                f"{text!r}"
            )
        kind = "frames" if found[1].isdigit() else found[1]
        return cls(kind, int(found[1]) if kind == "frames" else 1, int(found[2]))

    @property
    def name(self) -> str:
        return f"{self.streams if self.kind == 'frames' else self.kind}@{self.context}"


def choose(text: str) -> list[tuple[str, str]]:
    """``native,torch-int8`` -> (kind, dtype) of each engine; a kind alone selects all of its
    formats.
    """
    chosen = []
    for word in text.split(","):
        kind, _, dtype = word.partition("-")
        if kind not in ENGINES:
            expected = f"{', '.join(ENGINES)}, or one of their formats as in torch-int8"
            raise InputError(f"--engines: expected {expected}, got {word!r}")
        chosen += [(kind, d) for d in ([dtype] if dtype else ENGINES[kind])]
    return list(dict.fromkeys(chosen))


def check(ready: list[Worker], reference: Worker, seed: int) -> dict[str, dict[str, Any]]:
    """Error of each engine's stepped logits against native float32.

    Raises InputError where an engine computes a different function.
    """
    model = reference.spec.find_model()
    frames = model.frames(CHECK_KNOWN + CHECK_STEPS, seed + 1)
    truth = reference.call("logits", frames, CHECK_KNOWN)
    found = {}
    for worker in ready:
        got = worker.call("logits", frames, CHECK_KNOWN)
        if got.shape != truth.shape:
            raise InputError(
                f"{worker.name}: expected logits {list(truth.shape)}, got {list(got.shape)}"
            )
        error = (got - truth) / truth.std()
        rms, exact = float(np.sqrt(np.mean(error**2))), worker.spec.dtype == "float32"
        found[worker.name] = about = {
            "max": float(np.abs(error).max()),
            "rms": rms,
            "top1": float((got.argmax(-1) == truth.argmax(-1)).mean()),
            "version": worker.version,
            "weight_bytes": worker.call("weight_bytes"),
        }
        if worker.spec.kind == "native":
            about["greedy"] = worker.call("greedy_agreement", CHECK_KNOWN, CHECK_STEPS)
            if about["greedy"] < (1.0 if exact else 0.9):
                raise InputError(
                    f"{worker.name}: its steps choose other ids than its logits "
                    f"({about['greedy']:.2f} the same)"
                )
        say(
            f"  {worker.name:<22} error of logits / their std: rms {rms:.2g}, max "
            f"{about['max']:.2g}, best id {about['top1']:.3f}"
        )
        if not rms <= (EXACT if exact else ROUNDED):
            raise InputError(
                f"{worker.name}: expected the native logits within {EXACT if exact else ROUNDED} "
                f"std, got {rms:.3g}"
            )
    return found


def measure_row(row: Row, ready: list[Worker], args: argparse.Namespace) -> dict[str, Any]:
    """Times of every engine over ``args.rounds`` rounds.

    ``ms`` is per frame, or of the whole prefill. ``base`` is the reference of a context or a
    neighbour, measured just before.
    """
    say(f"{args.model} {row.name}")
    room = find_model(args.model).config.max_frames - row.context - 4
    if room < 2:
        raise InputError(
            f"--rows: {row.name}: expected at most {row.context + room - 2} frames for {args.model}"
        )
    cells: dict[str, Cell] = {}
    for worker in ready:
        try:
            cells[worker.name] = Cell(row, worker, min(args.frames, room), args.seconds)
        except InputError as e:
            say(f"  left out: {e}")
    bandwidth: list[float] = []
    arithmetic: dict[str, list[float]] = {}
    for n in range(args.rounds):
        bandwidth.append(round(common.bandwidth(args.threads, args.megabytes), 2))
        for name, value in common.arithmetic(args.threads).items():
            arithmetic.setdefault(name, []).append(value)
        for cell in cells.values():
            time.sleep(PAUSE)
            cell.measure()
        say(
            f"  round {n + 1} of {args.rounds}: "
            + ", ".join(f"{k} {c.times['ms'][-1]:.2f}" for k, c in cells.items())
        )
    engines = {
        e: {k: [round(x, 4) for x in v] for k, v in c.times.items()} for e, c in cells.items()
    }
    return {
        "date": common.today(),
        "engines": engines,
        "bandwidth": bandwidth,
        "arithmetic": arithmetic,
    }


def appended(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Merges the rounds of two runs of a row, for the engines that are in both."""
    if old is None:
        return new
    both = [e for e in old["engines"] if e in new["engines"]]
    engines = {e: {k: v + new["engines"][e][k] for k, v in old["engines"][e].items()} for e in both}
    arithmetic = {k: old["arithmetic"].get(k, []) + v for k, v in new["arithmetic"].items()}
    return {
        **new,
        "engines": engines,
        "bandwidth": old["bandwidth"] + new["bandwidth"],
        "arithmetic": arithmetic,
    }


class Cell:
    """One engine in one row; ``times`` are ms."""

    def __init__(self, row: Row, worker: Worker, most: int, seconds: float) -> None:
        """A timing is ``most`` frames or ``seconds`` seconds, whichever is less."""
        self.row, self.worker, self.most = row, worker, most
        self.times: dict[str, list[float]] = {"ms": []}
        if row.kind == "prefill":
            worker.call("prefill", row.context)
            return
        if row.kind != "frames":
            self.times["base"] = []
        worker.call("prepare", row.streams, row.context, most)
        worker.call("frames", 1)
        self.count = max(2, min(most, round(seconds / (worker.call("frames", 2) / 2))))

    def measure(self) -> None:
        """One round."""
        if self.row.kind == "prefill":
            self.worker.call(
                "prefill", self.row.context
            )  # warm-up: threads awake, weights in place
            self.times["ms"].append(1e3 * self.worker.call("prefill", self.row.context))
            return
        if self.row.kind == "context":
            self.times["base"].append(self.prepared(min(SHORT, self.row.context)))
            self.times["ms"].append(self.prepared(self.row.context))
            return
        alone = self.frames()
        if self.row.kind == "frames":
            self.times["ms"].append(alone)
            return
        self.times["base"].append(alone)
        with Neighbour():
            self.times["ms"].append(self.frames())

    def frames(self) -> float:
        return 1e3 * float(self.worker.call("frames", self.count)) / self.count

    def prepared(self, context: int) -> float:
        self.worker.call("prepare", 1, context, self.most)
        self.worker.call("frames", 1)
        return self.frames()


class Neighbour:
    """A process that keeps one core busy within the block."""

    def __enter__(self) -> Neighbour:
        code = "print('.', flush=True)\nwhile True: pass"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it is running now
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def hold_to_avx2(cache: Path) -> None:
    """Starts this program again so that it and every engine find a processor with AVX2 only.

    Raises InputError where the processor or the system cannot do that.
    """
    if "UNIAUDIO_ONLY_AVX2" in os.environ:
        if core().isa() != "avx2":
            raise InputError(
                f"--tier avx2: expected avx2 to be found, got {core().isa()}; this needs Linux and "
                "a processor with the flag cpuid_fault"
            )
        return
    cache.mkdir(parents=True, exist_ok=True)
    library = cache.resolve() / "only_avx2.so"
    source = common.HERE / "peers" / "only_avx2.c"
    compiler = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC"]
    try:
        subprocess.run([*compiler, str(source), "-o", str(library)], check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise InputError(
            f"--tier avx2: expected a C compiler for {source.name}, got: {e}"
        ) from None
    environment = {**os.environ, "LD_PRELOAD": str(library), "UNIAUDIO_ONLY_AVX2": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def run(args: argparse.Namespace) -> None:
    rows = [Row.parse(r) for r in args.rows.split(",")]
    chosen = choose(
        args.engines or ("native,torch" if args.model == "base" else "native,torch,onnx,llama")
    )
    absent = {kind: missing(kind) for kind in KINDS if missing(kind)}
    for kind in sorted({k for k, _ in chosen if k in absent}):
        say(f"{kind}: left out, because {absent[kind]} is not installed")
    chosen = [(k, d) for k, d in chosen if k not in absent]
    if ("native", "float32") not in chosen:
        chosen.insert(0, ("native", "float32"))  # the reference of the others
    args.cache.mkdir(parents=True, exist_ok=True)
    specs = [
        Spec(k, d, args.model, args.seed, args.threads, args.cache.resolve()) for k, d in chosen
    ]
    results = common.load_results(args.results)
    if args.prepare:
        for spec in specs:  # one by one: conversion may need much memory
            say(f"preparing {spec.name}")
            with workers([spec]) as (_, failed):
                for why in failed.values():
                    say(f"  left out: {why}")
        return
    say(f"loading {', '.join(s.name for s in specs)}")
    with workers(specs[:1]) as (
        first,
        failed_first,
    ):  # first and alone: it makes the weights that the others read
        if failed_first:
            raise InputError(next(iter(failed_first.values())))
        with workers(specs[1:]) as (others, failed):
            for why in failed.values():
                say(f"  left out: {why}")
            ready = [*first, *others]
            ready.sort(key=lambda w: [s.name for s in specs].index(w.name))
            reference = next(w for w in ready if w.name == "native-float32")
            checks = check(ready, reference, args.seed)
            results.setdefault("checks", {}).update(checks)
            results.update(
                tier=args.tier,
                model=args.model,
                machine=common.machine(),
                threads=args.threads,
                seed=args.seed,
            )
            for row in rows:
                measured = measure_row(row, ready, args)
                if args.append:
                    measured = appended(results.get("rows", {}).get(row.name), measured)
                results.setdefault("rows", {})[row.name] = measured
                common.save_results(args.results, results)
                print(lm_table.row_text(row.name, measured, checks), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lm.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_common(parser, "lm-MODEL.json")
    parser.add_argument(
        "--tier",
        choices=("best", "avx2"),
        default="best",
        help="avx2: hold all engines, peers included, to AVX2 without VNNI (Linux, Intel); the "
        "results and the table are apart",
    )
    parser.add_argument(
        "--model",
        choices=NAMES,
        default="v1",
        help="v1: the UniAudio-v1 shape; base: the bundled model",
    )
    parser.add_argument("--rows", default=",".join(ROWS), help="rows to measure, comma-separated")
    which = (
        "comma-separated engines (default: all; for base native and torch, as the other peers "
        "need the v1 shape)"
    )
    parser.add_argument("--engines", help=which)
    parser.add_argument("--frames", type=int, default=100, help="maximum frames per timing (100)")
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="target duration of a timing (0.4)"
    )
    parser.add_argument(
        "--megabytes",
        type=int,
        default=common.BANDWIDTH_MB,
        help="size of the bandwidth test's block",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=common.HERE / "cache",
        help="folder for weights and peers' files",
    )
    parser.add_argument(
        "--append",
        action="store_true",
        help="add the rounds to those of earlier runs of the same rows",
    )
    parser.add_argument("--prepare", action="store_true", help="fill --cache and measure nothing")
    args = parser.parse_args(argv)
    label = args.model if args.tier == "best" else f"{args.model}-{args.tier}"
    args.results = Path(str(args.results).replace("MODEL", label))
    if args.write:
        lm_table.write(args.docs, args.results)
        say(f"wrote the section of {args.results.name} into {args.docs}")
        return 0
    if args.tier == "avx2":
        hold_to_avx2(args.cache)
    run(args)
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
