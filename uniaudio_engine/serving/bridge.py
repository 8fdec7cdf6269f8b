"""``engine.stream`` for an event loop: planning and generating happen in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..audio.sound import AudioChunk
from ..engine import Engine
from ..request.stream import AudioStream

T = TypeVar("T")


class Bridge:
    """Runs an engine's streams on ``threads`` threads."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine = engine
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="uniaudio")

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that takes long, in a thread."""
        return await asyncio.wrap_future(self._threads.submit(function, *args, **kwargs))

    async def open(self, task: str, inputs: Mapping[str, Any]) -> ThreadStream:
        """Start a task. Raises :class:`InputError` for bad inputs."""
        stream = ThreadStream(self._threads)
        await stream.begin(self.engine, task, inputs)
        return stream

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


class ThreadStream:
    """An async iterator over a stream's chunks. ``meta`` is complete once it ends."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._stream: AudioStream | None = None
        self._pending: Future[Any] | None = None
        self._closed = threading.Event()

    async def begin(self, engine: Engine, task: str, inputs: Mapping[str, Any]) -> None:
        def plan() -> AudioStream:
            stream = engine.stream(task, **inputs)
            self._stream = stream
            if self._closed.is_set():
                stream.cancel()
            return stream

        await self._call(plan)

    @property
    def sample_rate(self) -> int:
        assert self._stream is not None
        return self._stream.sample_rate

    @property
    def meta(self) -> dict[str, Any]:
        assert self._stream is not None
        return self._stream.meta

    def __aiter__(self) -> AsyncIterator[AudioChunk]:
        return self

    async def __anext__(self) -> AudioChunk:
        assert self._stream is not None
        chunk: AudioChunk | None = await self._call(lambda: next(self._stream, None))  # type: ignore[arg-type]
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def cancel(self) -> None:
        """Stop after the current frame."""
        self._closed.set()
        if self._stream is not None:
            self._stream.cancel()

    async def aclose(self) -> None:
        """Stop and free the sessions."""
        self.cancel()
        if self._pending is not None:  # its thread still holds the stream
            await asyncio.wait([asyncio.wrap_future(self._pending)])
        if self._stream is not None:
            await asyncio.wrap_future(self._threads.submit(self._stream.close))

    async def _call(self, function: Callable[[], T]) -> T:
        self._pending = future = self._threads.submit(function)
        # Shielded: a thread cannot be interrupted, and aclose() waits for it.
        return await asyncio.shield(asyncio.wrap_future(future))
