"""Compact storage of weights: matrices as int8 with a scale per row, the rest as float16, in files
of limited size.

For transferring weights and resuming from them; a model folder has its own formats
(``storage/folder.py``). The mean error of a row is 1/400 of its largest weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from uniaudio_engine.storage.files import atomic_write

_SCALE = ":scale"
_LEAST = 4096  # elements; smaller matrices are stored as float16


def packed(state: Mapping[str, Tensor], keep: Iterable[str] = ("codebooks",)) -> dict[str, Tensor]:
    """float tensors by name -> int8 tensors with scales [rows].

    Vectors, small matrices and names that contain one of ``keep`` become float16.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        x = value.detach().float().cpu()
        if x.dim() < 2 or x.numel() < _LEAST or any(k in name for k in keep):
            out[name] = x.half()
            continue
        rows = x.flatten(1)
        scale = rows.abs().amax(1).clamp(min=1e-12) / 127
        out[name] = (rows / scale[:, None]).round().to(torch.int8).view(x.shape)
        out[name + _SCALE] = scale
    return out


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 tensors of a :func:`packed` dictionary."""
    out = {}
    for name, value in tensors.items():
        if name.endswith(_SCALE):
            continue
        if value.dtype == torch.int8:
            scale = tensors[name + _SCALE].view(-1, *[1] * (value.dim() - 1))
            out[name] = value.float() * scale
        else:
            out[name] = value.float()
    return out


def save(
    state: Mapping[str, Tensor],
    path: Path,
    most: int = 15_900_000,
    about: dict[str, str] | None = None,
) -> list[Path]:
    """Writes ``path`` (``.safetensors``), or ``<stem>-0``, ``-1``, … where it exceeds ``most``
    bytes.

    Each file is written atomically, with ``about`` as its metadata. Returns the files.
    """
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in packed(state).items():
        bytes_ = value.numel() * value.element_size()
        if size + bytes_ > most and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = value.contiguous()
        size += bytes_
    names = (
        [path]
        if len(parts) == 1
        else [path.with_stem(f"{path.stem}-{i}") for i in range(len(parts))]
    )
    for part, file in zip(parts, names, strict=True):
        write_tensors(file, part, {"parts": str(len(parts)), **(about or {})})
    return names


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]
) -> None:
    """Writes a safetensors file that is complete or absent.

    The library's own ``save_file`` leaves a file that only its owner can read.
    """
    with atomic_write(path) as out:
        out.write(serialised(dict(tensors), dict(about)))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """float32 weights and metadata of ``path``, or of its parts.

    Raises FileNotFoundError where there are none, ValueError where a part is missing.
    """
    files = [path] if path.is_file() else sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"))
    files = [f for f in files if f == path or re.fullmatch(r".*-\d+", f.stem)]
    if not files:
        raise FileNotFoundError(f"{path}: no packed weights")
    tensors: dict[str, Tensor] = {}
    about: dict[str, str] = {}
    for file in files:
        with safe_open(str(file), "pt") as f:
            about = dict(f.metadata() or {})
            tensors |= {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    if int(about.pop("parts", "1")) != len(files):
        raise ValueError(f"{path}: expected another number of parts than {len(files)}")
    return unpacked(tensors), about
