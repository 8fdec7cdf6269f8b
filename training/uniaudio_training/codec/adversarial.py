"""The codec's finish: its decoder against discriminators of spectrogram bands.

Encoder and codebooks stay as they are, so codes, and any LM trained on them, stay valid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

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
    channels: int = 64
    judge_from: int = 0


Batch = tuple[Tensor, int]  # samples [B, N], RVQ stages


class BandedConv(nn.Module):
    """A convolution over three frames, each band by itself, as one batched matrix product.

    Weights have unit norm times a gain.
    """

    def __init__(self, bands: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(bands, 3 * inputs, outputs))
        self.gain = nn.Parameter(torch.ones(bands, 1, outputs))
        self.bias = nn.Parameter(torch.zeros(bands, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [bands, B, T, inputs] -> [bands, B, T, outputs]."""
        bands, b, t, inputs = x.shape
        x = nn.functional.pad(x, (0, 0, 1, 1))
        x = torch.cat((x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]), dim=-1).view(
            bands, b * t, 3 * inputs
        )
        weight = nn.functional.normalize(self.direction, dim=1) * self.gain
        return torch.baddbmm(self.bias.to(x.dtype), x, weight.to(x.dtype)).view(bands, b, t, -1)


class SpectrogramDiscriminator(nn.Module):
    """Judges each of ``bands`` bands of the complex STFT at one resolution.

    The bands are those of DAC's discriminator (arXiv 2306.06546), but with a band's bins as the inputs of
    matrix products instead of 2-D convolutions over them: a hundredth of the arithmetic, which is
    what makes the finish possible on a CPU.
    """

    hann: Tensor  # [window]

    def __init__(self, window: int, channels: int, bands: int = 8, layers: int = 3) -> None:
        super().__init__()
        self.window, self.bands = window, bands
        self.register_buffer("hann", torch.hann_window(window))
        inputs = 3 * (window // 2 // bands)
        self.layers = nn.ModuleList(
            BandedConv(bands, inputs if i == 0 else channels, channels) for i in range(layers)
        )
        self.score = BandedConv(bands, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x [B, N] -> (score map [bands, B, T, 1], features)."""
        spec = torch.stft(
            x.float(), self.window, self.window // 4, window=self.hann, return_complex=True
        )[:, 1:]
        y = torch.view_as_real(spec) * (8.0 / self.window)  # [B, bins, T, 2]
        power = y.square().sum(-1, keepdim=True) + 1e-8
        y = torch.cat(
            (3 * y * power**-0.25, 0.25 * power.log() + 1), dim=-1
        )  # magnitudes to the power of a half: quiet parts count too
        b, bins, t, parts = y.shape
        y = (
            y.view(b, self.bands, bins // self.bands, t, parts)
            .permute(1, 0, 3, 2, 4)
            .reshape(self.bands, b, t, -1)
        )
        features = []
        for layer in self.layers:
            y = nn.functional.leaky_relu(layer(y), 0.1)
            features.append(y)
        return self.score(y), features


class Discriminators(nn.Module):
    """One discriminator for each window length."""

    def __init__(self, channels: int, windows: tuple[int, ...] = (1024, 512, 256)) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrogramDiscriminator(w, channels) for w in windows)

    def forward(self, x: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        return [p(x) for p in self.parts]


def learn_to_judge(
    judge: Discriminators,
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    arithmetic: Arithmetic,
) -> Tensor:
    """One hinge-loss step of the discriminators; returns the loss, a discriminator's mean."""
    loss = real.new_zeros(())
    with arithmetic.autocast():
        for (real_score, _), (fake_score, _) in zip(judge(real), judge(fake), strict=True):
            right = (1 - real_score.float()).relu().mean()
            loss = loss + right + (1 + fake_score.float()).relu().mean()
    loss = loss / len(judge.parts)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(judge.parameters(), 10.0)
    optimizer.step()
    return loss.detach()


def judged(
    judge: Discriminators, real: Tensor, fake: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor]:
    """The decoder's losses: to be taken for real, and to have the real clip's features (relative
    L1).
    """
    fool = feature = real.new_zeros(())
    judge.requires_grad_(False)
    with arithmetic.autocast():
        for (_, want), (score, made) in zip(judge(real), judge(fake), strict=True):
            fool = fool - score.float().mean()
            for a, b in zip(want, made, strict=True):
                a = a.detach()
                feature = feature + (a - b).float().abs().mean() / a.float().abs().mean()
    judge.requires_grad_(True)
    return fool / len(judge.parts), feature / len(judge.parts)


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
            values["finish/judge"] = learn_to_judge(
                self.judge, self.judge_optimizer, samples, fake.detach(), self.arithmetic
            )
            fool, feature = judged(self.judge, samples, fake, self.arithmetic)
            values |= {"finish/fool": fool, "finish/feature": feature}
            loss = loss + fool + s.feature_weight * feature
        return loss, values


def train(settings: FinishSettings, out: str | Path, device: str = "auto") -> None:
    """Finishes, or resumes, the decoder of ``settings.init`` in the folder ``out``."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    fit(FinishTrainer(settings, arithmetic), settings, out, arithmetic)
