"""Long sources: overlapping windows that the model hears one by one, and how their results are
joined.

Every window is brought to the level that the model was trained on, and its result back to the
source's. Memory does not grow with the length of the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..audio.blocks import SoundReader
from ..audio.level import gain_to

Samples = NDArray[np.float32]
# The longest training sequences have about this length.
WINDOW_SECONDS = 12.0
OVERLAP_SECONDS = 1.0
_SEAM_SECONDS = 0.1  # of cross-fade, where the source is quietest within the overlap


@dataclass(frozen=True)
class Window:
    """``samples`` [N] of a source as they are; the model hears them times ``gain``.

    ``is_first`` and ``is_last``: it has no window before, or after, it.
    """

    samples: Samples
    gain: float
    is_first: bool
    is_last: bool


class SourceWindows:
    """The windows of a sound, read on demand; ``first`` is read at once. Iterate once."""

    def __init__(
        self, reader: SoundReader, sample_rate: int, frame_size: int, level: float | None
    ) -> None:
        """``level``: dBFS to bring each window to; None: as it is."""
        self._reader, self._rate, self._level = reader, sample_rate, level
        self.overlap = _whole_frames(OVERLAP_SECONDS * sample_rate, frame_size)
        self._size = _whole_frames(WINDOW_SECONDS * sample_rate, frame_size)
        self.seconds = reader.seconds
        self._windows = self._read()
        self.first = next(self._windows)

    def __iter__(self) -> Iterator[Window]:
        yield self.first
        yield from self._windows

    def _read(self) -> Iterator[Window]:
        samples, is_first = self._reader.read(self._size), True
        while True:
            more = self._reader.read(self._size - self.overlap if len(samples) == self._size else 0)
            gain = gain_to(samples, self._rate, self._level)
            yield Window(samples, gain, is_first, not len(more))
            if not len(more):
                return
            samples, is_first = np.concatenate((samples[-self.overlap :], more)), False


class Joiner:
    """Joins the results of windows, each as long as its window.

    Call ``begin`` for each window, then ``push`` with its samples; the return values, one after the
    other, are the whole.
    """

    def __init__(self, overlap: int, sample_rate: int) -> None:
        self._overlap, self._seam = overlap, round(_SEAM_SECONDS * sample_rate)
        self._window: Window | None = None
        self._held = np.zeros(0, np.float32)  # the end of this window, until it is known to be safe
        self._before = np.zeros(0, np.float32)  # the end of the window before, to be joined
        self._begun = np.zeros(0, np.float32)  # the beginning of this window, to be joined

    def begin(self, window: Window) -> None:
        self._before, self._window = self._held, window
        self._held = self._begun = np.zeros(0, np.float32)

    def push(self, samples: Samples) -> Samples:
        assert self._window is not None
        if len(self._before):
            self._begun = np.concatenate((self._begun, samples))
            if len(self._begun) < len(self._before):
                return np.zeros(0, np.float32)
            joined = self._joined(self._before, self._begun[: len(self._before)])
            samples = np.concatenate((joined, self._begun[len(self._before) :]))
            self._before = self._begun = np.zeros(0, np.float32)
        if self._window.is_last:
            return samples
        samples = np.concatenate((self._held, samples))
        safe = max(0, len(samples) - self._overlap)
        self._held = samples[safe:]
        return samples[:safe].copy()  # a view would keep what is held alive

    def _joined(self, before: Samples, after: Samples) -> Samples:
        """Two results [n] of the same part of the source, cross-faded where it is quietest."""
        assert self._window is not None
        n = min(self._seam, len(before))
        power = np.cumsum(np.square(self._window.samples[: len(before)], dtype=np.float64))
        power = power[n - 1 :] - np.concatenate(([0.0], power[: len(before) - n]))
        at = int(np.argmin(power))
        up = np.linspace(0.0, 1.0, n + 2, dtype=np.float32)[1:-1]
        middle = (1 - up) * before[at : at + n] + up * after[at : at + n]
        return np.concatenate((before[:at], middle, after[at + n :])).astype(np.float32)


def _whole_frames(samples: float, frame_size: int) -> int:
    return round(samples / frame_size) * frame_size
