"""Configurations as frozen dataclasses, read strictly from JSON and written back.

Unknown keys are errors, so that a newer model never runs half-understood.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

from ..errors import shown

_T = TypeVar("_T")


class ConfigError(ValueError):
    """A configuration that this engine does not accept; the message says expected, got and remedy."""


# The file format is older than some names of the code, and ``global`` is a Python keyword.
_KEYS = {
    "global_": "global",
    "aligned_slots": "guide_slots",
    "aligned_vocab": "guide_vocab",
    "aligned_spans": "guide_spans",
}
_OLD_VALUES = {"guide": "aligned"}  # a task input's ``place``


def to_dict(obj: Any) -> Any:
    """Dataclass -> plain JSON values under the file format's keys; absent parts are left out."""
    if dataclasses.is_dataclass(obj):
        fields = dataclasses.fields(obj)
        pairs = ((_KEYS.get(f.name, f.name), getattr(obj, f.name)) for f in fields)
        return {k: to_dict(v) for k, v in pairs if v is not None}
    if isinstance(obj, (tuple, list)):
        return [to_dict(v) for v in obj]
    return obj


def from_dict(cls: type[_T], data: Any, where: str = "config") -> _T:
    """Plain JSON values -> dataclass.

    Raises :class:`ConfigError` on unknown or missing keys and wrong types.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {_KEYS.get(f.name, f.name): f for f in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {unknown[0]!r}; this version of uniaudio-engine knows "
            f"{', '.join(sorted(fields))}"
        )
    values = {}
    for key, f in fields.items():
        if key in data:
            values[f.name] = _convert(hints[f.name], data[key], f"{where}.{key}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: key {key!r} is missing")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        if isinstance(value, str) and str in args:
            return value
        return _convert(next(a for a in args if a not in (type(None), str)), value, where)
    if origin is Literal:
        if isinstance(value, str) and value not in args:
            value = _OLD_VALUES.get(value, value)
        if value not in args:
            raise ConfigError(
                f"{where}: expected one of {', '.join(map(repr, args))}, got {value!r}"
            )
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {type(value).__name__}")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, got {type(value).__name__}")
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: expected a number, got {shown(value)}") from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def require(ok: bool, where: str, expected: str, got: object) -> None:
    """Raise :class:`ConfigError` unless ``ok``; ``where`` is the key's path."""
    if not ok:
        raise ConfigError(f"config: {where}: expected {expected}, got {got!r}")


def require_within(where: str, low: float, value: float, high: float, unit: str = "") -> None:
    """Raise :class:`ConfigError` unless ``low`` <= ``value`` <= ``high``."""
    expected = f"{low} to {high} {unit}".rstrip()
    require(low <= value <= high, where, expected, value)
