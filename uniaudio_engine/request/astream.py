"""The asynchronous form of a stream, for any number of event loops and streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ..audio.sound import AudioChunk
from ..errors import InputError, shown
from .heard import Heard, Interrupted
from .live_text import in_loop
from .plan import Plan
from .scheduler import Run, Scheduler
from .stream import ChunkSizes, audio_run


class AsyncAudioStream:
    """Asynchronous iterator over :class:`AudioChunk`.

    Entering the ``async with`` block, or else the first chunk, makes the plan. ``aclose()``,
    leaving the block, cancelling the task that waits for a chunk or garbage collection stops the
    work; ``cancel()`` does so from any thread, within a frame. ``meta`` is as that of
    :class:`~.stream.AudioStream`; it is empty until the plan is made.

    One task at a time iterates.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        begin: Callable[[], tuple[Plan, ChunkSizes]],
        max_ahead_seconds: float,
    ) -> None:
        """``begin``: makes the plan; called once, in a thread of the event loop's executor."""
        if type(max_ahead_seconds) not in (int, float) or not 0 <= max_ahead_seconds <= 3600:
            raise InputError(
                "max_ahead_seconds: expected a number of seconds from 0 to 3600, got "
                f"{shown(max_ahead_seconds)}"
            )
        self.sample_rate = scheduler.model.sample_rate
        self.meta: dict[str, Any] = {}
        self._scheduler = scheduler
        self._begin = begin
        self._ahead = float(max_ahead_seconds)
        self._heard = Heard()
        self._run: Run[AudioChunk] | None = None
        self._stopped = False

    @property
    def cancelled(self) -> bool:
        return self._stopped if self._run is None else self._run.cancelled

    async def __aenter__(self) -> AsyncAudioStream:
        await self._started()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncAudioStream:
        return self

    async def __anext__(self) -> AudioChunk:
        run = await self._started()
        if run is not None:
            try:
                await self._until_ready(run)
            except asyncio.CancelledError:
                self.cancel()
                raise
            chunk = self._scheduler.take(run)
            if chunk is not None:
                self._heard.add(chunk)
                return chunk
        if self.cancelled:
            self.meta["cancelled"] = True
        raise StopAsyncIteration

    def __del__(self) -> None:
        run = getattr(self, "_run", None)
        if run is not None:
            run.stop()
            self._heard.close()

    def cancel(self) -> None:
        """Stop after the current frame; the iterator then ends. Callable from any thread."""
        self._stopped = True
        run = self._run
        if run is not None:
            self._scheduler.cancel(run)
        self._heard.close()

    def interrupt(self, played: float | None = None) -> Interrupted:
        """:meth:`cancel`, and say what was spoken; as :meth:`.stream.AudioStream.interrupt`."""
        self.cancel()
        return self._heard.until(played)

    async def aclose(self) -> None:
        """Stop, and return once the session is free."""
        self.cancel()
        run = self._run
        if run is not None:
            await self._until_ready(run)

    async def _until_ready(self, run: Run[AudioChunk]) -> None:
        waiting = _Waiting()
        if self._scheduler.poll(run, waiting):
            # Not to wait would let nobody else have a turn: no other task, nor the news that a
            # client has left.
            await asyncio.sleep(0)
        else:
            await waiting.future

    async def _started(self) -> Run[AudioChunk] | None:
        """The run; None where the stream was cancelled before it began."""
        if self._run is None and not self._stopped:
            begin = time.perf_counter()
            loop = asyncio.get_running_loop()
            self._scheduler.check_room()  # before the work of planning
            plan, sizes = await loop.run_in_executor(None, in_loop, loop, self._begin)
            self._heard.plan = plan
            model = self._scheduler.model
            self.meta.update(plan.describe(model))
            planned = time.perf_counter() - begin
            run = audio_run(self._scheduler, plan, sizes, self.meta, planned, self._ahead)
            self._run = run
            if self._stopped:
                self._scheduler.cancel(run)
                self._heard.close()
            else:
                self._scheduler.start(run)
        return self._run


class _Waiting:
    """Completes ``future``, of the running event loop, when it is called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def __call__(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._complete)
        except RuntimeError:
            pass  # the loop is closed, and nobody waits any more

    def _complete(self) -> None:
        if not self.future.done():
            self.future.set_result(None)
