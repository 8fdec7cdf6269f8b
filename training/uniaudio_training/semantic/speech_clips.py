"""Speech with phone times, and other sounds, from a corpus folder.

Shards are ``<task>-<split>-<index>.npy`` (int16 PCM) and ``.jsonl``. A line is one clip or has
``tracks``, each with ``offset``, ``samples`` and, for speech, ``speaker`` and ``phones`` (pairs of
phone and end in seconds). Other labels are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SPEECH = (
    "speech",
    "tts",
    "vc",
)  # clean speech; that of other tasks is noisy, sung or a repetition
NOISE = ("sound", "music", "t2s", "t2m")


@dataclass(frozen=True)
class Spoken:
    """A clip; ``pcm`` int16 [N] is a view of its shard's memory map."""

    pcm: np.ndarray
    speaker: str
    phones: list[tuple[str, float]]

    def samples(self) -> np.ndarray:
        """float32 [N] in [-1, 1]."""
        return self.pcm.astype(np.float32) / 32767


def _shards(
    folder: str | Path, tasks: tuple[str, ...], split: str
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    for task in tasks:
        for path in sorted(Path(folder).glob(f"{task}-{split}-*.jsonl")):
            with path.open() as f:
                labels = [json.loads(line) for line in f]
            yield np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False), labels


def open_speech(folder: str | Path, split: str) -> list[Spoken]:
    """Every clip of speech once, in order. Raises FileNotFoundError where there is none."""
    clips = []
    for pcm, labels in _shards(folder, SPEECH, split):
        seen = set()
        for label in labels:
            for track in label.get("tracks", {"": label}).values():
                place = (track["offset"], track["samples"])
                if track.get("phones") and place not in seen:
                    seen.add(place)
                    phones = [(p, float(e)) for p, e in track["phones"]]
                    clips.append(Spoken(pcm[place[0] : sum(place)], track["speaker"], phones))
    if not clips:
        raise FileNotFoundError(
            f"no {split} speech with phone times in {folder}; make some: uniaudio-train corpus make "
            f"--out {folder}"
        )
    return clips


def open_noises(folder: str | Path, split: str) -> list[np.ndarray]:
    """The audio [N] of sound and music shards; may be empty."""
    return [pcm for pcm, _ in _shards(folder, NOISE, split)]
