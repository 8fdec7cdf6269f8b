"""The codec's finish: its decoder against multi-resolution spectrogram discriminators (UnivNet / EnCodec style).

Encoder and codebooks stay as they are, so codes, and any LM trained on them, stay valid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from uniaudio_engine.config import CodecConfig, from_dict

from ..run import Run, learning_rate, pick_device, set_learning_rate
from .checkpoint import load_codec
from .data import CodecData
from .losses import SpectralLoss
from .train import Prefetch, draw_stages, settings_from, write_config

_SETTINGS: dict[str, Any] = {
    "batch": 12, "frames": 40, "steps": 3000, "lr": 2e-4, "discriminator_lr": 3e-4, "warmup": 100, "seed": 1, "spectral_weight": 15.0,
    "magnitude_weight": 8.0, "feature_weight": 2.0, "few_stages": 4, "channels": 24, "judge_from": 0, "data": "data/corpus",
    "weights": {"tts": 0.8, "t2s": 0.1, "t2m": 0.1},
}  # fmt: skip


class SpectrogramDiscriminator(nn.Module):
    """2-D convolutions over the complex STFT at one resolution; returns the score map and the features before it."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("hann", torch.hann_window(window))
        sizes = ((2, 1), (channels, 2), (channels, 2), (channels, 2), (channels, 1))
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, channels, (7, 3), stride=(stride, 1), padding=(3, 1))) for inputs, stride in sizes
        )
        self.score = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x [B, N] -> (score map, features)."""
        spec = torch.stft(x.float(), self.window, self.window // 4, window=self.hann, return_complex=True)
        y = torch.stack((spec.real, spec.imag), 1) * (8.0 / self.window)
        y = y * (y.square().sum(1, keepdim=True) + 1e-8) ** -0.25  # magnitudes to the power of a half: quiet parts count too
        features = []
        for layer in self.layers:
            y = nn.functional.leaky_relu(layer(y), 0.1)
            features.append(y)
        return self.score(y), features


class Discriminators(nn.Module):
    def __init__(self, channels: int, windows: tuple[int, ...] = (1024, 512, 256)) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrogramDiscriminator(w, channels) for w in windows)

    def forward(self, x: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        return [p(x) for p in self.parts]


def learn_to_judge(judge: Discriminators, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor, device: str) -> Tensor:
    """One hinge-loss step of the discriminators; the loss, a discriminator's mean."""
    loss = real.new_zeros(())
    with torch.autocast(device, torch.bfloat16):
        for (real_score, _), (fake_score, _) in zip(judge(real), judge(fake), strict=True):
            loss = loss + (1 - real_score.float()).relu().mean() + (1 + fake_score.float()).relu().mean()
    loss = loss / len(judge.parts)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(judge.parameters(), 10.0)
    optimizer.step()
    return loss


def judged(judge: Discriminators, real: Tensor, fake: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """What the decoder is taught: to be taken for real, and to have the features of the real clip (relative L1)."""
    fool = feature = real.new_zeros(())
    judge.requires_grad_(False)
    with torch.autocast(device, torch.bfloat16):
        for (_, want), (score, made) in zip(judge(real), judge(fake), strict=True):
            fool = fool - score.float().mean()
            for a, b in zip(want, made, strict=True):
                feature = feature + (a.detach() - b).float().abs().mean() / a.detach().float().abs().mean()
    judge.requires_grad_(True)
    return fool / len(judge.parts), feature / len(judge.parts)


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    """``config["init"]`` names the finished spectral run; its decoder goes on here, from ``judge_from`` steps on with discriminators."""
    s = settings_from(config, _SETTINGS, ("codec", "init"))
    device = pick_device(device_name)
    torch.manual_seed(s["seed"])
    model = load_codec(config["init"]).to(device)
    codec_config = model.config
    if "codec" in config and from_dict(CodecConfig, config["codec"], "codec") != codec_config:
        raise ValueError(f"codec: the config differs from that of {config['init']}; leave the section out")
    for part in (model.encoder, model.quantizer):
        part.requires_grad_(False)
    judge = Discriminators(s["channels"]).to(device)
    data = CodecData(s["data"], codec_config.frame_size, s["frames"], s["weights"])
    loss_fn = SpectralLoss(codec_config.sample_rate).to(device)
    opt = torch.optim.AdamW(model.decoder.parameters(), lr=s["lr"], betas=(0.8, 0.99), weight_decay=0.01)
    opt_judge = torch.optim.AdamW(judge.parameters(), lr=s["discriminator_lr"], betas=(0.8, 0.99), weight_decay=0.01)
    run = Run(out, s["steps"])
    run.register(model=model, judge=judge, optimizer=opt, optimizer_judge=opt_judge)
    run.resume()
    write_config(codec_config, out)
    batches = Prefetch(lambda rng: (data.batch(rng, s["batch"])[0], draw_stages(rng, codec_config.num_codebooks, s["few_stages"])), s["seed"], run.step)
    model.eval()  # the codebooks must not move
    with run.progress() as bar:
        while True:
            samples, stages = batches.next()
            samples = samples.to(device, non_blocking=True)
            for o, peak in ((opt, s["lr"]), (opt_judge, s["discriminator_lr"])):
                set_learning_rate(o, learning_rate(run.step, s["steps"], peak, s["warmup"]))
            z = model.quantizer.decode(model.encode(samples, stages))  # in float32: the codes that the engine will see
            with torch.autocast(device.type, torch.bfloat16):
                fake = model.synthesize(z)
            mel, magnitude = loss_fn(samples, fake)
            loss = s["spectral_weight"] * (mel + s["magnitude_weight"] * magnitude)
            values = {"mel": mel, "mag": magnitude}
            if run.step >= s["judge_from"]:
                values["judge"] = learn_to_judge(judge, opt_judge, samples, fake.detach(), device.type)
                values["fool"], values["feature"] = judged(judge, samples, fake, device.type)
                loss = loss + values["fool"] + s["feature_weight"] * values["feature"]
            opt.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.decoder.parameters(), 100.0)
            opt.step()
            bar.update()
            run.log(bar, **{f"finish/{k}": float(v.detach()) for k, v in values.items()})
            if not run.tick():
                break
