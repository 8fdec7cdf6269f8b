"""Trains the multi-scale LM jointly on all tasks, or fine-tunes a model for user-defined tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..compiling import compile_blocks
from ..data_parallel import Team, launched, own_device, run_launched, run_team
from ..loop import Run, Stateful, Trainer, Validation, fit, pick_device
from ..models.lm import MultiScaleLM
from ..muon import Muon
from ..precision import Arithmetic, choose
from ..run_checkpoint import newest
from ..schedules import trapezoid
from ..sharding import make_mesh, shard
from .data import Batch, TaskData, load_tasks, make_batch, task_batch
from .objective import Objective
from .recode import read_pairs
from .samples import Samples
from .setup import LMSettings, set_up
from .validation import Record, walk_back
from .warm_start import start_from


def optimizers(
    model: MultiScaleLM, s: LMSettings, dtype: torch.dtype
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the hidden matrices, which needs far fewer steps; AdamW for the rest."""
    named = list(model.named_parameters())
    hidden = [p for n, p in named if ".layers." in n and p.dim() == 2]
    rest = [p for n, p in named if not (".layers." in n and p.dim() == 2)]
    muon = Muon(hidden, s.matrix_lr, s.weight_decay, dtype)
    adamw = torch.optim.AdamW(rest, lr=s.lr, betas=(0.9, 0.98), weight_decay=0.01)
    return [(muon, s.matrix_lr), (adamw, s.lr)]


@torch.no_grad()
def validate(
    objective: Objective,
    data: Mapping[str, TaskData],
    s: LMSettings,
    arithmetic: Arithmetic,
    team: Team,
) -> dict[str, list[float]]:
    """Mean losses of each task over fixed validation batches, in nats: K codebooks, then the
    durations (nan where a task has none). The processes share the batches.
    """
    objective.eval()
    batches = [(task, i) for task in data for i in range(s.validation_batches)]
    totals = torch.zeros(
        len(data), objective.layout.num_codebooks + 1, dtype=torch.float64, device=arithmetic.device
    )
    for first in range(0, len(batches), team.size):
        # at the end some compute what another counts: all must compute equally often
        mine = first + team.rank
        task, i = batches[min(mine, len(batches) - 1)]
        rng = np.random.default_rng((12345, i))
        batch = task_batch(objective.layout, data[task], rng, s.rows, s.items)
        with arithmetic.autocast():
            codes, duration = objective(batch.to(arithmetic.device))
        if mine < len(batches):
            totals[list(data).index(task)] += torch.cat((codes, duration.to(codes)[None]))
    objective.train()
    means = (team.total(totals) / s.validation_batches).tolist()
    return dict(zip(data, means, strict=True))


class LMTrainer(Trainer[Batch]):
    """One process of an LM run."""

    def __init__(self, s: LMSettings, arithmetic: Arithmetic, team: Team, fresh: bool) -> None:
        """``fresh``: there is no checkpoint, so the model starts from the folder ``init``, if any."""
        self.settings, self.arithmetic, self.team = s, arithmetic, team
        self.setup = setup = set_up(s)
        self.data, self.valid = (
            load_tasks(s.token_folders, split, setup.tasks.values(), setup.captions, setup.labels)
            for split in ("train", "valid")
        )
        self.mesh = make_mesh(team, arithmetic.device) if team.sharded else None
        self.objective, self.taken = self._build(bool(s.init) and fresh)
        self.model = self.objective.model
        self.optimizers = optimizers(self.model, s, arithmetic.dtype)
        self.seconds = 0.0  # of audio seen by this process
        self.samples: Samples | None = None

    def _build(self, start: bool) -> tuple[Objective, str]:
        """A model, as it is trained, with ``start`` from the folder ``init``; and what was copied
        from there, in one line.

        Each process builds the whole model before it keeps its shards: 4 GB for the 1 B shape.
        """
        s, layout = self.settings, self.setup.layout
        model = MultiScaleLM(self.setup.lm)
        model.init_weights(s.seed)
        model = model.to(self.arithmetic.device)
        taken = ""
        if start:
            pairs = read_pairs(s.init_folders, s.token_folders) if s.init_folders else None
            taken = start_from(model, layout.vocabulary, Path(s.init), s.seed, pairs)
        blocks = (*model.global_.blocks(), *model.local.blocks())
        for block in blocks:
            block.recompute = s.recompute
        objective = Objective(model, layout, self.team.sharded)
        if self.mesh is not None:
            shard(objective, blocks, self.mesh, self.arithmetic)
        if s.compile:
            compile_blocks(blocks)
        return objective.train(), taken

    def _measure(self) -> dict[str, list[float]]:
        return validate(self.objective, self.valid, self.settings, self.arithmetic, self.team)

    def parts(self) -> dict[str, Stateful]:
        each = {f"optimizer{i}": o for i, (o, _) in enumerate(self.optimizers)}
        return {"model": self.model, **each}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def begin(self, run: Run, resumed: bool) -> None:
        s, setup = self.settings, self.setup
        self.record = Record(run.folder, setup.old, self.team)
        if run.step == 0 and setup.old:
            self.record.add(0, self._measure())
        if not self.team.leads:
            return
        (run.folder / "lm.json").write_text(json.dumps(setup.about(), indent=2))
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        hours = ", ".join(map(str, self.data.values()))
        if self.taken:
            print(self.taken)
        print(f"{millions:.1f} M parameters, {hours}, {self.arithmetic.device}")
        if s.corpus:
            self.samples = Samples(s.corpus, s.init, s.captions, setup.weights)

    def batch(self, rng: np.random.Generator) -> Batch:
        s, parts = self.settings, self.team.parts
        return make_batch(
            self.setup.layout,
            self.data,
            self.setup.weights,
            rng,
            max(1, s.rows // parts),
            s.items // parts,
            s.noise,
            s.caption_dropout,
            s.aligned_dropout,
        )

    def rate(self, step: int, done: float) -> float:
        return trapezoid(step, done, self.settings.warmup, self.settings.decay_share)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        self.seconds += batch.seconds * self.team.size
        batch = batch.to(self.arithmetic.device)
        with self.arithmetic.autocast():
            codes, duration = self.objective(batch)
        loss = codes.mean() + self.settings.duration_weight * torch.nan_to_num(duration)
        hours = self.seconds / 3600
        return loss, {f"train/{batch.task}": codes.mean(), "train/hours": hours}

    def validate(self, run: Run) -> Validation:
        found = self._measure()
        self.record.add(run.step, found)
        scalars: dict[str, float] = {}
        for task, values in found.items():
            names = [*(f"code{k}" for k in range(len(values) - 1)), "duration"]
            scalars |= {f"valid-{task}/{n}": v for n, v in zip(names, values, strict=True)}
        each = (f"{t} {' '.join(f'{v:.3f}' for v in vs if v == v)}" for t, vs in found.items())
        text = "valid " + "; ".join(each)
        if self.settings.corpus:
            run.save(wait=True)
        for line in self.samples.write(run) if self.samples else ():
            text += f"\nstep {run.step}: no sample of {line}"
        return Validation(scalars, text)

    def end(self, run: Run) -> None:
        s = self.settings
        if not self.setup.old:
            return
        if s.bound:
            start = self._build(True)[0].model
            kept = walk_back(run, self.model, start, self.record, s.bound, self._measure)
            if kept < 1 and self.team.leads:
                print(
                    f"the old tasks had lost more than {s.bound:g} nats a code: {kept:.0%} of the "
                    f"way from {s.init} kept"
                )
        if self.team.leads:
            print(self.record.summary())


def train(settings: LMSettings, out: str | Path, device: str = "auto") -> None:
    """Trains or resumes an LM in the folder ``out``, in ``settings.processes`` processes, or in
    those that ``torchrun`` started.

    A run with user-defined tasks ends with a report of the loss increase of the old tasks, which is
    kept within ``settings.bound``. Raises ValueError for ``processes`` above 1 under ``torchrun``.
    """
    place = own_device(pick_device(device))
    if not launched():
        arithmetic = choose(settings.precision, place, out)
        run_team(
            _train, settings.processes, settings.parts, settings.sharding, settings, out, arithmetic
        )
        return
    if settings.processes != 1:
        raise ValueError(
            f"processes: expected 1 under torchrun, which starts them, got {settings.processes}"
        )

    def work(team: Team) -> None:
        dtype = team.agree(lambda: choose(settings.precision, place, out).dtype)
        _train(team, settings, out, Arithmetic(place, dtype))

    run_launched(work, place, settings.parts, settings.sharding)


def _train(team: Team, s: LMSettings, out: str | Path, arithmetic: Arithmetic) -> None:
    if s.threads or team.size > 1:
        torch.set_num_threads(s.threads or 1)
    torch.manual_seed(s.seed)
    fresh = team.agree(lambda: newest(out) is None)
    fit(LMTrainer(s, arithmetic, team, fresh), s, out, arithmetic, team)
