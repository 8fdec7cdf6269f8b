"""Simulated listeners of a speech server, over HTTP or WebSocket.

Each asks for one new sentence after another and plays what it gets at its own speed: the next
sentence is requested when the last one was heard. A stutter is a piece of sound that came after all
sound before it was played. Runs as a process of its own, so that it takes no time from the server's
interpreter, and imports nothing of the engine, so that it can talk to any server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

WORDS = (
    "the water was still and the light of the morning lay on every roof while people came out of "
    "their houses and began to talk about the long winter that had ended at last"
).split()
Sound = AsyncGenerator[float, None]  # seconds of each piece, as it comes


@dataclass
class Heard:
    """What the listeners of one load heard."""

    first: list[float] = field(default_factory=list)  # ms from a request to its first samples
    late: list[float] = field(default_factory=list)  # ms of each stutter
    sentences: int = 0  # that were heard to the end
    stuttered: int = 0  # sentences with a stutter
    chunks: int = 0
    sound: float = 0.0  # seconds
    elapsed: float = 0.0  # seconds of the whole load

    def row(self) -> dict[str, Any]:
        return {
            "sentences": len(self.first),
            "first_p50_ms": percentile(self.first, 50),
            "first_p95_ms": percentile(self.first, 95),
            "chunks": self.chunks,
            "stutters": len(self.late),
            "stuttered": self.stuttered,
            "worst_ms": round(max(self.late, default=0.0), 1),
            "sound_per_second": round(self.sound / self.elapsed, 2),
        }


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that ``part`` percent are not above."""
    ordered = sorted(values)
    return round(ordered[max(0, -(-len(ordered) * int(part) // 100) - 1)], 1) if ordered else 0.0


def sentence(client: int, turn: int) -> str:
    """A sentence that no other client and no other turn has."""
    at = (client * 7 + turn * 11) % len(WORDS)
    words = [
        WORDS[(at + i * (1 + client % 3)) % len(WORDS)] for i in range(6 + (client + turn) % 9)
    ]
    return " ".join(words).capitalize() + "."


async def listen(
    speak: Callable[[str, int], Sound], number: int, until: float, seed: int, heard: Heard
) -> None:
    """One listener. ``speak``: a text and a seed -> the pieces of its sound."""
    await asyncio.sleep(number % 16 / 16)  # they do not all begin at once
    turn = 0
    while time.monotonic() < until:
        asked, end, stutters = time.monotonic(), 0.0, len(heard.late)
        async with aclosing(speak(sentence(number, turn), seed + 1000 * number + turn)) as pieces:
            async for seconds in pieces:
                now = time.monotonic()
                if seconds == 0:
                    continue
                if end == 0.0:
                    heard.first.append(1000 * (now - asked))
                    end = now
                elif now > end:
                    heard.late.append(1000 * (now - end))
                    end = now
                end += seconds
                heard.chunks += 1
                heard.sound += seconds
        heard.sentences += 1
        heard.stuttered += len(heard.late) > stutters
        await asyncio.sleep(max(0.0, end - time.monotonic()))  # until it was heard
        turn += 1


async def load(speakers: Sequence[Callable[[str, int], Sound]], seconds: float, seed: int) -> Heard:
    """All listeners at once; each has its own way to speak."""
    heard, begin = Heard(), time.monotonic()
    await asyncio.gather(
        *(listen(speak, i, begin + seconds, seed, heard) for i, speak in enumerate(speakers))
    )
    heard.elapsed = time.monotonic() - begin
    return heard


# Over the network


@dataclass
class Target:
    """A server, and the fields that it wants beside the text. ``rate``: Hz of its 16-bit PCM."""

    host: str
    port: int
    fields: dict[str, Any]
    voices: Sequence[str]
    rate: int
    has_seeds: bool

    def voice(self, number: int) -> dict[str, Any]:
        return {"voice": self.voices[number % len(self.voices)]} if self.voices else {}

    def seed(self, seed: int) -> dict[str, Any]:
        return {"seed": seed} if self.has_seeds else {}


class Http:
    """``POST /v1/audio/speech`` on one connection that is kept, as OpenAI's clients do."""

    def __init__(self, target: Target, number: int) -> None:
        self._target, self._number = target, number
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection; a new one where the server has closed the last one, idle for long."""
        if self._streams is None or self._streams[0].at_eof():
            target = self._target
            self._streams = await asyncio.open_connection(target.host, target.port)
        return self._streams

    async def speak(self, text: str, seed: int) -> Sound:
        target = self._target
        fields = {**target.fields, **target.voice(self._number), **target.seed(seed)}
        body = json.dumps({**fields, "input": text, "response_format": "pcm"}).encode()
        request = (
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        kept = self._streams is not None
        reader, writer = await self.open()
        writer.write(request)
        try:
            status, headers = await read_head(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            if not kept:
                raise
            self._streams = None  # the server closed the idle connection at this moment
            reader, writer = await self.open()
            writer.write(request)
            status, headers = await read_head(reader)
        odd = 0
        async for size in read_body(reader, headers):
            if status != 200:
                raise RuntimeError(f"the server answered {status}")
            odd += size
            yield odd // 2 / target.rate
            odd %= 2
        if headers.get("connection", "").lower() == "close":
            writer.close()
            self._streams = None


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers, names in lower case."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value.strip() for name, value in pairs}


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[int]:
    """The bytes of each part of a body, as they come."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            await reader.readexactly(size + 2)
            yield size
        await reader.readline()
        return
    left = int(headers["content-length"])
    while left:
        data = await reader.read(min(left, 1 << 16))
        if not data:
            raise RuntimeError("the connection ended within an answer")
        left -= len(data)
        yield len(data)


class WebSocket:
    """``/v1/stream``: the text of an utterance at once, or word by word."""

    def __init__(self, target: Target, number: int) -> None:
        self._target, self._number = target, number
        self._socket: Any = None

    async def open(self) -> Any:
        if self._socket is None:
            from websockets.asyncio.client import connect

            url = f"ws://{self._target.host}:{self._target.port}/v1/stream"
            self._socket = await connect(url, proxy=None, compression=None, max_size=None)
        return self._socket

    async def begin(self, seed: int, **inputs: str) -> Any:
        given = {**self._target.voice(self._number), **self._target.seed(seed), **inputs}
        socket = await self.open()
        await socket.send(json.dumps({"type": "start", "inputs": given}))
        return socket

    async def speak(self, text: str, seed: int) -> Sound:
        async for seconds in self.pieces(await self.begin(seed, text=text)):
            yield seconds

    async def pieces(self, socket: Any) -> Sound:
        while True:
            message = await socket.recv()
            if isinstance(message, bytes):
                yield len(message) / 2 / self._target.rate
            elif '"done"' in message:
                return
            elif '"error"' in message:
                raise RuntimeError(message)


WAYS: dict[str, type[Http] | type[WebSocket]] = {"http": Http, "websocket": WebSocket}
CLAUSES = (
    "after a long and quiet winter,",
    "when the light of the morning came,",
    "as far as anyone could remember,",
    "before the last of the guests had left,",
    "although nobody had asked for it,",
)


async def speak_words(target: Target, turns: int, pause: float, seed: int) -> list[float]:
    """Milliseconds from sending the last word of the first clause to its first sound, per turn.

    A word is sent every ``pause`` seconds, as a language model writes them.
    """
    way, taken = WebSocket(target, 0), []
    await way.open()
    for turn in range(turns):
        clause = CLAUSES[turn % len(CLAUSES)].capitalize().split()
        rest = sentence(turn, 0).lower().split()
        socket = await way.begin(seed + turn)

        async def write(
            words: Sequence[str] = (*clause, *rest), socket: Any = socket, last: int = len(clause)
        ) -> float:
            at = 0.0
            for n, word in enumerate(words, start=1):
                if n == last:
                    at = time.monotonic()
                await socket.send(json.dumps({"type": "text", "text": word + " "}))
                await asyncio.sleep(pause)
            await socket.send(json.dumps({"type": "end"}))
            return at

        writing = asyncio.create_task(write())
        first = 0.0
        async for _ in way.pieces(socket):
            first = first or time.monotonic()
        taken.append(1000 * (first - await writing))
    return taken


async def main_async(args: argparse.Namespace) -> dict[str, Any]:
    target = Target(
        args.host, args.port, args.fields, args.voices, args.rate, not args.without_seeds
    )
    if args.words:
        return {"words_ms": await speak_words(target, args.words, args.pause, args.seed)}
    ways = [WAYS[args.way](target, i) for i in range(args.clients)]
    for way in ways:
        await way.open()
    return asdict(await load([way.speak for way in ways], args.seconds, args.seed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--way", choices=WAYS, default="http")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=16000, help="Hz of the PCM that comes (16000)")
    parser.add_argument("--voices", type=lambda text: [v for v in text.split(",") if v], default=[])
    parser.add_argument("--fields", type=json.loads, default={}, help="of a request, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-seeds", action="store_true", help="the server knows no seeds")
    parser.add_argument("--words", type=int, default=0, help="utterances, written word by word")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between words (0.05)")
    json.dump(asyncio.run(main_async(parser.parse_args())), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
