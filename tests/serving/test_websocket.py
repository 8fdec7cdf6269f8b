"""The WebSocket, with the client of the package ``websockets``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from server_tools import LONG_TEXT, PATIENCE, Running, running, tone, until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from uniaudio_engine import Engine
from uniaudio_engine.audio.sound import to_int16, to_pcm16
from uniaudio_engine.serving.connections import make_protocols

ONE = {"voice": "one", "seed": 3}


class Client:
    """A connection; ``events`` and ``sound`` hold what has come."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.events = socket, list[dict[str, Any]]()
        self.sound: dict[str, bytes] = {}

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def next(self) -> dict[str, Any]:
        """The next event; sound is kept."""
        message = await asyncio.wait_for(self.socket.recv(), PATIENCE)
        assert isinstance(message, str)
        event: dict[str, Any] = json.loads(message)
        self.events.append(event)
        if event["type"] == "audio":
            data = await asyncio.wait_for(self.socket.recv(), PATIENCE)
            assert isinstance(data, bytes) and len(data) == 2 * event["samples"]
            before = self.sound.get(event["id"], b"")
            assert event["start"] == len(before) // 2
            self.sound[event["id"]] = before + data
        return event

    async def until(self, *kinds: str) -> dict[str, Any]:
        while (event := await self.next())["type"] not in kinds:
            pass
        return event

    def samples(self, identity: str = "") -> np.ndarray:
        return np.frombuffer(self.sound.get(identity, b""), "<i2")


@asynccontextmanager
async def connected(server: Running, **more: Any) -> AsyncIterator[Client]:
    url = f"ws://127.0.0.1:{server.port}/v1/stream"
    async with connect(url, proxy=None, open_timeout=PATIENCE, **more) as socket:
        yield Client(socket)


def run(server: Running, scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with connected(server) as client:
            await client.until("ready")
            await scenario(client)

    asyncio.run(main())


def spoken(engine: Engine, *sentences: str) -> np.ndarray:
    return np.concatenate([to_int16(engine.tts(s, **ONE).samples) for s in sentences])


def test_a_text_in_pieces_is_spoken_sentence_by_sentence(server: Running, engine: Engine) -> None:
    async def scenario(client: Client) -> None:
        await client.send(type="start", id="a", inputs=ONE)
        for piece in ("Hel", "lo there. How", " are you? "):
            await client.send(type="text", text=piece)
        await client.until("audio")  # before the text has ended
        await client.send(type="text", text="Fine")
        await client.send(type="flush")
        await client.send(type="end")
        done = await client.until("done")
        assert done["id"] == "a" and not done["cancelled"]
        words = [w["word"] for w in done["words"] if w["word"]]
        assert words == ["hello", "there", "how", "are", "you", "fine"]
        starts = [w["start"] for w in done["words"]]
        assert starts == sorted(starts) and done["words"][-1]["end"] <= done["seconds"] + 0.02

    run(server, scenario)


def test_a_whole_text_is_what_the_engine_gives(server: Running, engine: Engine) -> None:
    text = "Hello there. How are you?"

    async def scenario(client: Client) -> None:
        await client.send(type="start", inputs={**ONE, "text": text})
        await client.until("done")
        np.testing.assert_array_equal(client.samples(), spoken(engine, text))

    run(server, scenario)


def test_utterances_are_spoken_in_order(server: Running, engine: Engine) -> None:
    async def scenario(client: Client) -> None:
        for i in range(3):
            await client.send(type="start", id=str(i), inputs={**ONE, "text": f"Number {i}."})
        for i in range(3):
            assert (await client.until("done"))["id"] == str(i)
        for i in range(3):
            np.testing.assert_array_equal(client.samples(str(i)), spoken(engine, f"Number {i}."))

    run(server, scenario)


def test_sound_goes_in_and_out(server: Running, engine: Engine) -> None:
    sound = tone(0.8)

    async def scenario(client: Client) -> None:
        await client.send(type="start", task="se", inputs={"seed": 3}, sample_rate=16000)
        pcm = to_pcm16(sound.samples)
        for i in range(0, len(pcm), 3000):
            await client.socket.send(pcm[i : i + 3000])
        await client.send(type="end")
        await client.until("done")
        source = (np.frombuffer(pcm, "<i2"), 16000)
        own = engine.enhance(source, seed=3)
        np.testing.assert_array_equal(client.samples(), to_int16(own.samples))

    run(server, scenario)


def test_cancel_ends_an_utterance_and_not_the_connection(server: Running, engine: Engine) -> None:
    async def scenario(client: Client) -> None:
        await client.send(type="start", id="long", inputs={**ONE, "text": LONG_TEXT}, window=1.0)
        await client.send(type="start", id="next", inputs={**ONE, "text": "Hello."})
        await client.until("audio")
        await client.send(type="cancel", id="long")
        done = await client.until("done")
        assert done["id"] == "long" and done["cancelled"] and done["seconds"] < 30
        assert (await client.until("done"))["id"] == "next"
        np.testing.assert_array_equal(client.samples("next"), spoken(engine, "Hello."))

    run(server, scenario)


def test_live_sound_is_answered_while_it_comes(server: Running, engine: Engine) -> None:
    sound = np.frombuffer(to_pcm16(tone(2.0).samples), "<i2")

    async def scenario(client: Client) -> None:
        await client.send(type="start", task="se", inputs={"seed": 3}, live=True)
        assert (await client.until("listening"))["latency"] > 0
        half = len(sound) // 2
        for i in range(0, half, 1000):
            await client.socket.send(sound[i : min(half, i + 1000)].tobytes())
        await client.until("audio")  # before the sound has ended
        await client.socket.send(sound[half:].tobytes())
        await client.send(type="end")
        await client.until("done")

    async def checked(client: Client) -> None:
        await scenario(client)
        with engine.open("se", seed=3) as live:
            x = sound.astype(np.float32) / np.float32(32768)
            own = np.concatenate((live.push(x), live.flush()))
        np.testing.assert_array_equal(client.samples(), to_int16(own))

    run(server, checked)


def test_live_sound_can_be_cancelled(server: Running) -> None:
    async def scenario(client: Client) -> None:
        await client.send(type="start", id="a", task="se", live=True)
        await client.until("listening")
        await client.socket.send(to_pcm16(tone(1.0).samples))
        await client.send(type="cancel")
        assert (await client.until("done"))["cancelled"]
        await client.send(type="start", id="b", inputs={**ONE, "text": "Hello."})
        assert not (await client.until("done"))["cancelled"]

    run(server, scenario)


def heard(event: dict[str, Any], words: list[dict[str, Any]]) -> None:
    """An interruption tells the words that had begun, and the text until then."""
    begun = [w for w in words if w["start"] < event["played"]]
    assert event["words"] == begun and event["played"] <= 1.0
    assert event["text"] == ("Hello there. "[: begun[-1]["characters"][1]] if begun else "")


def test_an_interruption_says_what_was_heard(server: Running) -> None:
    async def scenario(client: Client) -> None:
        await client.send(type="start", id="a", inputs=ONE, window=60)
        await client.send(type="text", text="Hello there. ")
        while len(client.samples("a")) < 16000:
            await client.until("audio")
        await client.send(type="interrupt", played=1.0)
        event = await client.until("interrupted")
        heard(event, [w for e in client.events for w in e.get("words", ()) if e["type"] == "audio"])
        assert (await client.until("done"))["cancelled"]
        await client.send(type="start", id="b", inputs={**ONE, "text": "Hello there. Again."})
        done = await client.until("done")
        assert not done["cancelled"]
        # All of it was sent, but it is still being played.
        await client.send(type="interrupt", id="b", played=0.5)
        heard(await client.until("interrupted"), done["words"])
        await client.send(type="interrupt", id="unknown", played=0.5)
        await client.until("error")

    run(server, scenario)


def test_a_window_bounds_what_is_sent(server: Running) -> None:
    async def scenario(client: Client) -> None:
        window = 1.0
        await client.send(type="start", inputs={**ONE, "text": LONG_TEXT}, window=window)
        played = 0.0
        for _ in range(4):
            longest = 0.0
            while len(client.samples()) / 16000 < played + window:
                event = await client.until("audio", "done")
                assert event["type"] == "audio"
                longest = max(longest, event["samples"] / 16000)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.socket.recv(), 0.3)
            sent = len(client.samples()) / 16000
            assert sent <= played + window + longest
            played = sent
            await client.send(type="ack", played=played)
        await client.send(type="cancel")
        await client.until("done")

    run(server, scenario)


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[]",
        "5",
        "null",
        "[" * 5000,
        {},
        {"type": 5},
        {"type": "nonsense"},
        {"type": "text", "text": "before start"},
        {"type": "start", "task": "nonsense"},
        {"type": "start", "task": 5},
        {"type": "start", "id": 5},
        {"type": "start", "window": "wide"},
        {"type": "start", "sample_rate": 1},
        {"type": "start", "sample_rate": True},
        {"type": "start", "inputs": []},
        {"type": "start", "unknown": 1},
        {"type": "start", "inputs": {"text": 5}},
        {"type": "start", "inputs": {"text": "Hello.", "voice": "/etc/passwd"}},
        {"type": "start", "inputs": {"text": "Hello.", "voice": "one", "nonsense": 1}},
        {"type": "interrupt", "played": -1},
        {"type": "start", "live": True},
        {"type": "start", "live": 5},
        {"type": "start", "inputs": {"text": ["Hello."]}},
        {"type": "start", "inputs": {"text": "Hello.", "flush_after": []}},
        b"\0\0",
    ],
)
def test_a_mistake_is_reported_and_the_next_utterance_works(server: Running, message: Any) -> None:
    async def scenario(client: Client) -> None:
        plain = isinstance(message, (str, bytes))
        await client.socket.send(message if plain else json.dumps(message))
        error = await client.until("error")
        assert error["message"] and "\n" not in error["message"]
        await client.send(type="start", id="after", inputs={**ONE, "text": "Hello."})
        assert (await client.until("done"))["id"] == "after"

    run(server, scenario)


def test_a_client_that_makes_only_mistakes_is_cut(server: Running) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(ConnectionClosed) as e:
            for _ in range(100):
                await client.socket.send("nonsense")
                await client.next()
        assert e.value.rcvd is not None and e.value.rcvd.code == 1008

    run(server, scenario)


def test_a_full_server_closes_with_1013(engine: Engine) -> None:
    async def main(server: Running) -> None:
        async with connected(server) as first, connected(server) as second:
            await first.send(type="start", inputs={**ONE, "text": LONG_TEXT}, window=60)
            await first.until("audio")
            await second.send(type="start", inputs={**ONE, "text": "Hello."})
            error = await second.until("error")
            assert error["code"] == "busy" and error["retry_after"] > 0
            with pytest.raises(ConnectionClosed) as e:
                await second.next()
            assert e.value.rcvd is not None and e.value.rcvd.code == 1013

    with running(engine, max_sessions=1, max_queue=0) as server:
        asyncio.run(main(server))


def test_a_connection_outlives_the_limits_of_a_request(engine: Engine) -> None:
    """Those of how long its head may take, and of how long it may be idle."""

    async def main(server: Running) -> None:
        async with connected(server) as client:
            await client.until("ready")
            await asyncio.sleep(1.0)
            await client.send(type="start", inputs={**ONE, "text": "Hello."})
            await client.until("done")

    with running(engine, idle_seconds=0.4) as server:
        asyncio.run(main(server))


def test_a_client_that_reads_as_it_plays_is_not_cut(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer to a ping waits behind sound that it has not played yet."""

    async def main(server: Running) -> None:
        async with connected(server, ping_interval=None) as client:
            await client.send(type="start", inputs={**ONE, "text": "Hello there."})
            await client.until("audio")
            client.socket.transport.pause_reading()
            await asyncio.sleep(1.5)
            client.socket.transport.resume_reading()
            await client.until("done")
            await client.send(type="start", id="after", inputs={**ONE, "text": "Hello."})
            await client.until("done")

    def slow(settings: Any, metrics: Any, sample_rate: float) -> Any:
        return make_protocols(settings, metrics, sample_rate / 100)  # the sound counts as longer

    monkeypatch.setattr("uniaudio_engine.serving.server._PING_SECONDS", 0.2)
    monkeypatch.setattr("uniaudio_engine.serving.server.make_protocols", slow)
    with running(engine) as server:
        asyncio.run(main(server))


def test_a_client_that_answers_no_ping_is_cut(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uniaudio_engine.serving.server._PING_SECONDS", 0.2)

    async def main(server: Running) -> None:
        async with connected(server) as client:
            await client.until("ready")
            client.socket.transport.pause_reading()
            await asyncio.to_thread(until, lambda: server.metric("websockets") == 0)

    with running(engine) as server:
        asyncio.run(main(server))


def test_keys_and_origins(engine: Engine) -> None:
    key = "k" * 20

    async def main(server: Running) -> None:
        bearer = {"Authorization": f"Bearer {key}"}
        async with connected(server, additional_headers=bearer) as client:
            await client.until("ready")
        async with connected(server) as client:
            await client.send(type="auth", api_key=key)
            await client.until("ready")
        for first in ({"type": "auth", "api_key": "x" * 20}, {"type": "start"}, {"api_key": 5}):
            async with connected(server) as client:
                await client.send(**first)
                with pytest.raises(ConnectionClosed) as e:
                    await client.next()
                assert e.value.rcvd is not None and e.value.rcvd.code == 1008
        for headers in ({"Authorization": "Bearer no"}, {"Origin": "https://evil.example"}):
            with pytest.raises(InvalidStatus) as refused:
                async with connected(server, additional_headers=headers):
                    pass
            assert refused.value.response.status_code == 403

    with running(engine, api_keys=(key,)) as server:
        asyncio.run(main(server))


@pytest.mark.parametrize("acks", [False, True])
def test_a_client_that_does_not_play_on_is_cut(engine: Engine, acks: bool) -> None:
    async def main(server: Running) -> None:
        async with connected(server) as client:
            await client.send(type="start", inputs={**ONE, "text": LONG_TEXT}, window=0.2)
            await client.until("audio")
            if acks:
                await client.send(type="ack", played=0.01)
            with pytest.raises(ConnectionClosed):
                while True:
                    await client.next()

    with running(engine, stall_seconds=0.3) as server:
        asyncio.run(main(server))
        assert server.metric("clients_cut_total") == 1
