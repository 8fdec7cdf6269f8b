"""``uniaudio-train corpus``: ``make`` the procedural corpus, ``check`` a corpus against its labels,
``show`` examples as WAV and PNG files.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..places import listed, make_folder, place
from ..workers import Workers, add_arguments
from . import sources
from .reading import CorpusError, open_corpus
from .schema import SPLITS, TASKS
from .shards import (
    MANIFEST,
    SHARD_SECONDS,
    ShardSpec,
    make_shard,
    parse_name,
    read_manifest,
    write_manifest,
)

HELD_OUT_SHARE = 0.05  # hours of valid and of test per hour of train
EXAMPLE = "uniaudio-train corpus make --tasks tts=3,vc=2,se=1.5 --out data/corpus"


def _hours(text: str, default: float) -> dict[str, float]:
    """Parses ``tts=3,vc`` into hours of train per task."""
    hours: dict[str, float] = {}
    for part in text.split(","):
        task, given, number = part.partition("=")
        try:
            value = float(number) if given else default
        except ValueError:
            value = math.nan
        if task not in TASKS or not 0 < value <= 10000:
            raise CorpusError(
                f"expected TASK or TASK=HOURS with a task of {', '.join(TASKS)} and hours from 0 "
                f"to 10000, got {part[:40]!r}; for example: {EXAMPLE}"
            )
        hours[task] = value
    return hours


def plan(hours: dict[str, float], splits: tuple[str, ...], seed: int) -> list[ShardSpec]:
    """The shards needed for these hours.

    More hours only add shards. Where train is less than one shard, the shards of all splits are
    shortened by the same factor.
    """
    specs = []
    for task, wanted in hours.items():
        part = wanted * 3600 / SHARD_SECONDS["train"]
        for split in splits:
            seconds = part * SHARD_SECONDS[split] if part < 1 else 0.0
            share = 1.0 if split == "train" else HELD_OUT_SHARE
            count = max(1, math.ceil(wanted * share * 3600 / SHARD_SECONDS[split] - 1e-9))
            specs += [ShardSpec(task, split, i, seed, seconds) for i in range(count)]
    return specs


def make(
    folder: Path, specs: list[ShardSpec], seed: int, workers: Workers, progress: bool = True
) -> None:
    """Makes the missing or too short shards, then writes the manifest.

    Raises RuntimeError, before any work, where a required program or package is missing.
    """
    make_folder(folder)
    before = read_manifest(folder)
    if before is not None and before["seed"] != seed:
        raise CorpusError(
            f"{folder}: its shards were made with --seed {before['seed']}, got {seed}; use that "
            "seed or another folder"
        )
    there = listed(folder, "*.jsonl")
    strangers = [p.name for p in there if not _is_shard(p.stem)]
    if strangers:
        raise CorpusError(
            f"{folder}: expected shards only, found {strangers[0]!r}; use another folder"
        )
    sources.require({s.task for s in specs})
    shards = write_manifest(folder, seed)["shards"]  # records the seed before any shard is written
    short = [s for s in specs if s.name in shards and shards[s.name]["seconds"] < s.wanted - 0.01]
    for spec in short:  # shorter than wanted now; the new shard begins with the same samples
        (folder / f"{spec.name}.jsonl").unlink()
    if short:
        write_manifest(folder, seed)
    complete = {p.stem for p in there} - {s.name for s in short}
    todo = [s for s in specs if s.name not in complete]
    with tqdm(
        total=len(specs),
        initial=len(specs) - len(todo),
        unit="shard",
        disable=not progress,
        mininterval=1,
    ) as bar:
        for _ in workers.each(partial(_shard_maker, folder), todo):
            bar.update()
    write_manifest(folder, seed)


def _shard_maker(folder: Path) -> Callable[[ShardSpec], str]:
    return partial(make_shard, folder=folder)


def _is_shard(name: str) -> bool:
    try:
        parse_name(name)
    except ValueError:
        return False
    return True


# Commands with their own parser: the ``main`` of a module.
_ELSEWHERE = {
    "public": (".public", "convert public corpora to shards"),
    "teach": (".teacher", "synthesise speech with a text-to-speech model, with phone times"),
    "derive": (".derive", "derive paired data for other tasks from recordings"),
    "copy": (".copy", "copy a corpus or a part of it; to and from WebDataset tar files"),
    "join": (".join", "join several corpora into one folder of shards"),
    "align": (".align_command", "forced alignment of recordings with their text"),
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in _ELSEWHERE:
        module = importlib.import_module(_ELSEWHERE[argv[0]][0], __package__)
        return int(module.main(argv[1:]))
    parser = argparse.ArgumentParser(
        prog="uniaudio-train corpus",
        description="Corpora: make the procedural one, convert public ones, derive pairs for tasks.",
        epilog=f"example: {EXAMPLE}",
    )
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser(
        "make",
        help="make shards; existing ones are kept",
        description=(
            "Makes train, valid and test shards of each task. A stopped run "
            "resumes where it stopped."
        ),
        epilog=f"example: {EXAMPLE}\n  uniaudio-train corpus make --tasks tts=1000 --out "
        "s3://bucket/corpus --ray",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--tasks",
        default=",".join(TASKS),
        help="tasks, comma-separated, each with optional =HOURS (default: all eleven)",
    )
    p.add_argument(
        "--hours",
        type=float,
        default=1.0,
        help=(
            "hours of train for each task without =HOURS; valid and test get a "
            "twentieth each (default: %(default)s)"
        ),
    )
    p.add_argument(
        "--splits", default=",".join(SPLITS), help="splits to make (default: %(default)s)"
    )
    p.add_argument("--out", required=True, help="folder of the shards; a path or a URL")
    p.add_argument(
        "--seed", type=int, default=0, help="random seed of the corpus (default: %(default)s)"
    )
    add_arguments(p, os.cpu_count() or 1)
    p = sub.add_parser(
        "check",
        help="measure a corpus and compare it with its labels",
        epilog="example: uniaudio-train corpus check data/corpus --examples 20 --remake 2",
    )
    p.add_argument(
        "corpus",
        type=Path,
        help="folder of shards, or a manifest of recordings, which is only checked for errors",
    )
    p.add_argument(
        "--examples",
        type=int,
        default=20,
        help="examples of each task and split to measure (default: %(default)s)",
    )
    p.add_argument(
        "--remake",
        type=int,
        default=0,
        metavar="N",
        help="remake N shards of each task and compare them bit for bit (default: %(default)s)",
    )
    p.add_argument(
        "--listen",
        action="store_true",
        help="also measure the word error rate of the speech (needs the evaluate extra)",
    )
    p = sub.add_parser(
        "show",
        help="write examples as WAV files and spectrograms (PNG)",
        epilog="example: uniaudio-train corpus show data/corpus --task vc --count 2 --out pictures",
    )
    p.add_argument("corpus", type=Path)
    p.add_argument("--task", required=True, choices=TASKS)
    p.add_argument("--split", default="train", choices=SPLITS)
    p.add_argument("--count", type=int, default=2)
    p.add_argument("--out", required=True, type=Path)
    for name, (_, text) in _ELSEWHERE.items():
        sub.add_parser(name, help=text, add_help=False)
    args = parser.parse_args(argv)
    try:
        if args.command == "make":
            splits = tuple(args.splits.split(","))
            if not set(splits) <= set(SPLITS):
                raise CorpusError(
                    f"--splits: expected some of {', '.join(SPLITS)}, got {args.splits[:40]!r}"
                )
            if args.seed < 0:
                raise CorpusError(f"--seed: expected 0 or more, got {args.seed}")
            out = place(args.out)
            specs = plan(_hours(args.tasks, args.hours), splits, args.seed)
            make(out, specs, args.seed, Workers.of(args))
            manifest = read_manifest(out) or {}
            for task, hours in manifest["hours"].items():
                print(f"{task:8s}" + "".join(f"  {split} {hours[split]:.2f} h" for split in SPLITS))
            print(f"{out / MANIFEST}: {len(manifest['shards'])} shards")
        elif args.command == "check":
            from .check import check

            return check(open_corpus(args.corpus), args.examples, args.remake, args.listen)
        else:
            from .show import show

            for path in show(open_corpus(args.corpus)[args.task, args.split], args.count, args.out):
                print(path)
    except (CorpusError, ValueError, RuntimeError, OSError) as e:
        print(f"uniaudio-train corpus: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("uniaudio-train corpus: stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
