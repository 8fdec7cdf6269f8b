"""Trains the multi-scale LM on token shards: cross-entropy of each codebook over its own rows, and of the durations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from uniaudio_engine.config import LMConfig, StackConfig, from_dict, to_dict
from uniaudio_engine.sequence import GUIDE_SLOTS, Layout, guide_vocab, make_vocabulary, vocab_size
from uniaudio_engine.text.phones import PHONES

from ..codec.train import Prefetch, settings_from
from ..models.lm import MultiScaleLM, apply_rope, rope_tables
from ..run import Run, pick_device, set_learning_rate
from .data import AUDIO, DURATION, Batch, TokenData, make_batch

_SETTINGS: dict[str, Any] = {
    "rows": 4, "items": 3200, "steps": 4000, "lr": 2e-3, "matrix_lr": 2e-2, "warmup": 100, "decay_share": 0.4, "seed": 0,
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


def global_hidden(model: MultiScaleLM, batch: Batch) -> Tensor:
    """Hidden [B, n, L, D] that predicts each item: ``MultiScaleLM.global_hidden`` over rows that share their prompt."""
    b, p, _ = batch.prompt.shape
    _, n, length, _ = batch.inputs.shape
    stack, c = model.global_, model.config.global_
    split = b * p
    x = torch.cat((model.embed_frames(batch.prompt).flatten(0, 1), (model.embed_frames(batch.inputs) + model.embed_guide(batch.guide)).flatten(0, 2)))
    rope = rope_tables(torch.arange(p + length, device=x.device), c.head_dim, c.rope_base)
    before, after = tuple(r[:p] for r in rope), tuple(r[p:] for r in rope)
    mask = torch.ones(length, p + length, dtype=torch.bool, device=x.device).tril(p)
    for layer in stack.layers:
        a = layer.attn
        y = layer.attn_norm(x)

        def heads(t: Tensor, rows: int, count: int) -> Tensor:
            return t.view(rows, -1, count, c.head_dim).transpose(1, 2)

        q, k, v = a.q(y), a.k(y), a.v(y)
        kp, vp = apply_rope(heads(k[:split], b, a.kv_heads), *before), heads(v[:split], b, a.kv_heads)
        prompt = F.scaled_dot_product_attention(apply_rope(heads(q[:split], b, a.heads), *before), kp, vp, is_causal=True, enable_gqa=a.heads != a.kv_heads)
        ks = torch.cat((kp.repeat_interleave(n, 0), apply_rope(heads(k[split:], b * n, a.kv_heads), *after)), dim=2)
        vs = torch.cat((vp.repeat_interleave(n, 0), heads(v[split:], b * n, a.kv_heads)), dim=2)
        sentences = F.scaled_dot_product_attention(apply_rope(heads(q[split:], b * n, a.heads), *after), ks, vs, attn_mask=mask, enable_gqa=a.heads != a.kv_heads)
        y = torch.cat((prompt.transpose(1, 2).reshape(split, -1), sentences.transpose(1, 2).reshape(b * n * length, -1)))
        x = x + a.o(y)
        x = x + layer.mlp(layer.mlp_norm(x))
    return stack.norm(x[split:]).view(b, n, length, -1)


def losses(model: MultiScaleLM, layout: Layout, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each codebook [K] and of the durations [], in nats."""
    h = global_hidden(model, batch)
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
        batch = make_batch(layout, data, np.random.default_rng((12345, i)), s["rows"], s["items"]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            codes, duration = losses(model, layout, batch)
        total += np.array([*codes.tolist(), float(duration)])
    model.train()
    return list(total / batches)


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    """``config["init"]``, if given, is a model folder whose LM the run starts from."""
    s = settings_from(config, _SETTINGS, ("lm", "init"))
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
    if not run.resume() and config.get("init"):
        model.load_state_dict(load_file(Path(config["init"]) / "lm.safetensors"))
    (Path(out) / "lm.json").write_text(json.dumps({"lm": to_dict(lm_config), "vocabulary": to_dict(layout.vocabulary)}, indent=2))
    batches = Prefetch(lambda rng: make_batch(layout, data, rng, s["rows"], s["items"]), s["seed"], run.step)
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
            seconds += batch.seconds
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
