"""A server in a thread, and what the tests ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np

from uniaudio_engine import Audio, Engine
from uniaudio_engine.serving.app import create_app
from uniaudio_engine.serving.server import Server
from uniaudio_engine.serving.settings import Settings

PATIENCE = 60.0  # seconds for what must happen at last
LONG_TEXT = "One more sentence, which is spoken after all the others. " * 150


def tone(seconds: float = 1.0, hertz: float = 220.0, rate: int = 16000) -> Audio:
    """A tone that swells, so that no two of its frames are the same."""
    t = np.arange(round(seconds * rate)) / rate
    x = 0.3 * np.sin(2 * np.pi * hertz * t) * (1 + 0.3 * np.sin(2 * np.pi * 1.7 * t))
    return Audio(x.astype(np.float32), rate)


class Running:
    """A server in a thread of its own."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.app = create_app(engine, settings)
        self.service = self.app.state.service
        self.server = Server(self.app)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))
        self._thread.start()
        until(lambda: self.server.started or not self._thread.is_alive())
        assert self.server.started
        self.port = self.server.port
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, **more)

    def socket(self, receive_buffer: int = 0) -> socket.socket:
        s = socket.socket()
        if receive_buffer:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        s.settimeout(PATIENCE)
        s.connect(("127.0.0.1", self.port))
        return s

    def metric(self, name: str) -> float:
        """A gauge or counter, summed over its labels."""
        text = self.service.metrics.text().decode()
        found = re.findall(rf"^uniaudio_{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def idle(self) -> bool:
        return self.metric("sessions_active") == self.metric("sessions_waiting") == 0

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def running(engine: Engine, **settings: Any) -> Iterator[Running]:
    """A server on a free port; all its sessions must be over once the clients are gone."""
    server = Running(engine, Settings(port=0, **{"drain_seconds": 5.0, **settings}))
    try:
        yield server
        until(server.idle)
    finally:
        server.stop()


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait for something that happens in another thread."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def speech_request(text: str, close: bool = True, **more: Any) -> bytes:
    """A whole HTTP request as bytes, for clients that misbehave."""
    fields = {"model": "tiny", "input": text, "voice": "one", "response_format": "wav", **more}
    body = json.dumps(fields).encode()
    head = (
        "POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
