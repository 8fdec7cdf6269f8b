"""Random crops of the corpus for the codec, with the phone of each frame where it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniaudio_engine.text.phones import PHONES

from ..corpus.reading import Examples, open_corpus
from ..corpus.schema import TASKS

NO_PHONE = -1
_SPEECH = frozenset(TASKS) - {"t2s", "t2m", "a_edit"}


class CodecData:
    """Draws batches of crops; ``weights`` are the shares of the tasks. Targets and sources are
    used.
    """

    def __init__(
        self,
        folder: str | Path,
        frame_size: int,
        frames: int,
        weights: dict[str, float],
        split: str = "train",
    ) -> None:
        self.frame_size, self.frames = frame_size, frames
        self.tasks = list(weights)
        self.weights = np.array([weights[t] for t in self.tasks])
        self.weights /= self.weights.sum()
        corpus = open_corpus(folder)
        self.examples: dict[str, Examples] = {t: corpus[t, split] for t in self.tasks}
        self.phones = sorted({p.rstrip("012") for p in PHONES}) if _SPEECH & set(self.tasks) else []
        self._index = {p: i for i, p in enumerate(self.phones)}

    def crop(self, rng: np.random.Generator, task: str) -> tuple[np.ndarray, np.ndarray]:
        """float32 [frames * frame_size] and phone ids [frames] (NO_PHONE where unknown)."""
        n = self.frames * self.frame_size
        examples = self.examples[task]
        example = examples[int(rng.integers(len(examples)))]
        roles = [r for r in ("target", "source") if r in example.roles]
        role = roles[int(rng.integers(len(roles)))] if len(roles) > 1 else roles[0]
        clip, track = example.audio(role), example.track(role)
        start = int(rng.integers(-self.frame_size, max(1, len(clip) - n // 2)))
        out = np.zeros(n, np.float32)
        lo, hi = max(start, 0), min(start + n, len(clip))
        out[lo - start : hi - start] = clip[lo:hi]
        phones = np.full(self.frames, NO_PHONE, np.int64)
        if track.phones:
            ends = np.array([p.end for p in track.phones])
            ids = np.array([self._index[p.phone.rstrip("012")] for p in track.phones])
            centre = (start + (np.arange(self.frames) + 0.5) * self.frame_size) / 16000
            at = np.searchsorted(ends, centre)
            inside = (centre >= 0) & (at < len(ends))
            phones[inside] = ids[at[inside]]
        return out, phones

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Samples [B, N] in [-1, 1] and phone ids [B, T].

        Some speech is mixed with sound or music, reverberated, or attenuated.
        """
        rows: list[Any] = []
        others = [t for t in self.tasks if t not in _SPEECH]
        for task in rng.choice(len(self.tasks), size, p=self.weights):
            x, phones = self.crop(rng, self.tasks[task])
            if self.tasks[task] in _SPEECH and others and rng.random() < 0.2:
                other, _ = self.crop(rng, others[int(rng.integers(len(others)))])
                gain = 10 ** (-rng.uniform(0, 20) / 20) * np.sqrt(
                    (x**2).mean() / ((other**2).mean() + 1e-9)
                )
                x = x + other * gain
            if rng.random() < 0.1:
                decay = (
                    np.exp(-np.arange(3200) / rng.uniform(300, 1500))
                    * rng.standard_normal(3200)
                    * rng.uniform(0.005, 0.03)
                )
                decay[0] = 1.0
                x = np.convolve(x, decay)[: len(x)]
            x = x * 10 ** (rng.uniform(-9, 3) / 20)
            peak = np.abs(x).max()
            rows.append((x / max(1.0, peak / 0.99), phones))
        return torch.from_numpy(
            np.stack([r[0] for r in rows]).astype(np.float32)
        ), torch.from_numpy(np.stack([r[1] for r in rows]))
