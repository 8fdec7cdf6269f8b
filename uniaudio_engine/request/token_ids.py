"""Tokens that a caller gives as numbers, labels or files -> ids of a vocabulary span."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.arrays import array_of
from ..storage.opening import read_regular
from .sequence import Ids
from .tasks import Input

_MAX_FILE = 64 << 20  # bytes of a file of tokens or states


def token_ids(spec: Input, value: Any, size: int, labels: Mapping[str, int]) -> Ids:
    """Ids [n] within the span ``spec.segment`` from numbers, labels, ``LABEL:SECONDS`` parts, or a
    file of them.

    ``size``: ids of the span. ``labels``: label -> id, empty where it has none. Raises
    :class:`InputError` for anything else.
    """
    what = f"{spec.name}: expected {_kind(spec, size, labels)}"
    value = read_file(spec.name, value)
    if isinstance(value, str):
        value = value.split()
    if isinstance(value, (list, tuple)) and any(isinstance(v, (str, list, tuple)) for v in value):
        value = np.array(_timed(spec, value, labels, what), np.int64)
    ids = np.asarray(value)
    if (
        ids.ndim != 1
        or not len(ids)
        or ids.dtype.kind not in "iu"
        or ids.min() < 0
        or ids.max() >= size
    ):
        got = (
            shown(value)
            if ids.ndim != 1 or not len(ids)
            else f"{ids.dtype} from {ids.min()} to {ids.max()}"
        )
        raise InputError(f"{what}, got {got}")
    if spec.max_count and len(ids) > spec.max_count:
        raise InputError(f"{spec.name}: expected at most {spec.max_count} tokens, got {len(ids)}")
    if spec.collapse:
        ids = ids[np.concatenate(([True], ids[1:] != ids[:-1]))]
    return ids.astype(np.int32)


def _kind(spec: Input, size: int, labels: Mapping[str, int]) -> str:
    parts = f"whole numbers from 0 to {size - 1}" + (
        f" or labels ({first_few(list(labels), 12)})" if labels else ""
    )
    parts += f", {spec.rate:.4g} per second" if spec.rate else ""
    parts += " (or LABEL:SECONDS parts)" if spec.rate else ""
    return parts + (f", or a sound for the {spec.encoder} encoder" if spec.encoder else "")


def _timed(spec: Input, parts: Iterable[Any], labels: Mapping[str, int], what: str) -> list[int]:
    """Labels, numbers, and (label, seconds) pairs -> ids at ``spec.rate`` per second.

    A pair lasts until the frame nearest to its end, so rounding errors do not add up.
    """
    ids: list[int] = []
    end = 0.0
    for part in parts:
        label, seconds = (
            part if isinstance(part, (list, tuple)) and len(part) == 2 else (part, None)
        )
        if isinstance(label, str) and seconds is None and spec.rate and ":" in label:
            label, _, seconds = label.rpartition(":")
        number = labels.get(label) if isinstance(label, str) else label
        if number is None and isinstance(label, str) and label.isdecimal() and len(label) < 10:
            number = int(label)
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise InputError(f"{what}, got {shown(part)}")
        count = 1
        if seconds is not None:
            try:
                end += float(seconds)
            except (TypeError, ValueError, OverflowError):
                raise InputError(f"{what}, got {shown(part)}") from None
            if not spec.rate or not 0 <= end * spec.rate - len(ids) < 1 << 20:
                raise InputError(f"{what}, got {shown(part)}")
            count = round(end * spec.rate) - len(ids)
        else:
            end += 1 / spec.rate if spec.rate else 0.0
        ids += [int(number)] * count  # type: ignore[arg-type]
    return ids


def read_file(name: str, value: Any) -> Any:
    """The contents of an .npy file (never pickled) or a .txt file; other values unchanged."""
    if not isinstance(value, (str, os.PathLike)):
        return value
    path = Path(value)
    if path.suffix not in (".npy", ".txt"):
        return os.fspath(value)
    try:
        data = read_regular(path, _MAX_FILE, where=f"{name}: {path}")
        if path.suffix == ".txt":
            return data.decode("utf-8")
        loaded: NDArray[Any] = array_of(data)
        return loaded
    except InputError:
        raise
    except (OSError, ValueError, EOFError) as e:
        raise InputError(
            f"{name}: {path}: expected a readable .npy or .txt file, got: "
            f"{' '.join(str(e).split())}"
        ) from None
