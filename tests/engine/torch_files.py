"""Torch files made by hand: pickles assembled from opcodes, so that they can contain what torch
never writes.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uniaudio_engine.errors import InputError
from uniaudio_engine.importers.checkpoint import load_checkpoint

# Each function gives the opcodes that push one value.


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def row(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def numbers(*values: int) -> bytes:
    return row(*map(number, values))


def mapping(**parts: bytes) -> bytes:
    return b"}(" + b"".join(text(k) + v for k, v in parts.items()) + b"u"


def storage(key: str = "0", count: int = 6, kind: bytes = name("torch", "FloatStorage")) -> bytes:
    return row(text("storage"), kind, text(key), text("cpu"), number(count)) + b"Q"


def tensor(size: Any = (2, 3), stride: Any = (3, 1), offset: int = 0, **of: Any) -> bytes:
    parts = [
        storage(**of),
        number(offset),
        *(v if isinstance(v, bytes) else numbers(*v) for v in (size, stride)),
    ]
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + row(*parts, b"\x89", name("collections", "OrderedDict") + b")R")
        + b"R"
    )


DEEP = numbers(1) + b"".join(
    b"2\x86" for _ in range(60)
)  # DUP, TUPLE2: 2^60 numbers, were anyone to write them out
SIX = np.arange(6, dtype="<f4").tobytes()


def write(
    path: Path,
    body: bytes,
    storages: dict[str, bytes] | None = None,
    order: bytes | None = None,
    **entries: bytes,
) -> Path:
    """A torch file whose object is pushed by ``body``."""
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        for key, data in ({"0": SIX} if storages is None else storages).items():
            z.writestr(f"archive/data/{key}", data)
        if order is not None:
            z.writestr("archive/byteorder", order)
        z.writestr("archive/version", b"3\n")
        for entry, data in entries.items():
            z.writestr(f"archive/{entry}", data)
    return path


def refused(path: Path, *messages: str, **options: Any) -> str:
    with pytest.raises(InputError) as e:
        load_checkpoint(path, **options)
    line = str(e.value)
    assert "\n" not in line and len(line) < 400 + len(str(path)) and str(path) in line
    for message in messages:
        assert message in line, line
    return line
