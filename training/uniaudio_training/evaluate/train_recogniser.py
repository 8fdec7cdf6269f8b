"""Trains the phone recogniser used as a metric, on the exact phone times of the corpus.

``uniaudio-train evaluate recogniser --corpus data/corpus --out runs/recogniser`` trains or resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..loop import Run, Stateful, Trainer, Validation, fit
from ..muon import Muon
from ..precision import Arithmetic, choose
from ..schedules import cosine, decay_groups
from ..settings import RunSettings
from .metrics import Errors, edit_errors, error_rate, plain_phones
from .recogniser import (
    BANDS,
    PHONE_SET,
    STACK,
    STEP_RATE,
    WEIGHTS,
    Floats,
    Recogniser,
    mel_power,
    normalise,
)


@dataclass(frozen=True)
class RecogniserSettings(RunSettings):
    """Settings of a recogniser training run."""

    data: str = "data/corpus"
    steps: int = 1600
    batch: int = 16
    checkpoint_minutes: float = 2.0
    validate_every: int = 250


def alignment(ids: NDArray[np.int64], ends: NDArray[np.float64], steps: int) -> NDArray[np.int64]:
    """The CTC target of each step [steps], from phone ids [P] (0: pause) and end times [P] in s.

    A phone fills the first half of its steps, blank the second half, so that a repeated phone stays
    two.
    """
    target = np.zeros(steps, np.int64)
    bounds = np.concatenate(([0.0], ends)) * STEP_RATE
    for i, phone in enumerate(ids):
        first = int(bounds[i] + 0.5)
        last = max(first + 1, int((bounds[i] + bounds[i + 1]) / 2 + 0.5))
        target[first:last] = phone
    return target


def augment(power: Floats, rng: np.random.Generator) -> tuple[Floats, float]:
    """Augments band powers [T, 64]: formant shift, pace, room and recording channel.

    Returns the powers and the factor by which time was stretched.
    """
    t = len(power)
    stretch = float(rng.uniform(0.85, 1.18)) if rng.random() < 0.6 else 1.0
    warp = float(rng.uniform(0.9, 1.11)) if rng.random() < 0.6 else 1.0
    if stretch != 1.0 or warp != 1.0:
        rows = np.clip(np.arange(int(t * stretch)) / stretch, 0, t - 1.001)
        i = rows.astype(int)
        w = (rows - i).astype(np.float32)[:, None]
        power = power[i] * (1 - w) + power[i + 1] * w if t > 1 else power
        columns = np.clip(np.arange(BANDS) * warp, 0, BANDS - 1.001)
        j = columns.astype(int)
        v = (columns - j).astype(np.float32)
        power = power[:, j] * (1 - v) + power[:, j + 1] * v
    if rng.random() < 0.5:  # stationary noise with a random spectrum, 10 to 40 dB below the speech
        colour = np.exp(np.cumsum(rng.normal(0, 0.25, BANDS)))
        noise = colour / colour.mean() * power.mean() * 10 ** (-rng.uniform(1.0, 4.0))
        power = power + noise * rng.gamma(2.0, 0.5, power.shape)
    if rng.random() < 0.4:  # smeared over 20 to 40 ms, like codecs and vocoders with long windows
        width = int(rng.integers(2, 5))
        sums = np.cumsum(
            np.pad(power, ((width, 0), (0, 0))), 0, dtype=np.float64
        )  # quiet bands survive the difference
        power = ((sums[width:] - sums[:-width]) / width).clip(0)
    if (
        rng.random() < 0.7
    ):  # errors of a few dB in patches, like a quantized envelope; no codec of this project is used
        across, along = int(rng.integers(1, 7)), int(rng.integers(1, 4))
        patches = rng.normal(
            0, rng.uniform(0.2, 0.9), (len(power) // along + 1, BANDS // across + 1)
        )
        power = power * np.exp(patches.repeat(along, 0).repeat(across, 1)[: len(power), :BANDS])
    if rng.random() < 0.4:
        first = int(rng.integers(BANDS - 8))
        power = power.copy()
        power[:, first : first + int(rng.integers(1, 9))] *= 1e-3
    return power.astype(np.float32), stretch


Batch = tuple[Tensor, Tensor, Tensor, list[Tensor]]  # see ``_Data.batch``


class _Data:
    """The tts clips of the corpus as (features, CTC path, phone ids)."""

    def __init__(self, folder: str | Path, split: str) -> None:
        from ..corpus.reading import open_corpus

        index = {p: i + 1 for i, p in enumerate(PHONE_SET)}
        self.examples = open_corpus(folder)["tts", split]
        self.clips = range(len(self.examples))
        self._index = index

    def example(
        self, clip: int, rng: np.random.Generator | None
    ) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        example = self.examples[clip]
        track = example.track()
        power, stretch = mel_power(example.audio()), 1.0
        if rng is not None:
            power, stretch = augment(power, rng)
        x = normalise(power)
        ids = np.array([self._index.get(p.rstrip("012"), 0) for p, _ in track.phones])
        ends = np.array([p.end for p in track.phones]) * stretch
        return x, alignment(ids, ends, len(x)), ids[ids > 0]

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Clips of similar length: features [B, T, 128], CTC paths [B, T] (-1 past the end),
        lengths [B] and phone ids.
        """
        draw = rng.integers(len(self.clips), size=size * 4)
        lengths = [self.examples[int(c)].track().samples for c in draw]
        start = int(rng.integers(3 * size + 1))
        rows = [self.example(int(c), rng) for c in draw[np.argsort(lengths)[start : start + size]]]
        longest = max(len(x) for x, _, _ in rows)
        features = torch.zeros(size, longest, STACK * BANDS)
        path = torch.full((size, longest), -1)
        for b, (x, target, _) in enumerate(rows):
            features[b, : len(x)], path[b, : len(x)] = torch.from_numpy(x), torch.from_numpy(target)
        return (
            features,
            path,
            torch.tensor([len(x) for x, _, _ in rows]),
            [torch.from_numpy(ids) for _, _, ids in rows],
        )


def shard_errors(model: Recogniser, data: _Data, limit: int) -> dict[str, list[Errors]]:
    """Phone errors by speaker on the first ``limit`` clips."""
    rows: dict[str, list[Errors]] = {}
    model.eval()
    for i in data.clips[:limit]:
        example = data.examples[i]
        track = example.track()
        errors = edit_errors(
            plain_phones([p for p, _ in track.phones]), model.hear(example.audio())
        )
        rows.setdefault(track.speaker, []).append(errors)
    model.train()
    return rows


class RecogniserTrainer(Trainer[Batch]):
    """Cross-entropy on the exact alignment first, then increasingly CTC alone."""

    def __init__(self, s: RecogniserSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic = s, arithmetic
        self.model = Recogniser().train()
        self.data, self.valid = _Data(s.data, "train"), _Data(s.data, "valid")
        named = list(self.model.named_parameters())
        hidden = [p for n, p in named if p.dim() == 2 and n.startswith("blocks.")]
        ids = {id(p) for p in hidden}
        groups = decay_groups(self.model, 0.01)
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in ids]
        muon = Muon(hidden, 0.02, 0.01, arithmetic.dtype)
        self.optimizers = [(muon, 0.02), (torch.optim.AdamW(groups, lr=3e-3), 3e-3)]

    def parts(self) -> dict[str, Stateful]:
        each = {f"optimizer{i}": o for i, (o, _) in enumerate(self.optimizers)}
        return {"model": self.model, **each}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def begin(self, run: Run, resumed: bool) -> None:
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        clips = len(self.data.clips)
        print(f"{millions:.2f} M parameters, {clips} clips, {len(PHONE_SET)} phones")

    def batch(self, rng: np.random.Generator) -> Batch:
        return self.data.batch(rng, self.settings.batch)

    def rate(self, step: int, done: float) -> float:
        return cosine(step, done, 50, floor=0.01)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        features, path, lengths, phones = batch
        with self.arithmetic.autocast():
            logp = self.model(features)
        logp = logp.float()
        aligned = F.nll_loss(logp.flatten(0, 1), path.flatten(), ignore_index=-1)
        counts = torch.tensor([len(p) for p in phones])
        targets = torch.cat(phones)
        ctc = F.ctc_loss(logp.transpose(0, 1), targets, lengths, counts, zero_infinity=True)
        share = 2.0 * (1.0 - step / self.settings.steps)
        return ctc + share * aligned, {"train/ctc": ctc, "train/aligned": aligned}

    def validate(self, run: Run) -> Validation:
        found = shard_errors(self.model, self.valid, 100)
        error = error_rate([e for group in found.values() for e in group])
        return Validation({"valid/phone_error": error}, f"valid phone error {error:.4f}")


def train(settings: RecogniserSettings, out: Path) -> Recogniser:
    """Trains or resumes the recogniser in ``out``; writes its weights there."""
    arithmetic = choose(settings.precision, torch.device("cpu"), out)
    torch.manual_seed(settings.seed)
    trainer = RecogniserTrainer(settings, arithmetic)
    fit(trainer, settings, out, arithmetic)
    trainer.model.save(
        out / WEIGHTS.name,
        steps=str(settings.steps),
        corpus="uniaudio procedural corpus, flite virtual speakers",
    )
    return trainer.model.eval()


def report(model: Recogniser, corpus: str, limit: int) -> dict[str, Any]:
    """Phone error on the test split: by speakers seen in training, and by unseen ones."""
    from ..corpus.speech import SPEAKERS

    unseen = {s.name for s in SPEAKERS if s.split == "test"}
    rows = shard_errors(model, _Data(corpus, "test"), limit)
    known = [e for name, group in rows.items() if name not in unseen for e in group]
    new = [e for name, group in rows.items() if name in unseen for e in group]
    return {
        "phone_error": error_rate(known + new),
        "phone_error_known_speakers": error_rate(known),
        "phone_error_unseen_speakers": error_rate(new),
        "clips": len(known + new),
        "by_speaker": {name: round(error_rate(group), 4) for name, group in sorted(rows.items())},
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train evaluate recogniser",
        description=(
            "Train or resume the phone recogniser used to evaluate speech, then report test errors."
        ),
        epilog=(
            "example: uniaudio-train evaluate recogniser --corpus data/corpus --out runs/recogniser"
        ),
    )
    parser.add_argument(
        "--corpus", required=True, help="folder of corpus shards (tts: train, valid, test)"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder of the run; resumes its checkpoint and writes recogniser.safetensors",
    )
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--test-only",
        action="store_true",
        help="skip training; test the weights in --out, or the bundled ones",
    )
    parser.add_argument("--test-clips", type=int, default=400)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        if args.test_only:
            path = args.out / WEIGHTS.name
            model = Recogniser.load(path if path.exists() else WEIGHTS)
        else:
            settings = RecogniserSettings(data=args.corpus, steps=args.steps, batch=args.batch)
            settings.check()
            model = train(settings, args.out)
        print(json.dumps(report(model, args.corpus, args.test_clips), indent=2))
    except (OSError, ValueError) as e:
        print(f"uniaudio-train evaluate recogniser: error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
