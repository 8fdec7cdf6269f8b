"""The Wyoming server, with the protocol's own client."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wyoming")

from server_tools import LONG_TEXT, PATIENCE, Running, running, until
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeTextFormat,
    SynthesizeVoice,
)

from uniaudio_engine import Engine, InputError
from uniaudio_engine.serving.settings import Settings
from uniaudio_engine.serving.wyoming import Wyoming, is_private, parse_address

VOICE = SynthesizeVoice(name="one")


@pytest.fixture(scope="module")
def server(engine: Engine) -> Any:
    with running(engine, wyoming="0", max_sessions=2, max_text=10_000) as server:
        yield server


def talk(server: Running, conversation: Any) -> Any:
    """Run ``conversation(client)`` with a connected client."""

    async def whole() -> Any:
        async with AsyncTcpClient("127.0.0.1", server.app.state.wyoming.port) as client:
            return await conversation(client)

    return asyncio.run(asyncio.wait_for(whole(), PATIENCE))


async def read(client: AsyncTcpClient) -> Event:
    event = await client.read_event()
    assert event is not None, "the server left"
    return event


async def read_until(client: AsyncTcpClient, kind: str) -> list[Event]:
    events = [await read(client)]
    while events[-1].type != kind:
        events.append(await read(client))
    return events


async def write(client: AsyncTcpClient, event: Event) -> None:
    """As the client does, for texts that are no Unicode, too."""
    assert client._writer is not None
    client._writer.write(json.dumps({"type": event.type, "data": event.data}).encode() + b"\n")
    await client._writer.drain()


def samples(events: list[Event]) -> np.ndarray:
    """int16 of all audio events; their time stamps must say where they belong."""
    made = b""
    for event in events:
        if event.type == "audio-chunk":
            assert {k: event.data[k] for k in ("rate", "width", "channels")} == FORM
            assert event.data["timestamp"] == round(1000 * len(made) / 2 / FORM["rate"])
            made += event.payload or b""
    return np.frombuffer(made, "<i2")


FORM = {"rate": 16000, "width": 2, "channels": 1}


def test_describes_itself_and_its_voices(server: Running) -> None:
    async def conversation(client: AsyncTcpClient) -> tuple[Event, Event]:
        await client.write_event(Describe().event())
        await client.write_event(Ping(text="still there").event())
        return await read(client), await read(client)

    info, pong = talk(server, conversation)
    (program,) = Info.from_event(info).tts
    assert {v.name for v in program.voices} == {"one", "two"}
    assert all(v.languages == ["en"] and v.installed for v in program.voices)
    assert program.supports_synthesize_streaming
    assert pong.type == "pong" and pong.data["text"] == "still there"


def test_speaks_a_text(server: Running) -> None:
    async def conversation(client: AsyncTcpClient) -> list[list[Event]]:
        answers = []
        for voice in (VOICE, SynthesizeVoice(name="two"), None):
            await client.write_event(Synthesize("Hello Dr. Lee.", voice=voice).event())
            answers.append(await read_until(client, "audio-stop"))
        return answers

    for events in talk(server, conversation):
        assert [e.type for e in events[:2]] == ["audio-start", "audio-chunk"]
        assert events[0].data["rate"] == FORM["rate"]
        sound = samples(events)
        assert len(sound) > 1600 and np.abs(sound.astype(float)).max() > 10


def test_markup_is_read(server: Running) -> None:
    async def conversation(client: AsyncTcpClient) -> list[Event]:
        ssml, kind = '<speak>Hello <break time="5s"/></speak>', SynthesizeTextFormat.SSML
        await client.write_event(Synthesize(ssml, voice=VOICE, text_format=kind).event())
        return await read_until(client, "audio-stop")

    seconds = len(samples(talk(server, conversation))) / FORM["rate"]
    # A random model's word takes up to 6 s; the tag as a text would be six words more.
    assert 5 < seconds < 5 + 6.5


def test_text_in_pieces_is_spoken_before_its_end(server: Running) -> None:
    async def conversation(client: AsyncTcpClient) -> tuple[list[Event], list[Event]]:
        await client.write_event(SynthesizeStart(voice=VOICE).event())
        for piece in ("The first sen", "tence. And", " the "):
            await client.write_event(SynthesizeChunk(piece).event())
        first = await read_until(client, "audio-chunk")  # nothing has been ended yet
        await client.write_event(SynthesizeChunk("second one").event())
        # Clients repeat the whole text for servers that take no pieces; here it is not spoken again.
        whole = Synthesize("The first sentence. And the second one", voice=VOICE)
        await client.write_event(whole.event())
        await client.write_event(SynthesizeStop().event())
        return first, await read_until(client, "synthesize-stopped")

    first, rest = talk(server, conversation)
    kinds = [e.type for e in first + rest]
    assert kinds.count("audio-start") == kinds.count("audio-stop") == 1
    assert kinds[0] == "audio-start" and kinds[-2:] == ["audio-stop", "synthesize-stopped"]
    assert len(samples(first + rest)) > 3200


def test_a_text_waits_for_the_one_before(server: Running) -> None:
    async def conversation(client: AsyncTcpClient) -> list[list[Event]]:
        for _ in range(3):
            await client.write_event(Synthesize("Hello there.", voice=VOICE).event())
        return [await read_until(client, "audio-stop") for _ in range(3)]

    for events in talk(server, conversation):
        assert [e.type for e in events].count("audio-start") == 1


@pytest.mark.parametrize(
    "event, message",
    [
        (Synthesize("Hi.", voice=SynthesizeVoice(name="nobody")).event(), "nobody"),
        (Synthesize("Hi.", voice=SynthesizeVoice(name="../voices/one")).event(), "expected one of"),
        (Synthesize(" ", voice=VOICE).event(), "text"),
        (Synthesize("x" * 10_001, voice=VOICE).event(), "at most 10000 characters"),
        (SynthesizeChunk("x").event(), "synthesize-start"),
        (Event("synthesize", {"text": "\ud800"}), "expected Unicode"),
        (Event("synthesize", {"text": 1}), "expected a string"),
        (Event("synthesize", {}), "expected its fields"),
        (Event("synthesize", {"text": "Hi.", "voice": 3}), "expected its fields"),
    ],
)
def test_an_error_is_one_line_and_ends_the_connection(
    server: Running, event: Event, message: str
) -> None:
    async def conversation(client: AsyncTcpClient) -> tuple[Event, Event | None]:
        await write(client, event)
        return await read(client), await client.read_event()

    error, end = talk(server, conversation)
    assert error.type == "error" and end is None
    assert message in error.data["text"] and "\n" not in error.data["text"]


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"{" * 100_000 + b"\n",
        b"[1]\n",
        b'{"type": 7}\n',
        json.dumps({"type": "synthesize", "data_length": 1 << 40}).encode() + b"\n",
        json.dumps({"type": "audio-chunk", "payload_length": -1}).encode() + b"\n",
        b'{"type": "synthesize", "data_length": 3}\n\xff\xff\xff',
        b"[" * 60_000 + b"\n",
    ],
)
def test_what_is_no_event_ends_the_connection(server: Running, data: bytes) -> None:
    with connected(server) as s:
        s.sendall(data)
        answer = b""
        while part := s.recv(4096):
            answer += part
    assert b'"error"' in answer and answer.count(b"\n") == 1


def test_events_of_other_services_are_passed_over(server: Running) -> None:
    async def conversation(client: AsyncTcpClient) -> Event:
        await client.write_event(Event("transcribe", {}))
        await client.write_event(Event("audio-chunk", dict(FORM), b"\0" * 3200))
        await client.write_event(Ping().event())
        return await read(client)

    assert talk(server, conversation).type == "pong"


def test_a_client_that_leaves_ends_its_session(server: Running) -> None:
    async def conversation(client: AsyncTcpClient) -> None:
        await client.write_event(Synthesize(LONG_TEXT[:9000], voice=VOICE).event())
        await read_until(client, "audio-chunk")
        assert server.service.admission.active == 1

    talk(server, conversation)
    until(server.idle, 2.0)


def test_a_client_that_takes_nothing_is_cut(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session counts as cancelled; it is no failure of the server's."""
    limits = {"stall_seconds": 0.2, "send_buffer": 4096}
    with running(engine, wyoming="0", **limits) as server:
        with connected(server, receive_buffer=4096) as s:
            text = json.dumps({"text": LONG_TEXT[:9000], "voice": {"name": "one"}}).encode()
            head = json.dumps({"type": "synthesize", "data_length": len(text)}).encode()
            s.sendall(head + b"\n" + text)
            until(lambda: server.metric("clients_cut_total") == 1)
            until(server.idle, 2.0)
        assert 'end="cancelled",task="tts"} 1.0' in server.service.metrics.text().decode()
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


def test_a_silent_client_is_let_go(engine: Engine) -> None:
    with running(engine, wyoming="0", idle_seconds=0.2) as server, connected(server) as s:
        assert s.recv(1) == b""


def test_a_full_server_says_so(server: Running) -> None:
    """The sessions are those of the HTTP server: two run here, and the queue is as long."""

    async def conversation(client: AsyncTcpClient) -> Event:
        await client.write_event(Synthesize("Hi.", voice=VOICE).event())
        return await read(client)

    async def held() -> Event:
        return await asyncio.to_thread(talk, server, conversation)

    admission = server.service.admission
    before, admission.max_queue = admission.max_queue, 0
    try:
        answer = on_loop(server, hold_all(server, held))
    finally:
        admission.max_queue = before
    assert answer.type == "error" and answer.data["code"] == "busy"


async def hold_all(server: Running, then: Any) -> Any:
    async with server.service.admission.slot(), server.service.admission.slot():
        return await then()


def on_loop(server: Running, work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine where the server runs."""
    loop = server.server.servers[0].get_loop()
    return asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE)


def connected(server: Running, receive_buffer: int = 0) -> socket.socket:
    s = socket.socket()
    if receive_buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    s.settimeout(PATIENCE)
    s.connect(("127.0.0.1", server.app.state.wyoming.port))
    return s


@pytest.mark.parametrize(
    "address, expected",
    [
        ("10200", ("127.0.0.1", 10200)),
        (":10200", ("127.0.0.1", 10200)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:5", ("::1", 5)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize("address", ["", "host", "host:", "host:70000", "1:-2", "x:١"])
def test_addresses_that_are_none(engine: Engine, server: Running, address: str) -> None:
    with pytest.raises(InputError, match="wyoming: expected HOST:PORT or PORT"):
        Wyoming(server.service, address)


def test_an_address_in_use_is_an_error(server: Running) -> None:
    async def twice() -> None:
        other = Wyoming(server.service, str(server.app.state.wyoming.port))
        async with other.listening():
            pass

    with pytest.raises(InputError, match="cannot listen"):
        asyncio.run(twice())


@pytest.mark.parametrize(
    "address, private",
    [
        ("127.0.0.1", True),
        ("192.168.1.7", True),
        ("172.30.32.1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.0.0.1", True),
        ("8.8.8.8", False),
        ("::ffff:8.8.8.8", False),
        ("2600::1", False),
        ("somewhere", False),
    ],
)
def test_only_private_networks_are_answered(address: str, private: bool) -> None:
    assert is_private(address) is private


def test_no_port_is_opened_unasked() -> None:
    assert Settings().wyoming is None
