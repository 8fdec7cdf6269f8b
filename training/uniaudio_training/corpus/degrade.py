"""Degradations of clean speech: noise at an exact signal-to-noise ratio, and room reverberation.

Mixtures are sums of int16 samples, so that source minus target is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from .schema import SAMPLE_RATE, Room

Floats = NDArray[np.floating]
Pcm = NDArray[np.int16]

_PEAK = 0.97
SOUND_SPEED = 343.0


def to_pcm(samples: Floats) -> Pcm:
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def snr_db(target: Pcm, source: Pcm) -> float:
    """Signal-to-noise ratio in dB over the whole clip: ``target`` against ``source`` minus
    ``target``.
    """
    clean = target.astype(np.float64)
    rest = source.astype(np.float64) - clean
    return float(10 * np.log10((clean**2).sum() / max((rest**2).sum(), 1e-9)))


def mix_at(target: Floats, other: Floats, snr: float) -> tuple[Pcm, Pcm]:
    """(target, target + other) as int16, with ``other`` scaled to a signal-to-noise ratio of
    ``snr`` dB.

    Where the sum would clip, both are attenuated equally.
    Integers are added: source minus target is the other sound, rounded once.
    """
    gain = np.sqrt(
        (target.astype(np.float64) ** 2).sum() / max((other.astype(np.float64) ** 2).sum(), 1e-12)
    ) * 10 ** (-snr / 20)
    other = other * gain
    peak = max(
        float(np.abs(target + other).max()), float(np.abs(target).max()), float(np.abs(other).max())
    )
    down = min(1.0, _PEAK / peak)
    clean = to_pcm(target * down)
    return clean, clean + to_pcm(other * down)


def white(rng: np.random.Generator, count: int) -> Floats:
    return rng.standard_normal(count)


def pink(rng: np.random.Generator, count: int) -> Floats:
    """Pink noise [count]: power falls as 1/f above 20 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, 20.0)), count)


def hum(rng: np.random.Generator, count: int) -> Floats:
    """Mains hum [count]: 50 or 60 Hz, harmonics of random strength, and a little hiss."""
    t = np.arange(count) / SAMPLE_RATE
    base = float(rng.choice([50.0, 60.0]))
    x = sum(
        rng.uniform(0.1, 1.0) / k**0.7 * np.sin(2 * np.pi * base * k * t + rng.uniform(0, 6.28))
        for k in range(1, 17)
    )
    return np.asarray(x) + 0.05 * rng.standard_normal(count)


def babble(rng: np.random.Generator, count: int, voices: list[Floats]) -> Floats:
    """All ``voices`` at once, each looped from a random position."""
    x = np.zeros(count)
    for v in voices:
        x += np.take(v, np.arange(count) + int(rng.integers(len(v))), mode="wrap")
    return x


def loop(rng: np.random.Generator, count: int, samples: Floats) -> Floats:
    """``count`` samples of a clip from a random position, repeated where the clip is shorter."""
    first = int(rng.integers(max(1, len(samples) - count + 1)))
    return np.take(samples, np.arange(count) + first, mode="wrap")


@dataclass(frozen=True)
class Response:
    """A room impulse response [R] and its label. The direct sound is sample 0, with amplitude 1."""

    taps: Floats
    room: Room


def _images(
    rng: np.random.Generator,
    size: NDArray,
    source: NDArray,
    ear: NDArray,
    reflection: float,
    order: int,
) -> tuple[Floats, Floats]:
    """Image sources of a box up to ``order`` reflections per axis (Allen & Berkley 1979).

    Returns their distances in m and their amplitudes.
    """
    k = np.arange(-order, order + 1)
    axes = []
    for d in range(3):
        place = np.where(k % 2 == 0, k * size[d] + source[d], (k + 1) * size[d] - source[d])
        axes.append((place - ear[d], np.abs(k)))
    dx, dy, dz = np.meshgrid(*(a[0] for a in axes), indexing="ij")
    bx, by, bz = np.meshgrid(*(a[1] for a in axes), indexing="ij")
    bounces = bx + by + bz
    distance = np.sqrt(dx**2 + dy**2 + dz**2).ravel()
    return distance, reflection ** bounces.ravel() / np.maximum(distance, 0.1)


def room(rng: np.random.Generator, rt60: float | None = None) -> Response:
    """A room impulse response of a random box.

    The first 60 ms come from image sources. The tail is noise that decays with ``rt60`` seconds
    (drawn from 0.2 to 0.95 s by default).
    """
    size = rng.uniform([3.0, 2.5, 2.3], [9.0, 7.0, 4.0])
    rt60 = float(rng.uniform(0.2, 0.95)) if rt60 is None else rt60
    ear = rng.uniform(0.15, 0.85, 3) * size
    while True:
        source = rng.uniform(0.15, 0.85, 3) * size
        distance = float(np.linalg.norm(source - ear))
        if 0.6 < distance < 3.5:
            break
    volume, surface = (
        float(size.prod()),
        float(2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])),
    )
    reflection = float(np.sqrt(np.exp(-0.161 * volume / (surface * rt60))))  # Eyring
    far, strength = _images(rng, size, source, ear, reflection, 8)
    late = far - distance  # m farther than the direct sound
    mixing = int(0.06 * SAMPLE_RATE)
    count = int(1.1 * rt60 * SAMPLE_RATE) + mixing
    taps = np.zeros(count)
    when = late / SOUND_SPEED * SAMPLE_RATE
    early = (when >= 0) & (when < mixing)
    i = when[early].astype(int)
    share = when[early] - i
    amount = (
        strength[early]
        * distance
        * np.where(rng.random(int(early.sum())) < 0.5, 1.0, -1.0) ** (when[early] > 1)
    )
    np.add.at(taps, i, amount * (1 - share))
    np.add.at(taps, i + 1, amount * share)
    taps[0] = 1.0
    taps[1 : int(0.0008 * SAMPLE_RATE)] = 0.0
    t = np.arange(count) / SAMPLE_RATE
    decay = 10 ** (-3 * t / rt60)
    level = np.sqrt(
        (taps[mixing // 2 : mixing] ** 2).mean() / (decay[mixing // 2 : mixing] ** 2).mean() + 1e-12
    )
    rise = np.clip((t - 0.03) / 0.03, 0, 1)
    taps[:mixing] *= np.sqrt(1 - np.clip((t[:mixing] - 0.03) / 0.03, 0, 1))
    taps += np.sqrt(rise) * level * decay * rng.standard_normal(count)
    cut = int(0.0025 * SAMPLE_RATE)
    drr = 10 * np.log10((taps[:cut] ** 2).sum() / (taps[cut:] ** 2).sum())
    return Response(
        taps,
        Room(
            round(rt60, 3),
            round(float(drr), 2),
            round(distance, 2),
            tuple(round(float(s), 2) for s in size),
        ),
    )


def reverberate(target: Floats, response: Response) -> tuple[Pcm, Pcm]:
    """(target, target in the room) as int16, of equal length, with the direct sounds aligned.

    Where one would clip, both are attenuated equally.
    """
    wet = fftconvolve(target, response.taps)[: len(target)]
    down = min(1.0, _PEAK / float(max(np.abs(wet).max(), np.abs(target).max())))
    return to_pcm(target * down), to_pcm(wet * down)


def decay_time(taps: Floats) -> float:
    """RT60 in seconds of an impulse response.

    Schroeder backward integration, with a line fitted from -5 to -25 dB and extrapolated to -60 dB.
    """
    energy = np.cumsum((taps**2)[::-1])[::-1]
    db = 10 * np.log10(energy / energy[0] + 1e-12)
    fit = np.flatnonzero((db < -5) & (db > -25))
    slope = np.polyfit(fit / SAMPLE_RATE, db[fit], 1)[0]
    return float(-60 / slope)
