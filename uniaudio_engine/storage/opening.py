"""Opening files that others made: regular ones only, and never more of them than a reader allows.

A path can lead to a pipe whose writer never comes, to a device that never ends, or to a file that
is larger than memory. Every reader of the package opens its files here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Opening a pipe must not wait for its writer. Windows has neither flag.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(
    path: str | os.PathLike[str], *, most: int | None = None, where: str | None = None
) -> BinaryIO:
    """A regular file of at most ``most`` bytes, opened for reading.

    ``where`` names it in errors (default: its path). Raises OSError for a file that cannot be
    opened, :class:`InputError` for one that is not regular or too large, or a path with a NUL.
    """
    where = os.fspath(path) if where is None else where
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as e:  # a NUL in the path
        raise InputError(f"{where!r}: expected the name of a file, got: {e}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
            raise InputError(f"{where}: expected a file, got {kind}")
        if most is not None and found.st_size > most:
            raise InputError(f"{where}: expected at most {most} bytes, got {found.st_size}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int, *, where: str | None = None) -> bytes:
    """The contents of a regular file of at most ``most`` bytes; raises as :func:`open_regular`."""
    with open_regular(path, most=most, where=where) as file:
        size = os.fstat(file.fileno()).st_size  # read() sets aside as much as it is asked for
        data = file.read(min(most, size) + 1)  # it may have grown since
    if len(data) > most:
        raise InputError(f"{Path(path) if where is None else where}: expected at most {most} bytes")
    return data
