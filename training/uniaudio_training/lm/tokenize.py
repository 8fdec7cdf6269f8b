"""Corpus shards -> token shards: every track's codes beside the shard's labels; 1.4 MB an hour and
4 codebooks.

``<name>.npz``: ``codes`` uint16 [sum T, K] of all tracks, ``frames`` int32 [n] T of each, in the
order of the labels' tracks; ``units`` int16 [sum T] where a semantic encoder was given (else
absent). ``<name>.jsonl``: the labels, as they are. Made with the engine's own codec, so that
training sees the very codes that the engine will give.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from uniaudio_engine import Engine

from ..corpus.reading import Shard, open_corpus
from ..corpus.recordings import Recordings
from ..user_tasks import read_user_tasks

Encode = Callable[[NDArray[np.float32]], NDArray[np.int32]]


def tokenize(
    shard: Shard | Recordings, encode: Encode, units: Encode | None = None
) -> dict[str, NDArray[np.generic]]:
    """Arrays of one token shard. ``encode``: samples [N] -> codes [K, T]; ``units``: samples [N] ->
    units [T].

    Tracks that several examples share are encoded once.
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train tokenize",
        description="Corpus shards to token shards, with a model folder's codec.",
        epilog=(
            "example: uniaudio-train tokenize --model "
            "uniaudio_engine/models/base --corpus data/corpus --out data/tokens"
        ),
    )
    parser.add_argument("--model", help="a model folder (the bundled model)")
    parser.add_argument(
        "--corpus",
        required=True,
        help="a folder of uniaudio-train corpus make, or a manifest of recordings",
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tasks", help="which, separated by commas (all that the corpus has)")
    parser.add_argument(
        "--units", action="store_true", help="also the semantic units of the model's encoder"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--task-files",
        nargs="+",
        default=[],
        metavar="FILE",
        help="tasks of your own that the manifest has recordings of (docs/new-task.md)",
    )
    args = parser.parse_args(argv)
    try:
        engine = Engine.from_pretrained(args.model, threads=args.threads)
        corpus = open_corpus(args.corpus, read_user_tasks(args.task_files))
    except ValueError as e:
        print(f"uniaudio-train tokenize: error: {e}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    tasks = args.tasks.split(",") if args.tasks else corpus.tasks
    shards = [s for task, split in corpus if task in tasks for s in corpus.shards(task, split)]
    for shard in tqdm(shards, unit="shard"):
        assert isinstance(shard, (Shard, Recordings))
        path = args.out / f"{shard.name}.npz"
        labels = b"".join(line + b"\n" for line in shard.lines)
        if path.exists() and path.with_suffix(".jsonl").read_bytes() == labels:
            continue
        part = path.with_name(f".{path.name}.{os.getpid()}.npz")
        units = engine.semantic_encoder.encode if args.units else None
        arrays = tokenize(shard, engine.codec.encode, units)
        np.savez(part, **arrays)  # type: ignore[arg-type]  # the stub thinks of allow_pickle
        path.with_suffix(".jsonl").write_bytes(labels)
        part.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
