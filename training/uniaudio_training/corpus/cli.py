"""``uniaudio-corpus make``: the procedural corpus, in parallel and resumable."""

from __future__ import annotations

import argparse
import math
import multiprocessing as mp
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .shards import KINDS, SHARD_SECONDS, SPLITS, ShardSpec, make_shard


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="uniaudio-corpus", description="Make the procedural corpus.", epilog="example: uniaudio-corpus make --kinds speech=8,sound=1,music=1 --out data/corpus")
    sub = parser.add_subparsers(dest="command", required=True)
    make = sub.add_parser("make", help="make shards (those that are there are kept)", epilog="example: uniaudio-corpus make --kinds speech=8 --split train --out data/corpus")
    make.add_argument("--kinds", default="speech=8,sound=1,music=1", help="hours of each kind (default: %(default)s)")
    make.add_argument("--split", choices=SPLITS, default="train")
    make.add_argument("--out", required=True, type=Path, help="folder of the shards")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--workers", type=int, default=mp.cpu_count())
    args = parser.parse_args(argv)

    specs = []
    for part in args.kinds.split(","):
        kind, _, hours = part.partition("=")
        try:
            count = math.ceil(float(hours) * 3600 / SHARD_SECONDS)
        except ValueError:
            count = 0
        if kind not in KINDS or count < 1:
            print(f"uniaudio-corpus: error: expected KIND=HOURS with a kind of {', '.join(KINDS)} and hours above 0, got {part!r}", file=sys.stderr)
            return 2
        specs += [ShardSpec(kind, args.split, i, args.seed) for i in range(count)]
    args.out.mkdir(parents=True, exist_ok=True)
    seconds = 0.0
    with mp.get_context("spawn").Pool(args.workers) as pool, tqdm(total=len(specs), unit="shard") as bar:
        for made in pool.imap_unordered(partial(make_shard, folder=str(args.out)), specs):
            seconds += made
            bar.update()
    print(f"{seconds / 3600:.2f} h in {len(specs)} shards in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
