"""Metrics on words, phones, spectra and codes: pure functions of arrays, without models.

Decibels are of power; full scale is 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Errors:
    """Edits between reference and hypothesis; ``reference`` is the length of the reference."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    @property
    def edits(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference + other.reference,
        )


def alignment(said: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """A minimum edit (Levenshtein) alignment of ``said`` and ``heard``, in order.

    Pairs (i, j) are matches or substitutions, (i, -1) deletions, (-1, j) insertions.
    """
    n, m = len(said), len(heard)
    cost = np.zeros((n + 1, m + 1), np.int32)
    cost[:, 0], cost[0] = np.arange(n + 1), np.arange(m + 1)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            diagonal = cost[i - 1, j - 1] + (said[i - 1] != heard[j - 1])
            cost[i, j] = min(diagonal, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    steps = []
    i, j = n, m
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (said[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            steps.append((i, j))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            steps.append((i, -1))
        else:
            j -= 1
            steps.append((-1, j))
    return steps[::-1]


def edit_errors(
    said: Sequence[str], heard: Sequence[str], first: int = 0, last: int | None = None
) -> Errors:
    """Substitutions, deletions and insertions of :func:`alignment`.

    ``first`` and ``last`` restrict the count to said[first:last], including insertions within it
    and at its ends.
    """
    last = len(said) if last is None else last
    substitutions = deletions = insertions = at = 0
    for i, j in alignment(said, heard):
        if i >= 0:
            at = i + 1
        if i < 0:
            insertions += first <= at <= last
        elif first <= i < last:
            deletions += j < 0
            substitutions += j >= 0 and said[i] != heard[j]
    return Errors(int(substitutions), int(deletions), int(insertions), last - first)


def error_rate(rows: Sequence[Errors]) -> float:
    """Edits per reference unit over all rows; can exceed 1. NaN without units."""
    reference = sum(r.reference for r in rows)
    return sum(r.edits for r in rows) / reference if reference else float("nan")


def words(text: str) -> list[str]:
    """Lower-case words of letters and inner apostrophes, as recognisers print them."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("’", "'"))


def plain_phones(phones: Sequence[str]) -> list[str]:
    """Phones without stress digits and pauses."""
    return [p.rstrip("012") for p in phones if p != "pau"]


def interval(
    groups: Sequence[Sequence[object]],
    statistic: Callable[[list[object]], float],
    draws: int = 400,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap confidence interval of ``statistic`` over rows.

    Whole groups are resampled (a sentence with all its voices).
    """
    if len(groups) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        rows = [r for g in rng.integers(len(groups), size=len(groups)) for r in groups[g]]
        values.append(statistic(rows))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def cosine(a: Floats, b: Floats) -> float:
    """Cosine of two vectors [D]; 0 where either is all zeros."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm > 0 else 0.0


@lru_cache(maxsize=8)
def mel_filters(
    sample_rate: int,
    window: int,
    bands: int,
    low: float = 0.0,
    high: float | None = None,
    scale: str = "htk",
) -> NDArray[np.float32]:
    """Triangular filters [bands, window // 2 + 1] on the power spectrum, normalised to equal area.

    ``scale`` "htk" is 2595 log10(1 + f/700); "slaney" is linear below 1 kHz and logarithmic above
    (Auditory Toolbox).
    """
    high = sample_rate / 2 if high is None else high

    def to_mel(f: Floats) -> Floats:
        if scale == "htk":
            return 2595.0 * np.log10(1.0 + f / 700.0)
        return np.where(
            f < 1000.0, f * 3 / 200, 15.0 + np.log(np.maximum(f, 1e-9) / 1000.0) * 27 / np.log(6.4)
        )

    def to_hz(m: Floats) -> Floats:
        if scale == "htk":
            return 700.0 * (10.0 ** (m / 2595.0) - 1.0)
        return np.where(m < 15.0, m * 200 / 3, 1000.0 * np.exp((m - 15.0) * np.log(6.4) / 27))

    ends = to_mel(np.array([low, high], np.float64))
    edges = to_hz(np.linspace(ends[0], ends[1], bands + 2))
    f = np.arange(window // 2 + 1) * sample_rate / window
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    shape = np.minimum((f - left) / (centre - left), (right - f) / (right - centre)).clip(0)
    return (shape * 2.0 / (right - left)).astype(np.float32)


def band_powers(
    samples: Floats, window: int, hop: int, filters: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Hann power spectrogram [T, bands] through ``filters`` [bands, window // 2 + 1].

    Windows are centred on multiples of ``hop``; the clip is zero-padded. In torch, so that
    ``torch.set_num_threads`` limits its threads.
    """
    x = torch.from_numpy(np.pad(np.asarray(samples, np.float32), (window // 2, window // 2)))
    spectrum = torch.view_as_real(
        torch.fft.rfft(x.unfold(0, window, hop) * torch.hann_window(window))
    )
    return (spectrum.square().sum(-1) @ torch.from_numpy(filters).T).numpy()


LOG_MEL_BANDS, LOG_MEL_WINDOW, LOG_MEL_HOP, LOG_MEL_FLOOR_DB = 80, 1024, 256, -80.0


def log_mel(samples: Floats, sample_rate: int) -> NDArray[np.float32]:
    """80-band log-mel spectrogram [T, 80] in dB (a full-scale sine is 0 dB), floored at -80 dB."""
    filters = mel_filters(sample_rate, LOG_MEL_WINDOW, LOG_MEL_BANDS)
    peak = filters / filters.max(1, keepdims=True)
    power = band_powers(samples, LOG_MEL_WINDOW, LOG_MEL_HOP, peak) * (4.0 / LOG_MEL_WINDOW) ** 2
    return (10 * np.log10(np.maximum(power, 10 ** (LOG_MEL_FLOOR_DB / 10)))).astype(np.float32)


def log_mel_distance(a: Floats, b: Floats, sample_rate: int) -> float:
    """Mean absolute difference in dB of two log-mel spectrograms, zero-padded to equal length."""
    n = max(len(a), len(b))
    pad = [np.pad(np.asarray(x, np.float32), (0, n - len(x))) for x in (a, b)]
    return float(np.abs(log_mel(pad[0], sample_rate) - log_mel(pad[1], sample_rate)).mean())


def codebook_use(
    codes: Sequence[NDArray[np.integer]], codebook_size: int
) -> tuple[list[float], list[float]]:
    """Codes [K, T] of several clips -> (share of entries used, perplexity) of each codebook.

    Perplexity is the exponential of the entropy of the code counts: ``codebook_size`` for uniform
    use, 1 where a single code is used.
    """
    joined = np.concatenate([np.asarray(c) for c in codes], axis=1)
    used, perplexity = [], []
    for row in joined:
        counts = np.bincount(row, minlength=codebook_size)
        p = counts[counts > 0] / max(1, counts.sum())
        used.append(float((counts > 0).sum() / codebook_size))
        perplexity.append(float(np.exp(-(p * np.log(p)).sum())))
    return used, perplexity


@dataclass(frozen=True)
class Moments:
    """Moments of frames [n, D]: their number, sum [D] and sum of outer products [D, D]. They are
    additive.
    """

    count: int
    total: Floats
    outer: Floats

    @classmethod
    def of(cls, frames: Floats) -> Moments:
        x = np.asarray(frames, np.float64)
        return cls(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def mean_and_covariance(self) -> tuple[Floats, Floats]:
        mean = self.total / max(1, self.count)
        return mean, self.outer / max(1, self.count) - np.outer(mean, mean)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Fréchet distance of two sets of frames, as normal distributions.

    |mean difference|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)
    """
    (mean_a, cov_a), (mean_b, cov_b) = a.mean_and_covariance(), b.mean_and_covariance()
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    inner = np.linalg.eigvalsh(root @ cov_b @ root)
    return float(
        ((mean_a - mean_b) ** 2).sum()
        + np.trace(cov_a)
        + np.trace(cov_b)
        - 2 * np.sqrt(np.maximum(inner, 0)).sum()
    )
