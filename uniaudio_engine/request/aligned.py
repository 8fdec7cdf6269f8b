"""Aligned rows: sources that are aligned with the target in time ride beside it, one row of ids
with each frame.

Row t goes with the step that predicts frame t: the LM embeds its ids, sums them and adds the sum to
that step's input, so a time-aligned source costs no sequence at all (concatenating it would double
the frames). Each column has its own ``aligned_span``; -1 adds nothing. A row may look ahead
(``ahead*``, ``unit_next``), as far as streaming may wait. Pure NumPy and no state; T frames, S
columns, P phones.

Of the phones' columns (``ALIGNED_SLOTS``) an audio frame inside phone i has (p[i], p[i+1], p[i+2],
min(left, size) - 1), where ``left`` counts the frames that remain in this phone, this one included;
the duration token of phone i has (p[i], p[i+1], p[i+2], -1); phones beyond the sentence's end are
-1, and so is all else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..storage.config import Span
from .sequence import ALIGNED_SLOTS, Ids, Layout, Sequence, build_sequence, checked

LOOKAHEAD = 3  # frames that ``ahead*`` and ``unit_next`` are ahead of their row: 60 ms
LOWEST_NOTE = 35  # note 1 is MIDI pitch 36; 0 is a rest
CONTEXT_BEFORE, CONTEXT_AFTER = 100, 50  # frames around a speech edit that are its voice prompt
SOURCE, AHEAD = (
    8,
    4,
)  # codebooks of the source that a row holds, of now and of LOOKAHEAD frames later


def joint_spans(start: int, codebook_size: int, units: int) -> tuple[Span, ...]:
    """The aligned spans that the tasks beyond tts need, from id ``start`` on."""
    sizes = {
        "note": 64,
        "note_left": 64,
        "time_left": 64,
        "edit": 2,
        "unit": units,
        "unit_next": units,
    }
    sizes |= {f"source{k}": codebook_size for k in range(SOURCE)} | {
        f"ahead{k}": codebook_size for k in range(AHEAD)
    }
    spans = []
    for name, size in sizes.items():
        spans.append(Span(name, start, size))
        start += size
    return tuple(spans)


def put(layout: Layout, rows: Ids, name: str, values: Any) -> None:
    """Write a column: values [T] of the aligned span ``name`` from 0, or -1."""
    span = layout.vocabulary.aligned_span(name)
    v = np.asarray(values)
    checked(v[v >= 0], span.size, name)
    rows[:, layout.aligned_column(name)] = np.where(v >= 0, v + span.start, -1)


def phone_features(layout: Layout, phones: Any) -> Ids:
    """phones [P] -> [P, S]: the aligned rows of their duration tokens (only the phone and the two
    after it).
    """
    p = checked(phones, layout.vocabulary.aligned_span(ALIGNED_SLOTS[0]).size, "phone ids")
    rows = layout.no_aligned(len(p))
    for ahead, name in enumerate(ALIGNED_SLOTS[:3]):
        put(layout, rows, name, np.concatenate((p[ahead:], np.full(min(ahead, len(p)), -1))))
    return rows


def phone_rows(layout: Layout, phones: Any, durations: Any) -> Ids:
    """phones [P], durations [P] in frames (at least 1, not clipped) -> the audio frames' aligned
    rows [sum(durations), S].
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


def put_notes(layout: Layout, rows: Ids, pitches: Any, durations: Any) -> None:
    """Notes in order: MIDI pitches (0: a rest) and frames each, together as many as there are rows."""
    d = np.asarray(durations, np.int64)
    pitch = np.asarray(pitches, np.int64)
    if d.shape != pitch.shape or (d < 0).any() or d.sum() != len(rows):
        raise ValueError(f"notes: expected durations of {len(rows)} frames in all, got {d.sum()}")
    note = np.where(pitch > 0, np.clip(pitch - LOWEST_NOTE, 1, 63), 0)
    put(layout, rows, "note", np.repeat(note, d))
    left = np.repeat(np.cumsum(d), d) - np.arange(len(rows))
    put(layout, rows, "note_left", np.minimum(left, 64) - 1)


def put_source(layout: Layout, rows: Ids, codes: Any, hidden: Any | None = None) -> None:
    """A source sound's codes [T, K] (the first :data:`SOURCE` codebooks of it); frames where
    ``hidden`` [T] are left out.
    """
    c = np.asarray(codes, np.int64)
    c = np.where(
        np.zeros(len(c), bool)[:, None] if hidden is None else np.asarray(hidden)[:, None], -1, c
    )
    later = np.concatenate((c[LOOKAHEAD:], np.full((min(LOOKAHEAD, len(c)), c.shape[1]), -1)))
    for k in range(min(SOURCE, c.shape[1])):
        put(layout, rows, f"source{k}", c[:, k])
    for k in range(min(AHEAD, c.shape[1])):
        put(layout, rows, f"ahead{k}", later[:, k])


def edit_context(codes: Any, begin: int, end: int) -> Any:
    """What is around an edited span [begin, end) of codes [T, K]: first what follows it, then what
    leads up to it.
    """
    return np.concatenate(
        (codes[end : end + CONTEXT_AFTER], codes[max(0, begin - CONTEXT_BEFORE) : begin])
    )


def put_units(layout: Layout, rows: Ids, units: Any) -> None:
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
    """How much is still to come, finer towards the end: 6 steps to each doubling of the frames that
    remain.
    """
    left = np.arange(len(rows), 0, -1)
    put(layout, rows, "time_left", np.minimum(63, (6 * np.log2(left)).astype(np.int64)))


def put_edit(layout: Layout, rows: Ids, begin: int, end: int) -> None:
    """Marks which frames are to be made anew (begin <= t < end) and which are to be as they were."""
    t = np.arange(len(rows))
    put(layout, rows, "edit", ((t >= begin) & (t < end)).astype(np.int64))


def tts_sequence(
    layout: Layout, phones: Any, durations: Any, codes: Any, prompt: Any | None = None
) -> Sequence:
    """A whole tts sequence: phones [P], durations [P] of sum T', codes [T', K], prompt codes [T, K]
    or None for no voice.
    """
    voice = layout.fill([]) if prompt is None or not len(prompt) else layout.codes_to_frames(prompt)
    return build_sequence(
        layout,
        "tts_task",
        [("audio_prompt", voice)],
        codes,
        phone_rows(layout, phones, durations),
        phones=phones,
        durations=durations,
        duration_rows=phone_features(layout, phones),
    )
