"""Log-mel spectra on Slaney's scale, as vocoders have them, which encoders of speakers take."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RATE = 24000  # Hz
_FFT, _SHIFT = 1024, 256  # samples
_MARGIN = (_FFT - _SHIFT) // 2  # of mirrored samples at both ends
_BLOCK = 512  # frames that are transformed at once
LEAST = _MARGIN + 1  # samples

# Slaney's scale: linear in Hz up to 1 kHz, logarithmic from there.
_LINEAR, _CORNER, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def log_mel(samples: NDArray[np.float32], bands: int = 128) -> NDArray[np.float32]:
    """samples [N] at :data:`RATE` Hz, N >= :data:`LEAST` -> [T, bands], T = N // 256.

    Magnitudes of a periodic Hann window of 1024 samples every 256, triangles of equal area from 0 Hz
    to half the rate, natural logarithm of at least 1e-5. Raises ValueError for fewer samples.
    """
    x = np.asarray(samples, np.float64)
    if len(x) < LEAST:
        raise ValueError(f"samples: expected at least {LEAST}, got {len(x)}")
    x = np.pad(x, _MARGIN, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(x, _FFT)[::_SHIFT]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)
    out = np.empty((len(frames), bands), np.float32)
    for at in range(0, len(frames), _BLOCK):
        spectrum = np.fft.rfft(frames[at : at + _BLOCK] * window)
        magnitude = np.sqrt(np.square(spectrum.real) + np.square(spectrum.imag) + 1e-9)
        out[at : at + _BLOCK] = np.log(np.maximum(magnitude @ _triangles(bands).T, 1e-5))
    return out


@lru_cache(1)
def _triangles(bands: int) -> NDArray[np.float64]:
    """Weights [bands, 513] of the spectrum's bins."""
    top = _CORNER / _LINEAR + np.log(RATE / 2 / _CORNER) / _STEP
    mel = np.linspace(0.0, top, bands + 2)
    above = np.maximum(mel - _CORNER / _LINEAR, 0.0)
    edges = np.where(above > 0, _CORNER * np.exp(_STEP * above), _LINEAR * mel)
    left, centre, right = (edges[i : i + bands, None] for i in range(3))
    bins = np.arange(_FFT // 2 + 1) * (RATE / _FFT)
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling)) * (2 / (right - left))
