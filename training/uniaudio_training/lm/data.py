"""Training rows of the tts LM: one voice prompt and several sentences that share it.

A row is ``[voice prefix][sentence][sentence]...``.  Each sentence sees the prefix and itself only and its positions go on from the
prefix, so a row is exactly several independent sequences whose prompt is computed once (what the engine does too: it forks the
prompt's cache for each sentence).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uniaudio_engine import sequence
from uniaudio_engine.sequence import Layout

PAD, AUDIO, DURATION = 0, 1, 2


@dataclass(frozen=True)
class Clip:
    """codes [T, K], phones [P], durations [P] in frames."""

    codes: np.ndarray
    phones: np.ndarray
    durations: np.ndarray


class TokenData:
    """Token shards in memory, by speaker."""

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
        self.names = sorted(self.speakers)
        self.hours = sum(len(c.codes) for clips in self.speakers.values() for c in clips) / 50 / 3600

    def prompt(self, rng: np.random.Generator, name: str, frames: int) -> np.ndarray:
        """``frames`` consecutive frames of one or more clips of a speaker, [frames, K]."""
        clips = self.speakers[name]
        parts: list[np.ndarray] = []
        have = 0
        while have < frames:
            codes = clips[int(rng.integers(len(clips)))].codes
            parts.append(codes)
            have += len(codes)
        joined = np.concatenate(parts)
        start = int(rng.integers(len(joined) - frames + 1))
        return joined[start : start + frames]


@dataclass
class Batch:
    """frames [B, T, K] to predict; inputs [B, T, K], what each step is fed (the item before it in its own sequence); guide [B, T, S];
    kind [B, T] (PAD, AUDIO, DURATION: what is predicted); sentence [B, T] (0: prefix, -1: pad); positions [B, T]."""

    frames: Tensor
    inputs: Tensor
    guide: Tensor
    kind: Tensor
    sentence: Tensor
    positions: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, f).to(device, non_blocking=True) for f in ("frames", "inputs", "guide", "kind", "sentence", "positions")))

    def mask(self) -> Tensor:
        """[B, 1, T, T] bool: a step sees earlier steps of the prefix and of its own sentence."""
        s = self.sentence
        t = s.shape[1]
        causal = torch.ones(t, t, dtype=torch.bool, device=s.device).tril()
        return (causal & ((s[:, None, :] == s[:, :, None]) | (s[:, None, :] == 0)))[:, None]


def make_row(layout: Layout, data: TokenData, rng: np.random.Generator, length: int) -> tuple[np.ndarray, ...]:
    """One row of at most ``length`` items, padded to it: frames, inputs, guide, kind, sentence, positions."""
    name = data.names[int(rng.integers(len(data.names)))]
    u = rng.random()
    prompt_frames = 0 if u < 0.08 else 150 if u < 0.7 else int(rng.integers(50, 150))
    prompt = data.prompt(rng, name, prompt_frames) if prompt_frames else None
    prefix = sequence.voice_prefix(layout, prompt)
    k, s = layout.num_codebooks, layout.guide_slots
    frames = np.zeros((length, k), np.int64)
    guide = np.full((length, s), -1, np.int64)
    kind = np.zeros(length, np.int64)
    sentence = np.full(length, -1, np.int64)
    positions = np.zeros(length, np.int64)
    at = len(prefix)
    inputs = np.zeros((length, k), np.int64)
    inputs[0], inputs[1:at] = layout.vocabulary.special("start"), prefix[:-1]
    frames[:at], sentence[:at], positions[:at] = prefix, 0, np.arange(at)
    clips = data.speakers[name]
    count = misses = 0
    while misses < 4 and at < length:
        clip = clips[int(rng.integers(len(clips)))]
        seq = sequence.tts_sequence(layout, clip.phones, clip.durations, clip.codes)
        skip = len(sequence.voice_prefix(layout, None))
        n = len(seq.frames) - skip
        if at + n > length:
            misses += 1
            continue
        count += 1
        inputs[at], inputs[at + 1 : at + n] = prefix[-1], seq.frames[skip:-1]
        frames[at : at + n], guide[at : at + n] = seq.frames[skip:], seq.guide[skip:]
        kind[at + seq.durations.start - skip : at + seq.durations.stop - skip] = DURATION
        kind[at + seq.audio.start - skip : at + seq.audio.stop - skip] = AUDIO
        sentence[at : at + n] = count
        positions[at : at + n] = len(prefix) + np.arange(n)
        at += n
    return frames, inputs, guide, kind, sentence, positions


def make_batch(layout: Layout, data: TokenData, rng: np.random.Generator, rows: int, length: int) -> Batch:
    columns = zip(*(make_row(layout, data, rng, length) for _ in range(rows)), strict=True)
    return Batch(*(torch.from_numpy(np.stack(c)) for c in columns))
