"""The compiled core ``uniaudio_engine._C``, imported when first needed."""

from __future__ import annotations

import os
from typing import Any

from ..errors import InputError

_module: Any = None


def core() -> Any:
    """The compiled module.

    Raises :class:`InputError` where it is missing or UNIAUDIO_ISA asks for the impossible.
    """
    global _module
    if _module is None:
        try:
            from .. import _C  # type: ignore[attr-defined]

            # raises where UNIAUDIO_ISA names what this machine lacks: now, not in the middle of the
            # work
            _C.isa()
        except ImportError as e:
            raise InputError(
                f"the compiled core is missing ({e}); install with: pip install ."
            ) from None
        except (RuntimeError, ValueError) as e:
            raise InputError(str(e)) from None
        _module = _C
    return _module


def default_threads() -> int:
    """Processors that this process may use, at most 8 (one stream is bound by memory, not by
    arithmetic).
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    return max(1, min(count, 8))
