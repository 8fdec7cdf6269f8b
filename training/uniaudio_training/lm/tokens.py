"""Speech shards -> token shards: codes, phones and their durations in frames; 1.4 MB an hour and codebook count of 4.

``<name>.npz``: ``codes`` uint16 [sum T, K], ``frames`` [clips] T of each clip, ``phones`` and ``durations`` [sum P], ``phone_counts``
[clips], ``speakers`` [clips] (index into ``speaker_names``).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from uniaudio_engine.text.phones import PHONES

from ..codec.checkpoint import load_codec
from ..corpus.reading import Examples, open_corpus
from ..models.spectral import SpectralCodec

_PHONE_ID = {p: i for i, p in enumerate(PHONES)}


def frame_durations(ends: np.ndarray, frames: int, frame_rate: float) -> np.ndarray | None:
    """Phone end times [P] in s -> frames of each [P], at least 1, summing to ``frames``; None where they cannot fit."""
    count = len(ends)
    if count == 0 or frames < count:
        return None
    bounds = np.round(ends * frame_rate).astype(np.int64)
    bounds[-1] = frames
    for i in range(count):  # forwards: every phone has a frame; backwards: room for those that follow
        bounds[i] = max(bounds[i], (bounds[i - 1] if i else 0) + 1)
    bounds[-1] = frames
    for i in range(count - 2, -1, -1):
        bounds[i] = min(bounds[i], bounds[i + 1] - 1)
    return np.diff(bounds, prepend=0)


@torch.no_grad()
def tokenize(shard: Examples, codec: SpectralCodec, num_codebooks: int, batch: int = 16) -> dict[str, np.ndarray]:
    """Arrays of one token shard; clips whose phones cannot be aligned to frames are left out."""
    device = next(codec.parameters()).device
    size, rate = codec.config.frame_size, codec.config.frame_rate
    tracks = [e.track() for e in shard]
    order = sorted(range(len(tracks)), key=lambda i: tracks[i].samples)
    codes: dict[int, np.ndarray] = {}
    for first in range(0, len(order), batch):
        group = order[first : first + batch]
        longest = max(tracks[i].samples for i in group)
        samples = np.zeros((len(group), longest), np.float32)
        for row, i in enumerate(group):
            samples[row, : tracks[i].samples] = shard[i].audio()
        out = codec.encode(torch.from_numpy(samples).to(device), num_codebooks).cpu().numpy()
        for row, i in enumerate(group):  # the codec is causal: what follows a clip does not change its codes
            codes[i] = out[row, :, : -(-tracks[i].samples // size)].T.astype(np.uint16)
    rows: dict[str, list[np.ndarray]] = {"codes": [], "phones": [], "durations": []}
    frames, counts, speakers, names = [], [], [], []
    for i, track in enumerate(tracks):
        ends = np.array([p.end for p in track.phones])
        durations = frame_durations(ends, len(codes[i]), rate)
        if durations is None:
            continue
        if track.speaker not in names:
            names.append(track.speaker)
        rows["codes"].append(codes[i])
        rows["phones"].append(np.array([_PHONE_ID[p] for p, _ in track.phones], np.uint8))
        rows["durations"].append(durations.astype(np.uint16))
        frames.append(len(codes[i]))
        counts.append(len(durations))
        speakers.append(names.index(track.speaker))
    return {
        **{k: np.concatenate(v) for k, v in rows.items()}, "frames": np.array(frames), "phone_counts": np.array(counts),
        "speakers": np.array(speakers), "speaker_names": np.array(names),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="uniaudio-tokenize", description="Tokenize speech shards with a trained codec.", epilog="example: python -m uniaudio_training.lm.tokens --codec runs/codec --corpus data/corpus --out data/tokens")
    parser.add_argument("--codec", required=True, help="a codec run's folder")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--codebooks", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    codec = load_codec(args.codec).to(args.device).eval()
    args.out.mkdir(parents=True, exist_ok=True)
    for i, shard in enumerate(tqdm(open_corpus(args.corpus).shards("tts", args.split), unit="shard")):
        path = args.out / f"speech-{args.split}-{i:04d}.npz"
        if path.exists():
            continue
        part = path.with_name(f".{path.name}.{os.getpid()}.npz")
        np.savez(part, **tokenize(shard, codec, args.codebooks))
        part.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
