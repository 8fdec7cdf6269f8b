"""The tables of ``lm.py``, from its results file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
from common import median, ratios

from uniaudio_engine.errors import InputError

LABELS = {
    "native": "**uniaudio-engine**",
    "torch": "PyTorch",
    "onnx": "ONNX Runtime",
    "llama": "llama.cpp",
}
FORMATS = {
    "int8blocks": "int8 in blocks (MatMulNBits)",
    "onnx-int4": "int4 (MatMulNBits)",
    "onnx-int8": "dynamic int8",
    "torch-int8": "dynamic int8",
}
TITLES = {
    "v1": "UniAudio-v1 shape, random weights",
    "base": "bundled model",
    "tiny": "tiny model (a test of the benchmark)",
}

HELD = {"best": "", "avx2": ", all engines held to AVX2"}  # by --tier

REFERENCES = ("native-int8", "native-int4")  # the engines that peers are compared with


def label(engine: str) -> str:
    kind, _, dtype = engine.partition("-")
    return f"{LABELS[kind]} {FORMATS.get(engine, FORMATS.get(dtype, dtype)).replace('+', ', ')}"


def title(row: str) -> str:
    what, _, context = row.partition("@")
    if what == "prefill":
        return f"prefill of {context}"
    if what == "neighbour":
        return "busy neighbour, ×"
    if what == "context":
        return f"1 stream @ {context}"
    return f"{what} stream{'s' if what != '1' else ''} @ {context}"


def fraction(row: Mapping[str, Any], engine: str, weight_bytes: float) -> float:
    """Fraction of the bandwidth of the same round that reading the weights once per step takes;
    median over rounds.
    """
    times = row["engines"][engine]["ms"]
    return median(
        [
            weight_bytes / (ms * 1e-3) / (bw * 1e9)
            for ms, bw in zip(times, row["bandwidth"], strict=True)
        ]
    )


def value(name: str, row: Mapping[str, Any], engine: str) -> str:
    """A table cell: median and (min) in ms.

    For a context also the ratio to the time at 150 frames; for a neighbour the ratio to the time
    alone.
    """
    times = row["engines"].get(engine)
    if times is None:
        return ""
    if name.startswith("neighbour"):
        return f"{median(ratios(times['ms'], times['base'])):.2f}"
    grown = (
        f", {median(ratios(times['ms'], times['base'])):.2f} ×"
        if name.startswith("context")
        else ""
    )
    return f"{short(median(times['ms']))} ({short(min(times['ms']))}){grown}"


def short(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def row_text(name: str, row: Mapping[str, Any], checks: Mapping[str, Any]) -> str:
    """The results of a row, for the terminal."""
    lines = [f"{title(name)}: bandwidth {median(row['bandwidth']):.1f} GB/s"]
    for engine in row["engines"]:
        size = checks[engine]["weight_bytes"]
        part = (
            ""
            if name.startswith(("prefill", "neighbour"))
            else f", {fraction(row, engine, size):.2f} of the bandwidth"
        )
        lines.append(
            f"  {engine:<22} "
            f"{value(name, row, engine)}{' ms' if not name.startswith('neighbour') else ' x'}{part}"
        )
    return "\n".join(lines)


def section(results: Mapping[str, Any]) -> str:
    """Markdown section of a model: times, ratios, fraction of the bandwidth, correctness."""
    tier = results.get("tier", "best")
    rows: dict[str, Any] = results["rows"]
    checks: dict[str, Any] = results["checks"]
    engines = [e for e in checks if any(e in r["engines"] for r in rows.values())]
    engines.sort(key=lambda e: list(LABELS).index(e.partition("-")[0]))
    natives = [e for e in engines if e.startswith("native")]
    timed = [n for n in rows if not n.startswith("neighbour")]
    versions = dict.fromkeys(checks[e]["version"] for e in engines)
    dates = sorted({r["date"] for r in rows.values()})
    arithmetic: dict[str, list[float]] = {}
    for r in rows.values():
        for name, values in r["arithmetic"].items():
            arithmetic.setdefault(name, []).extend(values)
    peaks = ", ".join(f"{k} {median(v):.0f} GFLOP/s" for k, v in arithmetic.items())
    bandwidths = [b for r in rows.values() for b in r["bandwidth"]]
    rounds = sorted({len(r["bandwidth"]) for r in rows.values()})
    out = [
        f"### Language model: {TITLES[results['model']]}{HELD[tier]}",
        f"{dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}, "
        f"{common.machine_line(results['machine'])}; "
        f"{results['threads']} threads, seed {results['seed']}, {' or '.join(map(str, rounds))} "
        f"rounds; {'; '.join(versions)}. Measured in the same rounds: "
        f"memory reads {median(bandwidths):.1f} GB/s (from {min(bandwidths):.1f} to "
        f"{max(bandwidths):.1f}), {peaks}.",
        "Times in ms per 20 ms frame of all streams together, or per prefill: median (min). Longer "
        "contexts also have the ratio to the time at 150 frames in the same round. *busy "
        "neighbour*: time next to one process that computes continuously, relative to the time "
        "without it in the same round.",
        common.table(
            ["engine", "MB of weights / frame", *map(title, rows)],
            [
                [
                    label(e),
                    f"{checks[e]['weight_bytes'] / 1e6:.1f}",
                    *(value(n, rows[n], e) for n in rows),
                ]
                for e in engines
            ],
        ),
    ]
    steps = [n for n in timed if not n.startswith("prefill")]
    if steps and natives:
        out += [
            "Weight bytes per frame / time, relative to the bandwidth measured in the same round "
            "(above 1: weights came from the cache):",
            common.table(
                ["engine", *map(title, steps)],
                [
                    [
                        label(e),
                        *(
                            f"{fraction(rows[n], e, checks[e]['weight_bytes']):.2f}"
                            if e in rows[n]["engines"]
                            else ""
                            for n in steps
                        ),
                    ]
                    for e in engines
                ],
            ),
        ]
    peers = [e for e in engines if e not in natives]
    for native in [n for n in natives if n in REFERENCES] or natives[:1]:
        if peers and timed:
            out += [
                f"Time relative to {label(native)} (within rounds, median):",
                common.table(
                    ["peer", *map(title, timed)],
                    [
                        [label(p), *(times_as_long(rows[n], p, native) for n in timed)]
                        for p in peers
                    ],
                ),
            ]
    out += [
        "Check that all engines compute the same model: error of the logits of stepped frames "
        "against native float32, in units of their standard deviation, and how often the best id "
        "agrees.",
        common.table(
            ["engine", "rms", "max", "best id agrees"],
            [
                [
                    label(e),
                    f"{checks[e]['rms']:.2g}",
                    f"{checks[e]['max']:.2g}",
                    f"{checks[e]['top1']:.3f}",
                ]
                for e in engines
            ],
        ),
        f"Command: `python benchmarks/lm.py --model {results['model']}"
        f"{'' if tier == 'best' else f' --tier {tier}'}`, then the same with `--write`.",
    ]
    return "\n\n".join(out)


def times_as_long(row: Mapping[str, Any], peer: str, native: str) -> str:
    a, b = row["engines"].get(peer), row["engines"].get(native)
    return f"{median(ratios(a['ms'], b['ms'])):.2f}" if a and b else ""


def write(docs: Path, path: Path) -> None:
    results = common.load_results(path)
    if not results.get("rows"):
        raise InputError(f"{path}: no results yet; run the command without --write first")
    tier = results.get("tier", "best")
    name = f"lm-{results['model']}{'' if tier == 'best' else f'-{tier}'}"
    common.write_section(docs, name, section(results))
