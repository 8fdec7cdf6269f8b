"""A server under clients that misbehave: random disconnects, bad requests, hours of load, a kill.

Starts ``uniaudio serve`` and runs, one after the other:

disconnects   clients over HTTP and WebSocket that leave at a random moment, by an end or a reset
malformed     oversized and malformed requests; each must get an error, never a 500
load          listeners at full load; the memory of the server is sampled
kill          SIGKILL at full load; the server must start again at once and speak

After each of them the server must be idle again, hold no session, and speak. Ends with code 1 if
anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import common
from common import say
from listeners import percentile, read_body, read_head
from speech_servers import SpeechServer, listeners, uniaudio

from uniaudio_engine import __version__
from uniaudio_engine.errors import InputError

TEXTS = ("Hi.", "Yes, that is so.", "One more sentence. And another one, which is longer.")
SESSIONS, QUEUE, MAX_BODY = 16, 16, 1 << 20  # bytes
LIMITS = ("--max-queue", str(QUEUE), "--max-body", str(MAX_BODY >> 20), "--stall-seconds", "1")
TOGETHER = 24  # clients at once: some find the server full
PATIENCE = 60.0  # seconds until a server must be idle
EPILOG = """examples:
  python benchmarks/soak.py                                   (40 minutes)
  python benchmarks/soak.py --disconnects 500 --minutes 1
  python benchmarks/soak.py --write                           the section into docs/serving.md
"""


@dataclass
class Clients:
    """Clients of one server that leave when they like. ``fields``: of a request for speech."""

    server: SpeechServer
    fields: dict[str, Any]
    rng: random.Random

    def request(self, **fields: Any) -> bytes:
        body = json.dumps({**self.fields, "input": self.rng.choice(TEXTS), **fields}).encode()
        head = (
            "POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def leave_http(self) -> None:
        """Gone somewhere between the first byte of the request and the last of the answer."""
        rng = self.rng
        kind, form = rng.choice(("pcm", "wav", "mp3", "flac")), rng.choice(("audio", "sse"))
        request = self.request(response_format=kind, stream_format=form)
        sent = rng.choice((len(request), rng.randrange(1, len(request))))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(request[:sent])
            for _ in range(rng.randrange(4)):
                await asyncio.wait_for(reader.read(rng.randrange(1, 20_000)), 0.1)
        except (OSError, asyncio.TimeoutError):
            pass
        finally:
            leave(writer, rng)

    async def leave_websocket(self) -> None:
        """Gone between the handshake and the end of an utterance."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        rng, url = self.rng, f"ws://127.0.0.1:{self.server.port}/v1/stream"
        messages = [{"type": "start"}, *({"type": "text", "text": t} for t in TEXTS)]
        messages += [{"type": kind} for kind in ("flush", "cancel", "interrupt", "end")]
        with suppress(WebSocketException, OSError):
            async with connect(url, proxy=None, compression=None, close_timeout=1) as ws:
                await ws.send(json.dumps(messages[0]))
                for _ in range(rng.randrange(6)):
                    await ws.send(json.dumps(rng.choice(messages)))
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(ws.recv(), rng.choice((0.001, 0.05, 0.2)))
                if rng.random() < 0.6:
                    ws.transport.abort()


def leave(writer: asyncio.StreamWriter, rng: random.Random) -> None:
    if rng.random() < 0.5:  # a reset instead of an end
        with suppress(OSError):
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
    writer.close()


async def disconnects(clients: Clients, count: int, sample: Callable[[], object]) -> None:
    turn, done = asyncio.Semaphore(TOGETHER), 0

    async def one(number: int) -> None:
        nonlocal done
        async with turn:
            await (clients.leave_http() if number % 2 else clients.leave_websocket())
        done += 1
        if done % 250 == 0:
            sample()
            say(f"{done} of {count} disconnects")

    await asyncio.gather(*map(one, range(count)))


def malformed(clients: Clients) -> list[tuple[str, bytes, tuple[int, ...]]]:
    """What is wrong, the request, and the statuses that may answer it; 0: the connection ends."""
    good, rng = clients.request(), clients.rng
    head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n"
    typed = head + b"Content-Type: application/json\r\n"
    claimed = typed + b"Content-Length: %d\r\n\r\n"
    bodies = [b"", b"[", b"null", b"{}", b"[" * 5000, b'{"input": 5}', rng.randbytes(3000), b"\xff"]
    out = [("body", claimed % len(body) + body, (400, 422)) for body in bodies]
    out += [
        ("oversized by its header", claimed % (MAX_BODY + 1), (413,)),
        ("oversized and chunked", oversized(typed), (413,)),
        ("length", typed + b"Content-Length: x\r\n\r\n", (400, 413)),
        ("long header", head + b"X: " + b"a" * (1 << 18), (400, 431, 0)),
        ("no HTTP", rng.randbytes(200) + b"\r\n\r\n", (400, 0)),
        ("method", good.replace(b"POST", b"BREW", 1), (405,)),
        ("path", good.replace(b"/v1/audio/speech", b"/v1/../../etc/passwd", 1), (404, 400)),
        ("host", good.replace(b"localhost", b"evil.example", 1), (403,)),
        ("long text", clients.request(input="a" * 20_000), (400,)),
        ("no text", clients.request(input=""), (400,)),
        ("format", clients.request(response_format="exe"), (400,)),
        ("voice", clients.request(voice="../../x"), (400, 404)),
        ("speed", clients.request(speed=1e308), (400,)),
        ("unknown field", clients.request(x=1), (400,)),
    ]
    return out


def oversized(head: bytes) -> bytes:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (MAX_BODY // 65536 + 2)


async def status(port: int, request: bytes) -> int:
    """The status that a request gets; 0 where the connection ends without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(OSError):
            writer.write(request)
            await writer.drain()
        found, headers = await asyncio.wait_for(read_head(reader), PATIENCE)
        if found == 500 or headers.get("content-type") == "application/json":
            async for _ in read_body(reader, headers):
                pass
        return found
    except (OSError, asyncio.IncompleteReadError):
        return 0
    finally:
        writer.close()


def metric(server: SpeechServer, name: str) -> float:
    """A gauge of the server."""
    lines = server.get("/metrics").decode().splitlines()
    return float(next(x.split()[-1] for x in lines if x.startswith(f"uniaudio_{name} ")))


def ended(server: SpeechServer, end: str) -> int:
    """How many sessions ended so; ``failed`` are those that were refused, too."""
    lines = server.get("/metrics").decode().splitlines()
    mine = [x for x in lines if x.startswith("uniaudio_sessions_total") and f'end="{end}"' in x]
    return int(sum(float(x.split()[-1]) for x in mine))


def settled(server: SpeechServer, fields: dict[str, Any]) -> None:
    """The server is idle, and speaks."""
    deadline, names = time.monotonic() + PATIENCE, ("sessions_active", "sessions_waiting")
    while any(metric(server, name) for name in (*names, "websockets", "body_bytes")):
        if time.monotonic() > deadline:
            raise InputError(f"the server still holds sessions after {PATIENCE:g} s")
        time.sleep(0.1)
    clients = Clients(server, fields, random.Random(0))
    found = asyncio.run(status(server.port, clients.request(input="Hello.")))
    if found != 200:
        raise InputError(f"expected speech, got status {found}")
    if errors := server.errors():
        raise InputError(f"the server logged {len(errors)} errors, the first: {errors[0][:300]}")


@contextmanager
def serving(args: argparse.Namespace) -> Iterator[tuple[SpeechServer, dict[str, Any]]]:
    with uniaudio(args.format, args.threads, SESSIONS, *LIMITS) as server:
        fields = json.loads(server.listener[server.listener.index("--fields") + 1])
        settled(server, fields)
        yield server, fields


def megabytes(server: SpeechServer) -> float:
    return round(server.resident() / 1e6, 1)


def of_disconnects(args: argparse.Namespace) -> dict[str, Any]:
    with serving(args) as (server, fields):
        begin, memory = time.monotonic(), [megabytes(server)]
        clients = Clients(server, fields, random.Random(args.seed))
        asyncio.run(
            disconnects(clients, args.disconnects, lambda: memory.append(megabytes(server)))
        )
        settled(server, fields)
        memory.append(megabytes(server))
        return {
            "clients": args.disconnects,
            "minutes": round((time.monotonic() - begin) / 60, 1),
            "sessions": {end: ended(server, end) for end in ("done", "cancelled", "failed")},
            "megabytes": memory,
        }


def of_malformed(args: argparse.Namespace) -> dict[str, Any]:
    with serving(args) as (server, fields):
        requests = malformed(Clients(server, fields, random.Random(args.seed)))
        for what, request, allowed in requests:
            found = asyncio.run(status(server.port, request))
            if found not in allowed:
                raise InputError(f"malformed, {what}: expected {allowed}, got {found}")
        settled(server, fields)
        return {"requests": len(requests), "answered": "as they must be"}


def of_load(args: argparse.Namespace) -> dict[str, Any]:
    """Listeners over HTTP and as many over WebSocket, all sessions in use."""
    with serving(args) as (server, fields), ExitStack() as stack:
        begin, memory = time.monotonic(), list[float]()
        given = ["--clients", str(SESSIONS // 2), "--seconds", str(60 * args.minutes)]
        # files, since nobody reads while they run and a pipe holds 64 KiB
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [*listeners(server), *given, "--way", way, "--seed", str(seed)], stdout=output
                )
            )
            for seed, (way, output) in enumerate(
                zip(("http", "websocket"), outputs, strict=True), start=args.seed
            )
        ]
        every = max(1.0, min(30.0, 6 * args.minutes))
        while any(process.poll() is None for process in running):
            time.sleep(every)
            memory.append(megabytes(server))
            say(f"{(time.monotonic() - begin) / 60:.1f} minutes: {memory[-1]} MB")
        heard = []
        for process, output in zip(running, outputs, strict=True):
            if process.wait():
                raise InputError("listeners.py failed, see above")
            output.seek(0)
            heard.append(json.load(output))
        settled(server, fields)
        memory.append(megabytes(server))
        first = [ms for one in heard for ms in one["first"]]
        return {
            "clients": SESSIONS,
            "minutes": round((time.monotonic() - begin) / 60, 1),
            "sentences": len(first),
            "seconds_of_sound": round(sum(one["sound"] for one in heard)),
            "first_p95_ms": percentile(first, 95),
            "every_seconds": every,
            "megabytes": memory,
        }


def of_kill(args: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL while listeners play; then the same command again."""
    with serving(args) as (server, _):
        given = ["--clients", str(SESSIONS), "--seconds", "600"]
        with subprocess.Popen(
            [*listeners(server), *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(5.0)
            server.process.kill()
            server.process.wait()
            process.kill()
    begin = time.monotonic()
    with serving(args):
        return {"seconds_to_speech": round(time.monotonic() - begin, 1)}


def section(results: dict[str, Any]) -> str:
    rows = []
    if found := results.get("disconnects"):
        memory, ends = found["megabytes"], found.get("sessions", {})
        said = ", ".join(f"{n} {end}" for end, n in ends.items())
        rows.append(
            f"- {found['clients']} clients left at a random moment over HTTP and WebSocket, "
            f"{TOGETHER} at a time, in {found['minutes']} minutes. Sessions: {said}; failed ones "
            f"were refused or had no text. Memory: {memory[0]:.0f} MB before, "
            f"{memory[len(memory) // 2]:.0f} MB half way, {memory[-1]:.0f} MB after."
        )
    if found := results.get("malformed"):
        rows.append(
            f"- {found['requests']} oversized and malformed requests: each got its error, none a 500."
        )
    if found := results.get("load"):
        memory = found["megabytes"]
        rows.append(
            f"- {found['clients']} listeners for {found['minutes']} minutes, half over HTTP, half "
            f"over WebSocket: {found['sentences']} sentences, {found['seconds_of_sound']} s of "
            f"sound. Memory: {memory[len(memory) // 6]:.0f} MB after a sixth of the time, "
            f"{memory[len(memory) // 2]:.0f} MB half way, {memory[-1]:.0f} MB at the end."
        )
    if found := results.get("kill"):
        rows.append(
            "- SIGKILL under load, and the same command again: speech after "
            f"{found['seconds_to_speech']} s."
        )
    about = f"{results['date']}, {common.machine_line(results['machine'])}, other work beside it."
    return "\n\n".join([about, "\n".join(rows)])


PARTS = {
    "malformed": of_malformed,
    "kill": of_kill,
    "disconnects": of_disconnects,
    "load": of_load,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--disconnects", type=int, default=10_000, help="clients (10000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="of full load (30)")
    parser.add_argument("--format", default="int8", help="weights, as the engine's dtype (int8)")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS)
    )
    common.add_common(parser, "soak.json", rounds=False)
    parser.set_defaults(docs=common.DOCS.with_name("serving.md"))
    args = parser.parse_args(argv)
    if args.write:
        common.write_section(args.docs, "soak", section(common.load_results(args.results)))
        return 0
    results = common.load_results(args.results)
    for name in args.only:
        if name not in PARTS:
            raise InputError(f"--only: expected some of {', '.join(PARTS)}, got {name}")
        found = PARTS[name](args)
        results = {**results, "machine": common.machine(), "version": __version__, name: found}
        results["date"] = common.today()
        common.save_results(args.results, results)
        say(f"{name}: {json.dumps(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
