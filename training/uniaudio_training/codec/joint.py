"""The codec as a whole on any mixture of corpora: spectral losses first, then discriminators as well.

Goes on from a model folder or a run (``init``), whose networks may be smaller than the new ones:
:func:`grown` puts the old weights into the new shapes so that the first step's output is nearly
the old one.  Every clip is heard at a level drawn anew, and the losses compare sounds brought back
to one level, so that quiet clips count as much as loud ones.  ``encoder_until`` ends the training
of encoder and codebooks: from then on codes stay, and only the decoder learns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uniaudio_engine.storage.config import CodecConfig, from_dict, to_dict
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.tensors import from_bfloat16
from uniaudio_engine.text.phones import PHONES

from .. import packed
from ..corpus.reading import Examples, open_corpus
from ..models.spectral import SpectralCodec
from ..run import Prefetch, Run, decay_groups, pick_device, set_learning_rate, settings_from
from .adversarial import Discriminators, judged, learn_to_judge
from .checkpoint import load_codec
from .data import NO_PHONE
from .losses import SpectralLoss, waveform_loss
from .train import _Averages, draw_stages, phone_loss, write_config

LEVEL_DB = -23.0  # what corpora are made at; the losses compare at this level
_SPREAD_DB = 6.0  # of the levels of most clips
_RANGE_DB = (-60.0, -3.0)  # of those of the others, evenly

_SETTINGS: dict[str, Any] = {
    "batch": 12, "frames": 64, "steps": 20000, "lr": 5e-4, "discriminator_lr": 3e-4, "warmup": 200, "fall": 2000, "seed": 0,
    "phone_weight": 0.3, "magnitude_weight": 8.0, "waveform_weight": 0.5, "commit_weight": 0.25,
    "judge_from": 1200, "judge_warmup": 300, "spectral_weight": 15.0, "feature_weight": 2.0, "channels": 64, "windows": [1024, 512, 256], "judged_clips": 6,
    "encoder_until": 1000000, "few_stages": 4, "few_share": 0.55, "wide_share": 0.2, "average": 0.999, "save_minutes": 4.0, "minutes": 0.0, "sources": [],
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Clips of one task of one corpus, drawn with a share of ``weight``.  ``speech`` clips may be
    mixed with what is none, and echoed."""

    data: str
    task: str
    weight: float
    speech: bool = True
    roles: tuple[str, ...] = ("target",)


def read_sources(rows: Sequence[Mapping[str, Any]]) -> list[Source]:
    """Raises ValueError for an unknown key or a missing one."""
    known = {f.name for f in fields(Source)}
    found = []
    for row in rows:
        if unknown := set(row) - known:
            raise ValueError(
                f"sources: unknown key {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}"
            )
        if missing := {"data", "task", "weight"} - set(row):
            raise ValueError(f"sources: {sorted(missing)[0]} is missing in {dict(row)}")
        found.append(Source(**{**row, "roles": tuple(row.get("roles", ("target",)))}))
    if not found:
        raise ValueError(
            "sources: expected at least one, such as {data: data/real, task: tts, weight: 1}"
        )
    return found


@dataclass
class Mixture:
    """Draws batches of crops from sources by weight, at many levels."""

    sources: list[Source]
    frame_size: int
    frames: int
    wide_share: float
    split: str = "train"
    examples: list[Examples] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.examples = [open_corpus(s.data)[s.task, self.split] for s in self.sources]
        weights = np.array([s.weight for s in self.sources])
        self.shares = weights / weights.sum()
        self.phones = sorted({p.rstrip("012") for p in PHONES})
        self._index = {p: i for i, p in enumerate(self.phones)}
        self._sounds = [i for i, s in enumerate(self.sources) if not s.speech]

    def crop(self, rng: np.random.Generator, source: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 [frames * frame_size] and phone ids [frames] (NO_PHONE where unknown)."""
        n = self.frames * self.frame_size
        examples, spec = self.examples[source], self.sources[source]
        example = examples[int(rng.integers(len(examples)))]
        roles = [r for r in spec.roles if r in example.roles]
        role = roles[int(rng.integers(len(roles)))]
        track, pcm = example.track(role), example.pcm(role)
        start = int(rng.integers(-self.frame_size, max(1, len(pcm) - n // 2)))
        out = np.zeros(n, np.float32)
        lo, hi = max(start, 0), min(start + n, len(pcm))
        out[lo - start : hi - start] = pcm[lo:hi] / np.float32(32767)
        phones = np.full(self.frames, NO_PHONE, np.int64)
        if track.phones:
            ends = np.array([p.end for p in track.phones])
            ids = np.array([self._index[p.phone.rstrip("012")] for p in track.phones])
            centre = (start + (np.arange(self.frames) + 0.5) * self.frame_size) / 16000
            at = np.searchsorted(ends, centre)
            inside = (centre >= 0) & (at < len(ends))
            phones[inside] = ids[at[inside]]
        return out, phones

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """samples [B, N] in [-1, 1], the gains [B, 1] that bring them back to one level, phone ids
        [B, T]."""
        rows = []
        for source in rng.choice(len(self.sources), size, p=self.shares):
            x, phones = self.crop(rng, source)
            if self.sources[source].speech:
                if self._sounds and rng.random() < 0.15:
                    other, _ = self.crop(rng, self._sounds[int(rng.integers(len(self._sounds)))])
                    gain = 10 ** (-rng.uniform(0, 25) / 20)
                    x = x + other * gain * np.sqrt(
                        (x**2).mean() / ((other**2).mean() + 1e-9), dtype=np.float32
                    )
                if rng.random() < 0.07:
                    decay = np.exp(-np.arange(3200) / rng.uniform(300, 1500))
                    decay *= rng.standard_normal(3200) * rng.uniform(0.005, 0.03)
                    decay[0] = 1.0
                    n = len(x)
                    spectrum = np.fft.rfft(x, 2 * n) * np.fft.rfft(decay, 2 * n)
                    x = np.fft.irfft(spectrum)[:n]
            wide = rng.random() < self.wide_share
            level = (
                rng.uniform(*_RANGE_DB) if wide else LEVEL_DB + _SPREAD_DB * rng.standard_normal()
            )
            gain = 10 ** ((level - LEVEL_DB) / 20)
            gain = min(gain, 0.99 / max(float(np.abs(x).max()), 1e-4))
            rows.append((x * gain, [1 / gain], phones))
        x, gains, phones = (np.stack([r[i] for r in rows]) for i in range(3))
        return (
            torch.from_numpy(x.astype(np.float32)),
            torch.from_numpy(gains.astype(np.float32)),
            torch.from_numpy(phones),
        )


def _grow(new: Tensor, old: Tensor, inputs: bool) -> Tensor:
    """``old`` in the first places of ``new``; where ``inputs``, what reads new channels is zero."""
    out = new.clone()
    if inputs:
        out[: old.shape[0], old.shape[1] :] = 0
    out[tuple(slice(0, n) for n in old.shape)] = old
    return out


def grown(model: SpectralCodec, old: Mapping[str, Tensor]) -> None:
    """Puts the weights of a smaller codec of the same windows into ``model``.

    New channels are written by their fresh weights and read by nobody at first; gains of norms are
    scaled by the root of the width's ratio, since channels near zero shrink the deviation that a
    norm divides by; new blocks change nothing at first.  Raises ValueError where a shape shrinks.
    """
    state = model.state_dict()
    for name, value in state.items():
        before = old.get(name)
        if before is None:
            if name.endswith("down.weight"):  # of a new block
                value = value * 0
        elif before.shape == value.shape:
            value = before.clone()
        elif len(before.shape) != len(value.shape) or any(
            a > b for a, b in zip(before.shape, value.shape, strict=True)
        ):
            raise ValueError(
                f"{name}: expected at most {list(value.shape)}, got {list(before.shape)}; a codec can only grow"
            )
        elif "norm.weight" in name:
            value = value.clone()
            value[: len(before)] = before * (len(before) / len(value)) ** 0.5
        elif "norm.bias" in name or name.endswith(".bias"):
            value = _grow(value * 0, before, False)
        else:
            inner = "depthwise" not in name and not name.endswith("input.weight")
            value = _grow(value, before, inner)
            if name.endswith("input.weight") or name.endswith("down.weight"):
                value[before.shape[0] :] *= 0.1
        state[name] = value
    model.load_state_dict(state)


def read_weights(init: str | Path) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Config and float32 weights of a model folder, of a codec run (its average, if it has one), or
    of a file that :func:`export` wrote."""
    if Path(init).suffix == ".safetensors":
        weights, about = packed.load(Path(init))
        return from_dict(CodecConfig, json.loads(about["codec"]), "codec"), weights
    if (Path(init) / "config.json").exists():
        folder = load_folder(Path(init))
        arrays = {
            k: from_bfloat16(v) if v.dtype == np.uint16 else np.asarray(v, np.float32)
            for k, v in folder.codec.items()
        }
        return folder.config.codec, {k: torch.from_numpy(v.copy()) for k, v in arrays.items()}
    model = load_codec(init)
    return model.config, {k: v.float() for k, v in model.state_dict().items()}


def export(run: str | Path, out: str | Path) -> list[Path]:
    """A run's averaged weights in few bytes (``packed.py``), to go on from elsewhere."""
    config, weights = read_weights(run)
    state = torch.load(Path(run) / "checkpoint.pt", map_location="cpu", weights_only=False)
    about = {"codec": json.dumps(to_dict(config)), "steps": str(state["step"])}
    return packed.save(weights, Path(out), about=about)


class Average:
    """Exponential average of a model's weights, what is judged and bundled; a part of the checkpoint."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int, steps: int) -> None:
        """At ``step``, ``steps`` after the last update; an average over a tenth of the steps so far
        at most, so that the beginning is soon forgotten."""
        weight = max(1 - self.decay**steps, min(1.0, 10 * steps / (step + 1)))
        for k, v in self.model.state_dict().items():
            self.values[k].lerp_(v, weight)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = {k: v.clone() for k, v in state.items()}


class PairedLoss(SpectralLoss):
    """The same losses where only the second sound has a gradient: a third less to compute."""

    def _parts(self, x: Tensor, window: int) -> tuple[Tensor, Tensor]:
        spec = torch.stft(
            x, window, window // 4, window=getattr(self, f"window{window}"), return_complex=True
        )
        power = torch.view_as_real(spec).square().sum(-1)
        magnitude = (power + 1e-10).sqrt() * (4.0 / window)
        mel = torch.log(magnitude.transpose(1, 2) @ getattr(self, f"mel{window}") + self.floor)
        return mel, (magnitude + 1e-5).sqrt()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (the original), y [B, N] -> (log-mel loss, magnitude loss)."""
        mel_loss = magnitude_loss = y.new_zeros(())
        for window, _ in self.resolutions:
            with torch.no_grad():
                mel, magnitude = self._parts(x.float(), window)
            made_mel, made_magnitude = self._parts(y.float(), window)
            mel_loss = mel_loss + (made_mel - mel).abs().mean()
            magnitude_loss = magnitude_loss + (made_magnitude - magnitude).abs().mean()
        n = len(self.resolutions)
        return mel_loss / n, magnitude_loss / n


def _rate(step: int, s: Mapping[str, Any], seconds: float) -> float:
    """Share of the peak learning rate: up over ``warmup`` steps, level, down to 5 % over the last
    ``fall`` steps, or over the last quarter of ``minutes``, whichever is sooner."""
    left = (s["steps"] - step) / max(1, s["fall"])
    if s["minutes"]:
        left = min(left, 4 * (1 - seconds / (60 * s["minutes"])))
    return min(1.0, (step + 1) / s["warmup"], max(0.05, left))


AVERAGED_EVERY = 10  # steps


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    """``config``: settings (see ``_SETTINGS``), ``codec`` (its shape) and ``init`` (what to go on
    from; left out: from nothing).  ``minutes`` > 0 ends this process by the clock."""
    s = settings_from(config, _SETTINGS, ("codec", "init"))
    device = pick_device(device_name)
    torch.manual_seed(s["seed"])
    codec_config = from_dict(CodecConfig, config["codec"], "codec")
    model = SpectralCodec(codec_config).to(device)
    if "init" in config and not (Path(out) / "checkpoint.pt").exists():
        grown(model, read_weights(config["init"])[1])
    data = Mixture(
        read_sources(s["sources"]), codec_config.frame_size, s["frames"], s["wide_share"]
    )
    phone_head = nn.Linear(codec_config.codebook_dim, len(data.phones)).to(device)
    judge = Discriminators(s["channels"], tuple(s["windows"])).to(device)
    loss_fn = PairedLoss(codec_config.sample_rate).to(device)
    optimizer = torch.optim.AdamW(
        decay_groups(model, 0.01) + [{"params": list(phone_head.parameters())}],
        lr=s["lr"],
        betas=(0.8, 0.99),
        fused=True,
    )
    opt_judge = torch.optim.AdamW(
        judge.parameters(),
        lr=s["discriminator_lr"],
        betas=(0.8, 0.99),
        weight_decay=0.01,
        fused=True,
    )
    average = Average(model, s["average"])
    run = Run(out, s["steps"], s["save_minutes"])
    began = time.monotonic()
    run.register(
        model=model, averages=_Averages(model.quantizer), average=average, phone_head=phone_head,
        judge=judge, optimizer=optimizer, optimizer_judge=opt_judge,
    )  # fmt: skip
    run.resume()
    write_config(codec_config, out)
    batches = Prefetch(
        lambda rng: (
            *data.batch(rng, s["batch"]),
            draw_stages(rng, codec_config.num_codebooks, s["few_stages"], s["few_share"]),
        ),
        s["seed"],
        run.step,
    )
    model.train()
    with run.progress() as bar:
        while run.step < s["steps"]:
            samples, gains, phones, stages = batches.next()
            samples, gains, phones = (
                x.to(device, non_blocking=True) for x in (samples, gains, phones)
            )
            seconds = time.monotonic() - began
            share = _rate(run.step, s, seconds)
            set_learning_rate(optimizer, s["lr"] * share)
            set_learning_rate(opt_judge, s["discriminator_lr"] * share)
            frozen = run.step >= s["encoder_until"]
            if frozen:
                model.quantizer.eval()
                model.encoder.requires_grad_(False)
                z = model.quantizer.decode(model.encode(samples, stages))
                commit = phone = z.new_zeros(())
            else:
                with torch.autocast(device.type, torch.bfloat16):
                    z = model.latent(samples)
                z, first, _, commit = model.quantizer(z, stages)
                # a clip that is labelled weighs what it would in a batch where all are
                phone = phone_loss(phone_head, first, phones) * (phones != NO_PHONE).float().mean()
            with torch.autocast(device.type, torch.bfloat16):
                fake = model.synthesize(z)
            real, fake = samples * gains, fake * gains
            mel, magnitude = loss_fn(real, fake)
            wave = waveform_loss(real, fake)
            spectral = mel + s["magnitude_weight"] * magnitude
            if stages == codec_config.num_codebooks:  # fewer stages have no bits for exact phases
                spectral = spectral + s["waveform_weight"] * wave
            teaching = s["commit_weight"] * commit.float() + s["phone_weight"] * phone
            values = {"mel": mel, "mag": magnitude, "wave": wave, "phone": phone, "commit": commit}
            if run.step < s["judge_from"]:
                loss = spectral + teaching
            else:
                few = slice(0, s["judged_clips"])
                values["judge"] = learn_to_judge(
                    judge, opt_judge, real[few], fake[few].detach(), device.type
                )
                values["fool"], values["feature"] = judged(judge, real[few], fake[few], device.type)
                ramp = min(1.0, (run.step - s["judge_from"] + 1) / s["judge_warmup"])
                against = values["fool"] + s["feature_weight"] * values["feature"]
                # divided by spectral_weight: encoder and codebooks keep the balance that they have learned with
                loss = spectral + teaching + ramp * against / s["spectral_weight"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
            if (run.step + 1) % AVERAGED_EVERY == 0:
                average.update(run.step, AVERAGED_EVERY)
            bar.update()
            run.log(bar, **{f"joint/{k}": float(v.detach()) for k, v in values.items()})
            run.stopping |= 0 < s["minutes"] * 60 <= seconds
            if not run.tick():
                break
