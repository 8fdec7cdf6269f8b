"""Changing the rate of a sound as it comes, with a delay of a few milliseconds.

Files are resampled with soxr. Its streams work in long blocks, and hold back up to a tenth of a
second; a live sound cannot wait that long. This is a windowed-sinc filter in polyphase form.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown

Samples = NDArray[np.float32]
MIN_RATE, MAX_RATE, RATE_STEP = 8000, 192000, 25  # Hz
_ZEROS = 32  # zero crossings on either side of the filter's centre: 2 ms at 16 kHz
_BETA = 9.0  # of the Kaiser window: about 90 dB of attenuation
_CUTOFF = 0.91  # of the lower rate's half


class Resampler:
    """Samples at one rate in, at another out; the result does not depend on how they are split.

    Output sample j belongs to the time of input sample j * rate_in / rate_out: there is no delay
    to compensate, only a wait of :attr:`lookahead` input samples.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        """Rates in Hz, for which :func:`check_rate` holds."""
        common = math.gcd(rate_in, rate_out)
        self._up, self._down = rate_out // common, rate_in // common
        self.lookahead = 0
        if self._up != self._down:
            widest = max(1.0, rate_in / rate_out)  # input samples per crossing
            self.lookahead = math.ceil(_ZEROS * widest)
            self._taps = _filters(self._up, self.lookahead, _CUTOFF / widest, widest)
        self.reset()

    def reset(self) -> None:
        """Begin a new sound."""
        self._held = np.zeros(self.lookahead, np.float32)  # silence before the first sample
        self._begin = -self.lookahead  # the input sample that ``held`` begins with
        self._count = self._made = 0

    def push(self, samples: Samples) -> Samples:
        """samples [n] at the input's rate -> those at the output's that they complete."""
        self._count += len(samples)
        if not self.lookahead:
            return samples
        self._held = np.concatenate((self._held, samples))
        ready = self._count - self.lookahead  # input samples with all of their surroundings
        return self._up_to(-(-ready * self._up // self._down))

    def flush(self) -> Samples:
        """The rest: ceil(n * rate_out / rate_in) samples in all. The next push begins a new sound."""
        rest = np.zeros(0, np.float32)
        if self.lookahead:
            silence = np.zeros(self.lookahead + 1, np.float32)
            self._held = np.concatenate((self._held, silence))
            rest = self._up_to(-(-self._count * self._up // self._down))
        self.reset()
        return rest

    def _up_to(self, end: int) -> Samples:
        """The output samples before ``end`` that have not been made."""
        if end <= self._made:
            return np.zeros(0, np.float32)
        at = np.arange(self._made, end, dtype=np.int64) * self._down
        first = at // self._up - self.lookahead + 1 - self._begin
        width = self._taps.shape[1]
        windows = np.lib.stride_tricks.sliding_window_view(self._held, width)[first]
        out = (windows * self._taps[at % self._up]).sum(axis=1)
        self._made = end
        keep = end * self._down // self._up - self.lookahead + 1 - self._begin
        if keep > 0:
            self._held, self._begin = self._held[keep:].copy(), self._begin + keep
        return out.astype(np.float32)


def check_rate(rate: object) -> int:
    """The rate in Hz. Raises :class:`InputError` for one that a live sound cannot have."""
    good = type(rate) is int and MIN_RATE <= rate <= MAX_RATE and rate % RATE_STEP == 0
    if not good:
        raise InputError(
            f"sample_rate: expected {MIN_RATE} to {MAX_RATE} Hz in steps of {RATE_STEP}, got "
            f"{shown(rate)}"
        )
    assert isinstance(rate, int)
    return rate


def _filters(phases: int, half: int, cutoff: float, widest: float) -> NDArray[np.float64]:
    """[phases, 2 half]: for each position between two input samples, the weights of the ``half``
    samples up to it and the ``half`` after it. Each sums to 1.

    ``cutoff``: of half the input's rate. ``widest``: input samples per zero crossing.
    """
    offsets = np.arange(-half + 1, half + 1)[None] - (np.arange(phases) / phases)[:, None]
    inside = np.clip(offsets / (_ZEROS * widest), -1, 1)
    window = np.i0(_BETA * np.sqrt(1 - inside**2))
    taps = np.sinc(offsets * cutoff) * window * (np.abs(inside) < 1)
    return np.asarray(taps / taps.sum(axis=1, keepdims=True), np.float64)
