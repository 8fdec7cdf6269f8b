"""What a fuzz target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from uniaudio_engine.errors import InputError


@dataclass(frozen=True)
class Target:
    """``make`` draws an input, ``use`` hands it to the code under test.

    ``use`` may raise one of ``refusals``, whose message is one line; anything else that it raises
    is a fault.
    """

    make: Callable[[Random], Any]
    use: Callable[[Any], object]
    refusals: tuple[type[Exception], ...] = (InputError,)
