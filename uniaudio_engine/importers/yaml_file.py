"""Reads YAML files as plain data within limits: no tags, no aliases (which can expand without
bound), no deep nesting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..storage.opening import read_regular
from .archive import MAX_CONFIG

# enough for a vocabulary of a hundred thousand tokens; a million would take YAML a minute
_MAX_NODES = 400_000
_MAX_DEPTH = 32


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the file. Needs PyYAML (``pip install "uniaudio-engine[import]"``).

    Raises :class:`InputError`, in one line.
    """
    try:
        import yaml
    except ImportError:
        raise InputError(
            f"{path}: reading it needs PyYAML; pip install 'uniaudio-engine[import]'"
        ) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = read_regular(path, MAX_CONFIG)
    except OSError as e:
        raise InputError(f"{path}: expected a readable YAML file, got: {e.strerror or e}") from None
    try:
        text = data.decode("utf-8")
        nodes = depth = 0
        for event in yaml.parse(text, Loader=loader):  # only events: nothing is built yet
            nodes += 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
                event, yaml.CollectionEndEvent
            )
            if isinstance(event, yaml.AliasEvent):
                raise InputError(
                    f"{path}: expected YAML without aliases, got *{str(event.anchor)[:40]}"
                )
            if nodes > _MAX_NODES or depth > _MAX_DEPTH:
                raise InputError(
                    f"{path}: expected at most {_MAX_NODES} values, nested at most {_MAX_DEPTH} "
                    "deep, got more"
                )
        found = yaml.load(text, Loader=loader)  # noqa: S506 (a safe loader)
    except InputError:
        raise
    except Exception as e:  # PyYAML's constructors index and convert what they have not checked
        line = " ".join(str(e).split())[:120]
        raise InputError(
            f"{path}: expected a YAML file, got: {line}; is it the right file?"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
        raise InputError(
            f"{path}: expected a YAML mapping, got {type(found).__name__}; is it the right file?"
        )
    return found
