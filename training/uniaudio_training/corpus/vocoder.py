"""A small vocoder: spectral envelopes of clean speech, and resynthesis with a new F0 and timing.

The envelope is CheapTrick (Morise, "CheapTrick, a spectral envelope estimator for high-quality
speech synthesis", Speech Communication 2015): F0-adaptive window, smoothing over 2/3 F0, liftering.
Voicing follows from the phones, which the corpus knows, so that no aperiodicity is estimated.
NumPy only: WORLD would have to be compiled on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .pitch import HOP, SAMPLE_RATE, f0_track

FFT = 1024
_BINS = FFT // 2 + 1
_FREQS = np.arange(_BINS) * SAMPLE_RATE / FFT
_NOISE_HOP, _NOISE_WINDOW = 64, 128

Floats = NDArray[np.floating]


def envelopes(samples: Floats, low: float, high: float) -> Floats:
    """Clean speech [N] with F0 from ``low`` to ``high`` Hz -> log power spectral density [T, 513].

    Frame t is centred on sample t * HOP.
    """
    f0, _ = f0_track(samples, low, high)
    voiced = f0 > 0
    count = len(f0)
    middle = float(np.median(f0[voiced])) if voiced.any() else 150.0
    near = (
        np.interp(np.arange(count), np.flatnonzero(voiced), f0[voiced])
        if voiced.any()
        else np.full(count, middle)
    )
    near = np.clip(near, middle / 1.8, middle * 1.8)

    x = np.pad(np.asarray(samples, np.float64), (FFT // 2, FFT))
    # A floor at -100 dB, to avoid log(0).
    x = x + 1e-5 * np.sin(np.arange(len(x)) * 12.9898) * np.cos(np.arange(len(x)) ** 1.5 * 0.313)
    offset = np.arange(FFT) - FFT // 2
    frames = x[np.arange(count)[:, None] * HOP + np.arange(FFT)[None]]
    half = 1.5 * SAMPLE_RATE / near[:, None]
    window = np.where(
        np.abs(offset)[None] < half, 0.5 + 0.5 * np.cos(np.pi * offset[None] / half), 0.0
    )
    window /= np.sqrt((window**2).sum(1, keepdims=True))
    frames = frames * window
    frames -= window * (frames.sum(1, keepdims=True) / window.sum(1, keepdims=True))
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    # The window leaves nothing below F0: mirror the part above it.
    low_bins = _FREQS[None] < near[:, None]
    mirrored = np.take_along_axis(
        power,
        np.clip(
            np.rint((near[:, None] - _FREQS[None]) * FFT / SAMPLE_RATE).astype(int), 0, _BINS - 1
        ),
        1,
    )
    power = np.where(low_bins, power + mirrored, power)

    wide = np.concatenate(
        (power[:, 128:0:-1], power, power[:, -2:-130:-1]), axis=1
    )  # mirrored ends
    total = np.cumsum(np.pad(wide, ((0, 0), (1, 0))), axis=1)
    edges = np.arange(total.shape[1]) - 128 - 0.5
    smooth = np.empty_like(power)
    centres = np.arange(_BINS)
    for i in range(count):
        width = near[i] * (2 / 3) * FFT / SAMPLE_RATE
        smooth[i] = (
            np.interp(centres + width / 2, edges, total[i])
            - np.interp(centres - width / 2, edges, total[i])
        ) / width
    log = np.log(np.maximum(smooth, 1e-14))
    quefrency = np.arange(_BINS)[None] / SAMPLE_RATE * near[:, None]
    lifter = np.sinc(quefrency) * (1.18 - 0.18 * np.cos(2 * np.pi * quefrency))
    cepstrum = np.fft.irfft(log, FFT, axis=1)[:, :_BINS] * lifter
    full = np.concatenate((cepstrum, cepstrum[:, -2:0:-1]), axis=1)
    return np.fft.rfft(full, axis=1).real


def _minimum_phase(log_amplitude: Floats) -> NDArray[np.complexfloating]:
    """log |H| [R, 513] -> minimum-phase H [R, 513]."""
    cepstrum = np.fft.irfft(log_amplitude, FFT, axis=1)
    cepstrum[:, 1 : FFT // 2] *= 2
    cepstrum[:, FFT // 2 + 1 :] = 0
    return np.exp(np.fft.rfft(cepstrum, axis=1))


def _at(frames: Floats, where: Floats) -> Floats:
    """Rows of ``frames`` [T, D] interpolated at fractional positions [R]."""
    where = np.clip(where, 0, len(frames) - 1.001)
    i = where.astype(int)
    share = (where - i)[:, None]
    return frames[i] * (1 - share) + frames[i + 1] * share


def synthesize(
    rng: np.random.Generator,
    envelope: Floats,
    source_time: Floats,
    f0: Floats,
    noisy: Floats,
    count: int,
) -> NDArray[np.float32]:
    """Sound [count] from ``envelope`` [T, 513].

    ``source_time`` [count] in s and ``f0`` [count] in Hz (> 0) are given per output sample.
    ``noisy`` [count] is the frequency in Hz above which the sound is noise instead of harmonics (0:
    all noise).
    """
    out = np.zeros(count + 2 * FFT)
    phase = np.cumsum(f0 / SAMPLE_RATE)
    whole = np.floor(phase)
    at = np.flatnonzero(np.diff(whole, prepend=0.0) > 0)  # samples just after a pulse
    at = at[noisy[at] > 0]
    if len(at):
        late = (phase[at] - whole[at]) * SAMPLE_RATE / f0[at]  # samples since the pulse
        log = 0.5 * (
            _at(envelope, source_time[at] * SAMPLE_RATE / HOP)
            + np.log(SAMPLE_RATE / f0[at])[:, None]
        )
        share = 1.0 / (1.0 + (_FREQS[None] / np.maximum(noisy[at], 1.0)[:, None]) ** 8)
        pulse = (
            _minimum_phase(log)
            * np.sqrt(share)
            * np.exp(2j * np.pi * _FREQS[None] / SAMPLE_RATE * late[:, None])
        )
        pulse[:, 0] = 0
        kernel = np.fft.irfft(pulse, FFT, axis=1)
        fade = np.ones(FFT)
        fade[FFT // 2 :] = 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, FFT // 2))
        kernel[:, -8:] *= 0.0  # the part that wraps around in a pulse's fractional shift
        for start, row in zip(at, kernel * fade, strict=True):
            out[start : start + FFT] += row
    noise = np.pad(rng.standard_normal(count), (_NOISE_WINDOW, 2 * _NOISE_WINDOW))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_NOISE_WINDOW) / _NOISE_WINDOW)
    starts = np.arange(-_NOISE_HOP, count, _NOISE_HOP)
    centre = np.clip(starts + _NOISE_WINDOW // 2, 0, count - 1)
    share = 1.0 - 1.0 / (1.0 + (_FREQS[None] / np.maximum(noisy[centre], 1.0)[:, None]) ** 8)
    share = np.where(noisy[centre][:, None] > 0, share, 1.0)
    log = 0.5 * _at(envelope, source_time[centre] * SAMPLE_RATE / HOP)
    blocks = noise[starts[:, None] + _NOISE_WINDOW + np.arange(_NOISE_WINDOW)[None]] * hann
    spectrum = np.fft.rfft(blocks, FFT, axis=1) * _minimum_phase(log) * np.sqrt(share)
    rows = np.fft.irfft(spectrum, FFT, axis=1)
    shaped = np.zeros(count + 2 * FFT)
    for start, row in zip(starts, rows, strict=True):
        shaped[start + _NOISE_HOP : start + _NOISE_HOP + FFT] += row
    return (out[:count] + shaped[_NOISE_HOP : _NOISE_HOP + count]).astype(np.float32)
