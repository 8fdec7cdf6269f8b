"""Settings of a trainer: a dataclass, read from a YAML file and from ``--set NAME=VALUE``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from uniaudio_engine.storage.config import ConfigError, from_dict

from .kernels import Kernels

Precision = Literal["auto", "float32", "bfloat16"]
Sharding = Literal["none", "node", "all"]


@dataclass(frozen=True)
class RunSettings:
    """The settings that all trainers share.

    ``minutes`` above 0 limits the run by time; the learning rate then follows steps or minutes,
    whichever is further. ``precision``: see ``precision.py``; ``auto`` measures the machine.
    ``kernels``: ``auto`` takes the Triton kernels on a GPU; ``torch`` and ``triton`` force one.
    """

    steps: int = 20000
    seed: int = 0
    minutes: float = 0.0
    checkpoint_minutes: float = 4.0
    validate_every: int = 500
    precision: Precision = "auto"
    kernels: Kernels = "auto"

    def check(self) -> None:
        """Raises ConfigError for a value out of range."""
        require(self.steps >= 1, "steps", "1 or more", self.steps)
        require(self.seed >= 0, "seed", "0 or more", self.seed)
        require(self.minutes >= 0, "minutes", "0 or more", self.minutes)
        require(
            self.checkpoint_minutes >= 0, "checkpoint_minutes", "0 or more", self.checkpoint_minutes
        )
        require(self.validate_every >= 1, "validate_every", "1 or more", self.validate_every)


_Settings = TypeVar("_Settings", bound=RunSettings)


def require(ok: bool, name: str, expected: str, got: object) -> None:
    """Raises ConfigError, in one line, unless ``ok``."""
    if not ok:
        raise ConfigError(f"{name}: expected {expected}, got {got!r}")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 that also reads numbers without a point, such as 2e-4 (a string in YAML 1.1)."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in _Loader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_settings(
    kind: type[_Settings], path: str | Path, overrides: Iterable[str] = ()
) -> _Settings:
    """Reads settings from a YAML file; each "NAME=VALUE" of ``overrides`` replaces a value.

    Raises ConfigError, in one line, for a file that is not a mapping, an unknown name, and a value
    of the wrong type or out of range.
    """
    try:
        data = _yaml(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: expected YAML, got: {' '.join(str(e).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(data).__name__}")
    for override in overrides:
        name, equals, value = override.partition("=")
        if not name or not equals:
            raise ConfigError(f"--set: expected NAME=VALUE, got {override!r}")
        try:
            data[name] = _yaml(value) if value else ""
        except yaml.YAMLError:
            raise ConfigError(f"--set {name}: expected a YAML value, got {value!r}") from None
    return settings_from(kind, data, str(path))


def settings_from(kind: type[_Settings], data: Any, where: str = "settings") -> _Settings:
    """Settings from plain values; raises ConfigError as :func:`read_settings` does."""
    settings = from_dict(kind, data, where)
    settings.check()
    return settings


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
