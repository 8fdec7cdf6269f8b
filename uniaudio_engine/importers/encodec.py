"""EnCodec as stored by Hugging Face transformers (``EncodecModel``) -> a model folder with a codec
only.

``config.json`` is checked against the weights. Supported are the published models (24 kHz mono, 32
kHz mono, 48 kHz stereo in chunks with loudness normalisation) and the configurations between them.
Source: arXiv 2210.13438; transformers, models/encodec/{configuration,modeling}_encodec.py (facts;
none of its code).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..backends.core import core
from ..errors import InputError, first_few, shown
from ..storage.config import (
    FORMAT_VERSION,
    CodecConfig,
    ConfigError,
    ModelConfig,
    SeanetConfig,
    to_dict,
)
from ..storage.folder import load_folder, save_folder
from ..storage.opening import read_regular
from ..storage.tensors import Tensors
from .archive import MAX_CONFIG, Member, Progress, Role, find_members, quiet
from .card import Origin, write_card
from .checkpoint import load_checkpoint
from .output import new_folder, sha256
from .pickle_machine import brief
from .seanet import seanet_tensors

LICENCE = "see the source of these weights; the files do not state a licence"
MAX_WEIGHTS = 4 << 30  # bytes; the published ones have at most 240 MB
_CONFIG = Role("config.json", names=("config.json",), max_bytes=MAX_CONFIG)
_WEIGHTS = Role(
    "checkpoint of EnCodec",
    names=("model.safetensors", "pytorch_model.bin"),
    max_bytes=MAX_WEIGHTS,
    ranked=True,
)

_Kinds = tuple[type, ...]
_NUMBER: _Kinds = (int, float)
# Required keys with their types: the weights alone do not determine them.
_NEEDED: dict[str, _Kinds] = {
    "sampling_rate": (int,),
    "audio_channels": (int,),
    "target_bandwidths": (list,),
    "upsampling_ratios": (list,),
    "hidden_size": (int,),
    "num_filters": (int,),
    "num_residual_layers": (int,),
    "num_lstm_layers": (int,),
    "kernel_size": (int,),
    "last_kernel_size": (int,),
    "residual_kernel_size": (int,),
    "dilation_growth_rate": (int,),
    "compress": (int,),
    "codebook_size": (int,),
    "norm_type": (str,),
    "pad_mode": (str,),
    "normalize": (bool,),
    "use_causal_conv": (bool,),
}
# Optional keys, absent in some published files, with the defaults of transformers.
_OPTIONAL: dict[str, tuple[_Kinds, Any]] = {
    "codebook_dim": ((int, type(None)), None),
    "chunk_length_s": ((*_NUMBER, type(None)), None),
    "overlap": ((*_NUMBER, type(None)), None),
    "trim_right_ratio": (_NUMBER, 1.0),
    "use_conv_shortcut": ((bool,), True),
}
# Keys of every transformers configuration, unrelated to the model.
_IGNORED = (
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "model_type",
    "_name_or_path",
    "_commit_hash",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
)
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
    about it.

    ``source``: a folder or zip with ``config.json`` and ``model.safetensors`` or
    ``pytorch_model.bin``, or one of these weight files with ``config.json`` next to it. ``dtype``:
    float32, or bfloat16, which changes the codes. ``licence`` is stored in the card and the
    configuration. Needs no torch and executes nothing from the files. Raises :class:`InputError`,
    in one line; no partial output remains.
    """
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype: expected float32 or bfloat16, got {shown(dtype)}")
    with new_folder(output) as shop:
        members = _members(Path(source), shop.files, progress)
        codec, notes = read_config(members["config"])
        where = members["weights"].name
        progress("reading the weights")
        tensors = _tensors(codec, members["weights"], where)
        codec = _with_codebooks(codec, tensors, where)
        target = Path(output)
        model = ModelConfig(FORMAT_VERSION, target.name, codec, licence=licence or LICENCE)
        progress("writing")
        save_folder(shop.model, model, tensors, dtype=dtype)
        origins = [
            Origin(k, m.name, m.source.stat().st_size, sha256(m.source, progress))
            for k, m in members.items()
        ]
        write_card(
            shop.model,
            target.name,
            about(codec),
            origins,
            [f"Weights are stored as {dtype}.", *notes],
            model.licence,
        )
        progress("checking what was written")
        written = load_folder(shop.model)
        try:
            core().Codec(json.dumps(to_dict(written.config.codec)), written.codec, 1)
        except ValueError as e:  # checks that only the core does, such as an excessive dilation
            raise InputError(f"{members['config'].name}: {e}") from None
        progress("")
    return {
        "output": str(target),
        "model": target.name,
        "dtype": dtype,
        "parameters": sum(int(a.size) for a in tensors.values()),
        "sample_rate": codec.sample_rate,
        "channels": codec.channels,
        "num_codebooks": codec.num_codebooks,
        "codebook_size": codec.codebook_size,
        "bandwidths": list(codec.bandwidths),
        "files": [vars(o) for o in origins],
        "notes": notes,
    }


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
    data = _json(member)
    family = data.get("model_type")
    if family != "encodec":
        raise InputError(
            f"{member.name}: expected model_type encodec, got {shown(family)}; is it an EnCodec "
            "model of transformers?"
        )
    missing = [k for k in _NEEDED if k not in data]
    if missing:
        raise InputError(
            f"{member.name}: expected the configuration of an EnCodec model, missing "
            f"{first_few(missing)}"
        )
    kinds = _NEEDED | {k: v[0] for k, v in _OPTIONAL.items()}
    values = {k: v[1] for k, v in _OPTIONAL.items()} | {k: v for k, v in data.items() if k in kinds}
    wrong = [
        f"{k}: expected {_names(kinds[k])}, got {shown(v)}"
        for k, v in values.items()
        if type(v) not in kinds[k]
    ]
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
    if wrong:
        raise InputError(f"{member.name}: {first_few(wrong)}")
    extra = sorted(shown(k)[1:-1] for k in data if k not in kinds and k not in _IGNORED)
    notes = (
        [
            "config.json says more than this version knows, which was left out: "
            f"{first_few(extra, 5)}"
        ]
        if extra
        else []
    )
    try:
        config = _codec_config(values)
        config.check()
    except ConfigError as e:
        raise InputError(f"{member.name}: {e}") from None
    return config, notes


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
        channels=v["audio_channels"],
        filters=v["num_filters"],
        ratios=tuple(v["upsampling_ratios"]),
        kernel_size=v["kernel_size"],
        last_kernel_size=v["last_kernel_size"],
        residual_kernel_size=v["residual_kernel_size"],
        residual_layers=v["num_residual_layers"],
        dilation_base=v["dilation_growth_rate"],
        compress=v["compress"],
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


def _tensors(codec: CodecConfig, member: Member, where: str) -> Tensors:
    """float32 tensors by our names, from a safetensors file or a torch checkpoint."""
    state = load_checkpoint(member.path, MAX_WEIGHTS)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    other = (
        [k for k, v in state.items() if not (isinstance(k, str) and isinstance(v, np.ndarray))]
        if isinstance(state, dict)
        else []
    )
    if not isinstance(state, dict) or not state or other:
        raise InputError(
            f"{where}: expected tensors by name, got "
            f"{brief(state) if not other else brief(other[0])}; is it the right file?"
        )
    assert codec.seanet is not None
    try:
        return seanet_tensors(codec.seanet, "transformers", state)
    except InputError as e:
        raise InputError(f"{where}: {e}") from None


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


def _members(source: Path, scratch: Path, progress: Progress) -> dict[str, Member]:
    """``weights`` and ``config`` of a folder or zip, or of a file and its neighbours."""
    found = find_members(source, {"weights": _WEIGHTS, "config": _CONFIG}, scratch, progress)
    beside = found["weights"].path.with_name("config.json")
    if "config" not in found and beside.is_file():
        found["config"] = Member(beside, beside.name, beside)
    if "config" not in found:
        raise InputError(
            f"{source}: expected config.json next to {found['weights'].name}, found none; take it "
            "from where the weights came"
        )
    return found


def _json(member: Member) -> dict[str, Any]:
    try:
        data = json.loads(read_regular(member.path, MAX_CONFIG, where=member.name).decode("utf-8"))
    except OSError as e:
        raise InputError(
            f"{member.name}: expected a readable file, got: {e.strerror or e}"
        ) from None
    except InputError:
        raise
    except (ValueError, RecursionError) as e:
        raise InputError(f"{member.name}: expected JSON, got: {shown(str(e))}") from None
    if not isinstance(data, dict):
        raise InputError(f"{member.name}: expected an object, got {shown(data)}")
    return data


def _names(kinds: _Kinds) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list",
        type(None): "null",
    }
    return " or ".join(words[k] for k in kinds if not (k is int and float in kinds))
