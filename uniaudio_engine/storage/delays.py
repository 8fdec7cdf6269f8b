"""Where the ids of frames lie where slots have delays: slot k of frame t at step t + delays[k].

The one home of that layout, for torch, importers and tests; ``csrc/lm_session.cc`` keeps it while
frames are made. T frames, K slots, T + max(delays) steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .lm_config import LMConfig

Ids = NDArray[np.int32]


def places(c: LMConfig, frames: int) -> tuple[NDArray[np.int64], Ids]:
    """The frame that each place of the steps has, [T + max, K], -1 for none; and the ids [T + max,
    K] that such places have.
    """
    steps = frames + c.max_delay
    frame = np.arange(steps)[:, None] - np.asarray(c.delays or (0,) * c.num_codebooks)
    ids = np.zeros((steps, c.num_codebooks), np.int32)
    if c.delay_ids:
        rows = np.asarray(c.delay_ids, np.int32)
        before = rows[np.minimum(np.arange(steps), len(rows) - 1)]
        ids = np.where(frame < 0, before, rows[-1])
    return np.where(frame < frames, frame, -1).clip(-1), ids


def delayed(c: LMConfig, frames: Ids) -> Ids:
    """Frames [T, K] -> the ids of each step [T + max, K]."""
    frame, ids = places(c, len(frames))
    given = np.concatenate((frames, np.zeros((1, c.num_codebooks), np.int32)))
    return np.where(frame >= 0, given[frame, np.arange(c.num_codebooks)], ids).astype(np.int32)


def undelayed(c: LMConfig, steps: Ids) -> Ids:
    """Inverse of :func:`delayed`: the ids of each step [T + max, K] -> frames [T, K]."""
    t = max(len(steps) - c.max_delay, 0)
    return np.stack([steps[d : d + t, k] for k, d in enumerate(c.delays)], 1) if c.delays else steps
