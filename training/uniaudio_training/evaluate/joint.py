"""Evaluates a model on the test split of a corpus, task by task.

Five answers to the same cases are measured alike:

- the model's
- that of a single-task model of the same size, where one is given
- the ceiling: the truth through the model's codec, with as many codebooks as the LM uses
- the floor: the unchanged input, or another item of the split
- the truth

A metric that scores truth and floor alike is useless; :func:`blind` finds such metrics.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from ..corpus.reading import Corpus, Examples
from .cases import FRECHET, JUDGES, Case, Judge, Samples, choose, fit
from .engines import Subject
from .metrics import Errors, Moments, error_rate, frechet_distance, interval, log_mel
from .originals import item_seed
from .rows import plain

MODEL, SINGLE, CEILING, FLOOR, TRUTH = "model", "single", "ceiling", "floor", "truth"
WHO = (MODEL, SINGLE, CEILING, FLOOR, TRUTH)
GAIN = "model - single"  # for measures with a goal; a paired bootstrap over the items
LIMIT = 48  # examples per task by default
_BATCH = 8
_REFERENCE_CLIPS = 150  # of the train split, for Fréchet distances

# Task -> measure -> (goal, acceptable value); None: none is set.
GOALS: dict[str, dict[str, tuple[float, float | None]]] = {
    "tts": {"grammar WER": (0.05, 0.10), "speaker similarity": (0.81, 0.77)},
    "vc": {"grammar WER": (0.08, 0.20), "cosine to target - to source": (0.15, 0.05)},
    "se": {"ESTOI gain at 0 dB": (0.20, 0.10), "grammar WER at 10 dB": (0.10, 0.25)},
    "tse": {"cosine to target - to interferer": (0.20, 0.10), "ESTOI gain": (0.20, 0.10)},
    "svs": {"notes within 50 cents": (0.95, 0.80), "grammar WER": (0.25, None)},
    "t2s": {"class": (0.95, 0.80), "count and pitch followed": (0.80, None)},
    "t2m": {"instrument": (0.75, 0.50), "tempo within 5 %": (0.80, None)},
    "a_edit": {"event right": (0.90, 0.70), "largest change outside the span": (0.0, 0.0)},
    "sd": {"ESTOI gain": (0.25, 0.10)},
    "i_tts": {"instruction bins right": (0.90, 0.75)},
    "s_edit": {"WER of the new words": (0.10, 0.25), "samples outside bit-exact": (1.0, 1.0)},
}
_LESS = ("WER", "error", "distance", "change")


def lower_is_better(measure: str) -> bool:
    return any(word in measure for word in _LESS)


@dataclass
class Score:
    """``value`` of an answer (``who``) with its 95 % interval over items, from ``count`` values."""

    task: str
    measure: str
    who: str
    value: float
    low: float
    high: float
    count: int

    @property
    def verdict(self) -> str:
        """ "goal", "floor" or "below" for a measure with a goal, else ""."""
        wanted = GOALS.get(self.task, {}).get(self.measure)
        if wanted is None or math.isnan(self.value):
            return ""
        sign = 1 if lower_is_better(self.measure) else -1
        goal, least = wanted
        if sign * self.value <= sign * goal:
            return "goal"
        return "" if least is None else "floor" if sign * self.value <= sign * least else "below"

    def as_json(self) -> dict[str, Any]:
        return plain(asdict(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Score:
        values: dict[str, Any] = {k: math.nan if v is None else v for k, v in data.items()}
        return cls(**values)


@dataclass
class Plan:
    """``limit`` examples per task; the seed is used by the model and by the bootstrap."""

    limit: int = LIMIT
    seed: int = 0


@dataclass
class Answers:
    """A model's answers, silence in place of failed ones, and the errors."""

    sounds: list[Samples] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    audio_seconds: float = 0.0
    seconds: float = 0.0


def ask(subject: Subject, task: str, cases: Sequence[Case], seed: int, progress: bool) -> Answers:
    """The model's answers to all cases, in batches. Batching does not change an answer."""
    found, begin = Answers(), time.monotonic()
    with tqdm(
        total=len(cases), desc=f"{task}: {subject.name}", unit="clip", disable=not progress
    ) as bar:
        for at in range(0, len(cases), _BATCH):
            some = cases[at : at + _BATCH]
            requests = [
                {**c.request, "seed": item_seed(seed, 3, at + i)} for i, c in enumerate(some)
            ]
            try:
                made = subject.make(task, requests)
            except Exception:  # one of the batch failed: find out which
                made = []
                for case, request in zip(some, requests, strict=True):
                    try:
                        made += subject.make(task, [request])
                    except Exception as e:
                        found.trouble.append(f"{case.item}: {type(e).__name__}: {e}")
                        made.append(np.zeros(1600, np.float32))
            found.sounds += made
            bar.update(len(some))
    found.seconds = time.monotonic() - begin
    found.audio_seconds = sum(len(s) for s in found.sounds) / 16000
    return found


def through_codec(subject: Subject, case: Case, judge: Judge) -> Samples:
    """The truth encoded and decoded with the LM's codebooks; for edits, only the edited part."""
    sound = fit(
        subject.through_codec(case.truth, subject.lm_codebooks or subject.codebooks),
        len(case.truth),
    )
    if judge.finish == "span":
        head, tail = case.outside
        sound[:head] = case.truth[:head]
        if tail:
            sound[-tail:] = case.truth[-tail:]
    return sound


class _Statistic:
    """Aggregates measurements; ``of`` returns the function from all measurements to a number."""

    def __init__(self, reference: Moments | None) -> None:
        self.reference = reference

    def of(self, measure: str) -> Callable[[list[Any]], float]:
        if measure == FRECHET:
            return self._frechet
        if measure == "samples outside bit-exact":
            return lambda rows: sum(r[0] for r in rows) / max(1, sum(r[1] for r in rows))
        if measure == "largest change outside the span":
            return lambda rows: max(rows, default=math.nan)
        return lambda rows: (
            error_rate(rows)
            if rows and isinstance(rows[0], Errors)
            else math.fsum(rows) / len(rows)
            if rows
            else math.nan
        )

    def _frechet(self, rows: list[Moments]) -> float:
        if self.reference is None or not rows:
            return math.nan
        whole = rows[0]
        for r in rows[1:]:
            whole = whole + r
        return frechet_distance(whole, self.reference)


def reference_moments(examples: Examples, count: int = _REFERENCE_CLIPS) -> Moments | None:
    """Log-mel moments of clips spread evenly over the train split."""
    whole: Moments | None = None
    for i in np.unique(
        np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int)
    ):
        m = Moments.of(log_mel(examples[int(i)].audio(), 16000))
        whole = m if whole is None else whole + m
    return whole


@dataclass
class Judged:
    """The scores of a task, the errors, and the cost."""

    task: str
    scores: list[Score]
    trouble: list[str]
    items: int
    seconds: float
    audio_seconds: float = 0.0
    model_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return plain(
            {
                **asdict(self),
                "scores": [s.as_json() for s in self.scores],
                "blind": blind(self.scores),
            }
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Judged:
        known = {k: v for k, v in data.items() if k != "blind"}
        return cls(**{**known, "scores": [Score.from_json(s) for s in data["scores"]]})


def judge_task(
    task: str,
    subject: Subject,
    corpus: Corpus,
    plan: Plan,
    single: Subject | None = None,
    progress: bool = True,
) -> Judged:
    """Evaluates one task.

    A model that does not support it is skipped, with an entry in ``trouble``.
    """
    begin = time.monotonic()
    judge = JUDGES[task]
    chosen = choose(corpus[task, "test"], plan.limit)
    cases = list(judge.cases(chosen))
    for case in tqdm(cases, desc=f"{task}: codec", unit="clip", disable=not progress):
        case.ceiling = through_codec(subject, case, judge)
    answers: dict[str, list[Samples]] = {}
    trouble: list[str] = []
    took = Answers()
    for who, model in ((MODEL, subject), (SINGLE, single)):
        if model is None:
            continue
        if task not in model.tasks():
            trouble.append(f"{task}: not supported by {model.name}")
            continue
        given = ask(model, task, cases, plan.seed, progress)
        answers[who] = given.sounds
        trouble += [f"{task}, {who}: {line}" for line in given.trouble]
        took = given if who == MODEL else took
    answers[CEILING] = [c.ceiling for c in cases if c.ceiling is not None]
    answers[FLOOR], answers[TRUTH] = [c.floor for c in cases], [c.truth for c in cases]

    found: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    with tqdm(
        total=len(answers) * len(cases), desc=f"{task}: judging", unit="clip", disable=not progress
    ) as bar:
        for who, sounds in answers.items():
            for case, sound in zip(cases, sounds, strict=True):
                for measure, value in judge.measure(case, sound):
                    found[measure, who][case.item].append(value)
                bar.update()
    needs_reference = any(measure == FRECHET for measure, _ in found) and "train" in corpus.splits(
        task
    )
    statistic = _Statistic(reference_moments(corpus[task, "train"]) if needs_reference else None)
    scores = []
    for (measure, who), items in found.items():
        of = statistic.of(measure)
        groups = list(items.values())
        rows = [v for g in groups for v in g]
        value = of(rows)
        known = not math.isnan(value)
        low, high = (
            interval(groups, of, 50 if measure == FRECHET else 400, plan.seed)
            if known
            else (math.nan, math.nan)
        )
        scores.append(Score(task, measure, who, value, low, high, len(rows)))
    for measure in GOALS[task]:
        if (measure, MODEL) in found and (measure, SINGLE) in found:
            scores.append(
                _gain(
                    task,
                    measure,
                    found[measure, MODEL],
                    found[measure, SINGLE],
                    statistic.of(measure),
                    plan.seed,
                )
            )
    order = list(dict.fromkeys((*GOALS[task], *(measure for measure, _ in found))))
    scores.sort(key=lambda s: (order.index(s.measure), (*WHO, GAIN).index(s.who)))
    return Judged(
        task,
        scores,
        trouble,
        len(chosen),
        round(time.monotonic() - begin, 1),
        round(took.audio_seconds, 1),
        round(took.seconds, 1),
    )


def _gain(
    task: str,
    measure: str,
    ours: dict[str, list[Any]],
    theirs: dict[str, list[Any]],
    of: Callable[[list[Any]], float],
    seed: int,
) -> Score:
    """The model's advantage over the single-task model; the bootstrap resamples the items of both
    together.
    """
    groups = [
        [(MODEL, v) for v in ours.get(item, [])] + [(SINGLE, v) for v in theirs.get(item, [])]
        for item in {**ours, **theirs}
    ]

    def gain(rows: list[Any]) -> float:
        return of([v for who, v in rows if who == MODEL]) - of(
            [v for who, v in rows if who == SINGLE]
        )

    low, high = interval(groups, gain, 400, seed)
    return Score(
        task, measure, GAIN, gain([row for g in groups for row in g]), low, high, len(groups)
    )


def blind(scores: Sequence[Score]) -> list[str]:
    """Measures with a goal that do not separate floor and truth.

    Excluded are measures where the floor is right by construction: what must not change outside an
    edit, and the words of an input that is only converted or noisy.
    """
    by = {(s.measure, s.who): s.value for s in scores}
    found = []
    for s in scores:
        floor = by.get((s.measure, FLOOR), math.nan)
        if s.who != TRUTH or s.measure not in GOALS.get(s.task, {}) or math.isnan(floor):
            continue
        if "outside" in s.measure or (s.task, s.measure) == ("vc", "grammar WER"):
            continue
        sign = 1 if lower_is_better(s.measure) else -1
        if sign * s.value >= sign * floor:
            found.append(s.measure)
    return found
