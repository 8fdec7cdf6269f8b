"""ECAPA-TDNN (arXiv 2005.07143): a vector of the speaker from the spectra of a recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..audio.mel import RATE, log_mel
from ..storage.speaker_config import BANDS, EcapaConfig
from ..storage.tensors import Tensors

_LEAST_VARIANCE = 1e-12
Rows = NDArray[np.float32]


class Ecapa:
    """Immutable; safe to share between threads."""

    rate = RATE  # Hz, of the samples

    def __init__(self, config: EcapaConfig, tensors: Tensors) -> None:
        """``tensors``: float32, as :attr:`EcapaConfig.shapes` names them."""
        self.config, self._t = config, tensors

    def vector(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vector [width] of samples [N] at 24 kHz. Raises ValueError for 384 or fewer."""
        blocks, dilations = self.config.blocks, self.config.dilations
        x = _relu(self._conv(log_mel(samples, BANDS), "first", dilations[0]))
        outputs = []
        for i in range(blocks):
            x = self._block(x, f"blocks.{i}", dilations[1 + i])
            outputs.append(x)
        x = _relu(self._conv(np.concatenate(outputs, axis=1), "join", dilations[-1]))
        return self._conv(self._pooled(x)[None], "last")[0]

    def _block(self, x: Rows, name: str, dilation: int) -> Rows:
        """rows [T, channels] through one Res2Net block with a gate."""
        y = _relu(self._conv(x, f"{name}.in"))
        parts = np.split(y, self.config.groups, axis=1)
        done = [parts[0]]
        for j, part in enumerate(parts[1:]):
            given = part if j == 0 else part + done[-1]
            done.append(_relu(self._conv(given, f"{name}.parts.{j}", dilation)))
        y = _relu(self._conv(np.concatenate(done, axis=1), f"{name}.out"))
        mean = y.mean(axis=0, dtype=np.float64).astype(np.float32)[None]
        gate = self._conv(_relu(self._conv(mean, f"{name}.squeeze")), f"{name}.excite")
        with np.errstate(over="ignore"):
            return y / (1 + np.exp(-gate)) + x

    def _pooled(self, x: Rows) -> Rows:
        """The attended means and deviations [2 joined] of rows [T, joined]."""
        mean, deviation = _statistics(x, np.full((len(x), 1), 1 / len(x)))
        # The mean and the deviation are the same in every row: their part of the sum is made once.
        weight, bias = self._t["attention.in.weight"][:, :, 0], self._t["attention.in.bias"]
        own, other = np.split(weight, [x.shape[1]], axis=1)
        once = other @ np.concatenate((mean, deviation)).astype(np.float32) + bias
        scores = self._conv(np.tanh(_relu(x @ own.T + once)), "attention.out")
        weights = np.exp(scores.astype(np.float64) - scores.max(axis=0))
        weights /= weights.sum(axis=0)
        return np.concatenate(_statistics(x, weights)).astype(np.float32)

    def _conv(self, x: Rows, name: str, dilation: int = 1) -> Rows:
        """A convolution of rows [T, in] with mirrored ends -> [T, out]."""
        weight, bias = self._t[f"{name}.weight"], self._t[f"{name}.bias"]
        taps = weight.shape[2]
        if taps == 1:
            return x @ weight[:, :, 0].T + bias
        around = dilation * (taps - 1)
        padded = np.pad(x, ((around // 2, around - around // 2), (0, 0)), mode="reflect")
        out = np.tile(bias, (len(x), 1))
        for j in range(taps):
            out += padded[j * dilation : j * dilation + len(x)] @ weight[:, :, j].T
        return out


def _statistics(x: Rows, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Weighted means and deviations [C] of rows [T, C]; weights [T, C] or [T, 1] that add up to 1."""
    mean = (weights * x).sum(axis=0)
    variance = (weights * np.square(x - mean)).sum(axis=0)
    return mean, np.sqrt(np.maximum(variance, _LEAST_VARIANCE))


def _relu(x: Rows) -> Rows:
    return np.maximum(x, np.float32(0))
