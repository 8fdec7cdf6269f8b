"""The report of an evaluation: saved task by task so that a stopped run can resume, printed, and
written into docs/quality.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..corpus.reading import Corpus
from .cases import JUDGES
from .engines import Subject
from .joint import (
    CEILING,
    FLOOR,
    GAIN,
    GOALS,
    MODEL,
    SINGLE,
    TRUTH,
    WHO,
    Judged,
    Score,
    blind,
    lower_is_better,
)

_MODEL_FILES = (".safetensors", ".json", ".model", ".txt", ".pt")
VERSION = 2  # version of the metrics; results of other versions are measured again
QUALITY = Path(__file__).resolve().parents[3] / "docs" / "quality.md"
BEGIN, END = "<!-- judged: begin; written by the command below -->", "<!-- judged: end -->"


def digest(subject: Subject | None) -> str:
    """Digest of the weights and configuration in a model's or a run's folder; the name of a fake."""
    if subject is None:
        return ""
    if subject.folder is None:
        return subject.name
    h = hashlib.sha256()
    for path in sorted(p for p in subject.folder.iterdir() if p.suffix in _MODEL_FILES):
        h.update(path.name.encode())
        with path.open("rb") as f:
            while block := f.read(1 << 20):
                h.update(block)
    return h.hexdigest()[:16]


def corpus_digest(corpus: Corpus, task: str) -> str:
    """Digest of the labels of a task's test split."""
    h = hashlib.sha256()
    for path in sorted(corpus.folder.glob(f"{task}-test-*.jsonl")):
        h.update(path.read_bytes())
    return h.hexdigest()[:16]


class Report:
    """Results by task in a JSON file.

    A result is reused only where nothing that affects it has changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tasks: dict[str, dict[str, Any]] = {}
        try:
            data = json.loads(path.read_text())
            if data.get("version") == VERSION:
                self.tasks = dict(data["tasks"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise ValueError(
                f"{path}: expected a report of this command ({type(e).__name__}); remove it or "
                "name another --json"
            ) from None

    def find(self, task: str, key: dict[str, Any]) -> Judged | None:
        entry = self.tasks.get(task)
        return (
            Judged.from_json(entry["judged"]) if entry is not None and entry["key"] == key else None
        )

    def add(self, key: dict[str, Any], judged: Judged) -> None:
        self.tasks[judged.task] = {"key": key, "judged": judged.as_json()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_text(
            json.dumps({"version": VERSION, "tasks": self.tasks}, indent=1, allow_nan=False) + "\n"
        )
        part.replace(self.path)


def _number(x: float) -> str:
    return (
        "–"
        if math.isnan(x)
        else f"{0.0 if abs(x) < 5e-4 else x:.3f}"
        if abs(x) < 100
        else f"{x:.0f}"
    )


def _wanted(task: str, measure: str, which: int) -> str:
    value = GOALS[task][measure][which]
    if value is None:
        return "–"
    sign = "=" if "outside" in measure else "≤" if lower_is_better(measure) else "≥"
    return f"{sign} {value:g}"


def _by(judged: Judged) -> dict[tuple[str, str], Score]:
    return {(s.measure, s.who): s for s in judged.scores}


def measures_of(judged: Judged) -> list[str]:
    """The measures of a result in order, those with a goal first."""
    return list(dict.fromkeys(s.measure for s in judged.scores))


def table(results: Sequence[Judged]) -> str:
    """A text table: a line per measure, a column per answer."""
    head = (
        "task",
        "measure",
        "count",
        "model",
        "95 % interval",
        "single",
        "ceiling",
        "floor",
        "truth",
        "goal",
        "at least",
        "",
    )
    lines: list[tuple[str, ...]] = [head]
    for j in results:
        by = _by(j)
        for measure in measures_of(j):
            found = {who: by.get((measure, who)) for who in WHO}
            m, some = found[MODEL], next(s for s in found.values() if s is not None)
            span = (
                "–" if m is None or math.isnan(m.low) else f"{_number(m.low)} to {_number(m.high)}"
            )
            values = {who: "–" if s is None else _number(s.value) for who, s in found.items()}
            goal = measure in GOALS[j.task]
            lines.append(
                (
                    j.task,
                    measure,
                    str(some.count),
                    values[MODEL],
                    span,
                    values[SINGLE],
                    values[CEILING],
                    values[FLOOR],
                    values[TRUTH],
                    _wanted(j.task, measure, 0) if goal else "",
                    _wanted(j.task, measure, 1) if goal else "",
                    m.verdict if m is not None else "",
                )
            )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def joint_against_single(results: Iterable[Judged]) -> str:
    """On how many tasks the joint model is at least as good by the first measure, and where the
    difference is significant.
    """
    at_least, compared = 0, 0
    beyond: dict[str, list[str]] = {"better": [], "worse": []}
    for j in results:
        by = _by(j)
        first = next(iter(GOALS[j.task]))
        if (first, GAIN) not in by:
            continue
        sign, gain = 1 if lower_is_better(first) else -1, by[first, GAIN]
        compared += 1
        at_least += sign * gain.value <= 0
        if gain.low > 0 or gain.high < 0:
            beyond["better" if sign * gain.value < 0 else "worse"].append(j.task)
    if not compared:
        return ""
    named = "; ".join(
        f"significantly {word}: {', '.join(tasks) or 'none'}" for word, tasks in beyond.items()
    )
    return (
        f"The joint model is at least as good as the single-task one on the first measure of "
        f"{at_least} of {compared} tasks ({named})."
    )


def markdown(results: Sequence[Judged], command: str, about: str) -> str:
    """Two tables: one row per task with goals and reference values, and all measures."""
    out = [
        f"Written by `{command}`",
        f"({about}; the number of examples is in parentheses).",
        "Intervals: 95 %, by bootstrap over items. *Ceiling*: the truth through the codec with the",
        "LM's codebooks. *Floor*: a model that does nothing. *Truth*: the original recordings,",
        "measured alike.",
        "",
        "| task | measures, answers | value (95 % interval) | goal | at least | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for j in results:
        by = _by(j)
        goals = [m for m in GOALS[j.task] if any(s.measure == m for s in j.scores)]

        def cells(who: str, goals: list[str] = goals, by: dict[tuple[str, str], Score] = by) -> str:
            return " · ".join(_with_interval(by[m, who]) if (m, who) in by else "–" for m in goals)

        verdicts = " · ".join(
            by[m, MODEL].verdict or "–" if (m, MODEL) in by else "–" for m in goals
        )
        wanted = [" · ".join(_wanted(j.task, m, i) for m in goals) for i in (0, 1)]
        out.append(
            f"| **{j.task}** ({j.items}) | {' · '.join(goals)} | **{cells(MODEL)}** | {wanted[0]} "
            f"| {wanted[1]} | {verdicts} |"
        )
        names = {
            SINGLE: "single-task model of the same size",
            GAIN: "joint minus single-task",
            CEILING: "ceiling",
            FLOOR: f"floor: {JUDGES[j.task].floor}",
            TRUTH: "truth",
        }
        out += [
            f"| | {names[who]} | {cells(who)} | | | |"
            for who in (SINGLE, GAIN, CEILING, FLOOR, TRUTH)
            if any((m, who) in by for m in goals)
        ]
    out += ["", compared] if (compared := joint_against_single(results)) else []
    out += [
        "",
        "All measures:",
        "",
        "| task | measure | count | model | single | ceiling | floor | truth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for j in results:
        by = _by(j)
        for measure in measures_of(j):
            found = [by.get((measure, who)) for who in WHO]
            count = next(s.count for s in found if s is not None)
            out.append(
                f"| {j.task} | {measure} | {count} | "
                + " | ".join("–" if s is None else _with_interval(s) for s in found)
                + " |"
            )
    blinded = [f"{j.task} ({', '.join(blind(j.scores))})" for j in results if blind(j.scores)]
    if blinded:
        out += ["", f"Measures that do not separate floor and truth here: {'; '.join(blinded)}."]
    return "\n".join(out) + "\n"


def _with_interval(s: Score) -> str:
    return (
        _number(s.value)
        if math.isnan(s.low) or s.high - s.low < 1e-9
        else f"{_number(s.value)} ({_number(s.low)} to {_number(s.high)})"
    )


def write_section(text: str, path: Path = QUALITY) -> None:
    """Writes ``text`` between the markers in ``path``; appends the section where there are none."""
    if not path.exists():
        raise ValueError(f"--write: expected {path}; run it in a checkout of the repository")
    old = path.read_text(encoding="utf-8")
    section = f"{BEGIN}\n\n{text}\n{END}"
    if BEGIN in old and END in old.split(BEGIN, 1)[1]:
        before, rest = old.split(BEGIN, 1)
        new = before + section + rest.split(END, 1)[1]
    else:
        new = f"{old.rstrip()}\n\n## All tasks, one model\n\n{section}\n"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(new, encoding="utf-8")
    part.replace(path)
