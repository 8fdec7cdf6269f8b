"""Reads zip files that others made: the size of the directory is checked before it is read, names
must be unique, and every entry must lie within the file.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError, first_repeated, shown

_PIECE = 1 << 20
MAX_DIRECTORY = 32 << 20  # bytes of the central directory: a few hundred thousand entries
# What zipfile raises for damaged files: it trusts most of the numbers in them.
_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, RecursionError),
    *(OSError, EOFError, ValueError, IndexError, OverflowError),
)


@contextlib.contextmanager
def _sound(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as e:
        got = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"{what}: {shown(got)}; {remedy}") from None


def open_zip(f: BinaryIO, where: str | Path) -> zipfile.ZipFile:
    """The zip in ``f``; ``where`` names it in errors.

    Raises :class:`InputError` where it is truncated, not a zip, or has two entries of one name.
    """
    _check_directory(f, where)
    with _sound(f"{where}: expected a zip, got", "it is truncated, download it again"):
        archive = zipfile.ZipFile(f)
    size = f.seek(0, os.SEEK_END)
    for entry in archive.infolist():
        if not entry.filename:
            raise InputError(f"{where}: expected names in the zip, got an entry without one")
        if not (0 <= entry.header_offset < size and 0 <= entry.compress_size <= size):
            raise InputError(
                f"{where}: entry {shown(entry.filename)} does not lie within the zip; download it "
                "again"
            )
    twice = first_repeated(archive.namelist())
    if twice is not None:
        raise InputError(f"{where}: entry {shown(twice)} is there twice; download it again")
    return archive


def unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str) -> Iterator[bytes]:
    """The contents of an entry in pieces; ``what`` names it in errors.

    Raises :class:`InputError` where it is damaged. Nothing bounds its size but the caller.
    """
    with _sound(f"{what} cannot be unpacked", "download the zip again"):
        with archive.open(entry) as f:
            while piece := f.read(_PIECE):
                yield piece


def data_begin(f: BinaryIO, where: str | Path, entry: zipfile.ZipInfo) -> int:
    """The first byte of an entry's data, from the header before it."""
    f.seek(max(0, entry.header_offset))
    head = f.read(30) if entry.header_offset >= 0 else b""
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise InputError(
            f"{where}: entry {shown(entry.filename)} is not where the zip says; download it again"
        )
    name, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    return entry.header_offset + 30 + name + extra


def _check_directory(f: BinaryIO, where: str | Path) -> None:
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
            f"{where}: expected a zip, found no directory at its end; it is truncated, download it "
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
            f"{where}: expected a zip's directory of at most {MAX_DIRECTORY} bytes, got {length}"
        )
    f.seek(0)
