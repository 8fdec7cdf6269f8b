"""The semantic tokenizer: sound -> units that say which phone is spoken and not by whom, frame by
frame with the codec.

The encoder is causal and says what a frame was ``delay`` frames later; here its codes are put back
in their places, so that unit t is that of samples [t * frame_size, (t + 1) * frame_size). Streams
give what the one-shot call gives.
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
    """Immutable; may be used from several threads."""

    def __init__(self, config: SemanticConfig, codec: Any) -> None:
        """``codec``: what runs ``config.encoder``, as ``_C.Codec`` does."""
        self.config, self.core = config, codec

    @classmethod
    def native(
        cls, config: SemanticConfig, weights: Mapping[str, NDArray[Any]], threads: int
    ) -> SemanticEncoder:
        """On the compiled core; ``weights`` by the names of ``semantic.safetensors``.

        Raises ValueError where they do not fit.
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
    """Samples in, units out; the units of all pushes and the flush are those of
    :meth:`SemanticEncoder.encode`.
    """

    def __init__(self, encoder: SemanticEncoder) -> None:
        self.encoder = encoder
        self._core = encoder.core.encoder_stream()
        self._early = (
            encoder.config.delay
        )  # codes still to come that describe what was before the clip
        self._length = 0

    @property
    def lookahead(self) -> int:
        """Samples after a frame's end until its unit comes."""
        return self.encoder.lookahead

    def push(self, samples: NDArray[np.float32]) -> Units:
        """float32 [n] -> the units that are known now, int32 [t], maybe none. Raises ValueError on
        NaN or infinity, or another shape; nothing changes then.
        """
        units = self._core.push(samples)[0]
        self._length += np.asarray(samples).size
        skip = min(self._early, len(units))
        self._early -= skip
        return np.ascontiguousarray(units[skip:])

    def flush(self) -> Units:
        """Ends the clip: the units of its last frames.  The next push starts a new clip."""
        silence = np.zeros(
            -self._length % self.encoder.config.encoder.frame_size + self.lookahead, np.float32
        )
        units = self.push(silence)
        self.reset()
        return units

    def reset(self) -> None:
        """Forgets the clip."""
        self._core.reset()
        self._early = self.encoder.config.delay
        self._length = 0

    def fork(self) -> SemanticStream:
        """A stream that goes on from here by itself."""
        copy = SemanticStream.__new__(SemanticStream)
        copy.encoder, copy._core, copy._early, copy._length = (
            self.encoder,
            self._core.fork(),
            self._early,
            self._length,
        )
        return copy
