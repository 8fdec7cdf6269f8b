"""Trains the semantic tokenizer: an encoder with one codebook that identifies the phone but not the
speaker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from uniaudio_engine.storage.config import CodecConfig, SemanticConfig
from uniaudio_engine.text.phones import PHONES

from ..checkpoints import write_semantic_config
from ..codec.train_codec import Averages
from ..loop import Run, Stateful, Trainer, Validation, fit, pick_device
from ..models.spectral import SpectralCodec
from ..muon import block_optimizers
from ..precision import Arithmetic, choose
from ..schedules import trapezoid
from ..settings import RunSettings
from .augment import VoiceWarp, sound_view
from .views import Batch, SemanticData, frame_labels


@dataclass(frozen=True)
class SemanticSettings(RunSettings):
    """``unquantized``: steps before quantization begins, so that the codebook is initialised with
    useful latents.
    """

    semantic: SemanticConfig = field(
        default_factory=lambda: SemanticConfig(CodecConfig("spectral", num_codebooks=1))
    )
    data: str = "data/corpus"
    steps: int = 6000
    batch: int = 32
    frames: int = 128
    lr: float = 2e-3
    matrix_lr: float = 2e-2
    warmup: int = 100
    decay_share: float = 0.5
    weight_decay: float = 0.05
    neighbour_weight: float = 0.1
    commit_weight: float = 0.25
    pair_weight: float = 0.25
    speaker_weight: float = 0.0
    unquantized: int = 200


_PLAIN = {p: i for i, p in enumerate(sorted({p.rstrip("012") for p in PHONES}))}
PLAIN_IDS = torch.tensor(
    [_PLAIN[p.rstrip("012")] for p in PHONES]
)  # id of PHONES -> id without stress


Counts = NDArray[np.float64]  # [units, phones]


class Reverse(torch.autograd.Function):
    """Identity with a negated gradient (domain-adversarial training, arXiv 1505.07818)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


class Heads(nn.Module):
    """Classifiers on the quantized vectors, for training only.

    They predict the phone and its neighbours, and the speaker, whose gradient is reversed.
    """

    def __init__(self, dim: int, speakers: int) -> None:
        super().__init__()
        self.now = nn.Linear(dim, len(PHONES))
        self.before = nn.Linear(dim, len(PHONES))
        self.after = nn.Linear(dim, len(PHONES))
        self.speaker = nn.Sequential(nn.Linear(dim, 128), nn.GELU(), nn.Linear(128, speakers))

    def phone_loss(self, q: Tensor, batch: Batch, delay: int) -> tuple[Tensor, Tensor]:
        """q [B, T - delay, E] -> cross-entropy of the phones, and mean cross-entropy of their
        neighbours.
        """
        n = batch.now.shape[1] - delay
        part = {
            k: F.cross_entropy(
                getattr(self, k)(q).flatten(0, 1), getattr(batch, k)[:, :n].flatten()
            )
            for k in ("now", "before", "after")
        }
        return part["now"], (part["before"] + part["after"]) / 2

    def speaker_loss(self, q: Tensor, speaker: Tensor) -> Tensor:
        """Cross-entropy of the speaker, predicted from the mean over the crop; its gradient is
        reversed.
        """
        return F.cross_entropy(self.speaker(Reverse.apply(q.mean(1))), speaker)


def latents(
    model: SpectralCodec,
    samples: Tensor,
    delay: int,
    arithmetic: Arithmetic,
    warp: VoiceWarp | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Outputs of the encoder for samples [B, N], [B, T - delay, E]; with ``factors`` [B, 2] the voices
    are warped first.

    Entry t is the output at frame t + ``delay``, which describes frame t.
    """
    features = model.features(samples)
    if warp is not None and factors is not None:
        sub = model.spectral.encoder_subframes
        b, t, width = features.shape
        split = features.view(b, t * sub, width // sub)
        features = warp(split, factors[:, 0], factors[:, 1]).view(b, t, width)
    with arithmetic.autocast():
        return model.encoder(features)[:, delay:].float()


def other_view(x: Tensor) -> Tensor:
    """Swaps rows 2i and 2i + 1, the two views of a clip."""
    return x.view(-1, 2, *x.shape[1:]).flip(1).reshape(x.shape)


@torch.no_grad()
def units(model: SpectralCodec, samples: np.ndarray, delay: int) -> np.ndarray:
    """Samples [N] -> units [T], as in the engine."""
    frame = model.config.frame_size
    n = -(-len(samples) // frame) * frame + delay * frame
    x = torch.from_numpy(np.pad(samples, (0, n - len(samples))).astype(np.float32))
    device = next(model.parameters()).device
    units: np.ndarray = model.encode(x[None].to(device))[0, 0, delay:].cpu().numpy()
    return units


def best_map_accuracy(table: Counts) -> tuple[float, float]:
    """Counts [units, phones] -> accuracy of the most frequent phone of each unit, with and without
    stress.
    """
    plain = np.zeros((len(table), len(_PLAIN)))
    np.add.at(plain.T, PLAIN_IDS.numpy(), table.T)
    return float(table.max(1).sum() / table.sum()), float(plain.max(1).sum() / plain.sum())


def mutual_information(table: Counts) -> float:
    """Mutual information of unit and phone in bits, from counts [units, phones]."""
    p = table / table.sum()
    rows, columns = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nansum(p * np.log2(p / (rows * columns))))


def validate(
    model: SpectralCodec, data: SemanticData, delay: int, clips: int = 120
) -> dict[str, float]:
    """Quick validation on whole clips.

    Accuracy of the best map (fitted on the same frames; the evaluation holds clips out), mutual
    information in bits, perplexity, and the share of units that stay the same with another room and
    noise.
    """
    model.eval()
    table = np.zeros((model.config.codebook_size, len(PHONES)))
    same = total = 0
    for c, spoken in enumerate(data.clips[:clips]):
        clip = spoken.samples()
        u = units(model, clip, delay)
        np.add.at(table, (u, frame_labels(spoken.phones, len(u)).now), 1)
        v = units(model, sound_view(np.random.default_rng((7, c)), clip, None, data.chances), delay)
        same, total = same + int((u == v).sum()), total + len(u)
    model.train()
    stress, plain = best_map_accuracy(table)
    p = table.sum(1) / table.sum()
    entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())
    return {
        "accuracy": stress,
        "accuracy_plain": plain,
        "bits": mutual_information(table),
        "perplexity": float(np.exp(entropy)),
        "same": same / total,
    }


class SemanticTrainer(Trainer[Batch]):
    """Trains encoder, codebook and heads on two views of every clip."""

    def __init__(self, s: SemanticSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic = s, arithmetic
        s.semantic.check(s.semantic.encoder)
        device, c = arithmetic.device, s.semantic.encoder
        self.model = SpectralCodec(c).to(device).train()
        self.data = SemanticData(s.data, c.frame_size, s.frames)
        self.valid = SemanticData(s.data, c.frame_size, s.frames, "valid")
        assert c.spectral is not None
        self.warp = VoiceWarp(c.spectral.encoder_window // 2 + 1).to(device)
        self.heads = Heads(c.codebook_dim, len(self.data.speakers)).to(device)
        self.optimizers = block_optimizers(self.model, s, arithmetic.dtype, self.heads)

    def parts(self) -> dict[str, Stateful]:
        return {
            "model": self.model,
            "averages": Averages(self.model.quantizer),
            "heads": self.heads,
            **{f"optimizer{i}": o for i, (o, _) in enumerate(self.optimizers)},
        }

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.heads.parameters()]

    def begin(self, run: Run, resumed: bool) -> None:
        write_semantic_config(self.settings.semantic, run.folder)
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        print(
            f"{millions:.2f} M parameters, {self.data.hours:.1f} h of {len(self.data.speakers)} "
            f"speakers, {self.arithmetic.device}"
        )

    def batch(self, rng: np.random.Generator) -> Batch:
        return self.data.batch(rng, self.settings.batch)

    def rate(self, step: int, done: float) -> float:
        return trapezoid(step, done, self.settings.warmup, self.settings.decay_share)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        s, delay = self.settings, self.settings.semantic.delay
        batch = batch.to(self.arithmetic.device)
        z = latents(self.model, batch.samples, delay, self.arithmetic, self.warp, batch.factors)
        if step < s.unquantized:
            q, commit, same = z, z.new_zeros(()), z.new_zeros(())
            pair = F.mse_loss(z, other_view(z))
        else:
            straight, _, codes, commit = self.model.quantizer(z.transpose(1, 2), 1)
            q = straight.transpose(1, 2)
            pair = F.mse_loss(z, other_view(q.detach()))
            same = (codes == other_view(codes)).float().mean()
        phone, neighbours = self.heads.phone_loss(q, batch, delay)
        speaker = self.heads.speaker_loss(q, batch.speaker)
        loss = (
            phone
            + s.neighbour_weight * neighbours
            + s.commit_weight * commit
            + s.pair_weight * pair
            + s.speaker_weight * speaker
        )
        return loss, {
            "train/phone": phone,
            "train/neighbours": neighbours,
            "train/commit": commit,
            "train/pair": pair,
            "train/speaker": speaker,
            "train/same": same,
        }

    def validate(self, run: Run) -> Validation | None:
        if run.step <= self.settings.unquantized:
            return None
        return described(validate(self.model, self.valid, self.settings.semantic.delay))


def described(found: dict[str, float]) -> Validation:
    """A validation with named numbers."""
    text = "valid " + " ".join(f"{k} {v:.3f}" for k, v in found.items())
    return Validation({f"valid/{k}": v for k, v in found.items()}, text)


def train(settings: SemanticSettings, out: str | Path, device: str = "auto") -> None:
    """Trains or resumes a semantic tokenizer in the folder ``out``."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    fit(SemanticTrainer(settings, arithmetic), settings, out, arithmetic)
