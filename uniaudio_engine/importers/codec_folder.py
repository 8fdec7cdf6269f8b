"""A codec of Hugging Face transformers' layout (``config.json`` and weights) -> a model folder with a
codec only.

What the families have in common: the files, the fields of the configuration, the writing and the
check of what was written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.core import core
from ..errors import InputError, first_few, shown
from ..storage.config import FORMAT_VERSION, CodecConfig, ConfigError, ModelConfig, to_dict
from ..storage.folder import ModelFolder, load_folder
from ..storage.folder_writing import save_folder
from ..storage.tensors import Tensors
from .archive import MAX_CONFIG, Member, Progress, Role, find_members, quiet
from .card import Origin, write_card
from .checkpoint import load_checkpoint
from .hub_files import INDEX, WEIGHTS, State, open_state, read_json, shards
from .output import new_folder, sha256
from .pickle_machine import brief

LICENCE = "see the source of these weights; the files do not state a licence"
MAX_WEIGHTS = 4 << 30  # bytes; the published ones have at most 400 MB

Kinds = tuple[type, ...]

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
    "_frame_rate",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
)


@dataclass(frozen=True)
class Family:
    """How one family is read. All three raise :class:`InputError`, in one line.

    ``read_config``: ``config.json`` -> (codec, notes). ``tensors``: (codec, their tensors, their
    file's name) -> (codec, float32 tensors by our names). ``about``: a paragraph for the card.
    """

    what: str
    read_config: Callable[[Member], tuple[CodecConfig, list[str]]]
    tensors: Callable[[CodecConfig, State, str], tuple[CodecConfig, Tensors]]
    about: Callable[[CodecConfig], str]


def import_codec(
    family: Family,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output`` from a checkpoint; returns plain JSON values about it.

    ``source``: a folder or zip with ``config.json`` and ``model.safetensors`` or
    ``pytorch_model.bin``, or one of these weight files with ``config.json`` next to it; or a folder
    in which ``model.safetensors.index.json`` lists several files. ``dtype``:
    float32, or bfloat16, which changes the codes. ``licence`` is stored in the card and the
    configuration. Needs no torch and executes nothing from the files. Raises :class:`InputError`,
    in one line; no partial output remains.
    """
    check_dtype(dtype)
    with new_folder(output) as shop:
        codec, tensors, members, notes = read_codec(family, source, shop.files, progress)
        target = Path(output)
        model = ModelConfig(FORMAT_VERSION, target.name, codec, licence=licence or LICENCE)
        progress("writing")
        save_folder(shop.model, model, tensors, dtype=dtype)
        origins = [
            Origin(k, name, path.stat().st_size, sha256(path, progress))
            for k, m in members.items()
            for name, path in _files(m)
        ]
        write_card(
            shop.model,
            target.name,
            family.about(codec),
            origins,
            [f"Weights are stored as {dtype}.", *notes],
            model.licence,
        )
        progress("checking what was written")
        check_codec(load_folder(shop.model, mapped=True), members["config"].name)
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


def read_codec(
    family: Family, source: str | os.PathLike[str], scratch: Path, progress: Progress = quiet
) -> tuple[CodecConfig, Tensors, dict[str, Member], list[str]]:
    """(codec, float32 tensors by our names, the files, notes) of a checkpoint; ``source`` as for
    :func:`import_codec`, ``scratch`` a private folder.
    """
    members = _members(family, Path(source), scratch, progress)
    codec, notes = family.read_config(members["config"])
    where = members["weights"].name
    progress("reading the weights")
    codec, tensors = family.tensors(codec, _state(members["weights"], where), where)
    return codec, tensors, members, notes


def check_dtype(dtype: object) -> None:
    """Raise :class:`InputError` unless weights can be stored so."""
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype: expected float32 or bfloat16, got {shown(dtype)}")


def check_codec(written: ModelFolder, where: str) -> None:
    """Raise :class:`InputError` for what only the core finds, such as an excessive dilation."""
    try:
        core().Codec(json.dumps(to_dict(written.config.codec)), dict(written.codec), 1)
    except ValueError as e:
        raise InputError(f"{where}: {e}") from None


def read_fields(
    member: Member,
    model_types: tuple[str, ...],
    what: str,
    needed: Mapping[str, Kinds],
    optional: Mapping[str, tuple[Kinds, Any]],
) -> tuple[dict[str, Any], list[str], list[str]]:
    """:func:`checked_fields` of a ``config.json``."""
    data = read_json(member.path, member.name, MAX_CONFIG)
    return checked_fields(data, member.name, model_types, what, needed, optional)


def checked_fields(
    data: Mapping[str, Any],
    where: str,
    model_types: tuple[str, ...],
    what: str,
    needed: Mapping[str, Kinds],
    optional: Mapping[str, tuple[Kinds, Any]],
) -> tuple[dict[str, Any], list[str], list[str]]:
    """(values, wrong types, notes) of a configuration: the needed keys with their types, and the
    optional ones with their types and defaults.

    Raises :class:`InputError` for another model type or a missing key.
    """
    found = data.get("model_type")
    if found not in model_types:
        raise InputError(
            f"{where}: expected model_type {' or '.join(model_types)}, got {shown(found)}; "
            f"is it {what}?"
        )
    missing = [k for k in needed if k not in data]
    if missing:
        raise InputError(
            f"{where}: expected the configuration of {what}, missing {first_few(missing)}"
        )
    kinds = {**needed, **{k: v[0] for k, v in optional.items()}}
    given = {k: v for k, v in data.items() if k in kinds}
    values = {k: v[1] for k, v in optional.items()} | given
    wrong = [
        f"{k}: expected {_names(kinds[k])}, got {shown(v)}"
        for k, v in given.items()
        if type(v) not in kinds[k]
    ]
    extra = sorted(shown(k)[1:-1] for k in data if k not in kinds and k not in _IGNORED)
    notes = (
        [
            "config.json says more than this version knows, which was left out: "
            f"{first_few(extra, 5)}"
        ]
        if extra
        else []
    )
    return values, wrong, notes


def checked_codec(where: str, wrong: list[str], make: Callable[[], CodecConfig]) -> CodecConfig:
    """The configuration that ``make`` describes, checked.

    Raises one :class:`InputError` line: for the first of what is already known to be ``wrong``, or
    for what the check finds.
    """
    if wrong:
        raise InputError(f"{where}: {first_few(wrong)}")
    try:
        config = make()
        config.check()
    except (ConfigError, InputError) as e:
        raise InputError(f"{where}: {e}") from None
    return config


def _state(member: Member, where: str) -> State:
    """The tensors of a safetensors file, of several with an index, or of a torch checkpoint."""
    if member.path.name == INDEX:
        return open_state(member.path)
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
    return state


def _files(member: Member) -> list[tuple[str, Path]]:
    """A member's file, and those that it lists."""
    listed = sorted(shards(member.path)) if member.path.name == INDEX else []
    return [(member.name, member.source), *[(n, member.path.with_name(n)) for n in listed]]


def _members(family: Family, source: Path, scratch: Path, progress: Progress) -> dict[str, Member]:
    """``weights`` and ``config`` of a folder or zip, or of a file and its neighbours."""
    weights = Role(
        f"checkpoint of {family.what}",
        names=(WEIGHTS, INDEX, "pytorch_model.bin"),
        max_bytes=MAX_WEIGHTS,
        ranked=True,
    )
    config = Role("config.json", names=("config.json",), max_bytes=MAX_CONFIG)
    found = find_members(source, {"weights": weights, "config": config}, scratch, progress)
    beside = found["weights"].path.with_name("config.json")
    if "config" not in found and beside.is_file():
        found["config"] = Member(beside, beside.name, beside)
    if "config" not in found:
        raise InputError(
            f"{source}: expected config.json next to {found['weights'].name}, found none; take it "
            "from where the weights came"
        )
    return found


def _names(kinds: Kinds) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return " or ".join(words[k] for k in kinds if not (k is int and float in kinds))
