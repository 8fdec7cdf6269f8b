"""Alignment of planned phones with what is heard of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def best_path(
    scores: NDArray[np.float32],
    states: Sequence[int] | NDArray[np.int64],
    optional: Sequence[bool] | NDArray[np.bool_],
    least: int = 1,
) -> NDArray[np.int64] | None:
    """Viterbi alignment of a left-to-right chain of states.

    ``scores`` are log-probabilities [T, C], ``states`` [S] the class of each state, ``optional``
    [S] whether the state may be skipped; of adjacent ones one at a time.
    Every state that is not skipped lasts at least ``least`` steps.

    Returns the first step of each state, then T: int64 [S + 1].
    A skipped state begins where the next one begins. None where T steps are too few.
    """
    t_total = len(scores)
    if not t_total:
        return None
    # Each state is a chain of `least` links; only the last link may repeat.
    link_state = np.repeat(np.arange(len(states)), least)
    links = len(link_state)
    emit = scores[:, np.asarray(states)[link_state]]
    skip = np.asarray(optional)
    first = np.arange(links) % least == 0
    last = np.arange(links) % least == least - 1
    # A first link may also follow the last link of the state before the skipped one.
    jump_from = np.full(links, -1)
    for i in np.flatnonzero(first):
        s = link_state[i]
        if s >= 2 and skip[s - 1]:
            jump_from[i] = (s - 1) * least - 1
    low = np.float32(-1e30)
    value = np.full(links, low, np.float32)
    value[0] = emit[0, 0]
    if len(states) > 1 and skip[0]:
        value[least] = emit[0, least]
    back = np.zeros((t_total, links), np.int8)  # 0: stay, 1: from the previous link, 2: skip
    jumps = np.flatnonzero(jump_from >= 0)
    for t in range(1, t_total):
        stay = np.where(last, value, low)
        step = np.concatenate(([low], value[:-1]))
        best = np.maximum(stay, step)
        choice = (step > stay).astype(np.int8)
        if len(jumps):
            leap = value[jump_from[jumps]]
            over = leap > best[jumps]
            best[jumps[over]] = leap[over]
            choice[jumps[over]] = 2
        back[t] = choice
        value = best + emit[t]
    ends = [links - 1]
    if skip[-1] and len(states) > 1:
        ends.append(links - 1 - least)
    at = max(ends, key=lambda e: value[e])
    if value[at] < low / 2:
        return None
    begins = np.full(len(states), -1)
    for t in range(t_total - 1, -1, -1):
        begins[link_state[at]] = t
        if t:
            at = at if back[t, at] == 0 else at - 1 if back[t, at] == 1 else int(jump_from[at])
    found = np.concatenate((begins, [t_total]))
    for s in range(len(states) - 1, -1, -1):
        if found[s] < 0:
            found[s] = found[s + 1]
    return found
