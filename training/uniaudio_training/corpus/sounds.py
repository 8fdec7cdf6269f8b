"""Ten classes of everyday sounds by signal processing, with the parameters that captions name.

A generator draws its parameters first, then its samples; the clip depends on the random state
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Sound:
    """float32 samples [N] at 16 kHz, the class name, and the parameters that a caption names
    (``wordings.sound``).
    """

    name: str
    samples: np.ndarray
    parameters: dict[str, Any]


_Made = tuple[np.ndarray, dict[str, Any]]


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _band(rng: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    sos = butter(2, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
    return sosfilt(sos, rng.standard_normal(n))


# Limits in Hz: a pitch is called low below the first, high above the second.
PITCH_BORDERS = {
    "siren": (560.0, 690.0),
    "bell": (450.0, 900.0),
    "beep": (700.0, 1500.0),
    "engine": (45.0, 68.0),
}


def _pitch_word(name: str, hz: float) -> str:
    low, high = PITCH_BORDERS[name]
    return "low" if hz < low else "high" if hz > high else "medium"


def is_clear(name: str, parameters: dict[str, Any], seconds: float) -> bool:
    """False where a caption would be ambiguous: a pitch within 5 % of the border between two words,
    or so many events in ``seconds`` that two may merge.
    """
    return parameters.get("count", 1) * 0.4 <= seconds and all(
        abs(parameters["hz"] / border - 1) > 0.05 for border in PITCH_BORDERS.get(name, ())
    )


def _scatter(
    rng: np.random.Generator, seconds: float, count: int, event: Callable[[], np.ndarray]
) -> np.ndarray:
    """``count`` complete events in equal time slots, with jitter."""
    out = np.zeros(int(seconds * SAMPLE_RATE))
    slot = len(out) / count
    for i in range(count):
        e = event()
        start = int(slot * i + rng.uniform(0, max(1.0, slot - len(e))))
        e = e[: len(out) - start]
        out[start : start + len(e)] += e
    return out


def _siren(rng: np.random.Generator, s: float) -> _Made:
    base, span, rate = rng.uniform(450, 800), rng.uniform(1.4, 2.0), rng.choice([0.4, 1.0, 2.5])
    t = _time(s)
    hz = base * span ** (0.5 - 0.5 * np.cos(2 * np.pi * rate * t))
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
    x = np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)
    speed = {0.4: "slow", 1.0: "steady", 2.5: "fast"}[float(rate)]
    return x, {"speed": speed, "hz": float(base), "pitch": _pitch_word("siren", base)}


def _bell(rng: np.random.Generator, s: float) -> _Made:
    hz, count = float(np.exp(rng.uniform(np.log(250), np.log(1600)))), int(rng.integers(1, 6))
    ratios, decay = np.array([0.5, 1, 1.19, 1.56, 2, 2.66, 3.76]), rng.uniform(0.25, 0.7)

    def strike() -> np.ndarray:
        t = _time(s / count)
        amps = np.array([0.3, 1, 0.6, 0.4, 0.5, 0.3, 0.2])
        return sum(
            a * np.exp(-t / (decay / r**0.5)) * np.sin(2 * np.pi * hz * r * t)
            for a, r in zip(amps, ratios, strict=True)
        )

    return _scatter(rng, s, count, strike), {
        "count": count,
        "hz": hz,
        "pitch": _pitch_word("bell", hz),
    }


def _beep(rng: np.random.Generator, s: float) -> _Made:
    hz, count, length = (
        float(np.exp(rng.uniform(np.log(350), np.log(3000)))),
        int(rng.integers(1, 7)),
        rng.uniform(0.08, 0.25),
    )

    def beep() -> np.ndarray:
        t = _time(length)
        return np.sin(2 * np.pi * hz * t) * np.minimum(1, np.minimum(t, length - t) / 0.005)

    return _scatter(rng, s, count, beep), {
        "count": count,
        "hz": hz,
        "pitch": _pitch_word("beep", hz),
    }


def _rain(rng: np.random.Generator, s: float) -> _Made:
    drops = float(np.exp(rng.uniform(np.log(30), np.log(600))))
    n = int(s * SAMPLE_RATE)
    x = 0.15 * _band(rng, n, 800, 6500)
    hits = (rng.random(n) < drops / SAMPLE_RATE) * rng.exponential(1.0, n)
    x += sosfilt(butter(2, (1500, 6000), "bandpass", fs=SAMPLE_RATE, output="sos"), hits * 8)
    word = "light" if drops < 80 else "heavy" if drops > 250 else "steady"
    return x, {"strength": word}


def _wind(rng: np.random.Generator, s: float) -> _Made:
    n = int(s * SAMPLE_RATE)
    gust = float(rng.choice([0.15, 0.5, 1.2]))
    t = _time(s)
    slow = 0.5 + 0.5 * np.sin(2 * np.pi * gust * t + rng.uniform(0, 6.28)) * np.sin(
        2 * np.pi * gust * 0.37 * t + rng.uniform(0, 6.28)
    )
    low, high = _band(rng, n, 80, 400), _band(rng, n, 400, 1500)
    word = {0.15: "calm", 0.5: "gusty", 1.2: "stormy"}[gust]
    return low * (0.4 + slow) + 0.5 * high * slow**2, {"strength": word}


def _engine(rng: np.random.Generator, s: float) -> _Made:
    hz, change = rng.uniform(25, 90), rng.choice([0.6, 1.0, 1.7])
    t = _time(s)
    f = hz * change ** (t / s)
    phase = 2 * np.pi * np.cumsum(f) / SAMPLE_RATE
    x = sum(np.sin(k * phase + rng.uniform(0, 6.28)) / k**0.8 for k in range(1, 25))
    x = x * (1 + 0.2 * np.sin(phase / 2)) + 0.3 * _band(rng, len(t), 100, 2000)
    word = {0.6: "slowing down", 1.0: "running", 1.7: "speeding up"}[float(change)]
    return x, {"change": word, "hz": float(hz), "pitch": _pitch_word("engine", float(hz))}


def _knock(rng: np.random.Generator, s: float) -> _Made:
    count, hz = int(rng.integers(1, 7)), rng.uniform(90, 260)

    def knock() -> np.ndarray:
        t = _time(0.15)
        return np.exp(-t / 0.02) * (
            np.sin(2 * np.pi * hz * t) + 0.6 * np.sin(2 * np.pi * hz * 2.3 * t)
        ) + 0.5 * np.exp(-t / 0.004) * rng.standard_normal(len(t))

    return _scatter(rng, s, count, knock), {"count": count}


def _chirp(rng: np.random.Generator, s: float) -> _Made:
    count, hz, up = int(rng.integers(2, 7)), rng.uniform(2000, 4500), bool(rng.random() < 0.5)

    def chirp() -> np.ndarray:
        t = _time(rng.uniform(0.08, 0.2))
        sweep = hz * (1 + (0.35 if up else -0.3) * t / t[-1]) + 60 * np.sin(2 * np.pi * 28 * t)
        return np.sin(2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE) * np.hanning(len(t))

    return _scatter(rng, s, count, chirp), {"count": count, "up": up}


def _drip(rng: np.random.Generator, s: float) -> _Made:
    count = int(rng.integers(2, 7))

    def drip() -> np.ndarray:
        t, hz = _time(0.09), rng.uniform(600, 1100)
        return np.exp(-t / 0.02) * np.sin(2 * np.pi * np.cumsum(hz * (1 + 9 * t)) / SAMPLE_RATE)

    return _scatter(rng, s, count, drip), {"count": count}


def _clock(rng: np.random.Generator, s: float) -> _Made:
    per_second = float(rng.choice([1.0, 2.0, 4.0]))
    out = np.zeros(int(s * SAMPLE_RATE))
    for i in range(int(s * per_second)):
        t = _time(0.04)
        hz = 2600 if i % 2 else 2100
        tick = np.exp(-t / 0.004) * (np.sin(2 * np.pi * hz * t) + 0.5 * rng.standard_normal(len(t)))
        start = int(i / per_second * SAMPLE_RATE)
        tick = tick[: len(out) - start]
        out[start : start + len(tick)] += tick
    return out, {"per_second": per_second}


CLASSES: dict[str, Callable[[np.random.Generator, float], _Made]] = {
    "siren": _siren,
    "bell": _bell,
    "beep": _beep,
    "rain": _rain,
    "wind": _wind,
    "engine": _engine,
    "knock": _knock,
    "chirp": _chirp,
    "drip": _drip,
    "clock": _clock,
}


def make(rng: np.random.Generator, name: str | None = None, seconds: float | None = None) -> Sound:
    """One clip of 2 to 5 s (or ``seconds``) of a random class (or ``name``).

    The level is -14 to -28 dBFS RMS, with a faint noise floor.
    """
    name = name or list(CLASSES)[int(rng.integers(len(CLASSES)))]
    seconds = seconds or float(rng.uniform(2, 5))
    x, parameters = CLASSES[name](rng, seconds)
    x = lfilter([1, -1], [1, -0.995], x)  # no DC
    level = 10 ** (rng.uniform(-28, -14) / 20)
    x = x * min(level / (np.sqrt((x**2).mean()) + 1e-9), 0.95 / (np.abs(x).max() + 1e-9))
    x = x + 10 ** (-75 / 20) * rng.standard_normal(len(x))
    return Sound(name, x.astype(np.float32), {"seconds": round(seconds, 3), **parameters})
