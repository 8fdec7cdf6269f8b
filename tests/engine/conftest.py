"""Fixtures: tiny model folders, and engines over the fake and over the real core."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_core
import pytest
from cuda_host import host, host_file  # noqa: F401  fixtures of the CUDA module's tests
from sounds import tone
from tiny import make_tiny_model

import uniaudio_engine.backends.core
import uniaudio_engine.storage.folder
from uniaudio_engine import Engine
from uniaudio_engine.model import Model


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Signals as from a terminal: a shell starts what it puts into the background deaf to Ctrl-C
    and Ctrl-backslash, nohup to hang-up, and that is handed on to all children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with the engine's own phones.  Read only."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engine on the fake core."""
    monkeypatch.setattr(uniaudio_engine.backends.core, "_module", fake_core)
    yield


@pytest.fixture
def engine(fake: None, tiny_folder: Path) -> Engine:
    return Engine.from_pretrained(tiny_folder)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[fake_core.LMSession]:
    """The sessions that the engine runs, as they are made."""
    made: list[fake_core.LMSession] = []
    original = Model.fork_prefix

    def kept(self: Model, shared: Any) -> Any:
        made.append(original(self, shared))
        return made[-1]

    monkeypatch.setattr(Model, "fork_prefix", kept)
    return made


@pytest.fixture(scope="session")
def real(tiny_folder: Path) -> Engine:
    """The engine on the compiled core, exact."""
    return Engine.from_pretrained(tiny_folder, dtype="float32", threads=2)


@pytest.fixture(scope="session", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs the tests in an empty folder: in the repository's root, subprocesses would find the
    sources, which have no compiled core, before the installed package.
    """
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture
def place(
    fake: None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty folder with voice.wav, and the tiny model as the bundled one."""
    monkeypatch.setattr(uniaudio_engine.storage.folder, "MODELS", tiny_folder.parent)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tone(1.0).save("voice.wav")
    yield tmp_path / "here"


@pytest.fixture(scope="session")
def joint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of all tasks. Read only."""
    from joint import make_joint_model

    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")


@pytest.fixture(scope="session")
def joint_graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny random model of all tasks with a voice, and its graphs: the first of all workers
    exports them, which takes half a minute of computing. Read only.
    """
    import fcntl  # not on Windows

    from joint import make_joint_model
    from uniaudio_training.export.write import export_onnx

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of this run, for all workers
    root = root / "joint-graphs"
    root.mkdir(exist_ok=True)
    model, graphs = root / "model", root / "graphs"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not graphs.exists():  # written whole or not at all, after the model
            make_joint_model(model)
            (model / "voices").mkdir(exist_ok=True)
            voice = Engine.from_pretrained(model, threads=1).encode_voice(tone(3.0), "somebody")
            voice.save(model / "voices" / "somebody.safetensors")
            export_onnx(model, graphs)
    return model, graphs
