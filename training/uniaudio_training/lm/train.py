"""Trains the multi-scale LM on all tasks jointly: cross-entropy of each codebook over its own rows,
and of the durations.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.request.sequence import Layout
from uniaudio_engine.storage.config import from_dict

from ..models.lm import MultiScaleLM, apply_rope, attend, rope_tables
from ..run import Prefetch, Run, pick_device, set_learning_rate, settings_from
from .data import AUDIO, DURATION, Batch, Noise, TaskData, load_tasks, make_batch, task_batch
from .samples import Samples
from .setup import set_up
from .team import Team, run_team
from .validation import Record, walk_back
from .warm import start_from

_SETTINGS: dict[str, Any] = {
    "rows": 4,
    "items": 3200,
    "steps": 4000,
    "lr": 2e-3,
    "matrix_lr": 2e-2,
    "warmup": 100,
    "decay_share": 0.4,
    "seed": 0,
    "weight_decay": 0.05,
    "duration_weight": 0.3,
    "codebook_size": 1024,
    "num_codebooks": 4,
    "data": "data/tokens",
    "validate_every": 250,
    "validation_batches": 3,
    "units": 512,
    "captions": "",
    "minutes": 0.0,
    "threads": 0,
    "processes": 1,
    "corpus": "",
    "task_files": [],
    "old": 0.0,
    "bound": 0.0,
    "noise": {},
    "untold": 0.0,
}


def global_hidden(model: MultiScaleLM, batch: Batch) -> Tensor:
    """Hidden [B, n, L, D] that predicts each item: ``MultiScaleLM.global_hidden`` over rows that
    share their prompt.
    """
    b, p, _ = batch.prompt.shape
    _, n, length, _ = batch.inputs.shape
    stack, c = model.global_, model.config.global_
    split = b * p
    x = torch.cat(
        (
            model.embed_frames(batch.prompt).flatten(0, 1),
            (model.embed_frames(batch.inputs) + model.embed_aligned(batch.aligned)).flatten(0, 2),
        )
    )
    rope = rope_tables(torch.arange(p + length, device=x.device), c.head_dim, c.rope_base)
    before, after = tuple(r[:p] for r in rope), tuple(r[p:] for r in rope)
    mask = torch.ones(length, p + length, dtype=torch.bool, device=x.device).tril(p)
    causal = torch.ones(p, p, dtype=torch.bool, device=x.device).tril()
    for layer in stack.layers:
        a = layer.attn
        y = layer.attn_norm(x)

        def heads(t: Tensor, rows: int, count: int) -> Tensor:
            return t.view(rows, -1, count, c.head_dim).transpose(1, 2)

        q, k, v = a.q(y), a.k(y), a.v(y)
        kp, vp = (
            apply_rope(heads(k[:split], b, a.kv_heads), *before),
            heads(v[:split], b, a.kv_heads),
        )
        prompt = attend(apply_rope(heads(q[:split], b, a.heads), *before), kp, vp, causal)
        ks = torch.cat(
            (kp.repeat_interleave(n, 0), apply_rope(heads(k[split:], b * n, a.kv_heads), *after)),
            dim=2,
        )
        vs = torch.cat((vp.repeat_interleave(n, 0), heads(v[split:], b * n, a.kv_heads)), dim=2)
        sentences = attend(apply_rope(heads(q[split:], b * n, a.heads), *after), ks, vs, mask)
        y = torch.cat(
            (
                prompt.transpose(1, 2).reshape(split, -1),
                sentences.transpose(1, 2).reshape(b * n * length, -1),
            )
        )
        x = x + a.o(y)
        x = x + layer.mlp(layer.mlp_norm(x))
    return stack.norm(x[split:]).view(b, n, length, -1)


def losses(model: MultiScaleLM, layout: Layout, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each codebook [K] and of the durations [] (nan where there are none), in
    nats.
    """
    h = global_hidden(model, batch)
    audio, duration = batch.kind == AUDIO, batch.kind == DURATION
    codes = batch.frames[audio]
    y = model.local_hidden(h[audio], codes)
    end = layout.vocabulary.special("audio_end")
    ended = codes[:, 0] == end  # in tasks that say themselves where they end
    some = bool(ended.any())
    per_codebook = []
    for k, [(start, size)] in enumerate(layout.audio_ranges()):
        rows, target = model.head.weight[start : start + size], codes[:, k] - start
        if some:
            rows, target = (
                torch.cat((rows, model.head.weight[end : end + 1])),
                target.masked_fill(ended, size),
            )
        per_codebook.append(F.cross_entropy(F.linear(y[:, k], rows).float(), target))
    if not bool(duration.any()):
        return torch.stack(per_codebook), torch.full((), torch.nan)
    span = layout.vocabulary.span("duration")
    tokens = batch.frames[duration][:, :1]
    logits = F.linear(
        model.local_hidden(h[duration], tokens)[:, 0],
        model.head.weight[span.start : span.start + span.size],
    )
    return torch.stack(per_codebook), F.cross_entropy(logits.float(), tokens[:, 0] - span.start)


def optimizers(model: MultiScaleLM, s: dict[str, Any]) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the hidden matrices (it needs far fewer steps), AdamW for the rest; each with its
    peak learning rate.
    """
    hidden = [p for n, p in model.named_parameters() if ".layers." in n and p.dim() == 2]
    rest = [p for n, p in model.named_parameters() if not (".layers." in n and p.dim() == 2)]
    return [
        (
            torch.optim.Muon(
                hidden, lr=s["matrix_lr"], momentum=0.95, weight_decay=s["weight_decay"]
            ),
            s["matrix_lr"],
        ),
        (torch.optim.AdamW(rest, lr=s["lr"], betas=(0.9, 0.98), weight_decay=0.01), s["lr"]),
    ]


@torch.no_grad()
def validate(
    model: MultiScaleLM,
    layout: Layout,
    data: Mapping[str, TaskData],
    device: torch.device,
    s: dict[str, Any],
) -> dict[str, list[float]]:
    """Mean losses of each task over fixed validation batches: K codebooks, then durations (nan
    where a task has none).
    """
    model.eval()
    found = {}
    for task, of_task in data.items():
        total = np.zeros(layout.num_codebooks + 1)
        for i in range(s["validation_batches"]):
            batch = task_batch(
                layout, of_task, np.random.default_rng((12345, i)), s["rows"], s["items"]
            ).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                codes, duration = losses(model, layout, batch)
            total += np.array([*codes.tolist(), float(duration)])
        found[task] = list(total / s["validation_batches"])
    model.train()
    return found


def train(config: dict[str, Any], out: str | Path, device_name: str = "auto") -> None:
    """``config["tasks"]``: task -> its share of the batches. ``config["init"]``, if given, is a
    model folder whose LM the run starts from (``warm.py``). ``minutes`` > 0 ends the run by the
    clock: the learning rate follows whichever of steps and minutes is further on. ``processes``
    share each step's items: on a CPU, one process a core does more than one with all cores.
    ``noise`` (:class:`Noise`) is put into what the model is fed back; captions are left out of a
    share ``untold`` of the examples that have one, which is what guidance needs. ``corpus``, if
    given: samples of its validation split as the engine answers them go to tensorboard. A run with
    a user's tasks (``setup.py``) ends with what the old ones lost. With a ``bound`` (nats a code)
    the weights then go back towards ``init`` as far as it takes to keep it (:func:`walk_back`).
    """
    s = settings_from(config, _SETTINGS, ("lm", "init", "tasks"))
    run_team(_train, s["processes"], config, s, out, device_name)


def _train(
    team: Team, config: dict[str, Any], s: dict[str, Any], out: str | Path, device_name: str
) -> None:
    device = pick_device(device_name)
    if s["threads"] or team.size > 1:
        torch.set_num_threads(s["threads"] or 1)
    torch.manual_seed(s["seed"])
    setup = set_up(config, s)
    layout, weights = setup.layout, setup.weights
    data, valid = (
        load_tasks(s["data"], split, setup.tasks.values(), setup.captions, setup.labels)
        for split in ("train", "valid")
    )
    model = MultiScaleLM(setup.lm)
    model.init_weights(s["seed"])
    model.to(device).train()
    opts = optimizers(model, s)
    run = Run(out, s["steps"], leads=team.leads)
    clock = _Clock(60 * s["minutes"])
    run.register(
        model=model,
        **({"clock": clock} if s["minutes"] else {}),
        **{f"optimizer{i}": o for i, (o, _) in enumerate(opts)},
    )
    if not run.resume() and config.get("init"):
        taken = start_from(model, layout.vocabulary, Path(config["init"]), s["seed"])
        if team.leads:
            print(taken)
    samples = None
    if team.leads:
        (Path(out) / "lm.json").write_text(json.dumps(setup.about(), indent=2))
        print(
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
            f"{', '.join(map(str, data.values()))}, {device}"
        )
        samples = (
            Samples(s["corpus"], config["init"], s["captions"], weights) if s["corpus"] else None
        )
    record = Record(out, setup.old)
    if team.leads and run.step == 0 and setup.old:
        record.add(0, validate(model, layout, valid, device, s))
    noise = from_dict(Noise, s["noise"], "noise")
    rows, items = max(1, s["rows"] // team.size), s["items"] // team.size
    batches = Prefetch(
        lambda rng: make_batch(layout, data, weights, rng, rows, items, noise, s["untold"]),
        team.seed(s["seed"]),
        run.step,
    )
    seconds, share = 0.0, clock.share(clock.before)
    with run.progress() as bar:
        while run.step < s["steps"] and share < 1:
            batch = batches.next().to(device)
            done = max(run.step / s["steps"], share)
            for o, peak in opts:
                rate = min(1.0, (run.step + 1) / s["warmup"]) * min(
                    1.0, max(0.0, (1 - done) / max(1e-9, s["decay_share"]))
                )
                set_learning_rate(o, peak * rate)
            with torch.autocast(device.type, torch.bfloat16):
                codes, duration = losses(model, layout, batch)
            loss = codes.mean() + s["duration_weight"] * torch.nan_to_num(duration)
            loss.backward()
            run.stopping, share = team.average(
                model, run.stopping or clock.over(), clock.share(clock.spent())
            )
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for o, _ in opts:
                o.step()
                o.zero_grad(set_to_none=True)
            seconds += batch.seconds * team.size
            bar.update()
            run.log(
                bar,
                every=25,
                **{
                    f"train/{batch.task}": float(codes.detach().mean()),
                    "train/hours": seconds / 3600,
                },
            )
            going = run.tick()
            if team.leads and (run.step % s["validate_every"] == 0 or not going):
                found = validate(model, layout, valid, device, s)
                record.add(run.step, found)
                for task, values in found.items():
                    for name, v in zip(
                        [f"code{k}" for k in range(len(values) - 1)] + ["duration"],
                        values,
                        strict=True,
                    ):
                        run.writer.add_scalar(f"valid-{task}/{name}", v, run.step)
                bar.write(
                    f"step {run.step}: valid "
                    + "; ".join(
                        f"{t} {' '.join(f'{v:.3f}' for v in values if v == v)}"
                        for t, values in found.items()
                    )
                )
                for line in samples.write(run) if samples else ():
                    bar.write(f"step {run.step}: no sample of {line}")
            if not going:
                break
    if team.leads and setup.old and (run.step >= s["steps"] or clock.over()):
        if s["bound"]:
            start = MultiScaleLM(setup.lm)
            start.init_weights(s["seed"])
            start_from(start, layout.vocabulary, Path(config["init"]), s["seed"])
            kept = walk_back(
                run,
                model,
                start.to(device),
                record,
                s["bound"],
                lambda: validate(model, layout, valid, device, s),
            )
            if kept < 1:
                print(
                    f"the old tasks had lost more than {s['bound']:g} nats a code: {kept:.0%} of "
                    f"the way from {config['init']} kept"
                )
        print(record.summary())


class _Clock:
    """Seconds of training, over all resumes, of a run that ends by the clock; 0 seconds: never."""

    def __init__(self, limit: float) -> None:
        self.limit, self.before, self.begin = limit, 0.0, time.monotonic()

    def spent(self) -> float:
        return self.before + time.monotonic() - self.begin

    def share(self, spent: float) -> float:
        return spent / self.limit if self.limit else 0.0

    def over(self) -> bool:
        return bool(self.limit) and self.spent() >= self.limit

    def state_dict(self) -> dict[str, float]:
        return {"spent": self.spent()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.before, self.begin = state["spent"], time.monotonic()
