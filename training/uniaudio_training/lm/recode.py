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
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from uniaudio_engine.storage.config import VocabularyConfig

from ..models.lm import MultiScaleLM
from ..places import listed, load_arrays, place

_PRIOR = 4.0  # frames with average codes, added to those of every code: rare codes are uncertain
_CHUNK = 20_000  # frames that are in memory as vectors
_MOST = 1_500_000  # frames, 8.3 h at 50 Hz

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """The codes of the same frames by two codecs: ``old`` [N, K] and ``new`` [N, K']."""

    old: Codes
    new: Codes


def together(a: NDArray[np.int64], b: NDArray[np.int64], size: int) -> Tensor:
    """How often codes a [N] and b [N] belong to one frame, float64 [size, size]."""
    found = np.bincount(a * size + b, minlength=size * size)
    return torch.from_numpy(found).double().view(size, size)


def read_pairs(old: Sequence[str], new: Sequence[str]) -> Pairs:
    """The frames of shards that are in both lists of token folders, drawn from all of them.

    Folders are paired in order (``new`` may have more), shards by name. Raises ValueError where
    there are none, or where the clips of a shard differ.
    """
    both: dict[Path, Path] = {}
    for a, b in zip(old, new, strict=False):
        ours = {p.name: p for p in listed(place(b), "*.npz")}
        both |= {path: ours[path.name] for path in listed(place(a), "*.npz") if path.name in ours}
    shards = list(both.items())
    found: list[tuple[NDArray[np.generic], NDArray[np.generic]]] = []
    for i in np.random.default_rng(0).permutation(len(shards)):
        path, other = shards[i]
        x, y = load_arrays(path), load_arrays(other)
        if not np.array_equal(x["frames"], y["frames"]):
            raise ValueError(
                f"{path}: expected the clips of {other}, got others; tokenize one corpus with both "
                "models"
            )
        found.append((x["codes"], y["codes"]))
        if sum(len(codes) for codes, _ in found) >= _MOST:
            break
    if not found:
        raise ValueError(
            f"{', '.join(old)}: expected shards that {', '.join(new)} has too, got none"
        )
    a_codes, b_codes = (np.concatenate(c).astype(np.int64) for c in zip(*found, strict=True))
    return Pairs(a_codes, b_codes)


def alone(rows: Tensor, pairs: Pairs, slot: int) -> Tensor:
    """New rows [C, D] of a slot: means of its old rows [C, D] by co-occurrence."""
    counts = together(pairs.new[:, slot], pairs.old[:, slot], len(rows))
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
    stacked = torch.cat(list(rows)).double()
    offsets = torch.arange(count) * size
    right = torch.zeros_like(start)
    for at in range(0, len(pairs.new), _CHUNK):
        old, new = (
            torch.from_numpy(c[at : at + _CHUNK, :count]) + offsets for c in (pairs.old, pairs.new)
        )
        rest = F.embedding_bag(old, stacked, mode="sum") - F.embedding_bag(new, start, mode="sum")
        for k in range(count):
            right.index_add_(0, new[:, k], rest)
    gram = torch.cat(
        [
            torch.cat([together(a, b, size) for b in pairs.new.T[:count]], 1)
            for a in pairs.new.T[:count]
        ]
    )
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
