"""Copies a corpus, or what is wanted of it, shard by shard: between a disk and an object store, and
between shards and WebDataset tar files.

    uniaudio-train corpus copy data/corpus --out s3://bucket/tars --to tar --seconds 1:20 --ray

A shard keeps its name and the order of its examples. A shard without wanted examples is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..places import make_folder, place, write_whole
from ..workers import Workers, add_arguments
from .reading import CorpusError, Example, Examples, Shard, open_corpus
from .shards import MANIFEST, write_shard
from .speech import loud_level
from .tars import TarShard, stored, write_tar

Range = tuple[float, float]


@dataclass(frozen=True)
class Wanted:
    """Limits of an example's target; None for none."""

    seconds: Range | None = None
    level: Range | None = None  # dBFS of its loud parts
    rate: Range | None = None  # characters of its text a second
    clipped: Range | None = None  # share of samples at full scale

    def __call__(self, example: Example) -> bool:
        for field in fields(self):
            limits = getattr(self, field.name)
            if limits is not None and not limits[0] <= _MEASURES[field.name](example) <= limits[1]:
                return False
        return True


_MEASURES: dict[str, Callable[[Example], float]] = {
    "seconds": lambda e: e.track().seconds,
    "level": lambda e: loud_level(e.audio()),
    "rate": lambda e: len(e.track().text) / e.track().seconds,
    "clipped": lambda e: float((np.abs(e.pcm().astype(np.int32)) >= 32767).mean()),
}
_HELP = {
    "seconds": "length in seconds",
    "level": "level of the loud parts in dBFS",
    "rate": "characters of text a second; a text that is not what is said is often too long or short",
    "clipped": "share of samples at full scale",
}


def _range(text: str) -> Range:
    low, colon, high = text.partition(":")
    try:
        limits = float(low or -math.inf), float(high or math.inf)
    except ValueError:
        limits = math.nan, math.nan
    if not colon or not limits[0] <= limits[1]:
        raise argparse.ArgumentTypeError(f"expected MIN:MAX, such as 1:20 or :0.001, got {text!r}")
    return limits


def make_copier(out: str, to: str, wanted: Wanted) -> Callable[[Examples], tuple[int, int]]:
    """What copies a shard, unless it is there; the examples that are kept, and all of them."""
    folder = place(out)

    def work(shard: Examples) -> tuple[int, int]:
        path = folder / f"{shard.name}.{'tar' if to == 'tar' else 'jsonl'}"
        if path.exists():
            there = TarShard(path, shard.name) if to == "tar" else Shard(path)
            return len(there), len(shard)
        examples = [e for e in shard if wanted(e)]
        if examples:
            if to == "tar":
                write_whole(path, lambda f: write_tar(f, examples))
            else:
                write_shard(path, *stored(examples))
        return len(examples), len(shard)

    return work


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train corpus copy",
        description="Copy a corpus, or the examples within limits, as shards or as WebDataset tar "
        "files. A stopped run resumes where it stopped.",
        epilog="example: uniaudio-train corpus copy data/corpus --out s3://bucket/tars --to tar "
        "--seconds 1:20 --level=-40:-10 --ray",
    )
    parser.add_argument("corpus", help="folder of shards or tars, or a manifest; a path or a URL")
    parser.add_argument("--out", required=True, help="folder of the copy; a path or a URL")
    parser.add_argument("--to", default="shards", choices=("shards", "tar"))
    parser.add_argument("--tasks", help="comma-separated tasks (default: all of the corpus)")
    for name, text in _HELP.items():
        parser.add_argument(f"--{name}", type=_range, metavar="MIN:MAX", help=f"target's {text}")
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        workers = Workers.of(args)
        corpus, out = open_corpus(args.corpus), place(args.out)
        wanted = Wanted(**{name: getattr(args, name) for name in _HELP})
        make_folder(out)
        _claim(out, corpus.folder, args)
        tasks = args.tasks.split(",") if args.tasks else corpus.tasks
        shards = [s for task, split in corpus if task in tasks for s in corpus.shards(task, split)]
        make = partial(make_copier, args.out, args.to, wanted)
        found = list(tqdm(workers.each(make, shards), total=len(shards), unit="shard"))
        kept, whole = (sum(n) for n in zip(*found, strict=True))
        print(f"{args.out}: {kept} of {whole} examples")
    except (ValueError, RuntimeError, OSError) as e:
        print(f"uniaudio-train corpus: error: {e}", file=sys.stderr)
        return 2
    return 0


def _claim(out: Path, source: Path, args: argparse.Namespace) -> None:
    """The manifest of the copy: what it is of, and its limits. Raises CorpusError where the folder
    has another copy.
    """
    described = source / MANIFEST if source.suffix != ".jsonl" else source.parent / MANIFEST
    about = json.loads(described.read_bytes()) if described.exists() else {}
    about.pop("shards", None)
    about["copied"] = {
        "of": str(source),
        "to": args.to,
        **{name: getattr(args, name) for name in _HELP},
    }
    text = json.dumps(about, indent=1).encode() + b"\n"
    path = out / MANIFEST
    if path.exists() and path.read_bytes() != text:
        raise CorpusError(f"{out}: has another copy or corpus; use another folder")
    write_whole(path, lambda f: f.write(text))


if __name__ == "__main__":
    sys.exit(main())
