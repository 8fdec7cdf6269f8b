"""Reads torch checkpoints and safetensors files as plain data, without torch and without executing
their code.

A torch checkpoint is a zip with one pickle (``NAME/data.pkl``) and raw storages
(``NAME/data/KEY``), stored without compression. Before torch 1.6 it was a sequence of pickles and
raw storages. ``pickle_machine.py`` reads the pickle: every class and function that does not belong
to tensors becomes an inert :class:`StandIn`. The checkpoints of UniAudio's trainer need this: they
also hold a ``reporter`` with NumPy scalars and ``datetime`` spans. ``torch.load`` rejects them with
``weights_only=True``, and without it would run arbitrary code.

Tensors are read-only views of the memory-mapped file, so that unused parts (optimizer state) cost
nothing. Checksums of zip entries are not verified: torch can omit them, and its own reader ignores
them. Sources: torch/serialization.py for both layouts, APPNOTE.TXT for zip.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.opening import open_regular
from ..storage.tensors import from_bfloat16, load_tensors
from ..storage.zips import data_begin, open_zip
from .pickle_machine import Global, PickleError, StandIn, brief, unpickle

__all__ = ["MAX_BYTES", "StandIn", "load_checkpoint"]

MAX_BYTES = 64 << 30  # per file; the 1B recipe with its optimizer has about 12 GB
MAX_PICKLE = (
    16 << 20
)  # bytes; the pickle of a few hundred tensors with their optimizer has about 0.2 MB
_MAX_DIMS = 16
# the pickled magic number of torch before 1.6
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_BFLOAT16 = "bfloat16"
_DTYPES: dict[str, str] = {  # storage class -> NumPy type, little-endian
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}


def load_checkpoint(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Any:
    """The saved object: dicts, lists, tuples, strings, numbers, and tensors as NumPy arrays.

    bfloat16 tensors are converted to float32 (exact), other types are returned as stored. Sets
    become lists, and any other object becomes a :class:`StandIn` with its class name. A safetensors
    file gives name -> array. Raises :class:`InputError`, in one line, for a file that is missing,
    truncated, larger than ``max_bytes`` or inconsistent.
    """
    path = Path(path)
    with _open(path) as f:
        size = os.fstat(f.fileno()).st_size
        if size > max_bytes:
            raise InputError(
                f"{path}: expected at most {max_bytes} bytes, got {size}; is it the right file?"
            )
        start = f.read(16)
        if start[:2] == b"PK":
            return _from_zip(f, path, size)
        if start[: len(_LEGACY)] == _LEGACY:
            return _from_legacy(f, path, size)
    if len(start) == 16 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        tensors, _ = load_tensors(path, max_bytes)
        return {k: from_bfloat16(v) if v.dtype == np.uint16 else v for k, v in tensors.items()}
    raise InputError(
        f"{path}: expected a torch checkpoint or a safetensors file, got {_guess(start)}"
    )


def _open(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as e:
        raise InputError(
            f"{path}: expected a readable checkpoint, got: {e.strerror or e}"
        ) from None


def _guess(start: bytes) -> str:
    if not start:
        return "an empty file; copy or download it again"
    if start[:1] == b"<":
        return "a web page; download the file itself"
    if start[:7] == b"version":
        return "a pointer of Git LFS; download the file itself"
    if start[:1] == b"\x80":
        return "a pickle of something else; only torch.save's files are read"
    return f"a file that begins with {shown(start[:8])}; copy or download it again"


# Storages and tensors


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file; ``data`` returns them as a flat array, ``count`` needs no
    reading.
    """

    count: int
    data: Callable[[], NDArray[Any]]


def _array(buffer: Any, begin: int, count: int, kind: str, big: bool = False) -> NDArray[Any]:
    """``count`` numbers at byte ``begin``; a view where the machine has the same byte order."""
    raw = np.dtype("<u2" if kind == _BFLOAT16 else kind)
    raw = raw.newbyteorder(">") if big else raw
    flat = np.frombuffer(buffer, raw, count, begin) if count else np.empty(0, raw)
    if not flat.dtype.isnative:
        flat = flat.astype(flat.dtype.newbyteorder("="))
    return from_bfloat16(flat) if kind == _BFLOAT16 else flat


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> NDArray[Any] | StandIn:
    """The view of a storage that a saved tensor describes, checked against its size."""
    if not isinstance(storage, _Storage):
        return StandIn("torch.Tensor")  # a type that NumPy lacks, such as float8
    numbers = [offset, *_ints(size), *_ints(stride)]
    if (
        not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
        or len(size) != len(stride)
        or len(size) > _MAX_DIMS
    ):
        raise PickleError(
            f"a tensor of size {brief(size)}, stride {brief(stride)}, offset {brief(offset)}"
        )
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > storage.count or (count and last >= storage.count):
        said = f"a tensor of size {brief(size)}, stride {brief(stride)}, offset {offset}"
        raise PickleError(f"{said} in a storage of {storage.count} numbers")
    flat = storage.data()
    try:
        if not count:
            return np.empty(size, flat.dtype)
        steps = [step * flat.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)
    except ValueError:  # such as [2**40, 2**40, 0]
        raise PickleError(f"a tensor of size {brief(size)}") from None


def _ints(values: Any) -> Sequence[Any]:
    if not isinstance(values, (tuple, list)):
        raise PickleError(f"a tensor whose size or stride is {brief(values)}")
    return values


def _first(data: Any, *rest: Any) -> Any:
    return data


def _from_type(function: Any, kind: Any, args: Any, state: Any = None) -> Any:
    """``torch._tensor._rebuild_from_type_v2``: a tensor with attributes, which are dropped."""
    call = _KNOWN.get(function.name) if isinstance(function, Global) else None
    return (
        call(*args)
        if call in (_rebuild, _first) and isinstance(args, tuple)
        else StandIn("torch.Tensor")
    )


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    return _tensor(storage, offset, size, stride)


def _ordered(pairs: Any = (), *rest: Any) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs
    ):
        raise PickleError("an OrderedDict of something else than pairs")
    return {k: v for k, v in pairs if isinstance(k, (str, int))}


_KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}


def _storage_kind(kind: Any) -> str | None:
    """NumPy type of a storage class; None where NumPy has none."""
    module, _, name = kind.name.rpartition(".") if isinstance(kind, Global) else ("", "", "")
    if module not in ("torch", "torch.storage", "torch.cuda"):
        raise PickleError(f"a storage of type {brief(kind)}")
    return _DTYPES.get(name)


# The two layouts


def _from_zip(f: BinaryIO, path: Path, size: int) -> Any:
    archive = open_zip(f, path)
    entries = {e.filename: e for e in archive.infolist()}
    pickles = [n for n in entries if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(pickles) != 1:
        raise InputError(
            f"{path}: expected a torch checkpoint, got a zip without a data.pkl at its place"
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise InputError(
            f"{path}: expected a checkpoint of weights, got a TorchScript program; export its "
            "state dict"
        )
    ranges = _ranges(f, path, size, list(entries.values()))
    data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    big = _is_big(_bytes(data, ranges.get(f"{root}byteorder", (0, 0)), 16, path), path)
    storages: dict[tuple[str, str], _Storage] = {}

    def storage(id: Any) -> _Storage | StandIn:
        if (
            not isinstance(id, tuple)
            or len(id) != 5
            or id[0] != "storage"
            or type(id[2]) is not str
        ):
            raise PickleError(f"a reference to {brief(id)}")
        kind, key, count = _storage_kind(id[1]), id[2], id[4]
        if kind is None:
            return StandIn("torch.storage")
        begin, length = ranges.get(f"{root}data/{key}", (0, -1))
        width = 2 if kind == _BFLOAT16 else np.dtype(kind).itemsize
        if type(count) is not int or count * width != length:
            got = "missing" if length < 0 else f"of {length} bytes"
            raise PickleError(
                f"storage {brief(key)} of {brief(count)} x {width} bytes; the entry is {got}"
            )
        if (key, kind) not in storages:
            kept: list[NDArray[Any]] = []

            def read() -> NDArray[Any]:
                if not kept:
                    kept.append(_array(data, begin, count, kind, big))
                return kept[0]

            storages[key, kind] = _Storage(count, read)
        return storages[key, kind]

    return _unpickled(path, io.BytesIO(_bytes(data, ranges[pickles[0]], MAX_PICKLE, path)), storage)


def _ranges(
    f: BinaryIO, path: Path, size: int, entries: list[zipfile.ZipInfo]
) -> dict[str, tuple[int, int]]:
    """name -> (first byte, length) of each entry. Raises InputError for compressed or overlapping
    entries.
    """
    ranges, reached = {}, 0
    for e in sorted(entries, key=lambda e: e.header_offset):
        if (
            e.compress_type != zipfile.ZIP_STORED
            or e.compress_size != e.file_size
            or e.flag_bits & 1
        ):
            raise InputError(
                f"{path}: entry {shown(e.filename)} is compressed or encrypted, a torch "
                "checkpoint's are neither; "
                "download it again"
            )
        begin = data_begin(f, path, e)
        if e.header_offset < reached or begin + e.file_size > size:
            raise InputError(
                f"{path}: entry {shown(e.filename)} lies over another or outside; download it again"
            )
        reached = begin + e.file_size
        ranges[e.filename] = (begin, e.file_size)
    return ranges


def _bytes(data: Any, where: tuple[int, int], limit: int, path: Path) -> bytes:
    begin, length = where
    if length > limit:
        raise InputError(
            f"{path}: expected an entry of at most {limit} bytes, got {length}; is it the right "
            "file?"
        )
    return bytes(data[begin : begin + length])


def _is_big(order: bytes, path: Path) -> bool:
    if order not in (b"", b"little", b"big"):
        raise InputError(f"{path}: expected byte order little or big, got {shown(order)}")
    return order == b"big"


def _from_legacy(f: BinaryIO, path: Path, size: int) -> Any:
    """The old layout: magic number, protocol, system, the object, the keys of the storages, then
    the count and numbers of each storage.
    """
    storages: dict[str, tuple[str | None, int]] = {}  # key -> NumPy type, count
    places: dict[str, NDArray[Any]] = {}

    def storage(id: Any) -> _Storage | StandIn:
        if (
            not isinstance(id, tuple)
            or len(id) != 6
            or id[0] != "storage"
            or type(id[2]) is not str
            or id[5] is not None
        ):
            raise PickleError(f"a reference to {brief(id)}")
        kind, key, count = _storage_kind(id[1]), id[2], id[4]
        if type(count) is not int or not 0 <= count <= size:
            raise PickleError(f"storage {brief(key)} of {brief(count)} numbers")
        if storages.setdefault(key, (kind, count)) != (kind, count):
            raise PickleError(f"storage {brief(key)} in two shapes")
        return StandIn("torch.storage") if kind is None else _Storage(count, lambda: places[key])

    data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    head = io.BytesIO(bytes(data[: min(size, MAX_PICKLE)]))

    def simple(id: Any) -> Any:
        raise PickleError(f"a reference to {brief(id)}")

    _unpickled(path, head, simple)  # the magic number, already checked
    protocol, system = _unpickled(path, head, simple), _unpickled(path, head, simple)
    if protocol != 1001 or not isinstance(system, dict):
        raise InputError(
            f"{path}: expected protocol 1001 of torch's old format, got {brief(protocol)}"
        )
    begin = head.tell()
    _unpickled(path, head, storage, dry=True)
    keys = _unpickled(path, head, simple)
    at = head.tell()
    if (
        not isinstance(keys, list)
        or not all(type(k) is str for k in keys)
        or sorted(keys) != sorted(storages)
    ):
        raise InputError(
            f"{path}: the storages that follow are not those of its tensors; download it again"
        )
    for key in keys:
        kind, count = storages[key]
        if kind is None:
            raise InputError(
                f"{path}: storage {brief(key)} is of a type that is not read here; save it again "
                "with torch"
            )
        width = 2 if kind == _BFLOAT16 else np.dtype(kind).itemsize
        if at + 8 + count * width > size or int.from_bytes(data[at : at + 8], "little") != count:
            raise InputError(
                f"{path}: storage {brief(key)} is truncated or not where it should be; download "
                "it again"
            )
        places[key] = _array(data, at + 8, count, kind, not system.get("little_endian", True))
        at += 8 + count * width
    head.seek(begin)
    return _unpickled(path, head, storage)


def _unpickled(path: Path, f: io.BytesIO, storage: Callable[[Any], Any], dry: bool = False) -> Any:
    known = {**_KNOWN, **({n: _first for n in _KNOWN if n.startswith("torch.")} if dry else {})}
    try:
        return unpickle(f, known, storage)
    except PickleError as e:
        raise InputError(f"{path}: not a sound checkpoint, it has {e}; download it again") from None
