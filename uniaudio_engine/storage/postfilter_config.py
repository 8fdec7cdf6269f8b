"""The configuration of the post-filter."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .json_config import require, require_within

FILTERS = ("postfilter", "voice_filter")  # of tasks without a voice, and of those that keep one


@dataclass(frozen=True)
class PostFilterConfig:
    """A filter of clean-up: gains of a source's spectrum.

    Its frames have ``window`` samples every ``hop`` samples. A causal ConvNeXt of ``blocks`` blocks
    (``width``, ``hidden``, ``kernel_size`` frames) hears a frame ``lookahead`` frames early.
    ``log_floor``: added to magnitudes before their logarithm.

    ``voice`` above 0: it is told whose speech to keep. A second ConvNeXt of that width and
    ``voice_blocks`` blocks hears a recording of the voice; the mean of its frames, a vector of that
    width, modulates every block of the first.
    """

    window: int = 512
    hop: int = 160
    width: int = 160
    hidden: int = 480
    blocks: int = 7
    kernel_size: int = 7
    lookahead: int = 2
    log_floor: float = 1e-4
    voice: int = 0
    voice_blocks: int = 3

    @property
    def bins(self) -> int:
        return self.window // 2 + 1

    @property
    def silence(self) -> float:
        """What the networks hear of a bin without sound."""
        return 0.25 * math.log(self.log_floor) + 1.25

    @property
    def delay(self) -> int:
        """Samples that must follow a sample before it comes out."""
        return self.window - self.hop + self.lookahead * self.hop

    @property
    def name(self) -> str:
        """What a model folder calls it: one of FILTERS."""
        return FILTERS[self.voice > 0]

    def check(self, where: str = "postfilter") -> None:
        """Raise ConfigError for a value out of range; ``where``: the section of config.json."""
        require_within(f"{where}.window", 4, self.window, 16384, "samples")
        require(self.window % 2 == 0, f"{where}.window", "an even number", self.window)
        # Hann windows that overlap by half or more: their squares never add up to zero
        require_within(f"{where}.hop", 1, self.hop, self.window // 2, "samples")
        for name in ("width", "hidden"):
            require_within(f"{where}.{name}", 1, getattr(self, name), 16384)
        require_within(f"{where}.blocks", 1, self.blocks, 64)
        require_within(f"{where}.kernel_size", 1, self.kernel_size, 63)
        require_within(f"{where}.voice", 0, self.voice, 16384)
        require_within(f"{where}.voice_blocks", 1, self.voice_blocks, 64)
        require_within(f"{where}.lookahead", 0, self.lookahead, 64, "frames")
        require_within(f"{where}.log_floor", 1e-9, self.log_floor, 1)
