"""Acoustic measurements that show whether a caption or score was followed.

Pure functions of float32 samples [N] at 16 kHz. All are validated on the corpus recordings:
``uniaudio-train evaluate --corpus DIR`` prints the score of the truth, and the tests require nearly
100 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus.pitch import HOP, SAMPLE_RATE, cents, f0_track, hz
from ..corpus.schema import Note, Vibrato
from ..corpus.singing import contour
from ..corpus.sounds import PITCH_BORDERS
from .metrics import band_powers, mel_filters

Floats = NDArray[np.floating]

TEMPI = (70, 85, 100, 115, 130, 150)  # the tempi that captions of the corpus name


def envelope(x: Floats, window: int, hop: int) -> Floats:
    """Power in dB [N // hop], smoothed over ``window`` samples."""
    shape = np.hanning(window)
    power = np.convolve(np.asarray(x, np.float64) ** 2, shape / shape.sum(), "same")[::hop]
    return 10 * np.log10(power + 1e-9)


def _rises(
    x: Floats,
    rise: float,
    back: float,
    window: int,
    gap: float = 0.06,
    floor: float = 22.0,
    hop: int = 40,
) -> int:
    """Counts the rises of the level by ``rise`` dB within ``back`` s, at least ``gap`` s apart.

    Levels more than ``floor`` dB below the peak are ignored.
    """
    level = envelope(x, window, hop)
    level = np.maximum(level, level.max(initial=-90.0) - floor)
    reach, apart = int(back * SAMPLE_RATE / hop), int(gap * SAMPLE_RATE / hop)
    padded = np.concatenate((np.full(reach, level.min(initial=0.0)), level))
    up = level - np.lib.stride_tricks.sliding_window_view(padded, reach + 1).min(1)
    count = i = 0
    while i < len(up):
        if up[i] <= rise:
            i += 1
            continue
        top = i
        while top + 1 < len(up) and up[top + 1] >= up[top]:
            top += 1
        count, i = count + 1, top + 1
        while i < len(up) and up[i] > rise / 2:
            i += 1
        i = max(i, top + apart)
    return count


def _spectrum(x: Floats) -> tuple[NDArray[np.complexfloating], Floats]:
    n = 1 << max(17, int(np.ceil(np.log2(max(2, len(x))))))
    return np.fft.rfft(np.asarray(x, np.float64), n), np.arange(n // 2 + 1) * SAMPLE_RATE / n


def _loudest_hz(x: Floats, low: float, high: float) -> float:
    spectrum, f = _spectrum(x * np.hanning(len(x)))
    inside = (f >= low) & (f <= high)
    return float(f[inside][np.abs(spectrum[inside]).argmax()])


def _beeps(x: Floats) -> int:
    """Counts pulses of a tone. Pulses have equal length: a longer one is several that touch."""
    spectrum, f = _spectrum(x)
    hz = f[(np.abs(spectrum) * ((f > 300) & (f < 3200))).argmax()]
    spectrum[np.abs(f - hz) > 80] = 0
    hop = 32
    level = envelope(np.fft.irfft(spectrum)[: len(x)], int(0.036 * SAMPLE_RATE), hop)
    on = level > np.percentile(level[level > level.max() - 10], 60) - 16
    edges = np.diff(np.concatenate(([0], on.astype(int), [0])))
    lengths = (np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)) * hop / SAMPLE_RATE
    lengths = lengths[lengths > 0.04]
    if not len(lengths):
        return 0
    one = np.median(lengths[lengths <= 1.5 * lengths.min()])
    return int(sum(max(1, round(float(v / one))) for v in lengths))


def _strikes(x: Floats) -> int:
    """Counts peaks of the log-mel spectral flux, at least 0.15 s apart."""
    power = band_powers(
        np.pad(x, (3200, 0)), 512, 160, mel_filters(SAMPLE_RATE, 512, 32, 60.0, 7600.0)
    )
    if not power.any():
        return 0
    level = 10 * np.log10(power + power.max() * 1e-5)
    rise = np.maximum(np.diff(level, axis=0), 0).mean(1)
    least = max(0.35 * float(rise.max()), 1.0)
    return sum(
        bool(rise[i] > least and rise[i] == rise[max(0, i - 15) : i + 16].max())
        for i in range(len(rise))
    )


_COUNTS = {
    "bell": _strikes,
    "beep": _beeps,
    "knock": lambda x: _rises(x, 7.0, 0.02, 240),
    "drip": lambda x: _rises(x, 7.0, 0.02, 240),
    "chirp": lambda x: _rises(x, 6.0, 0.08, 480, floor=20.0),
}


def count_events(name: str, x: Floats) -> int:
    """The number of bell strikes, beeps, knocks, chirps or drips."""
    return _COUNTS[name](x) if np.any(x) else 0


def _siren_hz(x: Floats) -> float:
    """The lowest pitch of the siren."""
    if len(x) < 1024:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(x, np.float64), 1024)[
        ::256
    ] * np.hanning(1024)
    power = np.abs(np.fft.rfft(frames, 8192, axis=1))
    f = np.arange(power.shape[1]) * SAMPLE_RATE / 8192
    inside = (f > 350) & (f < 1900)
    return float(np.percentile(f[inside][power[:, inside].argmax(1)], 4))


def _engine_hz(x: Floats, seconds: float = 0.5) -> float:
    """The pitch at the start: its harmonics are strongest against what lies between them."""
    x = x[: int(seconds * SAMPLE_RATE)]
    n = 1 << 16
    power = np.abs(np.fft.rfft(x * np.hanning(len(x)), n)) ** 0.8
    candidates = np.exp(np.arange(np.log(20), np.log(160), 0.004))
    k = np.arange(1, 13)
    on, between = (
        np.rint(candidates[:, None] * m * n / SAMPLE_RATE).astype(int) for m in (k, k - 0.5)
    )
    best = float(candidates[(power[on] - power[between]).mean(1).argmax()])
    odd, even = (
        power[np.rint(best * np.array(m) * n / SAMPLE_RATE).astype(int)].mean()
        for m in ((1, 3, 5), (2, 4, 6))
    )
    return (
        2 * best if odd < 0.45 * even else best
    )  # half the pitch has no energy at its odd harmonics


_PITCHES = {
    "bell": lambda x: _loudest_hz(x, 200, 1700),
    "beep": lambda x: _loudest_hz(x, 300, 3200),
    "siren": _siren_hz,
    "engine": _engine_hz,
}


def pitch_word(name: str, x: Floats) -> str:
    """The corpus's word for the pitch of a bell, beep, siren or engine: "low", "medium" or "high".

    "" for silence.
    """
    if not np.any(x):
        return ""
    value, (low, high) = _PITCHES[name](x), PITCH_BORDERS[name]
    return "low" if value < low else "high" if value > high else "medium"


def sound_facts(parameters: dict[str, Any], x: Floats) -> dict[str, bool]:
    """Whether the count and the pitch that a t2s caption names were followed; empty where it names
    neither.
    """
    name, facts = parameters["class"], {}
    if name in _COUNTS:
        facts["count"] = count_events(name, x) == parameters["count"]
    if name in _PITCHES:
        facts["pitch"] = pitch_word(name, x) == parameters["pitch"]
    return facts


def tempo(x: Floats) -> float:
    """Beats per minute, within 5 % of one of :data:`TEMPI`: the beat whose half periods fit the
    onsets best.
    """
    hop = 80
    power = band_powers(
        np.pad(x, (1600, 0)), 512, hop, mel_filters(SAMPLE_RATE, 512, 40, 60.0, 7600.0)
    )
    if not power.any():
        return 0.0
    level = np.log10(power / power.max() + 1e-3)
    onset = np.maximum(level[2:] - level[:-2], 0).mean(1) ** 2
    onset = np.maximum(onset - 2 * onset.mean(), 0)
    t = np.arange(len(onset)) * hop / SAMPLE_RATE
    beats = np.concatenate([b * np.linspace(0.95, 1.05, 21) for b in TEMPI])
    half = 30 / beats

    def at(period: Floats) -> Floats:
        return np.abs(np.exp(2j * np.pi * t / period[:, None]) @ onset)

    return float(beats[(at(half) + 0.3 * at(2 * half) + 0.4 * at(half / 2)).argmax()])


def song_f0(x: Floats) -> Floats:
    """F0 in Hz every 5 ms, 0 where unvoiced."""
    return f0_track(np.asarray(x), 55.0, 600.0)[0]


def notes_hit(f0: Floats, notes: Sequence[Note], limit: float = 50.0) -> list[bool]:
    """For each note, whether the median F0 (:func:`song_f0`) of its voiced frames is within
    ``limit`` cents.
    """
    hits = []
    for n in notes:
        part = f0[
            int(n.start * SAMPLE_RATE / HOP) : int((n.start + n.duration) * SAMPLE_RATE / HOP)
        ]
        part = part[part > 0]
        hits.append(
            len(part) >= 3 and abs(float(np.median(cents(part, float(hz(n.pitch)))))) < limit
        )
    return hits


def melody_cents(f0: Floats, notes: tuple[Note, ...], vibrato: Vibrato | None) -> float:
    """Median distance in cents of the F0 from the melody, over voiced frames within notes.

    1200 where nothing is voiced.
    """
    wanted = contour(
        notes,
        vibrato or Vibrato(0.0, 5.0),
        max(len(f0) * HOP, round((notes[-1].start + notes[-1].duration) * SAMPLE_RATE)),
    )
    at = np.arange(len(f0)) * HOP
    sung = np.zeros(len(f0), bool)
    for n in notes:
        sung |= (at >= n.start * SAMPLE_RATE) & (at < (n.start + n.duration) * SAMPLE_RATE)
    keep = sung & (f0 > 0)
    return float(np.median(np.abs(cents(f0[keep], wanted[at[keep]])))) if keep.any() else 1200.0


def speech_seconds(x: Floats, pause: float = 0.15, below: float = 35.0) -> float:
    """Seconds of speech, without pauses.

    A pause is more than ``below`` dB under the loud parts for longer than ``pause`` s.
    """
    hop = 80
    level = envelope(x, 320, hop)
    if not len(level) or level.max() < -80:
        return 0.0
    on = level > np.percentile(level, 95) - below
    places = np.flatnonzero(on)
    gaps = np.diff(places) * hop / SAMPLE_RATE
    return float((places[-1] - places[0] + 1) * hop / SAMPLE_RATE - gaps[gaps > pause].sum())
