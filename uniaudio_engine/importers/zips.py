"""Reads untrusted zip files: the size of the directory is checked before it is read, names must be
unique, and offsets are checked.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError, shown

MAX_DIRECTORY = (
    32 << 20
)  # bytes of the central directory, enough for a few hundred thousand entries


def open_zip(f: BinaryIO, path: Path) -> zipfile.ZipFile:
    """The zip in ``f``, with unique names. Raises :class:`InputError` where it is truncated or not
    a zip.
    """
    _check_directory(f, path)
    try:
        archive = zipfile.ZipFile(f)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        OSError,
        EOFError,
        RecursionError,
    ) as e:
        raise InputError(
            f"{path}: expected a zip, got: {shown(str(e))}; it is truncated, download it again"
        ) from None
    names = archive.namelist()
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{path}: entry {shown(twice)} is there twice; download it again")
    return archive


def data_begin(f: BinaryIO, path: Path, entry: zipfile.ZipInfo) -> int:
    """The first byte of an entry's data, from the header before it."""
    f.seek(max(0, entry.header_offset))
    head = f.read(30) if entry.header_offset >= 0 else b""
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise InputError(
            f"{path}: entry {shown(entry.filename)} is not where the zip says; download it again"
        )
    name, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    return entry.header_offset + 30 + name + extra


def _check_directory(f: BinaryIO, path: Path) -> None:
    """Raises InputError for a central directory larger than MAX_DIRECTORY.

    zipfile would read whatever length the file states.
    """
    size = f.seek(0, os.SEEK_END)
    f.seek(
        max(0, size - 65557 - 20)
    )  # the end record with the longest comment, and the zip64 locator
    tail = f.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        raise InputError(
            f"{path}: expected a zip, found no directory at its end; it is truncated, download it "
            "again"
        )
    length = int.from_bytes(tail[at + 12 : at + 16], "little")
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        end = size - len(tail) + at - 20
        lengths = []
        for begin in (
            end - 56,
            int.from_bytes(tail[at - 12 : at - 4], "little"),
        ):  # readers disagree on which one counts
            f.seek(min(max(0, begin), size))
            record = f.read(56)
            lengths += (
                [int.from_bytes(record[40:48], "little")] if record[:4] == b"PK\x06\x06" else []
            )
        length = max(lengths, default=length)
    if length > MAX_DIRECTORY:
        raise InputError(
            f"{path}: expected a zip's directory of at most {MAX_DIRECTORY} bytes, got {length}"
        )
    f.seek(0)
