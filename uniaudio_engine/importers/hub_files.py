"""Checkpoints as model hubs hold them: a config.json and a model.safetensors, each value checked.

Not responsible for what the values mean: each family's importer knows its own names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.opening import read_regular
from ..storage.tensors import all_finite, from_bfloat16, load_tensors

_MAX_JSON = 64 << 20


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


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises :class:`InputError` for anything else."""
    try:
        value = json.loads(read_regular(path, _MAX_JSON))
    except OSError as e:
        raise InputError(f"{path}: expected a readable file, got: {e.strerror or e}") from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: expected JSON, got: {shown(str(e))}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


class Checkpoint:
    """Tensors by another project's names. Each is taken once; :meth:`done` refuses what is left."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._tensors, _ = load_tensors(self.path)
        self._left = set(self._tensors)

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """A float32 tensor of this shape.

        Raises :class:`InputError` where it is missing, of another shape or type, or not finite.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise InputError(f"{self.path}: tensor {name} is missing; is it this family's model?")
        if tensor.shape != shape:
            raise InputError(
                f"{self.path}: {name}: expected shape {list(shape)}, got {list(tensor.shape)}"
            )
        if tensor.dtype == np.uint16:
            tensor = from_bfloat16(tensor)
        elif tensor.dtype.kind != "f":
            raise InputError(f"{self.path}: {name}: expected floats, got {tensor.dtype}")
        if not all_finite(tensor):
            raise InputError(f"{self.path}: NaN or infinity in {name}; download it again")
        self._left.discard(name)
        return np.ascontiguousarray(tensor, np.float32)

    def done(self, copies: Collection[str] = ()) -> None:
        """Raise :class:`InputError` where tensors were not taken, but for names that end in one of
        ``copies``.
        """
        left = sorted(n for n in self._left if not n.endswith(tuple(copies)))
        if left:
            raise InputError(
                f"{self.path}: left over {first_few([shown(n)[1:-1] for n in left])}; is it this "
                "family's model?"
            )
