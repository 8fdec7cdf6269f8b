"""Output files that are complete or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path`` if the block succeeds; otherwise nothing remains.

    The temporary file is created on entry, so an output that cannot be written is refused before
    any work, with :class:`InputError`. Existing paths that are not regular files, such as /dev/null
    or a pipe, are written in place.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode) and not target.is_dir():
            with target.open("wb") as in_place:
                yield in_place
            return
        temporary = _temporary(target, Path(path))
        f = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "w+b")
    except OSError as e:
        raise InputError(
            f"{path}: cannot write there: {e.strerror or e}; choose another output"
        ) from None
    done = False
    try:
        with f:
            yield f
        os.replace(temporary, target)
        done = True
    except OSError as e:
        if e.filename is None:  # a failed write, such as a full disk; other errors pass through
            raise InputError(
                f"{path}: cannot write there: {e.strerror or e}; choose another output"
            ) from None
        raise
    finally:
        if not done:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _temporary(target: Path, named: Path) -> Path:
    if target.is_dir():
        raise InputError(
            f"{named}: expected a file name as output, got a directory; add a name such as out.wav"
        )
    if not target.parent.is_dir():
        raise InputError(
            f"{named}: the folder {named.parent} does not exist; create it first, or choose another "
            "output"
        )
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"{named}: the file there is write-protected; choose another output")
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
