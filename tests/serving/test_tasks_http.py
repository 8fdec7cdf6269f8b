"""Every task over HTTP: as the engine does it, and without ever opening what a request names."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from server_tools import Running, tone

from uniaudio_engine import Engine
from uniaudio_engine.audio.reading import read_audio
from uniaudio_engine.audio.sound import to_int16
from uniaudio_engine.errors import InputError
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.serving import inputs
from uniaudio_engine.serving.errors import ApiError
from uniaudio_engine.serving.inputs import Upload

SCORE = "C4 1 do\nD4 1 re\n"


def sound_file(seconds: float = 1.0, hertz: float = 220.0) -> bytes:
    f = io.BytesIO()
    tone(seconds, hertz).save(f, "flac")
    return f.getvalue()


SOUND = sound_file()
# Inputs of each task: those of a form, and as the engine takes them.
REQUESTS: dict[str, dict[str, Any]] = {
    "tts": {"text": "Hello there.", "voice": "one"},
    "vc": {"source": SOUND, "voice": "two"},
    "se": {"source": SOUND},
    "tse": {"source": SOUND, "voice": sound_file(1.0, 330.0)},
    "svs": {"score": SCORE, "voice": "one"},
    "t2s": {"text": "three knocks on wood", "seconds": 0.5},
    "t2m": {"text": "slow piano in c major", "seconds": 0.5},
    "a_edit": {"instruction": "add a bell", "source": SOUND, "span": "0.2:0.6"},
    "sd": {"source": SOUND},
    "i_tts": {"instruction": "a low voice", "text": "Hello."},
    "s_edit": {"source": SOUND, "span": "0.2:0.6", "text": "Hello."},
}


def post(server: Running, task: str, values: dict[str, Any], **more: Any) -> Any:
    """A multipart form; bytes are files."""
    parts = {
        k: ("sound", v) if isinstance(v, bytes) else (None, str(v))
        for k, v in {**values, **more}.items()
    }
    with server.client() as http:
        return http.post(f"/v1/tasks/{task}", files=parts)


def samples_of(response: Any) -> np.ndarray:
    assert response.status_code == 200, response.text
    return to_int16(read_audio(response.content, 16000).samples)


@pytest.mark.parametrize("task", TASKS)
def test_a_form_gives_what_the_engine_gives(server: Running, engine: Engine, task: str) -> None:
    values = REQUESTS[task] | {"seed": 5}
    response = post(server, task, values)
    assert response.headers["x-uniaudio-seed"] == "5"
    np.testing.assert_array_equal(
        samples_of(response), to_int16(engine.generate(task, **values).samples)
    )


@pytest.mark.parametrize("task", TASKS)
def test_json_gives_the_same_as_a_form(server: Running, task: str) -> None:
    values = REQUESTS[task] | {"seed": 5}
    body = {
        k: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v
        for k, v in values.items()
    }
    with server.client() as http:
        response = http.post(f"/v1/tasks/{task}", json=body)
    np.testing.assert_array_equal(samples_of(response), samples_of(post(server, task, values)))


def test_the_last_event_has_what_is_known(server: Running, engine: Engine) -> None:
    values = REQUESTS["tts"] | {"seed": 5}
    response = post(server, "tts", values, stream_format="sse")
    meta = json.loads(response.text.strip().rpartition("data: ")[2])["meta"]
    own = engine.generate("tts", **values).meta
    assert meta["words"] == own["words"] and meta["seed"] == 5
    assert "path" not in meta and "threads" not in meta


def test_the_schema_is_the_engines(server: Running, engine: Engine) -> None:
    with server.client() as http:
        assert http.get("/v1/tasks").json()["data"] == engine.tasks()
        assert http.get("/v1/tasks/se").json() == engine.task("se").schema()
        assert http.get("/v1/tasks/none").status_code == 404


def test_a_lexicon_is_its_contents(server: Running, engine: Engine) -> None:
    line = "kokoro z ao1 z ao1 z ao1 z"
    word, _, phones = line.partition(" ")
    values = {"text": "Kokoro.", "seed": 1, "voice": "one"}
    own = to_int16(engine.tts(**values, lexicon={word: phones}).samples)
    assert len(own) != len(engine.tts(**values).samples)
    for lexicon in ({word: phones}, {word: phones.split()}, line):
        with server.client() as http:
            got = http.post("/v1/tasks/tts", json=values | {"lexicon": lexicon})
        np.testing.assert_array_equal(samples_of(got), own)
    for as_part in (line, line.encode(), json.dumps({word: phones})):
        got = post(server, "tts", values | {"lexicon": as_part})
        np.testing.assert_array_equal(samples_of(got), own)


def test_a_score_may_be_a_file(server: Running) -> None:
    values = REQUESTS["svs"] | {"seed": 5}
    files = {"score": ("../my song.TXT", SCORE.encode())}
    with server.client() as http:
        got = http.post("/v1/tasks/svs", data={"voice": "one", "seed": 5}, files=files)
        other = http.post("/v1/tasks/svs", data={"voice": "one"}, files={"score": ("a", b"x")})
        notes = http.post(
            "/v1/tasks/svs",
            json={"voice": "one", "seed": 5, "score": [["C4", 1.0, "do"]]},
        )
    np.testing.assert_array_equal(samples_of(got), samples_of(post(server, "svs", values)))
    assert other.status_code == 400 and notes.status_code in (200, 400)


# Paths


opened: list[str] = []
_watching = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("open", "os.listdir", "os.scandir", "glob.glob", "os.stat"):
        opened.append(str(arguments[0]))


sys.addaudithook(_hook)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file of every kind that an input could be; nothing in it may be opened."""
    global _watching
    tone(1.0).save(tmp_path / "canary.wav")
    (tmp_path / "canary.txt").write_text(SCORE)
    (tmp_path / "canary.lexicon").write_text("hello hh ax0 l ow1\n")
    np.save(tmp_path / "canary.npy", np.zeros(3, np.int32))
    for ending in ("mid", "musicxml", "safetensors", "xml"):
        (tmp_path / f"canary.{ending}").write_bytes(b"canary")
    opened.clear()
    _watching = True
    yield tmp_path
    _watching = False


def test_the_hook_sees_what_is_opened(canary: Path) -> None:
    (canary / "canary.txt").read_text()
    assert any("canary" in name for name in opened)


def strings(canary: Path) -> list[str]:
    """Names that lead to the canaries, in all the ways that a client may write them."""
    return [*map(str, canary.iterdir()), f"file://{canary}/canary.wav", "canary.txt", "-"]


@pytest.mark.parametrize("task", TASKS)
def test_no_string_is_opened(server: Running, engine: Engine, canary: Path, task: str) -> None:
    """What a client gives for any input, as far as the language model."""
    schema = TASKS[task].schema()
    names = [i["name"] for i in schema["inputs"]] + [o["name"] for o in schema["options"]]
    values = {k: Upload(v) if isinstance(v, bytes) else v for k, v in REQUESTS[task].items()}
    planned = 0
    for name in [*names, "voice", "unknown"]:
        for path in strings(canary):
            for value in (path, [path], {path: path}, {"base64": path}, Upload(SOUND, path)):
                with contextlib.suppress(InputError, ApiError):
                    given = {k: v for k, v in values.items() if (k, name) != ("voice", "prompt")}
                    read = server.service.reader.read(engine.task(task), given | {name: value}, "")
                    engine.plan(task, **read)
                    planned += 1
    assert planned and not [name for name in opened if "canary" in name]


def test_no_string_of_a_request_is_opened(server: Running, canary: Path) -> None:
    with server.client() as http:
        for path in strings(canary):
            http.get(f"/v1/tasks/{path}")
            http.delete(f"/v1/audio/voices/{path}")
            http.post(f"/v1/tasks/{path}", json={})
            files = {"source": (path, SOUND), "voice": (path, SOUND)}
            assert http.post("/v1/tasks/vc", files=files).status_code == 200
            http.post("/v1/tasks/svs", files={"score": (path, b"canary")})
            http.post("/v1/audio/voices", data={"name": path, "consent": "yes"}, files=files)
            speech = {"model": "tiny", "voice": "one", "input": "Hello."}
            for name in ("model", "voice", "instructions", "response_format"):
                http.post("/v1/audio/speech", json=speech | {name: path})
    assert not [name for name in opened if "canary" in name]


# Limits and other people's data


def test_long_and_wide_sounds_are_refused(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_MAX_VALUES", 5 << 20)

    def file(seconds: float, channels: int, rate: int) -> bytes:
        f = io.BytesIO()
        silence = np.zeros((round(seconds * rate), channels), np.int16)
        soundfile.write(f, silence, rate, format="FLAC")
        return f.getvalue()

    long, wide = file(601.5, 1, 8000), file(60, 8, 16000)
    assert len(long) < 1 << 20 and len(wide) < 1 << 20
    response = post(server, "se", {"source": long})
    assert response.status_code == 400 and "at most 600 s" in response.text
    response = post(server, "se", {"source": wide})
    assert response.status_code == 400 and "in all channels" in response.text


@pytest.mark.parametrize(
    ("task", "change", "says"),
    [
        ("tts", {"text": 5}, "text: expected a string"),
        ("tts", {"text": "\\ud800"}, "surrogate"),
        ("tts", {"voice": ["one"]}, "prompt: expected an uploaded"),
        ("tts", {"nonsense": 1}, "unknown name nonsense"),
        ("tts", {"sample_rate": 5}, "sample_rate"),
        ("tts", {"phones": ["hh", 5], "text": None}, "phones"),
        ("tts", {"lexicon": {"a": [5]}}, "lexicon"),
        ("t2s", {"seconds": 3000}, "at most 1800"),
        ("t2s", {"seconds": "long"}, "seconds: expected a number"),
        ("svs", {"score": [[{}]]}, "score"),
        ("svs", {"score": 7}, "score"),
        ("se", {"source": "a.wav"}, "source: expected an uploaded sound file"),
        ("se", {"source": {"base64": "!"}}, "base64"),
        ("se", {}, "source is missing"),
    ],
)
def test_bad_values_are_one_line(
    server: Running, task: str, change: dict[str, Any], says: str
) -> None:
    body = {k: v for k, v in REQUESTS[task].items() if not isinstance(v, bytes)} | change
    with server.client() as http:
        text = json.dumps(body).replace("\\\\ud800", "\\ud800")
        response = http.post(
            f"/v1/tasks/{task}", content=text, headers={"content-type": "application/json"}
        )
    message = response.json()["error"]["message"]
    assert response.status_code == 400 and says in message and "\n" not in message


def test_requests_never_get_each_others_sound(server: Running, engine: Engine) -> None:
    texts = [f"Sentence number {i}." for i in range(12)]
    own = [to_int16(engine.tts(t, seed=i, prompt="one").samples) for i, t in enumerate(texts)]

    def ask(i: int) -> np.ndarray:
        values = {"text": texts[i % 12], "seed": i % 12, "voice": "one"}
        return samples_of(post(server, "tts", values))

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for i, got in enumerate(pool.map(ask, range(48))):
            np.testing.assert_array_equal(got, own[i % 12])
