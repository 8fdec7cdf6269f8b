"""Trains the spectral codec: spectral losses, a first codebook that knows the phones; see
``adversarial.py`` for the finish.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.storage.config import CodecConfig, from_dict, to_dict

from ..models.rvq import ResidualVQ
from ..models.spectral import SpectralCodec
from ..run import (
    Prefetch,
    Run,
    decay_groups,
    learning_rate,
    pick_device,
    set_learning_rate,
    settings_from,
)
from .data import NO_PHONE, CodecData
from .losses import SpectralLoss, waveform_loss

# "unquantized": steps before quantization begins, so that the codebooks start on latents that mean
# something
_SETTINGS: dict[str, Any] = {
    "batch": 16,
    "frames": 64,
    "steps": 20000,
    "lr": 1e-3,
    "warmup": 200,
    "seed": 0,
    "phone_weight": 0.3,
    "magnitude_weight": 8.0,
    "waveform_weight": 0.5,
    "commit_weight": 0.25,
    "unquantized": 300,
    "few_stages": 4,
    "data": "data/corpus",
    "weights": {"tts": 0.7, "t2s": 0.15, "t2m": 0.15},
}


def draw_stages(rng: np.random.Generator, total: int, few: int, few_share: float = 0.45) -> int:
    """How many RVQ stages a step uses: ``few`` (what the LM models), seldom any number (quantizer
    dropout), else all.
    """
    u = rng.random()
    return (
        few
        if u >= 1 - few_share
        else int(rng.integers(1, total + 1))
        if u >= 0.9 - few_share
        else total
    )


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    s = settings_from(config, _SETTINGS, ("codec",))
    device = pick_device(device_name)
    torch.manual_seed(s["seed"])
    codec_config = from_dict(CodecConfig, config["codec"], "codec")
    model = SpectralCodec(codec_config).to(device)
    data = CodecData(s["data"], codec_config.frame_size, s["frames"], s["weights"])
    phone_head = nn.Linear(codec_config.codebook_dim, max(1, len(data.phones))).to(device)
    loss_fn = SpectralLoss(codec_config.sample_rate).to(device)
    optimizer = torch.optim.AdamW(
        decay_groups(model, 0.01) + [{"params": list(phone_head.parameters())}],
        lr=s["lr"],
        betas=(0.8, 0.99),
    )
    run = Run(out, s["steps"])
    run.register(
        model=model, averages=_Averages(model.quantizer), phone_head=phone_head, optimizer=optimizer
    )
    run.resume()
    write_config(codec_config, out)
    batches = Prefetch(
        lambda rng: (
            *data.batch(rng, s["batch"]),
            draw_stages(rng, codec_config.num_codebooks, s["few_stages"]),
        ),
        s["seed"],
        run.step,
    )

    model.train()
    with run.progress() as bar:
        while run.step < s["steps"]:
            samples, phones, stages = batches.next()
            samples, phones = (
                samples.to(device, non_blocking=True),
                phones.to(device, non_blocking=True),
            )
            set_learning_rate(optimizer, learning_rate(run.step, s["steps"], s["lr"], s["warmup"]))
            with torch.autocast(device.type, torch.bfloat16):
                z = model.latent(samples)
            if run.step < s["unquantized"]:
                quantized, first, commit = z.float(), z.float(), z.new_zeros(())
            else:
                quantized, first, _, commit = model.quantizer(z, stages)
            with torch.autocast(device.type, torch.bfloat16):
                y = model.synthesize(quantized)
            mel, magnitude = loss_fn(samples, y)
            phone = phone_loss(phone_head, first, phones)
            wave = waveform_loss(samples, y)
            full = (
                run.step < s["unquantized"] or stages == codec_config.num_codebooks
            )  # few stages have no bits for exact phases
            loss = (
                mel
                + s["magnitude_weight"] * magnitude
                + full * s["waveform_weight"] * wave
                + s["commit_weight"] * commit.float()
                + s["phone_weight"] * phone
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            bar.update()
            run.log(
                bar,
                **{
                    "train/mel": float(mel.detach()),
                    "train/mag": float(magnitude.detach()),
                    "train/wave": float(wave.detach()),
                    "train/phone": float(phone.detach()),
                    "train/commit": float(commit.detach()),
                },
            )
            if not run.tick():
                break


class _Averages:
    """The quantizer's running averages as a part of the checkpoint."""

    def __init__(self, quantizer: ResidualVQ) -> None:
        self.state_dict, self.load_state_dict = (
            quantizer.average_state,
            quantizer.load_average_state,
        )


def phone_loss(head: nn.Linear, first: Tensor, phones: Tensor) -> Tensor:
    """Cross-entropy of the generator's phone [B, T] read from the first stage's vector [B, E, T]; 0
    where no phone is known.
    """
    if not bool((phones != NO_PHONE).any()):
        return first.new_zeros(())
    return F.cross_entropy(
        head(first.transpose(1, 2)).flatten(0, 1), phones.flatten(), ignore_index=NO_PHONE
    )


def write_config(config: CodecConfig, out: str | Path) -> None:
    """``codec.json``, which names the architecture of the run's checkpoint."""
    (Path(out) / "codec.json").write_text(json.dumps(to_dict(config), indent=2))
