"""Trains the spectral codec with spectral losses; the first codebook also predicts the phones.

``adversarial.py`` then fine-tunes its decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.storage.config import CodecConfig

from ..checkpoints import write_codec_config
from ..loop import Run, Stateful, Trainer, fit, pick_device
from ..models.rvq import ResidualVQ
from ..models.spectral import SpectralCodec
from ..precision import Arithmetic, choose
from ..schedules import cosine, decay_groups
from ..settings import RunSettings
from .crops import NO_PHONE, CodecData
from .losses import SpectralLoss, waveform_loss


@dataclass(frozen=True)
class CodecSettings(RunSettings):
    """``unquantized``: steps before quantization begins, so that the codebooks are initialised with
    useful latents. ``few_stages``: the number of codebooks that the LM will model. ``weights``: the
    share of each task's clips.
    """

    codec: CodecConfig = field(default_factory=lambda: CodecConfig("spectral"))
    data: str = "data/corpus"
    weights: dict[str, float] = field(
        default_factory=lambda: {"tts": 0.7, "t2s": 0.15, "t2m": 0.15}
    )
    batch: int = 16
    frames: int = 64
    lr: float = 1e-3
    warmup: int = 200
    phone_weight: float = 0.3
    magnitude_weight: float = 8.0
    waveform_weight: float = 0.5
    commit_weight: float = 0.25
    unquantized: int = 300
    few_stages: int = 4


Batch = tuple[Tensor, Tensor, int]  # samples [B, N], phone ids [B, T], RVQ stages


def draw_stages(rng: np.random.Generator, total: int, few: int, few_share: float = 0.45) -> int:
    """The number of RVQ stages in a step.

    ``few`` (those that the LM models) with probability ``few_share``, a random number in a tenth of
    the steps (quantizer dropout), else all.
    """
    u = rng.random()
    if u >= 1 - few_share:
        return few
    return int(rng.integers(1, total + 1)) if u >= 0.9 - few_share else total


class CodecTrainer(Trainer[Batch]):
    """Trains encoder, quantizer and decoder."""

    def __init__(self, s: CodecSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic = s, arithmetic
        device, c = arithmetic.device, s.codec
        self.model = SpectralCodec(c).to(device).train()
        self.data = CodecData(s.data, c.frame_size, s.frames, s.weights)
        self.phone_head = nn.Linear(c.codebook_dim, max(1, len(self.data.phones))).to(device)
        self.spectral_loss = SpectralLoss(c.sample_rate).to(device)
        groups = [*decay_groups(self.model, 0.01), {"params": list(self.phone_head.parameters())}]
        self.optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=(0.8, 0.99))
        self.optimizers = [(self.optimizer, s.lr)]

    def parts(self) -> dict[str, Stateful]:
        return {
            "model": self.model,
            "averages": Averages(self.model.quantizer),
            "phone_head": self.phone_head,
            "optimizer": self.optimizer,
        }

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def begin(self, run: Run, resumed: bool) -> None:
        write_codec_config(self.settings.codec, run.folder)

    def batch(self, rng: np.random.Generator) -> Batch:
        s = self.settings
        samples, phones = self.data.batch(rng, s.batch)
        return samples, phones, draw_stages(rng, s.codec.num_codebooks, s.few_stages)

    def rate(self, step: int, done: float) -> float:
        return cosine(step, done, self.settings.warmup)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        s, stages = self.settings, batch[2]
        samples, phones = (x.to(self.arithmetic.device, non_blocking=True) for x in batch[:2])
        with self.arithmetic.autocast():
            z = self.model.latent(samples)
        if step < s.unquantized:
            quantized, first, commit = z.float(), z.float(), z.new_zeros(())
        else:
            quantized, first, _, commit = self.model.quantizer(z, stages)
        with self.arithmetic.autocast():
            y = self.model.synthesize(quantized)
        mel, magnitude = self.spectral_loss(samples, y)
        phone = phone_loss(self.phone_head, first, phones)
        wave = waveform_loss(samples, y)
        # few stages have no bits for exact phases
        full = step < s.unquantized or stages == s.codec.num_codebooks
        loss = (
            mel
            + s.magnitude_weight * magnitude
            + full * s.waveform_weight * wave
            + s.commit_weight * commit.float()
            + s.phone_weight * phone
        )
        return loss, {
            "train/mel": mel,
            "train/mag": magnitude,
            "train/wave": wave,
            "train/phone": phone,
            "train/commit": commit,
        }


class Averages:
    """The moving averages of the quantizer, as a part of the checkpoint."""

    def __init__(self, quantizer: ResidualVQ) -> None:
        self.quantizer = quantizer

    def state_dict(self) -> dict[str, Any]:
        return self.quantizer.average_state()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.quantizer.load_average_state(state)


def phone_loss(head: nn.Linear, first: Tensor, phones: Tensor) -> Tensor:
    """Cross-entropy of the phones [B, T] predicted from the vectors of the first stage [B, E, T].

    0 where no phone is known.
    """
    if not bool((phones != NO_PHONE).any()):
        return first.new_zeros(())
    logits = head(first.transpose(1, 2)).flatten(0, 1)
    return F.cross_entropy(logits, phones.flatten(), ignore_index=NO_PHONE)


def train(settings: CodecSettings, out: str | Path, device: str = "auto") -> None:
    """Trains or resumes a codec in the folder ``out``."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    fit(CodecTrainer(settings, arithmetic), settings, out, arithmetic)
