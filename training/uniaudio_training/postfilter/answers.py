"""The language model's answers to corpora, from which a post-filter learns what to trust.

    uniaudio-train answers --model uniaudio_engine/models/base --corpus data/derived data/corpus \
        --hours se=1,sd=0.4 --out data/answers

A shard of a corpus becomes ``<name>.npy``, int16 [3, N]: source, answer and target of all its clips,
one after another; and ``<name>.json`` with where each clip ends and the level of such sources.
Existing shards are kept, so that a run can be resumed.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..corpus.degrade import to_pcm
from ..corpus.reading import CorpusError, Example, Examples, open_corpus
from ..corpus.schema import SAMPLE_RATE
from ..places import make_folder, write_whole

TASKS = ("se", "sd")  # whose filter hears the answer
_TOGETHER = 8  # requests at once


@dataclass(frozen=True)
class Clip:
    """``rows`` int16 [3, n]: source, answer and target. ``level``: dBFS that the engine brings such
    sources to; None: they stay as they are.
    """

    task: str
    rows: NDArray[np.int16]
    level: float | None


def read_answers(folder: str | Path, split: str) -> list[Clip]:
    """The clips of one split. Raises CorpusError where there are none."""
    clips = []
    for path in sorted(Path(folder).glob(f"*-{split}-*.json")):
        pcm = np.load(path.with_suffix(".npy"), mmap_mode="r")
        about = json.loads(path.read_text(encoding="utf-8"))
        task, ends = path.name.split("-")[0], about["ends"]
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            clips.append(Clip(task, pcm[:, begin:end], about["level"]))
    if not clips:
        raise CorpusError(
            f"{folder}: no answers of the split {split}; make them: uniaudio-train answers --out "
            f"{folder}"
        )
    return clips


def request(engine: Any, task: str, example: Example) -> dict[str, Any]:
    """What the engine is asked for: the model's own answer, whether it has a post-filter yet or not."""
    own = {"postfilter": 0} if engine.task(task).postfilter else {}
    source = example.audio("source"), SAMPLE_RATE
    return {"seed": zlib.crc32(example.id.encode()), "source": source, **own}


def answered(engine: Any, task: str, examples: Sequence[Example]) -> Iterator[NDArray[np.int16]]:
    """int16 [3, n] of each example."""
    for i in range(0, len(examples), _TOGETHER):
        some = examples[i : i + _TOGETHER]
        sounds = engine.generate_batch([request(engine, task, e) for e in some], task=task)
        for e, sound in zip(some, sounds, strict=True):
            rows = [e.pcm("source"), to_pcm(np.asarray(sound.samples, np.float64)), e.pcm()]
            n = min(map(len, rows))
            yield np.stack([r[:n] for r in rows])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train answers",
        description="A model's own speech for sources of a corpus: what a post-filter learns from.",
        epilog="example: uniaudio-train answers --corpus data/derived --hours se=1,sd=0.4 "
        "--out data/answers",
    )
    parser.add_argument("--model", help="a model folder (the bundled one)")
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--hours", default="se=1,sd=0.4", help="by task and corpus (%(default)s)")
    parser.add_argument("--splits", default="train,valid")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        hours = {t: float(h) for t, h in (pair.split("=") for pair in args.hours.split(","))}
        if unknown := set(hours) - set(TASKS):
            raise ValueError(f"--hours: expected {', '.join(TASKS)}, got {sorted(unknown)[0]!r}")
        from uniaudio_engine import Engine

        engine = Engine.from_pretrained(args.model, threads=args.threads)
        out = args.out
        make_folder(out)
        for number, folder in enumerate(args.corpus):
            corpus = open_corpus(folder)
            for task, split in corpus:
                if task in hours and split in args.splits.split(","):
                    shards = corpus.shards(task, split)
                    _answer(engine, task, shards, 3600 * hours[task], out, number)
    except (CorpusError, ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def _answer(
    engine: Any, task: str, shards: Sequence[Examples], most: float, out: Path, number: int
) -> None:
    """Shards until there are ``most`` seconds."""
    for shard in shards:
        if most <= 0:
            return
        most -= sum(e.track().seconds for e in shard)
        path = out / f"{shard.name}-{number}.json"
        if path.exists():
            continue
        made = answered(engine, task, list(shard))
        rows = list(tqdm(made, path.stem, len(shard), unit="clip", mininterval=5))
        ends = np.cumsum([r.shape[1] for r in rows]).tolist()
        about = {"ends": ends, "level": engine.config.source_level(task)}
        write_whole(path.with_suffix(".npy"), partial(_save, np.concatenate(rows, axis=1)))
        write_whole(path, partial(_write, json.dumps(about).encode()))


def _save(pcm: NDArray[np.int16], file: Any) -> None:
    np.save(file, pcm)


def _write(data: bytes, file: Any) -> None:
    file.write(data)


if __name__ == "__main__":
    sys.exit(main())
