"""The codec's finish: its decoder against discriminators of spectrogram bands at several
resolutions.

Encoder and codebooks stay as they are, so codes, and any LM trained on them, stay valid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uniaudio_engine.storage.config import CodecConfig, from_dict

from ..run import Prefetch, Run, learning_rate, pick_device, set_learning_rate, settings_from
from .checkpoint import load_codec
from .data import CodecData
from .losses import SpectralLoss
from .train import draw_stages, write_config

_SETTINGS: dict[str, Any] = {
    "batch": 12,
    "frames": 40,
    "steps": 3000,
    "lr": 2e-4,
    "discriminator_lr": 3e-4,
    "warmup": 100,
    "seed": 1,
    "spectral_weight": 15.0,
    "magnitude_weight": 8.0,
    "feature_weight": 2.0,
    "few_stages": 4,
    "few_share": 0.45,
    "channels": 64,
    "judge_from": 0,
    "data": "data/corpus",
    "weights": {"tts": 0.8, "t2s": 0.1, "t2m": 0.1},
}


class BandedConv(nn.Module):
    """A convolution over three frames for each band by itself: one batched matrix product, weights
    of unit norm times a gain.
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
    """Judges each of ``bands`` bands of the complex STFT at one resolution; returns the score map
    and the features before it.

    The bands of DAC's discriminator (arXiv 2306.06546), but with a band's bins as the inputs of
    matrix products instead of 2-D convolutions over them: a hundredth of the arithmetic, which is
    what makes the finish possible on a CPU.
    """

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
    def __init__(self, channels: int, windows: tuple[int, ...] = (1024, 512, 256)) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrogramDiscriminator(w, channels) for w in windows)

    def forward(self, x: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        return [p(x) for p in self.parts]


def learn_to_judge(
    judge: Discriminators, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor, device: str
) -> Tensor:
    """One hinge-loss step of the discriminators; the loss, a discriminator's mean."""
    loss = real.new_zeros(())
    with torch.autocast(device, torch.bfloat16):
        for (real_score, _), (fake_score, _) in zip(judge(real), judge(fake), strict=True):
            loss = (
                loss
                + (1 - real_score.float()).relu().mean()
                + (1 + fake_score.float()).relu().mean()
            )
    loss = loss / len(judge.parts)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(judge.parameters(), 10.0)
    optimizer.step()
    return loss


def judged(judge: Discriminators, real: Tensor, fake: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """What the decoder is taught: to be taken for real, and to have the features of the real clip
    (relative L1).
    """
    fool = feature = real.new_zeros(())
    judge.requires_grad_(False)
    with torch.autocast(device, torch.bfloat16):
        for (_, want), (score, made) in zip(judge(real), judge(fake), strict=True):
            fool = fool - score.float().mean()
            for a, b in zip(want, made, strict=True):
                feature = (
                    feature
                    + (a.detach() - b).float().abs().mean() / a.detach().float().abs().mean()
                )
    judge.requires_grad_(True)
    return fool / len(judge.parts), feature / len(judge.parts)


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    """``config["init"]`` names the finished spectral run; its decoder goes on here, from
    ``judge_from`` steps on with discriminators.
    """
    s = settings_from(config, _SETTINGS, ("codec", "init"))
    device = pick_device(device_name)
    torch.manual_seed(s["seed"])
    model = load_codec(config["init"]).to(device)
    codec_config = model.config
    if "codec" in config and from_dict(CodecConfig, config["codec"], "codec") != codec_config:
        raise ValueError(
            f"codec: the config differs from that of {config['init']}; leave the section out"
        )
    for part in (model.encoder, model.quantizer):
        part.requires_grad_(False)
    judge = Discriminators(s["channels"]).to(device)
    data = CodecData(s["data"], codec_config.frame_size, s["frames"], s["weights"])
    loss_fn = SpectralLoss(codec_config.sample_rate).to(device)
    opt = torch.optim.AdamW(
        model.decoder.parameters(), lr=s["lr"], betas=(0.8, 0.99), weight_decay=0.01
    )
    opt_judge = torch.optim.AdamW(
        judge.parameters(), lr=s["discriminator_lr"], betas=(0.8, 0.99), weight_decay=0.01
    )
    run = Run(out, s["steps"])
    run.register(model=model, judge=judge, optimizer=opt, optimizer_judge=opt_judge)
    run.resume()
    write_config(codec_config, out)
    batches = Prefetch(
        lambda rng: (
            data.batch(rng, s["batch"])[0],
            draw_stages(rng, codec_config.num_codebooks, s["few_stages"], s["few_share"]),
        ),
        s["seed"],
        run.step,
    )
    model.eval()  # the codebooks must not move
    with run.progress() as bar:
        while run.step < s["steps"]:
            samples, stages = batches.next()
            samples = samples.to(device, non_blocking=True)
            for o, peak in ((opt, s["lr"]), (opt_judge, s["discriminator_lr"])):
                set_learning_rate(o, learning_rate(run.step, s["steps"], peak, s["warmup"]))
            z = model.quantizer.decode(
                model.encode(samples, stages)
            )  # in float32: the codes that the engine will see
            with torch.autocast(device.type, torch.bfloat16):
                fake = model.synthesize(z)
            mel, magnitude = loss_fn(samples, fake)
            loss = s["spectral_weight"] * (mel + s["magnitude_weight"] * magnitude)
            values = {"mel": mel, "mag": magnitude}
            if run.step >= s["judge_from"]:
                values["judge"] = learn_to_judge(
                    judge, opt_judge, samples, fake.detach(), device.type
                )
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
