"""Replicas on a cluster, asked by the clients of the server's own tests."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
import soundfile
from conftest import Nodes
from server_tools import PATIENCE, tone, until

from uniaudio_engine import Engine, InputError
from uniaudio_engine.audio.sound import to_int16

serve = pytest.importorskip("ray.serve", reason="needs the ray extra")
pytest.importorskip("openai")

from openai import OpenAI
from websockets.asyncio.client import connect

from uniaudio_engine.serving import replicas
from uniaudio_engine.serving.replicas import NAME, Replicas, application, build
from uniaudio_engine.serving.settings import Settings

TEXT = "Hello there. How are you?"


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return Engine.from_pretrained(model, threads=1)


class Served:
    def __init__(self, model: Path, voices: Path) -> None:
        self.load = partial(Engine.from_pretrained, model, threads=1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.settings = Settings(port=port, voices=voices, drain_seconds=60.0, max_sessions=4)
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)
        replicas.start(self.settings, "HeadOnly")  # all nodes here share one address

    def deploy(self, count: int, wait: bool = True) -> None:
        # A replica takes half a processor: a new one can start while an old one drains.
        made = application(self.load, self.settings, Replicas(count, count, cpus=0.5))
        target = serve.RunTarget(made, name=NAME, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=wait)

    def active(self) -> float:
        """Running sessions of the replica that answers."""
        text = self.client.get("/metrics").text
        return float(re.findall(r"^uniaudio_sessions_active (\S+)$", text, re.MULTILINE)[0])


@pytest.fixture(scope="module")
def served(nodes: Nodes, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(model, tmp_path_factory.mktemp("voices"))
    try:
        made.deploy(2)
        yield made
    finally:
        made.client.close()
        serve.shutdown()


def upload(served: Served, name: str) -> None:
    sample = io.BytesIO()
    soundfile.write(sample, tone(1.0).samples, 16000, format="WAV")
    files = {"audio_sample": ("me.wav", sample.getvalue(), "audio/wav")}
    fields = {"name": name, "consent": "yes"}
    assert served.client.post("/v1/audio/voices", data=fields, files=files).status_code == 201


def test_the_same_sound_by_http(served: Served, engine: Engine) -> None:
    """OpenAI's client, several times at once."""
    client = OpenAI(
        base_url=f"{served.url}/v1", api_key="none", http_client=httpx.Client(trust_env=False)
    )

    def ask(_: int) -> bytes:
        with client.audio.speech.with_streaming_response.create(
            model="tiny",
            voice=None,  # type: ignore[arg-type]
            input=TEXT,
            response_format="pcm",
            extra_body={"seed": 7, "sample_rate": 16000},
        ) as response:
            return b"".join(response.iter_bytes())

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(ask, range(4)))
    assert got == [to_int16(engine.tts(TEXT, seed=7).samples).tobytes()] * 4


def test_an_uploaded_voice_is_known_to_all_replicas(served: Served) -> None:
    upload(served, "mine")
    for _ in range(8):
        names = [v["id"] for v in served.client.get("/v1/audio/voices").json()["data"]]
        assert names == ["mine"]
    assert served.client.delete("/v1/audio/voices/mine").status_code == 200
    for _ in range(8):
        assert served.client.get("/v1/audio/voices").json()["data"] == []


async def said(
    served: Served, pieces: AsyncIterator[str], heard: asyncio.Event | None = None
) -> bytes:
    """What the WebSocket answers to a text that comes in pieces; ``heard`` is set by its first."""
    sound = b""
    async with connect(f"{served.url.replace('http', 'ws')}/v1/stream", proxy=None) as ws:

        async def feed() -> None:
            await ws.send(json.dumps({"type": "start", "id": "a", "inputs": {"seed": 3}}))
            async for piece in pieces:
                await ws.send(json.dumps({"type": "text", "text": piece}))
            await ws.send(json.dumps({"type": "end"}))

        feeding = asyncio.create_task(feed())
        try:
            async for message in ws:
                if isinstance(message, bytes):
                    sound += message
                    if heard is not None:
                        heard.set()
                    continue
                event = json.loads(message)
                assert event["type"] != "error", event
                if event["type"] == "done":
                    break
        finally:
            feeding.cancel()
    return sound


async def in_two(rest: asyncio.Event) -> AsyncIterator[str]:
    """A text of which the second half comes when it is asked for."""
    yield f"{TEXT} "
    await asyncio.wait_for(rest.wait(), PATIENCE)
    yield "This is the rest."


@pytest.mark.slow
def test_sessions_end_well_when_replicas_are_taken_away(served: Served) -> None:
    """Two replicas become one while two clients hear a text of which the rest comes later."""

    async def speak(count: int, between: Callable[[], None]) -> list[bytes]:
        heard, rest = [asyncio.Event() for _ in range(count)], asyncio.Event()
        sessions = [asyncio.create_task(said(served, in_two(rest), h)) for h in heard]
        await asyncio.wait_for(asyncio.gather(*(h.wait() for h in heard)), PATIENCE)
        await asyncio.to_thread(between)
        assert not any(s.done() for s in sessions)
        rest.set()
        return list(await asyncio.gather(*sessions))

    def scale_down() -> None:
        # Not in a thread: Serve's configurations may not be made in two threads at once.
        served.deploy(1, wait=False)
        until(lambda: states().count("STOPPING") >= 1)
        time.sleep(2.0)  # a replica that does not wait would be gone
        assert states().count("STOPPING") >= 1

    (want,) = asyncio.run(speak(1, lambda: None))
    assert asyncio.run(speak(2, scale_down)) == [want, want]
    until(lambda: states() == ["RUNNING"])
    assert served.active() == 0


def test_sound_comes_while_it_is_made_and_a_client_that_leaves_ends_it(served: Served) -> None:
    if len(states()) > 1:
        served.deploy(1)  # so that the counts are those of the one that is asked

    async def leave() -> None:
        heard = asyncio.Event()
        session = asyncio.create_task(said(served, in_two(asyncio.Event()), heard))
        await asyncio.wait_for(heard.wait(), PATIENCE)
        assert await asyncio.to_thread(served.active) == 1
        session.cancel()
        await asyncio.wait({session})

    asyncio.run(leave())
    until(lambda: served.active() == 0)


def states() -> list[str]:
    (deployment,) = serve.status().applications[NAME].deployments.values()
    return [str(s) for s, n in deployment.replica_states.items() for _ in range(n)]


@pytest.mark.parametrize("text", ["0", "2:1", "x", "", "1:", "-1"])
def test_wrong_replicas(text: str) -> None:
    with pytest.raises(InputError, match="replicas: expected a number from 1, or MIN:MAX"):
        Replicas.parse(text)


def test_what_serve_run_calls(model: Path) -> None:
    made = build({"model": str(model), "replicas": "1:3", "threads": "2", "max_sessions": "6"})
    deployment = made._bound_deployment
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    assert scaling.target_ongoing_requests == 3 and deployment.ray_actor_options["num_cpus"] == 2
    with pytest.raises(InputError, match="expected some of replicas, model, .*, got 'modle'"):
        build({"modle": str(model)})
    with pytest.raises(InputError, match="HTTP and WebSockets only"):
        application(partial(Engine.from_pretrained, model), Settings(wyoming="10200"))
