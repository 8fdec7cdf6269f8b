"""``/v1/stream``: text in pieces and sound in, sound out. docs/serving.md has the protocol.

A connection has one reader, which never waits for anything but messages, so that a cancel or a lost
connection is noticed at once; and one speaker, which does the utterances one after another.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..audio.sound import AudioChunk, to_pcm16
from ..errors import InputError, shown
from .errors import ApiError, as_api_error
from .guard import Keys, owner_of
from .logs import LOGGER
from .service import Job, Service, Sound, public_meta
from .utterance import Utterance

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

    async def _send(self, **message: Any) -> None:
        async with self._sending:
            await self._socket.send_text(json.dumps(message))

    async def _send_chunk(self, utterance: Utterance, sound: Sound, chunk: AudioChunk) -> None:
        """A line about the samples, then the samples."""
        about = {
            "type": "audio",
            "id": utterance.id,
            "start": utterance.samples,
            "samples": len(chunk.samples),
        }
        words = getattr(chunk, "words", None)
        if words:
            about["words"] = list(words)
        async with self._sending:
            await self._socket.send_text(json.dumps(about))
            await self._socket.send_bytes(to_pcm16(chunk.samples))
        utterance.sent(chunk, sound.sample_rate)

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
                self._take(message)
            except (ApiError, InputError) as e:
                self._mistakes += 1
                if self._mistakes > _MAX_MISTAKES:
                    raise Close(1008, "too many messages that cannot be used") from None
                await self._error(e)

    def _take(self, message: Any) -> None:
        if isinstance(message, bytes):
            self._latest().add_sound(message)
            return
        kind = message.get("type") if isinstance(message, dict) else None
        handler = _HANDLERS.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise InputError(
                f"type: expected one of {', '.join(_HANDLERS)}, got "
                f"{shown(kind if isinstance(message, dict) else message)}"
            )
        handler(self, message)

    def _latest(self) -> Utterance:
        """The utterance that text and sound belong to."""
        if not self._utterances or self._utterances[-1].complete:
            raise InputError("expected start first, got a part of an utterance")
        return self._utterances[-1]

    def _start(self, message: dict[str, Any]) -> None:
        if len(self._utterances) > MAX_UTTERANCES:
            raise ApiError(
                429, f"expected at most {MAX_UTTERANCES} waiting utterances", retry_after=1
            )
        if self._utterances and not self._utterances[-1].complete:
            self._utterances[-1].end()
        self._utterances.append(Utterance.of(message, self._service))
        self._more.set()

    def _text(self, message: dict[str, Any]) -> None:
        self._latest().add_text(message.get("text"))

    def _flush(self, message: dict[str, Any]) -> None:
        self._latest().flush()

    def _end(self, message: dict[str, Any]) -> None:
        self._latest().end()

    def _cancel(self, message: dict[str, Any]) -> None:
        """Without an id: everything."""
        for utterance in self._utterances:
            if message.get("id") in (None, utterance.id):
                utterance.cancel()

    def _interrupt(self, message: dict[str, Any]) -> None:
        """The listener spoke: everything stops, and what was heard is reported."""
        played = message.get("played")
        if played is not None and (
            isinstance(played, bool) or not isinstance(played, (int, float)) or not played >= 0
        ):
            raise InputError(f"played: expected seconds, got {shown(played)}")
        for utterance in self._utterances:
            utterance.interrupt(played)

    def _ack(self, message: dict[str, Any]) -> None:
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
            except (ApiError, InputError) as e:
                await self._error(e, utterance)
                if as_api_error(e).status in (429, 503):
                    raise Close(1013, "busy; try again later") from None
            finally:
                utterance.cancel()
                self._utterances.popleft()

    async def _speak(self, utterance: Utterance) -> None:
        meta: dict[str, Any] = {}
        await self._send(type="started", id=utterance.id, task=utterance.task.name)
        async for given in utterance.requests():
            job = Job(utterance.task, given, self._owner)
            async with self._service.sound(job) as sound:
                utterance.running(sound)
                async for chunk in sound:
                    if utterance.cancelled:
                        break
                    await self._window(utterance)
                    if len(chunk.samples) and not utterance.cancelled:
                        await self._send_chunk(utterance, sound, chunk)
                meta = utterance.finished(sound)
            if utterance.cancelled:
                break
        if utterance.interrupted:
            await self._send(type="interrupted", id=utterance.id, **utterance.heard())
        await self._send(
            type="done",
            id=utterance.id,
            cancelled=utterance.cancelled,
            seconds=round(utterance.seconds, 4),
            words=utterance.words,
            meta=public_meta(meta),
        )

    async def _window(self, utterance: Utterance) -> None:
        """Wait until the client has played enough of what was sent."""
        if utterance.window is None:
            return
        patience = utterance.window + self._service.settings.stall_seconds
        while not utterance.may_send():
            try:
                await asyncio.wait_for(utterance.wait(), patience)
            except asyncio.TimeoutError:
                self._service.metrics.cut.labels("no ack").inc()
                raise Close(1008, f"expected ack within {patience:g} s, got none") from None


_HANDLERS: dict[str, Callable[[Connection, dict[str, Any]], None]] = {
    "start": Connection._start,
    "text": Connection._text,
    "flush": Connection._flush,
    "end": Connection._end,
    "cancel": Connection._cancel,
    "interrupt": Connection._interrupt,
    "ack": Connection._ack,
}
