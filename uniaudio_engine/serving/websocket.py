"""``/v1/stream``: text in pieces and sound in, sound out. docs/serving.md has the protocol.

A connection has one reader, which waits for nothing but messages (and for sound that comes faster
than it can be heard), so that a cancel or a lost connection is noticed at once; and one speaker,
which does the utterances one after another.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..audio.sound import Samples, to_pcm16
from ..errors import Busy, InputError, shown
from .errors import ApiError, as_api_error
from .guard import Keys, owner_of
from .logs import LOGGER
from .service import Job, Service, public_meta
from .utterance import Utterance, is_number, plain_words

VERSION = 1
MAX_UTTERANCES = 8  # that wait on one connection
_MAX_MISTAKES = 20  # messages that cannot be read, before the connection is closed


class Close(Exception):
    """Ends the connection with a code of RFC 6455."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Connection:
    """One client."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket = service, socket
        self._owner = owner_of(socket)
        self._utterances: deque[Utterance] = deque()  # the first one is spoken
        self._spoken: deque[Utterance] = deque(maxlen=MAX_UTTERANCES)
        self._more = asyncio.Event()
        self._sending = asyncio.Lock()
        self._mistakes = 0

    async def run(self) -> None:
        service = self._service
        await self._socket.accept()
        service.metrics.websockets.inc()
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._authenticate()
            engine = service.engine
            await self._send(
                type="ready",
                version=VERSION,
                model=engine.config.name,
                sample_rate=engine.sample_rate,
                tasks=list(engine.model.tasks),
            )
            tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._speak_all())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except Close as e:
            await self._close(e)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            service.metrics.websockets.dec()
        for end in ends:
            if isinstance(end, Close):
                await self._close(end)
            elif isinstance(end, Exception) and not isinstance(end, (WebSocketDisconnect, OSError)):
                LOGGER.error("failed", exc_info=end)
                await self._close(Close(1011, "internal error"))

    async def _close(self, close: Close) -> None:
        try:
            await self._socket.close(close.code, close.reason[:100])
        except (RuntimeError, OSError, WebSocketDisconnect):
            pass  # the client was faster

    async def _authenticate(self) -> None:
        """Browsers cannot set headers here, so the key may come as the first message."""
        keys: Keys | None = self._socket.scope.get("uniaudio.keys")
        if not keys or self._owner:
            return
        try:
            message = await asyncio.wait_for(self._message(), self._service.settings.idle_seconds)
        except asyncio.TimeoutError:
            raise Close(1008, "no API key") from None
        except WebSocketDisconnect:
            raise Close(1000, "") from None
        given = message.get("api_key") if isinstance(message, dict) else None
        owner = keys.owner(given) if isinstance(given, str) else None
        if owner is None:
            raise Close(1008, "expected a valid API key")
        self._owner = owner

    # Out

    async def _send(self, samples: bytes | None = None, /, **message: Any) -> None:
        """A message, and the samples that it is about."""
        async with self._sending:
            try:
                await self._socket.send_text(json.dumps(message))
                if samples is not None:
                    await self._socket.send_bytes(samples)
            except RuntimeError:  # the other task has seen before that the client is gone
                raise WebSocketDisconnect(1006) from None

    async def _send_sound(
        self, utterance: Utterance, samples: Samples, words: list[dict[str, Any]]
    ) -> None:
        """A line about the samples, then the samples."""
        await self._window(utterance)
        if not len(samples) or utterance.cancelled:
            return
        start = utterance.samples
        utterance.samples += len(samples)
        await self._send(
            to_pcm16(samples),
            type="audio",
            id=utterance.id,
            start=start,
            samples=len(samples),
            words=plain_words(words),
        )

    async def _window(self, utterance: Utterance) -> None:
        """Wait until the client has played enough of what was sent."""
        patience = (utterance.window or 0.0) + self._service.settings.stall_seconds
        while not utterance.may_send():
            try:
                await asyncio.wait_for(utterance.wait(), patience)
            except asyncio.TimeoutError:
                self._service.metrics.cut.labels("no ack").inc()
                raise Close(1008, f"expected ack within {patience:g} s, got none") from None

    async def _error(self, e: BaseException, utterance: Utterance | None = None) -> None:
        error = as_api_error(e)
        message = {"type": "error", "code": error.code, "message": error.message}
        if utterance is not None:
            message["id"] = utterance.id
        if error.retry_after is not None:
            message["retry_after"] = round(error.retry_after, 1)  # type: ignore[assignment]
        await self._send(**message)

    # In

    async def _message(self) -> Any:
        """The next message: bytes, or what its JSON holds. Raises :class:`WebSocketDisconnect`."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("bytes")
        if data is not None:
            return data
        try:
            return json.loads(message["text"])
        except (ValueError, RecursionError):
            return None

    async def _read(self) -> None:
        while True:
            message = await self._message()
            try:
                await self._take(message)
            except (ApiError, InputError) as e:
                self._mistakes += 1
                if self._mistakes > _MAX_MISTAKES:
                    raise Close(1008, "too many messages that cannot be used") from None
                await self._error(e)

    async def _take(self, message: Any) -> None:
        if isinstance(message, bytes):
            utterance = self._latest()
            utterance.add_sound(message)
            assert utterance.sound is not None
            await utterance.sound.room()
            return
        kind = message.get("type") if isinstance(message, dict) else None
        handler = _HANDLERS.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise InputError(
                f"type: expected one of {', '.join(_HANDLERS)}, got "
                f"{shown(kind if isinstance(message, dict) else message)}"
            )
        await handler(self, message)

    def _latest(self) -> Utterance:
        """The utterance that text and sound belong to."""
        if not self._utterances or self._utterances[-1].complete:
            raise InputError("expected start first, got a part of an utterance")
        return self._utterances[-1]

    async def _start(self, message: dict[str, Any]) -> None:
        if len(self._utterances) > MAX_UTTERANCES:
            raise ApiError(
                429, f"expected at most {MAX_UTTERANCES} waiting utterances", retry_after=1
            )
        utterance = Utterance.of(message, self._service)
        if self._utterances:
            self._utterances[-1].end()
        self._utterances.append(utterance)
        self._more.set()

    async def _text(self, message: dict[str, Any]) -> None:
        self._latest().add_text(message.get("text"))

    async def _flush(self, message: dict[str, Any]) -> None:
        self._latest().flush()

    async def _end(self, message: dict[str, Any]) -> None:
        self._latest().end()

    async def _cancel(self, message: dict[str, Any]) -> None:
        """Without an id: everything."""
        for utterance in self._utterances:
            if message.get("id") in (None, utterance.id):
                utterance.cancel()

    async def _interrupt(self, message: dict[str, Any]) -> None:
        """The listener spoke: everything stops, and what was heard is reported.

        The utterance that is being played may have been sent long ago.
        """
        played, identity = message.get("played"), message.get("id")
        if played is not None and not (is_number(played) and 0 <= played < math.inf):
            raise InputError(f"played: expected seconds from 0 up, got {shown(played)}")
        for utterance in self._utterances:
            utterance.cancel()
        known = [*self._utterances, *reversed(self._spoken)]
        heard = next((u for u in known if identity in (None, u.id)), None)
        if heard is None:
            raise InputError(f"id: expected one of the last utterances, got {shown(identity)}")
        await self._send(type="interrupted", id=heard.id, **heard.heard(played))

    async def _ack(self, message: dict[str, Any]) -> None:
        if self._utterances:
            self._utterances[0].acknowledge(message.get("played"))

    # Speaking

    async def _speak_all(self) -> None:
        while True:
            while not self._utterances:
                self._more.clear()
                await self._more.wait()
            utterance = self._utterances[0]
            try:
                await self._speak(utterance)
            except (ApiError, InputError, Busy) as e:
                await self._error(e, utterance)
                if as_api_error(e).status in (429, 503):
                    raise Close(1013, "busy; try again later") from None
            finally:
                utterance.cancel()
                self._spoken.append(self._utterances.popleft())

    async def _speak(self, utterance: Utterance) -> None:
        await self._send(
            type="started",
            id=utterance.id,
            task=utterance.task.name,
            sample_rate=utterance.sample_rate,
        )
        meta: dict[str, Any] = {}
        if not utterance.cancelled:
            speak = self._speak_live if utterance.live else self._speak_stream
            meta = await speak(utterance)
        words = plain_words(meta.pop("words", []))
        await self._send(
            type="done",
            id=utterance.id,
            cancelled=utterance.cancelled,
            seconds=round(utterance.seconds, 4),
            words=words,
            meta=meta,
        )

    async def _speak_stream(self, utterance: Utterance) -> dict[str, Any]:
        inputs = await utterance.inputs()
        if utterance.cancelled:
            return {}
        async with self._service.sound(Job(utterance.task, inputs, self._owner)) as sound:
            utterance.running(sound)
            async for chunk in sound:
                await self._send_sound(utterance, chunk.samples, chunk.words)
                if utterance.cancelled:
                    break
            return public_meta(sound.meta)

    async def _speak_live(self, utterance: Utterance) -> dict[str, Any]:
        """A sound that is answered while it comes."""
        service, pieces = self._service, utterance.sound
        assert pieces is not None
        job = Job(utterance.task, utterance.given, self._owner)
        async with service.live(job, pieces.rate) as live:
            utterance.running(live)
            await self._send(type="listening", id=utterance.id, latency=live.latency_seconds)
            try:
                async for block in pieces.blocks():
                    samples = await service.in_thread(live.push, block)
                    await self._send_sound(utterance, samples, [])
                await self._send_sound(utterance, await service.in_thread(live.flush), [])
            except InputError:
                if not utterance.cancelled:  # a cancelled stream takes no more
                    raise
            return public_meta(live.meta)


_HANDLERS: dict[str, Callable[[Connection, dict[str, Any]], Awaitable[None]]] = {
    "start": Connection._start,
    "text": Connection._text,
    "flush": Connection._flush,
    "end": Connection._end,
    "cancel": Connection._cancel,
    "interrupt": Connection._interrupt,
    "ack": Connection._ack,
}
