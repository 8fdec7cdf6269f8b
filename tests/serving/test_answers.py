"""Imported models: tasks that make no sound, tokens and states as inputs."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_tools import Running, running, tone
from test_faults import random_value
from test_reference_tasks import LABELS, STATES, reference_config
from test_tasks_http import REQUESTS
from tiny import random_weights

from uniaudio_engine import Engine, InputError
from uniaudio_engine.audio.reading import read_audio
from uniaudio_engine.audio.sound import to_int16
from uniaudio_engine.serving.errors import ApiError
from uniaudio_engine.serving.inputs import Upload
from uniaudio_engine.storage.folder_writing import save_folder
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("models") / "reference"
    config = reference_config()
    assert config.lm is not None
    codec = random_weights(codec_shapes(config.codec))
    save_folder(path, config, codec, random_weights(lm_shapes(config.lm), 1), LABELS)
    return Engine.from_pretrained(path, dtype="float32", threads=1)


@pytest.fixture(scope="module")
def other(reference: Engine) -> Iterator[Running]:
    with running(reference) as server:
        yield server


def file(seconds: float) -> bytes:
    f = io.BytesIO()
    tone(seconds).save(f, "flac")
    return f.getvalue()


def post(server: Running, task: str, **request: Any) -> Any:
    with server.client() as http:
        return http.post(f"/v1/tasks/{task}", **request)


def test_answers_that_are_no_sound(other: Running, reference: Engine) -> None:
    sounds = {"source": file(0.5), "prompt": file(1.0)}
    own = reference.understand("sv", **sounds, seed=3)
    got = post(other, "sv", files=sounds, data={"seed": 3}).json()
    assert got["tokens"] == list(own.tokens) and got["meta"]["seed"] == 3
    own = reference.understand("asr", source=[1, 2, 3], seed=3, max_ratio=1.0)
    for source in ([1, 2, 3], "1 2 3"):
        body = {"source": source, "seed": 3, "max_ratio": 1.0}
        assert post(other, "asr", json=body).json()["tokens"] == list(own.tokens)


def test_a_task_with_another_answer_is_no_transcription(other: Running) -> None:
    with other.client() as http:
        answer = http.post("/v1/audio/transcriptions", files={"file": file(0.5)})
    assert answer.status_code == 501 and "/v1/tasks/asr" in answer.json()["error"]["message"]


def test_states_are_rows_of_numbers(other: Running, reference: Engine) -> None:
    options = {"seed": 1, "seconds": 0.5}
    own = reference.generate("t2s", text=STATES, **options)
    got = post(other, "t2s", json={"text": STATES.tolist(), **options})
    samples = to_int16(read_audio(got.content, 16000).samples)
    np.testing.assert_array_equal(samples, to_int16(own.samples))


@pytest.mark.parametrize("name", ["states.npy", "states.txt"])
def test_states_and_tokens_are_never_files(other: Running, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    np.save(tmp_path / "states.npy", STATES)
    (tmp_path / "states.txt").write_text("1 2 3")
    for task, field in (("t2s", "text"), ("asr", "source")):
        answer = post(other, task, json={field: str(path), "seed": 1})
        message = answer.json()["error"]["message"]
        assert answer.status_code == 400 and message.startswith(f"{field}: ")


def test_any_json_is_used_or_refused(other: Running, server: Running) -> None:
    """For any input of any task, as far as the language model."""
    rng, used, refused = random.Random(4), 0, 0
    for running_one in (other, server):
        engine, reader = running_one.service.engine, running_one.service.reader
        for _ in range(1000):
            task = rng.choice(list(engine.model.tasks.values()))
            schema = task.schema()
            names = [v["name"] for v in (*schema["inputs"], *schema["options"])]
            given: dict[str, Any] = {}
            if running_one is server:  # what works, with something else in it
                for k, v in REQUESTS[task.name].items():
                    given[k] = Upload(v) if isinstance(v, bytes) else v
            given |= {rng.choice(names): random_value(rng) for _ in range(rng.randrange(1, 3))}
            try:
                engine.plan(task.name, **reader.read(task, given, ""))
                used += 1
            except (InputError, ApiError) as e:
                refused += 1
                assert "\n" not in str(e)
    assert used > 20 and refused > 1000


@pytest.mark.parametrize("value", [[], [[1], [1, 2]], [["x"]], {}, 5, [[None]]])
def test_bad_states_are_refused(other: Running, value: Any) -> None:
    answer = post(other, "t2s", json={"text": value, "seed": 1})
    assert answer.status_code == 400 and "\n" not in answer.json()["error"]["message"]
