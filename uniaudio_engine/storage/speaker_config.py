"""The configuration of an encoder of speakers that is part of a model folder: ECAPA-TDNN."""

from __future__ import annotations

from dataclasses import dataclass

from .json_config import require, require_within

BANDS = 128  # of the spectra


@dataclass(frozen=True)
class EcapaConfig:
    """ECAPA-TDNN (arXiv 2005.07143) on the spectra of ``audio/mel.py``.

    ``width``: of the vector. ``kernel_sizes`` and ``dilations``: of the first convolution, of each
    block of ``channels`` channels, and of the one that joins what all blocks made. ``groups``: into
    which a block's channels are split, each but the first with a convolution of its own.
    ``squeeze`` and ``attention``: channels of the blocks' gates and of the pooling.
    """

    width: int
    channels: int = 512
    kernel_sizes: tuple[int, ...] = (5, 3, 3, 3, 1)
    dilations: tuple[int, ...] = (1, 2, 3, 4, 1)
    groups: int = 8
    squeeze: int = 128
    attention: int = 128

    @property
    def blocks(self) -> int:
        return len(self.kernel_sizes) - 2

    @property
    def joined(self) -> int:
        """Channels of all blocks together."""
        return self.blocks * self.channels

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its tensors in speaker.safetensors. Convolutions are [out, in, taps]."""
        shapes: dict[str, tuple[int, ...]] = {}

        def conv(name: str, out: int, inputs: int, taps: int = 1) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inputs, taps), (out,)

        part = self.channels // self.groups
        conv("first", self.channels, BANDS, self.kernel_sizes[0])
        for i in range(self.blocks):
            conv(f"blocks.{i}.in", self.channels, self.channels)
            for j in range(self.groups - 1):
                conv(f"blocks.{i}.parts.{j}", part, part, self.kernel_sizes[1 + i])
            conv(f"blocks.{i}.out", self.channels, self.channels)
            conv(f"blocks.{i}.squeeze", self.squeeze, self.channels)
            conv(f"blocks.{i}.excite", self.channels, self.squeeze)
        conv("join", self.joined, self.joined, self.kernel_sizes[-1])
        conv("attention.in", self.attention, 3 * self.joined)
        conv("attention.out", self.joined, self.attention)
        conv("last", self.width, 2 * self.joined)
        return shapes

    def check(self, where: str) -> None:
        """Raise :class:`ConfigError` for a shape that the encoder does not take."""
        require_within(f"{where}.width", 1, self.width, 16384)
        for name in ("channels", "squeeze", "attention"):
            require_within(f"{where}.{name}", 1, getattr(self, name), 8192)
        require_within(f"{where}.kernel_sizes", 3, len(self.kernel_sizes), 34, "sizes")
        require(
            len(self.dilations) == len(self.kernel_sizes),
            f"{where}.dilations",
            f"{len(self.kernel_sizes)}, as kernel_sizes",
            len(self.dilations),
        )
        for size, dilation in zip(self.kernel_sizes, self.dilations, strict=True):
            require_within(f"{where}.kernel_sizes", 1, size, 64)
            require_within(f"{where}.dilations", 1, dilation, 64)
        require(
            2 <= self.groups <= self.channels and self.channels % self.groups == 0,
            f"{where}.groups",
            f"2 or more that divide {self.channels} channels",
            self.groups,
        )
