"""Models of any known family: from a folder or a hub to a model folder, once.

A converted model is kept in this engine's cache under a key of all that it was made from: the
family, the commit, the contents of each file, and the version of the importers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from ..storage.files import exclusive
from ..storage.folder import bundled_models
from . import VERSION
from .archive import Progress, quiet
from .families import NATIVE, recognise
from .hub import Source, hub_source, is_hub_id, local_source
from .hub_files import read_json
from .output import sha256

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def import_auto(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output`` from a folder or a model on a hub, whose family is
    recognised; returns plain JSON values about it, ``licence`` among them.

    Raises :class:`InputError`, in one line; no partial output remains.
    """
    found = _source(source, revision, progress)
    if found.family.name == NATIVE:
        raise InputError(f"{source}: is a model folder of this engine already; use it as it is")
    return _convert(found, output, dtype, licence, progress)


def located(
    path: str | os.PathLike[str] | None, revision: str | None = None, progress: Progress = quiet
) -> str | os.PathLike[str] | None:
    """The model folder that ``path`` stands for: itself, or that of a model on a hub, which is
    downloaded and converted where that was not done before. A folder goes before the hub.

    Raises :class:`InputError` as :func:`import_auto`; for a folder that has to be converted, and for
    a revision of a folder.
    """
    is_hub = (
        is_hub_id(path) and str(path) not in bundled_models() and not os.path.lexists(str(path))
    )
    if not is_hub:
        if revision is not None:
            raise InputError(f"revision: expected a model on a hub with it, got {shown(path)}")
        _check_native(path)
        return path
    source = hub_source(str(path), revision, progress)
    if source.family.name == NATIVE:
        return source.folder
    return _converted(source, progress)


def cache_folder() -> Path:
    """The folder of converted models: UNIAUDIO_CACHE, or the system's place for caches."""
    chosen = os.environ.get("UNIAUDIO_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "uniaudio-engine"


def _check_native(path: str | os.PathLike[str] | None) -> None:
    """Raises :class:`InputError`, which says what to do, for a folder that has to be converted."""
    if path is None:
        return
    try:
        config = Path(path) / "config.json"
        family = recognise(read_json(config), str(config))
    except (InputError, OSError, TypeError, ValueError):
        return  # whoever loads it says what is wrong
    if family.name != NATIVE:
        raise InputError(
            f"{path}: is {family.what}; make a model folder of it: uniaudio import auto {path} -o "
            "FOLDER"
        )


def _converted(source: Source, progress: Progress) -> Path:
    """The converted model in the cache; safe for several processes at once."""
    parts = [
        hub_source(name, None, progress) for _, name in source.family.parts
    ]  # their newest commits
    sources = [source, *parts]
    about = [VERSION, source.family.name, [[s.commit, _contents(s)] for s in sources]]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    place = cache_folder() / key
    folder = place / source.name.rpartition("/")[2]
    if (folder / "config.json").is_file():
        return folder
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(
            f"{place}: cannot write there: {e.strerror or e}; set UNIAUDIO_CACHE to another folder"
        ) from None
    with exclusive(place / "lock"):
        if not (folder / "config.json").is_file():
            _convert(source, folder, "float32", "", progress, parts)
            progress("")
    return folder


def _convert(
    source: Source,
    output: str | os.PathLike[str],
    dtype: str,
    licence: str,
    progress: Progress,
    parts: Iterable[Source] | None = None,
) -> dict[str, Any]:
    family = source.family
    options: dict[str, Any] = {}
    if source.name:  # beside a folder of the user's, the importer looks for them itself
        if parts is None:
            parts = [hub_source(name, None, progress) for _, name in family.parts]
        options = {key: s.folder for (key, _), s in zip(family.parts, parts, strict=True)}
    licence = licence or source.licence
    about = family.importer(
        source.folder, output, dtype=dtype, licence=licence, progress=progress, **options
    )
    origin = {"source": source.name or str(source.folder), "commit": source.commit}
    return about | {"family": family.name, "licence": licence} | origin


def _contents(source: Source) -> list[tuple[str, str]]:
    """What identifies each file's contents: in a hub's cache the name of its blob, which is a hash
    of them; elsewhere their SHA-256.
    """
    found = []
    for name, path in sorted(source.files.items()):
        blob = Path(os.path.realpath(path))
        is_blob = blob.parent.name == "blobs" and _HASH.fullmatch(blob.name)
        found.append((name, blob.name if is_blob else sha256(path)))
    return found


def _source(source: str | os.PathLike[str], revision: str | None, progress: Progress) -> Source:
    if os.path.lexists(source) or not is_hub_id(source):
        if revision is not None:
            raise InputError(f"revision: expected a model on a hub with it, got {shown(source)}")
        return local_source(source)
    return hub_source(str(source), revision, progress)
