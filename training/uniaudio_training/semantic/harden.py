"""Teaches a semantic tokenizer noise and rooms after the fact: what it says of clean speech, it
learns to say of the same speech in noise (down to -5 dB), among people and in echoing rooms. Its
codebook stays, so that units made before stay valid.

Distillation onto the clean units follows HuBERT-like denoising targets (WavLM, arXiv 2110.13900,
section 3.1).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.storage.config import to_dict

from ..corpus import degrade
from ..models.spectral import SpectralCodec
from ..run import Prefetch, Run, decay_groups, pick_device, set_learning_rate, settings_from
from .augment import place, room
from .checkpoint import load_semantic
from .data import SemanticData
from .train import schedule, units

# "noisy", "reverberant": shares of the crops that get noise, and a room; both may happen
_SETTINGS: dict[str, Any] = {
    "init": "runs/semantic",
    "data": "data/corpus",
    "batch": 16,
    "frames": 112,
    "steps": 6000,
    "lr": 7e-4,
    "warmup": 50,
    "decay_share": 0.6,
    "seed": 0,
    "noisy": 0.7,
    "reverberant": 0.35,
    "pull_weight": 0.25,
    "validate_every": 500,
}


class Degraded:
    """Crops of speech, each clean and as the corpus' se, tse and sd would have it."""

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

    def worse(self, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
        """x [N] in a room, in noise, in both or in neither."""
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
        """[2, size, N]: clean, and the same worse; both at the corpus' levels, louder and softer."""
        rows = []
        for _ in range(size):
            x = self.data.crop(rng)[0] * np.float32(10 ** (rng.uniform(-9, 3) / 20))
            rows.append((x, self.worse(rng, x)))
        return torch.from_numpy(np.stack(rows).transpose(1, 0, 2).astype(np.float32))


def latents(model: SpectralCodec, samples: Tensor, delay: int) -> Tensor:
    """samples [B, N] -> [B, T - delay, E], as the engine makes them."""
    with torch.autocast(samples.device.type, torch.bfloat16):
        return model.encoder(model.features(samples))[:, delay:].float()


def validate(
    model: SpectralCodec, teacher: SpectralCodec, degraded: Degraded, delay: int, clips: int = 60
) -> dict[str, float]:
    """Share of frames whose unit is the teacher's on clean speech: heard clean, in white noise of
    10 and 0 dB, among people at 5 dB, in a room.
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


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    s = settings_from(config, _SETTINGS, ())
    device = pick_device(device_name)
    torch.manual_seed(s["seed"])
    semantic, teacher = load_semantic(s["init"])
    model = copy.deepcopy(teacher).to(device).train()
    teacher.to(device).requires_grad_(False)
    frame, delay = semantic.encoder.frame_size, semantic.delay
    codebook = model.quantizer.codebooks[0]
    sharpness = nn.Parameter(
        torch.zeros((), device=device)
    )  # of the choice among codewords, learned
    spread = codebook.var(0).sum()
    optimizer = torch.optim.AdamW(
        [*decay_groups(model, 0.01), {"params": [sharpness], "weight_decay": 0.0}],
        lr=s["lr"],
        betas=(0.9, 0.98),
    )
    data = SemanticData(s["data"], frame, s["frames"])
    degraded = Degraded(data, s["noisy"], s["reverberant"])
    valid = Degraded(SemanticData(s["data"], frame, s["frames"], "valid"), 1, 1)
    run = Run(out, s["steps"])
    run.register(model=model, sharpness=nn.ParameterList([sharpness]), optimizer=optimizer)
    run.resume()
    (Path(out) / "semantic.json").write_text(json.dumps(to_dict(semantic), indent=2))
    batches = Prefetch(lambda rng: degraded.batch(rng, s["batch"]), s["seed"], run.step)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {data.hours:.1f} h "
        f"of speech, {device}"
    )
    with run.progress() as bar:
        while run.step < s["steps"]:
            clean, worse = batches.next().to(device)
            set_learning_rate(
                optimizer, s["lr"] * schedule(run.step, s["steps"], s["warmup"], s["decay_share"])
            )
            with torch.no_grad():
                wanted = model.quantizer.nearest(latents(teacher, clean, delay).flatten(0, 1), 0)
            z = latents(model, worse, delay).flatten(0, 1)
            distance = (
                z.square().sum(1, keepdim=True) - 2 * z @ codebook.T + codebook.square().sum(1)
            )
            choice = F.cross_entropy(-distance * (16 / spread * sharpness.exp()), wanted)
            pull = F.mse_loss(z, codebook[wanted])
            (choice + s["pull_weight"] * pull).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.update()
            same = (distance.detach().argmin(1) == wanted).float().mean()
            run.log(
                bar,
                **{
                    "train/unit": float(choice.detach()),
                    "train/pull": float(pull.detach()),
                    "train/same": float(same),
                },
            )
            going = run.tick()
            if run.step % s["validate_every"] == 0 or not going:
                report = validate(model.eval(), teacher, valid, delay)
                model.train()
                for name, v in report.items():
                    run.writer.add_scalar(f"valid/{name}", v, run.step)
                bar.write(
                    f"step {run.step}: valid " + " ".join(f"{k} {v:.3f}" for k, v in report.items())
                )
            if not going:
                break
