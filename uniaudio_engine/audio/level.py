"""How loud a sound is, and the gain that brings it to another level."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

_BLOCK, _HOP = 0.4, 0.1  # seconds, as in ITU-R BS.1770
_GATE_DB = -20.0  # blocks this far below the loudest one are pauses
_SILENCE_DB = -90.0  # dBFS; what is quieter has no level
# Of a running level:
_MEMORY = 3.0  # seconds; older blocks are forgotten exponentially
_DECAY = 1.0  # dB a second by which the loudest block fades, so that a quieter sound counts in time
_SLEW = 12.0  # dB a second that the gain moves at most
_MOST_DB = 40.0  # of gain, up or down


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


def scaled(samples: NDArray[np.float32], gain: float | NDArray[np.float64]) -> NDArray[np.float32]:
    """samples [N] times a gain, or times gains [N]; the same array for gain 1."""
    if isinstance(gain, float) and gain == 1.0:
        return samples
    return (samples.astype(np.float64) * gain).astype(np.float32)


class RunningGain:
    """The gain that brings a sound to a level, decided from what has been heard so far.

    :func:`level_db` hears the whole sound; this hears one frame after another. Loud blocks of 0.4 s
    count, quiet ones are pauses. The gain starts at 1, as if the sound had the right level, and
    follows the measured level by at most 12 dB a second, within 40 dB. A sound that is more than
    20 dB too quiet is a pause at first: it counts once the memory of the loudest block, which fades
    by 1 dB a second, has come down to it.
    """

    def __init__(
        self,
        sample_rate: int,
        frame_size: int,
        target_db: float | None,
        level: float | None = None,
    ) -> None:
        """``target_db``: dBFS to bring the sound to; None: the gain is 1.

        ``level``: the sound's level in dBFS, where it is known; the gain then never changes.
        """
        self._seconds = frame_size / sample_rate
        self._target = target_db
        self._moves = target_db is not None and level is None
        self._powers: deque[float] = deque(maxlen=max(1, round(_BLOCK / self._seconds)))
        self._loudest = self._level = 0.0 if target_db is None else target_db
        self._heard = 0.0  # seconds of blocks that counted
        self._gain_db = 0.0
        if target_db is not None and level is not None:
            self._gain_db = target_db - level

    def push(self, frame: NDArray[np.float32]) -> NDArray[np.float64]:
        """A frame [n] -> the gains [n] of its samples. Only a sound's last frame may be short."""
        before = float(10 ** (self._gain_db / 20))
        if not self._moves or not len(frame):
            return np.full(len(frame), before)
        self._listen(frame)
        assert self._target is not None
        wanted = min(max(self._target - self._level, -_MOST_DB), _MOST_DB)
        step = _SLEW * self._seconds
        self._gain_db += min(max(wanted - self._gain_db, -step), step)
        return np.linspace(before, float(10 ** (self._gain_db / 20)), len(frame) + 1)[1:]

    def _listen(self, frame: NDArray[np.float32]) -> None:
        """Take the block that ends with this frame into the running level."""
        self._powers.append(float(np.square(frame, dtype=np.float64).mean()))
        power = sum(self._powers) / len(self._powers)
        block = float(10 * np.log10(max(power, 10 ** (_SILENCE_DB / 10))))
        self._loudest = max(block, self._loudest - _DECAY * self._seconds)
        if block <= _SILENCE_DB or block < self._loudest + _GATE_DB:
            return
        self._heard = min(self._heard + self._seconds, _MEMORY)
        mean = 10 ** (self._level / 10)
        mean += (power - mean) * self._seconds / self._heard
        self._level = float(10 * np.log10(mean))
