"""Corpus shards: ``<kind>-<split>-<index>.npy`` (int16 mono PCM, clips end to end) and ``.jsonl`` (a label line per clip).

Every shard is made from ``SeedSequence((seed, kind, split, index))`` alone, so any one can be made again bit for bit, alone or in
parallel; one that is there already is kept, which is what makes a run resumable.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import music, sentences, sounds, speech

SAMPLE_RATE = 16000
SHARD_SECONDS = 600.0
SPLITS = ("train", "valid", "test")

_Clip = tuple[np.ndarray, dict[str, Any]]


def _speech_clip(rng: np.random.Generator, split: str) -> _Clip:
    """Test sentences are also spoken by held-out speakers: half by those that training knows, half by those that it does not."""
    pool = [s for s in speech.SPEAKERS if s.split == "train" or (split == "test" and rng.random() < 0.5)]
    if split == "test" and rng.random() < 0.5:
        pool = [s for s in speech.SPEAKERS if s.split == "test"]
    who = pool[int(rng.integers(len(pool)))]
    u = speech.speak(sentences.draw_sentence(rng, split), who)
    return u.samples, {"text": u.text, "speaker": u.speaker, "phones": [(s.phone, round(s.end, 4)) for s in u.segments]}


def _sound_clip(rng: np.random.Generator, split: str) -> _Clip:
    s = sounds.make(rng)
    return s.samples, {"caption": s.caption, "class": s.name, "parameters": s.parameters}


def _music_clip(rng: np.random.Generator, split: str) -> _Clip:
    m = music.make(rng)
    return m.samples, {"caption": m.caption, "parameters": m.parameters}


KINDS: dict[str, Callable[[np.random.Generator, str], _Clip]] = {"speech": _speech_clip, "sound": _sound_clip, "music": _music_clip}


@dataclass(frozen=True)
class ShardSpec:
    kind: str
    split: str
    index: int
    seed: int
    seconds: float = SHARD_SECONDS

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.split}-{self.index:04d}"


def make_shard(spec: ShardSpec, folder: str) -> float:
    """Makes one shard unless it is there; returns its seconds of audio."""
    path = Path(folder) / f"{spec.name}.jsonl"
    if path.exists():
        with path.open() as f:
            return sum(json.loads(line)["samples"] for line in f) / SAMPLE_RATE
    entropy = (spec.seed, zlib.crc32(spec.kind.encode()), SPLITS.index(spec.split), spec.index)
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    clips, lines, total = [], [], 0
    while total < spec.seconds * SAMPLE_RATE:
        samples, label = KINDS[spec.kind](rng, spec.split)
        pcm = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
        lines.append(json.dumps({"offset": total, "samples": len(pcm), **label}))
        clips.append(pcm)
        total += len(pcm)
    audio = Path(folder) / f"{spec.name}.npy"
    for target, write in ((audio, lambda f: np.save(f, np.concatenate(clips))), (path, lambda f: f.write(("\n".join(lines) + "\n").encode()))):
        part = target.with_name(f".{target.name}.{os.getpid()}")
        with part.open("wb") as f:
            write(f)
        part.replace(target)  # the labels come last: a shard with labels is whole
    return total / SAMPLE_RATE


@dataclass(frozen=True)
class Shard:
    """One shard opened for reading; ``pcm`` is a memory map."""

    name: str
    pcm: np.ndarray
    labels: list[dict[str, Any]]

    def clip(self, i: int) -> np.ndarray:
        """float32 [N] in [-1, 1] of clip i."""
        label = self.labels[i]
        return self.pcm[label["offset"] : label["offset"] + label["samples"]].astype(np.float32) / 32767.0


def open_shards(folder: str | Path, kind: str, split: str) -> Iterator[Shard]:
    """Shards of a kind and split, in order.  Raises FileNotFoundError when there is none."""
    paths = sorted(Path(folder).glob(f"{kind}-{split}-*.jsonl"))
    if not paths:
        raise FileNotFoundError(f"no {kind}-{split} shards in {folder}; make them with: uniaudio-corpus make --out {folder}")
    for path in paths:
        with path.open() as f:
            labels = [json.loads(line) for line in f]
        yield Shard(path.stem, np.load(path.with_suffix(".npy"), mmap_mode="r"), labels)


