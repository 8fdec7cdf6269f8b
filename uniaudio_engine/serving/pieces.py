"""Text and sound that come in pieces, on their way from a connection's reader to its speaker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..request.live_text import FLUSH

T = TypeVar("T")
_BACKLOG = 5.0  # seconds of sound that may wait to be heard


class TextPieces:
    """An asynchronous iterator over the pieces of a text, as :meth:`Engine.astream` takes it.

    Raises :class:`InputError` where nothing comes for ``patience`` seconds.
    """

    def __init__(self, patience: float) -> None:
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._patience = patience
        self._first: str | None = None
        self.characters, self.ended = 0, False

    def put(self, piece: str) -> None:
        self.characters += len(piece)
        self._queue.put_nowait(piece)

    def flush(self) -> None:
        self.characters += 1  # no client may send them without end
        self._queue.put_nowait(FLUSH)

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._queue.put_nowait(None)

    async def wait(self) -> None:
        """Until there is a first piece, or the end."""
        self._first = await _within(self._queue.get(), self._patience)
        if self._first is None:
            self._queue.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        piece, self._first = self._first, None
        if piece is None:
            piece = await _within(self._queue.get(), self._patience)
        if piece is None:
            self._queue.put_nowait(None)
            raise StopAsyncIteration
        return piece


class SoundPieces:
    """16-bit little-endian mono samples at ``rate`` Hz. ``most``: bytes of all of it, or None."""

    def __init__(self, rate: int, most: int | None, patience: float) -> None:
        self.rate, self._most, self._patience = rate, most, patience
        self._bytes = bytearray()
        self._changed, self._taken = asyncio.Event(), asyncio.Event()
        self.ended = False

    def put(self, data: bytes) -> None:
        if len(data) % 2:
            raise InputError(f"sound: expected whole 16-bit samples, got {len(data)} bytes")
        if self._most is not None and len(self._bytes) + len(data) > self._most:
            seconds = self._most / 2 / self.rate
            raise InputError(f"sound: expected at most {seconds:.4g} s of sound, got more")
        self._bytes += data
        self._changed.set()

    def end(self) -> None:
        self.ended = True
        self._changed.set()
        self._taken.set()

    async def room(self) -> None:
        """Until what has come is heard, but for a few seconds of it. Only for sound without end."""
        while self._most is None and not self.ended and self._seconds() > _BACKLOG:
            self._taken.clear()
            await self._taken.wait()

    async def whole(self) -> NDArray[np.float32]:
        """All samples [N], once they are there."""
        while not self.ended:
            self._changed.clear()
            await _within(self._changed.wait(), self._patience)
        return self._take()

    async def blocks(self) -> AsyncIterator[NDArray[np.float32]]:
        """Samples [n] as they come."""
        while self._bytes or not self.ended:
            if self._bytes:
                yield self._take()
            else:
                self._changed.clear()
                await _within(self._changed.wait(), self._patience)

    def _seconds(self) -> float:
        return len(self._bytes) / 2 / self.rate

    def _take(self) -> NDArray[np.float32]:
        samples = np.frombuffer(bytes(self._bytes), "<i2").astype(np.float32)
        self._bytes.clear()
        self._taken.set()
        return samples / np.float32(32768)


async def _within(what: Awaitable[T], seconds: float) -> T:
    try:
        return await asyncio.wait_for(what, seconds)
    except asyncio.TimeoutError:
        raise InputError(f"expected text, sound or end within {seconds:g} s, got none") from None
