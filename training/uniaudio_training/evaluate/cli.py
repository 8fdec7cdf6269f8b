"""``python -m uniaudio_training.evaluate``: judges a model folder and writes a report."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

TASKS = ("tts", "codec")


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m uniaudio_training.evaluate",
        description="Judge a model: each number with its count, its 95 % interval, and what the original recordings reach.",
        epilog="example: python -m uniaudio_training.evaluate --model bundled --task tts,codec --json report.json --limit 5",
    )
    p.add_argument(
        "--model",
        required=True,
        help="a model folder, 'bundled', a codec run's folder, or 'fake:flite' / 'fake:noise' (the ends of the scale)",
    )
    p.add_argument("--task", default="tts,codec", help="what to judge, of tts, codec (default: %(default)s)")
    p.add_argument("--json", type=Path, help="write the report here too")
    p.add_argument("--limit", type=int, help="a quick look with about this many sentences a voice (default: all, 100)")
    p.add_argument(
        "--seed", type=int, default=0, help="draws the sentences and the model's random numbers (default: %(default)s)"
    )
    p.add_argument("--threads", type=int, default=1, help="of the model and the judges (default: %(default)s)")
    p.add_argument("--dtype", default="auto", help="how a model folder's LM is held, as in the engine (default: %(default)s)")
    p.add_argument(
        "--lm-codebooks",
        type=int,
        default=4,
        help="for a codec run: how many codebooks its LM will use (default: %(default)s)",
    )
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    return p


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 with a report, 2 with one line that says what was wrong."""
    args = _parser().parse_args(argv)
    tasks = [t for t in args.task.split(",") if t]
    if not tasks or set(tasks) - set(TASKS):
        return _error(f"--task: expected some of {', '.join(TASKS)}, got {args.task!r}")
    if args.limit is not None and args.limit < 1:
        return _error(f"--limit: expected 1 or more, got {args.limit}")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(args.threads))  # before numpy is there

    import torch

    from . import codec, tts
    from .engines import able, load_subject
    from .judges import JudgeMissing
    from .rows import Row, table

    torch.set_num_threads(args.threads)
    begin = time.monotonic()
    try:
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
        subject = load_subject(args.model, args.threads, args.lm_codebooks, args.dtype)
        can = able(subject, tasks)
        rows: list[Row] = []
        trouble = [f"{t}: this model cannot do it" for t in tasks if t not in can]
        for task, module in (("tts", tts), ("codec", codec)):
            if task in can:
                plan = module.Plan.limited(args.limit, args.seed) if args.limit else module.Plan(seed=args.seed)  # type: ignore[attr-defined]
                more, lines = module.judge(subject, plan, not args.quiet)  # type: ignore[attr-defined]
                rows += more
                trouble += lines
    except (JudgeMissing, OSError, RuntimeError, ValueError) as e:
        return _error(str(e))
    print(table(rows))
    for line in trouble:
        print(f"! {line}")
    if args.json is not None:
        report = {
            "model": args.model, "dtype": args.dtype, "seed": args.seed, "limit": args.limit, "codebooks": subject.codebooks, "lm_codebooks": subject.lm_codebooks,
            "seconds": round(time.monotonic() - begin, 1), "judges": _versions(), "rows": [r.as_json() for r in rows], "trouble": trouble,
        }  # fmt: skip
        part = args.json.with_name(f".{args.json.name}.{os.getpid()}")
        part.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        part.replace(args.json)
        print(f"written: {args.json}")
    return 0 if rows else 2


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("pocketsphinx", "resemblyzer", "webrtcvad-wheels", "pesq", "pystoi", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _error(text: str) -> int:
    print(f"evaluate: error: {text}", file=sys.stderr)
    return 2
