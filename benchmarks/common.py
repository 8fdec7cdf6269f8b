"""Shared by all benchmarks: description and measured peaks of the machine, results on disk, tables
in docs.

Host names, users and paths are never recorded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniaudio_engine.backends.core import core
from uniaudio_engine.errors import InputError
from uniaudio_engine.storage.files import atomic_write

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs" / "benchmarks.md"
BANDWIDTH_MB = 512  # too large for the caches of any machine


def machine() -> dict[str, Any]:
    """CPU, cores, instruction set, memory and system as text, without host names."""
    about = {
        "cpu": platform.processor() or platform.machine(),
        "cores": available_cores(),
        "isa": core().isa(),
    }
    fields: dict[str, str] = {}
    for path in ("/proc/cpuinfo", "/proc/meminfo"):
        if os.path.exists(path):
            for line in Path(path).read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(":")
                fields.setdefault(name.strip(), value.strip())
    if "model name" in fields:
        family = (
            f", family {fields['cpu family']} model {fields['model']}"
            if "cpu family" in fields
            else ""
        )
        about["cpu"] = fields["model name"] + family
    if "MemTotal" in fields:
        about["ram_gb"] = round(int(fields["MemTotal"].split()[0]) / 1e6)
    cache = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    if cache.exists():
        about["l3"] = cache.read_text(encoding="utf-8").strip()
    return {
        **about,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def machine_line(about: dict[str, Any]) -> str:
    """:func:`machine` as part of a sentence."""
    parts = [about["cpu"], f"{about['cores']} cores", about["isa"]]
    parts += [f"L3 {about['l3']}"] if "l3" in about else []
    parts += [f"{about['ram_gb']} GB"] if "ram_gb" in about else []
    return ", ".join(parts)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bandwidth(threads: int, megabytes: int = BANDWIDTH_MB) -> float:
    """Memory read bandwidth in GB/s, measured now."""
    return float(core().read_bandwidth(threads, megabytes))


def arithmetic(threads: int, size: int = 1536) -> dict[str, float]:
    """Measured arithmetic peaks by name, in GFLOP/s (GOP/s for bytes): the core's loops on
    registers, and NumPy's float32 matrix product with the threads that the environment allows.
    """
    out = {
        "float32 multiply-adds": round(core().fma_peak(threads), 1),
        "byte multiply-adds": round(core().byte_peak(threads), 1),
    }
    a = np.ones((size, size), np.float32)
    best = min(timed(lambda: a @ a) for _ in range(3))
    out["NumPy float32 product"] = round(2 * size**3 / best / 1e9, 1)
    return out


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def today() -> str:
    return datetime.date.today().isoformat()


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a / b per round, so that disturbances of the same round cancel."""
    return [x / y for x, y in zip(a, b, strict=False)]


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


# Results: one JSON file per table. Several invocations fill it; each replaces the rows that it
# measured.


def load_results(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as e:
        raise InputError(
            f"{path}: expected results as JSON, got: {e}; remove the file and measure again"
        ) from None


def save_results(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as f:
        f.write((json.dumps(results, indent=1) + "\n").encode())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def write_section(doc: Path, name: str, text: str) -> None:
    """Replaces the marked section ``name`` of a Markdown file, or appends it; the rest is
    unchanged.
    """
    begin, end = (
        f"<!-- begin {name}: written by the command below it, not by hand -->",
        f"<!-- end {name} -->",
    )
    old = doc.read_text(encoding="utf-8") if doc.exists() else ""
    if (begin in old) != (end in old) or old.count(begin) > 1 or old.find(end) < old.find(begin):
        raise InputError(
            f"{doc}: expected one line {begin!r} and after it one {end!r}; repair or remove them"
        )
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in old:
        new = old[: old.index(begin)] + section + old[old.index(end) + len(end) :]
    else:
        new = old.rstrip("\n") + ("\n\n" if old.strip() else "") + section + "\n"
    with atomic_write(doc) as f:
        f.write(new.encode())


# Command lines


def add_common(parser: argparse.ArgumentParser, results: str, rounds: bool = True) -> None:
    """Adds the options that every benchmark has; ``rounds``: it compares engines in rounds."""
    parser.add_argument(
        "--threads",
        type=_positive,
        default=min(2, available_cores()),
        help="threads of every engine (2)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, inputs and sampling (0)"
    )
    if rounds:
        parser.add_argument(
            "--rounds",
            type=_positive,
            default=5,
            help="number of rounds; engines take turns in each (5)",
        )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS / results,
        help="JSON file of results",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the table of --results into --docs and measure nothing",
    )
    parser.add_argument(
        "--docs", type=Path, default=DOCS, help="Markdown file with the marked section"
    )


def run_main(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Runs ``main``; errors become one line on standard error with exit code 2, Ctrl-C exit code
    130.
    """
    try:
        return main(argv)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as e:  # InputError too
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1000, got {text}")
    return int(text)
