"""Checkpoints as model hubs hold them: a config.json and tensors by name, each value checked.

The tensors are in ``model.safetensors``, or in several files that ``model.safetensors.index.json``
lists.

Not responsible for what the values mean: each family's importer knows its own names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.opening import read_regular
from ..storage.tensors import (
    StoredTensors,
    all_finite,
    from_bfloat16,
    open_tensors,
    require_names,
)

State = Mapping[str, NDArray[Any]]  # tensors by their names

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_JSON = 64 << 20
_MAX_SHARDS = 1000


class Settings:
    """A JSON object whose values are read by key and checked."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values, self.where = values, where

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if type(value) is not int or not 0 <= value < 1 << 31:
            self._refuse(key, "a whole number", value)
        return int(value)

    def real(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if type(value) not in (int, float) or not abs(value) < 1e12:
            self._refuse(key, "a number", value)
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if type(value) is not bool:
            self._refuse(key, "true or false", value)
        return bool(value)

    def expect(self, key: str, expected: Any, default: Any = None) -> None:
        """Raise :class:`InputError` unless the value is the only one that is supported."""
        value = self._get(key, expected if default is None else default)
        if value != expected:
            self._refuse(key, repr(expected), value)

    def choice(self, key: str, choices: dict[str, str], default: str) -> str:
        """What the value stands for."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in choices:
            self._refuse(key, "one of " + ", ".join(choices), value)
        return choices[value]

    def integers(self, key: str, default: list[int]) -> list[int]:
        value = self._get(key, default)
        if not isinstance(value, list) or not all(type(v) is int for v in value):
            self._refuse(key, "a list of whole numbers", value)
        return list(value)

    @property
    def values(self) -> Mapping[str, Any]:
        return self._values

    def optional(self, key: str) -> Settings | None:
        """The object there, if there is one."""
        return None if self._values.get(key) is None else self.section(key)

    def section(self, key: str) -> Settings:
        value = self._get(key, None)
        if not isinstance(value, dict):
            self._refuse(key, "an object", value)
        return Settings(value, f"{self.where}: {key}")

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise InputError(
                f"{self.where}: key {key!r} is missing; is it this model's config.json?"
            )
        return value

    def _refuse(self, key: str, expected: str, value: object) -> None:
        raise InputError(f"{self.where}: {key}: expected {expected}, got {shown(value)}")


def read_json(path: Path, where: str = "", most: int = _MAX_JSON) -> dict[str, Any]:
    """The object in a JSON file of at most ``most`` bytes; ``where``: its name in messages.

    Raises :class:`InputError` for anything else.
    """
    where = where or str(path)
    data = read_regular(path, most, where=where)
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        raise InputError(f"{where}: expected JSON, got: {shown(str(e))}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object, got {shown(value)}")
    return value


class Reader:
    """Takes tensors out of a checkpoint as float32 and remembers which; the rest is left over.

    Every error is one :class:`InputError` line that names the first few tensors.
    """

    def __init__(self, state: State, where: str) -> None:
        self._state, self.where = state, where
        self._used: set[str] = set()
        self._missing: list[str] = []

    @property
    def state(self) -> State:
        return self._state

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def get(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The tensor, checked for shape, type and finiteness; zeros where it is missing, which
        :meth:`end` reports.
        """
        if name not in self._state:
            self._missing.append(name)
            return np.zeros(shape, np.float32)
        self._used.add(name)
        found = self._state[name]
        if found.shape != shape:
            raise InputError(
                f"{self.where}: {name}: expected the shape {list(shape)}, got "
                f"{list(found.shape)}; do configuration and weights belong together?"
            )
        if found.dtype == np.uint16:
            found = from_bfloat16(found)
        if found.dtype.kind != "f":
            raise InputError(
                f"{self.where}: {name}: expected floating-point numbers, got {found.dtype}"
            )
        with np.errstate(over="ignore"):
            found = np.ascontiguousarray(found, np.float32)
        if not all_finite(found):
            raise InputError(
                f"{self.where}: {name}: NaN or infinity; download the checkpoint again"
            )
        return found

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """As :meth:`get`, but a missing tensor is refused at once: nothing is made of its zeros."""
        if name not in self._state:
            raise InputError(f"{self.where}: tensor {name} is missing; is it this family's model?")
        return self.get(name, shape)

    def end(self, ignored: Callable[[str], bool] = lambda name: False) -> None:
        """Raises :class:`InputError` where tensors are missing or left over."""
        left = [n for n in self._state if n not in self._used and not ignored(n)]
        parts = [f"missing {first_few(self._missing)}"] if self._missing else []
        parts += [f"left over {first_few(left)}"] if left else []
        if parts:
            raise InputError(
                f"{self.where}: {'; '.join(parts)}; do configuration and weights belong together?"
            )


def open_settings(folder: str | os.PathLike[str]) -> Settings:
    """The ``config.json`` of a folder. Raises :class:`InputError` where there is none."""
    path = Path(folder) / "config.json"
    return Settings(read_json(path), str(path))


def open_weights(folder: str | os.PathLike[str]) -> Reader:
    """The weights of a folder, in one file or several.

    Raises :class:`InputError` where there are none.
    """
    folder = Path(folder)
    whole, index = folder / WEIGHTS, folder / INDEX
    path = index if index.is_file() and not whole.is_file() else whole
    return Reader(open_state(path), str(path))


def open_state(path: Path) -> State:
    """The tensors of a safetensors file, or of those that an index lists; read when asked for."""
    return open_split(path) if path.name == INDEX else open_tensors(path)


def shards(index: Path, where: str = "") -> dict[str, set[str]]:
    """The files that an index lists, with the names of the tensors in each.

    Raises :class:`InputError` for an index that is not one, or leads out of its folder.
    """
    where = where or str(index)
    listed = read_json(index, where).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise InputError(f"{where}: expected files by tensor under weight_map, got {shown(listed)}")
    files: dict[str, set[str]] = {}
    for tensor, file in listed.items():
        if not is_file_name(file) or not file.endswith(".safetensors"):
            raise InputError(
                f"{where}: {shown(tensor)}: expected the name of a safetensors file in the same "
                f"folder, got {shown(file)}"
            )
        files.setdefault(file, set()).add(tensor)
    if len(files) > _MAX_SHARDS:
        raise InputError(f"{where}: expected at most {_MAX_SHARDS} files, got {len(files)}")
    return files


def open_split(index: Path) -> StoredTensors:
    """The tensors of a checkpoint in several files; read when asked for.

    Raises :class:`InputError` where a file is missing, or has other tensors than the index says.
    """
    found = StoredTensors({})
    for file, expected in sorted(shards(index).items()):
        tensors = open_tensors(index.with_name(file))
        require_names(tensors, expected, str(index.with_name(file)))
        found |= tensors
    return found


def is_file_name(name: object) -> bool:
    """Whether it names a file of a folder: no path, nothing hidden, nothing that a terminal shows
    as something else.
    """
    return (
        isinstance(name, str)
        and 0 < len(name) <= 200
        and name.isprintable()
        and not name.startswith((".", "~"))
        and not any(c in name for c in '/\\:*?"<>|')
    )
