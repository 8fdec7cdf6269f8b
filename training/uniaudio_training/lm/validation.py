"""What is kept of a run's validation losses, and what a fine-tuning cost the tasks that the model did before."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE = "validation.jsonl"


class Record:
    """``validation.jsonl`` of a run: a line for each validation, {"step": n, "losses": {task: [K codebooks, durations]}}, in nats (null
    where a task has no durations).  ``old``: the tasks that the model did before the run; step 0 is what it lost then."""

    def __init__(self, folder: str | Path, old: Sequence[str]) -> None:
        self.path, self.old = Path(folder) / FILE, tuple(old)

    def add(self, step: int, losses: Mapping[str, Sequence[float]]) -> None:
        plain = {task: [round(v, 6) if math.isfinite(v) else None for v in values] for task, values in losses.items()}
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, "losses": plain}) + "\n")

    def changes(self) -> dict[str, tuple[float, float]]:
        """Of each old task: nats a code, mean over its codebooks, before the run and at its last validation."""
        if not self.path.exists():
            return {}
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        first, last = next((r["losses"] for r in rows if r["step"] == 0), {}), rows[-1]["losses"]
        return {task: (_codes(first[task]), _codes(last[task])) for task in self.old if task in first and task in last}

    def summary(self) -> str:
        """A line that says what became of the old tasks; empty where there were none."""
        changes = self.changes()
        if not changes:
            return ""
        each = ", ".join(f"{task} {before:.3f} -> {after:.3f} ({after - before:+.3f})" for task, (before, after) in changes.items())
        return f"old tasks, nats a code: {each}; worst {self.worst():+.3f}"

    def worst(self) -> float:
        """The largest loss of any old task, in nats a code; negative where all have gained, 0 where there are none."""
        return max((after - before for before, after in self.changes().values()), default=0.0)

    def check(self, bound: float) -> None:
        """ValueError where an old task has lost more than ``bound``; 0 is no bound."""
        if bound and self.worst() > bound:
            task = max(self.changes().items(), key=lambda c: c[1][1] - c[1][0])[0]
            raise ValueError(f"bound: expected old tasks to lose at most {bound:g} nats a code, {task} lost {self.worst():.3f}; lower lr and matrix_lr, take fewer steps, or give old a larger share")


def _codes(values: Sequence[float]) -> float:
    return sum(values[:-1]) / (len(values) - 1)
