"""Vectors of speakers: from a recording, by an encoder of the model's own or an exported one, and into
the language model.

A model folder has ``speaker.safetensors``: an encoder (``ecapa.py``) whose vectors are rows of the
prompt; or a linear map and a layer norm that make a row of the language model's width of a vector, and
perhaps ``speaker.onnx``, which makes a vector of a sound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.fbank import RATE, fbank
from ..errors import InputError, shown
from ..storage.config import EcapaConfig
from ..storage.tensors import Tensors, from_bfloat16
from .ecapa import Ecapa

_EPS = 1e-5
_MAX_SECONDS = 30.0


class Speaker:
    """Immutable; safe to share between threads."""

    def __init__(
        self, tensors: Tensors, encoder: Path | None, config: EcapaConfig | None = None
    ) -> None:
        """``config``: of the encoder whose tensors these are; None: they are a map. ``encoder``:
        speaker.onnx, which is loaded at first use; None: there is none.
        """
        wide = {n: from_bfloat16(x) if x.dtype == np.uint16 else x for n, x in tensors.items()}
        self._map, self._encoder = wide, encoder
        self._own = None if config is None else Ecapa(config, wide)
        self._session: Any = None

    @property
    def width(self) -> int:
        """Of a vector."""
        return self._own.config.width if self._own is not None else self._map["weight"].shape[1]

    def row(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the language model is given of a vector [W]: the vector, where its encoder is the
        model's own, or a row [D].
        """
        if self._own is not None:
            return vector
        m = self._map
        x = m["weight"].astype(np.float64) @ vector + m["bias"]
        x = (x - x.mean()) / np.sqrt(x.var() + _EPS)
        return np.asarray(x * m["norm.weight"] + m["norm.bias"], np.float32)

    def vector(self, samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
        """The vector [W] of a sound, samples [N] or [C, N].

        Raises :class:`InputError` for one that is too short, where the folder has no encoder, or ONNX
        Runtime is absent.
        """
        import soxr

        mono = samples if samples.ndim == 1 else samples.mean(axis=0)
        mono = mono[: round(_MAX_SECONDS * sample_rate)]
        rate = RATE if self._own is None else self._own.rate
        heard = np.asarray(soxr.resample(mono, sample_rate, rate), np.float32)
        try:
            found = self._exported(heard) if self._own is None else self._own.vector(heard)
        except InputError:
            raise
        except ValueError as e:  # from the spectra
            raise InputError(f"prompt: {e}") from None
        if found.shape != (self.width,) or not np.isfinite(found).all():
            raise InputError(
                f"{self._encoder or 'speaker.safetensors'}: expected a vector of {self.width} finite "
                f"numbers, got {list(found.shape)}"
            )
        return found

    def _exported(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        features = fbank(samples)
        features -= features.mean(axis=0)
        session = self._loaded()
        found = session.run(None, {session.get_inputs()[0].name: features[None]})[0]
        return np.asarray(found, np.float32).reshape(-1)

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
