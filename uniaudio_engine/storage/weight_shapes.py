"""The tensors of a model: names and shapes, derived from its configuration alone.

The frozen weight contract of the model folder. The names are the state-dict names of
``uniaudio_training.models``; ``tests/engine/test_folder.py`` holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .config import (
    CodecConfig,
    LMConfig,
    PostFilterConfig,
    QuantizerConfig,
    SeanetConfig,
    SnakeDecoderConfig,
    StackConfig,
    TransformerConfig,
)

Shapes = dict[str, tuple[int, ...]]
Stored = tuple[tuple[int, ...], tuple[int, ...]]  # a quantized matrix and its scales
Quantized = Callable[[str, tuple[int, ...], str], Stored | None]

GROUP = 32  # inputs that share a scale in int4
PARTS = ("global", "local", "head")
VOICE_KERNEL = 7  # frames that the part of a voice filter that hears the voice sees at once


def matrix_part(name: str) -> str | None:
    """The part of the LM whose ``dtype`` a matrix has; ``bridge`` and ``global_head`` have the head's.

    None for tensors that are always floats: embeddings, vectors, continuous inputs.
    """
    stack = name.partition(".")[0]
    if (
        stack in ("global", "local")
        and name.endswith(".weight")
        and not name.endswith("_norm.weight")
        and (".attn." in name or ".mlp." in name)
    ):
        return stack
    heads = ("head.weight", "global_head.weight", "bridge.weight")
    return "head" if name in heads else None


def quantized_shapes(shape: tuple[int, ...], dtype: str) -> Stored:
    """Stored shapes of a quantized matrix [out, in] and of its scales (``NAME_scale``).

    int8: int8 [out, in] and float32 [out]. int4: uint8 [out, 16 G], G = ceil(in / 32), two inputs per
    byte, the low nibble first, each the value + 8; and bfloat16 [out, G].
    """
    out, dim_in = shape
    groups = -(-dim_in // GROUP)
    return (shape, (out,)) if dtype == "int8" else ((out, groups * GROUP // 2), (out, groups))


def in_lm(name: str, shape: tuple[int, ...], dtype: str) -> Stored | None:
    """Stored shapes of an LM's matrix and of its scales; None where it cannot be quantized."""
    return quantized_shapes(shape, dtype) if matrix_part(name) else None


def in_codec(name: str, shape: tuple[int, ...], dtype: str) -> Stored | None:
    """Stored shapes of a codec's tensor in int8 and of its scales, one for each of the first axis;
    None for vectors, for what belongs to the quantizer (other codebooks give other codes), and for
    other types.
    """
    codebooks = name.startswith("quantizer.") or "codebooks" in name
    return (shape, shape[:1]) if dtype == "int8" and len(shape) > 1 and not codebooks else None


def lm_shapes(c: LMConfig) -> Shapes:
    """Tensors of ``lm.safetensors``."""
    d = c.global_.width
    shapes: Shapes = {}
    shapes["global.embed.weight"] = (c.vocab_size, c.embed_width)
    _stack(shapes, "global", c.global_, c.max_frames)
    if not c.tied_local:
        shapes["local.embed.weight"] = (c.local_rows, c.local.width)
    _stack(shapes, "local", c.local, c.local_slots, c.weight_sets)
    _linear(shapes, "bridge", c.bridge_shape[1], c.bridge_shape[0])
    if not c.tied_head:
        shapes["head.weight"] = (c.local_rows, c.local.width)
    if c.global_head_size:
        shapes["global_head.weight"] = (c.global_head_size, d)
    for name, width in c.continuous.items():
        _linear(shapes, f"continuous.{name}", width, d)
    if c.aligned_slots:
        shapes["guide.weight"] = (c.aligned_vocab, d)
    return shapes


def codec_shapes(c: CodecConfig) -> Shapes:
    """Tensors of ``codec.safetensors``, or of ``semantic.safetensors`` for the encoder of
    ``semantic``.
    """
    shapes: Shapes = {"quantizer.codebooks": (c.num_codebooks, c.codebook_size, c.codebook_dim)}
    if c.quantizer is not None:
        _quantizer(shapes, c.quantizer, c.num_codebooks, c.codebook_dim)
    if c.seanet is not None and c.family == "seanet":
        _seanet(shapes, c.seanet, c.latent_dim)
        if c.seanet.decoder is not None:
            own = (c.num_codebooks, c.codebook_size, c.seanet.decoder.latent_dim)
            shapes["decoder.codebooks"] = own
            _snake_decoder(shapes, c.seanet.decoder)
    elif c.cat is not None and c.family == "cat":
        sides: tuple[Literal["encoder", "decoder"], ...] = ("encoder", "decoder")
        for side in sides:
            widths = c.cat.widths(side, c.latent_dim)
            for i, stage in enumerate(getattr(c.cat, side).stages):
                name = f"{side}.stages.{i}"
                _linear(shapes, f"{name}.input", widths[i], stage.transformer.width, False)
                _transformer(shapes, name, stage.transformer)
                _linear(shapes, f"{name}.output", stage.transformer.width, stage.output, False)
    elif c.spectral is not None:
        s = c.spectral
        e, k = c.codebook_dim, s.kernel_size
        _convnext(
            shapes, "encoder", s.features, s.encoder_width, s.encoder_hidden, s.encoder_blocks, e, k
        )
        if c.has_decoder:
            out = 3 * (s.decoder_window // 2 + 1) * s.decoder_subframes
            _convnext(
                shapes, "decoder", e, s.decoder_width, s.decoder_hidden, s.decoder_blocks, out, k
            )
    return shapes


def postfilter_shapes(c: PostFilterConfig) -> Shapes:
    """Tensors of ``postfilter.safetensors`` and ``voice_filter.safetensors``."""
    shapes: Shapes = {}
    _convnext(shapes, "net", c.bins, c.width, c.hidden, c.blocks, c.bins, c.kernel_size)
    if c.voice:
        _convnext(
            shapes, "voice", c.bins, c.voice, 2 * c.voice, c.voice_blocks, c.voice, VOICE_KERNEL
        )
        _linear(shapes, "modulation", c.voice, (c.blocks + 1) * 2 * c.width)
    return shapes


def _linear(shapes: Shapes, name: str, dim_in: int, dim_out: int, bias: bool = True) -> None:
    shapes[f"{name}.weight"] = (dim_out, dim_in)
    if bias:
        shapes[f"{name}.bias"] = (dim_out,)


def _norm(shapes: Shapes, name: str, width: int, bias: bool = True) -> None:
    shapes[f"{name}.weight"] = (width,)
    if bias:
        shapes[f"{name}.bias"] = (width,)


def _stack(shapes: Shapes, name: str, c: StackConfig, positions: int, sets: int = 1) -> None:
    if c.positions == "learned":
        shapes[f"{name}.positions.weight"] = (positions, c.width)
    norm_bias = c.norm == "layernorm"
    kv = c.num_kv_heads * c.head_dim
    for i in range(c.layers):
        layer = f"{name}.layers.{i}"
        _norm(shapes, f"{layer}.attn_norm", c.width, norm_bias)
        _linear(shapes, f"{layer}.attn.q", c.width, sets * c.query_width, c.q_bias)
        _linear(shapes, f"{layer}.attn.k", c.width, sets * kv, c.k_bias)
        _linear(shapes, f"{layer}.attn.v", c.width, sets * kv, c.v_bias)
        _linear(shapes, f"{layer}.attn.o", c.query_width, sets * c.width, c.o_bias)
        if c.qk_norm:
            _norm(shapes, f"{layer}.attn.q_norm", c.head_dim, bias=False)
            _norm(shapes, f"{layer}.attn.k_norm", c.head_dim, bias=False)
        _norm(shapes, f"{layer}.mlp_norm", c.width, norm_bias)
        _linear(shapes, f"{layer}.mlp.up", c.width, sets * c.hidden, c.mlp_bias)
        if c.activation == "swiglu":
            _linear(shapes, f"{layer}.mlp.gate", c.width, sets * c.hidden, c.mlp_bias)
        _linear(shapes, f"{layer}.mlp.down", c.hidden, sets * c.width, c.mlp_bias)
    if c.final_norm:
        _norm(shapes, f"{name}.norm", c.width, norm_bias)


def _transformer(shapes: Shapes, name: str, c: TransformerConfig) -> None:
    norm_bias = c.norm == "layernorm"
    for i in range(c.layers):
        layer = f"{name}.layers.{i}"
        _norm(shapes, f"{layer}.attn_norm", c.width, norm_bias)
        for part in "qkv":
            _linear(shapes, f"{layer}.attn.{part}", c.width, c.query_width, False)
        _linear(shapes, f"{layer}.attn.o", c.query_width, c.width, False)
        _norm(shapes, f"{layer}.mlp_norm", c.width, norm_bias)
        for part in ("gate", "up") if c.activation == "swiglu" else ("up",):
            _linear(shapes, f"{layer}.mlp.{part}", c.width, c.mlp_width, False)
        _linear(shapes, f"{layer}.mlp.down", c.mlp_width, c.width, False)
    if c.final_norm:
        _norm(shapes, f"{name}.norm", c.width, norm_bias)


def _quantizer(shapes: Shapes, c: QuantizerConfig, codebooks: int, dim: int) -> None:
    if c.kind == "split":
        for part in ("semantic", "acoustic"):
            _linear(shapes, f"quantizer.{part}.input", c.latent_dim, dim, False)
            _linear(shapes, f"quantizer.{part}.output", dim, c.latent_dim, False)
        return
    _linear(shapes, "quantizer.input", c.latent_dim, c.rvq_dim)
    _linear(shapes, "quantizer.output", c.rvq_dim, c.latent_dim)
    for part, inputs, outputs in (("input", c.rvq_dim, dim), ("output", dim, c.rvq_dim)):
        shapes[f"quantizer.stages.{part}.weight"] = (codebooks, outputs, inputs)
        shapes[f"quantizer.stages.{part}.bias"] = (codebooks, outputs)


def _convnext(
    shapes: Shapes,
    name: str,
    dim_in: int,
    width: int,
    hidden: int,
    blocks: int,
    dim_out: int,
    kernel: int,
) -> None:
    _linear(shapes, f"{name}.input", dim_in, width)
    _norm(shapes, f"{name}.input_norm", width)
    for i in range(blocks):
        block = f"{name}.blocks.{i}"
        shapes[f"{block}.depthwise.weight"] = (width, 1, kernel)
        shapes[f"{block}.depthwise.bias"] = (width,)
        _norm(shapes, f"{block}.norm", width)
        _linear(shapes, f"{block}.up", width, hidden)
        _linear(shapes, f"{block}.down", hidden, width)
    _norm(shapes, f"{name}.norm", width)
    _linear(shapes, f"{name}.output", width, dim_out)


def _seanet(shapes: Shapes, c: SeanetConfig, dim: int) -> None:
    def conv(name: str, dim_in: int, dim_out: int, kernel: int, transposed: bool = False) -> None:
        shapes[f"{name}.weight"] = (
            (dim_in, dim_out, kernel) if transposed else (dim_out, dim_in, kernel)
        )
        shapes[f"{name}.bias"] = (dim_out,)
        if c.norm == "group":
            _norm(shapes, f"{name}.norm", dim_out)

    def blocks(stage: str, width: int) -> None:
        for j in range(c.residual_layers):
            conv(f"{stage}.blocks.{j}.first", width, width // c.compress, c.residual_kernel_size)
            conv(f"{stage}.blocks.{j}.second", width // c.compress, width, 1)
            if c.conv_shortcut:
                conv(f"{stage}.blocks.{j}.shortcut", width, width, 1)

    def lstm(name: str, width: int) -> None:
        for n in range(c.lstm_layers):
            for side in ("ih", "hh"):
                shapes[f"{name}.weight_{side}_l{n}"] = (4 * width, width)
                shapes[f"{name}.bias_{side}_l{n}"] = (4 * width,)

    width = c.filters
    conv("encoder.input", c.channels, width, c.kernel_size)
    for i, ratio in enumerate(reversed(c.ratios)):
        blocks(f"encoder.stages.{i}", width)
        conv(f"encoder.stages.{i}.down", width, 2 * width, 2 * ratio)
        width *= 2
    lstm("encoder.lstm", width)
    conv("encoder.output", width, dim, c.last_kernel_size)
    if c.bottleneck is not None:
        taps = 2 * c.bottleneck.stride
        _transformer(shapes, "encoder.transformer", c.bottleneck.transformer)
        shapes["encoder.down.weight"] = (dim, dim, taps)
        if c.decoder is not None:
            return
        shapes["decoder.up.weight"] = (dim, taps)
        _transformer(shapes, "decoder.transformer", c.bottleneck.transformer)
    conv("decoder.input", dim, width, c.kernel_size)
    lstm("decoder.lstm", width)
    for i, ratio in enumerate(c.ratios):
        conv(f"decoder.stages.{i}.up", width, width // 2, 2 * ratio, transposed=True)
        width //= 2
        blocks(f"decoder.stages.{i}", width)
    conv("decoder.output", width, c.channels, c.last_kernel_size)


def _snake_decoder(shapes: Shapes, c: SnakeDecoderConfig) -> None:
    def conv(name: str, dim_in: int, dim_out: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (dim_out, dim_in, kernel)
        shapes[f"{name}.bias"] = (dim_out,)

    def snake(name: str, width: int) -> None:
        for part in ("alpha", "beta"):
            shapes[f"{name}.{part}"] = (width,)

    conv("decoder.input", c.latent_dim, c.width, 3)
    _linear(shapes, "decoder.transformer.input", c.width, c.transformer.width)
    _transformer(shapes, "decoder.transformer", c.transformer)
    _linear(shapes, "decoder.transformer.output", c.transformer.width, c.width)
    for i, ratio in enumerate(c.upsample):
        stage = f"decoder.upsample.{i}"
        conv(f"{stage}.rows", c.width, ratio * c.width, 1)
        shapes[f"{stage}.depthwise.weight"] = (c.width, 1, 7)
        shapes[f"{stage}.depthwise.bias"] = (c.width,)
        _norm(shapes, f"{stage}.norm", c.width)
        _linear(shapes, f"{stage}.up", c.width, 4 * c.width)
        _linear(shapes, f"{stage}.down", 4 * c.width, c.width)
    width = c.filters
    conv("decoder.widen", c.width, width, 7)
    for i, ratio in enumerate(c.ratios):
        stage, half = f"decoder.stages.{i}", width // 2
        snake(f"{stage}.snake", width)
        shapes[f"{stage}.up.weight"] = (width, half, 2 * ratio)
        shapes[f"{stage}.up.bias"] = (half,)
        for j in range(3):
            block = f"{stage}.blocks.{j}"
            snake(f"{block}.first_snake", half)
            conv(f"{block}.first", half, half, 7)
            snake(f"{block}.second_snake", half)
            conv(f"{block}.second", half, half, 1)
        width = half
    snake("decoder.snake", width)
    conv("decoder.output", width, 1, 7)
