"""The loss of every step of a run, on several numbers of processes, in one set of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._dynamo.utils import counters
from uniaudio_training import compiling
from uniaudio_training.data_parallel import Team
from uniaudio_training.lm.setup import LMSettings
from uniaudio_training.lm.train_lm import _train
from uniaudio_training.precision import Arithmetic
from uniaudio_training.settings import settings_from

Case = tuple[int, int, dict[str, Any]]  # processes, those of a machine, settings of its own


def curves(rank: int, folder: str, settings: dict[str, Any], cases: dict[str, Case]) -> None:
    """One of the processes; the leading one of each case writes ``curve-NAME``; NAME is its run."""
    torch.set_num_threads(1)
    compiling.backend = "aot_eager"
    place, average = Path(folder), Team.average
    losses: list[float] = []

    def noted(self, *args):
        mean, values = average(self, *args)
        losses.append(float(mean))
        return mean, values

    Team.average = noted
    for name, (size, machine, own) in cases.items():
        if rank >= size:
            continue
        given = settings_from(LMSettings, settings | own)
        losses.clear()
        store = dist.FileStore(str(place / f"store-{name}"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        team = Team(rank, size, given.parts, machine, given.sharding)
        dtype = getattr(torch, given.precision)
        _train(team, given, place / name, Arithmetic(torch.device("cpu"), dtype))
        dist.destroy_process_group()
        if team.leads:
            (place / f"curve-{name}").write_text(json.dumps(losses))
            (place / f"graphs-{name}").write_text(str(counters["stats"]["unique_graphs"]))
