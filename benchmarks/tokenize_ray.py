"""Bulk tokenization on Ray against plain processes: sound per second, and what an item costs.

Both make the token shards of the same corpus in as many workers, on this machine. The time of a
worker counts from the beginning of its first shard, when it has loaded the model, to the end of the
last shard of all; the start is given apart. The overhead of an item is the time until its worker begins
the next one. Rounds measure both, one after the other, and what is printed are medians of them; the
ratio is that of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, median

import common
from uniaudio_training.corpus import make
from uniaudio_training.corpus.reading import Examples, open_corpus
from uniaudio_training.corpus.shards import ShardSpec
from uniaudio_training.lm.tokenize import make_tokenizer
from uniaudio_training.workers import ONE, Workers

EPILOG = """example:
  python benchmarks/tokenize_ray.py --workers 2 --shards 24 --seconds 600 --rounds 3
"""
Timed = tuple[int, float, float]  # process, begin and end of an item


def make_timed(model: str | None, out: str) -> Callable[[Examples], Timed]:
    tokenizer = make_tokenizer(model, 1, False, out)

    def work(shard: Examples) -> Timed:
        begin = time.time()
        tokenizer(shard)
        return os.getpid(), begin, time.time()

    return work


def measure(workers: Workers, shards: list[Examples], model: str | None) -> dict[str, float]:
    """Seconds of the start, of all items, of an item's work and of an item's overhead."""
    called = time.time()
    with tempfile.TemporaryDirectory() as out:
        done = sorted(workers.each(partial(make_timed, model, out), shards), key=lambda t: t[1])
    by: dict[int, list[Timed]] = {}
    for item in done:
        by.setdefault(item[0], []).append(item)
    gaps = [b[1] - a[2] for items in by.values() for a, b in itertools.pairwise(items)]
    # A worker that starts later has less time: it counts from when it has begun.
    whole = sum(max(d[2] for d in done) - items[0][1] for items in by.values())
    return {
        "start": done[0][1] - called,
        "seconds": whole / len(by),
        "work": fmean(d[2] - d[1] for d in done),
        "overhead": fmean(gaps) if gaps else 0.0,
        "processes": float(len(by)),
    }


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", help="a model folder (default: the bundled model)")
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--shards", type=int, default=16)
    p.add_argument("--seconds", type=float, default=600.0, help="of sound in a shard")
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--corpus", type=Path, help="keep the corpus there; it is made once")
    args = p.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # that of the plain processes
    with tempfile.TemporaryDirectory() as made:
        folder = args.corpus or Path(made)
        specs = [ShardSpec("t2s", "train", i, 0, args.seconds) for i in range(args.shards)]
        make.make(folder, specs, 0, ONE, progress=False)
        shards = list(open_corpus(folder).shards("t2s", "train"))[: args.shards]
        ways = {"processes": Workers(args.workers), "ray": Workers(args.workers, "local")}
        rounds = [
            {name: measure(workers, shards, args.model) for name, workers in ways.items()}
            for _ in range(args.rounds)
        ]
    sound = args.seconds * len(shards)
    print(common.machine_line(common.machine()))
    for name in ways:
        row = {key: median(r[name][key] for r in rounds) for key in rounds[0][name]}
        print(
            f"{name:10s} {sound / row['seconds']:7.0f} x realtime, start {row['start']:.1f} s, "
            f"an item {row['work']:.2f} s and {1000 * row['overhead']:.0f} ms of overhead, "
            f"{row['processes']:.0f} processes"
        )
    ratios = [r["processes"]["seconds"] / r["ray"]["seconds"] for r in rounds]
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ray / processes: {median(ratios):.2f} (rounds: {each})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
