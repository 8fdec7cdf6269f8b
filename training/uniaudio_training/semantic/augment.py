"""Augmentation of voices, rooms and recording channels, to make units independent of speaker and
environment.

Noise, rooms, equalizers and level are applied to the waveform. Voices are changed on
log-magnitudes:
the envelope (formants) and the fine structure (harmonics) are shifted independently. Timing is
exact, so that two views of a clip can be compared frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from torch import Tensor, nn

SAMPLE_RATE = 16000


def coloured_noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """float32 [n] of unit power: white to brown (0 to -6 dB per octave), with a smooth random curve
    of up to 6 dB either way.
    """
    spectrum = fft.rfft(rng.standard_normal(fft.next_fast_len(n, real=True), dtype=np.float32))
    hz = np.linspace(0, SAMPLE_RATE / 2, len(spectrum), dtype=np.float32) + 40
    spectrum *= hz ** -rng.uniform(0, 1) * smooth_gain(rng, hz, 6.0)
    noise = fft.irfft(spectrum)[:n].astype(np.float32)
    return noise / np.sqrt((noise**2).mean() + 1e-12)


def smooth_gain(rng: np.random.Generator, hz: np.ndarray, db: float) -> np.ndarray:
    """A random curve over log-frequency: linear between 7 points within +-``db``."""
    points = rng.uniform(-db, db, 7)
    return np.asarray(
        10
        ** (
            np.interp(np.log(hz), np.linspace(np.log(80), np.log(SAMPLE_RATE / 2), 7), points) / 20
        ),
        np.float32,
    )


def room(rng: np.random.Generator) -> np.ndarray:
    """A room impulse response [n] that begins with the direct sound (1).

    The tail is exponentially decaying noise after 2 to 12 ms, with an RT60 of 0.15 to 0.7 s, 3 dB
    above to 12 dB below the direct sound.
    """
    t60 = rng.uniform(0.15, 0.7)
    n = int(t60 * SAMPLE_RATE)
    tail = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
    tail[: int(rng.uniform(0.002, 0.012) * SAMPLE_RATE)] = 0
    tail *= 10 ** (rng.uniform(-12, 3) / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    return tail.astype(np.float32)


def place(
    x: np.ndarray, response: np.ndarray | None, gain: np.ndarray | None, n_fft: int
) -> np.ndarray:
    """Applies a room response and an equalizer ``gain`` [n_fft / 2 + 1] to x [N]; either may be
    None.

    n_fft must be at least N plus the length of the response.
    """
    spectrum = fft.rfft(x, n_fft)
    if response is not None:
        spectrum *= fft.rfft(response, n_fft)
    if gain is not None:
        spectrum *= gain
    return fft.irfft(spectrum, n_fft)[: len(x)].astype(np.float32)


def add_at(x: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """x + noise, with the noise ``snr`` dB below the loud parts of x."""
    frames = (x[: len(x) // 320 * 320].reshape(-1, 320) ** 2).mean(1)
    power = frames[frames >= frames.max(initial=0) * 1e-2].mean() if len(frames) else 0.0
    scale = np.sqrt(power / ((noise**2).mean() + 1e-12)) * 10 ** (-snr / 20)
    return x + np.float32(scale) * noise


@dataclass(frozen=True)
class Chances:
    """The probability of each augmentation."""

    noise: float = 0.5
    other: float = 0.25  # noise from the corpus: a sound, music or another speaker
    room: float = 0.3
    equalizer: float = 0.5
    telephone: float = 0.08


def sound_view(
    rng: np.random.Generator,
    x: np.ndarray,
    other: Callable[[], np.ndarray] | None,
    chances: Chances,
) -> np.ndarray:
    """A random view of a clip x [N]: room, equalizer or telephone band, noise at 5 to 30 dB SNR,
    and a level change of -24 to +6 dB. ``other`` returns another sound [N].
    """
    response = room(rng) if rng.random() < chances.room else None
    gain = None
    n_fft = fft.next_fast_len(len(x) + (0 if response is None else len(response)), real=True)
    if rng.random() < chances.equalizer:
        hz = np.linspace(0, SAMPLE_RATE / 2, n_fft // 2 + 1) + 20
        gain = smooth_gain(rng, hz, 9.0)
        if rng.random() < chances.telephone / chances.equalizer:
            low, high = rng.uniform(50, 350), rng.uniform(3200, 7000)
            gain = gain / np.sqrt(1 + (low / hz) ** 8) / np.sqrt(1 + (hz / high) ** 12)
    if response is not None or gain is not None:
        x = place(x, response, gain, n_fft)
    if rng.random() < chances.noise:
        if other is not None and rng.random() < chances.other / chances.noise:
            x = add_at(x, other(), rng.uniform(8, 30))
        else:
            x = add_at(x, coloured_noise(rng, len(x)), rng.uniform(5, 30))
    x = x * np.float32(10 ** (rng.uniform(-24, 6) / 20))
    peak = np.abs(x).max(initial=0.0)
    return x / max(1.0, peak / 0.99)


def random_factors(rng: np.random.Generator, size: int, unchanged: float = 0.25) -> np.ndarray:
    """Factors of harmonics and formants for :class:`VoiceWarp`, float32 [size, 2].

    Harmonics are shifted by -5 to +5 semitones, formants by -14 to +16 %; a share ``unchanged`` of
    the voices is not.
    """
    factors = np.exp(np.stack((rng.uniform(-0.29, 0.29, size), rng.uniform(-0.15, 0.15, size)), 1))
    factors[rng.random(size) < unchanged] = 1.0
    return factors.astype(np.float32)


class VoiceWarp(nn.Module):
    """Scales the frequencies of harmonics and formants in log-magnitudes by independent factors."""

    lifter: Tensor  # [bins, bins]

    def __init__(self, bins: int, quefrency: tuple[int, int] = (26, 42)) -> None:
        """``quefrency``: samples between which the cepstral coefficients of the envelope fade out.
        Above the default range, F0 over 380 Hz would leak in.
        """
        super().__init__()
        k = torch.arange(bins, dtype=torch.float64)
        basis = torch.cos(torch.pi * k[:, None] * k[None] / (bins - 1))
        edge = torch.ones(bins, dtype=torch.float64)
        edge[[0, -1]] = 0.5
        first, last = quefrency
        keep = ((last - k) / (last - first)).clamp(0, 1)
        forward = (
            basis * edge[:, None] * edge[None] * 2 / (bins - 1)
        )  # DCT-I, its own inverse up to scale
        self.register_buffer("lifter", (forward * keep[None] @ basis).float(), persistent=False)

    def forward(self, x: Tensor, harmonics: Tensor, formants: Tensor) -> Tensor:
        """x [B, S, bins] and positive factors [B] -> x with its frequencies multiplied by the
        factors.
        """
        envelope = x @ self.lifter
        return _stretch(envelope, formants) + _stretch(x - envelope, harmonics)

    def with_formants(self, spectrum: Tensor, factors: Tensor) -> Tensor:
        """Complex spectra [B, T, bins] and positive factors [B] -> the spectra with the frequencies of
        the formants multiplied by the factors; phases and harmonics stay.
        """
        envelope = (spectrum.abs() + 1e-5).log() @ self.lifter
        gain = (_stretch(envelope, factors) - envelope).clamp(-4.0, 4.0)
        return spectrum * gain.exp()


def _stretch(x: Tensor, factor: Tensor) -> Tensor:
    bins = x.shape[-1]
    at = (torch.arange(bins, device=x.device) / factor[:, None]).clamp(
        max=bins - 1.001
    )  # [B, bins]
    low = at.long()
    share = (at - low)[:, None]
    rows = [
        row[:, i] * (1 - w) + row[:, i + 1] * w for row, i, w in zip(x, low, share, strict=True)
    ]
    return torch.stack(rows)
