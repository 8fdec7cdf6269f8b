"""Parts of a codec's configuration that have transformers in them, and its quantizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .json_config import require, require_within

MAX_KEYS = 1 << 28  # layers x width x window: what a stream keeps


@dataclass(frozen=True)
class TransformerConfig:
    """Causal layers without biases: a norm, attention with rotary positions over the newest
    ``window`` rows, a norm, an MLP. ``gelu`` is the exact (erf) form.
    """

    layers: int
    width: int
    heads: int
    mlp_width: int
    window: int
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    head_width: int = 0  # 0: width / heads
    final_norm: bool = False  # after the last layer

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width or self.width

    def check(self, where: str) -> None:
        for name, most in (
            ("layers", 64),
            ("width", 4096),
            ("heads", 256),
            ("mlp_width", 65536),
            ("window", 65536),
        ):
            require_within(f"{where}.{name}", 1, getattr(self, name), most)
        require_within(f"{where}.head_width", 0, self.head_width, 1024)
        require(
            self.head_width > 0 or self.width % (2 * self.heads) == 0,
            f"{where}.heads",
            f"a divisor of half of width {self.width}",
            self.heads,
        )
        require(self.head_width % 2 == 0, f"{where}.head_width", "an even number", self.head_width)
        require(
            self.layers * self.query_width * self.window <= MAX_KEYS,
            f"{where}.window",
            f"at most {MAX_KEYS} / (layers x width)",
            self.window,
        )
        require(self.rope_base > 1, f"{where}.rope_base", "above 1", self.rope_base)
        require(0 < self.norm_eps < 1, f"{where}.norm_eps", "between 0 and 1", self.norm_eps)

    def stream_floats(self, rows: int) -> int:
        """Floats of a stream: keys and values, and working memory for ``rows`` rows at once."""
        ring = self.window + 96
        inner = self.mlp_width * (2 if self.activation == "swiglu" else 1)
        working = rows * (4 * self.width + max(3 * self.query_width, inner))
        return 2 * self.layers * self.query_width * ring + 64 * ring + working


@dataclass(frozen=True)
class BottleneckConfig:
    """Mimi's middle: ``stride`` rows of the convolutions become one frame. The encoder has a
    transformer and then a convolution, the decoder a transposed convolution and then a transformer.
    """

    stride: int
    transformer: TransformerConfig

    def check(self, latent_dim: int) -> None:
        where = "codec.seanet.bottleneck"
        require_within(f"{where}.stride", 1, self.stride, 64)
        self.transformer.check(f"{where}.transformer")
        require(
            self.transformer.width == latent_dim,
            f"{where}.transformer.width",
            f"the latent's {latent_dim}",
            self.transformer.width,
        )


@dataclass(frozen=True)
class SnakeDecoderConfig:
    """A decoder in place of SEANet's own (the 12 Hz tokenizer of Qwen3-TTS); causal, without
    look-ahead.

    Its own codewords of ``latent_dim`` numbers are summed; a convolution makes rows of ``width``; a
    transformer stands between two projections. Each of ``upsample`` splits a row into as many and
    refines them by a ConvNeXt block. Then convolutions: ``filters`` channels, which each transposed
    one of ``ratios`` halves, with snake activations.
    """

    latent_dim: int
    width: int
    transformer: TransformerConfig
    filters: int
    upsample: tuple[int, ...] = (2, 2)
    ratios: tuple[int, ...] = (8, 5, 4, 3)

    def check(self, frame_size: int) -> None:
        where = "codec.seanet.decoder"
        require_within(f"{where}.latent_dim", 1, self.latent_dim, 4096)
        require_within(f"{where}.width", 1, self.width, 4096)
        require_within(f"{where}.filters", 1, self.filters, 16384)
        self.transformer.check(f"{where}.transformer")
        for name in ("upsample", "ratios"):
            require_within(f"{where}.{name}", 0, len(getattr(self, name)), 16, "numbers")
            for ratio in getattr(self, name):
                require_within(f"{where}.{name}", 1, ratio, 64, "each")
        product = math.prod(self.upsample) * math.prod(self.ratios)
        require(
            product == frame_size,
            f"{where}.ratios",
            f"with upsample a product of frame_size {frame_size}",
            product,
        )
        halved = 1 << len(self.ratios)
        require(
            self.filters % halved == 0, f"{where}.filters", f"a multiple of {halved}", self.filters
        )

    def stream_floats(self, frames: int) -> int:
        """Floats of a stream: keys and values, and working memory for ``frames`` frames at once."""
        rows, widest = frames, 6 * frames * self.width
        for ratio in self.upsample:
            rows *= ratio
            widest = max(widest, 6 * rows * self.width)
        channels = self.filters
        for ratio in self.ratios:
            rows, channels = rows * ratio, channels // 2
            widest = max(widest, rows * channels)
        return self.transformer.stream_floats(frames) + 5 * widest + 200 * self.filters


@dataclass(frozen=True)
class CatStage:
    """A transformer between two projections; ``output`` is the width of the rows that it makes."""

    output: int
    transformer: TransformerConfig


@dataclass(frozen=True)
class CatSide:
    """patches[0], stages[0], patches[1], …: the encoder joins patches[i] rows to one, the decoder
    splits a row into as many.
    """

    patches: tuple[int, ...]
    stages: tuple[CatStage, ...]


@dataclass(frozen=True)
class CatConfig:
    """Codec of patches and windowed transformers ("causal audio tokenizer with transformers").

    Channels are interleaved to one signal, whose samples are the rows of the first patch.
    """

    encoder: CatSide
    decoder: CatSide
    channels: int = 1

    def widths(self, side: Literal["encoder", "decoder"], latent_dim: int) -> list[int]:
        """Widths of the rows that enter each stage of a side, and of those that leave it."""
        s = self.encoder if side == "encoder" else self.decoder
        width, found = 1 if side == "encoder" else latent_dim, []
        for i, patch in enumerate(s.patches):
            require(
                side == "encoder" or width % patch == 0,
                f"codec.cat.{side}.patches",
                f"a divisor of the width {width} before it",
                patch,
            )
            width = width * patch if side == "encoder" else width // patch
            require(width <= 65536, f"codec.cat.{side}.stages", "widths up to 65536", width)
            found.append(width)
            if i < len(s.stages):
                width = s.stages[i].output
        return found

    def check(self, frame_size: int, latent_dim: int) -> None:
        require_within("codec.cat.channels", 1, self.channels, 64)
        sides: tuple[Literal["encoder", "decoder"], ...] = ("encoder", "decoder")
        for side in sides:
            s, where = getattr(self, side), f"codec.cat.{side}"
            require(
                1 <= len(s.stages) <= 16 and len(s.patches) == len(s.stages) + 1,
                f"{where}.patches",
                "one more than stages, of which there are 1 to 16",
                len(s.patches),
            )
            for patch in s.patches:
                require_within(f"{where}.patches", 1, patch, 65536, "each")
            for i, stage in enumerate(s.stages):
                require_within(f"{where}.stages[{i}].output", 1, stage.output, 65536)
                stage.transformer.check(f"{where}.stages[{i}].transformer")
            require(
                math.prod(s.patches) == frame_size * self.channels,
                f"{where}.patches",
                f"a product of frame_size x channels {frame_size * self.channels}",
                math.prod(s.patches),
            )
            outer = s.patches[0] if side == "encoder" else s.patches[-1]
            require(
                outer % self.channels == 0,
                f"{where}.patches",
                "a multiple of channels at the samples' end",
                outer,
            )
            last = latent_dim if side == "encoder" else 1
            found = self.widths(side, latent_dim)[-1]
            require(found == last, f"{where}.stages", f"a last width of {last}", found)


@dataclass(frozen=True)
class QuantizerConfig:
    """How a latent of ``latent_dim`` numbers becomes codes, where it is not quantized itself.

    ``split`` (Mimi): the first ``semantic_codebooks`` codebooks and the others each quantize a
    projection of the latent, and the sums of both are projected back and added. ``factorised``
    (arXiv 2306.06546): the latent is projected to ``rvq_dim``; each stage projects the residual to
    ``codebook_dim``, picks the codeword of the largest cosine, and subtracts its projection back.
    """

    kind: Literal["split", "factorised"]
    latent_dim: int
    semantic_codebooks: int = 0
    rvq_dim: int = 0

    def check(self, num_codebooks: int) -> None:
        require_within("codec.quantizer.latent_dim", 1, self.latent_dim, 4096)
        require_within("codec.quantizer.rvq_dim", 0, self.rvq_dim, 4096)
        split = self.kind == "split"
        require(
            1 <= self.semantic_codebooks < num_codebooks if split else self.semantic_codebooks == 0,
            "codec.quantizer.semantic_codebooks",
            "1 to num_codebooks - 1 where kind is split, else 0",
            self.semantic_codebooks,
        )
        require(
            (self.rvq_dim == 0) == split,
            "codec.quantizer.rvq_dim",
            "above 0 exactly where kind is factorised",
            self.rvq_dim,
        )
