"""An answer that is sound, sent while it is being made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from ..audio.sound import AudioChunk
from .encoding import MEDIA_TYPES, Encoder, audio_event, server_sent_event
from .errors import BrokenOff, as_api_error
from .service import Job, Service, Sound, public_meta
from .utterance import plain_words

# For the OpenAPI description.
SOUND_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {m: {} for m in sorted({*MEDIA_TYPES.values(), "text/event-stream"})}}
}
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx passes the sound on as it comes
}


@dataclass(frozen=True)
class Form:
    """``kind``: a key of ``MEDIA_TYPES``. ``sample_rate`` in Hz, 0: the model's. ``events``: as
    server-sent events; ``usage`` gives the fields of the last one.
    """

    kind: str
    sample_rate: int = 0
    events: bool = False
    usage: Callable[[Sound], dict[str, Any]] | None = None


class SoundResponse(Response):
    """Runs a job and sends its sound.

    The session begins and ends in here, whatever happens: the client leaves, is too slow, or the
    job fails. A failure before the first sound is an error response; later the connection breaks
    off, so that nobody takes the sound for complete.
    """

    def __init__(self, service: Service, job: Job, form: Form) -> None:
        self._service, self._job, self._form = service, job, form
        super().__init__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._job.log = scope.setdefault("uniaudio.log", {})
        self._job.log["task"] = self._job.task.name
        if not await unless_gone(receive, self._run(scope, receive, send)):
            self._service.metrics.cut.labels("gone").inc()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async with self._service.sound(self._job) as sound, aclosing(self._body(sound)) as body:
                first = await anext(body)
                begun = True
                await send(self._start(sound))
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for data in body:
                    if data:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as e:
            if begun:
                self._job.log["broken_off"] = as_api_error(e).message
                raise BrokenOff from None
            await as_api_error(e).response()(scope, receive, send)

    def _start(self, sound: Sound) -> dict[str, Any]:
        form = self._form
        headers = {
            **_HEADERS,
            "Content-Type": "text/event-stream" if form.events else MEDIA_TYPES[form.kind],
            "X-Uniaudio-Sample-Rate": str(form.sample_rate or sound.sample_rate),
        }
        if sound.meta.get("seed") is not None:
            headers["X-Uniaudio-Seed"] = str(sound.meta["seed"])
        raw = [(k.lower().encode(), v.encode("latin-1", "replace")) for k, v in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": raw}

    async def _body(self, sound: Sound) -> AsyncGenerator[bytes, None]:
        """What to send, the first piece with sound in it."""
        form = self._form
        with closing(Encoder(form.kind, sound.sample_rate, form.sample_rate)) as encoder:
            chunks = aiter(sound)
            data, words = b"", []
            while not sound.samples:
                chunk: AudioChunk | None = await anext(chunks, None)
                if chunk is None:
                    break
                data += encoder.push(chunk.samples)
                words += chunk.words
            yield self._packed(data, words)
            async for chunk in chunks:
                yield self._packed(encoder.push(chunk.samples), chunk.words)
            yield self._packed(encoder.finish(), [])
        if form.events:
            last: dict[str, Any] = {"type": "speech.audio.done"}
            last |= form.usage(sound) if form.usage else {"meta": public_meta(sound.meta)}
            yield server_sent_event(last)

    def _packed(self, data: bytes, words: list[dict[str, Any]]) -> bytes:
        if not self._form.events or not (data or words):
            return data
        return server_sent_event(audio_event(data, plain_words(words)))


async def unless_gone(receive: Receive, work: Awaitable[None]) -> bool:
    """Do ``work``, or stop it when the client leaves; whether it was done."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    running = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(gone())
    try:
        await asyncio.wait((running, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        done = running.done()
        running.cancel()
        watching.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)
    if done:
        running.result()
    return done
