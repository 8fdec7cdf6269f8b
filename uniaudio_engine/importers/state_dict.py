"""The state dict in a checkpoint: tensors by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from .pickle_machine import brief


def find_state(
    checkpoint: Any, key: str, sign: str, where: str, what: str
) -> dict[str, NDArray[Any]]:
    """The state dict under ``key`` of a checkpoint, or the checkpoint itself.

    It is recognised by a tensor named ``sign``. Raises :class:`InputError` where it is absent, or
    holds anything but tensors.
    """
    inside: Any = checkpoint.get(key, checkpoint) if isinstance(checkpoint, dict) else None
    found: dict[Any, Any] = inside if isinstance(inside, dict) else {}
    names = list(found)
    state: dict[str, NDArray[Any]] = {}
    for n in names:
        name = re.sub(r"^(module\.)+", "", n) if isinstance(n, str) else ""
        if isinstance(found[n], np.ndarray) and name:
            if name in state:
                raise InputError(
                    f"{where}: tensor {shown(name)} is there twice, with and without module."
                )
            state[name] = found[n]
    if sign not in state:
        top = [brief(k) for k in (checkpoint if isinstance(checkpoint, dict) else ())]
        raise InputError(
            f"{where}: expected {what} with the tensor {sign}, found "
            f"{first_few(top) or brief(checkpoint)}; is it the right file?"
        )
    other = [n for n in names if not isinstance(found[n], np.ndarray)]
    if other:
        raise InputError(
            f"{where}: expected tensors only, {brief(other[0])} is {brief(found[other[0]])}"
        )
    return state
