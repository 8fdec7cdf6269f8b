"""What the operator of a server may set, with defaults that are safe on one machine."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, shown

API_KEY_VARIABLE = "UNIAUDIO_API_KEY"
MIN_KEY_LENGTH = 16
_LOOPBACK_NAMES = ("localhost",)


@dataclass(frozen=True)
class Settings:
    """Settings of a server. Raises :class:`InputError` for a combination that is not safe.

    ``api_keys``: any of them opens the server; needed unless ``host`` is a loopback address.
    ``max_sessions``: requests that run at once; ``max_queue``: requests that wait for one of them.
    ``max_body``: bytes of a request (of all at once: so many for each session); ``max_text``: characters of a text.
    ``max_input_seconds`` and ``max_output_seconds``: of each sound in and out.
    ``stall_seconds``: a client that takes nothing for so long while ``send_buffer`` bytes wait for
    it is cut. ``drain_seconds``: how long running streams may go on after SIGTERM.
    ``voices``: a folder for uploaded voices; None keeps them in memory.
    ``cors_origins``: web origins other than the server's own that may use it.
    ``model_aliases`` and ``voice_aliases``: further names, for clients whose names are fixed.
    ``wyoming``: ``HOST:PORT`` or a port of a Wyoming server, or None.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_sessions: int = 16
    max_queue: int = 32
    max_connections: int = 256
    max_body: int = 25 << 20
    max_text: int = 10_000
    max_input_seconds: float = 600.0
    max_output_seconds: float = 1800.0
    max_voices: int = 100
    stall_seconds: float = 2.0
    idle_seconds: float = 30.0
    send_buffer: int = 1 << 20
    drain_seconds: float = 30.0
    voices: Path | None = None
    cors_origins: tuple[str, ...] = ()
    model_aliases: tuple[str, ...] = ()
    voice_aliases: Mapping[str, str] = field(default_factory=dict)
    wyoming: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port: expected 0 to 65535, got {self.port}")
        for name in (
            "max_sessions",
            "max_connections",
            "max_body",
            "max_text",
            "max_input_seconds",
            "max_output_seconds",
            "stall_seconds",
            "idle_seconds",
            "send_buffer",
        ):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("max_queue", "max_voices", "drain_seconds"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        for key in self.api_keys:
            if len(key) < MIN_KEY_LENGTH or not key.isascii() or any(c.isspace() for c in key):
                raise InputError(
                    f"API key: expected at least {MIN_KEY_LENGTH} ASCII characters without spaces, "
                    f"got {len(key)}; make one: openssl rand -hex 24"
                )
        if not is_loopback(self.host) and not self.api_keys:
            raise InputError(
                f"host {self.host} can be reached from other machines: expected an API key, got "
                f"none; give --api-key-file FILE or {API_KEY_VARIABLE}, or bind 127.0.0.1"
            )
        if "*" in self.cors_origins and not self.api_keys:
            raise InputError(
                "cors_origins: * lets every web page use this server: expected an API key, got none"
            )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_api_keys(given: list[str], file: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """Keys given one by one, those of a file (one a line, # begins a comment) and the variable's."""
    keys = list(given)
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"{file}: expected a readable file of API keys, got: {e}") from None
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise InputError(f"{file}: expected an API key on a line, got {shown(lines)}")
        keys += found
    if os.environ.get(API_KEY_VARIABLE):
        keys.append(os.environ[API_KEY_VARIABLE])
    return tuple(dict.fromkeys(keys))
