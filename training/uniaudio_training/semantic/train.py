"""Trains the semantic tokenizer: an encoder whose one codebook says which phone is spoken, and not
by whom.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.storage.config import SemanticConfig, from_dict, to_dict
from uniaudio_engine.text.phones import PHONES

from ..codec.train import _Averages
from ..models.spectral import SpectralCodec
from ..run import Prefetch, Run, decay_groups, pick_device, set_learning_rate, settings_from
from .augment import VoiceWarp, sound_view
from .data import Batch, SemanticData, frame_labels

# "unquantized": steps before quantization begins, so that the codebook starts on latents that mean
# something
_SETTINGS: dict[str, Any] = {
    "batch": 32,
    "frames": 128,
    "steps": 6000,
    "lr": 2e-3,
    "matrix_lr": 2e-2,
    "warmup": 100,
    "decay_share": 0.5,
    "weight_decay": 0.05,
    "seed": 0,
    "neighbour_weight": 0.1,
    "commit_weight": 0.25,
    "pair_weight": 0.25,
    "speaker_weight": 0.0,
    "unquantized": 200,
    "validate_every": 500,
    "data": "data/corpus",
}
_PLAIN = {p: i for i, p in enumerate(sorted({p.rstrip("012") for p in PHONES}))}
PLAIN_IDS = torch.tensor(
    [_PLAIN[p.rstrip("012")] for p in PHONES]
)  # id of PHONES -> id without stress


class Reverse(torch.autograd.Function):
    """Identity whose gradient comes back negated (domain-adversarial training, arXiv 1505.07818)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


class Heads(nn.Module):
    """What is read from a quantized vector in training only: the phone, its neighbours, and
    (against it) the speaker.
    """

    def __init__(self, dim: int, speakers: int) -> None:
        super().__init__()
        self.now = nn.Linear(dim, len(PHONES))
        self.before = nn.Linear(dim, len(PHONES))
        self.after = nn.Linear(dim, len(PHONES))
        self.speaker = nn.Sequential(nn.Linear(dim, 128), nn.GELU(), nn.Linear(128, speakers))

    def phone_loss(self, q: Tensor, batch: Batch, delay: int) -> tuple[Tensor, Tensor]:
        """q [B, T - delay, E] of frames 0..

        -> cross-entropy of the phone, and the mean of its neighbours'.
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
        """Cross-entropy of the speaker read from the mean over the crop, with its gradient reversed
        behind the head.
        """
        return F.cross_entropy(self.speaker(Reverse.apply(q.mean(1))), speaker)


def latents(model: SpectralCodec, batch: Batch, warp: VoiceWarp, delay: int) -> Tensor:
    """[B, T - delay, E]: what the encoder says, ``delay`` frames later, of frames 0..

    Of the warped clips.
    """
    sub = model.spectral.encoder_subframes
    features = model.features(batch.samples)
    b, t, width = features.shape
    warped = warp(features.view(b, t * sub, width // sub), batch.factors[:, 0], batch.factors[:, 1])
    with torch.autocast(features.device.type, torch.bfloat16):
        return model.encoder(warped.view(b, t, width))[:, delay:].float()


def other_view(x: Tensor) -> Tensor:
    """Rows 2i and 2i + 1 change places."""
    return x.view(-1, 2, *x.shape[1:]).flip(1).reshape(x.shape)


@torch.no_grad()
def units(model: SpectralCodec, samples: np.ndarray, delay: int) -> np.ndarray:
    """samples [N] -> units [T], as the engine gives them."""
    frame = model.config.frame_size
    n = -(-len(samples) // frame) * frame + delay * frame
    x = torch.from_numpy(np.pad(samples, (0, n - len(samples))).astype(np.float32))
    return model.encode(x[None])[0, 0, delay:].numpy()


def best_map_accuracy(table: np.ndarray) -> tuple[float, float]:
    """Counts [units, phones] -> share of frames whose unit's best phone is right, with stress and
    without.
    """
    plain = np.zeros((len(table), len(_PLAIN)))
    np.add.at(plain.T, PLAIN_IDS.numpy(), table.T)
    return table.max(1).sum() / table.sum(), plain.max(1).sum() / plain.sum()


def mutual_information(table: np.ndarray) -> float:
    """Bits that a unit says about the phone, from counts [units, phones]."""
    p = table / table.sum()
    rows, columns = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nansum(p * np.log2(p / (rows * columns))))


def validate(
    model: SpectralCodec, data: SemanticData, delay: int, clips: int = 120
) -> dict[str, float]:
    """On whole valid clips: accuracy by the best map (fitted on the same frames: a quick look; the
    evaluation holds clips out), mutual information in bits, perplexity, and how often the unit
    stays the same when the clip is seen in another room and noise.
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


def build(config: dict[str, Any]) -> tuple[SemanticConfig, SpectralCodec]:
    semantic = from_dict(SemanticConfig, config["semantic"], "semantic")
    semantic.check(semantic.encoder)
    return semantic, SpectralCodec(semantic.encoder)


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    s = settings_from(config, _SETTINGS, ("semantic",))
    device = pick_device(device_name)
    torch.manual_seed(s["seed"])
    semantic, model = build(config)
    c, delay = semantic.encoder, semantic.delay
    model.to(device).train()
    data = SemanticData(s["data"], c.frame_size, s["frames"])
    valid = SemanticData(s["data"], c.frame_size, s["frames"], "valid")
    assert c.spectral is not None
    warp = VoiceWarp(c.spectral.encoder_window // 2 + 1).to(device)
    heads = Heads(c.codebook_dim, len(data.speakers)).to(device)
    opts = optimizers(model, heads, s)
    run = Run(out, s["steps"])
    run.register(
        model=model,
        averages=_Averages(model.quantizer),
        heads=heads,
        **{f"optimizer{i}": o for i, (o, _) in enumerate(opts)},
    )
    run.resume()
    (Path(out) / "semantic.json").write_text(json.dumps(to_dict(semantic), indent=2))
    batches = Prefetch(lambda rng: data.batch(rng, s["batch"]), s["seed"], run.step)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {data.hours:.1f} h "
        f"of {len(data.speakers)} speakers, {device}"
    )
    with run.progress() as bar:
        while run.step < s["steps"]:
            batch = batches.next().to(device)
            for o, peak in opts:
                set_learning_rate(
                    o, peak * schedule(run.step, s["steps"], s["warmup"], s["decay_share"])
                )
            z = latents(model, batch, warp, delay)
            if run.step < s["unquantized"]:
                q, commit, pair, same = (
                    z,
                    z.new_zeros(()),
                    F.mse_loss(z, other_view(z)),
                    z.new_zeros(()),
                )
            else:
                straight, _, codes, commit = model.quantizer(z.transpose(1, 2), 1)
                q = straight.transpose(1, 2)
                pair = F.mse_loss(z, other_view(q.detach()))
                same = (codes == other_view(codes)).float().mean()
            phone, neighbours = heads.phone_loss(q, batch, delay)
            speaker = heads.speaker_loss(q, batch.speaker)
            loss = (
                phone
                + s["neighbour_weight"] * neighbours
                + s["commit_weight"] * commit
                + s["pair_weight"] * pair
                + s["speaker_weight"] * speaker
            )
            loss.backward()
            nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
            for o, _ in opts:
                o.step()
                o.zero_grad(set_to_none=True)
            bar.update()
            values = {
                "phone": phone,
                "neighbours": neighbours,
                "commit": commit,
                "pair": pair,
                "speaker": speaker,
                "same": same,
            }
            run.log(bar, **{f"train/{k}": float(v.detach()) for k, v in values.items()})
            going = run.tick()
            if run.step > s["unquantized"] and (run.step % s["validate_every"] == 0 or not going):
                report = validate(model, valid, delay)
                for name, v in report.items():
                    run.writer.add_scalar(f"valid/{name}", v, run.step)
                bar.write(
                    f"step {run.step}: valid " + " ".join(f"{k} {v:.3f}" for k, v in report.items())
                )
            if not going:
                break


def optimizers(
    model: SpectralCodec, heads: Heads, s: dict[str, Any]
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the blocks' matrices (it needs far fewer steps), AdamW for the rest; each with its
    peak learning rate.
    """
    hidden = [p for n, p in model.named_parameters() if p.dim() == 2 and ".blocks." in n]
    ids = {id(p) for p in hidden}
    groups = decay_groups(model, 0.01) + decay_groups(heads, 0.01)
    for g in groups:
        g["params"] = [p for p in g["params"] if id(p) not in ids]
    return [
        (
            torch.optim.Muon(
                hidden, lr=s["matrix_lr"], momentum=0.95, weight_decay=s["weight_decay"]
            ),
            s["matrix_lr"],
        ),
        (torch.optim.AdamW(groups, lr=s["lr"], betas=(0.9, 0.98)), s["lr"]),
    ]


def schedule(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Warm-up, constant, then linear to 0 over the last share of the run."""
    decay = int(steps * decay_share)
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, (steps - step) / max(1, decay)))
