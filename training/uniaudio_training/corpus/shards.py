"""Shards: ``<task>-<split>-<index>.npy`` holds int16 mono PCM, the tracks one after another;
``.jsonl`` holds one ``schema.Label`` line per example.

A shard depends on ``SeedSequence((seed, task, split, index))`` alone: it can be remade bit for bit,
alone or in parallel. Existing shards are kept, so that a run can be resumed. A shorter shard is a
prefix of the whole one. ``manifest.json`` records how the corpus was made, its sources with their
licences, and the contents and hashes of the shards.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..places import listed, place, write_whole
from . import recipes
from .schema import FORMAT, SAMPLE_RATE, SPLITS, TASKS, Label, Track
from .sources import SOURCES

# Seconds of target audio in a whole shard. A shorter shard is a prefix of it.
SHARD_SECONDS = {"train": 600.0, "valid": 120.0, "test": 120.0}
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShardSpec:
    task: str
    split: str
    index: int
    seed: int
    seconds: float = 0.0  # of target audio; 0: a whole shard

    @property
    def wanted(self) -> float:
        """Minimum seconds of target audio."""
        return self.seconds or SHARD_SECONDS[self.split]

    @property
    def name(self) -> str:
        return f"{self.task}-{self.split}-{self.index:04d}"


def parse_name(name: str) -> tuple[str, str, int]:
    """``a_edit-train-0003`` -> task, split, index. Raises ValueError for any other name."""
    found = re.fullmatch(rf"({'|'.join(TASKS)})-({'|'.join(SPLITS)})-(\d{{4,6}})", name)
    if not found:
        raise ValueError(f"expected the name of a shard such as tts-train-0003, got {name[:60]!r}")
    return found[1], found[2], int(found[3])


def draw_shard(spec: ShardSpec) -> tuple[NDArray[np.int16], list[Label]]:
    """The audio and labels of a shard, as a function of its spec."""
    rng = np.random.default_rng(
        np.random.SeedSequence(
            (spec.seed, zlib.crc32(spec.task.encode()), SPLITS.index(spec.split), spec.index)
        )
    )
    shared = recipes.ShardVoices(spec.split)
    stored: list[NDArray[np.int16]] = []
    places: dict[int, int] = {}
    kept: list[recipes.Take] = []  # keeps the takes alive, so that their ids stay unique
    labels: list[Label] = []
    total = wanted = 0
    while wanted < spec.wanted * SAMPLE_RATE:
        for draft in recipes.RECIPES[spec.task](rng, spec.split, shared):
            tracks = {}
            for role, take in draft.takes.items():
                if id(take) not in places:
                    places[id(take)] = total
                    kept.append(take)
                    stored.append(take.pcm)
                    total += len(take.pcm)
                tracks[role] = Track(
                    places[id(take)],
                    len(take.pcm),
                    take.text,
                    take.speaker,
                    take.phones,
                    take.words,
                )
            labels.append(
                Label(
                    f"{spec.name}-{len(labels):04d}", spec.task, spec.split, tracks, **draft.labels
                )
            )
            wanted += len(draft.takes["target"].pcm)
    return np.concatenate(stored), labels


def make_shard(spec: ShardSpec, folder: str | Path) -> str:
    """Makes one shard unless it exists; returns its name."""
    labels = place(folder) / f"{spec.name}.jsonl"
    if not labels.exists():
        write_shard(labels, *draw_shard(spec))
    return spec.name


def write_shard(path: Path, pcm: NDArray[np.int16], labels: Sequence[Label]) -> None:
    """Writes the shard whose labels are ``path``.

    Labels are written last: a shard with labels is complete.
    """
    write_whole(path.with_suffix(".npy"), lambda f: np.save(f, pcm))
    lines = "".join(label.line() + "\n" for label in labels)
    write_whole(path, lambda f: f.write(lines.encode()))


def describe_shard(folder: Path, name: str) -> dict[str, Any]:
    """The manifest entry of a shard."""
    labels = [Label.parse(line) for line in (folder / f"{name}.jsonl").read_bytes().splitlines()]
    digest = hashlib.sha256()
    for suffix in (".npy", ".jsonl"):
        digest.update((folder / f"{name}{suffix}").read_bytes())
    seconds = sum(label.tracks["target"].samples for label in labels) / SAMPLE_RATE
    return {"examples": len(labels), "seconds": round(seconds, 2), "sha256": digest.hexdigest()}


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a corpus folder; None where there is none.

    Raises ValueError where it cannot be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if (
            not isinstance(found, dict)
            or found.get("format") != FORMAT
            or not isinstance(found.get("seed"), int)
            or not isinstance(found.get("shards"), dict)
        ):
            raise ValueError(f"expected a corpus manifest of format {FORMAT}")
    except (ValueError, RecursionError) as e:
        raise ValueError(
            f"{path}: {str(e)[:100]}; was the folder made by another version? make the corpus in "
            "a new one"
        ) from None
    return found


def write_manifest(folder: Path, seed: int) -> dict[str, Any]:
    """Describes every shard of the folder and writes ``manifest.json``.

    Shards that are already described are not read again.
    """
    before = read_manifest(folder) or {}
    known = before.get("shards", {})
    names = [p.stem for p in listed(folder, "*.jsonl")]
    shards = {name: known.get(name) or describe_shard(folder, name) for name in names}
    hours: dict[str, dict[str, float]] = {}
    for name, entry in shards.items():
        task, split, _ = parse_name(name)
        row = hours.setdefault(task, dict.fromkeys(SPLITS, 0.0))
        row[split] = round(row[split] + entry["seconds"] / 3600, 4)
    tasks = [t for t in TASKS if t in hours]
    manifest = {
        "format": FORMAT,
        "seed": seed,
        "sample_rate": SAMPLE_RATE,
        "hours": {t: hours[t] for t in tasks},
        "sources": {
            name: {**s, "tasks": [t for t in s["tasks"] if t in hours]}
            for name, s in SOURCES.items()
        },
        "packages": {name: _package(name) for name in ("numpy", "scipy", "soxr", "tinysoundfont")},
        "shards": shards,
    }
    text = json.dumps(manifest, indent=1) + "\n"
    write_whole(folder / MANIFEST, lambda f: f.write(text.encode()))
    return manifest
