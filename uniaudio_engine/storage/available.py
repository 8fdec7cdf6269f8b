"""Memory that is left, so that what would not fit is refused in a line before it is allocated."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from ..errors import InputError

# Limit and use of this process' control group: version 2, then version 1.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_bytes() -> float:
    """Bytes that can be allocated now without swapping; infinity where the system does not say."""
    left = math.inf
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                left = 1024.0 * int(rest.split()[0])
    for limit, used in _GROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            left = min(left, float(int(Path(limit).read_text()) - int(Path(used).read_text())))
    return max(0.0, left)


def require_memory(wanted: float, what: str, remedy: str) -> None:
    """Raises :class:`InputError` where ``wanted`` bytes are not there."""
    left = available_bytes()
    if wanted > left:
        raise InputError(
            f"{what}: needs about {wanted / 1e9:.3g} GB of memory, {left / 1e9:.3g} GB are "
            f"available; {remedy}"
        )
