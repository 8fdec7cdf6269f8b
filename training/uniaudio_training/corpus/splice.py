"""Splices words of one recording into another of nearly the same sentence; outside the span the
samples are unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .flite import SAMPLE_RATE, Segment
from .schema import Span
from .speech import Utterance, loud_level

_FADE = int(0.006 * SAMPLE_RATE)  # samples of the cross-fade at either end, inside the span
_REACH = int(0.008 * SAMPLE_RATE)  # samples, how far a cut may move to match the phase
_LOOK = int(0.008 * SAMPLE_RATE)  # samples on either side that are compared


@dataclass(frozen=True)
class Spliced:
    """int16 source and target; ``segments`` are those of the target."""

    source: NDArray[np.int16]
    target: NDArray[np.int16]
    source_span: Span
    target_span: Span
    segments: tuple[Segment, ...]


def _same(a: Segment, b: Segment) -> bool:
    return (a.phone, a.word, a.begins) == (b.phone, b.word, b.begins)


def _in_phase(a: NDArray, b: NDArray, at_a: int, at_b: int) -> int | None:
    """The position near ``at_b`` where ``b`` matches ``a`` at ``at_a`` best; None too close to an
    end.
    """
    if (
        at_a < _LOOK
        or at_a + _LOOK > len(a)
        or at_b < _LOOK + _REACH
        or at_b + _LOOK + _REACH > len(b)
    ):
        return None
    piece = a[at_a - _LOOK : at_a + _LOOK]
    wide = b[at_b - _REACH - _LOOK : at_b + _REACH + _LOOK]
    views = np.lib.stride_tricks.sliding_window_view(wide, 2 * _LOOK)
    score = (views * piece).sum(1) / np.sqrt((views**2).sum(1) * (piece**2).sum() + 1e-9)
    return at_b - _REACH + int(np.argmax(score))


def splice_words(a: Utterance, b: Utterance, level_db: float) -> Spliced | None:
    """``a`` with the words that ``b`` says differently.

    A cut lies in the middle of the phone next to the differing words, moved by at most 8 ms to
    match the waveforms. None where the sentences share no phone at either end, or do not differ.
    """
    sa, sb = a.segments, b.segments
    head = 0
    while head < min(len(sa), len(sb)) and _same(sa[head], sb[head]):
        head += 1
    tail = 0
    while tail < min(len(sa), len(sb)) - head and _same(sa[-1 - tail], sb[-1 - tail]):
        tail += 1
    if (
        head < 1
        or tail < 1
        or head == len(sa)
        or head == len(sb)
        or head + tail > min(len(sa), len(sb))
    ):
        return None

    def middle(segments: tuple[Segment, ...], i: int) -> float:
        start = segments[i - 1].end if i else 0.0
        return 0.5 * (start + segments[i].end)

    first_a, last_a = (round(middle(sa, i) * SAMPLE_RATE) for i in (head - 1, len(sa) - tail))
    first_b, last_b = (round(middle(sb, i) * SAMPLE_RATE) for i in (head - 1, len(sb) - tail))
    at_first = _in_phase(a.samples, b.samples, first_a, first_b)
    at_last = _in_phase(a.samples, b.samples, last_a, last_b)
    if (
        at_first is None
        or at_last is None
        or at_last - at_first < 4 * _FADE
        or last_a - first_a < 4 * _FADE
    ):
        return None
    loud = 10 ** ((level_db - loud_level(a.samples)) / 20)
    gain = 32767 * min(
        loud, 0.97 / max(float(np.abs(a.samples).max()), float(np.abs(b.samples).max()))
    )
    source = np.round(a.samples * gain).astype(np.int16)
    new = b.samples[at_first:at_last] * gain
    rise = np.linspace(0, 1, _FADE)
    new[:_FADE] = new[:_FADE] * rise + source[first_a : first_a + _FADE] * (1 - rise)
    new[-_FADE:] = new[-_FADE:] * rise[::-1] + source[last_a - _FADE : last_a] * (1 - rise[::-1])
    target = np.concatenate((source[:first_a], np.round(new).astype(np.int16), source[last_a:]))

    into, after = (first_a - at_first) / SAMPLE_RATE, (first_a + len(new) - last_a) / SAMPLE_RATE
    segments = list(sa[: head - 1])
    segments += [replace(s, end=s.end + into) for s in sb[head - 1 : len(sb) - tail]]
    segments += [replace(s, end=s.end + after) for s in sa[len(sa) - tail :]]
    return Spliced(
        source, target, Span(first_a, last_a), Span(first_a, first_a + len(new)), tuple(segments)
    )
