"""``uniaudio-train tokenize``: corpus shards -> token shards.

A token shard is ``<name>.npz`` and ``<name>.jsonl``, the unchanged labels. The former has ``codes``
uint16 [sum T, K] of all tracks in the order of the labels, ``frames`` int32 [n] (the T of each
track) and, with a semantic encoder, ``units`` int16 [sum T]. Four codebooks take 1.4 MB per hour.
The codes are made by the engine's codec, so that training and inference see the same codes.
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train tokenize",
        description="Convert corpus shards to token shards with the codec of a model folder.",
        epilog=(
            "example: uniaudio-train tokenize --model "
            "uniaudio_engine/models/base --corpus data/corpus --out data/tokens"
        ),
    )
    parser.add_argument("--model", help="a model folder (default: the bundled model)")
    parser.add_argument(
        "--corpus",
        required=True,
        help="a corpus folder, or a manifest of recordings",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the token shards")
    parser.add_argument("--tasks", help="comma-separated tasks (default: all of the corpus)")
    parser.add_argument(
        "--units", action="store_true", help="also store the units of the model's semantic encoder"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--task-files",
        nargs="+",
        default=[],
        metavar="FILE",
        help="task files of your own tasks, used in the manifest (docs/new-task.md)",
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
