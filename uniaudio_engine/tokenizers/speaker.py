"""Vectors of speakers: from a recording, by an exported encoder, and into the language model.

A model folder has ``speaker.safetensors``, a linear map and a layer norm that make a row of the
language model's width of a vector; and perhaps ``speaker.onnx``, which makes a vector of a sound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.fbank import RATE, fbank
from ..errors import InputError, shown
from ..storage.tensors import Tensors

_EPS = 1e-5
_MAX_SECONDS = 30.0


class Speaker:
    """Immutable; safe to share between threads."""

    def __init__(self, tensors: Tensors, encoder: Path | None) -> None:
        """``encoder``: speaker.onnx, which is loaded at first use; None: there is none."""
        self._map, self._encoder = tensors, encoder
        self._session: Any = None

    @property
    def width(self) -> int:
        """Of a vector."""
        return int(self._map["weight"].shape[1])

    def row(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """A vector [W] as a row [D]."""
        m = self._map
        x = m["weight"].astype(np.float64) @ vector + m["bias"]
        x = (x - x.mean()) / np.sqrt(x.var() + _EPS)
        return np.asarray(x * m["norm.weight"] + m["norm.bias"], np.float32)

    def vector(self, samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
        """The vector [W] of a sound, samples [N] or [C, N].

        Raises :class:`InputError` where the folder has no encoder, or ONNX Runtime is absent.
        """
        import soxr

        mono = samples if samples.ndim == 1 else samples.mean(axis=0)
        mono = mono[: round(_MAX_SECONDS * sample_rate)]
        features = fbank(np.asarray(soxr.resample(mono, sample_rate, RATE), np.float32))
        features -= features.mean(axis=0)
        session = self._loaded()
        found = session.run(None, {session.get_inputs()[0].name: features[None]})[0]
        vector = np.asarray(found, np.float32).reshape(-1)
        if vector.shape != (self.width,) or not np.isfinite(vector).all():
            raise InputError(
                f"{self._encoder}: expected a vector of {self.width} finite numbers, got "
                f"{list(vector.shape)}"
            )
        return vector

    def _loaded(self) -> Any:
        if self._session is not None:
            return self._session
        if self._encoder is None:
            raise InputError(
                "prompt: this model needs a vector of a recording's speaker, and its folder has no "
                "speaker.onnx to make one; import it with one, or choose one of its voices"
            )
        try:
            import onnxruntime
        except ImportError as e:
            raise InputError(
                f"{self._encoder}: needs ONNX Runtime ({e}): pip install 'uniaudio-engine[onnx]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                self._encoder.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # the package's own kinds of errors have no common name
            raise InputError(
                f"{self._encoder}: expected an encoder of speakers, got: "
                f"{shown(' '.join(str(e).split()), 200)}"
            ) from None
        return self._session
