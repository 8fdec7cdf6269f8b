"""Clients that come and go, and bytes that mean nothing: no crash, no session left, no memory kept."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from server_tools import LONG_TEXT, Running, running, speech_request, tone, until
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from uniaudio_engine import Engine
from uniaudio_engine.audio.sound import to_pcm16

LITTLE = "Hello there. " * 4
TEXTS = ["Hello.", LITTLE, LONG_TEXT, "", "\0", "<speak>", "ü", "a" * 12000]


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def works(server: Running) -> None:
    """All sessions have ended, and the next client is served."""
    until(server.idle)
    with server.client() as http:
        body = {"model": "tiny", "voice": "one", "input": "Hello."}
        assert http.post("/v1/audio/speech", json=body).status_code == 200
        ended = ("uniaudio_sessions_active 0.0", "uniaudio_websockets 0.0")
        # A closing handshake may still be under way.
        until(lambda: all(line in http.get("/metrics").text for line in ended))


# HTTP clients that leave


def leave_http(server: Running, rng: random.Random) -> None:
    """A client that is gone somewhere between its first byte and its last."""
    kinds = ("wav", "mp3", "flac", "pcm")
    request = speech_request(
        rng.choice(TEXTS[:3]),
        response_format=rng.choice(kinds),
        stream_format=rng.choice(("audio", "sse")),
    )
    s = server.socket(receive_buffer=rng.choice((0, 4096)))
    s.settimeout(0.05)
    try:
        s.sendall(request[: rng.choice((len(request), rng.randrange(len(request))))])
        for _ in range(rng.randrange(3)):
            s.recv(rng.randrange(1, 5000))
    except OSError:
        pass
    finally:
        if rng.random() < 0.5:  # a reset instead of an end
            s.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of no seconds
        s.close()


# WebSockets


def random_value(rng: random.Random, depth: int = 0) -> Any:
    choices = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randrange(-5, 1 << rng.randrange(1, 70)),
        lambda: rng.uniform(-10, 1e9),
        lambda: rng.choice([*TEXTS[:4], "one", "tts", "se", "vc", "a", "\ud800", "../x"]),
    ]
    if depth < 3:
        choices += [
            lambda: [random_value(rng, depth + 1) for _ in range(rng.randrange(4))],
            lambda: {random_name(rng): random_value(rng, depth + 1) for _ in range(3)},
        ]
    return rng.choice(choices)()


def random_name(rng: random.Random) -> str:
    names = "type id task inputs window sample_rate live text played voice source seed speed x"
    return rng.choice(names.split())


def random_message(rng: random.Random) -> str | bytes:
    """Mostly what could mean something: the rarer, the deeper it gets."""
    kind = rng.choice(("start", "start", "text", "flush", "end", "cancel", "interrupt", "ack", "x"))
    message: dict[str, Any] = {"type": kind}
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(2000))
        case 1:
            return to_pcm16(tone(rng.uniform(0, 0.5)).samples)
        case 2:
            message |= {random_name(rng): random_value(rng) for _ in range(rng.randrange(4))}
        case 3:
            return rng.choice(("", "nonsense", "[", json.dumps(random_value(rng)), "[" * 3000))
        case _:
            message["text"] = rng.choice(TEXTS[:3])
            if kind == "start":
                del message["text"]
                message["task"] = rng.choice(("tts", "se", "vc", "svs", "i_tts"))
                message["inputs"] = {"voice": "one"} if message["task"] in ("tts", "vc") else {}
                message["live"] = message["task"] in ("se", "vc") and rng.random() < 0.5
                if rng.random() < 0.3:
                    message["inputs"]["text"] = rng.choice(TEXTS)
            if kind in ("ack", "interrupt"):
                message = {"type": kind, "played": rng.uniform(0, 3)}
    return json.dumps(message)


async def talk_nonsense(server: Running, rng: random.Random, messages: int) -> None:
    """A connection with random messages that ends in a random way."""
    url = f"ws://127.0.0.1:{server.port}/v1/stream"
    try:
        async with connect(url, proxy=None, max_size=None, close_timeout=1) as socket:
            for _ in range(rng.randrange(1, messages)):
                await socket.send(random_message(rng))
                for _ in range(rng.randrange(3)):
                    try:
                        await asyncio.wait_for(socket.recv(), rng.choice((0.001, 0.05)))
                    except asyncio.TimeoutError:
                        pass
            if rng.random() < 0.5:
                socket.transport.abort()
    except (WebSocketException, OSError):
        pass


async def many(server: Running, seed: int, connections: int, together: int) -> None:
    async def one(i: int) -> None:
        async with turn:
            await talk_nonsense(server, random.Random(seed * 100_000 + i), 12)

    turn = asyncio.Semaphore(together)
    await asyncio.gather(*map(one, range(connections)))


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Errors, and that asyncio writes to clients that have long left."""
    return [
        r.getMessage()
        for r in caplog.records
        if r.levelname == "ERROR" or (r.name == "asyncio" and r.levelname == "WARNING")
    ]


def small(engine: Engine) -> Any:
    return running(
        engine, max_sessions=4, max_queue=4, send_buffer=32 << 10, stall_seconds=0.5, idle_seconds=1
    )


def test_random_messages(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with small(engine) as server:
        asyncio.run(many(server, 1, 40, 4))
        works(server)
    assert not complaints(caplog)


def test_random_disconnects(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(2)
    with small(engine) as server:
        for _ in range(200):
            leave_http(server, rng)
        works(server)
    assert not complaints(caplog)


@pytest.mark.slow
def test_thousands_of_clients_leave_no_memory_behind(engine: Engine) -> None:
    """Of the same work again, memory does not grow."""
    with small(engine) as server:
        sizes = []
        for round_ in range(8):
            rng = random.Random(round_)
            for _ in range(250):
                leave_http(server, rng)
            asyncio.run(many(server, round_, 50, 8))
            works(server)
            gc.collect()
            sizes.append(resident())
    assert sizes[-1] - sizes[2] < 32 << 20, sizes


# HTTP


@pytest.mark.slow
def test_requests_from_the_description(engine: Engine) -> None:
    """schemathesis: what the OpenAPI description allows, and what it does not."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    with running(engine, idle_seconds=5) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")

        limits = settings(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        for result in schema.get_all_operations():

            @limits
            @given(case=result.ok().as_strategy())
            def check(case: Any) -> None:
                response = case.call(timeout=60)
                # Of the server's own errors only one is said on purpose.
                assert response.status_code < 500 or response.status_code == 501
                if response.status_code >= 400:
                    error = json.loads(response.content)["error"]
                    assert set(error) == {"message", "type", "param", "code"}

            check()
        works(server)
