"""A model folder that appears whole or not at all, and the place beside it where it is made."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..storage.files import atomic_folder
from ..storage.opening import open_regular
from .archive import Progress, quiet


@dataclass(frozen=True)
class Workshop:
    """``files`` for what is unpacked, ``model`` for what will be the folder; both private until it
    is done.
    """

    files: Path
    model: Path


@contextlib.contextmanager
def new_folder(output: str | os.PathLike[str]) -> Iterator[Workshop]:
    """Fill ``model`` inside the block; when it ends well that becomes ``output``, and otherwise
    nothing is left.

    Raises :class:`InputError` before any work where ``output`` already exists, or cannot be made.
    """
    with atomic_folder(output) as work:
        shop = Workshop(work / "files", work / "new")
        shop.files.mkdir()
        yield shop


def sha256(path: Path, progress: Progress = quiet) -> str:
    """Of a file's bytes, as hexadecimal digits."""
    digest, done, size = hashlib.sha256(), 0, max(1, path.stat().st_size)
    with open_regular(path) as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            progress(f"checksum of {path.name}: {done / size:.0%}")
    return digest.hexdigest()
