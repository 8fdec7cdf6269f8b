"""``uniaudio-train tokenize``: corpus shards -> token shards.

A token shard is ``<name>.npz`` and ``<name>.jsonl``, the unchanged labels. The former has ``codes``
uint16 [sum T, K] of all tracks in the order of the labels, ``frames`` int32 [n] (the T of each
track) and, with a semantic encoder, ``units`` int16 [sum T]. Four codebooks take 1.4 MB per hour.
The codes are made by the engine's codec, so that training and inference see the same codes.

``tokens.json`` records the codec and whether there are units, so that a folder has tokens of one
kind. Labels are written last: a shard with the labels of its corpus shard is complete.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from uniaudio_engine import Engine

from ..corpus.reading import Examples, open_corpus
from ..places import make_folder, place, write_whole
from ..user_tasks import read_user_tasks
from ..workers import Workers, add_arguments

MADE = "tokens.json"
Encode = Callable[[NDArray[np.float32]], NDArray[np.int32]]


def tokenize(
    shard: Examples, encode: Encode, units: Encode | None = None
) -> dict[str, NDArray[np.generic]]:
    """The arrays of one token shard.

    ``encode``: samples [N] -> codes [K, T]; ``units``: samples [N] -> units [T]. A track shared by
    several examples is encoded once.
    """
    codes, frames, found = [], [], {}
    for example in shard:
        for role, track in example.label.tracks.items():
            key = (track.offset, track.samples)
            if key not in found:
                samples = example.audio(role)
                c = encode(samples).T.astype(np.uint16)
                u = units(samples)[: len(c)].astype(np.int16) if units else None
                found[key] = (c, u)
            codes.append(found[key])
            frames.append(len(found[key][0]))
    arrays: dict[str, NDArray[np.generic]] = {
        "codes": np.concatenate([c for c, _ in codes]),
        "frames": np.array(frames, np.int32),
    }
    if units:
        arrays["units"] = np.concatenate([u for _, u in codes if u is not None])
    return arrays


def make_tokenizer(
    model: str | None, threads: int, units: bool, out: str
) -> Callable[[Examples], bool]:
    """What writes the token shard of a corpus shard, unless it is there; whether it has been written.

    Writing it again writes the same bytes.
    """
    engine = Engine.from_pretrained(model, threads=threads)
    folder = place(out)

    def work(shard: Examples) -> bool:
        path = folder / f"{shard.name}.npz"
        labels = b"".join(line + b"\n" for line in shard.lines)
        if _complete(path, labels):
            return False
        arrays = tokenize(
            shard, engine.codec.encode, engine.semantic_encoder.encode if units else None
        )
        # the stub of savez thinks of allow_pickle
        write_whole(path, lambda f: np.savez(f, **arrays))  # type: ignore[arg-type]
        write_whole(path.with_suffix(".jsonl"), lambda f: f.write(labels))
        return True

    return work


def _complete(path: Path, labels: bytes) -> bool:
    found = path.with_suffix(".jsonl")
    return path.exists() and found.exists() and found.read_bytes() == labels


def _claim(folder: Path, made: dict[str, object]) -> None:
    """Records how the folder's tokens are made. Raises ValueError where they were made otherwise."""
    path = folder / MADE
    if path.exists():
        before = json.loads(path.read_bytes())
        if before != made:
            raise ValueError(
                f"{folder}: expected tokens made with {made}, got {before}; use another folder"
            )
    else:
        write_whole(path, lambda f: f.write(json.dumps(made).encode() + b"\n"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train tokenize",
        description="Convert corpus shards to token shards with the codec of a model folder. "
        "A stopped run resumes where it stopped.",
        epilog=(
            "examples:\n"
            "  uniaudio-train tokenize --corpus data/corpus --out data/tokens --workers 2\n"
            "  uniaudio-train tokenize --corpus s3://bucket/corpus --out s3://bucket/tokens --ray"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="a model folder (default: the bundled model)")
    parser.add_argument(
        "--corpus",
        required=True,
        help="a corpus folder, or a manifest of recordings; a path or a URL such as s3://…",
    )
    parser.add_argument("--out", required=True, help="folder of the token shards; a path or a URL")
    parser.add_argument("--tasks", help="comma-separated tasks (default: all of the corpus)")
    parser.add_argument(
        "--units", action="store_true", help="also store the units of the model's semantic encoder"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads of a worker (default: 1)"
    )
    add_arguments(parser)
    parser.add_argument(
        "--task-files",
        action="extend",
        nargs="+",
        default=[],
        metavar="FILE",
        help="task files of your own tasks, used in the manifest (docs/new-task.md)",
    )
    args = parser.parse_args(argv)
    try:
        workers = Workers.of(args, cpus=args.threads)
        engine = Engine.from_pretrained(args.model, threads=args.threads)
        made = {"codec": engine.fingerprint, "units": args.units}
        corpus = open_corpus(args.corpus, read_user_tasks(args.task_files))
        out = place(args.out)
        make_folder(out)
        _claim(out, made)
        tasks = args.tasks.split(",") if args.tasks else corpus.tasks
        shards = [s for task, split in corpus if task in tasks for s in corpus.shards(task, split)]
        make = partial(make_tokenizer, args.model, args.threads, args.units, args.out)
        for _ in tqdm(workers.each(make, shards), total=len(shards), unit="shard"):
            pass
    except (ValueError, RuntimeError, OSError) as e:
        print(f"uniaudio-train tokenize: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("uniaudio-train tokenize: stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
