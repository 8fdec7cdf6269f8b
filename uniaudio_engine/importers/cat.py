"""A CAT codec (MOSS-Audio-Tokenizer and its Nano) -> a model folder with a codec only.

Patches and windowed transformers without convolutions, and factorised residual vector quantization.
Both layouts of names are read: that of the first version (``in_projs.0``, ``linear1``) and that of
the second (``in_proj``, ``ffn.0``), with weight norm or plain weights. Source: OpenMOSS,
MOSS-Audio-Tokenizer, {configuration,modeling}_moss_audio_tokenizer.py (facts; none of its code).

What is folded: the scales of residual branches into their last matrices, weight norm, and three
orders. Rotary positions pair neighbours there and halves here; a patch lists a row's channels first
there and its time steps first here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.config import (
    CatConfig,
    CatSide,
    CatStage,
    CodecConfig,
    QuantizerConfig,
    TransformerConfig,
)
from ..storage.tensors import Tensors
from ..storage.weight_shapes import codec_shapes
from .archive import Member, Progress, quiet
from .codec_folder import Family, Kinds, checked_codec, import_codec, read_fields
from .hub_files import Reader, State

Floats = NDArray[np.float32]
Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, Side] = ("encoder", "decoder")

_NUMBER: Kinds = (int, float)
_MODEL_TYPES = ("moss-audio-tokenizer", "moss_audio_tokenizer", "speech_tokenizer")
_NEEDED: dict[str, Kinds] = {
    "downsample_rate": (int,),
    "encoder_kwargs": (list,),
    "quantizer_kwargs": (dict,),
}
_OPTIONAL: dict[str, tuple[Kinds, Any]] = {
    "sampling_rate": ((int,), None),
    "sample_rate": ((int,), None),
    "decoder_kwargs": ((list, type(None)), None),
    "reversed_decoder_kwargs": ((list, type(None)), None),
    "number_channels": ((int,), 1),
    "enable_channel_interleave": ((bool,), True),
    "causal_transformer_context_duration": (_NUMBER, 10.0),
    "quantizer_type": ((str,), "rlfq"),
    # of no effect on the result
    "code_dim": ((int,), 0),
    "version": ((str, type(None)), None),
    "attention_implementation": ((str,), ""),
    "compute_dtype": ((str,), ""),
    "codec_weight_dtype": ((str,), ""),
}
_TRANSFORMER: dict[str, Kinds] = {
    "input_dimension": (int,),
    "output_dimension": (int,),
    "d_model": (int,),
    "num_heads": (int,),
    "num_layers": (int,),
    "dim_feedforward": (int,),
}
# Of a transformer, and what is expected where they are there
_EXPECTED: dict[str, Any] = {
    "causal": True,
    "norm": "layer_norm",
    "positional_embedding": "rope",
    "gating": "none",
}
_QUANTIZER: tuple[str, ...] = (
    "input_dim",
    "rvq_dim",
    "output_dim",
    "num_quantizers",
    "codebook_size",
    "codebook_dim",
)
_QUANTIZER_TYPES = ("rlfq", "random_prefix_rlfq")


def import_cat(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output`` from a CAT checkpoint; returns plain JSON values about it;
    see :func:`.codec_folder.import_codec`.
    """
    return import_codec(
        cat_family(), source, output, dtype=dtype, licence=licence, progress=progress
    )


def cat_family() -> Family:
    """How a CAT codec is read."""
    return Family("a CAT codec", read_config, cat_tensors, about)


def about(c: CodecConfig) -> str:
    """A paragraph for the card."""
    channels = "mono" if c.channels == 1 else f"{c.channels} channels"
    return (
        "A CAT neural audio codec (MOSS-Audio-Tokenizer), converted for uniaudio-engine: "
        f"{c.sample_rate} Hz, {channels}, {c.frame_rate:g} frames per second, {c.num_codebooks} "
        f"codebooks of {c.codebook_size}, causal.  The weights are the authors'; the conversion "
        "folds scales and weight norm and changes names and layout only."
    )


# --- configuration -------------------------------------------------------------------------------


def read_config(member: Member) -> tuple[CodecConfig, list[str]]:
    """(codec configuration, notes) of a ``config.json``.

    Raises one :class:`InputError` line that names the first differences from what is expected.
    """
    values, wrong, notes = read_fields(member, _MODEL_TYPES, "a CAT codec", _NEEDED, _OPTIONAL)
    rate = values["sampling_rate"] or values["sample_rate"]
    if not wrong:
        wrong = _unsupported(values, rate)
    return checked_codec(member.name, wrong, lambda: _codec(values, rate)), notes


def _unsupported(v: Mapping[str, Any], rate: int | None) -> list[str]:
    wrong = []
    if rate is None or not 1000 <= rate <= 384000:
        wrong.append(f"sampling_rate: expected 1000 to 384000, got {shown(rate)}")
    if not 1 <= v["number_channels"] <= 64:
        wrong.append(f"number_channels: expected 1 to 64, got {shown(v['number_channels'])}")
    if v["number_channels"] > 1 and not v["enable_channel_interleave"]:
        wrong.append("enable_channel_interleave: expected true with several channels, got false")
    kind = v["quantizer_kwargs"].get("quantizer_type", v["quantizer_type"])
    if kind not in _QUANTIZER_TYPES:
        wrong.append(f"quantizer_type: expected {' or '.join(_QUANTIZER_TYPES)}, got {shown(kind)}")
    wrong += [
        f"quantizer_kwargs.{key}: expected a whole number above 0, got {shown(got)}"
        for key in _QUANTIZER
        if type(got := v["quantizer_kwargs"].get(key)) is not int or got < 1
    ]
    duration = v["causal_transformer_context_duration"]
    if not 0 < duration <= 3600:
        wrong.append(
            "causal_transformer_context_duration: expected seconds up to 3600, got "
            f"{shown(duration)}"
        )
    return wrong


def _codec(v: Mapping[str, Any], rate: int) -> CodecConfig:
    quantizer, channels = v["quantizer_kwargs"], v["number_channels"]
    if quantizer["input_dim"] != quantizer["output_dim"]:
        raise InputError(
            f"quantizer_kwargs.output_dim: expected input_dim {shown(quantizer['input_dim'])}, got "
            f"{shown(quantizer['output_dim'])}"
        )
    fallback = v["causal_transformer_context_duration"]
    modules = {"encoder": v["encoder_kwargs"], "decoder": v["decoder_kwargs"]}
    if modules["decoder"] is None:
        modules["decoder"] = _reversed(v["reversed_decoder_kwargs"])
    frames = rate / v["downsample_rate"] if v["downsample_rate"] > 0 else 0.0
    starts = {"encoder": float(rate * channels), "decoder": frames}
    encoder, decoder = (_side(side, modules[side], starts[side], fallback) for side in SIDES)
    return CodecConfig(
        "cat",
        sample_rate=rate,
        frame_size=v["downsample_rate"],
        num_codebooks=quantizer["num_quantizers"],
        codebook_size=quantizer["codebook_size"],
        codebook_dim=quantizer["codebook_dim"],
        cat=CatConfig(encoder, decoder, channels),
        quantizer=QuantizerConfig(
            "factorised", quantizer["input_dim"], rvq_dim=quantizer["rvq_dim"]
        ),
    )


def _reversed(modules: list[Any] | None) -> list[Any]:
    """The decoder's modules from a list in the encoder's order."""
    if modules is None:
        raise InputError("expected decoder_kwargs, found none")
    turned = []
    for m in reversed(modules):
        if isinstance(m, dict) and m.get("module_type") == "Transformer":
            swapped = {
                "input_dimension": m.get("output_dimension"),
                "output_dimension": m.get("input_dimension"),
            }
            turned.append({**m, **swapped})
        else:
            turned.append(m)
    return turned


def _side(side: Side, modules: list[Any], rate: float, fallback: float) -> CatSide:
    """One side; ``rate`` is that of the rows that enter it, in Hz."""
    patches, stages = [1], []
    joined = False  # whether the module before was a patch
    if not 1 <= len(modules) <= 33:
        raise InputError(f"{side}_kwargs: expected 1 to 33 modules, got {len(modules)}")
    for i, m in enumerate(modules):
        where = f"{side}_kwargs[{i}]"
        kind = m.get("module_type") if isinstance(m, dict) else m
        if kind == "PatchedPretransform" and not joined:
            patch = m.get("patch_size")
            if type(patch) is not int or not 2 <= patch <= 65536:
                raise InputError(f"{where}.patch_size: expected 2 to 65536, got {shown(patch)}")
            patches[-1] = patch
            rate = rate / patch if side == "encoder" else rate * patch
            joined = True
        elif kind == "Transformer":
            stages.append(_stage(where, m, rate, fallback))
            patches.append(1)
            joined = False
        else:
            raise InputError(
                f"{where}: expected PatchedPretransform and Transformer in turn, got {shown(kind)}"
            )
    return CatSide(tuple(patches), tuple(stages))


def _stage(where: str, m: Mapping[str, Any], rate: float, fallback: float) -> CatStage:
    wrong = [
        f"{key}: expected a whole number, got {shown(m.get(key))}"
        for key, kinds in _TRANSFORMER.items()
        if type(m.get(key)) not in kinds
    ]
    wrong += [
        f"{key}: expected {shown(want)}, got {shown(m[key])}"
        for key, want in _EXPECTED.items()
        if key in m and m[key] != want
    ]
    duration, period = m.get("context_duration", fallback), m.get("max_period", 10000)
    if type(duration) not in _NUMBER or not 0 < duration <= 3600:
        wrong.append(f"context_duration: expected seconds up to 3600, got {shown(duration)}")
    if type(period) not in _NUMBER or not 1 < period < 1e9:
        wrong.append(f"max_period: expected a number above 1, got {shown(period)}")
    if wrong:
        raise InputError(f"{where}: {first_few(wrong)}")
    return CatStage(
        m["output_dimension"],
        TransformerConfig(
            layers=m["num_layers"],
            width=m["d_model"],
            heads=m["num_heads"],
            mlp_width=m["dim_feedforward"],
            window=max(1, round(rate * duration)),
            rope_base=float(period),
        ),
    )


# --- weights -------------------------------------------------------------------------------------


def cat_tensors(codec: CodecConfig, state: State, where: str) -> tuple[CodecConfig, Tensors]:
    """(``codec``, float32 tensors by our names).

    Raises :class:`InputError`, in one line, for tensors that are missing, left over, of a wrong
    shape or type, NaN or infinite.
    """
    reader = Reader(state, where)
    assert codec.cat is not None and codec.quantizer is not None
    out: Tensors = {}
    for side in SIDES:
        s: CatSide = getattr(codec.cat, side)
        widths = codec.cat.widths(side, codec.latent_dim)
        number = 0  # of the module in their list
        for i, stage in enumerate(s.stages):
            number += s.patches[i] > 1
            ours, theirs, width = f"{side}.stages.{i}", f"{side}.{number}", stage.transformer.width
            number += 1
            joins = s.patches[i] if side == "encoder" else 1
            splits = s.patches[i + 1] if side == "decoder" else 1
            x = _projection(reader, f"{theirs}.input_proj", widths[i], width)
            out[f"{ours}.input.weight"] = _time_first(x.T, joins).T
            x = _projection(reader, f"{theirs}.output_proj", width, stage.output)
            out[f"{ours}.output.weight"] = _time_first(x, splits)
            for n in range(stage.transformer.layers):
                names = f"{ours}.layers.{n}", f"{theirs}.transformer.layers.{n}"
                _layer(reader, out, *names, stage.transformer)
    _quantizer(reader, out, codec)
    reader.end()
    shapes = codec_shapes(codec)
    return codec, {n: np.ascontiguousarray(x).reshape(shapes[n]) for n, x in out.items()}


def _projection(reader: Reader, name: str, inputs: int, outputs: int) -> Floats:
    """A linear layer's weight [outputs, inputs]; where there is none it changes nothing."""
    if inputs == outputs and f"{name}.weight" not in reader:
        return np.eye(inputs, dtype=np.float32)
    return reader.get(f"{name}.weight", (outputs, inputs))


def _time_first(x: Floats, steps: int) -> Floats:
    """Rows [channels x steps] -> rows [steps x channels]."""
    return x.reshape(-1, steps, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def _layer(reader: Reader, out: Tensors, ours: str, theirs: str, c: TransformerConfig) -> None:
    for name, number in (("attn_norm", 1), ("mlp_norm", 2)):
        for part in ("weight", "bias"):
            out[f"{ours}.{name}.{part}"] = reader.get(f"{theirs}.norm{number}.{part}", (c.width,))

    def matrix(names: tuple[str, ...], inputs: int, outputs: int) -> Floats:
        found = next((n for n in names if f"{theirs}.{n}.weight" in reader), names[0])
        return reader.get(f"{theirs}.{found}.weight", (outputs, inputs))

    def scale(number: int) -> Floats:
        name = f"{theirs}.layer_scale_{number}.scale"
        given = reader.get(name, (c.width,)) if name in reader else np.ones(c.width, np.float32)
        return given[:, None]

    qkv = matrix(("self_attn.in_proj", "self_attn.in_projs.0"), c.width, 3 * c.width)
    head = c.width // c.heads
    for part, x in zip("qkv", np.split(qkv, 3), strict=True):
        if part != "v":  # pairs of neighbours -> pairs of halves
            x = x.reshape(c.heads, head // 2, 2, c.width).swapaxes(1, 2).reshape(x.shape)
        out[f"{ours}.attn.{part}.weight"] = x
    o = matrix(("self_attn.out_proj", "self_attn.out_projs.0"), c.width, c.width)
    out[f"{ours}.attn.o.weight"] = o * scale(1)
    out[f"{ours}.mlp.up.weight"] = matrix(("ffn.0", "linear1"), c.width, c.mlp_width)
    down = matrix(("ffn.2", "linear2"), c.mlp_width, c.width)
    out[f"{ours}.mlp.down.weight"] = down * scale(2)


def _quantizer(reader: Reader, out: Tensors, codec: CodecConfig) -> None:
    q, cat = codec.quantizer, codec.cat
    assert q is not None and cat is not None
    width, dim = q.rvq_dim, codec.codebook_dim
    # the patches next to the quantizer have their orders too
    weight, bias = _convolution(reader, "quantizer.input_proj", q.latent_dim, width)
    out["quantizer.input.weight"] = _time_first(weight.T, cat.encoder.patches[-1]).T
    out["quantizer.input.bias"] = bias
    weight, bias = _convolution(reader, "quantizer.output_proj", width, q.latent_dim)
    out["quantizer.output.weight"] = _time_first(weight, cat.decoder.patches[0])
    out["quantizer.output.bias"] = _time_first(bias, cat.decoder.patches[0])
    books, parts = [], []
    for k in range(codec.num_codebooks):
        name = f"quantizer.quantizers.{k}"
        books.append(reader.get(f"{name}.codebook.weight", (codec.codebook_size, dim)))
        parts.append(
            (
                *_convolution(reader, f"{name}.in_proj", width, dim),
                *_convolution(reader, f"{name}.out_proj", dim, width),
            )
        )
    out["quantizer.codebooks"] = np.stack(books)
    names = ("input.weight", "input.bias", "output.weight", "output.bias")
    for name, tensors in zip(names, zip(*parts, strict=True), strict=True):
        out[f"quantizer.stages.{name}"] = np.stack(tensors)


def _convolution(reader: Reader, name: str, inputs: int, outputs: int) -> tuple[Floats, Floats]:
    """(weight [outputs, inputs], bias) of a convolution of one step, weight norm folded; where there
    is none it changes nothing.
    """
    gain, direction = (f"{name}.parametrizations.weight.original{i}" for i in (0, 1))
    if gain not in reader and f"{name}.weight_g" in reader:
        gain, direction = f"{name}.weight_g", f"{name}.weight_v"
    if gain in reader:
        g = reader.get(gain, (outputs, 1, 1)).astype(np.float64)
        v = reader.get(direction, (outputs, inputs, 1)).astype(np.float64)
        norm = np.sqrt((v * v).sum(axis=(1, 2), keepdims=True))
        if not (norm > 0).all():
            raise InputError(
                f"{reader.where}: {name}: expected directions that are not all zero (weight norm "
                "divides by their length); download the checkpoint again"
            )
        weight = (g * v / norm).astype(np.float32)
    elif inputs == outputs and f"{name}.weight" not in reader:
        return np.eye(inputs, dtype=np.float32), np.zeros(outputs, np.float32)
    else:
        weight = reader.get(f"{name}.weight", (outputs, inputs, 1))
    return weight.reshape(outputs, inputs), reader.get(f"{name}.bias", (outputs,))
