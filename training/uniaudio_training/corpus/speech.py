"""Speech of the procedural corpus: virtual speakers based on flite's voices, with exact phone
times.

A virtual speaker is a base voice with its own mean F0 and pace, resampled by ``alpha``. Resampling
shifts the formants, like a longer or shorter vocal tract. F0 and durations are set such that they
are as requested after resampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import soxr

from .flite import SAMPLE_RATE, Segment, flite


@dataclass(frozen=True)
class Speaker:
    """``alpha``: formant shift (1: the base voice); ``f0``: mean in Hz; ``rate``: relative pace (1:
    that of the base voice).
    """

    name: str
    base: str
    alpha: float
    f0: float
    rate: float = 1.0
    split: str = "train"


# Mean F0 of each base voice in Hz, before resampling. rms ignores it and speaks at about 100 Hz.
_BASES = {"slt": (160.0, 205.0), "rms": (100.0,), "awb": (105.0, 145.0), "kal16": (95.0, 130.0)}
_ALPHAS = (0.86, 0.94, 1.02, 1.10, 1.18)  # a speaker encoder cannot distinguish smaller steps
_VALID = (
    ("slt", 0.90, 182.0),
    ("slt", 1.06, 182.0),
    ("awb", 0.98, 125.0),
    ("awb", 1.14, 125.0),
)  # two per base voice: vc needs pairs
_HELD_OUT = (
    ("slt", 0.98, 182.0),
    ("rms", 1.06, 100.0),
    ("awb", 0.90, 125.0),
    ("kal16", 1.14, 112.0),
    ("slt", 1.14, 170.0),
    ("awb", 1.06, 118.0),
)


def _speakers() -> tuple[Speaker, ...]:
    rows: list[Speaker] = []
    for base, f0s in _BASES.items():
        for alpha in _ALPHAS:
            for f0 in f0s:
                # Pace varies between speakers: 0.88 to 1.12.
                rate = 1.0 + 0.12 * (((len(rows) * 7) % 5) - 2) / 2
                rows.append(
                    Speaker(
                        f"{base}-{round(alpha * 100):03d}-{round(f0 * alpha):03d}",
                        base,
                        alpha,
                        f0 * alpha,
                        round(rate, 2),
                    )
                )
    for split, held_out in (("test", _HELD_OUT), ("valid", _VALID)):
        for base, alpha, f0 in held_out:
            rows.append(
                Speaker(
                    f"{base}-{round(alpha * 100):03d}-{round(f0 * alpha):03d}",
                    base,
                    alpha,
                    f0 * alpha,
                    1.0,
                    split,
                )
            )
    return tuple(rows)


SPEAKERS = _speakers()


@dataclass(frozen=True)
class Utterance:
    """float32 samples [N] at 16 kHz with text, speaker and segments (phone, end in seconds)."""

    text: str
    speaker: str
    samples: np.ndarray
    segments: tuple[Segment, ...]


def speakers(split: str) -> tuple[Speaker, ...]:
    """The speakers of a split; the splits are disjoint."""
    return tuple(s for s in SPEAKERS if s.split == split)


def speak(
    text: str,
    speaker: Speaker,
    f0_scale: float = 1.0,
    rate_scale: float = 1.0,
    level_db: float | None = -23.0,
    noise_seed: int = 1,
) -> Utterance:
    """One sentence by a virtual speaker, at ``level_db`` dBFS RMS over its loud parts (None:
    unscaled).

    A function of the arguments alone; ``noise_seed`` draws the excitation's noise.
    """
    f0 = speaker.f0 * f0_scale / speaker.alpha
    stretch = speaker.alpha / (speaker.rate * rate_scale)
    samples, segments = flite().say(text, speaker.base, f0, stretch, noise_seed)
    if speaker.alpha != 1.0:
        samples = soxr.resample(samples, SAMPLE_RATE * speaker.alpha, SAMPLE_RATE).astype(
            np.float32
        )
    segments = [replace(s, end=s.end / speaker.alpha) for s in segments]
    return Utterance(
        text,
        speaker.name,
        samples if level_db is None else set_level(samples, level_db),
        tuple(segments),
    )


def set_level(samples: np.ndarray, level_db: float) -> np.ndarray:
    """Scales to ``level_db`` dBFS RMS, measured over the frames within 30 dB of the loudest.

    The peak stays below 0.99.
    """
    now = loud_level(samples)
    if now < -100:
        return samples
    gain = 10 ** ((level_db - now) / 20)
    return (samples * min(gain, 0.99 / np.abs(samples).max())).astype(np.float32)


def loud_level(samples: np.ndarray) -> float:
    """dBFS RMS over the 20 ms frames within 30 dB of the loudest; -120 for silence or less than a
    frame.
    """
    if len(samples) < 320:
        return -120.0
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    power = (frames**2).mean(1)
    if power.max() < 1e-10:
        return -120.0
    return float(10 * np.log10(power[power > power.max() * 1e-3].mean()))
