"""The speech servers that ``serving.py`` and ``soak.py`` put under load, each a process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common

from uniaudio_engine.errors import InputError

_PATIENCE = 120.0  # seconds until a server answers
_ENGINE = common.HERE.parent  # where uniaudio_engine is


@dataclass
class SpeechServer:
    """A running server. ``listener``: what ``listeners.py`` must know of it."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    version: str = ""
    listener: list[str] = field(default_factory=list)

    def resident(self) -> int:
        """Bytes of the process in memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def errors(self) -> list[str]:
        """The lines of its log about errors, where it logs JSON."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if '"level": "error"' in line]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return bytes(answer.read())

    def listen(self, *arguments: str) -> dict[str, Any]:
        """Runs ``listeners.py`` with these arguments until it ends; returns what it heard."""
        done = subprocess.run(
            [*listeners(self), *arguments], stdout=subprocess.PIPE, check=False, text=True
        )
        if done.returncode:
            raise InputError(f"listeners.py {' '.join(arguments)}: failed, see above")
        return dict(json.loads(done.stdout))


def listeners(server: SpeechServer) -> list[str]:
    """The command of listeners of a server."""
    script = str(common.HERE / "listeners.py")
    return [sys.executable, script, "--port", str(server.port), *server.listener]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def started(command: Sequence[str], port: int, ready: str) -> Iterator[SpeechServer]:
    """Runs a command until it answers ``GET ready``, and ends it with the block."""
    paths = [str(_ENGINE), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            server = SpeechServer(process, port, Path(log.name))
            _wait_for(server, ready)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(server: SpeechServer, ready: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            server.get(ready)
            return
        except OSError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                said = server.log.read_text(encoding="utf-8", errors="replace").strip()[-300:]
                raise InputError(
                    f"expected a server on port {server.port}, got none: {said}"
                ) from None
            time.sleep(0.1)


@contextlib.contextmanager
def uniaudio(dtype: str, threads: int, sessions: int, *more: str) -> Iterator[SpeechServer]:
    """``uniaudio serve`` with room for so many sessions; its sound comes at the model's rate."""
    port = free_port()
    command = [sys.executable, "-m", "uniaudio_engine", "serve", "--port", str(port)]
    command += ["--dtype", dtype, "--threads", str(threads), "--max-sessions", str(sessions)]
    with started([*command, *more], port, "/health") as server:
        model = json.loads(server.get("/v1/models"))["data"][0]["id"]
        voices = [v["id"] for v in json.loads(server.get("/v1/audio/voices"))["data"]]
        fields = {"model": model, "sample_rate": 16000}
        server.listener = ["--fields", json.dumps(fields), "--voices", ",".join(voices)]
        yield server


@contextlib.contextmanager
def peer(name: str, python: str, threads: int, model: Path | None) -> Iterator[SpeechServer]:
    """``peers/speech_server.py`` with another engine, in the environment of ``python``."""
    port = free_port()
    script = str(common.HERE / "peers" / "speech_server.py")
    command = [python, script, name, "--port", str(port), "--threads", str(threads)]
    command += ["--model", str(model)] if model is not None else []
    with started(command, port, "/about") as server:
        about = json.loads(server.get("/about"))
        server.version = about["version"]
        server.listener = ["--rate", str(about["rate"]), "--without-seeds"]
        server.listener += ["--voices", ",".join(about.get("voices", ()))]
        yield server
