"""How many requests run at once, how many wait, and what the others are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import ApiError

_FIRST_GUESS = 2.0  # seconds that a session takes, before any has ended


class Admission:
    """Slots for sessions, first come first served; everything runs in one event loop.

    ``active`` and ``waiting`` count sessions. ``draining``: no more are let in.
    """

    def __init__(self, max_sessions: int, max_queue: int) -> None:
        self.max_sessions, self.max_queue = max_sessions, max_queue
        self.active = self.waiting = 0
        self.draining = False
        self._slots = asyncio.Semaphore(max_sessions)
        self._mean = _FIRST_GUESS  # seconds of the last sessions

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot, waiting for it in the queue. Raises :class:`ApiError` when it is full."""
        self._refuse_while_draining()
        if self._slots.locked() and self.waiting >= self.max_queue:
            raise ApiError(
                429,
                f"all {self.max_sessions} sessions are in use and {self.waiting} requests wait; "
                "try again later",
                retry_after=self._mean * (1 + self.waiting / self.max_sessions),
            )
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        begin = time.monotonic()
        self.active += 1
        try:
            self._refuse_while_draining()
            yield
        finally:
            self.active -= 1
            self._slots.release()
            self._mean += 0.2 * (time.monotonic() - begin - self._mean)

    async def drain(self, seconds: float) -> bool:
        """Let nobody in any more; whether all sessions have ended within ``seconds``."""
        self.draining = True
        deadline = time.monotonic() + seconds
        while self.active and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not self.active

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise ApiError(503, "the server is shutting down", retry_after=5)
