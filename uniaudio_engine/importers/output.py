"""A model folder that is written completely or not at all, and the temporary folder next to it."""

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
    """``files`` for extracted files, ``model`` for the new folder; temporary and private."""

    files: Path
    model: Path


@contextlib.contextmanager
def new_folder(output: str | os.PathLike[str]) -> Iterator[Workshop]:
    """A context in which ``model`` is filled. On success it becomes ``output``; otherwise nothing
    remains.

    Raises :class:`InputError` before any work where ``output`` exists or cannot be created.
    """
    with atomic_folder(output) as work:
        shop = Workshop(work / "files", work / "new")
        shop.files.mkdir()
        yield shop


def sha256(path: Path, progress: Progress = quiet) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest, done, size = hashlib.sha256(), 0, max(1, path.stat().st_size)
    with open_regular(path) as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            progress(f"checksum of {path.name}: {done / size:.0%}")
    return digest.hexdigest()
