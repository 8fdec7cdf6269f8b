"""A model folder that is written completely or not at all, and the temporary folder next to it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
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
    target = Path(output)
    if os.path.lexists(target):
        raise InputError(f"{target}: already exists; choose another name, or remove it first")
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist; make it first")
    if not target.name:
        raise InputError(f"{output}: expected a name for the new folder")
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        work.mkdir(mode=0o700)
        shop = Workshop(work / "files", work / "model")
        shop.files.mkdir()
        shop.model.mkdir()
        yield shop
        shop.model.rename(target)
    except OSError as e:
        raise InputError(
            f"{target}: cannot write there: {e.strerror or e}; choose another output"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def sha256(path: Path, progress: Progress = quiet) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest, done, size = hashlib.sha256(), 0, max(1, path.stat().st_size)
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            progress(f"checksum of {path.name}: {done / size:.0%}")
    return digest.hexdigest()
