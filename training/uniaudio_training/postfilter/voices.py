"""The first lesson of a voice filter: to tell voices apart, before it is told which one to keep.

Two recordings of a voice get vectors alike, and unlike those of the other voices of the batch
(contrastive learning with the batch's other pairs as negatives, arXiv 1807.03748). Without it, a
filter needs many steps until its vectors mean anything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..corpus.schema import SAMPLE_RATE
from ..models.postfilter import PostFilter
from ..precision import Arithmetic
from .mixtures import TwoVoices

_PAIRS = 48
_SECONDS = 2.5
_LR = 3e-3
_WARMUP, _DECAY = 30, 0.6  # steps, and the share of the steps at their end


def contrast(one: Tensor, other: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors [B, V] of two recordings of each of B voices -> the cross-entropy of finding each pair,
    and the share of pairs that are found.
    """
    likeness = sharpness.exp() * F.normalize(one, dim=1) @ F.normalize(other, dim=1).T
    own = torch.arange(len(likeness), device=likeness.device)
    loss = (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2
    return loss, (likeness.argmax(1) == own).float().mean()


def learn_voices(
    model: PostFilter,
    mixtures: TwoVoices,
    steps: int,
    seed: int,
    arithmetic: Arithmetic,
    stopping: Callable[[], bool] = lambda: False,
) -> float:
    """Trains ``model.voice``; returns the share of pairs that were found in the last tenth.

    Raises SystemExit as soon as ``stopping`` says so: the lesson is short, and is begun anew.
    """
    device, rng = arithmetic.device, np.random.default_rng(seed)
    # The vectors themselves need not be apart by angles alone.
    head = nn.Linear(model.config.voice, model.config.voice).to(device)
    sharpness = nn.Parameter(torch.tensor(2.3, device=device))
    weights = [*model.voice.parameters(), *head.parameters(), sharpness]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.02)
    found: list[float] = []
    bar = tqdm(range(steps), "voices", unit="step", mininterval=5)
    for step in bar:
        if stopping():
            raise SystemExit("stopped before the first step: run it again to begin anew")
        rate = min(1.0, (step + 1) / _WARMUP, (1 - step / steps) / _DECAY)
        for group in optimizer.param_groups:
            group["lr"] = _LR * rate
        pairs = mixtures.pairs(rng, _PAIRS, round(_SECONDS * SAMPLE_RATE))
        samples = torch.from_numpy(pairs).flatten(0, 1).to(device)
        with arithmetic.autocast():
            vectors = model.vector(model.spectrum(samples))
        one, other = head(vectors.float()).view(2, _PAIRS, -1)
        loss, share = contrast(one, other, sharpness)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(share))
        bar.set_postfix(found=f"{np.mean(found[-50:]):.2f}")
    return float(np.mean(found[-max(1, steps // 10) :]))
