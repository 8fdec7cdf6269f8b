"""Running the application: uvicorn, with signals that let running streams end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ..engine import Engine
from .app import create_app
from .connections import make_protocols
from .logs import log, set_up_logs
from .service import Service
from .settings import Settings

_MAX_MESSAGE = 1 << 20  # bytes of a WebSocket message
_PING_SECONDS = 10.0
# Seconds after which a thread that runs Python lets another one run. The scheduler needs Python for a
# moment between two turns; with Python's 5 ms, every listener would wait so long for the event loop.
SWITCH_SECONDS = 0.0005


class Server(uvicorn.Server):
    """A server that drains: after SIGTERM or Ctrl-C nothing new begins, and running streams may end
    within ``drain_seconds``. A second signal ends them at once.
    """

    def __init__(self, app: FastAPI, *, log_level: int = logging.INFO) -> None:
        service: Service = app.state.service
        settings = service.settings
        http, websockets = make_protocols(settings, service.metrics, service.engine.sample_rate)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=http,
                ws=websockets,
                ws_max_size=_MAX_MESSAGE,
                ws_ping_interval=_PING_SECONDS,
                ws_ping_timeout=_PING_SECONDS,
                ws_per_message_deflate=False,  # sound does not shrink
                log_config=None,
                log_level=log_level,
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )
        self._service = service
        logging.getLogger("uvicorn.access").disabled = True  # its lines have query strings

    @property
    def port(self) -> int:
        """The port that it listens on; known once it has started."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            settings = self._service.settings
            log(
                "listening",
                host=settings.host,
                port=self.port,
                model=self._service.engine.config.name,
                api_keys=len(settings.api_keys),
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        log("draining", sessions=self._service.admission.active)
        begin, most = time.monotonic(), self._service.settings.drain_seconds
        draining = asyncio.ensure_future(self._service.admission.drain(most))
        while not draining.done() and not self.force_exit:
            await asyncio.wait({draining}, timeout=0.1)
        ended = draining.done() and draining.result()
        draining.cancel()
        # The last of the sound may still wait for its client.
        left = most - (time.monotonic() - begin) if ended else 0.0
        self.config.timeout_graceful_shutdown = max(1, round(left))
        self.force_exit = False  # uvicorn would leave without ending the application
        await super().shutdown(sockets)
        log("stopped", all_sessions_ended=ended)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """As uvicorn, but a drained server ends with success, not once more by its signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(engine: Engine, settings: Settings) -> int:
    """Run until a signal; returns the exit code."""
    set_up_logs()
    sys.setswitchinterval(SWITCH_SECONDS)
    server = Server(create_app(engine, settings))
    try:
        asyncio.run(server.serve())
    except SystemExit:  # uvicorn could not bind; it logged why
        return 2
    return 0
