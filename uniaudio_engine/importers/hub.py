"""Files of a model on a hub: those that its family reads, in the hub's own cache.

`huggingface_hub` downloads; it reads HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE. What the hub
answers is not trusted: names of files are checked, and sizes before anything is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError, first_few, shown
from .archive import Progress, quiet
from .families import CONFIG, NATIVE, PLACES, Family, place_of, recognise, weight_files
from .hub_files import INDEX, is_file_name, read_json, shards

MAX_FILE = 64 << 30  # bytes of weights; the largest published file of a family has 7 GB
_MAX_OTHER = 256 << 20
CARD = "README.md"
_MAX_FILES = 10_000
_MAX_CARD = 1 << 20
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LICENCE = re.compile(r"^(license(?:_name)?):[ \t]*([^\r\n]*)", re.MULTILINE)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Source:
    """A model's files in one folder. ``files``: paths in it, by name. ``name`` and ``commit``: of
    the hub, empty for a folder of the user's. ``licence``: what its README.md states.
    """

    folder: Path
    family: Family
    files: Mapping[str, Path]
    name: str = ""
    commit: str = ""
    licence: str = ""


def is_hub_id(path: object) -> bool:
    """Whether it may name a model on a hub, such as ``kyutai/mimi``."""
    return isinstance(path, str) and _ID.fullmatch(path) is not None and ".." not in path


def local_source(folder: str | os.PathLike[str]) -> Source:
    """The model in a folder. Raises :class:`InputError` for one of no known family."""
    folder = Path(folder)
    patterns = ("*", *(f"{p}*" for p in PLACES if p), "labels/*", "voices/*", "speech_tokenizer/*")
    paths = {p for pattern in patterns for p in folder.glob(pattern) if p.is_file()}
    names = {p.relative_to(folder).as_posix(): 0 for p in paths}
    place = place_of(names)
    if place is None:
        raise InputError(f"{folder}: expected a folder with a config.json, found none")
    config = folder / f"{place}{CONFIG}"
    family = recognise(read_json(config), str(config))
    wanted = _wanted(family, names, lambda name: folder / name, str(folder))
    wanted |= {CARD} & names.keys()
    return Source(folder, family, {n: folder / n for n in wanted}, licence=_licence(folder / CARD))


def hub_source(name: str, revision: str | None = None, progress: Progress = quiet) -> Source:
    """The model of this name, downloaded where the hub's cache does not have it.

    ``revision``: a branch, a tag or a commit; by default the main branch.

    Raises :class:`InputError` in one line for a model that is not there, not of a known family, or
    not in the cache when offline; and for answers that no hub gives.
    """
    if not is_hub_id(name):
        raise InputError(f"{shown(name)}: expected a model on a hub, such as kyutai/mimi")
    if revision is not None and not (
        isinstance(revision, str) and 0 < len(revision) < 200 and revision.isprintable()
    ):
        raise InputError(f"revision: expected a branch, tag or commit, got {shown(revision)}")
    hub = _hub()
    listing = _listing(hub, name, revision)
    if listing is None:
        return _cached_source(hub, name, revision)
    commit, sizes = listing

    def download(file: str, asked: str | None = commit) -> Path:
        _check_size(name, file, sizes[file])
        progress(f"downloading {name}: {file}, {sizes[file] / 1e6:.1f} MB")
        try:
            found = Path(_asked(name, hub.hf_hub_download, name, file, revision=asked))
        except _Unreachable:
            raise InputError(f"{name}: {file}: the hub stopped answering; try again") from None
        size = found.stat().st_size
        if size != sizes[file]:
            raise InputError(
                f"{name}: {file}: expected {sizes[file]} bytes, got {size}; download it again"
            )
        return found

    place = place_of(sizes)
    if place is None:
        raise InputError(f"{name}: expected a config.json among its files, found none")
    where = f"{place}{CONFIG}"
    config = download(where, revision)  # by this name: the cache notes its commit
    folder = config.parents[where.count("/")]
    if folder.name != commit:
        raise InputError(f"{name}: changed while it was downloaded; try again")
    family = recognise(read_json(config, f"{name}: {where}"), f"{name}: {where}")
    wanted = _wanted(family, sizes, download, name)
    wanted |= {CARD} & sizes.keys()
    for n in wanted:
        _check_size(name, n, sizes[n])
    _check_room(name, sum(sizes[n] for n in wanted if not _is_cached(hub, name, n, commit)))
    files = {n: download(n) for n in sorted(wanted)}
    progress("")
    licence = _licence(files[CARD]) if CARD in files else ""
    return Source(folder, family, files, name, commit, licence)


def _wanted(
    family: Family, names: Mapping[str, int], get: Callable[[str], Path], where: str
) -> set[str]:
    """The files that the family's importer reads."""
    wanted = {n for n in names if family.reads(n)}
    if family.name == NATIVE:
        return wanted
    place = place_of(names) or ""
    weights = weight_files(names, place)
    if family.weights and any(fnmatchcase(n, family.weights) for n in wanted):
        return wanted
    if not weights:
        raise InputError(
            f"{where}: expected model.safetensors among its files, found "
            f"{first_few(sorted(names)) or 'none'}"
        )
    wanted |= set(weights)
    if weights == (place + INDEX,):
        listed = {place + n for n in shards(get(place + INDEX), f"{where}: {INDEX}")}
        missing = sorted(listed - names.keys())
        if missing:
            raise InputError(f"{where}: {INDEX} lists {first_few(missing)}, which is not there")
        wanted |= listed
    return wanted


def _listing(hub: Any, name: str, revision: str | None) -> tuple[str, dict[str, int]] | None:
    """The commit and the sizes of its files; none where the hub cannot be reached."""
    try:
        info = _asked(
            name, hub.HfApi().model_info, name, revision=revision, files_metadata=True, timeout=20
        )
    except _Unreachable:
        return None
    commit, siblings = info.sha, info.siblings
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise InputError(f"{name}: expected a commit in the hub's answer, got {shown(commit)}")
    if not isinstance(siblings, list) or len(siblings) > _MAX_FILES:
        raise InputError(f"{name}: expected at most {_MAX_FILES} files in the hub's answer")
    sizes: dict[str, int] = {}
    for file in siblings:
        path, size = file.rfilename, file.size
        if not isinstance(path, str) or not all(map(is_file_name, path.split("/"))):
            continue  # no family reads a file of such a name
        if type(size) is not int or size < 0:
            raise InputError(f"{name}: {path}: expected a size in bytes, got {shown(size)}")
        sizes[path] = size
    return commit, sizes


def _cached_source(hub: Any, name: str, revision: str | None) -> Source:
    """The model as the cache has it."""
    tries = [
        hub.try_to_load_from_cache(name, f"{place}{CONFIG}", revision=revision) for place in PLACES
    ]
    found = next(((f, p) for f, p in zip(tries, PLACES, strict=True) if isinstance(f, str)), None)
    if found is None:
        raise InputError(
            f"{name}: the hub cannot be reached, and its cache does not have this model; go online, "
            "or unset HF_HUB_OFFLINE"
        )
    try:
        folder = Path(found[0]).parents[found[1].count("/")]
        source = local_source(folder)
    except InputError as e:
        raise InputError(f"{e}; the hub cannot be reached, and the cache has no more") from None
    commit = folder.name
    return Source(source.folder, source.family, source.files, name, commit, licence=source.licence)


class _Unreachable(Exception):
    """The hub did not answer."""


def _asked(name: str, ask: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """What the hub library returns. Raises :class:`InputError` for what it refuses, and
    :class:`_Unreachable`.
    """
    from huggingface_hub import errors

    try:
        return ask(*args, **options)
    except errors.GatedRepoError:
        reason = "its authors ask for an agreement; accept it on its page, then: hf auth login"
    except errors.RepositoryNotFoundError:
        reason = "there is no such model, or it is private; if it is yours: hf auth login"
    except errors.RevisionNotFoundError:
        reason = f"there is no such revision: {shown(options.get('revision'))}"
    except errors.HfHubHTTPError as e:
        status = getattr(getattr(e, "response", None), "status_code", 0)
        if status >= 500:
            raise _Unreachable from None
        reason = f"the hub answers {status}: {shown(str(e), 200)}"
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise _Unreachable from None
    except InputError:
        raise
    except Exception as e:  # the library passes on what parsing and its own HTTP client raise
        if any(kind in type(e).__name__ for kind in ("Connect", "Timeout", "Network", "Protocol")):
            raise _Unreachable from None
        reason = f"the hub's answer cannot be used: {type(e).__name__}: {shown(str(e), 200)}"
    raise InputError(f"{name}: {reason}")


def _check_size(name: str, file: str, size: int) -> None:
    most = MAX_FILE if file.endswith((".safetensors", ".bin")) else _MAX_OTHER
    if size > most:
        raise InputError(f"{name}: {file}: expected at most {most} bytes, got {size}")


def _check_room(name: str, size: int) -> None:
    """Raises :class:`InputError` where the disk of the hub's cache has less room than that."""
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE)
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise InputError(
            f"{name}: needs {size / 1e9:.2f} GB in {HF_HUB_CACHE}, which has {free / 1e9:.2f} GB "
            "free; set HF_HOME to another disk"
        )


def _is_cached(hub: Any, name: str, file: str, commit: str) -> bool:
    return isinstance(hub.try_to_load_from_cache(name, file, revision=commit), str)


def _licence(card: Path) -> str:
    """The licence that a model card states in its header, or none."""
    try:
        with card.open("rb") as f:
            text = f.read(_MAX_CARD).decode("utf-8", "replace")
    except OSError:
        return ""
    if not text.startswith("---"):
        return ""
    header = text[3:].partition("\n---")[0]
    stated = {key: value.strip().strip("\"'") for key, value in _LICENCE.findall(header)}
    found = stated.get("license_name") or stated.get("license", "")
    return "".join(c for c in found if c.isprintable())[:100]


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as e:
        raise InputError(
            "a model of a hub needs the library of the hub: pip install 'uniaudio-engine[hub]' "
            f"({e})"
        ) from None
    return huggingface_hub
