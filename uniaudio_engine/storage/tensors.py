"""Reading and writing safetensors files; every claim of a header is checked against the file.

bfloat16 has no NumPy type, so BF16 tensors are uint16 arrays here, and uint16 arrays are written as
BF16. The format: 8 bytes little-endian header length, a JSON header (name -> dtype, shape,
data_offsets), then the data, without gaps. Source: the format's own description
(huggingface/safetensors README).
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from .files import atomic_write
from .opening import open_regular

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
_NAMES = {v: k for k, v in DTYPES.items()}
MAX_HEADER = 16 << 20  # bytes; 1 MB of names and shapes describes some ten thousand tensors

_LARGE = 1 << 18  # bytes of a tensor in memory of its own
_BLOCK = 1 << 16  # numbers that are checked or rounded at once, within a core's cache

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Place:
    """Where a tensor is."""

    path: Path
    begin: int
    dtype: str
    shape: tuple[int, ...]


class StoredTensors(Mapping[str, NDArray[Any]]):
    """Tensors by name, each read from its file when it is asked for, and again each time."""

    def __init__(self, places: Mapping[str, _Place]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> NDArray[Any]:
        place = self._places[name]
        with _opened(place.path) as f:
            f.seek(place.begin)
            return _read(f, place.path, name, place.dtype, place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __or__(self, other: StoredTensors) -> StoredTensors:
        return StoredTensors(self._places | other._places)


def open_tensors(path: str | os.PathLike[str]) -> StoredTensors:
    """The tensors of a file, not yet read.

    Raises :class:`InputError` for a file that is missing, truncated or inconsistent.
    """
    path = Path(path)
    with _opened(path) as f:
        _, entries = _contents(f, path)
    return StoredTensors({name: _Place(path, at, d, s) for name, d, s, at in entries})


def load_tensors(
    path: str | os.PathLike[str], max_bytes: int | None = None
) -> tuple[Tensors, dict[str, str]]:
    """All tensors of a file and its ``__metadata__``.

    Raises :class:`InputError` for a file that is missing, truncated or inconsistent. Sizes are
    checked against the file before memory is allocated.
    """
    path = Path(path)
    with _opened(path, max_bytes) as f:
        metadata, entries = _contents(f, path)
        tensors: Tensors = {}
        for name, dtype, shape, begin in entries:
            f.seek(begin)
            tensors[name] = _read(f, path, name, dtype, shape)
    return tensors, metadata


def map_tensors(path: str | os.PathLike[str], max_bytes: int | None = None) -> Tensors:
    """As :func:`load_tensors`, but read-only arrays in a mapping of the file, where the system has
    such mappings (Linux): nothing is read before it is used. The file must not shrink meanwhile;
    replacing it by another is safe.
    """
    if not sys.platform.startswith("linux"):
        return load_tensors(path, max_bytes)[0]
    path = Path(path)
    with _opened(path, max_bytes) as f:
        _, entries = _contents(f, path)
        whole = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    tensors: Tensors = {}
    for name, dtype, shape, begin in entries:
        count = math.prod(shape)
        if count == 0:
            tensors[name] = _array(path, name, dtype, shape)
        else:
            tensors[name] = np.frombuffer(whole, DTYPES[dtype], count, begin).reshape(shape)
    return tensors


def drop_pages(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Give back the memory of mapped tensors; they are read again where they are used."""
    for a in tensors.values():
        base: object = a.base
        while isinstance(base, np.ndarray):
            base = base.base
        base = base.obj if isinstance(base, memoryview) else base
        if isinstance(base, mmap.mmap) and not a.flags.writeable:
            base.madvise(mmap.MADV_DONTNEED)
            return


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    rounded: Collection[str] = (),
) -> None:
    """Write all or nothing (temporary file, then rename). uint16 arrays become BF16.

    ``rounded``: names of float32 tensors that become BF16, each when it is written: there is never a
    second copy of all.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    arrays, offset = [], 0
    for name in sorted(tensors):
        a = np.ascontiguousarray(tensors[name])
        kind = _NAMES.get(a.dtype.newbyteorder("<") if a.dtype.itemsize > 1 else a.dtype)
        if kind is None:
            raise InputError(
                f"tensor {name!r}: expected dtype {', '.join(map(str, _NAMES))}, got {a.dtype}"
            )
        stored = "BF16" if name in rounded else kind
        size = a.size * DTYPES[stored].itemsize
        header[name] = {
            "dtype": stored,
            "shape": list(a.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
        arrays.append((a.astype(DTYPES[kind], copy=False), name in rounded))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for a, narrow in arrays:
            f.write((to_bfloat16(a) if narrow else a).reshape(-1).view(np.uint8).data)


def to_bfloat16(x: NDArray[Any]) -> NDArray[np.uint16]:
    """float32 -> bits of the nearest bfloat16, ties to even. NaN stays NaN."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1).view(np.uint32)
    out = np.empty(flat.size, np.uint16)
    for i in range(0, flat.size, _BLOCK):
        bits = flat[i : i + _BLOCK]
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        out[i : i + _BLOCK] = np.where(is_nan, np.uint32(0x7FC0), rounded)
    return out.reshape(np.shape(x))


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 bits -> the same numbers in float32."""
    out = np.empty(bits.shape, np.uint32)
    np.left_shift(bits, 16, out=out, dtype=np.uint32)
    return out.view(np.float32)


def all_finite(x: NDArray[Any]) -> bool:
    """Whether there is no NaN and no infinity; uint16 is read as bfloat16."""
    if x.dtype.itemsize == 1:
        return True
    flat = x.reshape(-1)
    blocks = (flat[i : i + _BLOCK] for i in range(0, flat.size, _BLOCK))
    if x.dtype == np.uint16:
        return all(int((b & 0x7FFF).max()) < 0x7F80 for b in blocks)
    return all(bool(np.isfinite(b).all()) for b in blocks)


@contextlib.contextmanager
def _opened(path: Path, max_bytes: int | None = None) -> Iterator[BinaryIO]:
    try:
        with open_regular(path, most=max_bytes) as f:
            yield f
    except OSError as e:
        raise InputError(
            f"{path}: expected a readable safetensors file, got: {e.strerror or e}"
        ) from None


def _contents(
    f: BinaryIO, path: Path
) -> tuple[dict[str, str], list[tuple[str, str, tuple[int, ...], int]]]:
    """The metadata, and (name, dtype, shape, first byte) of each tensor in file order."""
    size = os.fstat(f.fileno()).st_size
    header, start = _header(f, path, size)
    metadata = _metadata(header.pop("__metadata__", {}), path)
    entries = _entries(header, path, size - start)
    return metadata, [(name, dtype, shape, start + at) for name, dtype, shape, at in entries]


def _header(f: BinaryIO, path: Path, size: int) -> tuple[dict[str, Any], int]:
    first = f.read(8)
    if len(first) < 8:
        raise InputError(
            f"{path}: expected a safetensors file, got {size} bytes; copy or download it again"
        )
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER or 8 + length > size:
        raise InputError(
            f"{path}: expected a header within the file's {size} bytes, got a header length of "
            f"{length}; "
            "it is truncated or no safetensors file, copy or download it again"
        )
    try:
        header = json.loads(f.read(length).decode("utf-8"))
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"{path}: expected a JSON header, got: {shown(str(e))}; copy or download it again"
        ) from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: expected a JSON object as header, got {type(header).__name__}")
    return header, 8 + length


def _metadata(data: object, path: Path) -> dict[str, str]:
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise InputError(
            f"{path}: expected __metadata__ to map strings to strings, got {shown(data)}"
        )
    return data


def _entries(
    header: dict[str, Any], path: Path, size: int
) -> list[tuple[str, str, tuple[int, ...], int]]:
    """(name, dtype, shape, begin) in file order; every byte of the data part belongs to exactly one
    tensor.
    """
    rows = []
    for name, entry in header.items():
        what = f"{path}: tensor {shown(name)}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise InputError(f"{what}: expected dtype, shape and data_offsets, got {shown(entry)}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise InputError(f"{what}: expected dtype {', '.join(DTYPES)}, got {shown(dtype)}")
        if not _whole(shape) or len(shape) > 8 or not _whole(offsets) or len(offsets) != 2:
            raise InputError(
                f"{what}: expected whole numbers in shape and data_offsets, got {shown(entry)}"
            )
        begin, end = offsets
        count = math.prod(shape)  # Python integers: no product of hostile sizes wraps around
        if count * DTYPES[dtype].itemsize != end - begin:
            raise InputError(
                f"{what}: shape {shown(shape)} of {dtype} does not fill bytes {begin} to {end}"
            )
        if end > size:
            raise InputError(
                f"{what}: expected {end} bytes of data, the file has {size}; it is truncated, "
                "copy or download it again"
            )
        rows.append((begin, end, name, dtype, tuple(shape)))
    rows.sort(key=lambda r: r[:2])
    reached = 0
    for begin, end, name, _, _ in rows:
        if begin != reached:
            raise InputError(
                f"{path}: tensor {shown(name)} begins at byte {begin}, expected {reached}: "
                "overlap or gap"
            )
        reached = end
    if reached != size:
        raise InputError(
            f"{path}: expected {reached} bytes of data, the file has {size}; copy or download it "
            "again"
        )
    return [(name, dtype, shape, begin) for begin, _, name, dtype, shape in rows]


def _whole(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def _array(path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory for a tensor."""
    try:
        return _memory(shape, DTYPES[dtype])
    except ValueError:  # such as [2**61, 0]
        raise InputError(
            f"{path}: tensor {shown(name)}: expected a sane shape, got {shown(shape)}"
        ) from None


def _read(f: BinaryIO, path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    out = _array(path, name, dtype, shape)
    got = f.readinto(out.reshape(-1).view(np.uint8).data) if out.nbytes else 0  # type: ignore[attr-defined]
    if got != out.nbytes:
        raise InputError(
            f"{path}: tensor {shown(name)} is truncated; copy or download the file again"
        )
    return out


def _memory(shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """An array whose memory, where it is large, goes back to the system as soon as it is freed:
    the heap would keep that of weights which are only read on the way to the backend.
    """
    size = math.prod(shape) * kind.itemsize
    if size < _LARGE:
        return np.empty(shape, kind)
    return np.frombuffer(mmap.mmap(-1, size), kind).reshape(shape)


def require_names(got: Collection[str], expected: set[str], where: str) -> None:
    """Raise :class:`InputError` for missing and left-over tensors."""
    missing, extra = sorted(expected - set(got)), sorted(set(got) - expected)
    parts = [f"missing {first_few(missing)}"] if missing else []
    parts += [f"left over {first_few(extra)}"] if extra else []
    if parts:
        raise InputError(f"{where}: {len(expected)} tensors expected, {'; '.join(parts)}")
