"""Batches for the semantic tokenizer: two views of each crop of speech, with the phone of each
frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from uniaudio_engine.text.phones import PAUSE, PHONES

from .augment import SAMPLE_RATE, Chances, random_factors, sound_view
from .speech_clips import open_noises, open_speech

_IDS = {p: i for i, p in enumerate(PHONES)}
PAUSE_ID = _IDS[PAUSE]
NONE = -1


@dataclass(frozen=True)
class Labels:
    """For each frame, its phone, the previous phone and the next one (ids of PHONES), [T] each."""

    now: np.ndarray
    before: np.ndarray
    after: np.ndarray


def frame_labels(
    phones: list[tuple[str, float]],
    frames: int,
    start: float = 0.0,
    speed: float = 1.0,
    hop: float = 0.02,
) -> Labels:
    """Labels of ``frames`` frames, the first of which begins ``start`` seconds into the clip.

    The clip is played ``speed`` times as fast. Outside the clip is silence. The phone of a frame is
    the one at its middle.
    """
    ids = np.array([PAUSE_ID, *(_IDS[p] for p, _ in phones), PAUSE_ID, PAUSE_ID])
    ends = np.array([e for _, e in phones])
    middle = start + (np.arange(frames) + 0.5) * hop * speed
    at = np.where(middle < 0, 0, np.searchsorted(ends, middle, side="right") + 1)
    return Labels(ids[at], ids[np.maximum(at - 1, 0)], ids[np.minimum(at + 1, len(ids) - 1)])


@dataclass
class Batch:
    """samples [B, N]; now, before, after [B, T]; speaker [B]; factors [B, 2] of harmonics and
    formants.

    Rows 2i and 2i + 1 are views of one crop.
    """

    samples: Tensor
    now: Tensor
    before: Tensor
    after: Tensor
    speaker: Tensor
    factors: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})


class SemanticData:
    """Draws batches from speech shards; sound and music shards, where present, are noise."""

    def __init__(
        self,
        folder: str | Path,
        frame_size: int,
        frames: int,
        split: str = "train",
        chances: Chances | None = None,
    ) -> None:
        self.frame_size, self.frames, self.chances = frame_size, frames, chances or Chances()
        self.clips = open_speech(folder, split)
        self.speakers = sorted({c.speaker for c in self.clips})
        self._speaker_ids = {name: i for i, name in enumerate(self.speakers)}
        self.noises = open_noises(folder, split)

    @property
    def hours(self) -> float:
        return sum(len(c.pcm) for c in self.clips) / SAMPLE_RATE / 3600

    def crop(self, rng: np.random.Generator) -> tuple[np.ndarray, Labels, int]:
        """A crop [N] at a random speed, which changes pitch, formants and durations together; its
        labels; its speaker.
        """
        n = self.frames * self.frame_size
        spoken = self.clips[int(rng.integers(len(self.clips)))]
        speed = float(rng.uniform(0.85, 1.18)) if rng.random() < 0.6 else 1.0
        length = int(n * speed) + 8
        free = len(spoken.pcm) - length
        # begins up to 0.3 s before the clip: a causal encoder starts in silence
        start = int(rng.integers(-4800, 1)) if free <= 0 else int(rng.integers(-4800, free))
        x = np.zeros(length, np.float32)
        lo, hi = max(start, 0), min(start + length, len(spoken.pcm))
        x[lo - start : hi - start] = spoken.pcm[lo:hi].astype(np.float32) / 32767
        if speed != 1.0:
            x = soxr.resample(x, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")
        x = np.pad(x, (0, max(0, n - len(x))))[:n].astype(np.float32)
        labels = frame_labels(
            spoken.phones, self.frames, start / SAMPLE_RATE, speed, self.frame_size / SAMPLE_RATE
        )
        return x, labels, self._speaker_ids[spoken.speaker]

    def other(self, rng: np.random.Generator) -> np.ndarray:
        """Another sound [N]: a sound, music or babble."""
        n = self.frames * self.frame_size
        if self.noises and rng.random() < 0.7:
            pcm = self.noises[int(rng.integers(len(self.noises)))]
        else:
            pcm = self.clips[int(rng.integers(len(self.clips)))].pcm
        start = int(rng.integers(max(1, len(pcm) - n)))
        x = pcm[start : start + n].astype(np.float32) / 32767
        return np.pad(x, (0, n - len(x)))

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """``size`` rows: size / 2 crops in two views each."""
        rows, labels, speakers = [], [], []
        for _ in range(size // 2):
            x, label, who = self.crop(rng)
            for _ in range(2):
                rows.append(sound_view(rng, x, lambda: self.other(rng), self.chances))
                labels.append(label)
                speakers.append(who)
        stack = lambda name: torch.from_numpy(np.stack([getattr(x, name) for x in labels]))  # noqa: E731
        return Batch(
            torch.from_numpy(np.stack(rows)),
            stack("now"),
            stack("before"),
            stack("after"),
            torch.tensor(speakers),
            torch.from_numpy(random_factors(rng, size)),
        )
