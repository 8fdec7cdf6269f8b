"""Trains the filters of clean-up on speech that is mixed anew for each crop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from uniaudio_engine import Engine
from uniaudio_engine.storage.config import PostFilterConfig

from ..checkpoints import write_postfilter_config
from ..corpus.reading import CorpusError, Examples, open_corpus
from ..corpus.schema import SAMPLE_RATE
from ..loop import Run, Stateful, Trainer, Validation, fit, pick_device
from ..models.postfilter import PostFilter
from ..muon import block_optimizers
from ..precision import Arithmetic, choose
from ..schedules import trapezoid
from ..semantic.augment import VoiceWarp
from ..settings import RunSettings, require
from .mixtures import Mixtures, NoisySpeech, TwoVoices
from .voices import learn_voices
from .weights import started

_EXPONENT = 0.3  # of magnitudes in the loss: soft sounds count, too
_UNHEARD = 64  # mixtures of a validation
_UNCHANGED = 0.25  # share of voices whose formants stay


@dataclass(frozen=True)
class PostFilterSettings(RunSettings):
    """``init``: a run or model folder whose filter to start from. ``speech``: corpora of clean speech;
    ``noises``: corpora of sounds that are mixed over it at ``snr`` dB (lowest and highest). ``rooms``:
    share of crops in a simulated room. ``softened``: how many times worse a sound that was taken
    away is than one that was left.

    A filter that hears a voice (``postfilter`` with ``voice`` above 0) learns from two speakers at
    once. ``model``: the folder whose codec the voices go through (the bundled one).
    ``voice_seconds``: lengths of the voices, shortest and longest. ``voice_steps``: steps in which it
    learns to tell voices apart, before all others. ``formants``: the largest natural logarithm of a
    factor of formants, of both speakers. ``alone``, ``absent`` and ``noisy``: shares of mixtures
    without a second speaker, with the second one alone, and with noise. ``snr_weight``: of the
    signal-to-noise ratio in dB of each crop, which learns to separate sooner.
    """

    postfilter: PostFilterConfig = field(default_factory=PostFilterConfig)
    init: str = ""
    speech: tuple[str, ...] = ("data/aligned",)
    noises: tuple[str, ...] = ()
    snr: tuple[float, float] = (-5.0, 20.0)
    rooms: float = 0.3
    steps: int = 4000
    batch: int = 16
    seconds: float = 2.0
    lr: float = 2e-3
    matrix_lr: float = 2e-2
    warmup: int = 50
    decay_share: float = 0.5
    weight_decay: float = 0.05
    softened: float = 2.0
    complex_weight: float = 0.3
    model: str = ""
    voice_seconds: tuple[float, float] = (1.5, 3.0)
    voice_steps: int = 0
    snr_weight: float = 0.0
    formants: float = 0.15
    alone: float = 0.08
    absent: float = 0.04
    noisy: float = 0.3

    def check(self) -> None:
        super().check()
        self.postfilter.check()
        require(self.batch >= 1, "batch", "1 or more", self.batch)
        require(self.seconds > 0, "seconds", "above 0", self.seconds)
        require(bool(self.speech), "speech", "corpora", self.speech)
        require(self.snr[0] <= self.snr[1], "snr", "lowest and highest", self.snr)
        shortest, longest = self.voice_seconds
        require(0 < shortest <= longest, "voice_seconds", "above 0", self.voice_seconds)
        if not self.postfilter.voice:
            require(not self.voice_steps, "voice_steps", "0 without a voice", self.voice_steps)
        for name in ("rooms", "alone", "absent", "noisy"):
            require(0 <= getattr(self, name) <= 1, name, "0 to 1", getattr(self, name))


@dataclass(frozen=True)
class Batch:
    """float32 [B, N] each, at the level that the filter hears; ``voice`` [B, M], of a filter that
    hears one. ``formants`` [B, 2]: factors of the wanted voice's formants, and of all others'.
    """

    source: Tensor
    target: Tensor
    voice: Tensor | None = None
    formants: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        moved = (None if x is None else x.to(device) for x in (self.voice, self.formants))
        return Batch(self.source.to(device), self.target.to(device), *moved)


def _split(folders: Sequence[str], task: str, split: str) -> list[Examples]:
    """The examples of those of the corpora that have them. Raises CorpusError where none does."""
    found = [c[task, split] for c in map(open_corpus, folders) if split in c.splits(task)]
    if folders and not found:
        raise CorpusError(f"{', '.join(folders)}: no {task} of the split {split}")
    return found


@dataclass(frozen=True)
class Pair:
    """What the losses need of a source's and a target's spectrum: their magnitudes, and the real part of
    one times the other's conjugate, [B, T, F] each. Gains times the source then need no complex numbers.
    """

    source: Tensor
    target: Tensor
    product: Tensor

    @classmethod
    def of(cls, source: Tensor, target: Tensor) -> Pair:
        a, b = map(torch.view_as_real, (source, target))
        return cls(a.square().sum(-1).sqrt(), b.square().sum(-1).sqrt(), (a * b).sum(-1))

    def error(self, gains: Tensor) -> Tensor:
        """The squared magnitude of gains times the source minus the target."""
        kept = gains * self.source
        return (kept.square() - 2 * gains * self.product + self.target.square()).clamp(min=0)


def loss_of(gains: Tensor, pair: Pair, softened: float, complex_weight: float) -> Tensor:
    """Gains [B, T, F] -> the mean squared difference of compressed magnitudes, in which what is
    missing counts ``softened`` times, and of compressed complex values.
    """
    heard, wanted = (x.clamp(min=1e-6) for x in (pair.source, pair.target))
    size, full = (gains * heard).clamp(min=1e-6).pow(_EXPONENT), wanted.pow(_EXPONENT)
    magnitudes = ((size - full).square() * torch.where(size < full, softened, 1.0)).mean()
    # The squared difference of two values at an angle, whose cosine is that of source and target.
    apart = size.square() + full.square() - 2 * size * full * (pair.product / (heard * wanted))
    return magnitudes + complex_weight * apart.mean()


def snr_loss(gains: Tensor, pair: Pair) -> Tensor:
    """Gains [B, T, F] -> the mean over the batch of the error's energy over the target's, in dB.

    A tenth of the source's energy is added to the target's and a hundredth to the error's, so that
    silence can be a target without outweighing all else.
    """
    error, wanted, heard = (
        x.sum((1, 2)) for x in (pair.error(gains), pair.target.square(), pair.source.square())
    )
    ratio = (error + 0.01 * heard) / (wanted + 0.1 * heard).clamp(min=1e-9)
    return 10 * ratio.clamp(min=1e-9).log10().mean()


class PostFilterTrainer(Trainer[Batch]):
    """The filter hears crops that no other step has."""

    def __init__(self, s: PostFilterSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic = s, arithmetic
        self.model = PostFilter(s.postfilter)
        if s.init:
            self.model.load_state_dict(self.model.state_dict() | started(s.init, s.postfilter))
        self.model.to(arithmetic.device).train()
        self.warp = VoiceWarp(s.postfilter.bins).to(arithmetic.device)
        self.mixtures = self._mixtures("train")
        self.unheard: Mixtures | None = None
        with suppress(CorpusError):  # no such split, or of fewer than two voices
            self.unheard = self._mixtures("valid")
        self.optimizers = block_optimizers(self.model, s, arithmetic.dtype)

    def _mixtures(self, split: str) -> Mixtures:
        s = self.settings
        speech, sounds = _split(s.speech, "tts", split), _split(s.noises, "t2s", "train")
        if not s.postfilter.voice:
            return NoisySpeech(speech, sounds, s.snr, s.rooms)
        return TwoVoices(speech, sounds, s.snr, self.engine, s.alone, s.absent, s.noisy)

    @cached_property
    def engine(self) -> Engine:
        return Engine.from_pretrained(self.settings.model or None, threads=1)

    def parts(self) -> dict[str, Stateful]:
        each = {f"optimizer{i}": o for i, (o, _) in enumerate(self.optimizers)}
        return {"model": self.model, **each}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def begin(self, run: Run, resumed: bool) -> None:
        write_postfilter_config(self.settings.postfilter, run.folder)
        s = self.settings
        if s.voice_steps and not resumed and isinstance(self.mixtures, TwoVoices):
            share = learn_voices(
                self.model,
                self.mixtures,
                s.voice_steps,
                s.seed,
                self.arithmetic,
                lambda: run.stopping,
            )
            print(f"{share:.2f} of the voices found")
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        print(f"{millions:.2f} M parameters, {self.arithmetic.device}")

    def batch(self, rng: np.random.Generator) -> Batch:
        s = self.settings
        n = round(s.seconds * SAMPLE_RATE)
        m = round(rng.uniform(*s.voice_seconds) * SAMPLE_RATE) if s.postfilter.voice else 0
        drawn = [self.mixtures.draw(rng, n, m) for _ in range(s.batch)]
        source, target, voice = (
            torch.from_numpy(np.stack([getattr(d, name) for d in drawn]))
            for name in ("source", "target", "voice")
        )
        if not m:
            return Batch(source, target)
        if not s.formants:
            return Batch(source, target, voice)
        factors = np.exp(rng.uniform(-s.formants, s.formants, (s.batch, 2)))
        factors[rng.random(s.batch) < _UNCHANGED] = 1.0
        return Batch(source, target, voice, torch.from_numpy(factors.astype(np.float32)))

    def rate(self, step: int, done: float) -> float:
        return trapezoid(step, done, self.settings.warmup, self.settings.decay_share)

    def _loss(self, batch: Batch) -> Tensor:
        source, target = map(self.model.spectrum, (batch.source, batch.target))
        voice = None if batch.voice is None else self.model.spectrum(batch.voice)
        if batch.formants is not None and voice is not None:
            mine, others = batch.formants.unbind(1)
            rest = self.warp.with_formants(source - target, others)
            target, voice = (self.warp.with_formants(x, mine) for x in (target, voice))
            source = target + rest
        with self.arithmetic.autocast():
            vector = None
            if voice is not None:
                vector = self.model.vector(voice)
            gains = self.model.gains(source, vector)
        s = self.settings
        pair = Pair.of(source, target)
        loss = loss_of(gains, pair, s.softened, s.complex_weight)
        if s.snr_weight:
            loss = loss + s.snr_weight * snr_loss(gains, pair)
        return loss

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss = self._loss(batch.to(self.arithmetic.device))
        return loss, {"train/loss": loss}

    @torch.no_grad()
    def validate(self, run: Run) -> Validation:
        """The loss of unheard speech, the same at each validation."""
        if self.unheard is None:
            return Validation({}, "")
        self.model.eval()
        rng, heard, losses = np.random.default_rng(1), 3 * SAMPLE_RATE, []
        for _ in range(_UNHEARD):
            drawn = self.unheard.draw(rng, 4 * SAMPLE_RATE, heard)
            source, target, voice = (
                torch.from_numpy(x)[None] for x in (drawn.source, drawn.target, drawn.voice)
            )
            one = Batch(source, target, voice if self.settings.postfilter.voice else None)
            losses.append(float(self._loss(one.to(self.arithmetic.device))))
        self.model.train()
        mean = float(np.mean(losses))
        return Validation({"valid/loss": mean}, f"valid {mean:.5f}")


def train(settings: PostFilterSettings, out: str | Path, device: str = "auto") -> None:
    """Trains or resumes a post-filter in the folder ``out``."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    fit(PostFilterTrainer(settings, arithmetic), settings, out, arithmetic)
