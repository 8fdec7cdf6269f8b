"""Trains the whole codec on a mixture of corpora: spectral losses first, then discriminators as
well.

Training starts from a model folder or a run (``init``), whose networks may be smaller:
``growth.py`` copies the old weights into the new shapes such that the output hardly changes at
first. Each clip gets a random level. The losses compare sounds normalised to one level, so that
quiet clips count as much as loud ones. After ``encoder_until`` encoder and codebooks are frozen:
codes no longer change, and only the decoder learns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uniaudio_engine.storage.config import CodecConfig, to_dict
from uniaudio_engine.text.phones import PHONES

from .. import packed, run_checkpoint
from ..checkpoints import read_codec, write_codec_config
from ..corpus.reading import Examples, open_corpus
from ..loop import Run, Stateful, Trainer, fit, pick_device
from ..models.spectral import SpectralCodec
from ..precision import Arithmetic, choose
from ..schedules import decay_groups, trapezoid
from ..settings import RunSettings, require
from .adversarial import Discriminators, contest
from .crops import NO_PHONE
from .growth import start_from
from .losses import SpectralLoss, waveform_loss
from .loudness import LoudnessLoss
from .train_codec import Averages, draw_stages, phone_loss
from .units import UnitLoss

LEVEL_DB = -23.0  # level of the corpora, and of the comparison in the losses
_SPREAD_DB = 6.0  # standard deviation of the level of most clips
_RANGE_DB = (-60.0, -3.0)  # uniform range of the level of the others


@dataclass(frozen=True)
class Source:
    """Clips of one task of a corpus, drawn in proportion to ``weight``.

    ``speech`` clips may be reverberated and mixed with other sounds.
    """

    data: str
    task: str
    weight: float
    speech: bool = True
    roles: tuple[str, ...] = ("target",)


@dataclass(frozen=True)
class JointSettings(RunSettings):
    """``init``: a model folder, a codec run or a file of ``export`` to go on from; "" is from
    nothing. ``sources``: what is heard, and how often.

    ``few_stages``: how many codebooks the LM will model, used alone in a share ``few_share`` of the
    steps. ``wide_share``: of clips at any level from -60 to -3 dB, the others lie around -23.
    ``judge_from``, ``encoder_until``: the first step with discriminators, and the first with fixed
    codes. ``judged_clips``: how many clips of a batch the discriminators hear, speech first.
    ``judge_pull``: the norm of their gradient at the decoder's output, over that of the other
    losses. ``judges``: a run whose discriminators go on; "" begins with new ones.
    ``judges_a_step``: how many of them, drawn, hear a batch; 0 is all. ``loudness_weight``: of the
    loss that hears as PESQ does. ``units``: a folder with a semantic tokenizer, whose latents should
    stay the same; ``units_weight``: of that loss. ``decay_share``: of the run, over which the
    learning rate falls. ``average``: the decay of the averaged weights.
    """

    init: str = ""
    codec: CodecConfig = field(default_factory=lambda: CodecConfig("spectral"))
    sources: tuple[Source, ...] = ()
    steps: int = 60000
    batch: int = 12
    frames: int = 64
    lr: float = 5e-4
    discriminator_lr: float = 3e-4
    warmup: int = 200
    decay_share: float = 0.1
    phone_weight: float = 0.3
    magnitude_weight: float = 8.0
    waveform_weight: float = 0.5
    loudness_weight: float = 0.15
    units: str = ""
    units_weight: float = 1.0
    commit_weight: float = 0.25
    feature_weight: float = 2.0
    judge_from: int = 1200
    judge_warmup: int = 300
    judge_pull: float = 1.0
    judged_clips: int = 6
    channels: int = 16
    windows: tuple[int, ...] = (1024, 512, 256)
    judges: str = ""
    judges_a_step: int = 0
    encoder_until: int = 1_000_000
    few_stages: int = 4
    few_share: float = 0.55
    wide_share: float = 0.2
    average: float = 0.999

    def check(self) -> None:
        super().check()
        require(
            bool(self.sources),
            "sources",
            "at least one, such as {data: data/real, task: tts, weight: 1}",
            (),
        )


@dataclass
class Mixture:
    """Draws batches of crops from weighted sources, at random levels."""

    sources: Sequence[Source]
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
        """Samples [B, N] in [-1, 1], gains [B, 1] that normalise their level, phone ids [B, T].

        Speech comes first: the discriminators hear the first clips.
        """
        rows = []
        drawn = rng.choice(len(self.sources), size, p=self.shares)
        for source in sorted(drawn, key=lambda i: not self.sources[i].speech):
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


def export(run: str | Path, out: str | Path) -> list[Path]:
    """Writes the averaged weights of a run in compact form (``packed.py``), as a start for other
    runs.
    """
    config, weights = read_codec(run)
    steps = run_checkpoint.read_run(run, ())["step"]
    about = {"codec": json.dumps(to_dict(config)), "steps": str(steps)}
    return packed.save(weights, Path(out), about=about)


class Average:
    """Exponential moving average of a model's weights: what is evaluated and bundled. Part of the
    checkpoint.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.restart()

    def restart(self) -> None:
        """Restarts at the current weights."""
        self.values = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int, steps: int) -> None:
        """Updates at ``step``, ``steps`` after the last update.

        Averages over at most a tenth of the steps so far, so that the beginning is soon forgotten.
        """
        weight = max(1 - self.decay**steps, min(1.0, 10 * steps / (step + 1)))
        for k, v in self.model.state_dict().items():
            self.values[k].lerp_(v, weight)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.values = {k: v.clone() for k, v in state.items()}


class PairedLoss(SpectralLoss):
    """The same losses with a gradient for the second sound only, which saves a third of the
    computation.
    """

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


class Balance:
    """How much larger the gradient of the discriminators is than that of the spectral losses: a
    running ratio of their norms, a part of the checkpoint."""

    def __init__(self) -> None:
        self.norms = torch.zeros(2, dtype=torch.float64)

    def __call__(self, ours: Tensor, theirs: Tensor) -> float:
        """The ratio of the norms of ``theirs`` and ``ours`` [B, N], these ones counted in."""
        new = torch.stack([x.double().square().mean() for x in (ours, theirs)]).cpu()
        self.norms = torch.where(self.norms == 0, new, self.norms.lerp(new, 0.01))
        return max(float((self.norms[1] / self.norms[0].clamp(min=1e-30)).sqrt()), 1e-6)

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.norms = state["norms"].clone()


AVERAGED_EVERY = 10  # steps
Batch = tuple[
    Tensor, Tensor, Tensor, int
]  # samples [B, N], gains [B, 1], phones [B, T], RVQ stages


class JointTrainer(Trainer[Batch]):
    """Trains encoder, quantizer and decoder; the discriminators are stepped inside the loss."""

    clip = 2.0

    def __init__(self, s: JointSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic = s, arithmetic
        device, c = arithmetic.device, s.codec
        self.model = SpectralCodec(c).to(device).train()
        self.data = Mixture(s.sources, c.frame_size, s.frames, s.wide_share)
        self.phone_head = nn.Linear(c.codebook_dim, len(self.data.phones)).to(device)
        self.judge = Discriminators(s.channels, s.windows).to(device)
        self.spectral_loss = PairedLoss(c.sample_rate).to(device)
        self.loudness_loss = LoudnessLoss().to(device)
        self.unit_loss = UnitLoss(s.units).to(device) if s.units else None
        adamw = torch.optim.AdamW
        groups = [*decay_groups(self.model, 0.01), {"params": list(self.phone_head.parameters())}]
        self.optimizer = adamw(groups, lr=s.lr, betas=(0.8, 0.99), fused=True)
        self.judge_optimizer = adamw(
            self.judge.parameters(),
            lr=s.discriminator_lr,
            betas=(0.8, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        self.optimizers = [(self.optimizer, s.lr)]
        self.inner_optimizers = [(self.judge_optimizer, s.discriminator_lr)]
        self.average = Average(self.model, s.average)
        self.balance = Balance()

    def parts(self) -> dict[str, Stateful]:
        return {
            "model": self.model,
            "averages": Averages(self.model.quantizer),
            "average": self.average,
            "phone_head": self.phone_head,
            "judge": self.judge,
            "balance": self.balance,
            "optimizer": self.optimizer,
            "optimizer_judge": self.judge_optimizer,
        }

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.phone_head.parameters()]

    def begin(self, run: Run, resumed: bool) -> None:
        write_codec_config(self.settings.codec, run.folder)
        s = self.settings
        if resumed:
            return
        if s.init:
            rng = np.random.default_rng(s.seed)
            start_from(s.init, self.model, lambda: self.data.batch(rng, s.batch)[0], s.few_stages)
            self.average.restart()
        if s.judges:
            found = run_checkpoint.read_run(s.judges, ("judge",))["parts"].get("judge", {})
            shapes = [{k: v.shape for k, v in x.items()} for x in (found, self.judge.state_dict())]
            if shapes[0] != shapes[1]:
                raise ValueError(f"judges: expected discriminators of these windows in {s.judges}")
            self.judge.load_state_dict(found)

    def batch(self, rng: np.random.Generator) -> Batch:
        s = self.settings
        stages = draw_stages(rng, s.codec.num_codebooks, s.few_stages, s.few_share)
        return (*self.data.batch(rng, s.batch), stages)

    def rate(self, step: int, done: float) -> float:
        s = self.settings
        return max(0.05, trapezoid(step, done, s.warmup, s.decay_share))

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        s, stages = self.settings, batch[3]
        samples, gains, phones = (
            x.to(self.arithmetic.device, non_blocking=True) for x in batch[:3]
        )
        if step % AVERAGED_EVERY == 0:
            self.average.update(step, AVERAGED_EVERY)
        z, commit, phone = self._quantized(samples, phones, stages, step >= s.encoder_until)
        with self.arithmetic.autocast():
            fake = self.model.synthesize(z)
        copy = fake.detach().requires_grad_(True)
        mel, magnitude = self.spectral_loss(samples * gains, copy * gains)
        likeness = mel + s.magnitude_weight * magnitude
        values: dict[str, Tensor | float] = {"joint/mel": mel, "joint/mag": magnitude}
        if stages == s.codec.num_codebooks:  # fewer stages have no bits for exact phases
            values["joint/wave"] = waveform_loss(samples * gains, copy * gains)
            likeness = likeness + s.waveform_weight * values["joint/wave"]
        (gradient,) = torch.autograd.grad(likeness, [copy])
        size = gradient.norm(dim=1, keepdim=True)
        for what, weight, compare in (
            ("loudness", s.loudness_weight, self.loudness_loss),
            ("units", s.units_weight, self.unit_loss),
        ):
            if weight and compare is not None:
                heard = compare(samples * gains, copy * gains)
                values[f"joint/{what}"] = heard
                (pull,) = torch.autograd.grad(weight * heard, [copy])
                # limited, since it is steep where a clip is almost silent or lacks whole bands
                gradient += pull * (size / pull.norm(dim=1, keepdim=True).clamp(1e-12)).clamp(max=1)
        values |= {"joint/phone": phone, "joint/commit": commit}
        if step >= s.judge_from:
            few = slice(0, s.judged_clips)
            found = contest(
                self.judge.some(s.judges_a_step, np.random.default_rng((s.seed, step))),
                self.judge_optimizer,
                (samples * gains)[few],
                (copy.detach() * gains)[few],
                s.feature_weight,
                self.arithmetic,
            )
            pull = found.gradient * gains[few]
            ratio = self.balance(gradient[few], pull)
            ramp = min(1.0, (step - s.judge_from + 1) / s.judge_warmup)
            gradient[few] += (s.judge_pull * ramp / ratio) * pull
            values |= {
                "joint/judge": found.judge,
                "joint/fool": found.fool,
                "joint/feature": found.feature,
                "joint/ratio": ratio,
            }
        # has the gradient that was found at the decoder's output
        loss = (fake * gradient).sum() + s.commit_weight * commit + s.phone_weight * phone
        return loss, values

    def _quantized(
        self, samples: Tensor, phones: Tensor, stages: int, frozen: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantized latents [B, E, T], commitment loss and phone loss."""
        if frozen:
            self.model.quantizer.eval()
            self.model.encoder.requires_grad_(False)
            z = self.model.quantizer.decode(self.model.encode(samples, stages))
            return z, z.new_zeros(()), z.new_zeros(())
        with self.arithmetic.autocast():
            z = self.model.latent(samples)
        z, first, _, commit = self.model.quantizer(z, stages)
        # a labelled frame has the same weight however many others are labelled
        labelled = (phones != NO_PHONE).float().mean()
        return z, commit.float(), phone_loss(self.phone_head, first, phones) * labelled


def train(settings: JointSettings, out: str | Path, device: str = "auto") -> None:
    """Trains or resumes a codec in the folder ``out``."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    fit(JointTrainer(settings, arithmetic), settings, out, arithmetic)
