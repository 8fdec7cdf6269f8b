"""Training batches of the tts LM: rows of one voice prompt and several sentences that share it.

Each sentence sees the prompt and itself only, and its positions go on from the prompt: a row is exactly several independent
sequences whose prompt is computed once (what the engine does too: it forks the prompt's cache for each sentence).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uniaudio_engine import sequence
from uniaudio_engine.sequence import Layout

PAD, AUDIO, DURATION = 0, 1, 2
BUCKETS = (112, 144, 176, 208, 240, 288, 352, 448)  # sentence lengths in items; longer sentences are left out


@dataclass(frozen=True)
class Clip:
    """codes [T, K], phones [P], durations [P] in frames."""

    codes: np.ndarray
    phones: np.ndarray
    durations: np.ndarray

    @property
    def items(self) -> int:
        """Length of its sentence in the sequence: phones and durations with their four borders and <audio_start>, and the audio."""
        return 2 * len(self.phones) + 5 + len(self.codes)


class TokenData:
    """Token shards in memory, by speaker and bucket of length."""

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.speakers: dict[str, list[Clip]] = {}
        paths = sorted(Path(folder).glob(f"speech-{split}-*.npz"))
        if not paths:
            raise FileNotFoundError(f"no speech-{split} token shards in {folder}; make them with: python -m uniaudio_training.lm.tokens")
        for path in paths:
            with np.load(path) as z:
                codes = np.split(z["codes"], np.cumsum(z["frames"])[:-1])
                cuts = np.cumsum(z["phone_counts"])[:-1]
                phones, durations = np.split(z["phones"], cuts), np.split(z["durations"], cuts)
                for i, who in enumerate(z["speakers"]):
                    self.speakers.setdefault(str(z["speaker_names"][who]), []).append(Clip(codes[i], phones[i], durations[i]))
        self.index()

    def index(self) -> None:
        """Sorts the clips of ``speakers`` into buckets."""
        self.names = sorted(self.speakers)
        self.hours = sum(len(c.codes) for clips in self.speakers.values() for c in clips) / 50 / 3600
        self.buckets: list[dict[str, list[Clip]]] = [{} for _ in BUCKETS]
        mass = np.zeros(len(BUCKETS))
        for name in self.names:
            for clip in self.speakers[name]:
                b = int(np.searchsorted(BUCKETS, clip.items))
                if b < len(BUCKETS):
                    self.buckets[b].setdefault(name, []).append(clip)
                    mass[b] += len(clip.codes)
        self.bucket_share = mass / mass.sum()

    def prompt(self, rng: np.random.Generator, name: str, frames: int) -> np.ndarray:
        """``frames`` consecutive frames of one or more clips of a speaker, [frames, K]."""
        clips = self.speakers[name]
        parts: list[np.ndarray] = []
        have = 0
        while have < frames:
            parts.append(clips[int(rng.integers(len(clips)))].codes)
            have += len(parts[-1])
        joined = np.concatenate(parts)
        start = int(rng.integers(len(joined) - frames + 1))
        return joined[start : start + frames]


@dataclass
class Batch:
    """B rows of a prompt of P items and n sentences of at most L.

    prompt [B, P, K] and inputs [B, n, L, K]: what each step is fed (the item before it in its own sequence); frames [B, n, L, K] to
    predict; guide [B, n, L, S]; kind [B, n, L]: AUDIO, DURATION, or PAD where nothing is predicted.
    """

    prompt: Tensor
    inputs: Tensor
    frames: Tensor
    guide: Tensor
    kind: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    @property
    def seconds(self) -> float:
        return float((self.kind == AUDIO).sum()) / 50


def make_batch(layout: Layout, data: TokenData, rng: np.random.Generator, rows: int, items: int) -> Batch:
    """``rows`` speakers with as many sentences of one bucket of lengths as make about ``items`` items in all."""
    bucket = int(rng.choice(len(BUCKETS), p=data.bucket_share))
    pool = data.buckets[bucket]
    names = sorted(pool)
    length = BUCKETS[bucket]
    n = max(1, round(items / (rows * length)))
    u = rng.random()
    prompt_frames = 0 if u < 0.08 else 150 if u < 0.7 else int(rng.integers(50, 150))
    k, s = layout.num_codebooks, layout.guide_slots
    skip = len(sequence.voice_prefix(layout, None))
    prompt = np.zeros((rows, prompt_frames + skip, k), np.int64)
    inputs = np.zeros((rows, n, length, k), np.int64)
    frames = np.zeros((rows, n, length, k), np.int64)
    guide = np.full((rows, n, length, s), -1, np.int64)
    kind = np.full((rows, n, length), PAD, np.int64)
    for row in range(rows):
        name = names[int(rng.integers(len(names)))]
        prefix = sequence.voice_prefix(layout, data.prompt(rng, name, prompt_frames) if prompt_frames else None)
        prompt[row, 0], prompt[row, 1:] = layout.vocabulary.special("start"), prefix[:-1]
        for i in range(n):
            clip = pool[name][int(rng.integers(len(pool[name])))]
            seq = sequence.tts_sequence(layout, clip.phones, clip.durations, clip.codes)
            t = len(seq.frames) - skip
            inputs[row, i, 0], inputs[row, i, 1:t] = prefix[-1], seq.frames[skip:-1]
            frames[row, i, :t], guide[row, i, :t] = seq.frames[skip:], seq.guide[skip:]
            kind[row, i, seq.durations.start - skip : seq.durations.stop - skip] = DURATION
            kind[row, i, seq.audio.start - skip : seq.audio.stop - skip] = AUDIO
    return Batch(*(torch.from_numpy(a) for a in (prompt, inputs, frames, guide, kind)))
