"""Paths of data: local ones, and URLs of object stores such as ``s3://bucket/corpus``.

A URL becomes a ``UPath`` (the package universal-pathlib), which has the methods of ``pathlib.Path``
over fsspec. It needs the extra ``fsspec``, and ``s3`` for S3.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from uniaudio_engine.errors import InputError, shown
from uniaudio_engine.storage.files import atomic_write

_URL = re.compile(r"([a-z0-9+]{2,})://")  # a letter and a colon are a drive of Windows
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}
_READ = 4  # remote files that are kept in memory, each some 20 MB


def is_url(path: str | Path) -> bool:
    return not isinstance(path, Path) and _URL.match(str(path)) is not None


def place(path: str | Path) -> Path:
    """The local path, or the ``UPath`` of a URL.

    Raises :class:`InputError` where the URL's package is missing or no one knows its scheme.
    """
    if not isinstance(path, str):
        return path
    found = _URL.match(path)
    if found is None:
        return Path(path)
    package, extra = _EXTRAS.get(found[1], ("fsspec", "fsspec"))
    for name in ("upath", "fsspec", package):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"{shown(path)}: {found[1]}:// needs {name}, not installed here; install the extra: "
                f"pip install 'uniaudio-training[{extra}]'"
            )
    from upath import UPath

    try:
        made = UPath(path)
        made.fs  # noqa: B018  # imports the scheme's package
    except (ValueError, ImportError) as e:
        raise InputError(f"{shown(path)}: expected a URL that fsspec knows, got: {e}") from None
    return cast(Path, made)


def is_remote(path: Path) -> bool:
    return not isinstance(path, Path)


def write_whole(path: Path, save: Callable[[BinaryIO], Any]) -> None:
    """Writes a file that is complete or absent.

    ``save`` writes it into a local file, which is renamed, or into memory for a remote one: object
    stores show an object only once all of it has arrived.
    """
    if is_remote(path):
        memory = io.BytesIO()
        save(memory)
        path.write_bytes(memory.getvalue())
        return
    with atomic_write(path) as f:
        save(f)


def load_array(path: Path) -> np.ndarray:
    """An ``.npy`` file: mapped where it is local, else read.

    Raises OSError or ValueError where it cannot be read.
    """
    if not is_remote(path):
        return cast(np.ndarray, np.load(path, mmap_mode="r", allow_pickle=False))
    return cast(np.ndarray, np.load(io.BytesIO(read_bytes(path)), allow_pickle=False))


@lru_cache(maxsize=_READ)
def read_bytes(path: Path) -> bytes:
    """A remote file that does not change, of which some part will be needed again soon."""
    return path.read_bytes()


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)


def make_folder(path: Path) -> None:
    """Object stores have no folders, but buckets, which are made elsewhere."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def listed(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match, in the order of their names, without hidden ones.

    A folder that does not exist is empty.
    """
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))
