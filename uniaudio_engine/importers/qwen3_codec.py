"""The 12 Hz tokenizer of Qwen3-TTS (``Qwen3TTSTokenizerV2Model``) -> a model folder with a codec only.

The encoder is Mimi's, of whose codebooks the first ones are used. The decoder has codewords of its
own, a transformer, ConvNeXt stages and convolutions with snake activations. Folded into its tensors:
the projections of its codewords, the scales of residual branches, and the exponentials of the
activations' parameters. Source: PyPI qwen-tts 0.1.1, qwen_tts/core/tokenizer_12hz (facts; none of
its code).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..storage.config import CodecConfig, ConfigError, SnakeDecoderConfig, TransformerConfig
from ..storage.tensors import Tensors
from ..storage.weight_shapes import codec_shapes
from .archive import MAX_CONFIG, Member, Progress, quiet
from .codec_folder import Family, import_codec
from .hub_files import Reader, Settings, State, read_json
from .mimi import mimi_config, mimi_tensors

MODEL_TYPE = "qwen3_tts_tokenizer_12hz"
# What a configuration of Mimi says where it leaves a key out: the published Mimi.
_MIMI: dict[str, Any] = {
    "model_type": "mimi",
    "sampling_rate": 24000,
    "audio_channels": 1,
    "hidden_size": 512,
    "num_filters": 64,
    "num_residual_layers": 1,
    "upsampling_ratios": [8, 6, 5, 4],
    "kernel_size": 7,
    "last_kernel_size": 3,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "compress": 2,
    "codebook_size": 2048,
    "codebook_dim": 256,
    "num_quantizers": 32,
    "vector_quantization_hidden_dimension": 256,
    "num_semantic_quantizers": 1,
    "num_hidden_layers": 8,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "sliding_window": 250,
}
_LEAST_COUNT = 1e-5  # what upstream divides a codeword's sum by, at least
_LEAST_BETA = 1e-9  # what it adds to a snake's second parameter


def import_qwen3_codec(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output`` from a tokenizer's checkpoint; returns plain JSON values
    about it; see :func:`.codec_folder.import_codec`.
    """
    family = qwen3_codec_family()
    return import_codec(family, source, output, dtype=dtype, licence=licence, progress=progress)


def qwen3_codec_family() -> Family:
    """How the tokenizer is read."""
    return Family("Qwen3-TTS-Tokenizer-12Hz", read_config, qwen3_codec_tensors, about)


def about(c: CodecConfig) -> str:
    """A paragraph for the card."""
    return (
        "The 12 Hz tokenizer of Qwen3-TTS, a neural audio codec, converted for uniaudio-engine: "
        f"{c.sample_rate} Hz, {c.frame_rate:g} frames per second, {c.num_codebooks} codebooks of "
        f"{c.codebook_size}, causal.  The weights are the authors'; the conversion folds scales and "
        "projections and changes names and layout only."
    )


def read_config(member: Member) -> tuple[CodecConfig, list[str]]:
    """(codec configuration, notes) of a ``config.json``.

    Raises :class:`InputError`, in one line, for one that is not this family's.
    """
    settings = Settings(read_json(member.path, member.name, MAX_CONFIG), member.name)
    settings.expect("model_type", MODEL_TYPE)
    encoder, decoder = (
        settings.optional(f"{side}_config") or Settings({}, f"{member.name}: {side}_config")
        for side in ("encoder", "decoder")
    )
    given = {k: v for k, v in encoder.values.items() if v is not None}
    mimi, notes = mimi_config({**_MIMI, **given}, encoder.where)
    codebooks = settings.integer("encoder_valid_num_quantizers", 16)
    for where, key, default, expected in (
        (decoder, "num_quantizers", 16, codebooks),
        (decoder, "codebook_size", 2048, mimi.codebook_size),
        (settings, "input_sample_rate", 24000, mimi.sample_rate),
        (settings, "output_sample_rate", 24000, mimi.sample_rate),
        (settings, "encode_downsample_rate", 1920, mimi.frame_size),
        (settings, "decode_upsample_rate", 1920, mimi.frame_size),
    ):
        if (found := where.integer(key, default)) != expected:
            raise InputError(
                f"{where.where}: {key}: expected {expected}, as its encoder has, got {found}"
            )
    if not 2 <= codebooks <= mimi.num_codebooks:
        raise InputError(
            f"{settings.where}: encoder_valid_num_quantizers: expected 2 to {mimi.num_codebooks}, "
            f"got {codebooks}"
        )
    assert mimi.seanet is not None
    seanet = replace(mimi.seanet, decoder=_decoder(decoder))
    codec = replace(mimi, num_codebooks=codebooks, seanet=seanet)
    try:
        codec.check()
    except ConfigError as e:
        raise InputError(f"{member.name}: {e}") from None
    return codec, notes


def _decoder(s: Settings) -> SnakeDecoderConfig:
    heads, width = s.integer("num_attention_heads", 16), s.integer("hidden_size", 1024)
    s.expect("num_key_value_heads", heads, 16)
    s.expect("attention_bias", False)
    s.expect("hidden_act", "silu")
    for key in ("rope_scaling", "rope_parameters"):
        if (rope := s.optional(key)) is not None:
            rope.choice("rope_type", {"default": "default"}, "default")
            s = Settings({**s.values, **rope.values}, s.where)
    if not 1 <= heads <= 256:
        raise InputError(f"{s.where}: num_attention_heads: expected 1 to 256, got {heads}")
    dim = s.integer("head_dim", width // heads)
    transformer = TransformerConfig(
        layers=s.integer("num_hidden_layers", 8),
        width=width,
        heads=heads,
        mlp_width=s.integer("intermediate_size", 3072),
        window=s.integer("sliding_window", 72),
        rope_base=s.real("rope_theta", 10000.0),
        norm_eps=s.real("rms_norm_eps", 1e-5),
        norm="rmsnorm",
        activation="swiglu",
        head_width=0 if dim * heads == width else dim,
        final_norm=True,
    )
    return SnakeDecoderConfig(
        latent_dim=s.integer("codebook_dim", 512),
        width=s.integer("latent_dim", 1024),
        transformer=transformer,
        filters=s.integer("decoder_dim", 1536),
        upsample=tuple(s.integers("upsampling_ratios", [2, 2])),
        ratios=tuple(s.integers("upsample_rates", [8, 5, 4, 3])),
    )


def qwen3_codec_tensors(
    codec: CodecConfig, state: State, where: str
) -> tuple[CodecConfig, Tensors]:
    """(``codec``, float32 tensors by our names) of a tokenizer's checkpoint.

    Raises :class:`InputError`, in one line, for tensors that are missing, left over, of a wrong
    shape or type, NaN or infinite.
    """
    assert codec.seanet is not None and codec.seanet.decoder is not None
    _, out = mimi_tensors(codec, state, where, "encoder.", 64)
    reader = Reader({k: state[k] for k in state if k.startswith("decoder.")}, where)
    _Decoder(reader, codec_shapes(codec), out).take(codec, codec.seanet.decoder)
    known = ("encoder.", "decoder.")
    unused = ("input_proj.weight",)  # of the decoder's codewords, which nothing searches
    reader.end(ignored=lambda name: name.startswith("decoder.quantizer.") and name.endswith(unused))
    left = [name for name in state if not name.startswith(known)]
    if left:
        raise InputError(f"{where}: left over {left[0]!r}; is it this family's model?")
    return codec, out


class _Decoder:
    """Takes the decoder's tensors out of a reader."""

    def __init__(self, reader: Reader, shapes: Mapping[str, tuple[int, ...]], out: Tensors) -> None:
        self.reader, self.shapes, self.out = reader, shapes, out

    def get(self, name: str, *shape: int) -> NDArray[np.float32]:
        return self.reader.get(f"decoder.{name}", shape)

    def plain(self, ours: str, theirs: str, *parts: str) -> None:
        """Tensors that stay as they are."""
        for part in parts or ("weight", "bias"):
            name = f"decoder.{ours}.{part}"
            self.out[name] = self.get(f"{theirs}.{part}", *self.shapes[name])

    def take(self, codec: CodecConfig, c: SnakeDecoderConfig) -> None:
        self.codewords(codec, c)
        self.plain("input", "pre_conv.conv")
        self.transformer(c.transformer)
        for i, ratio in enumerate(c.upsample):
            self.upsample(f"upsample.{i}", ratio, c.width)
        self.plain("widen", "decoder.0.conv")
        for i in range(len(c.ratios)):
            theirs = f"decoder.{i + 1}.block"
            self.snake(f"stages.{i}.snake", f"{theirs}.0")
            self.plain(f"stages.{i}.up", f"{theirs}.1.conv")
            for j in range(3):
                ours, block = f"stages.{i}.blocks.{j}", f"{theirs}.{j + 2}"
                for number, name in ((1, "first"), (2, "second")):
                    self.snake(f"{ours}.{name}_snake", f"{block}.act{number}")
                    self.plain(f"{ours}.{name}", f"{block}.conv{number}.conv")
        last = len(c.ratios) + 1
        self.snake("snake", f"decoder.{last}")
        self.plain("output", f"decoder.{last + 1}.conv")

    def codewords(self, codec: CodecConfig, c: SnakeDecoderConfig) -> None:
        """Each codeword, projected to the latent."""
        size, dim = codec.codebook_size, c.latent_dim // 2
        books = np.zeros((codec.num_codebooks, size, c.latent_dim), np.float32)
        for part, numbers in (("first", range(1)), ("rest", range(1, codec.num_codebooks))):
            theirs = f"quantizer.rvq_{part}"
            project = self.get(f"{theirs}.output_proj.weight", c.latent_dim, dim, 1)[:, :, 0]
            for i in numbers:
                name = f"{theirs}.vq.layers.{i - numbers[0]}._codebook"
                total = self.get(f"{name}.embedding_sum", size, dim)
                count = np.maximum(
                    self.get(f"{name}.cluster_usage", size), np.float32(_LEAST_COUNT)
                )
                with np.errstate(over="ignore", invalid="ignore"):
                    np.matmul(total / count[:, None], project.T, out=books[i])
                if not np.isfinite(books[i]).all():
                    raise InputError(
                        f"{self.reader.where}: decoder.{name}: expected sums that fit their "
                        "counts; download the checkpoint again"
                    )
        self.out["decoder.codebooks"] = books

    def transformer(self, c: TransformerConfig) -> None:
        self.plain("transformer.input", "pre_transformer.input_proj")
        for i in range(c.layers):
            ours, theirs = f"transformer.layers.{i}", f"pre_transformer.layers.{i}"
            for name, other in (
                ("attn_norm", "input_layernorm"),
                ("attn.q", "self_attn.q_proj"),
                ("attn.k", "self_attn.k_proj"),
                ("attn.v", "self_attn.v_proj"),
                ("attn.o", "self_attn.o_proj"),
                ("mlp_norm", "post_attention_layernorm"),
                ("mlp.gate", "mlp.gate_proj"),
                ("mlp.up", "mlp.up_proj"),
                ("mlp.down", "mlp.down_proj"),
            ):
                self.plain(f"{ours}.{name}", f"{theirs}.{other}", "weight")
            for name, scale in (("attn.o", "self_attn"), ("mlp.down", "mlp")):
                self.scale(f"{ours}.{name}", f"{theirs}.{scale}_layer_scale.scale", c.width)
        self.plain("transformer.norm", "pre_transformer.norm", "weight")
        self.plain("transformer.output", "pre_transformer.output_proj")

    def upsample(self, name: str, ratio: int, width: int) -> None:
        # A transposed convolution whose outputs do not overlap is a linear map to `ratio` rows.
        weight = self.get(f"{name}.0.conv.weight", width, width, ratio)
        rows = np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(ratio * width, width, 1))
        self.out[f"decoder.{name}.rows.weight"] = rows
        self.out[f"decoder.{name}.rows.bias"] = np.tile(
            self.get(f"{name}.0.conv.bias", width), ratio
        )
        for ours, theirs in (
            ("depthwise", "dwconv.conv"),
            ("norm", "norm"),
            ("up", "pwconv1"),
            ("down", "pwconv2"),
        ):
            self.plain(f"{name}.{ours}", f"{name}.1.{theirs}")
        self.scale(f"{name}.down", f"{name}.1.gamma", width)

    def scale(self, ours: str, theirs: str, width: int) -> None:
        """Multiply the outputs of a linear map."""
        by = self.get(theirs, width)
        for part in ("weight", "bias"):
            if (x := self.out.get(f"decoder.{ours}.{part}")) is not None:
                self.out[f"decoder.{ours}.{part}"] = x * by.reshape(-1, *[1] * (x.ndim - 1))

    def snake(self, ours: str, theirs: str) -> None:
        name = f"decoder.{ours}"
        alpha, beta = (
            self.get(f"{theirs}.{p}", *self.shapes[f"{name}.{p}"]) for p in ("alpha", "beta")
        )
        with np.errstate(over="ignore", divide="ignore"):
            self.out[f"{name}.alpha"] = np.exp(alpha)
            self.out[f"{name}.beta"] = 1 / (np.exp(beta) + np.float32(_LEAST_BETA))
        for part in ("alpha", "beta"):
            if not np.isfinite(self.out[f"{name}.{part}"]).all():
                raise InputError(
                    f"{self.reader.where}: decoder.{theirs}.{part}: expected the logarithm of a "
                    "float32; download the checkpoint again"
                )
