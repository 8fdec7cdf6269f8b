"""uvicorn's protocols with a limit to what a client may keep waiting.

A client that takes nothing while sound waits for it is cut: its buffers are let go, and the
session that fills them ends.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ..request.live_text import Playback
from .metrics import Metrics
from .settings import Settings

# Bytes that the system holds for a client; more would hide that it takes nothing.
_SYSTEM_BUFFER = 64 << 10
_LOOKS = 4  # per stall


class StallWatch:
    """Cuts a connection that takes nothing for ``stall_seconds`` while its buffer is full, or for
    ``idle_seconds`` while anything at all waits for it.
    """

    def __init__(self, transport: asyncio.Transport, settings: Settings, metrics: Metrics) -> None:
        self._transport, self._settings, self._metrics = transport, settings, metrics
        self._loop = asyncio.get_running_loop()
        self._full = False
        self._waiting, self._since = 0, self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=settings.send_buffer)
        system = transport.get_extra_info("socket")
        if system is not None and system.type == socket.SOCK_STREAM:
            system.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SYSTEM_BUFFER)
        self._look()

    def full(self, full: bool) -> None:
        """The buffer has filled, or is being taken again."""
        self._full, self._since = full, self._loop.time()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        settings, now = self._settings, self._loop.time()
        waiting = self._transport.get_write_buffer_size()
        if waiting == 0 or waiting < self._waiting:
            self._since = now
        self._waiting = waiting
        if now - self._since >= (settings.stall_seconds if self._full else settings.idle_seconds):
            self._metrics.cut.labels("stalled").inc()
            self._transport.abort()
            return
        self._timer = self._loop.call_later(settings.stall_seconds / _LOOKS, self._look)


class Watched(asyncio.Protocol):
    """A protocol, mixed in before asyncio's or uvicorn's own, whose ``watch`` is told when the buffer
    fills; whoever connects sets it.
    """

    watch: StallWatch | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.watch is not None:
            self.watch.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.watch is not None:
            self.watch.full(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.watch is not None:
            self.watch.full(False)


def make_protocols(
    settings: Settings, metrics: Metrics, sample_rate: float
) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """Protocols for HTTP and WebSockets, for uvicorn's configuration. ``sample_rate``: Hz of the
    16-bit samples that WebSockets send.
    """

    class Http(Watched, H11Protocol):
        head: asyncio.TimerHandle | None = None  # runs while the head of a request is incomplete
        upgraded = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                metrics.cut.labels("too many").inc()
                transport.abort()
                return
            self.watch = StallWatch(transport, settings, metrics)
            # One that never asks for anything is no better than one that stays after its answer.
            self.timeout_keep_alive_task = self.loop.call_later(
                settings.idle_seconds, self.timeout_keep_alive_handler
            )

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            answering = self.cycle is not None and not self.cycle.response_complete
            if answering or self.upgraded:
                self.stop_waiting()
            elif self.head is None:
                self.head = self.loop.call_later(settings.idle_seconds, self.transport.abort)

        def stop_waiting(self) -> None:
            if self.head is not None:
                self.head.cancel()
                self.head = None

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_waiting()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: Any) -> None:
            self.upgraded = True
            if self.watch is not None:  # the next protocol has a watch of its own
                self.watch.stop()
            super().handle_websocket_upgrade(event)

    class WebSockets(Watched, WebSocketsSansIOProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.watch = StallWatch(transport, settings, metrics)
            self.playback = Playback()

        async def send(self, message: Any) -> None:
            await super().send(message)
            self.playback.add(len(message.get("bytes") or b"") / 2 / sample_rate)

        def keepalive_timeout(self) -> None:
            """A client that reads as it plays answers a ping when it has played what came before."""
            left = self.playback.left
            if left > 0 and not self.transport.is_closing():
                wait = left + (self.ping_timeout or 0.0)
                self.pong_timer = self.loop.call_later(wait, self.keepalive_timeout)
            else:
                super().keepalive_timeout()

    return Http, cast("type[asyncio.Protocol]", WebSockets)
