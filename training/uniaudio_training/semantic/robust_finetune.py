"""Fine-tunes a semantic tokenizer for robustness to noise and rooms.

Its output for degraded speech (noise down to -5 dB, babble, reverberation) is trained to match its
output for the clean speech. The codebook is frozen, so that existing units stay valid. Distillation
onto clean units follows WavLM's denoising targets (arXiv 2110.13900, section 3.1).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import load_semantic, write_semantic_config
from ..corpus import degrade
from ..loop import Run, Stateful, Trainer, Validation, fit, pick_device
from ..models.spectral import SpectralCodec
from ..precision import Arithmetic, choose
from ..schedules import decay_groups, trapezoid
from ..settings import RunSettings
from .augment import place, room
from .train_semantic import described, units
from .views import SemanticData


@dataclass(frozen=True)
class RobustSettings(RunSettings):
    """``init``: the semantic run to start from. ``noisy`` and ``reverberant``: shares of crops with
    noise and with reverberation; a crop can have both.
    """

    init: str = "runs/semantic"
    data: str = "data/corpus"
    steps: int = 6000
    batch: int = 16
    frames: int = 112
    lr: float = 7e-4
    warmup: int = 50
    decay_share: float = 0.6
    noisy: float = 0.7
    reverberant: float = 0.35
    pull_weight: float = 0.25


class Degraded:
    """Crops of speech, clean and degraded as in the corpus tasks se, tse and sd."""

    def __init__(self, data: SemanticData, noisy: float, reverberant: float) -> None:
        self.data, self.noisy, self.reverberant = data, noisy, reverberant

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        kind = int(rng.integers(6))
        if kind < 3:
            return np.asarray((degrade.white, degrade.pink, degrade.hum)[kind](rng, n), np.float32)
        if kind == 3:
            return degrade.babble(
                rng, n, [self.data.crop(rng)[0] for _ in range(int(rng.integers(4, 7)))]
            ).astype(np.float32)
        return self.data.other(rng)

    def degraded(self, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
        """x [N] with reverberation, noise, both or neither; the peak is at most 0.97."""
        if rng.random() < self.reverberant:
            taps = room(rng) if rng.random() < 0.3 else degrade.room(rng).taps
            x = place(x, taps, None, 1 << (len(x) + len(taps)).bit_length())
        if rng.random() < self.noisy:
            noise = self.noise(rng, len(x))
            power, other = float((x**2).mean()), float((noise**2).mean())
            if power > 1e-9 and other > 1e-9:
                x = x + noise * np.float32(
                    np.sqrt(power / other) * 10 ** (-rng.uniform(-5, 20) / 20)
                )
        return x / np.float32(max(1.0, np.abs(x).max(initial=0) / 0.97))

    def batch(self, rng: np.random.Generator, size: int) -> Tensor:
        """[2, size, N]: clean speech at various levels, and the same speech degraded."""
        rows = []
        for _ in range(size):
            x = self.data.crop(rng)[0] * np.float32(10 ** (rng.uniform(-9, 3) / 20))
            rows.append((x, self.degraded(rng, x)))
        return torch.from_numpy(np.stack(rows).transpose(1, 0, 2).astype(np.float32))


def latents(model: SpectralCodec, samples: Tensor, delay: int, arithmetic: Arithmetic) -> Tensor:
    """Samples [B, N] -> latents [B, T - delay, E], as in the engine."""
    with arithmetic.autocast():
        return model.encoder(model.features(samples))[:, delay:].float()


def validate(
    model: SpectralCodec, teacher: SpectralCodec, degraded: Degraded, delay: int, clips: int = 60
) -> dict[str, float]:
    """Share of frames whose unit equals the teacher's unit for clean speech.

    For clean speech, white noise at 10 and 0 dB, babble at 5 dB, and a room.
    """
    rng = np.random.default_rng(1)
    counts = dict.fromkeys(("clean", "white10", "white0", "babble5", "room"), 0)
    total = 0
    for spoken in degraded.data.clips[:clips]:
        x = spoken.samples()
        wanted = units(teacher, x, delay)
        babble = degrade.babble(rng, len(x), [c.samples() for c in degraded.data.clips[-4:]])
        heard = {
            "clean": x,
            "room": degrade.reverberate(x, degrade.room(rng, 0.6))[1] / 32767,
            "white10": degrade.mix_at(x, degrade.white(rng, len(x)), 10)[1] / 32767,
            "white0": degrade.mix_at(x, degrade.white(rng, len(x)), 0)[1] / 32767,
            "babble5": degrade.mix_at(x, babble, 5)[1] / 32767,
        }
        for name, y in heard.items():
            counts[name] += int((units(model, y, delay) == wanted).sum())
        total += len(wanted)
    return {name: count / total for name, count in counts.items()}


class RobustTrainer(Trainer[Tensor]):
    """Trains a student on degraded speech; the frozen teacher is its initial state."""

    def __init__(self, s: RobustSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic, device = s, arithmetic, arithmetic.device
        self.semantic, self.teacher = load_semantic(s.init)
        self.model = copy.deepcopy(self.teacher).to(device).train()
        self.teacher.to(device).requires_grad_(False)
        self.codebook = self.model.quantizer.codebooks[0]
        self.spread = self.codebook.var(0).sum()
        # of the choice among codewords; learned
        self.sharpness = nn.Parameter(torch.zeros((), device=device))
        frame = self.semantic.encoder.frame_size
        self.data = SemanticData(s.data, frame, s.frames)
        self.pairs = Degraded(self.data, s.noisy, s.reverberant)
        self.valid = Degraded(SemanticData(s.data, frame, s.frames, "valid"), 1, 1)
        groups = [
            *decay_groups(self.model, 0.01),
            {"params": [self.sharpness], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=(0.9, 0.98))
        self.optimizers = [(self.optimizer, s.lr)]

    def parts(self) -> dict[str, Stateful]:
        return {
            "model": self.model,
            "sharpness": nn.ParameterList([self.sharpness]),
            "optimizer": self.optimizer,
        }

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def begin(self, run: Run, resumed: bool) -> None:
        write_semantic_config(self.semantic, run.folder)
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        print(
            f"{millions:.2f} M parameters, {self.data.hours:.1f} h of speech, "
            f"{self.arithmetic.device}"
        )

    def batch(self, rng: np.random.Generator) -> Tensor:
        return self.pairs.batch(rng, self.settings.batch)

    def rate(self, step: int, done: float) -> float:
        return trapezoid(step, done, self.settings.warmup, self.settings.decay_share)

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        clean, degraded = batch.to(self.arithmetic.device)
        delay, codebook = self.semantic.delay, self.codebook
        with torch.no_grad():
            target = latents(self.teacher, clean, delay, self.arithmetic).flatten(0, 1)
            wanted = self.model.quantizer.nearest(target, 0)
        z = latents(self.model, degraded, delay, self.arithmetic).flatten(0, 1)
        distance = z.square().sum(1, keepdim=True) - 2 * z @ codebook.T + codebook.square().sum(1)
        choice = F.cross_entropy(-distance * (16 / self.spread * self.sharpness.exp()), wanted)
        pull = F.mse_loss(z, codebook[wanted])
        same = (distance.detach().argmin(1) == wanted).float().mean()
        values = {"train/unit": choice, "train/pull": pull, "train/same": same}
        return choice + self.settings.pull_weight * pull, dict(values)

    def validate(self, run: Run) -> Validation | None:
        found = validate(self.model.eval(), self.teacher, self.valid, self.semantic.delay)
        self.model.train()
        return described(found)


def train(settings: RobustSettings, out: str | Path, device: str = "auto") -> None:
    """Fine-tunes or resumes the tokenizer of ``settings.init`` in the folder ``out``."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    fit(RobustTrainer(settings, arithmetic), settings, out, arithmetic)
