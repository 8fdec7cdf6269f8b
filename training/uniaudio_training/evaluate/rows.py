"""A row of a report: a value with its confidence interval, its count and its upper bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .metrics import Errors, error_rate, interval

# Targets for the bundled model: measure -> (goal, floor). Error rates are upper limits, all others
# lower limits.
GOALS = {
    ("tts", "grammar WER"): (0.05, 0.12),
    ("tts", "phone error"): (0.12, 0.25),
    ("tts", "speaker similarity"): (0.81, 0.75),
    ("tts", "speaker similarity, cloned"): (0.81, 0.75),
    ("codec", "grammar WER"): (0.03, 0.05),
    ("codec", "PESQ-wb"): (2.6, 1.8),
}


@dataclass
class Row:
    """``value`` with its 95 % interval ``low`` to ``high``, over ``count`` ``unit``.

    ``ceiling`` is the same measure on the original recordings. ``codec_ceiling`` is that on the
    originals through the model's codec, with as many codebooks as the LM uses.
    """

    task: str
    measure: str
    value: float
    count: int
    unit: str
    low: float = math.nan
    high: float = math.nan
    ceiling: float = math.nan
    ceiling_count: int = 0
    codec_ceiling: float = math.nan
    lower_is_better: bool = True
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def goal(self) -> tuple[float, float] | None:
        return GOALS.get((self.task, self.measure.split(" @")[0]))

    @property
    def verdict(self) -> str:
        """ "goal", "floor" or "below" where a goal is set, else ""."""
        if self.goal is None or math.isnan(self.value):
            return ""
        sign = 1 if self.lower_is_better else -1
        goal, floor = self.goal
        return (
            "goal"
            if sign * self.value <= sign * goal
            else "floor"
            if sign * self.value <= sign * floor
            else "below"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; unknown ones are null."""
        d = asdict(self)
        if self.goal is not None:
            d.update(goal=self.goal[0], floor=self.goal[1], verdict=self.verdict)
        return plain(d)


def plain(value: Any) -> Any:
    """Plain JSON values: NaN becomes null, numbers are rounded to five decimals."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 5)
    return value


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def rate_row(
    task: str, measure: str, groups: Sequence[Sequence[Errors]], unit: str, **rest: Any
) -> Row:
    """Error rate over all errors; ``groups`` are resampled as units (a sentence with all its
    voices).
    """
    flat = [e for g in groups for e in g]
    low, high = interval(groups, error_rate)  # type: ignore[arg-type]
    total = sum(flat, Errors())
    details = {
        "substitutions": total.substitutions,
        "deletions": total.deletions,
        "insertions": total.insertions,
        "said": total.reference,
    }
    details.update(rest.pop("details", {}))
    return Row(task, measure, error_rate(flat), len(flat), unit, low, high, details=details, **rest)


def mean_row(
    task: str,
    measure: str,
    groups: Sequence[Sequence[float]],
    unit: str,
    lower_is_better: bool = False,
    **rest: Any,
) -> Row:
    """Mean over all values; ``groups`` as in :func:`rate_row`."""
    flat = [float(v) for g in groups for v in g]
    low, high = interval(groups, mean)  # type: ignore[arg-type]
    return Row(
        task,
        measure,
        mean(flat),
        len(flat),
        unit,
        low,
        high,
        lower_is_better=lower_is_better,
        **rest,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a text table."""

    def number(x: float) -> str:
        return "-" if math.isnan(x) else f"{x:.3f}" if abs(x) < 100 else f"{x:.0f}"

    head = (
        "",
        "measure",
        "value",
        "95 % interval",
        "count",
        "originals",
        "through codec",
        "goal",
        "floor",
        "",
    )
    lines = [head]
    for r in rows:
        goal, floor = r.goal or (math.nan, math.nan)
        span = "-" if math.isnan(r.low) else f"{number(r.low)} to {number(r.high)}"
        lines.append(
            (
                r.task,
                r.measure,
                number(r.value),
                span,
                f"{r.count} {r.unit}",
                number(r.ceiling),
                number(r.codec_ceiling),
                number(goal),
                number(floor),
                r.verdict,
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
