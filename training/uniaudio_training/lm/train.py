"""Trains the multi-scale LM on token shards: cross-entropy of each codebook over its own rows, and of the durations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.config import LMConfig, StackConfig, from_dict, to_dict
from uniaudio_engine.sequence import GUIDE_SLOTS, Layout, guide_vocab, make_vocabulary, vocab_size
from uniaudio_engine.text.phones import PHONES

from ..codec.train import Prefetch, settings_from
from ..models.lm import MultiScaleLM
from ..run import Run, pick_device, set_learning_rate
from .data import AUDIO, DURATION, Batch, TokenData, make_batch

_SETTINGS: dict[str, Any] = {
    "rows": 4, "length": 960, "steps": 4000, "lr": 2e-3, "matrix_lr": 2e-2, "warmup": 100, "decay_share": 0.4, "seed": 0,
    "weight_decay": 0.05, "duration_weight": 0.3, "codebook_size": 1024, "num_codebooks": 4, "data": "data/tokens", "validate_every": 250,
}  # fmt: skip


def build_config(config: dict[str, Any], codebook_size: int, num_codebooks: int) -> tuple[LMConfig, Layout]:
    """The LM's config from a training config's ``lm`` section (global and local stacks) and the vocabulary."""
    vocabulary = make_vocabulary(num_codebooks, codebook_size, len(PHONES))
    stacks = {side: from_dict(StackConfig, config["lm"][side], f"lm.{side}") for side in ("global", "local")}
    lm = LMConfig(
        vocab_size=vocab_size(vocabulary), num_codebooks=num_codebooks, global_=stacks["global"], local=stacks["local"],
        embedding="sum", conditioning="prefix", start_id=vocabulary.special("start"), local_start_id=vocabulary.special("local_start"),
        guide_slots=len(GUIDE_SLOTS), guide_vocab=guide_vocab(vocabulary),
    )  # fmt: skip
    return lm, Layout.of(lm, vocabulary)


def losses(model: MultiScaleLM, layout: Layout, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each codebook [K] and of the durations [], in nats."""
    h = model.global_hidden(batch.frames, batch.guide, mask=batch.mask(), positions=batch.positions, inputs=batch.inputs)
    audio, duration = batch.kind == AUDIO, batch.kind == DURATION
    codes = batch.frames[audio]
    y = model.local_hidden(h[audio], codes)
    per_codebook = []
    for k, [(start, size)] in enumerate(layout.audio_ranges()):
        logits = F.linear(y[:, k], model.head.weight[start : start + size])
        per_codebook.append(F.cross_entropy(logits.float(), codes[:, k] - start))
    span = layout.vocabulary.span("duration")
    tokens = batch.frames[duration][:, :1]
    logits = F.linear(model.local_hidden(h[duration], tokens)[:, 0], model.head.weight[span.start : span.start + span.size])
    return torch.stack(per_codebook), F.cross_entropy(logits.float(), tokens[:, 0] - span.start)


def stable_then_decay(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Warm-up, constant, then linear to 0 over the last share of the run."""
    decay = int(steps * decay_share)
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, (steps - step) / max(1, decay)))


def optimizers(model: MultiScaleLM, s: dict[str, Any]) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the hidden matrices (it needs far fewer steps), AdamW for the rest; each with its peak learning rate."""
    hidden = [p for n, p in model.named_parameters() if ".layers." in n and p.dim() == 2]
    rest = [p for n, p in model.named_parameters() if not (".layers." in n and p.dim() == 2)]
    return [
        (torch.optim.Muon(hidden, lr=s["matrix_lr"], momentum=0.95, weight_decay=s["weight_decay"]), s["matrix_lr"]),
        (torch.optim.AdamW(rest, lr=s["lr"], betas=(0.9, 0.98), weight_decay=0.01), s["lr"]),
    ]


@torch.no_grad()
def validate(model: MultiScaleLM, layout: Layout, data: TokenData, device: torch.device, s: dict[str, Any], batches: int = 6) -> list[float]:
    """Mean losses over fixed validation rows: K codebooks, then duration."""
    model.eval()
    total = np.zeros(s["num_codebooks"] + 1)
    for i in range(batches):
        batch = make_batch(layout, data, np.random.default_rng((12345, i)), s["rows"], s["length"]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            codes, duration = losses(model, layout, batch)
        total += np.array([*codes.tolist(), float(duration)])
    model.train()
    return list(total / batches)


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    s = settings_from(config, _SETTINGS, ("lm",))
    device = pick_device(device_name)
    torch.manual_seed(s["seed"])
    lm_config, layout = build_config(config, s["codebook_size"], s["num_codebooks"])
    model = MultiScaleLM(lm_config)
    model.init_weights(s["seed"])
    model.to(device).train()
    data, valid = TokenData(s["data"]), TokenData(s["data"], "valid")
    opts = optimizers(model, s)
    run = Run(out, s["steps"])
    run.register(model=model, **{f"optimizer{i}": o for i, (o, _) in enumerate(opts)})
    run.resume()
    (Path(out) / "lm.json").write_text(json.dumps({"lm": to_dict(lm_config), "vocabulary": to_dict(layout.vocabulary)}, indent=2))
    batches = Prefetch(lambda rng: make_batch(layout, data, rng, s["rows"], s["length"]), s["seed"], run.step)
    seconds = 0.0
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {data.hours:.1f} h of {len(data.names)} speakers, {device}")
    with run.progress() as bar:
        while True:
            batch = batches.next().to(device)
            for o, peak in opts:
                set_learning_rate(o, peak * stable_then_decay(run.step, s["steps"], s["warmup"], s["decay_share"]))
            with torch.autocast(device.type, torch.bfloat16):
                codes, duration = losses(model, layout, batch)
            loss = codes.mean() + s["duration_weight"] * duration
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for o, _ in opts:
                o.step()
                o.zero_grad(set_to_none=True)
            seconds += float((batch.kind == AUDIO).sum()) / 50
            bar.update()
            run.log(bar, every=25, **{f"train/code{k}": float(v) for k, v in enumerate(codes.detach())}, **{"train/duration": float(duration.detach()), "train/hours": seconds / 3600})
            going = run.tick()
            if run.step % s["validate_every"] == 0 or not going:
                values = validate(model, layout, valid, device, s)
                for name, v in zip([f"code{k}" for k in range(len(values) - 1)] + ["duration"], values, strict=True):
                    run.writer.add_scalar(f"valid/{name}", v, run.step)
                bar.write(f"step {run.step}: valid " + " ".join(f"{v:.3f}" for v in values))
            if not going:
                break
