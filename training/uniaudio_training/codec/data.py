"""Random crops of the corpus for the codec, with the phone at each frame where the generator knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..corpus.shards import Shard, open_shards

NO_PHONE = -1


class CodecData:
    """Draws batches of crops; ``weights`` is the share of each kind."""

    def __init__(self, folder: str | Path, frame_size: int, frames: int, weights: dict[str, float], split: str = "train") -> None:
        self.frame_size, self.frames = frame_size, frames
        self.kinds = list(weights)
        self.weights = np.array([weights[k] for k in self.kinds])
        self.weights /= self.weights.sum()
        self.shards: dict[str, list[Shard]] = {k: list(open_shards(folder, k, split)) for k in self.kinds}
        names = {p.rstrip("012") for s in self.shards.get("speech", []) for label in s.labels for p, _ in label["phones"]}
        self.phones = sorted(names)
        self._index = {p: i for i, p in enumerate(self.phones)}

    def crop(self, rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """float32 [frames * frame_size] and phone ids [frames] (NO_PHONE where unknown)."""
        n = self.frames * self.frame_size
        shard = self.shards[kind][int(rng.integers(len(self.shards[kind])))]
        i = int(rng.integers(len(shard.labels)))
        clip = shard.clip(i)
        start = int(rng.integers(-self.frame_size, max(1, len(clip) - n // 2)))
        out = np.zeros(n, np.float32)
        lo, hi = max(start, 0), min(start + n, len(clip))
        out[lo - start : hi - start] = clip[lo:hi]
        phones = np.full(self.frames, NO_PHONE, np.int64)
        if kind == "speech":
            label = shard.labels[i]
            ends = np.array([e for _, e in label["phones"]])
            ids = np.array([self._index[p.rstrip("012")] for p, _ in label["phones"]])
            centre = (start + (np.arange(self.frames) + 0.5) * self.frame_size) / 16000
            at = np.searchsorted(ends, centre)
            inside = (centre >= 0) & (at < len(ends))
            phones[inside] = ids[at[inside]]
        return out, phones

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """samples [B, N] in [-1, 1], phone ids [B, T].  Some speech is mixed with sound or music, echoed, or made quieter."""
        rows: list[Any] = []
        for kind in rng.choice(len(self.kinds), size, p=self.weights):
            x, phones = self.crop(rng, self.kinds[kind])
            if self.kinds[kind] == "speech" and rng.random() < 0.2 and len(self.kinds) > 1:
                other, _ = self.crop(rng, self.kinds[1 + int(rng.integers(len(self.kinds) - 1))])
                gain = 10 ** (-rng.uniform(0, 20) / 20) * np.sqrt((x**2).mean() / ((other**2).mean() + 1e-9))
                x = x + other * gain
            if rng.random() < 0.1:
                decay = np.exp(-np.arange(3200) / rng.uniform(300, 1500)) * rng.standard_normal(3200) * rng.uniform(0.005, 0.03)
                decay[0] = 1.0
                x = np.convolve(x, decay)[: len(x)]
            x = x * 10 ** (rng.uniform(-9, 3) / 20)
            peak = np.abs(x).max()
            rows.append((x / max(1.0, peak / 0.99), phones))
        return torch.from_numpy(np.stack([r[0] for r in rows]).astype(np.float32)), torch.from_numpy(np.stack([r[1] for r in rows]))
