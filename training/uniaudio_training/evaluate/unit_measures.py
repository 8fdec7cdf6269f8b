"""What semantic units reveal about the phone and the speaker: metrics behind ``units.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import plain_phones

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Tokenize = Callable[[Floats], Ids]  # samples [N] at 16 kHz -> one id per frame [T]
WINDOW = 150  # frames: the 3 s of a voice prompt


@dataclass
class Clip:
    """A clip with its tokens and the phone id (index into PHONES) of each frame."""

    samples: Floats
    speaker: str
    said: list[str]  # phones without stress and pauses
    now: Ids
    ids: Ids = field(default_factory=lambda: np.zeros(0, np.int64))


def read_clips(
    folder: str | Path, split: str, limit: int, speakers: Sequence[str] | None = None
) -> list[Clip]:
    """Up to ``limit`` clips, spread evenly, by some speakers or all."""
    from ..semantic.speech_clips import open_speech
    from ..semantic.views import frame_labels

    found = [c for c in open_speech(folder, split) if speakers is None or c.speaker in speakers]
    step = max(1, len(found) / max(1, limit))
    clips = []
    for at in np.arange(0, len(found), step)[:limit].astype(int):
        spoken = found[at]
        now = frame_labels(spoken.phones, -(-len(spoken.pcm) // 320)).now
        clips.append(
            Clip(spoken.samples(), spoken.speaker, plain_phones([p for p, _ in spoken.phones]), now)
        )
    return clips


def tokenized(clips: Sequence[Clip], tokenize: Tokenize) -> list[Clip]:
    return [Clip(c.samples, c.speaker, c.said, c.now, tokenize(c.samples)) for c in clips]


class Map:
    """Phone statistics of each id, counted on training clips."""

    def __init__(self, clips: Sequence[Clip], size: int) -> None:
        from uniaudio_engine.text.phones import PHONES

        self.phones = PHONES
        plain = sorted({p.rstrip("012") for p in PHONES})
        self.plain_id = np.array([plain.index(p.rstrip("012")) for p in PHONES])
        self.plain, self.size = plain, size
        self.table = np.zeros((size, len(PHONES)))
        for c in clips:
            np.add.at(self.table, (c.ids, c.now), 1)
        plain_table = np.zeros((size, len(plain)))
        np.add.at(plain_table.T, self.plain_id, self.table.T)
        self.best, self.best_plain = self.table.argmax(1), plain_table.argmax(1)

    def right(self, c: Clip, stress: bool) -> tuple[int, int]:
        """(correct frames, frames)."""
        hit = (
            self.best[c.ids] == c.now if stress else self.best_plain[c.ids] == self.plain_id[c.now]
        )
        return int(hit.sum()), len(hit)

    def heard(self, ids: Ids) -> list[str]:
        """The phones of a sequence of ids: the most likely phone of each frame, single outliers
        removed, repeats merged.
        """
        x = self.best_plain[ids].copy()
        middle = x[1:-1]
        middle[(x[:-2] == x[2:]) & (middle != x[2:])] = x[2:][(x[:-2] == x[2:]) & (middle != x[2:])]
        runs = x[np.concatenate(([True], x[1:] != x[:-1]))] if len(x) else x
        return [self.plain[i] for i in runs if self.plain[i] != "pau"]

    def bits(self, clips: Sequence[Clip]) -> tuple[float, float]:
        """(mutual information of id and phone, entropy of the phone), in bits.

        The former is a lower bound: the entropy minus the cross-entropy under the statistics of the
        training clips. Unlike a plug-in estimate, it does not favour large codebooks.
        """
        now, ids = np.concatenate([c.now for c in clips]), np.concatenate([c.ids for c in clips])
        share = np.bincount(now, minlength=len(self.phones)) / len(now)
        entropy = float(-(share[share > 0] * np.log2(share[share > 0])).sum())
        prior = self.table.sum(0) / self.table.sum()
        p = (self.table + 2 * prior) / (self.table.sum(1, keepdims=True) + 2)
        return entropy + float(np.log2(p[ids, now]).mean()), entropy


# The speaker


def histograms(clips: Sequence[Clip], size: int, seed: int = 0) -> tuple[Floats, NDArray[np.str_]]:
    """Square roots of the id frequencies in 3 s windows [n, size], and the speaker of each window
    [n].

    Clips of a speaker are concatenated.
    """
    rows, names = [], []
    for who in sorted({c.speaker for c in clips}):
        ids = np.concatenate([c.ids for c in clips if c.speaker == who])
        for start in range(0, len(ids) - WINDOW + 1, WINDOW):
            rows.append(np.sqrt(np.bincount(ids[start : start + WINDOW], minlength=size) / WINDOW))
            names.append(who)
    return np.array(rows, np.float32), np.array(names)


def attack(train: Sequence[Clip], test: Sequence[Clip], size: int) -> tuple[float, int]:
    """(accuracy of speaker identification from histograms, number of windows).

    The best result on the test windows among logistic regressions of several strengths and naive
    Bayes:
    a conservative upper estimate.
    """
    x, names = histograms(train, size)
    y, asked = histograms(test, size)
    known = sorted(set(names))
    t, u = np.searchsorted(known, names), np.searchsorted(known, asked)
    counts = np.stack([(x[t == k] ** 2).sum(0) for k in range(len(known))]) * WINDOW + 0.5
    bayes = (y**2) @ np.log(counts / counts.sum(1, keepdims=True)).T
    scores = [float((bayes.argmax(1) == u).mean())]
    scores += [
        float((logistic(x, t, len(known), decay)(y).argmax(1) == u).mean())
        for decay in (1e-2, 1e-3, 1e-4)
    ]
    return max(scores), len(y)


def logistic(x: Floats, t: Ids, classes: int, decay: float) -> Callable[[Floats], Floats]:
    """Multinomial logistic regression on rows [n, D] with an L2 penalty; returns a scoring
    function.
    """
    import torch

    mean = torch.from_numpy(x.mean(0))
    a, target = torch.from_numpy(x) - mean, torch.from_numpy(t)
    w = torch.zeros(x.shape[1], classes, requires_grad=True)
    b = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(a @ w + b, target) + decay * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda y: ((torch.from_numpy(y) - mean) @ w + b).detach().numpy()


# The same sentence by two speakers


def aligned(
    a: Sequence[tuple[str, float]], b: Sequence[tuple[str, float]], frames: int, other_frames: int
) -> Ids | None:
    """For each frame of a, the frame of b at the same place in the phones [frames].

    ``a`` and ``b`` are phones with end times in s. None where the phones differ.
    """
    if [p for p, _ in a] != [p for p, _ in b]:
        return None
    ends_a, ends_b = (np.array([0.0, *(e for _, e in x)]) for x in (a, b))
    middle = (np.arange(frames) + 0.5) * 0.02
    return np.clip(np.interp(middle, ends_a, ends_b) / 0.02, 0, other_frames - 1).astype(np.int64)


def two_speakers(
    tokenizers: Sequence[Tokenize], sentences: int
) -> dict[str, list[tuple[float, int]]]:
    """By kind of pair, for each tokenizer: (share of aligned frames with the same id, frames).

    Pauses are excluded.
    """
    from ..corpus.sentences import draw_sentence
    from ..corpus.speech import SPEAKERS, speak

    unseen = [s for s in SPEAKERS if s.split == "test"]
    rng = np.random.default_rng(np.random.SeedSequence((55, 1)))
    kinds = ("of one base voice", "of two base voices", "one, half a frame later")
    same = {k: np.zeros((len(tokenizers), 2), np.int64) for k in kinds}
    for _ in range(sentences):
        text = draw_sentence(rng, "test")
        spoken = [speak(text, s) for s in unseen]
        phones = [[(s.phone, s.end) for s in u.segments] for u in spoken]
        ids = [[f(u.samples) for f in tokenizers] for u in spoken]
        sounding = [_sounding(p, len(i[0])) for p, i in zip(phones, ids, strict=True)]
        for a in range(len(unseen)):
            for b in range(a + 1, len(unseen)):
                kind = kinds[0] if unseen[a].base == unseen[b].base else kinds[1]
                to = aligned(phones[a], phones[b], len(ids[a][0]), len(ids[b][0]))
                if to is not None:
                    for k in range(len(tokenizers)):
                        hit = (ids[a][k] == ids[b][k][to])[sounding[a]]
                        same[kind][k] += (int(hit.sum()), len(hit))
            later = [
                f(np.concatenate((np.zeros(160, np.float32), spoken[a].samples)))
                for f in tokenizers
            ]
            for k in range(len(tokenizers)):
                hit = (ids[a][k] == later[k][: len(ids[a][k])])[sounding[a]]
                same[kinds[2]][k] += (int(hit.sum()), len(hit))
    return {kind: [(hits / max(1, n), int(n)) for hits, n in rows] for kind, rows in same.items()}


def _sounding(phones: Sequence[tuple[str, float]], frames: int) -> NDArray[np.bool_]:
    ends = np.array([e for _, e in phones])
    at = np.searchsorted(ends, (np.arange(frames) + 0.5) * 0.02)
    return np.array([i < len(phones) and phones[i][0] != "pau" for i in at])


# Rooms and noise


def disturbed(x: Floats, kind: str, seed: int) -> Floats:
    """A clip with white noise ("20 dB", "10 dB") or reverberation ("room"), at its original level.

    The room has an RT60 of 0.4 s, reverberation as strong as the direct sound.
    """
    rng = np.random.default_rng((99, seed))
    if kind == "room":
        n = int(0.4 * 16000)
        tail = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
        tail[:80] = 0
        tail /= np.sqrt((tail**2).sum())
        tail[0] = 1.0
        from scipy.signal import fftconvolve

        y = fftconvolve(x, tail)[: len(x)]
        return (y / max(1.0, np.abs(y).max())).astype(np.float32)
    from ..semantic.augment import add_at

    return add_at(x, rng.standard_normal(len(x)).astype(np.float32), float(kind.split()[0]))
