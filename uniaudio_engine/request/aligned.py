"""Aligned rows: sources that are aligned with the target in time, one row of ids per frame.

Row t belongs to the step that predicts frame t: the LM embeds its ids, sums them and adds the sum
to that step's input. An aligned source takes no place in the sequence; concatenating it would
double the frames. Each column has its own ``aligned_span``; -1 adds nothing. A row may look ahead
(``ahead*``, ``unit_next``), as far as streaming may wait. Pure NumPy, no state. T frames, S
columns, P phones.

The columns of phones are ``ALIGNED_SLOTS``. In an audio frame of phone i they are (p[i], p[i+1],
p[i+2], min(left, size) - 1), where ``left`` counts the frames that remain of this phone, this one
included. In the duration token of phone i they are (p[i], p[i+1], p[i+2], -1). Phones beyond the
end of the sentence are -1, as is everything else.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.config import Span
from .sequence import ALIGNED_SLOTS, Ids, Layout, checked
from .tasks import ALIGNED_CODEBOOKS

_T = TypeVar("_T", bound=np.generic)
LOOKAHEAD = 3  # frames that ``ahead*`` and ``unit_next`` look ahead of their row: 60 ms
LOWEST_NOTE = 35  # note 1 is MIDI pitch 36; 0 is a rest
CONTEXT_BEFORE, CONTEXT_AFTER = 100, 50  # frames around a speech edit that are its voice prompt


def joint_spans(start: int, codebook_size: int, units: int) -> tuple[Span, ...]:
    """The aligned spans that tasks other than tts need, from id ``start``."""
    sizes = {
        "note": 64,
        "note_left": 64,
        "time_left": 64,
        "edit": 2,
        "unit": units,
        "unit_next": units,
    }
    for name, most in ALIGNED_CODEBOOKS.items():
        sizes |= {f"{name}{k}": codebook_size for k in range(most)}
    spans = []
    for name, size in sizes.items():
        spans.append(Span(name, start, size))
        start += size
    return tuple(spans)


def put(layout: Layout, rows: Ids, name: str, values: ArrayLike) -> None:
    """Write one column: values [T] from 0 within the aligned span ``name``, or -1."""
    span = layout.vocabulary.aligned_span(name)
    v = np.asarray(values)
    checked(v[v >= 0], span.size, name)
    rows[:, layout.aligned_column(name)] = np.where(v >= 0, v + span.start, -1)


def phone_features(layout: Layout, phones: ArrayLike) -> Ids:
    """phones [P] -> the aligned rows [P, S] of their duration tokens: each phone and the next two."""
    p = checked(phones, layout.vocabulary.aligned_span(ALIGNED_SLOTS[0]).size, "phone ids")
    rows = layout.no_aligned(len(p))
    for ahead, name in enumerate(ALIGNED_SLOTS[:3]):
        put(layout, rows, name, np.concatenate((p[ahead:], np.full(min(ahead, len(p)), -1))))
    return rows


def phone_rows(layout: Layout, phones: ArrayLike, durations: ArrayLike) -> Ids:
    """phones [P] and durations [P] in frames -> aligned rows [sum(durations), S] of the audio.

    Raises ValueError for a duration below 1. Durations are not clipped.
    """
    d = np.asarray(durations, np.int64)
    features = phone_features(layout, phones)
    if d.shape != (len(features),) or (d < 1).any():
        raise ValueError(
            f"durations: expected one for each of {len(features)} phones, each at least 1 frame"
        )
    rows = np.repeat(features, d, axis=0)
    left = np.repeat(np.cumsum(d), d) - np.arange(len(rows))
    put(
        layout,
        rows,
        "frames_left",
        np.minimum(left, layout.vocabulary.aligned_span("frames_left").size) - 1,
    )
    return rows


def put_notes(layout: Layout, rows: Ids, pitches: ArrayLike, durations: ArrayLike) -> None:
    """Notes in order: MIDI pitches (0: a rest) and their frames, which sum to the rows."""
    d = np.asarray(durations, np.int64)
    pitch = np.asarray(pitches, np.int64)
    if d.shape != pitch.shape or (d < 0).any() or d.sum() != len(rows):
        raise ValueError(f"notes: expected durations of {len(rows)} frames in all, got {d.sum()}")
    note = np.where(pitch > 0, np.clip(pitch - LOWEST_NOTE, 1, 63), 0)
    put(layout, rows, "note", np.repeat(note, d))
    left = np.repeat(np.cumsum(d), d) - np.arange(len(rows))
    put(layout, rows, "note_left", np.minimum(left, 64) - 1)


def put_source(
    layout: Layout, rows: Ids, codes: ArrayLike, hidden: ArrayLike | None = None
) -> None:
    """A source's codes [T, K] and those of the frames that its rows look ahead to; frames where
    ``hidden`` [T] stay empty.
    """
    c = np.asarray(codes, np.int64)
    c = np.where(
        np.zeros(len(c), bool)[:, None] if hidden is None else np.asarray(hidden)[:, None], -1, c
    )
    later = np.concatenate((c[LOOKAHEAD:], np.full((min(LOOKAHEAD, len(c)), c.shape[1]), -1)))
    for name, values in (("source", c), ("ahead", later)):
        for k in range(min(ALIGNED_CODEBOOKS[name], c.shape[1])):
            put(layout, rows, f"{name}{k}", values[:, k])


def edit_context(codes: NDArray[_T], begin: int, end: int) -> NDArray[_T]:
    """The surroundings of an edited span [begin, end) of codes [T, K]: first the frames after it,
    then those before it.
    """
    return np.concatenate(
        (codes[end : end + CONTEXT_AFTER], codes[max(0, begin - CONTEXT_BEFORE) : begin])
    )


def put_units(layout: Layout, rows: Ids, units: ArrayLike) -> None:
    """Semantic units [T] of a source."""
    u = np.asarray(units, np.int64)
    put(layout, rows, "unit", u)
    put(
        layout,
        rows,
        "unit_next",
        np.concatenate((u[LOOKAHEAD:], np.full(min(LOOKAHEAD, len(u)), -1))),
    )


def put_time_left(layout: Layout, rows: Ids) -> None:
    """The frames that remain, on a log scale: 6 steps per doubling."""
    left = np.arange(len(rows), 0, -1)
    put(layout, rows, "time_left", np.minimum(63, (6 * np.log2(left)).astype(np.int64)))


def put_edit(layout: Layout, rows: Ids, begin: int, end: int) -> None:
    """Mark the frames to generate anew, begin <= t < end; the others are kept."""
    t = np.arange(len(rows))
    put(layout, rows, "edit", ((t >= begin) & (t < end)).astype(np.int64))
