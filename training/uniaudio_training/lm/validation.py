"""A run's validation losses on disk, and the effect of fine-tuning on the old tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from ..data_parallel import Team
from ..loop import Run

FILE = "validation.jsonl"


class Record:
    """``validation.jsonl`` of a run.

    One line per validation: {"step": n, "losses": {task: [K codebooks, durations]}}, in nats (null
    where a task has no durations). ``old``: the tasks that the model did before the run. Step 0 has
    the losses before training.
    """

    def __init__(self, folder: str | Path, old: Sequence[str], team: Team | None = None) -> None:
        self.path, self.old, self.team = Path(folder) / FILE, tuple(old), team or Team()

    def add(self, step: int, losses: Mapping[str, Sequence[float]]) -> None:
        """Adds a validation, in the leading process."""
        if not self.team.leads:
            return
        plain = {
            task: [round(v, 6) if math.isfinite(v) else None for v in values]
            for task, values in losses.items()
        }
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, "losses": plain}) + "\n")

    def changes(self) -> dict[str, tuple[float, float]]:
        """(before the run, now) for each old task, in nats per code, averaged over codebooks."""
        if not self.path.exists():
            return {}
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        none: dict[str, list[float]] = {}
        first = next((r["losses"] for r in rows if r["step"] == 0), none)
        last = rows[-1]["losses"]
        return {
            task: (_codes(first[task]), _codes(last[task]))
            for task in self.old
            if task in first and task in last
        }

    def summary(self) -> str:
        """A line with the losses of the old tasks before and after; empty without old tasks."""
        changes = self.changes()
        if not changes:
            return ""
        each = ", ".join(
            f"{task} {before:.3f} -> {after:.3f} ({after - before:+.3f})"
            for task, (before, after) in changes.items()
        )
        worst = max(after - before for before, after in changes.values())
        return f"old tasks, nats a code: {each}; worst {worst:+.3f}"

    def worst(self) -> float:
        """The largest loss increase of an old task, in nats per code; negative where all improved,
        0 without any. All processes call it together.
        """
        return self.team.agree(
            lambda: max((after - before for before, after in self.changes().values()), default=0.0)
        )


def walk_back(
    run: Run,
    model: nn.Module,
    start: nn.Module,
    record: Record,
    bound: float,
    measure: Callable[[], Mapping[str, Sequence[float]]],
) -> float:
    """Moves the weights back towards ``start`` until no old task has lost more than ``bound``.

    Returns the kept share of the way from ``start`` to ``model``. On the line between a model and
    its fine-tuned version (weight-space ensembles, arXiv 2109.01903) the loss of the old tasks
    grows roughly with the square of the distance: one or two measurements are enough. The new task
    gets worse;
    docs/new-task.md has the numbers.
    """
    begin = start.state_dict()
    end = {name: value.clone() for name, value in model.state_dict().items()}
    kept = 1.0
    while (worst := record.worst()) > bound:
        kept *= 0.98 * math.sqrt(bound / worst)
        model.load_state_dict(
            {name: begin[name] + kept * (value - begin[name]) for name, value in end.items()}
        )
        run.save()
        record.add(run.step, measure())
    return kept


def _codes(values: Sequence[float]) -> float:
    return sum(values[:-1]) / (len(values) - 1)
