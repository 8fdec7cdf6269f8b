"""The configuration of a codec, by family, and of the semantic tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .codec_layers import BottleneckConfig, CatConfig, QuantizerConfig, SnakeDecoderConfig
from .json_config import ConfigError, require, require_within

MAX_CHUNK = 1 << 20  # samples
MAX_CHUNK_ROWS = 1 << 26  # samples x channels of the widest signal: all of it is in memory


@dataclass(frozen=True)
class SpectralConfig:
    """Codec at frame rate: STFT -> causal ConvNeXt -> RVQ -> causal ConvNeXt -> ISTFT (Vocos-like
    heads).

    Everything runs at frame rate, so the arithmetic is dense matrix products. A frame has
    ``encoder_subframes`` analysis windows (hop = frame_size / encoder_subframes), each ending with
    its subframe, so the encoder has no look-ahead. The decoder writes ``decoder_subframes``
    synthesis windows per frame. A sample is complete once every window over it is, so the decoder
    looks ahead by ``decoder_window - frame_size / decoder_subframes`` samples.

    ``encoder_phases`` false: the encoder reads log-magnitudes only, which is enough to tell phones
    apart. ``decoder_blocks`` 0: there is no decoder, and the codes are units that are never turned
    into sound (see :class:`SemanticConfig`).
    """

    encoder_window: int = 640
    encoder_subframes: int = 2
    encoder_width: int = 256
    encoder_blocks: int = 4
    encoder_hidden: int = 768
    decoder_window: int = 640
    decoder_subframes: int = 2
    decoder_width: int = 320
    decoder_blocks: int = 6
    decoder_hidden: int = 960
    kernel_size: int = 7
    log_floor: float = 1e-3
    encoder_phases: bool = True

    @property
    def features(self) -> int:
        """Inputs of the encoder per frame."""
        return (
            (self.encoder_window // 2 + 1)
            * self.encoder_subframes
            * (3 if self.encoder_phases else 1)
        )

    def check(self, frame_size: int) -> None:
        for side in ("encoder", "decoder"):
            window, sub = getattr(self, f"{side}_window"), getattr(self, f"{side}_subframes")
            require(
                1 <= sub <= 64 and frame_size % sub == 0,
                f"codec.spectral.{side}_subframes",
                f"a divisor of frame_size {frame_size}",
                sub,
            )
            require(
                window % 2 == 0 and frame_size // sub <= window <= 16384,
                f"codec.spectral.{side}_window",
                f"even, {frame_size // sub} to 16384",
                window,
            )
            for part in ("width", "blocks", "hidden"):
                value = getattr(self, f"{side}_{part}")
                least = 0 if (side, part) == ("decoder", "blocks") else 1
                require_within(f"codec.spectral.{side}_{part}", least, value, 16384)
        require_within("codec.spectral.kernel_size", 1, self.kernel_size, 63)
        require(self.log_floor > 0, "codec.spectral.log_floor", "above 0", self.log_floor)


@dataclass(frozen=True)
class SeanetConfig:
    """Time-domain codec of SoundStream / EnCodec type (EnCodec: arXiv 2210.13438)."""

    channels: int = 1
    filters: int = 32
    ratios: tuple[int, ...] = (8, 5, 4, 2)  # decoder order; the encoder uses the reverse
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    conv_shortcut: bool = True
    lstm_layers: int = 2
    causal: bool = False
    pad_mode: Literal["zero", "reflect"] = "reflect"
    trim_right_ratio: float = 1.0
    # "group" is the time-group-norm of EnCodec 48 kHz; weight norm is folded at conversion
    norm: Literal["none", "group"] = "none"
    # EnCodec 48 kHz codes chunks of ``chunk_size`` samples, one every ``chunk_stride``, on their
    # own and joins them by linear cross-fades; 0: the whole clip at once
    chunk_size: int = 0
    chunk_stride: int = 0
    # divide each chunk by its loudness (RMS of the channels' mean), which is stored with its codes
    normalize: bool = False
    # Mimi: a transformer and a change of rate between the convolutions and the quantizer
    bottleneck: BottleneckConfig | None = None
    # in place of the decoder that mirrors the encoder
    decoder: SnakeDecoderConfig | None = None

    def check(self, frame_size: int, latent_dim: int) -> None:
        if self.bottleneck is not None:
            self.bottleneck.check(latent_dim)
            require(
                self.causal
                and self.trim_right_ratio == 1
                and self.norm == "none"
                and not (self.normalize or self.chunk_size),
                "codec.seanet.bottleneck",
                "causal convolutions without norm, chunks or loudness",
                "others",
            )
        if self.decoder is not None:
            require(
                self.bottleneck is not None and self.channels == 1,
                "codec.seanet.decoder",
                "a bottleneck and one channel with it",
                "others",
            )
            self.decoder.check(frame_size)
        product = self.bottleneck.stride if self.bottleneck is not None else 1
        for r in self.ratios:
            require_within("codec.seanet.ratios", 1, r, 64, "each")
            product *= r
        require(
            product == frame_size,
            "codec.seanet.ratios",
            f"a product of frame_size {frame_size}",
            product,
        )
        for name in (
            "channels",
            "filters",
            "kernel_size",
            "last_kernel_size",
            "residual_kernel_size",
            "dilation_base",
            "compress",
        ):
            require_within(f"codec.seanet.{name}", 1, getattr(self, name), 4096)
        for name in ("residual_layers", "lstm_layers"):
            require_within(f"codec.seanet.{name}", 0, getattr(self, name), 16)
        require_within("codec.seanet.trim_right_ratio", 0, self.trim_right_ratio, 1)
        require_within("codec.seanet.chunk_size", 0, self.chunk_size, MAX_CHUNK, "samples")
        require(
            self.chunk_size * max(self.channels, self.filters) <= MAX_CHUNK_ROWS,
            "codec.seanet.chunk_size",
            f"at most {MAX_CHUNK_ROWS} / channels or filters",
            self.chunk_size,
        )
        # at most eight chunks cover a sample, so the output is bounded by the input
        least = -(-self.chunk_size // 8)
        require(
            least <= self.chunk_stride <= self.chunk_size,
            "codec.seanet.chunk_stride",
            f"{least} to chunk_size {self.chunk_size}",
            self.chunk_stride,
        )


@dataclass(frozen=True)
class CodecConfig:
    """A neural codec: ``codes`` [K, T] at ``sample_rate / frame_size`` frames a second."""

    family: Literal["spectral", "seanet", "cat"]
    sample_rate: int = 16000
    frame_size: int = 320
    num_codebooks: int = 8
    codebook_size: int = 1024
    codebook_dim: int = 64
    spectral: SpectralConfig | None = None
    seanet: SeanetConfig | None = None
    # kbit/s it was trained for, ascending; choosing one chooses the number of codebooks
    bandwidths: tuple[float, ...] = ()
    cat: CatConfig | None = None
    quantizer: QuantizerConfig | None = None  # none: the latent itself is quantized

    @property
    def latent_dim(self) -> int:
        """Width of what the encoder hands to the quantizer."""
        return self.quantizer.latent_dim if self.quantizer is not None else self.codebook_dim

    @property
    def frame_rate(self) -> float:
        """Hz; within a chunk where the codec works in chunks."""
        return self.sample_rate / self.frame_size

    @property
    def channels(self) -> int:
        part = {"seanet": self.seanet, "cat": self.cat}.get(self.family)
        return part.channels if part is not None else 1

    @property
    def normalizes(self) -> bool:
        """Whether the codes need the chunks' loudness (``scales``) to be decoded."""
        return self.family == "seanet" and self.seanet is not None and self.seanet.normalize

    @property
    def chunk(self) -> tuple[int, int]:
        """(size, stride) of its chunks in samples; (0, 0) where it codes whole clips."""
        s = self.seanet if self.family == "seanet" else None
        return (s.chunk_size, s.chunk_stride) if s is not None else (0, 0)

    def frames(self, samples: int) -> int:
        """Frames T of a clip of that many samples per channel."""
        size, stride = self.chunk
        if size:
            return -(-samples // stride) * -(-size // self.frame_size)
        return -(-samples // self.frame_size)

    def codebooks_for(self, bandwidth: float) -> int:
        """The number of codebooks that fit a bandwidth in kbit/s, at least one (EnCodec's rule).

        Raises :class:`ConfigError` for a bandwidth that is not one of ``bandwidths``.
        """
        known = ", ".join(f"{b:g}" for b in self.bandwidths)
        if not self.bandwidths:
            raise ConfigError(
                "bandwidth: this codec offers none; choose a number of codebooks, 1 to "
                f"{self.num_codebooks}"
            )
        if (
            isinstance(bandwidth, bool)
            or not isinstance(bandwidth, (int, float))
            or bandwidth not in self.bandwidths
        ):
            raise ConfigError(f"bandwidth: expected one of {known} (kbit/s), got {bandwidth!r}")
        frames_per_second = -(-self.sample_rate // self.frame_size)
        codebook_rate = math.log2(self.codebook_size) * frames_per_second  # bit/s
        return min(self.num_codebooks, max(1, math.floor(bandwidth * 1000 / codebook_rate)))

    def check(self) -> None:
        require_within("codec.sample_rate", 1000, self.sample_rate, 384000, "Hz")
        require_within("codec.frame_size", 1, self.frame_size, 65536, "samples")
        require_within("codec.num_codebooks", 1, self.num_codebooks, 64)
        require_within("codec.codebook_size", 2, self.codebook_size, 65536)
        require_within("codec.codebook_dim", 1, self.codebook_dim, 4096)
        ascending = all(
            a < b for a, b in zip((0.0, *self.bandwidths), self.bandwidths, strict=False)
        )
        require(
            len(self.bandwidths) <= 64 and ascending and max(self.bandwidths, default=0) < 1e6,
            "codec.bandwidths",
            "at most 64 ascending numbers of kbit/s",
            self.bandwidths,
        )
        if self.quantizer is not None:
            require(self.family != "spectral", "codec.quantizer", "none for spectral", "one")
            self.quantizer.check(self.num_codebooks)
        part = {"spectral": self.spectral, "seanet": self.seanet, "cat": self.cat}[self.family]
        if part is None:
            raise ConfigError(
                f"config: codec.{self.family} is missing for family {self.family!r}; add that "
                "section"
            )
        if isinstance(part, SpectralConfig):
            part.check(self.frame_size)
        else:
            part.check(self.frame_size, self.latent_dim)

    @property
    def core_only(self) -> bool:
        """Whether only the CPU core has its parts: transformers, or a quantizer of their kind."""
        seanet = self.seanet if self.family == "seanet" else None
        return (
            self.family == "cat"
            or self.quantizer is not None
            or (seanet is not None and seanet.bottleneck is not None)
        )

    @property
    def has_decoder(self) -> bool:
        return (
            self.family != "spectral" or self.spectral is None or self.spectral.decoder_blocks > 0
        )


@dataclass(frozen=True)
class SemanticConfig:
    """The semantic tokenizer: one unit per codec frame that says which phone is spoken, not by
    whom.

    ``encoder``: an encoder with one codebook and no decoder. ``delay``: its code at frame t + delay
    is the unit of frame t, so it looks ahead by ``delay * frame_size`` samples.
    """

    encoder: CodecConfig
    delay: int = 4

    def check(self, codec: CodecConfig) -> None:
        e = self.encoder
        e.check()
        require(
            not e.has_decoder,
            "semantic.encoder.spectral.decoder_blocks",
            "0 (units are never decoded)",
            e.spectral and e.spectral.decoder_blocks,
        )
        require(e.num_codebooks == 1, "semantic.encoder.num_codebooks", "1", e.num_codebooks)
        require_within("semantic.delay", 0, self.delay, 64, "frames")
        for name in ("sample_rate", "frame_size"):
            require(
                getattr(e, name) == getattr(codec, name),
                f"semantic.encoder.{name}",
                f"the codec's {getattr(codec, name)}",
                getattr(e, name),
            )
