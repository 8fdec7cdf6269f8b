"""Continues the training of a language model with the codes of another codec.

Codes of two codecs are unrelated numbers, so the rows of an LM's tables that belong to codes mean
nothing to another codec. They are made anew from clips that both codecs have encoded:

- Rows that are summed over the codebooks of a frame (inputs of the global stack, aligned sources)
  are a least-squares solution: the sum over the new codes approximates the sum over the old ones.
- Rows that are used alone (inputs and outputs of the local stack) are means of the old rows of
  their slot, weighted by how often both codes belong to one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uniaudio_engine.storage.config import VocabularyConfig

from ..models.lm import MultiScaleLM
from ..places import listed, load_arrays, place

_PRIOR = 4.0  # frames with average codes, added to those of every code: rare codes are uncertain
_MOST = 600_000  # frames, 3.3 h at 50 Hz

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """The codes of the same frames by two codecs: ``old`` [N, K] and ``new`` [N, K']."""

    old: Codes
    new: Codes

    def counts(self, slot: int, size: int) -> Tensor:
        """How often codes of a slot are of one frame, float64 [new code, old code]."""
        pair = self.new[:, slot] * size + self.old[:, slot]
        return torch.from_numpy(np.bincount(pair, minlength=size * size)).double().view(size, size)


def read_pairs(old: Sequence[str], new: Sequence[str]) -> Pairs:
    """The frames of the shards that are in both lists of token folders.

    Folders are paired in order (``new`` may have more), shards by name. Raises ValueError where
    there are none, or where the clips of a shard differ.
    """
    found: list[tuple[NDArray[np.generic], NDArray[np.generic]]] = []
    for a, b in zip(old, new, strict=False):
        ours = {p.name: p for p in listed(place(b), "*.npz")}
        for path in listed(place(a), "*.npz"):
            if path.name not in ours or sum(len(x) for x, _ in found) >= _MOST:
                continue
            x, y = load_arrays(path), load_arrays(ours[path.name])
            if not np.array_equal(x["frames"], y["frames"]):
                raise ValueError(
                    f"{path}: expected the clips of {ours[path.name]}, got others; tokenize one "
                    "corpus with both models"
                )
            found.append((x["codes"], y["codes"]))
    if not found:
        raise ValueError(
            f"{', '.join(old)}: expected shards that {', '.join(new)} has too, got none"
        )
    a_codes, b_codes = (np.concatenate(c).astype(np.int64) for c in zip(*found, strict=True))
    return Pairs(a_codes, b_codes)


def alone(rows: Tensor, pairs: Pairs, slot: int) -> Tensor:
    """New rows [C, D] of a slot: means of its old rows [C, D] by co-occurrence."""
    counts = pairs.counts(slot, len(rows))
    prior = counts.sum(0) / counts.sum()
    counts += _PRIOR * prior
    return (counts / counts.sum(1, keepdim=True) @ rows.double()).to(rows.dtype)


def summed(rows: Sequence[Tensor], pairs: Pairs) -> list[Tensor]:
    """New rows, K times [C, D]. For the codes of a frame, their sum approximates the sum of the old
    rows.

    Where there is little data, they stay near the rows that ``alone`` gives.
    """
    if not rows:
        return []
    size, count = len(rows[0]), len(rows)
    start = torch.cat([alone(r, pairs, k) for k, r in enumerate(rows)]).double()
    offsets = np.arange(count) * size
    new = torch.from_numpy(pairs.new[:, :count] + offsets)
    target = sum(r[torch.from_numpy(pairs.old[:, k])] for k, r in enumerate(rows))
    assert isinstance(target, Tensor)
    rest = target.double() - start[new].sum(1)
    gram = torch.zeros(count * size, count * size, dtype=torch.float64)
    for k in range(count):
        for j in range(count):
            pair = (new[:, k] - k * size) * size + (new[:, j] - j * size)
            block = torch.bincount(pair, minlength=size * size).view(size, size)
            gram[k * size : (k + 1) * size, j * size : (j + 1) * size] = block.double()
    right = torch.zeros_like(start)
    for k in range(count):
        right.index_add_(0, new[:, k], rest)
    gram.diagonal().add_(_PRIOR)
    solved = start + torch.cholesky_solve(right, torch.linalg.cholesky(gram))
    return [r.to(rows[0].dtype) for r in solved.split(size)]


@torch.no_grad()
def recode(model: MultiScaleLM, vocabulary: VocabularyConfig, pairs: Pairs) -> None:
    """Replaces the rows of codes in all tables of ``model``, whose codes were ``pairs.old``."""
    audio, slots = vocabulary.span("audio"), model.config.num_codebooks
    size = audio.size // slots
    frame = [slice(audio.start + k * size, audio.start + (k + 1) * size) for k in range(slots)]
    tables = [(model.global_.embed.weight, frame)]
    if model.guide is not None:
        for prefix in ("source", "ahead"):
            spans = [s for s in vocabulary.aligned_spans if s.name.startswith(prefix)]
            tables.append((model.guide.weight, [slice(s.start, s.start + s.size) for s in spans]))
    for table, rows in tables:
        for at, new in zip(rows, summed([table[r] for r in rows], pairs), strict=True):
            table[at] = new
    for table in (model.local.embed.weight, model.head.weight):
        for k, at in enumerate(frame):
            table[at] = alone(table[at], pairs, k)
