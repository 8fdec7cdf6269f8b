"""Learning-rate schedules, relative to the peak, and weight-decay groups."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def cosine(step: int, done: float, warmup: int, floor: float = 0.05) -> float:
    """Linear warm-up over ``warmup`` steps, then cosine decay over the run down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def trapezoid(step: int, done: float, warmup: int, decay_share: float) -> float:
    """Linear warm-up, constant, then linear decay to 0 over the last ``decay_share`` of the run."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * min(1.0, max(0.0, (1 - done) / max(1e-9, decay_share)))


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: matrices decay; norms, biases and embeddings do not."""
    decay = [p for n, p in module.named_parameters() if p.dim() >= 2 and "embed" not in n]
    rest = [p for n, p in module.named_parameters() if p.dim() < 2 or "embed" in n]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
