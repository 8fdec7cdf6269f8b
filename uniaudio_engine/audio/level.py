"""How loud a sound is, and the gain that brings it to another level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK, _HOP = 0.4, 0.1  # seconds, as in ITU-R BS.1770
_GATE_DB = -20.0  # blocks this far below the loudest one are pauses
_SILENCE_DB = -90.0  # dBFS; what is quieter has no level


def level_db(samples: NDArray[np.float32], sample_rate: int) -> float | None:
    """The level of samples [N] in dBFS (RMS): that of their louder parts, so that pauses do not
    count. None for silence.
    """
    x = np.asarray(samples, np.float64)
    if not len(x):
        return None
    block, hop = round(_BLOCK * sample_rate), round(_HOP * sample_rate)
    sums = np.concatenate(([0.0], np.cumsum(x * x)))
    if len(x) <= block:
        power = sums[-1:] / len(x)
    else:
        begins = np.arange(0, len(x) - block + 1, hop)
        power = (sums[begins + block] - sums[begins]) / block
    loud = power[power >= power.max() * 10 ** (_GATE_DB / 10)].mean()
    return None if loud < 10 ** (_SILENCE_DB / 10) else float(10 * np.log10(loud))


def gain_to(samples: NDArray[np.float32], sample_rate: int, target_db: float | None) -> float:
    """The factor that brings samples [N] to ``target_db`` dBFS; 1 for silence, or without target."""
    level = None if target_db is None else level_db(samples, sample_rate)
    if target_db is None or level is None:
        return 1.0
    return float(10 ** ((target_db - level) / 20))


def scaled(samples: NDArray[np.float32], gain: float) -> NDArray[np.float32]:
    """samples [N] times a gain; the same array for gain 1."""
    if gain == 1.0:
        return samples
    return (samples.astype(np.float64) * gain).astype(np.float32)
