"""The server: an engine over HTTP and WebSockets. It needs the extra ``serve``.

``app.py`` builds the application, ``server.py`` runs it. Nothing below imports this package.
"""

from __future__ import annotations

import importlib.util

from ..errors import InputError

_NEEDED = ("fastapi", "uvicorn", "multipart", "prometheus_client", "websockets", "wyoming")


def check_installed() -> None:
    """Raise :class:`InputError` where a package of the extra ``serve`` is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"serve needs {', '.join(missing)}, not installed here; install the extra: "
            "pip install 'uniaudio-engine[serve]'"
        )
