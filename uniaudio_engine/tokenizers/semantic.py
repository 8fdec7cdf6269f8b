"""The semantic tokenizer: sound -> one unit per codec frame that says which phone is spoken, not by
whom.

The encoder is causal and emits the unit of a frame ``delay`` frames later. Here its codes are
shifted back, so that unit t belongs to samples [t * frame_size, (t + 1) * frame_size). Streams
return the units of the one-shot call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.core import core
from ..storage.config import SemanticConfig, to_dict

Units = NDArray[np.int32]


class SemanticEncoder:
    """Immutable; safe to share between threads."""

    def __init__(self, config: SemanticConfig, codec: Any) -> None:
        """``codec`` runs ``config.encoder``, with the interface of ``_C.Codec``."""
        self.config, self.core = config, codec

    @classmethod
    def native(
        cls, config: SemanticConfig, weights: Mapping[str, NDArray[Any]], threads: int
    ) -> SemanticEncoder:
        """On the compiled core; ``weights`` by the names of ``semantic.safetensors``.

        Raises ValueError for weights that do not fit the configuration.
        """
        return cls(
            config, core().Codec(json.dumps(to_dict(config.encoder)), dict(weights), threads)
        )

    @property
    def num_units(self) -> int:
        return self.config.encoder.codebook_size

    @property
    def lookahead(self) -> int:
        """Samples that must follow a frame's end before its unit is known."""
        return self.config.delay * self.config.encoder.frame_size

    def encode(self, samples: NDArray[np.float32]) -> Units:
        """float32 [N] at the model's rate -> units int32 [ceil(N / frame_size)].

        Raises ValueError on NaN or infinity.
        """
        x = np.asarray(samples, np.float32)
        frame = self.config.encoder.frame_size
        silence = np.zeros(-len(x) % frame + self.lookahead, np.float32)
        codes = self.core.encode(np.concatenate((x, silence)))
        return np.ascontiguousarray(codes[0, self.config.delay :])

    def stream(self) -> SemanticStream:
        return SemanticStream(self)


class SemanticStream:
    """Samples in, units out; all units together equal :meth:`SemanticEncoder.encode`."""

    def __init__(self, encoder: SemanticEncoder) -> None:
        self.encoder = encoder
        self._core = encoder.core.encoder_stream()
        self._early = encoder.config.delay  # codes to drop: they describe what precedes the clip
        self._length = 0

    @property
    def lookahead(self) -> int:
        """Samples between the end of a frame and its unit."""
        return self.encoder.lookahead

    def push(self, samples: NDArray[np.float32]) -> Units:
        """float32 [n] -> the units int32 [t] that they complete, perhaps none.

        Raises ValueError for NaN, infinity or another shape, and then nothing changes.
        """
        units = self._core.push(samples)[0]
        self._length += np.asarray(samples).size
        skip = min(self._early, len(units))
        self._early -= skip
        return np.ascontiguousarray(units[skip:])

    def flush(self) -> Units:
        """End the clip and return the units of its last frames. The next push starts a new clip."""
        silence = np.zeros(
            -self._length % self.encoder.config.encoder.frame_size + self.lookahead, np.float32
        )
        units = self.push(silence)
        self.reset()
        return units

    def reset(self) -> None:
        """Drop the clip."""
        self._core.reset()
        self._early = self.encoder.config.delay
        self._length = 0

    def fork(self) -> SemanticStream:
        """A copy that continues independently from here."""
        copy = SemanticStream.__new__(SemanticStream)
        copy.encoder, copy._core, copy._early, copy._length = (
            self.encoder,
            self._core.fork(),
            self._early,
            self._length,
        )
        return copy
