"""Fixtures: a tiny engine of all tasks with two voices, and a server for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for needed in ("fastapi", "uvicorn", "multipart", "prometheus_client", "websockets", "httpx"):
    pytest.importorskip(needed)

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from joint import make_joint_model
from server_tools import Running, running, tone

from uniaudio_engine import Engine


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of all tasks with the voices one and two. Read only."""
    path = make_joint_model(tmp_path_factory.mktemp("models") / "joint")
    engine = Engine.from_pretrained(path, threads=1)
    (path / "voices").mkdir(exist_ok=True)
    for name, hertz in (("one", 220.0), ("two", 330.0)):
        engine.encode_voice(tone(1.0, hertz), name).save(path / "voices" / f"{name}.safetensors")
    tone(1.0, 440.0).save(path / "sample.wav")
    return path


@pytest.fixture(scope="session")
def engine(folder: Path) -> Engine:
    return Engine.from_pretrained(folder, threads=1)


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(engine) as server:
        yield server
