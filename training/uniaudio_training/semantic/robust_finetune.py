"""Fine-tunes a semantic tokenizer for robustness to noise and rooms.

Its output for degraded speech (noise down to -5 dB, babble, reverberation) is trained to match its
output for the clean speech. The codebook is frozen, so that existing units stay valid. Distillation
onto clean units follows WavLM's denoising targets (arXiv 2110.13900, section 3.1).

Recordings of voices unlike those of the first training have no good units yet. They learn any unit
that stands for the phone of the frame, as counted on the first voices, which keep most of their
units. A language model that has heard such recordings must learn their new units.

The encoder can grow: new blocks are the identity at first. Voices are warped as in the first
training, since recordings are of few speakers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from uniaudio_engine.storage.config import SemanticConfig

from ..checkpoints import load_semantic, write_semantic_config
from ..codec.growth import grown
from ..corpus import degrade
from ..loop import Run, Stateful, Trainer, Validation, fit, pick_device
from ..models.spectral import SpectralCodec
from ..muon import block_optimizers
from ..precision import Arithmetic, choose
from ..schedules import trapezoid
from ..settings import RunSettings, require
from .augment import VoiceWarp, place, random_factors, room
from .train_semantic import PLAIN_IDS, described, latents, units
from .views import SemanticData, frame_labels

PLAIN = int(PLAIN_IDS.max()) + 1  # phones without stress


@dataclass(frozen=True)
class RobustSettings(RunSettings):
    """``init``: the semantic run to start from. ``blocks``: of the encoder, 0 for those of ``init``;
    new ones are added after them. ``noisy`` and ``reverberant``: shares of crops with noise and with
    reverberation; a crop can have both. ``recordings``: corpora with phone times whose voices learn
    phones; ``recorded``: their share of crops. ``warped``: share of crops with changed voices.
    """

    init: str = "runs/semantic"
    data: str = "data/corpus"
    steps: int = 6000
    batch: int = 16
    frames: int = 112
    blocks: int = 0
    lr: float = 5e-4
    matrix_lr: float = 5e-3
    weight_decay: float = 0.01
    warmup: int = 100
    decay_share: float = 0.6
    noisy: float = 0.7
    reverberant: float = 0.35
    pull_weight: float = 0.25
    recordings: tuple[str, ...] = ()
    recorded: float = 0.5
    warped: float = 0.6

    def check(self) -> None:
        super().check()
        require(0 <= self.recorded <= 1, "recorded", "0 to 1", self.recorded)
        require(0 <= self.warped <= 1, "warped", "0 to 1", self.warped)


@dataclass
class Crops:
    """clean, degraded [B, N]; phones without stress [B, T], or -1 where the unit is learned;
    factors [B, 2] of harmonics and formants.
    """

    clean: Tensor
    degraded: Tensor
    phones: Tensor
    factors: Tensor


class Degraded:
    """Crops of speech, clean and degraded as in the corpus tasks se, tse and sd.

    A share ``recorded`` of the crops is drawn from ``recordings``.
    """

    def __init__(
        self,
        data: SemanticData,
        noisy: float,
        reverberant: float,
        recordings: Sequence[SemanticData] = (),
        recorded: float = 0.0,
        warped: float = 0.0,
    ) -> None:
        self.data, self.noisy, self.reverberant, self.warped = data, noisy, reverberant, warped
        self.recordings, self.recorded = recordings, recorded if recordings else 0.0
        hours = np.array([r.hours for r in recordings])
        self.shares = hours / hours.sum() if recordings else hours

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

    def batch(self, rng: np.random.Generator, size: int) -> Crops:
        """Speech at various levels, and the same speech degraded."""
        clean, degraded, phones = [], [], []
        for _ in range(size):
            recorded = rng.random() < self.recorded
            data = (
                self.recordings[rng.choice(len(self.recordings), p=self.shares)]
                if recorded
                else self.data
            )
            x, labels, _ = data.crop(rng)
            x = x * np.float32(10 ** (rng.uniform(-9, 3) / 20))
            clean.append(x)
            degraded.append(self.degraded(rng, x).astype(np.float32))
            now = PLAIN_IDS[torch.from_numpy(labels.now)]
            phones.append(now if recorded else torch.full_like(now, -1))
        stack = lambda rows: torch.from_numpy(np.stack(rows))  # noqa: E731
        factors = torch.from_numpy(random_factors(rng, size, 1 - self.warped))
        return Crops(stack(clean), stack(degraded), torch.stack(phones), factors)


def deeper(
    semantic: SemanticConfig, teacher: SpectralCodec, blocks: int
) -> tuple[SemanticConfig, SpectralCodec]:
    """A copy of ``teacher`` whose encoder has ``blocks`` blocks, or as many as it has for 0, and its
    config. It gives the same units.

    Raises ValueError for fewer blocks than it has.
    """
    has = teacher.spectral.encoder_blocks
    if blocks in (0, has):
        return semantic, copy.deepcopy(teacher)
    if blocks < has:
        raise ValueError(f"blocks: expected 0 or at least {has}, got {blocks}")
    spectral = replace(teacher.spectral, encoder_blocks=blocks)
    semantic = replace(semantic, encoder=replace(semantic.encoder, spectral=spectral))
    model = SpectralCodec(semantic.encoder)
    grown(model, teacher.state_dict())
    return semantic, model


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


def phone_counts(
    model: SpectralCodec, data: SemanticData, delay: int, clips: int
) -> NDArray[np.float64]:
    """How often each unit stands for each phone without stress, [units, phones].

    Counted on ``clips`` clips spread over the split.
    """
    table = np.zeros((model.config.codebook_size, PLAIN))
    step = max(1, len(data.clips) // clips)
    for spoken in data.clips[::step]:
        found = units(model, spoken.samples(), delay)
        now = frame_labels(spoken.phones, len(found)).now
        np.add.at(table, (found, PLAIN_IDS.numpy()[now]), 1)
    return table


def phone_loss(choice: Tensor, likelihood: Tensor, phones: Tensor) -> Tensor:
    """Negative log-probability of the phones, summed over the units that can stand for them.

    ``choice`` [N, units]: logits of the unit; ``likelihood`` [units, phones]: log-probability of
    the phone given the unit; ``phones`` [N].
    """
    units_given = F.log_softmax(choice, 1) + likelihood.T[phones]
    return -torch.logsumexp(units_given, 1).mean()


class RobustTrainer(Trainer[Crops]):
    """Trains a student on degraded speech; the frozen teacher is its initial state."""

    def __init__(self, s: RobustSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic, device = s, arithmetic, arithmetic.device
        self.semantic, self.teacher = load_semantic(s.init)
        self.semantic, self.model = deeper(self.semantic, self.teacher, s.blocks)
        self.model.to(device).train()
        self.teacher.to(device).requires_grad_(False)
        self.warp = VoiceWarp(self.model.spectral.encoder_window // 2 + 1).to(device)
        self.codebook = self.model.quantizer.codebooks[0]
        self.spread = self.codebook.var(0).sum()
        # of the choice among codewords; learned
        self.sharpness = nn.Parameter(torch.zeros((), device=device))
        frame = self.semantic.encoder.frame_size
        self.data = SemanticData(s.data, frame, s.frames)
        recordings = [SemanticData(f, frame, s.frames) for f in s.recordings]
        self.pairs = Degraded(self.data, s.noisy, s.reverberant, recordings, s.recorded, s.warped)
        self.valid = Degraded(SemanticData(s.data, frame, s.frames, "valid"), 1, 1)
        # a teacher's corpus may have no other splits
        self.heard = {
            Path(f).name: SemanticData(f, frame, s.frames, "valid")
            for f in s.recordings
            if any(Path(f).glob("*-valid-*.jsonl"))
        }
        delay = self.semantic.delay
        table = (
            phone_counts(self.teacher, self.data, delay, 400) if recordings else np.zeros((1, 1))
        )
        self.likelihood = torch.from_numpy(
            np.log((table + 0.01) / (table + 0.01).sum(1, keepdims=True))
        ).to(device, torch.float32)
        beside = nn.ParameterList([self.sharpness])
        self.optimizers = block_optimizers(self.model, s, arithmetic.dtype, beside)

    def parts(self) -> dict[str, Stateful]:
        return {
            "model": self.model,
            "sharpness": nn.ParameterList([self.sharpness]),
            **{f"optimizer{i}": o for i, (o, _) in enumerate(self.optimizers)},
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

    def batch(self, rng: np.random.Generator) -> Crops:
        return self.pairs.batch(rng, self.settings.batch)

    def rate(self, step: int, done: float) -> float:
        return trapezoid(step, done, self.settings.warmup, self.settings.decay_share)

    def loss(self, batch: Crops, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        device, s = self.arithmetic.device, self.settings
        delay, codebook = self.semantic.delay, self.codebook
        # entry t of the latents describes frame t
        phones = batch.phones[:, : batch.phones.shape[1] - delay].flatten().to(device)
        with torch.no_grad():
            target = latents(self.teacher, batch.clean.to(device), delay, self.arithmetic)
            wanted = self.model.quantizer.nearest(target.flatten(0, 1), 0)
        samples, factors = batch.degraded.to(device), batch.factors.to(device)
        z = latents(self.model, samples, delay, self.arithmetic, self.warp, factors).flatten(0, 1)
        distance = z.square().sum(1, keepdim=True) - 2 * z @ codebook.T + codebook.square().sum(1)
        choice = -distance * (16 / self.spread * self.sharpness.exp())
        nearest = distance.detach().argmin(1)
        unit, recorded = (phones < 0).nonzero()[:, 0], (phones >= 0).nonzero()[:, 0]
        # a recording is pulled to the unit that it is nearest to
        pull = F.mse_loss(z, codebook[torch.where(phones < 0, wanted, nearest)])
        loss = s.pull_weight * pull
        values: dict[str, Tensor | float] = {"train/pull": pull}
        if len(unit):
            by_unit = F.cross_entropy(choice[unit], wanted[unit])
            loss = loss + by_unit * (len(unit) / len(phones))
            values["train/unit"] = by_unit
            values["train/same"] = (nearest[unit] == wanted[unit]).float().mean()
        if len(recorded):
            by_phone = phone_loss(choice[recorded], self.likelihood, phones[recorded])
            loss = loss + by_phone * (len(recorded) / len(phones))
            values["train/phone"] = by_phone
        return loss, values

    def validate(self, run: Run) -> Validation | None:
        self.model.eval()
        delay = self.semantic.delay
        found = validate(self.model, self.teacher, self.valid, delay)
        best = self.likelihood.argmax(1).cpu().numpy()
        for corpus, data in self.heard.items():
            for name, model in (("", self.model), (" before", self.teacher)):
                table = phone_counts(model, data, delay, 60)
                right = table[np.arange(len(table)), best].sum()
                found[f"phones of {corpus}{name}"] = float(right / table.sum())
        self.model.train()
        return described(found)


def train(settings: RobustSettings, out: str | Path, device: str = "auto") -> None:
    """Fine-tunes or resumes the tokenizer of ``settings.init`` in the folder ``out``."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    fit(RobustTrainer(settings, arithmetic), settings, out, arithmetic)
