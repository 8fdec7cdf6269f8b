"""The codec's finish: its decoder against discriminators of spectrograms.

Encoder and codebooks stay as they are, so codes, and any LM trained on them, stay valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from uniaudio_engine.storage.config import CodecConfig, ConfigError

from ..checkpoints import load_codec, write_codec_config
from ..loop import Run, Stateful, Trainer, fit, pick_device
from ..precision import Arithmetic, choose
from ..schedules import cosine
from ..settings import RunSettings
from .crops import CodecData
from .losses import SpectralLoss
from .train_codec import draw_stages


@dataclass(frozen=True)
class FinishSettings(RunSettings):
    """``init``: the spectral run whose decoder is trained on. ``judge_from``: the first step with
    discriminators. ``codec``: if given, must be the run's.
    """

    init: str = "runs/codec"
    codec: CodecConfig | None = None
    data: str = "data/corpus"
    weights: dict[str, float] = field(default_factory=lambda: {"tts": 0.8, "t2s": 0.1, "t2m": 0.1})
    steps: int = 3000
    seed: int = 1
    batch: int = 12
    frames: int = 40
    lr: float = 2e-4
    discriminator_lr: float = 3e-4
    warmup: int = 100
    spectral_weight: float = 15.0
    magnitude_weight: float = 8.0
    feature_weight: float = 2.0
    few_stages: int = 4
    few_share: float = 0.45
    channels: int = 16
    judge_from: int = 0


Batch = tuple[Tensor, int]  # samples [B, N], RVQ stages


class SpectrogramDiscriminator(nn.Module):
    """Judges the complex STFT at one resolution by 2-D convolutions (Encodec, arXiv 2210.13438).

    Strides halve the frequencies four times, dilations widen what is heard in time.  A bin's
    frequency is an input too, since voices and noise differ by it.  Everything is channels-last:
    there bfloat16 convolutions are several times faster on a CPU.
    """

    hann: Tensor  # [window]

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("hann", torch.hann_window(window))

        def conv(
            inputs: int, outputs: int, kernel: tuple[int, int], dilation: int = 1
        ) -> nn.Conv2d:
            return nn.Conv2d(
                inputs,
                outputs,
                kernel,
                stride=(1, 2 if kernel[1] > 3 else 1),
                padding=(dilation * (kernel[0] // 2), kernel[1] // 2),
                dilation=(dilation, 1),
            )

        self.layers = nn.ModuleList(
            weight_norm(c)
            for c in (
                conv(4, channels, (3, 9)),
                *(conv(channels, channels, (3, 9), dilation) for dilation in (1, 2, 4)),
                conv(channels, channels, (3, 3)),
            )
        )
        self.score = weight_norm(conv(channels, 1, (3, 3)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x [B, N] -> (score map [B, 1, T, bins], features, each [B, channels, T, bins])."""
        spec = torch.stft(
            x.float(), self.window, self.window // 4, window=self.hann, return_complex=True
        )[:, 1:]
        y = torch.view_as_real(spec.transpose(1, 2)) * (8.0 / self.window)  # [B, T, bins, 2]
        power = y.square().sum(-1, keepdim=True) + 1e-8
        where = torch.linspace(-1, 1, y.shape[2], device=y.device)[:, None].expand(*power.shape)
        # magnitudes to the power of a half: quiet parts count too
        y = torch.cat((3 * y * power**-0.25, 0.25 * power.log() + 1, where), dim=-1)
        y = y.permute(0, 3, 1, 2)
        features = []
        for layer in self.layers:
            y = nn.functional.leaky_relu(layer(y), 0.1)
            features.append(y)
        return self.score(y), features


class Discriminators(nn.Module):
    """One discriminator for each window length."""

    def __init__(self, channels: int, windows: Sequence[int] = (1024, 512, 256)) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrogramDiscriminator(w, channels) for w in windows)

    def all(self) -> list[SpectrogramDiscriminator]:
        return cast("list[SpectrogramDiscriminator]", list(self.parts))

    def some(self, count: int, rng: np.random.Generator) -> list[SpectrogramDiscriminator]:
        """``count`` of them, drawn; all where ``count`` is 0."""
        parts = self.all()
        return [parts[i] for i in rng.permutation(len(parts))[:count]] if count else parts


@dataclass(frozen=True)
class Verdict:
    """What a round of :func:`contest` found: losses, means over the discriminators.

    ``judge``: the discriminators' hinge loss. ``fool``: the decoder's, to be taken for real.
    ``feature``: relative L1 between the features of the real clip and of the copy. ``gradient``
    [B, N]: of ``fool + feature_weight * feature`` with respect to the copy.
    """

    judge: Tensor
    fool: Tensor
    feature: Tensor
    gradient: Tensor


def contest(
    judge: Sequence[SpectrogramDiscriminator],
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    feature_weight: float,
    arithmetic: Arithmetic,
) -> Verdict:
    """The step of the discriminators in ``judge`` and the decoder's gradient, both from one pass over
    real [B, N] and fake [B, N]."""
    copy = fake.detach().requires_grad_(True)
    hinge = fool = feature = real.new_zeros(())
    with arithmetic.autocast():
        for (yes, want), (no, made) in ((part(real), part(copy)) for part in judge):
            hinge = hinge + (1 - yes.float()).relu().mean() + (1 + no.float()).relu().mean()
            fool = fool - no.float().mean()
            for a, b in zip(want, made, strict=True):
                a = a.detach()
                feature = feature + (a - b).abs().mean(dtype=torch.float32) / a.abs().mean(
                    dtype=torch.float32
                )
    n = len(judge)
    hinge, fool, feature = hinge / n, fool / n, feature / n
    parameters = [p for part in judge for p in part.parameters()]
    gradients = torch.autograd.grad(hinge, parameters, retain_graph=True)
    (gradient,) = torch.autograd.grad(fool + feature_weight * feature, [copy])
    for parameter, its in zip(parameters, gradients, strict=True):
        parameter.grad = its
    nn.utils.clip_grad_norm_(parameters, 10.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Verdict(hinge.detach(), fool.detach(), feature.detach(), gradient)


class FinishTrainer(Trainer[Batch]):
    """The decoder; the discriminators take their own step inside the loss."""

    clip = 100.0

    def __init__(self, s: FinishSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic = s, arithmetic
        device = arithmetic.device
        self.model = load_codec(s.init).to(device)  # in evaluation mode: codebooks must not move
        self.config = self.model.config
        if s.codec is not None and s.codec != self.config:
            raise ConfigError(f"codec: the config differs from that of {s.init}; leave it out")
        for part in (self.model.encoder, self.model.quantizer):
            part.requires_grad_(False)
        self.judge = Discriminators(s.channels).to(device)
        self.data = CodecData(s.data, self.config.frame_size, s.frames, s.weights)
        self.spectral_loss = SpectralLoss(self.config.sample_rate).to(device)
        adamw = torch.optim.AdamW
        self.optimizer, self.judge_optimizer = (
            adamw(part.parameters(), lr=lr, betas=(0.8, 0.99), weight_decay=0.01)
            for part, lr in ((self.model.decoder, s.lr), (self.judge, s.discriminator_lr))
        )
        self.optimizers = [(self.optimizer, s.lr)]
        self.inner_optimizers = [(self.judge_optimizer, s.discriminator_lr)]

    def parts(self) -> dict[str, Stateful]:
        return {
            "model": self.model,
            "judge": self.judge,
            "optimizer": self.optimizer,
            "optimizer_judge": self.judge_optimizer,
        }

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.decoder.parameters())

    def begin(self, run: Run, resumed: bool) -> None:
        write_codec_config(self.config, run.folder)

    def batch(self, rng: np.random.Generator) -> Batch:
        s = self.settings
        samples, _ = self.data.batch(rng, s.batch)
        return samples, draw_stages(rng, self.config.num_codebooks, s.few_stages, s.few_share)

    def rate(self, step: int, done: float) -> float:
        return cosine(step, done, self.settings.warmup)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        s, stages = self.settings, batch[1]
        samples = batch[0].to(self.arithmetic.device, non_blocking=True)
        # in float32, for the codes that the engine will see
        z = self.model.quantizer.decode(self.model.encode(samples, stages))
        with self.arithmetic.autocast():
            fake = self.model.synthesize(z)
        mel, magnitude = self.spectral_loss(samples, fake)
        loss = s.spectral_weight * (mel + s.magnitude_weight * magnitude)
        values: dict[str, Tensor | float] = {"finish/mel": mel, "finish/mag": magnitude}
        if step >= s.judge_from:
            found = contest(
                self.judge.all(),
                self.judge_optimizer,
                samples,
                fake,
                s.feature_weight,
                self.arithmetic,
            )
            values |= {
                "finish/judge": found.judge,
                "finish/fool": found.fool,
                "finish/feature": found.feature,
            }
            loss = loss + (fake * found.gradient).sum()
        return loss, values


def train(settings: FinishSettings, out: str | Path, device: str = "auto") -> None:
    """Finishes, or resumes, the decoder of ``settings.init`` in the folder ``out``."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    fit(FinishTrainer(settings, arithmetic), settings, out, arithmetic)
