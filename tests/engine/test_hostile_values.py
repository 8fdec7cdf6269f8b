"""Values that no caller means: numbers beyond all types, names that arguments of our own have,
closed standard streams. Each is one line and exit code 2, or works; none is a traceback.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uniaudio_engine import Engine, InputError
from uniaudio_engine.storage.folder import load_folder

HUGE = 10**400
SOUND = (np.full(16000, 0.1, np.float32), 16000)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_pretrained(threads=1)


OPTIONS = ("seed", "top_k", "top_p", "temperature", "speed", "guidance", "duration_temperature")


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", [HUGE, -HUGE, float("nan"), float("inf"), "9" * 400, [1], True])
def test_options(engine: Engine, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        engine.tts("Yes.", **{name: value})


def test_a_temperature_beside_zero_is_greedy(engine: Engine) -> None:
    cold = engine.tts("Yes.", seed=1, temperature=1e-45, duration_temperature=1e-45)
    zero = engine.tts("Yes.", seed=1, temperature=0, duration_temperature=0)
    assert np.array_equal(cold.samples, zero.samples)


CALLS: list[Callable[[Engine], Any]] = [
    lambda e: e.generate("tts", text=3),
    lambda e: e.generate(["tts"], text="Yes."),  # type: ignore[arg-type]
    lambda e: e.generate(None),  # type: ignore[arg-type]
    lambda e: e.stream("tts", text="Yes.", chunk_frames=[HUGE, 0]),
    lambda e: e.tts("Yes.", voice="x" * 5000),
    lambda e: e.tts("Yes.", voice="a\0b"),
    lambda e: e.enhance("x" * 5000),
    lambda e: e.sing("C4 " + "9" * 5000 + " la"),
    lambda e: e.sound("rain", seconds=HUGE),
    lambda e: e.edit("rain", SOUND, span=(HUGE, 3)),
    lambda e: e.edit("rain", SOUND, span=(1,)),
    lambda e: e.encode((np.zeros(100), HUGE)),
    lambda e: e.encode(None),  # type: ignore[arg-type]
    lambda e: e.decode(None),  # type: ignore[arg-type]
    lambda e: e.voice(3),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_calls(engine: Engine, number: int) -> None:
    with pytest.raises(InputError) as e:
        CALLS[number](engine)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "values",
    [
        {"device": None},
        {"device": 3},
        {"dtype": ["int8"]},
        {"backend": 3},
        {"kv_dtype": None},
        {"path": "x" * 5000},
        {"path": "a\0b"},
        {"threads": HUGE},
        {"max_seconds": HUGE},
        {"max_seconds": float("nan")},
        {"encoders": 3},
        {"encoders": {"t5": None}},
        {"encoders": {3: "x"}},
    ],
)
def test_loading(values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Engine.from_pretrained(**values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("lm", "global", "rope_base"), HUGE),
        (("lm", "global", "layers"), HUGE),
        (("codec", "spectral", "log_floor"), HUGE),
        (("codec", "sample_rate"), HUGE),
        (("level",), HUGE),
        (("lm", "max_frames"), -HUGE),
    ],
)
def test_numbers_in_a_configuration(tmp_path: Path, path: tuple[str, ...], value: int) -> None:
    config = json.loads((load_folder().path / "config.json").read_text())
    at = config
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        Engine.from_pretrained(tmp_path)


def command(shell: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", shell.replace("uniaudio", f"{sys.executable} -m uniaudio_engine")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("pair", ["self=1", "task=x", "chunk_frames=3", f"seed={HUGE}", "voice="])
def test_names_and_numbers_on_the_command_line(tmp_path: Path, pair: str) -> None:
    done = command(f"uniaudio run tts text=Yes. {pair} -o a.wav", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(tmp_path: Path, closed: str) -> None:
    done = command(f"uniaudio tts Yes. --seed 1 -o a.wav {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.wav").stat().st_size > 1000


def test_closed_standard_streams_that_are_needed(tmp_path: Path) -> None:
    for shell in ("uniaudio tts - -o a.wav <&-", "uniaudio tts Yes. -o - >&-"):
        done = command(shell, tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
