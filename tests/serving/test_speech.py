"""OpenAI's speech API, with its own client and with plain HTTP."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from server_tools import Running, tone

from uniaudio_engine import Engine
from uniaudio_engine.audio.reading import read_audio
from uniaudio_engine.audio.sound import to_int16

openai = pytest.importorskip("openai")

TEXT = "Hello there. How are you?"


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.Client(trust_env=False),
    )


def wanted(engine: Engine, **more: Any) -> np.ndarray:
    return to_int16(engine.tts(TEXT, prompt="one", seed=7, **more).samples)


def read(data: bytes, rate: int = 16000) -> np.ndarray:
    """A streamed file as int16; its header does not say how long it is."""
    return to_int16(read_audio(data, rate).samples)


def test_the_whole_sound(client: Any, engine: Engine) -> None:
    got = client.audio.speech.create(
        model="tiny", voice="one", input=TEXT, response_format="wav", extra_body={"seed": 7}
    )
    assert soundfile.info(io.BytesIO(got.content)).samplerate == engine.sample_rate
    np.testing.assert_array_equal(read(got.content), wanted(engine))


def test_the_sound_while_it_is_made(client: Any, engine: Engine) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tiny",
        voice={"id": "one"},
        input=TEXT,
        response_format="flac",
        speed=1.25,
        extra_body={"seed": 7},
    ) as response:
        assert response.headers["x-uniaudio-seed"] == "7"
        data = b"".join(response.iter_bytes())
    np.testing.assert_array_equal(read(data), wanted(engine, speed=1.25))


def test_events(server: Running, engine: Engine) -> None:
    body = {
        "model": "tiny",
        "voice": "one",
        "input": TEXT,
        "seed": 7,
        "stream_format": "sse",
        "response_format": "wav",
    }
    with server.client() as http:
        response = http.post("/v1/audio/speech", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(e.removeprefix("data: ")) for e in response.text.split("\n\n") if e]
    assert {e["type"] for e in events[:-1]} == {"speech.audio.delta"} and len(events) > 2
    data = b"".join(base64.b64decode(e["audio"]) for e in events[:-1])
    np.testing.assert_array_equal(read(data), wanted(engine))
    words = [word for e in events for word in e.get("words", [])]
    own = engine.tts(TEXT, voice="one", seed=7).meta["words"]
    assert words == [{k: w[k] for k in words[0]} for w in own if w["word"]]
    assert sum("words" in e for e in events) > 1
    usage = events[-1]["usage"]
    assert events[-1]["type"] == "speech.audio.done"
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > len(TEXT)


@pytest.mark.parametrize("kind", ["mp3", "opus", "ogg", "flac", "wav"])
def test_formats(client: Any, engine: Engine, kind: str) -> None:
    got = client.audio.speech.create(
        model="tiny", voice="one", input=TEXT, response_format=kind, extra_body={"seed": 7}
    )
    samples, own = read(got.content), wanted(engine)
    # Of an MP3 the encoder's padding is heard, too.
    assert 0 <= len(samples) - len(own) < 0.2 * engine.sample_rate
    assert np.abs(samples).max() > 100


def test_pcm_is_at_24_khz_unless_asked_otherwise(client: Any, engine: Engine) -> None:
    def pcm(**more: Any) -> np.ndarray:
        got = client.audio.speech.create(
            model="tiny",
            voice="one",
            input=TEXT,
            response_format="pcm",
            extra_body={"seed": 7, **more},
        )
        return np.frombuffer(got.content, "<i2")

    own = wanted(engine)
    np.testing.assert_array_equal(pcm(sample_rate=engine.sample_rate), own)
    assert abs(len(pcm()) - len(own) * 24000 / engine.sample_rate) <= 2


def test_instructions_choose_the_instructed_task(server: Running, engine: Engine) -> None:
    body = {
        "model": "tiny",
        "input": TEXT,
        "instructions": "a low voice",
        "seed": 3,
        "response_format": "wav",
    }
    with server.client() as http:
        samples = read(http.post("/v1/audio/speech", json=body).content)
    instructed = engine.generate("i_tts", text=TEXT, instruction="a low voice", seed=3)
    np.testing.assert_array_equal(samples, to_int16(instructed.samples))


@pytest.mark.parametrize(
    ("change", "status", "param", "says"),
    [
        ({"model": "tts-1"}, 404, "model", "expected one of tiny"),
        ({"voice": "alloy"}, 400, "voice", "expected one of one, two"),
        ({"voice": "/etc/passwd"}, 400, "voice", "expected one of"),
        ({"response_format": "aac"}, 400, "response_format", "mp3, opus"),
        ({"input": ""}, 400, "text", "empty"),
        ({"input": "x" * 20000}, 400, "text", "at most 10000 characters"),
        ({"input": 5}, 400, None, "input"),
        ({"speed": 9}, 400, None, "speed"),
        ({"unknown": 1}, 400, None, "unknown"),
        ({"stream_format": "tape"}, 400, None, "stream_format"),
    ],
)
def test_errors_have_openais_shape(
    server: Running, change: dict[str, Any], status: int, param: str | None, says: str
) -> None:
    body = {"model": "tiny", "voice": "one", "input": TEXT} | change
    with server.client() as http:
        response = http.post("/v1/audio/speech", json=body)
    error = response.json()["error"]
    assert response.status_code == status and set(error) == {"message", "type", "param", "code"}
    assert says in error["message"] and "\n" not in error["message"]
    assert param is None or error["param"] == param


def test_the_client_understands_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as e:
        client.audio.speech.create(model="tts-1", voice="one", input=TEXT)
    assert e.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as other:
        client.audio.transcriptions.create(model="tiny", file=("a.wav", b"RIFF"))
    assert other.value.status_code == 501 and "does not transcribe" in other.value.message


def test_models(client: Any) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_voices_are_uploaded_used_and_deleted(server: Running) -> None:
    sound = io.BytesIO()
    tone(1.0, 440.0).save(sound, "flac")
    upload = {"audio_sample": ("../../etc/passwd", sound.getvalue())}
    say = {"model": "tiny", "voice": "mine", "input": TEXT, "seed": 1}
    with server.client() as http:

        def names() -> list[str]:
            return [v["id"] for v in http.get("/v1/audio/voices").json()["data"]]

        assert names() == ["one", "two"]
        fields = {"name": "mine", "consent": "yes"}
        assert http.post("/v1/audio/voices", data=fields, files=upload).status_code == 201
        assert names() == ["one", "two", "mine"]
        own = http.post("/v1/audio/speech", json=say)
        other = http.post("/v1/audio/speech", json=say | {"voice": "one"})
        assert own.status_code == other.status_code == 200 and own.content != other.content
        for name in ("one", "", "../x", "a/b", "x" * 65, "mine.safetensors"):
            answer = http.post(
                "/v1/audio/voices", data={"name": name, "consent": "yes"}, files=upload
            )
            assert answer.status_code == 400, name
        refused = http.post("/v1/audio/voices", data={"name": "other"}, files=upload)
        assert refused.status_code == 400 and "consent" in refused.json()["error"]["message"]
        assert http.delete("/v1/audio/voices/one").status_code == 403
        assert http.delete("/v1/audio/voices/mine").json()["deleted"] is True
        assert http.delete("/v1/audio/voices/mine").status_code == 404
        assert http.post("/v1/audio/speech", json=say).status_code == 400
