"""Output that is complete or absent: written under a temporary name, then renamed.

A process that is killed leaves its temporary file behind. It held a lock on it, which is free now,
so the next run that writes the same output can tell, and removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

_LONGEST_NAME = 200  # bytes; file systems allow 255, and a temporary name is longer
_SETTLED = 5.0  # seconds; a younger leftover may be a run that has not locked it yet


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path`` if the block succeeds; otherwise nothing remains.

    The temporary file is created on entry, so an output that cannot be written is refused before
    any work, with :class:`InputError`. A file that is replaced hands its permissions on. Existing
    paths that are not regular files, such as /dev/null or a pipe, are written in place.
    """
    try:
        target = Path(os.path.realpath(path))
    except ValueError as e:  # a path with a NUL
        raise _unwritable(path, e) from None
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode) and not target.is_dir():
            with target.open("wb") as in_place:
                yield in_place
            return
        _check_file(target, Path(path))
        temporary = _temporary(target)
        f = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "w+b")
    except OSError as e:
        raise _unwritable(path, e) from None
    done = False
    try:
        with f:
            _lock(f.fileno())
            if target.exists() and hasattr(os, "fchmod"):
                os.fchmod(f.fileno(), stat.S_IMODE(target.stat().st_mode))
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
        done = True
        sync_folder(target.parent)
    except OSError as e:
        if e.filename is None:  # a failed write, such as a full disk; other errors pass through
            raise _unwritable(path, e) from None
        raise
    finally:
        if not done:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def atomic_folder(output: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder that appears as ``output`` if the block succeeds; otherwise nothing remains.

    Yields a private folder beside it, in which the block makes ``new``: that becomes the output.
    Anything else in it is scratch. Raises :class:`InputError` before any work where ``output``
    exists already, or cannot be made.
    """
    target = Path(output)
    if "\0" in str(target):
        raise _unwritable(target, ValueError("a NUL in the path"))
    if not target.name:
        raise InputError(f"{output}: expected a name for the new folder")
    work = None
    try:
        if os.path.lexists(target):
            raise InputError(f"{target}: already exists; choose another name, or remove it first")
        if not target.parent.is_dir():
            raise InputError(
                f"{target}: the folder {target.parent} does not exist; create it first"
            )
        work = _temporary(target)
        work.mkdir(mode=0o700)
        with (work / "lock").open("wb") as lock:
            _lock(lock.fileno())
            (work / "new").mkdir()
            yield work
            (work / "new").rename(target)
        sync_folder(target.parent)
    except OSError as e:
        raise _unwritable(target, e) from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str]) -> Iterator[None]:
    """Waits until no other process is in such a block for the same file, which stays behind.

    Not on Windows. Raises :class:`InputError` where the file cannot be written.
    """
    try:
        f = open(path, "ab")
    except OSError as e:
        raise _unwritable(path, e) from None
    with f:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(f.fileno(), fcntl.LOCK_EX)
        yield


def _unwritable(path: str | os.PathLike[str], e: Exception) -> InputError:
    reason = e.strerror if isinstance(e, OSError) and e.strerror else e
    return InputError(f"{path}: cannot write there: {reason}; choose another output")


def _check_file(target: Path, named: Path) -> None:
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


def _temporary(target: Path) -> Path:
    """A new temporary name beside ``target``, once what killed runs left there is removed."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    prefix, suffix = f".{name}.", ".part"
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            middle = entry.name[len(prefix) : -len(suffix)]
            if entry.name == f"{prefix}{middle}{suffix}" and len(middle) == 8:
                with contextlib.suppress(OSError):
                    _remove_leftover(Path(entry.path))
    return target.with_name(f"{prefix}{secrets.token_hex(4)}{suffix}")


def _lock(descriptor: int) -> None:
    """Marks a temporary file as in use, until it is closed or its process ends."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_leftover(path: Path) -> None:
    """Removes a temporary file or folder that no process has locked."""
    found = path.lstat()
    if fcntl is None or time.time() - found.st_mtime < _SETTLED:
        return
    is_folder = stat.S_ISDIR(found.st_mode)
    if not is_folder and not stat.S_ISREG(found.st_mode):
        return
    with contextlib.ExitStack() as opened:
        # Without its lock a folder was left between two steps of its begin, or of its removal.
        with contextlib.suppress(FileNotFoundError):
            lock = opened.enter_context((path / "lock" if is_folder else path).open("rb"))
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` last through a power cut."""
    with contextlib.suppress(OSError):  # Windows, and file systems that cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
