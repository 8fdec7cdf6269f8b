"""Log-mel filter banks as Kaldi computes them, which encoders of speakers take."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

RATE = 16000  # Hz
_LENGTH, _SHIFT, _FFT = 400, 160, 512  # samples: 25 ms every 10 ms
_LOWEST = 20.0  # Hz


def fbank(samples: NDArray[np.float32], bands: int = 80) -> NDArray[np.float32]:
    """samples [N] at :data:`RATE` Hz, N >= 400 -> [T, bands], T = 1 + (N - 400) // 160.

    Frames without their mean, pre-emphasis 0.97, Kaldi's "povey" window, power spectrum, triangles
    on the mel scale from 20 Hz to half the rate, natural logarithm.
    """
    x = np.asarray(samples, np.float64)
    count = 1 + (len(x) - _LENGTH) // _SHIFT
    if len(x) < _LENGTH:
        raise ValueError(f"samples: expected at least {_LENGTH}, got {len(x)}")
    frames = np.lib.stride_tricks.sliding_window_view(x, _LENGTH)[::_SHIFT][:count]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_LENGTH) / (_LENGTH - 1))
    windowed = (frames - 0.97 * before) * hann**0.85
    power = np.square(np.abs(np.fft.rfft(windowed, _FFT)))[:, :-1]
    energy = power @ _triangles(bands).T
    return np.log(np.maximum(energy, np.finfo(np.float32).eps)).astype(np.float32)


def _triangles(bands: int) -> NDArray[np.float64]:
    """Weights [bands, 256] of the spectrum's bins."""
    low, high = _mel(_LOWEST), _mel(RATE / 2)
    edges = low + (high - low) / (bands + 1) * np.arange(bands + 2)
    left, centre, right = (edges[i : i + bands, None] for i in range(3))
    mel = _mel(np.arange(_FFT // 2) * (RATE / _FFT))
    return np.maximum(
        0.0, np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
    )


def _mel(hertz: ArrayLike) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)
