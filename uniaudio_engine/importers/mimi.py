"""Mimi as stored by Hugging Face transformers (``MimiModel``) -> a model folder with a codec only.

SEANet convolutions, a transformer on each side, and residual vector quantization in two parts. The
scales of the transformers' residual branches are folded into their last matrices, and the codebooks'
sums are divided by their counts. Source: arXiv 2410.00037; transformers,
models/mimi/{configuration,modeling}_mimi.py (facts; none of its code).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.config import (
    BottleneckConfig,
    CodecConfig,
    QuantizerConfig,
    SeanetConfig,
    TransformerConfig,
)
from ..storage.tensors import Tensors
from ..storage.weight_shapes import codec_shapes
from .archive import MAX_CONFIG, Member, Progress, quiet
from .codec_folder import Family, Kinds, checked_codec, checked_fields, import_codec
from .hub_files import Reader, State, read_json
from .seanet import TRANSFORMERS_KEYS, seanet_names

_NUMBER: Kinds = (int, float)
# Required keys with their types: the weights alone do not determine them.
_NEEDED: dict[str, Kinds] = {
    **dict.fromkeys(TRANSFORMERS_KEYS, (int,)),
    "sampling_rate": (int,),
    "hidden_size": (int,),
    "upsampling_ratios": (list,),
    "codebook_size": (int,),
    "codebook_dim": (int,),
    "num_quantizers": (int,),
    "vector_quantization_hidden_dimension": (int,),
    "num_semantic_quantizers": (int,),
    "num_hidden_layers": (int,),
    "intermediate_size": (int,),
    "num_attention_heads": (int,),
    "sliding_window": (int,),
}
# Optional keys, absent in some published files, with the defaults of transformers.
_OPTIONAL: dict[str, tuple[Kinds, Any]] = {
    "num_key_value_heads": ((int, type(None)), None),
    "head_dim": ((int, type(None)), None),
    "frame_rate": ((*_NUMBER, type(None)), None),
    "norm_eps": (_NUMBER, 1e-5),
    "rope_theta": (_NUMBER, 10000.0),
    "rope_parameters": ((dict, type(None)), None),
    "upsample_groups": ((int,), 512),
    "use_causal_conv": ((bool,), True),
    "use_conv_shortcut": ((bool,), False),
    "trim_right_ratio": (_NUMBER, 1.0),
    "pad_mode": ((str,), "constant"),
    "hidden_act": ((str,), "gelu"),
    "attention_bias": ((bool,), False),
    # of no effect on the result
    "attention_dropout": (_NUMBER, 0.0),
    "initializer_range": (_NUMBER, 0.02),
    "layer_scale_initial_scale": (_NUMBER, 0.01),
    "max_position_embeddings": ((int,), 8000),
    "normalize": ((bool,), False),
    "tie_word_embeddings": ((bool,), True),
    "use_cache": ((bool,), False),
    "use_streaming": ((bool,), False),
}
_ROWS_PER_FRAME = 2  # where the configuration does not state its frame rate
# Names of modules in memory, in recent versions of transformers -> names in files
_SPELLINGS = (
    (r"^encoder\.(?:encoder|encoder_seanet)\.layers\.", "encoder.layers."),
    (r"^decoder\.(?:decoder|decoder_seanet)\.layers\.", "decoder.layers."),
    (r"^encoder\.(encoder_transformer|downsample)\.", r"\1."),
    (r"^decoder\.(decoder_transformer|upsample)\.", r"\1."),
)
_LEAST_COUNT = 1e-5  # what transformers divides a codeword's sum by, at least


def import_mimi(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output`` from a Mimi checkpoint; returns plain JSON values about it;
    see :func:`.codec_folder.import_codec`.
    """
    family = Family("Mimi", read_config, mimi_tensors, about)
    return import_codec(family, source, output, dtype=dtype, licence=licence, progress=progress)


def about(c: CodecConfig) -> str:
    """A paragraph for the card."""
    return (
        "A Mimi neural audio codec (arXiv 2410.00037) in the layout of Hugging Face transformers, "
        f"converted for uniaudio-engine: {c.sample_rate} Hz, {c.frame_rate:g} frames per second, "
        f"{c.num_codebooks} codebooks of {c.codebook_size}, causal.  The weights are the authors'; "
        "the conversion folds scales into matrices and changes names and layout only."
    )


def read_config(member: Member) -> tuple[CodecConfig, list[str]]:
    """(codec configuration, notes) of a ``config.json``.

    Raises one :class:`InputError` line that names the first differences from what is expected.
    """
    return mimi_config(read_json(member.path, member.name, MAX_CONFIG), member.name)


def mimi_config(data: Mapping[str, Any], where: str) -> tuple[CodecConfig, list[str]]:
    """:func:`read_config` of values that were read already, as another model's part."""
    values, wrong, notes = checked_fields(
        data, where, ("mimi",), "a Mimi model", _NEEDED, _OPTIONAL
    )
    ratios = values["upsampling_ratios"]
    if type(ratios) is list and not (
        1 <= len(ratios) <= 16 and all(type(x) is int and 0 < x <= 64 for x in ratios)
    ):
        wrong.append(f"upsampling_ratios: expected 1 to 16 numbers, 1 to 64, got {shown(ratios)}")
    if not wrong:
        wrong = _unsupported(values)
    return checked_codec(where, wrong, lambda: mimi_codec(values)), notes


def _unsupported(v: Mapping[str, Any]) -> list[str]:
    """Values that other Mimi-like models may have and this importer does not read."""
    heads, rope = v["num_attention_heads"], v["rope_parameters"] or {}
    # value, what is expected
    expected = {
        "audio_channels": (v["audio_channels"], 1),
        "codebook_dim": (v["codebook_dim"], v["vector_quantization_hidden_dimension"]),
        "num_key_value_heads": (v["num_key_value_heads"] or heads, heads),
        "head_dim": ((v["head_dim"] or 0) * heads or v["hidden_size"], v["hidden_size"]),
        "upsample_groups": (v["upsample_groups"], v["hidden_size"]),
        "use_causal_conv": (v["use_causal_conv"], True),
        "trim_right_ratio": (v["trim_right_ratio"], 1),
        "pad_mode": (v["pad_mode"], "constant"),
        "hidden_act": (v["hidden_act"], "gelu"),
        "attention_bias": (v["attention_bias"], False),
        "rope_parameters.rope_type": (rope.get("rope_type", "default"), "default"),
    }
    wrong = [
        f"{key}: expected {shown(want)}, got {shown(got)}"
        for key, (got, want) in expected.items()
        if got != want
    ]
    if v["codebook_dim"] == v["hidden_size"]:
        wrong.append(f"codebook_dim: expected another width than hidden_size {v['hidden_size']}")
    base = rope.get("rope_theta", v["rope_theta"])
    if type(base) not in _NUMBER or not 1 < base < 1e9:
        wrong.append(f"rope_theta: expected a number above 1, got {shown(base)}")
    rate = v["frame_rate"]
    if rate is not None and not 0 < rate < 1e6:
        wrong.append(f"frame_rate: expected frames per second, or null, got {shown(rate)}")
    return wrong


def mimi_codec(v: Mapping[str, Any]) -> CodecConfig:
    """The codec that checked values of a ``MimiConfig`` describe."""
    hop = math.prod(v["upsampling_ratios"])
    stride = _ROWS_PER_FRAME
    if v["frame_rate"] is not None:
        stride = max(1, min(round(math.ceil(v["sampling_rate"] / hop) / v["frame_rate"]), 65))
    rope = v["rope_parameters"] or {}
    transformer = TransformerConfig(
        layers=v["num_hidden_layers"],
        width=v["hidden_size"],
        heads=v["num_attention_heads"],
        mlp_width=v["intermediate_size"],
        window=v["sliding_window"],
        rope_base=float(rope.get("rope_theta", v["rope_theta"])),
        norm_eps=float(v["norm_eps"]),
    )
    seanet = SeanetConfig(
        **{ours: v[theirs] for theirs, ours in TRANSFORMERS_KEYS.items()},
        ratios=tuple(v["upsampling_ratios"]),
        conv_shortcut=v["use_conv_shortcut"],
        lstm_layers=0,
        causal=True,
        pad_mode="zero",
        bottleneck=BottleneckConfig(stride, transformer),
    )
    return CodecConfig(
        "seanet",
        sample_rate=v["sampling_rate"],
        frame_size=hop * stride,
        num_codebooks=v["num_quantizers"],
        codebook_size=v["codebook_size"],
        codebook_dim=v["codebook_dim"],
        seanet=seanet,
        quantizer=QuantizerConfig(
            "split", v["hidden_size"], semantic_codebooks=v["num_semantic_quantizers"]
        ),
    )


def mimi_tensors(
    codec: CodecConfig, state: State, where: str, prefix: str = ""
) -> tuple[CodecConfig, Tensors]:
    """(``codec``, float32 tensors by our names) of a ``MimiModel``.

    ``prefix`` is that of its names where it is part of another model; other names are then left
    alone. Raises :class:`InputError`, in one line, for tensors that are missing, left over, of a
    wrong shape or type, NaN or infinite.
    """
    reader = Reader(_renamed(state, prefix, where), where)
    shapes = codec_shapes(codec)
    out: Tensors = {}
    assert codec.seanet is not None and codec.quantizer is not None
    for ours, theirs in seanet_names(codec.seanet, "transformers"):
        for part in ("weight", "bias"):
            out[f"{ours}.{part}"] = reader.get(f"{theirs}.{part}", shapes[f"{ours}.{part}"])
    bottleneck = codec.seanet.bottleneck
    assert bottleneck is not None
    for side in ("encoder", "decoder"):
        for i in range(bottleneck.transformer.layers):
            _layer(reader, shapes, out, f"{side}.transformer", f"{side}_transformer", i)
    out["encoder.down.weight"] = reader.get("downsample.conv.weight", shapes["encoder.down.weight"])
    width, taps = shapes["decoder.up.weight"]
    up = reader.get("upsample.conv.weight", (width, 1, taps))
    out["decoder.up.weight"] = up.reshape(width, taps)
    books = []
    semantic = codec.quantizer.semantic_codebooks
    for kind, count in (("semantic", semantic), ("acoustic", codec.num_codebooks - semantic)):
        theirs = f"quantizer.{kind}_residual_vector_quantizer"
        for part in ("input", "output"):
            rows, columns = shapes[f"quantizer.{kind}.{part}.weight"]
            x = reader.get(f"{theirs}.{part}_proj.weight", (rows, columns, 1))
            out[f"quantizer.{kind}.{part}.weight"] = x.reshape(rows, columns)
        books += [_codebook(reader, codec, f"{theirs}.layers.{i}.codebook") for i in range(count)]
    out["quantizer.codebooks"] = np.stack(books)
    reader.end(ignored=lambda name: name.endswith(".codebook.initialized"))
    return codec, out


def _renamed(state: State, prefix: str, where: str) -> State:
    """The state under the names of files, without ``prefix``."""
    found: dict[str, NDArray[Any]] = {}
    for name in state:
        if not name.startswith(prefix):
            continue
        short = name.removeprefix(prefix)
        for pattern, spelling in _SPELLINGS:
            short = re.sub(pattern, spelling, short)
        if short in found:
            raise InputError(f"{where}: tensor {shown(short)} is there twice, in two spellings")
        found[short] = state[name]
    return found


def _layer(
    reader: Reader,
    shapes: Mapping[str, tuple[int, ...]],
    out: Tensors,
    side: str,
    their_side: str,
    number: int,
) -> None:
    """One layer of a transformer, with the scale of each residual branch in its last matrix."""
    ours, theirs = f"{side}.layers.{number}", f"{their_side}.layers.{number}"
    for norm, their_norm in (("attn_norm", "input"), ("mlp_norm", "post_attention")):
        for part in ("weight", "bias"):
            name = f"{ours}.{norm}.{part}"
            out[name] = reader.get(f"{theirs}.{their_norm}_layernorm.{part}", shapes[name])
    for name, theirs_name, scale in (
        ("attn.q", "self_attn.q_proj", ""),
        ("attn.k", "self_attn.k_proj", ""),
        ("attn.v", "self_attn.v_proj", ""),
        ("attn.o", "self_attn.o_proj", "self_attn_layer_scale"),
        ("mlp.up", "mlp.fc1", ""),
        ("mlp.down", "mlp.fc2", "mlp_layer_scale"),
    ):
        shape = shapes[f"{ours}.{name}.weight"]
        x = reader.get(f"{theirs}.{theirs_name}.weight", shape)
        if scale:
            x = x * reader.get(f"{theirs}.{scale}.scale", shape[:1])[:, None]
        out[f"{ours}.{name}.weight"] = x


def _codebook(reader: Reader, codec: CodecConfig, name: str) -> NDArray[np.float32]:
    size = codec.codebook_size
    total = reader.get(f"{name}.embed_sum", (size, codec.codebook_dim))
    count = reader.get(f"{name}.cluster_usage", (size,))
    with np.errstate(over="ignore"):
        book = total / np.maximum(count, np.float32(_LEAST_COUNT))[:, None]
    if not np.isfinite(book).all():
        raise InputError(
            f"{reader.where}: {name}: expected sums that fit their counts; download the checkpoint "
            "again"
        )
    return book
