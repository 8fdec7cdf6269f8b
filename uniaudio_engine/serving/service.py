"""What the routes share: an engine, its limits, its voices and its counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.websockets import WebSocketDisconnect

from ..audio.sound import AudioChunk
from ..engine import Engine
from ..errors import InputError
from ..request.astream import AsyncAudioStream
from ..request.heard import Interrupted
from ..request.live import Live
from ..request.tasks import Task
from .admission import Admission
from .errors import ApiError, as_api_error
from .inputs import InputReader
from .logs import LOGGER
from .metrics import Metrics
from .settings import Settings
from .voices import Voices

T = TypeVar("T")
# How a session learns that its client has left.
_GONE = (asyncio.CancelledError, GeneratorExit, WebSocketDisconnect, ConnectionError)


@dataclass
class Job:
    """A task to be done for a client. ``given``: its inputs and options as they came.

    ``log``: what the request's line in the log says about it.
    """

    task: Task
    given: Mapping[str, Any]
    owner: str
    log: dict[str, Any] = field(default_factory=dict)


class Service:
    """One server. Use it from one event loop."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.voices = Voices(engine, settings.voices, settings.max_voices, settings.voice_aliases)
        self.reader = InputReader(engine, settings, self.voices)
        self.admission = Admission(settings.max_sessions, settings.max_queue)
        self.metrics = Metrics(self.admission)
        # For decoding sounds and making voices; streams have threads of their own.
        self._threads = ThreadPoolExecutor(settings.max_sessions, "uniaudio-read")

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that takes long."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def task(self, name: str) -> Task:
        """A task of the model. Raises :class:`ApiError` for one that it does not do."""
        try:
            return self.engine.task(name)
        except InputError as e:
            raise ApiError(404, str(e), code="task_not_found") from None

    @asynccontextmanager
    async def sound(self, job: Job) -> AsyncIterator[Sound]:
        """A running session; it ends with the block.

        Raises :class:`ApiError` when the server is full, :class:`InputError` for bad inputs.
        """
        async with self._session(job):
            begin = time.monotonic()
            values = await self.in_thread(self.reader.read, job.task, job.given, job.owner)
            async with self.engine.astream(job.task.name, **values) as stream:
                yield Sound(self, stream, job, begin)

    @asynccontextmanager
    async def live(self, job: Job, sample_rate: int) -> AsyncIterator[Live]:
        """A session on a sound that is still being made; it ends with the block.

        Push in a thread. Raises as :meth:`sound` does.
        """

        def begin() -> Live:
            values = self.reader.read(job.task, job.given, job.owner, complete=False)
            return self.engine.open(job.task.name, sample_rate=sample_rate, **values)

        async with self._session(job):
            live = await self.in_thread(begin)
            try:
                yield live
            finally:
                live.close()
                self.metrics.audio_seconds.inc(live.meta.get("seconds", 0.0))

    @asynccontextmanager
    async def _session(self, job: Job) -> AsyncIterator[None]:
        """A slot, and how the session ended."""
        end = "failed"
        try:
            async with self.admission.slot():
                yield
                end = "done"
        except _GONE:
            end = "cancelled"
            raise
        except Exception as e:
            if as_api_error(e).status == 500:
                LOGGER.error("failed", exc_info=e, extra={"fields": {"task": job.task.name}})
            raise
        finally:
            self.metrics.sessions.labels(job.task.name, end).inc()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


class Sound:
    """The chunks of a session, counted."""

    def __init__(self, service: Service, stream: AsyncAudioStream, job: Job, begin: float) -> None:
        self._service, self._stream, self._job, self._begin = service, stream, job, begin
        self.samples = 0

    @property
    def sample_rate(self) -> int:
        return self._stream.sample_rate

    @property
    def meta(self) -> dict[str, Any]:
        """What is known of the result; complete after the last chunk."""
        return self._stream.meta

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    def cancel(self) -> None:
        self._stream.cancel()

    def interrupt(self, played: float | None) -> Interrupted:
        """Cancel, and say what was heard after ``played`` seconds; also after the end."""
        return self._stream.interrupt(played)

    def __aiter__(self) -> AsyncIterator[AudioChunk]:
        return self

    async def __anext__(self) -> AudioChunk:
        chunk = await self._stream.__anext__()
        if chunk.samples.ndim > 1:  # clients are sent one channel
            chunk = replace(chunk, samples=chunk.samples.mean(axis=0, dtype=np.float32))
        metrics, most = self._service.metrics, self._service.settings.max_output_seconds
        if not self.samples and len(chunk.samples):
            waited = time.monotonic() - self._begin
            metrics.first_audio.observe(waited)
            self._job.log["first_audio_ms"] = round(1000 * waited, 1)
        self.samples += len(chunk.samples)
        metrics.audio_seconds.inc(len(chunk.samples) / self.sample_rate)
        self._job.log["audio_seconds"] = round(self.seconds, 3)
        if self.seconds > most:
            raise ApiError(400, f"the sound is longer than this server's {most:g} s")
        return chunk


_PUBLIC_META = ("task", "model", "seed", "voice", "notes", "frames", "seconds", "words", "span")
_PUBLIC_TIMES = ("first_chunk_ms", "compute_seconds", "realtime_factor", "sentences", "cancelled")


def public_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a client is told of a result: nothing about the machine."""
    return {k: meta[k] for k in (*_PUBLIC_META, *_PUBLIC_TIMES) if k in meta}
