"""EnCodec as stored by Hugging Face transformers (``EncodecModel``) -> a model folder with a codec
only.

``config.json`` is checked against the weights. Supported are the published models (24 kHz mono, 32
kHz mono, 48 kHz stereo in chunks with loudness normalisation) and the configurations between them.
Source: arXiv 2210.13438; transformers, models/encodec/{configuration,modeling}_encodec.py (facts;
none of its code).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import InputError, first_few, shown
from ..storage.config import CodecConfig, SeanetConfig
from ..storage.tensors import Tensors
from .archive import Member, Progress, quiet
from .codec_folder import Family, Kinds, checked_codec, import_codec, read_fields
from .hub_files import State
from .seanet import TRANSFORMERS_KEYS, seanet_tensors

_NUMBER: Kinds = (int, float)
# Required keys with their types: the weights alone do not determine them.
_NEEDED: dict[str, Kinds] = {
    "sampling_rate": (int,),
    **dict.fromkeys(TRANSFORMERS_KEYS, (int,)),
    "target_bandwidths": (list,),
    "upsampling_ratios": (list,),
    "hidden_size": (int,),
    "num_lstm_layers": (int,),
    "codebook_size": (int,),
    "norm_type": (str,),
    "pad_mode": (str,),
    "normalize": (bool,),
    "use_causal_conv": (bool,),
}
# Optional keys, absent in some published files, with the defaults of transformers.
_OPTIONAL: dict[str, tuple[Kinds, Any]] = {
    "codebook_dim": ((int, type(None)), None),
    "chunk_length_s": ((*_NUMBER, type(None)), None),
    "overlap": ((*_NUMBER, type(None)), None),
    "trim_right_ratio": (_NUMBER, 1.0),
    "use_conv_shortcut": ((bool,), True),
}
_NORMS: dict[str, Literal["none", "group"]] = {"weight_norm": "none", "time_group_norm": "group"}
_PADS: dict[str, Literal["zero", "reflect"]] = {"reflect": "reflect", "constant": "zero"}


def import_encodec(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output`` from an EnCodec checkpoint; returns plain JSON values
    about it;
    see :func:`.codec_folder.import_codec`.
    """
    family = Family("EnCodec", read_config, _tensors, about)
    return import_codec(family, source, output, dtype=dtype, licence=licence, progress=progress)


def about(c: CodecConfig) -> str:
    """A paragraph for the card."""
    s = c.seanet
    assert s is not None
    chunks = (
        f", in chunks of {s.chunk_size} samples, one every {s.chunk_stride}" if s.chunk_size else ""
    )
    loudness = ", loudness normalised" if s.normalize else ""
    bandwidths = ", ".join(f"{b:g} ({c.codebooks_for(b)} codebooks)" for b in c.bandwidths)
    return (
        "An EnCodec neural audio codec (arXiv 2210.13438) in the layout of Hugging Face "
        "transformers, converted for "
        f"uniaudio-engine: {c.sample_rate} Hz, "
        f"{'mono' if c.channels == 1 else f'{c.channels} channels'}, "
        f"{c.frame_rate:g} frames per second, "
        f"{'causal' if s.causal else 'not causal'}{chunks}{loudness}; kbit/s: {bandwidths}.  "
        "The weights are the authors'; the conversion folds weight norm and changes names and "
        "layout only."
    )


def read_config(member: Member) -> tuple[CodecConfig, list[str]]:
    """(codec configuration, notes) of a ``config.json``.

    ``num_codebooks`` follows from the bandwidths. Raises one :class:`InputError` line that names
    the first differences from what is expected.
    """
    values, wrong, notes = read_fields(member, ("encodec",), "an EnCodec model", _NEEDED, _OPTIONAL)
    for key, known in (("norm_type", _NORMS), ("pad_mode", _PADS)):
        if type(values[key]) is str and values[key] not in known:
            wrong.append(f"{key}: expected {' or '.join(known)}, got {shown(values[key])}")
    for key, kind, most in (("upsampling_ratios", (int,), 16), ("target_bandwidths", _NUMBER, 64)):
        v = values[key]
        if type(v) is list and not (
            1 <= len(v) <= most and all(type(x) in kind and 0 < x < 1e6 for x in v)
        ):
            wrong.append(f"{key}: expected 1 to {most} numbers above 0, got {shown(v)}")
    if not wrong:
        wrong = _contradictions(values)
    return checked_codec(member.name, wrong, lambda: _codec_config(values)), notes


def _contradictions(v: Mapping[str, Any]) -> list[str]:
    """Values that are valid on their own but contradict each other."""
    wrong = []
    for key, low, high in (
        ("sampling_rate", 1000, 384000),
        ("audio_channels", 1, 2),
        ("num_lstm_layers", 1, 16),
        ("codebook_size", 2, 65536),
    ):
        if not low <= v[key] <= high:
            wrong.append(f"{key}: expected {low} to {high}, got {shown(v[key])}")
    if any(r > 64 for r in v["upsampling_ratios"]):
        wrong.append(
            f"upsampling_ratios: expected 1 to 64 each, got {shown(v['upsampling_ratios'])}"
        )
    if v["codebook_dim"] not in (None, v["hidden_size"]):
        wrong.append(
            f"codebook_dim: expected hidden_size {shown(v['hidden_size'])}, got "
            f"{shown(v['codebook_dim'])}"
        )
    if not 0 <= v["trim_right_ratio"] <= 1:
        wrong.append(f"trim_right_ratio: expected 0 to 1, got {shown(v['trim_right_ratio'])}")
    elif not v["use_causal_conv"] and v["trim_right_ratio"] != 1:
        wrong.append(
            "trim_right_ratio: expected 1 without use_causal_conv, got "
            f"{shown(v['trim_right_ratio'])}"
        )
    length, overlap = v["chunk_length_s"], v["overlap"]
    if length is not None and not 0 < length <= 3600:
        wrong.append(f"chunk_length_s: expected seconds up to 3600, or null, got {shown(length)}")
    if length is not None and (overlap is None or not 0 <= overlap < 1):
        wrong.append(f"overlap: expected 0 to 1 beside chunk_length_s, got {shown(overlap)}")
    return wrong


def _codec_config(v: Mapping[str, Any]) -> CodecConfig:
    chunk = int(v["chunk_length_s"] * v["sampling_rate"]) if v["chunk_length_s"] is not None else 0
    seanet = SeanetConfig(
        **{ours: v[theirs] for theirs, ours in TRANSFORMERS_KEYS.items()},
        ratios=tuple(v["upsampling_ratios"]),
        conv_shortcut=v["use_conv_shortcut"],
        lstm_layers=v["num_lstm_layers"],
        causal=v["use_causal_conv"],
        pad_mode=_PADS[v["pad_mode"]],
        trim_right_ratio=float(v["trim_right_ratio"]),
        norm=_NORMS[v["norm_type"]],
        chunk_size=chunk,
        chunk_stride=max(1, int((1.0 - v["overlap"]) * chunk)) if chunk else 0,
        normalize=v["normalize"],
    )
    hop = math.prod(seanet.ratios)
    count = _quantizers(
        v["target_bandwidths"][-1],
        v["sampling_rate"],
        hop,
        math.ceil(math.log2(v["codebook_size"])),
    )
    return CodecConfig(
        "seanet",
        sample_rate=v["sampling_rate"],
        frame_size=hop,
        num_codebooks=max(1, min(count, 1 << 20)),
        codebook_size=v["codebook_size"],
        codebook_dim=v["hidden_size"],
        seanet=seanet,
        bandwidths=tuple(sorted({float(b) for b in v["target_bandwidths"]})),
    )


def _quantizers(bandwidth: float, sample_rate: int, hop: int, bits: int) -> int:
    """The number of codebooks of a model whose highest bandwidth is this, in kbit/s."""
    return int(1000 * bandwidth // (math.ceil(sample_rate / hop) * bits))


def _tensors(codec: CodecConfig, state: State, where: str) -> tuple[CodecConfig, Tensors]:
    """The configuration with the actual codebooks, and float32 tensors by our names."""
    assert codec.seanet is not None
    try:
        tensors = seanet_tensors(codec.seanet, "transformers", state)
    except InputError as e:
        raise InputError(f"{where}: {e}") from None
    return _with_codebooks(codec, tensors, where), tensors


def _with_codebooks(c: CodecConfig, tensors: Tensors, where: str) -> CodecConfig:
    """The configuration with the actual codebooks. Raises InputError where it contradicts them."""
    k, size, dim = tensors["quantizer.codebooks"].shape
    # transformers before about 4.32 assumed ten bits per codebook, whatever its size
    known = {
        c.num_codebooks,
        max(1, _quantizers(c.bandwidths[-1], c.sample_rate, c.frame_size, 10)),
    }
    wrong = (
        [] if k in known else [f"{c.num_codebooks} codebooks there (target_bandwidths), {k} here"]
    )
    wrong += (
        [f"codebook_size {c.codebook_size} there, {size} here"] if size != c.codebook_size else []
    )
    wrong += (
        [f"hidden_size {c.codebook_dim} there, codebooks of {dim} here"]
        if dim != c.codebook_dim
        else []
    )
    if wrong:
        raise InputError(f"{where}: config.json is of another codec: {first_few(wrong)}")
    return CodecConfig(**(vars(c) | {"num_codebooks": k}))
