"""Speak as a voice agent does, over the WebSocket of ``uniaudio serve``: a language model's words go
in as they come, frames of sound come out, and an interruption returns what the listener has heard.

``Speech`` is what a text-to-speech service of Pipecat or LiveKit wraps. It needs a server and
``pip install websockets``.

    uniaudio serve &
    python voice_agent.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from websockets.asyncio.client import ClientConnection, connect


class Speech:
    """One connection for a conversation; ``sample_rate`` in Hz."""

    def __init__(self, socket: ClientConnection, sample_rate: int) -> None:
        self.socket, self.sample_rate = socket, sample_rate
        self._count, self._begin = 0, 0.0  # utterances; when the first sound of the last one came

    @classmethod
    async def open(cls, url: str, api_key: str = "") -> Speech:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        socket = await connect(url, additional_headers=headers)
        return cls(socket, json.loads(await socket.recv())["sample_rate"])

    async def run_tts(self, words: AsyncIterator[str], voice: str) -> AsyncGenerator[bytes, None]:
        """Speak words as they come: 16-bit little-endian mono samples, frame by frame."""
        self._count, self._begin = self._count + 1, 0.0
        feeding = asyncio.create_task(self._feed(words, str(self._count), voice))
        try:
            async for event, samples in self._events():
                if event.get("id") != str(self._count):
                    continue  # the end of one that was interrupted
                if event["type"] == "error":
                    raise RuntimeError(event["message"])
                if event["type"] == "audio":
                    self._begin = self._begin or time.monotonic()
                    yield samples
                if event["type"] == "done":
                    return
        finally:
            feeding.cancel()

    async def interrupt(self) -> str:
        """The listener speaks: stop, and return the text that was heard. For after run_tts."""
        played = time.monotonic() - self._begin if self._begin else 0.0
        await self._send(type="interrupt", id=str(self._count), played=played)
        async for event, _ in self._events():
            if event["type"] == "interrupted":
                return str(event["text"])
        return ""

    async def _feed(self, words: AsyncIterator[str], identity: str, voice: str) -> None:
        await self._send(type="start", id=identity, inputs={"voice": voice})
        async for word in words:
            await self._send(type="text", text=word)
        await self._send(type="end")

    async def _events(self) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
        """Events, each with its samples."""
        async for message in self.socket:
            event = json.loads(message)
            samples = await self.socket.recv() if event["type"] == "audio" else b""
            yield event, bytes(samples)  # type: ignore[arg-type]

    async def _send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))


async def language_model(text: str) -> AsyncIterator[str]:
    """In place of a real one: words, each after a moment."""
    for word in text.split():
        await asyncio.sleep(0.05)
        yield word + " "


async def converse(args: argparse.Namespace) -> None:
    speech = await Speech.open(args.url, args.api_key)
    seconds = 0.0
    words = language_model("Good morning. The train to the coast leaves at nine. Shall I book it?")
    async with aclosing(speech.run_tts(words, args.voice)) as sound:
        async for samples in sound:  # to be sent to the listener
            seconds += len(samples) / 2 / speech.sample_rate
            if seconds > args.patience:
                break
    print(f"made {seconds:.2f} s; heard: {await speech.interrupt()!r}")
    async with aclosing(speech.run_tts(language_model("Go on, please."), args.voice)) as sound:
        seconds = sum([len(s) / 2 / speech.sample_rate async for s in sound])
    print(f"made {seconds:.2f} s")
    await speech.socket.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/stream")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--voice", default="default")
    parser.add_argument(
        "--patience", type=float, default=2.0, help="seconds until the listener speaks"
    )
    asyncio.run(converse(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
