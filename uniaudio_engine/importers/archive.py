"""Finds a checkpoint and its config: a file, a folder, or a zip from which only the needed files
are extracted.

Members are found by role (a role has names and suffixes), at any depth. A zip is not trusted: a
path that leaves it, a link, an unusual compression or an implausible size rejects the whole zip. A
folder is the user's own: linked files are followed (the caches of model hubs consist of them),
linked folders are not.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..errors import InputError, first_few, shown
from ..storage.opening import open_regular
from ..storage.zips import open_zip, unpacked
from .checkpoint import MAX_BYTES

MAX_RATIO = 20  # maximum compression ratio; weights are hardly compressible
MAX_CONFIG = 4 << 20  # bytes
_MAX_ENTRIES = 10_000
_MAX_DEPTH = 8

Progress = Callable[[str], None]
_T = TypeVar("_T")


def quiet(text: str) -> None:
    """Discards progress messages."""


@dataclass(frozen=True)
class Role:
    """What to look for: a file with one of these names or (lower-case) suffixes, of at most
    ``max_bytes``.

    ``ranked``: where a folder has several of the names, the first one wins.
    """

    what: str
    names: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES
    ranked: bool = False

    def fits(self, name: str) -> bool:
        return name in self.names or name.lower().endswith(self.endings or ("\0",))


CHECKPOINT = Role("checkpoint", endings=(".checkpoint", ".pth", ".pt", ".ckpt", ".safetensors"))
CONFIG = Role("config.yaml", names=("config.yaml", "config.yml"), max_bytes=MAX_CONFIG)


@dataclass(frozen=True)
class Member:
    """A file that fills a role: its path, its name for messages, and the file that it came in."""

    path: Path
    name: str
    source: Path

    def read(self, reader: Callable[[Path], _T]) -> _T:
        """The result of ``reader``; errors name the file that the user knows, not the extracted
        copy.
        """
        try:
            return reader(self.path)
        except InputError as e:
            if self.path == self.source:
                raise
            raise InputError(str(e).replace(str(self.path), self.name)) from None


def find_members(
    source: str | os.PathLike[str],
    roles: Mapping[str, Role],
    scratch: Path,
    progress: Progress = quiet,
) -> dict[str, Member]:
    """Finds the members of ``source`` by role; returns those that exist.

    A file that is not an archive fills the first role, and files next to it fill the roles that
    name them. Members of a zip are extracted into ``scratch``, an existing private folder. Raises
    :class:`InputError` where nothing fills the first role, several files could fill one, or a zip
    is not safe.
    """
    source, first = Path(source), next(iter(roles))
    if not source.exists():
        raise InputError(
            f"{source}: expected a {roles[first].what}, or a folder or zip that has it; found "
            "nothing there"
        )
    if source.is_dir():
        found = _choose(source, _walk(source), roles)
        return {role: Member(source / name, name, source / name) for role, name in found.items()}
    if not source.is_file():
        raise InputError(f"{source}: expected a file, a folder or a zip, got something else")
    if _is_archive(source):
        return _from_zip(source, roles, scratch, progress)
    members = {first: Member(source, source.name, source)}
    for key, role in roles.items():
        beside = [p for n in role.names if (p := source.with_name(n)).is_file() and p != source]
        if key != first and beside:
            members[key] = Member(beside[0], beside[0].name, beside[0])
    return members


def _is_archive(path: Path) -> bool:
    """Whether the file is a zip but not a torch checkpoint."""
    try:
        with open_regular(path) as f:
            if f.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
                return False
            names = open_zip(f, path).namelist()
    except OSError as e:
        raise InputError(f"{path}: expected a readable file, got: {e.strerror or e}") from None
    return not any(n.count("/") == 1 and n.endswith("/data.pkl") for n in names)


def _walk(folder: Path) -> list[str]:
    """Relative paths of the files in a folder."""
    files: list[str] = []

    def failed(e: OSError) -> None:
        raise InputError(
            f"{e.filename}: expected a readable folder, got: {e.strerror or e}"
        ) from None

    for here, folders, names in os.walk(folder, onerror=failed):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = (
            sorted(d for d in folders if not d.startswith(".")) if depth < _MAX_DEPTH else []
        )
        files += [
            str((Path(here) / n).relative_to(folder)) for n in names if (Path(here) / n).is_file()
        ]
        if len(files) > _MAX_ENTRIES:
            raise InputError(
                f"{folder}: expected a folder of a model, got more than {_MAX_ENTRIES} files; "
                "name the file"
            )
    return files


def _choose(source: Path, names: list[str], roles: Mapping[str, Role]) -> dict[str, str]:
    found: dict[str, str] = {}
    first = next(iter(roles))
    for key, role in roles.items():
        fits = [n for n in sorted(names) if _plain(n) and role.fits(PurePosixPath(n).name)]
        if key != first:  # where there are several, the one next to the first role
            beside = [
                n for n in fits if PurePosixPath(n).parent == PurePosixPath(found[first]).parent
            ]
            fits = beside or fits
        if role.ranked and fits:
            best = next(n for n in role.names if any(PurePosixPath(f).name == n for f in fits))
            fits = [f for f in fits if PurePosixPath(f).name == best]
        if len(fits) > 1:
            raise InputError(
                f"{source}: expected one {role.what}, found {first_few(fits)}; name the one that "
                "is meant"
            )
        if fits:
            found[key] = fits[0]
        elif key == first:
            there = first_few(sorted(names)) or "nothing"
            raise InputError(
                f"{source}: expected a {role.what} ({', '.join(role.endings or role.names)}), "
                f"found {there}"
            )
    return found


def _plain(name: str) -> bool:
    """Neither hidden nor one of the resource forks that macOS adds to zips."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _from_zip(
    source: Path, roles: Mapping[str, Role], scratch: Path, progress: Progress
) -> dict[str, Member]:
    with open_regular(source) as f:
        archive = open_zip(f, source)
        entries = {e.filename: e for e in archive.infolist() if not e.is_dir()}
        for e in archive.infolist():
            _check_entry(source, e)
        members = {}
        for key, name in _choose(source, list(entries), roles).items():
            target = scratch / f"{key}{PurePosixPath(name).suffix}"
            _extract(source, archive, entries[name], target, roles[key], progress)
            members[key] = Member(target, f"{source.name}: {name}", source)
    return members


def _check_entry(source: Path, e: zipfile.ZipInfo) -> None:
    name = e.orig_filename
    parts = name.rstrip("/").split("/")
    if "\\" in name or "\0" in name or ":" in parts[0] or any(p in ("", ".", "..") for p in parts):
        raise InputError(
            f"{source}: entry {shown(name)} leads out of the zip; do not use this file"
        )
    if stat.S_IFMT(e.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(
            f"{source}: entry {shown(name)} is a link or a device, not a file; do not use this file"
        )


def _extract(
    source: Path,
    archive: zipfile.ZipFile,
    e: zipfile.ZipInfo,
    target: Path,
    role: Role,
    progress: Progress,
) -> None:
    what = f"{source}: entry {shown(e.filename)}"
    if e.file_size > min(role.max_bytes, MAX_RATIO * e.compress_size + 4096):
        raise InputError(
            f"{what} would unpack from {e.compress_size} to {e.file_size} bytes; a {role.what} "
            "does not"
        )
    if e.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or e.flag_bits & 1:
        raise InputError(
            f"{what} is encrypted or compressed in an unusual way; unpack it and name the file"
        )
    if e.file_size > shutil.disk_usage(target.parent).free:
        raise InputError(
            f"{what} needs {e.file_size} bytes on the disk of {target.parent.parent}, which has "
            "not as much free"
        )
    done = 0
    with target.open("xb") as out:
        for chunk in unpacked(archive, e, what):
            done += len(chunk)
            if done > e.file_size:
                raise InputError(f"{what} is larger than the zip says; do not use this file")
            out.write(chunk)
            progress(f"unpacking {e.filename}: {done / max(1, e.file_size):.0%}")
    if done != e.file_size:
        raise InputError(f"{what} is truncated; download the zip again")
