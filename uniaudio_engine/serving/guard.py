"""What every request passes first: host, origin, API key, size of the body; then its line in the
log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, BrokenOff, as_api_error
from .logs import LOGGER, log
from .service import Service
from .settings import Settings, is_loopback

# Paths without an API key: they tell nothing but whether the server runs, and how to use it.
PUBLIC = {"/", "/health", "/docs", "/openapi.json", "/favicon.ico"}
PUBLIC_FOLDERS = ("/page/",)
_OWNER = "uniaudio.owner"


class Keys:
    """API keys. ``owner`` names the key that was given, without telling it."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = {k: hashlib.sha256(k.encode()).hexdigest()[:16] for k in keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def owner(self, given: str) -> str | None:
        """None for a key that is not valid. Takes as long for any."""
        found = None
        for key, owner in self._keys.items():
            if secrets.compare_digest(key.encode(), given.encode()):
                found = owner
        return found


def owner_of(request: HTTPConnection) -> str:
    """Who a request is from: a name of its API key, empty where the server needs none."""
    return str(request.scope.get(_OWNER) or "")


@dataclass
class _Body:
    """How much of a request's body has come."""

    bytes: int = 0


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service, self._settings = app, service, service.settings
        self.keys = Keys(service.settings.api_keys)
        self._held = 0  # bytes of the bodies of all requests that are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin, status = time.monotonic(), 0
        identity = secrets.token_hex(8)
        fields: dict[str, Any] = scope.setdefault("uniaudio.log", {})
        body = _Body()

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                headers += [
                    (b"x-request-id", identity.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
                if status in (408, 413, 503):  # the rest of the body is not read
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, self._bounded(scope, receive, body), sent)
        except BrokenOff:
            raise
        except Exception as e:
            error = as_api_error(e)
            if error.status == 500:
                LOGGER.error("failed", exc_info=e, extra={"fields": {"id": identity}})
            if status:
                raise BrokenOff from None
            await error.response()(scope, receive, sent)
        finally:
            self._held -= body.bytes
            self._service.metrics.body_bytes.set(self._held)
            route = getattr(scope.get("route"), "path", "unknown")
            self._service.metrics.requests.labels(route, str(status)).inc()
            log(
                "request",
                logging.DEBUG if route in ("/health", "/metrics") else logging.INFO,
                id=identity,
                method=scope["method"],
                route=route,
                status=status,
                seconds=round(time.monotonic() - begin, 3),
                **fields,
            )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope, key_may_follow=True)
        except ApiError:
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: 403
            return
        scope["uniaudio.keys"] = self.keys
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, key_may_follow: bool = False) -> None:
        """Host, origin and key. ``key_may_follow``: a key may come in a first message instead."""
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        check_origin(headers, self._settings, bool(self.keys))
        if not self.keys:
            return
        public = scope["path"] in PUBLIC or scope["path"].startswith(PUBLIC_FOLDERS)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        owner = self.keys.owner(given.strip()) if scheme.lower() == "bearer" else None
        scope[_OWNER] = owner
        if owner is None and not public and not (key_may_follow and not scheme):
            raise ApiError(
                401, "expected Authorization: Bearer with a valid API key, got another or none"
            )

    def _bounded(self, scope: Scope, receive: Receive, body: _Body) -> Receive:
        """``receive`` with limits of the body's size and of the time between its parts."""
        most, patience = self._settings.max_body, self._settings.idle_seconds
        most_of_all = most * self._settings.max_sessions
        too_large = ApiError(413, f"expected a body of at most {most} bytes, got more")
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > most):
                raise too_large
        complete = False

        async def bounded() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), patience)
            except asyncio.TimeoutError:
                self._service.metrics.cut.labels("upload").inc()
                raise ApiError(408, f"expected the body, got nothing for {patience:g} s") from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                body.bytes += size
                self._held += size
                self._service.metrics.body_bytes.set(self._held)
                complete = not message.get("more_body", False)
                if body.bytes > most:
                    raise too_large
                if self._held > most_of_all:
                    raise ApiError(503, "too many large requests at once", retry_after=2)
            return message

        return bounded


def check_origin(headers: Mapping[str, str], settings: Settings, has_keys: bool) -> None:
    """Refuse web pages of other origins; without a key also names that only lead here.

    A page that a browser shows can send requests to this machine. Without this check, any page could
    use a server that needs no key. Raises :class:`ApiError`.
    """
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if not has_keys and not (is_loopback(name) or name == settings.host):
        raise ApiError(
            403, f"Host: expected localhost or 127.0.0.1, got {host[:60]!r}; or set an API key"
        )
    origin = headers.get("origin")
    if origin is None or "*" in settings.cors_origins or origin in settings.cors_origins:
        return
    if urlsplit(origin).netloc != host:
        raise ApiError(403, f"Origin: {origin[:60]!r} is not allowed; see --cors-origin")
