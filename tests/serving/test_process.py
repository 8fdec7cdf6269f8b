"""``uniaudio serve`` as a process: its command line, its logs, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_tools import LONG_TEXT, PATIENCE

import uniaudio_engine
from uniaudio_engine.cli.main import main

SAY = {"model": "tiny", "voice": "one", "input": "Hello.", "response_format": "wav"}


class Process:
    """The command, and what it logs."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.lines: list[dict[str, Any]] = []
        command = [sys.executable, "-m", "uniaudio_engine", "serve", "-m", str(folder)]
        path = os.pathsep.join(
            [str(Path(uniaudio_engine.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        )
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--threads", "1", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.url = f"http://127.0.0.1:{self.next('listening')['port']}"

    def next(self, event: str) -> dict[str, Any]:
        """The next line of the log about ``event``."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no {event}: {self.lines}")

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Process]:
    process = Process(folder, *arguments)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait(PATIENCE)


def test_sigterm_lets_running_streams_end(folder: Path) -> None:
    patient = ("--drain-seconds", "60", "--stall-seconds", "60")
    some = LONG_TEXT[:600]
    with serving(folder, *patient) as server, server.client() as http:
        with http.stream("POST", "/v1/audio/speech", json=SAY | {"input": some}) as response:
            data = response.iter_raw()
            got = len(next(data))
            server.process.send_signal(signal.SIGTERM)
            assert server.next("draining")["sessions"] == 1
            with pytest.raises(httpx.TransportError), server.client() as other:
                other.get("/health")
            got += sum(map(len, data))
        assert server.process.wait(PATIENCE) == 0
    made = server.next("request")["audio_seconds"]
    assert got == 44 + 2 * round(made * 16000) and made > 10
    assert server.next("stopped")["all_sessions_ended"] is True


def test_streams_that_take_too_long_are_broken_off(folder: Path) -> None:
    quick = ("--drain-seconds", "0.2", "--stall-seconds", "60")
    with serving(folder, *quick) as server, server.client() as http:
        with http.stream("POST", "/v1/audio/speech", json=SAY | {"input": LONG_TEXT}):
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0  # nothing is read meanwhile
    assert server.next("stopped")["all_sessions_ended"] is False


def test_ctrl_c_twice_ends_at_once(folder: Path) -> None:
    with serving(folder, "--stall-seconds", "60") as server, server.client() as http:
        with http.stream("POST", "/v1/audio/speech", json=SAY | {"input": LONG_TEXT}):
            server.process.send_signal(signal.SIGINT)
            server.next("draining")
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(PATIENCE) == 0


def test_a_killed_server_starts_again_with_its_voices(folder: Path, tmp_path: Path) -> None:
    voices = tmp_path / "voices"
    sample = (folder / "sample.wav").read_bytes()
    for name in ("first", "second"):
        with serving(folder, "--voices", str(voices)) as server, server.client() as http:
            added = http.post(
                "/v1/audio/voices",
                data={"name": name, "consent": "yes"},
                files={"audio_sample": sample},
            )
            assert added.status_code == 201
            listed = {v["id"] for v in http.get("/v1/audio/voices").json()["data"]}
            assert listed >= {"one", "first", name}
            assert http.post("/v1/audio/speech", json=SAY | {"voice": "first"}).is_success
            server.process.kill()
            server.process.wait(PATIENCE)


def test_logs_are_json_without_texts(folder: Path) -> None:
    with serving(folder, "--model-alias", "tts-1", "--voice-alias", "alloy=two") as server:
        with server.client() as http:
            answer = http.post(
                "/v1/audio/speech",
                json={"model": "tts-1", "voice": "alloy", "input": "zebra zebra"},
            )
            assert answer.is_success
        server.process.send_signal(signal.SIGTERM)
        server.next("stopped")
    assert "zebra" not in json.dumps(server.lines)
    assert all({"time", "level", "event"} <= set(line) for line in server.lines)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "expected an API key"),
        (["--api-key", "short"], "at least 16"),
        (["--api-key-file", "absent"], "readable file"),
        (["--voice-alias", "alloy"], "NAME=VOICE"),
        (["--max-sessions", "0"], "max_sessions"),
        (["--cors-origin", "*"], "API key"),
        (["--model", "absent"], "absent"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve"]) == 2
    err = capsys.readouterr().err
    assert "uniaudio-engine[serve]" in err and err.count("\n") == 1


def test_the_engine_needs_none_of_it() -> None:
    program = (
        "import sys, uniaudio_engine.engine, uniaudio_engine.cli.commands\n"
        "assert not {'fastapi', 'uvicorn', 'prometheus_client', 'websockets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_taken_port_is_an_error(folder: Path) -> None:
    with serving(folder) as server:
        port = server.url.rpartition(":")[2]
        second = subprocess.run(
            [sys.executable, "-m", "uniaudio_engine", "serve", "-m", str(folder), "--port", port],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert second.returncode == 2 and "address already in use" in second.stderr
