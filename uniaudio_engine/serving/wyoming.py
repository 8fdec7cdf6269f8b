"""Wyoming: speech for Home Assistant, over the protocol's own TCP connections.

Events are a line of JSON each, with data and sound behind it. The protocol has no keys: a server on
an address that others can reach answers private networks only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import Attribution, Info, TtsProgram, TtsVoice
from wyoming.ping import Ping, Pong
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStopped,
    SynthesizeTextFormat,
)

from .. import __version__
from ..audio.sound import to_pcm16
from ..errors import InputError, shown
from .connections import StallWatch, Watched
from .errors import ApiError, as_api_error
from .logs import log
from .pieces import TextPieces
from .service import Job, Service
from .settings import is_loopback

MAX_WAITING = 8  # texts of one connection that wait for the one being spoken
_MAX_LINE = 64 << 10  # bytes of an event's first line
_MAX_PART = 1 << 20  # bytes of what follows it; sound is not taken
_OWNER = ""  # voices uploaded without an API key; the protocol has none
_ATTRIBUTION = Attribution("uniaudio-engine", "")


@dataclass
class _Utterance:
    """A text to speak, whole or in pieces that come."""

    text: str | TextPieces
    inputs: dict[str, Any]


class Wyoming:
    """``address``: ``HOST:PORT``, or a port on this machine.

    Raises :class:`InputError` for anything else, and for a model that does not speak.
    """

    def __init__(self, service: Service, address: str) -> None:
        self._service = service
        self.host, self.port = parse_address(address)
        self._connections: set[asyncio.Task[None]] = set()
        if "tts" not in service.engine.model.tasks:
            raise InputError(
                f"wyoming: model {service.engine.config.name} does not speak; leave it out"
            )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve while in the block; ``port`` is then the one that it listens on."""
        try:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(self._protocol, self.host, self.port)
        except OSError as e:
            raise InputError(
                f"wyoming: cannot listen on {self.host}:{self.port}: {e.strerror}"
            ) from None
        self.port = server.sockets[0].getsockname()[1]
        log("wyoming", host=self.host, port=self.port)
        if not is_loopback(self.host):
            log("wyoming has no keys: private networks may use it", logging.WARNING)
        try:
            yield
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _protocol(self) -> asyncio.Protocol:
        reader = asyncio.StreamReader(limit=_MAX_LINE)
        return _Watched(reader, self._serve, self._service)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, settings = writer.get_extra_info("peername"), self._service.settings
        too_many = len(self._connections) >= settings.max_connections
        if too_many or not peer or not is_private(peer[0]):
            self._service.metrics.cut.labels("too many" if too_many else "not private").inc()
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Connection(self._service, reader, writer).run()
        finally:
            self._connections.discard(task)
            writer.close()


class _Watched(Watched, asyncio.StreamReaderProtocol):
    """asyncio's streams, with a limit to what a client may keep waiting."""

    def __init__(self, reader: asyncio.StreamReader, serve: Any, service: Service) -> None:
        super().__init__(reader, serve)
        self._service = service

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.watch = StallWatch(transport, self._service.settings, self._service.metrics)


class _Connection:
    """One client: a reader, which notices at once when it leaves, and a speaker."""

    def __init__(
        self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._service, self._reader, self._writer = service, reader, writer
        self._waiting: deque[_Utterance] = deque()  # the first one is spoken
        self._more = asyncio.Event()
        self._sending = asyncio.Lock()
        self._open: TextPieces | None = None  # takes the text that comes in pieces

    async def run(self) -> None:
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._speak_all())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, OSError):
                error = as_api_error(end)
                if error.status >= 500:
                    log("wyoming failed", logging.ERROR, error=type(end).__name__)
                await self._refuse(error)

    # In

    async def _read(self) -> None:
        while (event := await self._next()) is not None:
            handler = _HANDLERS.get(event.type)
            if handler is not None:  # others are for other kinds of servers
                try:
                    await handler(self, event)
                except (KeyError, TypeError, AttributeError):
                    raise InputError(
                        f"{event.type}: expected its fields, got {shown(event.data)}"
                    ) from None

    async def _next(self) -> Event | None:
        """The next event; None where the client has left, or says nothing for long."""
        patience = self._service.settings.idle_seconds
        reading = asyncio.ensure_future(read_event(self._reader))
        try:
            while not (await asyncio.wait({reading}, timeout=patience))[0]:
                if self._open is not None or not self._waiting:
                    return None
            return reading.result()
        finally:
            reading.cancel()

    async def _describe(self, event: Event) -> None:
        await self._send(describe(self._service))

    async def _ping(self, event: Event) -> None:
        await self._send(Pong(text=Ping.from_event(event).text))

    async def _synthesize(self, event: Event) -> None:
        if self._open is not None:
            return  # clients repeat a text that they have sent in pieces as a whole
        request = Synthesize.from_event(event)
        self._check_text(request.text)
        self._queue(_Utterance(request.text, _inputs(request)))

    async def _start(self, event: Event) -> None:
        if self._open is not None:
            self._open.end()
        pieces = TextPieces(self._service.settings.idle_seconds)
        self._queue(_Utterance(pieces, _inputs(SynthesizeStart.from_event(event))))
        self._open = pieces

    async def _chunk(self, event: Event) -> None:
        if self._open is None:
            raise InputError("synthesize-chunk: expected synthesize-start before it, got none")
        piece = SynthesizeChunk.from_event(event).text
        self._check_text(piece, self._open.characters)
        self._open.put(piece)

    async def _stop(self, event: Event) -> None:
        if self._open is not None:
            self._open.end()
            self._open = None

    def _queue(self, utterance: _Utterance) -> None:
        if len(self._waiting) > MAX_WAITING:
            raise ApiError(429, f"expected at most {MAX_WAITING} waiting texts, got one more")
        self._waiting.append(utterance)
        self._more.set()

    def _check_text(self, text: Any, before: int = 0) -> None:
        """``before``: characters that it goes on from."""
        if not isinstance(text, str):
            raise InputError(f"text: expected a string, got {shown(text)}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("text: expected Unicode, got half of a surrogate pair") from None
        most = self._service.settings.max_text
        if before + len(text) > most:
            raise InputError(f"text: expected at most {most} characters, got more")

    # Out

    async def _speak_all(self) -> None:
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            await self._speak(self._waiting[0])
            self._waiting.popleft()

    async def _speak(self, utterance: _Utterance) -> None:
        service, task = self._service, self._service.task("tts")
        form = {"rate": service.engine.sample_rate, "width": 2, "channels": 1}
        if isinstance(utterance.text, TextPieces):
            await utterance.text.wait()
        job = Job(task, {**utterance.inputs, "text": utterance.text}, _OWNER)
        made = 0
        async with service.sound(job) as sound:
            async for chunk in sound:
                if len(chunk.samples):
                    if not made:
                        await self._send(AudioStart(**form))
                    at = round(1000 * made / form["rate"])
                    await self._send(
                        AudioChunk(**form, audio=to_pcm16(chunk.samples), timestamp=at)
                    )
                    made += len(chunk.samples)
        await self._send(AudioStop(timestamp=round(1000 * made / form["rate"])))
        if isinstance(utterance.text, TextPieces):
            await self._send(SynthesizeStopped())

    async def _refuse(self, error: ApiError) -> None:
        """Say why, and leave: clients wait for sound, not for errors."""
        try:
            await self._send(Error(text=error.message, code=error.code))
        except OSError:
            pass  # the client was faster

    async def _send(self, event: Eventable) -> None:
        async with self._sending:
            await async_write_event(event.event(), self._writer)


_HANDLERS: dict[str, Callable[[_Connection, Event], Any]] = {
    "describe": _Connection._describe,
    "ping": _Connection._ping,
    "synthesize": _Connection._synthesize,
    "synthesize-start": _Connection._start,
    "synthesize-chunk": _Connection._chunk,
    "synthesize-stop": _Connection._stop,
}


def _inputs(request: Synthesize | SynthesizeStart) -> dict[str, Any]:
    """What an event asks for beside its text. Without a voice, the model chooses."""
    inputs: dict[str, Any] = {}
    if request.voice is not None and request.voice.name:
        inputs["prompt"] = request.voice.name
    if request.text_format == SynthesizeTextFormat.SSML:
        inputs["markup"] = "ssml"
    return inputs


def parse_address(address: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``PORT`` -> host and port. Raises :class:`InputError` for anything else."""
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"wyoming: expected HOST:PORT or PORT, got {shown(address)}")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_private(address: str) -> bool:
    """Whether an IP address belongs to this machine or to a private network."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_private or ip.is_loopback or ip.is_link_local


def describe(service: Service) -> Info:
    """The model as Wyoming's program, its voices first."""
    engine = service.engine

    def about(name: str, description: str) -> dict[str, Any]:
        return {
            "name": name,
            "description": description,
            "attribution": _ATTRIBUTION,
            "installed": True,
            "version": __version__,
        }

    slot = engine.config.text_slot  # a model without one reads English
    languages = ["en"] if slot is None else list(slot.languages)
    voices = [
        TtsVoice(**about(name, "uploaded" if uploaded else name), languages=languages)
        for name, uploaded in service.voices.names(_OWNER)
    ]
    program = TtsProgram(
        **about("uniaudio", f"uniaudio, model {engine.config.name}"),
        voices=voices,
        supports_synthesize_streaming=True,
    )
    return Info(tts=[program])


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """The next event of a client; None where it has left.

    As the package's own reader, with limits. Raises :class:`InputError` for what is no event.
    """
    try:
        line = await reader.readline()
        if not line:
            return None
        head = json.loads(line)
        data = dict(head.get("data") or {})
        lengths = [head.get(name) or 0 for name in ("data_length", "payload_length")]
        if not all(type(n) is int and 0 <= n <= _MAX_PART for n in lengths):
            raise InputError(f"event: expected at most {_MAX_PART} bytes, got {shown(lengths)}")
        if lengths[0]:
            data.update(json.loads(await reader.readexactly(lengths[0])))
        await reader.readexactly(lengths[1])
        if not isinstance(head["type"], str):
            raise TypeError
        return Event(head["type"], data)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError("expected an event of the Wyoming protocol, got something else") from None
