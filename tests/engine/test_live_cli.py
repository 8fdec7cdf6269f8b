"""``uniaudio live``: pipes, and devices as the package sounddevice has them."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import ROOT
from live_tools import RATE, VOICE, make_live_model, speech

from uniaudio_engine import Engine
from uniaudio_engine.audio.sound import to_pcm16
from uniaudio_engine.cli.live import EPILOG, Microphone, Speaker
from uniaudio_engine.cli.main import main

PIPES = ["-i", "-", "-o", "-"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    make_live_model(folder / "model")
    VOICE.save(folder / "voice.wav")
    return folder


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], io.BytesIO]:
    """Sets standard input; returns what standard output will hold."""

    def set(data: bytes) -> io.BytesIO:
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=out, isatty=lambda: False))
        return out

    return set


def command(folder: Path, verb: str, *more: str) -> list[str]:
    voice = ["--voice", str(folder / "voice.wav")] if verb in ("convert", "extract") else []
    model = ["-m", str(folder / "model"), "--dtype", "float32", "--seed", "5"]
    return ["live", verb, *voice, *model, *more]


# Pipes


@pytest.mark.parametrize("verb", ["enhance", "convert", "extract", "dereverb"])
def test_pipes_give_the_stream(
    folder: Path, verb: str, pipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    x = speech(1.2)
    data = to_pcm16(x)
    out = pipe(data)
    assert main(command(folder, verb, *PIPES)) == 0
    engine = Engine.from_pretrained(folder / "model", dtype="float32")
    tasks = {"enhance": "se", "convert": "vc", "extract": "tse", "dereverb": "sd"}
    voice = {"voice": folder / "voice.wav"} if verb in ("convert", "extract") else {}
    heard = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    expected = engine.generate(
        tasks[verb], source=(heard, RATE), causal=True, seed=5, **voice
    ).samples
    assert out.getvalue() == to_pcm16(expected)
    err = capsys.readouterr().err
    with engine.open(tasks[verb], **voice) as live:
        assert re.search(rf"latency \d+ ms \({live.latency} samples at 16000 Hz\); Ctrl-C", err)
    assert "1.20 s, seed 5" in err and "dropped 0.00 s of input in 0 over-runs" in err


@pytest.mark.parametrize("rate", [8000, 44100])
def test_formats_and_rates_of_pipes(folder: Path, rate: int, pipe: Any) -> None:
    x = speech(0.9)
    out = pipe(x.astype("<f4").tobytes() + b"abc")
    assert main(command(folder, "enhance", *PIPES, "--rate", str(rate), "--format", "f32le")) == 0
    engine = Engine.from_pretrained(folder / "model", dtype="float32")
    with engine.open("se", seed=5, sample_rate=rate) as live:
        expected = np.concatenate((live.push(x), live.flush()))
    assert np.array_equal(np.frombuffer(out.getvalue(), "<f4"), expected)


def test_what_is_no_sample_is_said(
    folder: Path, pipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pipe(b"\0\0\0")
    assert main(command(folder, "enhance", *PIPES)) == 0
    assert len(out.getvalue()) == 2
    assert "left out the input's last 1 bytes, which are no sample" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rate", "16001"], "sample_rate: expected 8000 to 192000 Hz"),
        (["--level", "loud"], "--level: expected a number, got 'loud'"),
        (["--level", "7"], "level: expected a number from -90 to 0, got 7.0"),
        (["--temperature", "hot"], "temperature: expected a number"),
        (["--format", "mp3"], "argument --format: invalid choice"),
        (["--voice", "nobody"], "unknown input prompt"),
    ],
)
def test_errors_are_one_line(
    folder: Path, more: list[str], message: str, pipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pipe(b"\0\0")
    assert main(command(folder, "enhance", *PIPES, *more)) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not out.getvalue()


def process(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-m", "uniaudio_engine", *command(folder, *more)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_samples_come_while_the_pipe_is_open_and_ctrl_c_ends(folder: Path) -> None:
    p = process(folder, "enhance", *PIPES)
    assert p.stdin is not None and p.stdout is not None
    p.stdin.write(to_pcm16(speech(0.5)))
    p.stdin.flush()
    got = p.stdout.read(2 * 320 * 10)  # blocks until they are there
    assert len(got) == 6400
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 0, err
    assert b"0.50 s, seed 5" in err and b"Traceback" not in err


def test_the_pipes_of_the_help_run(folder: Path, tmp_path: Path) -> None:
    """As they are printed, with the bundled model."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "uniaudio"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m uniaudio_engine "$@"\n')
    script.chmod(0o755)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    env["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{env['PATH']}"
    lines = EPILOG.replace("|\n", "| ").splitlines()
    examples = [line.strip() for line in lines if ".pcm" in line]
    assert len(examples) == 2
    for line in ["uniaudio examples", *examples]:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, env=env, capture_output=True
        )
        assert done.returncode == 0, done.stderr
    for name in ("clean.pcm", "other.pcm"):
        x = np.fromfile(tmp_path / name, "<i2")
        assert len(x) > 8000 and np.abs(x).max() > 500


# Devices


class FakeStream:
    """Calls back from a thread, a block at a time, until it is closed."""

    latency = 0.01

    def __init__(self, log: dict[str, Any], kind: str, **settings: Any) -> None:
        self.log, self.kind, self.settings = log, kind, settings
        self.over = threading.Event()
        log[kind] = settings

    def start(self) -> None:
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        n, at = self.settings["blocksize"], 0
        status = types.SimpleNamespace(input_overflow=False)
        x = self.log["sound"]
        while not self.over.is_set():
            block = np.zeros((n, 1), np.float32)
            if self.kind == "InputStream":
                part = x[at : at + n]
                block[: len(part), 0] = part
                at += n
                status.input_overflow = at == 3 * n
            self.settings["callback"](block, n, None, status)
            if self.kind == "OutputStream":
                self.log["heard"].append(block[:, 0].copy())
                if sum(map(len, self.log["heard"])) > self.log["until"]:
                    signal.raise_signal(signal.SIGINT)
                    return
            time.sleep(n / self.settings["samplerate"])

    def close(self) -> None:
        self.over.set()
        self.thread.join()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    log: dict[str, Any] = {"heard": [], "sound": speech(3.0), "until": 2 * RATE}

    class PortAudioError(Exception):
        pass

    fake = types.SimpleNamespace(
        log=log,
        PortAudioError=PortAudioError,
        InputStream=lambda **s: FakeStream(log, "InputStream", **s),
        OutputStream=lambda **s: FakeStream(log, "OutputStream", **s),
        query_devices=lambda device, kind: {"default_samplerate": float(RATE)},
    )
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    yield fake


def test_from_microphone_to_speaker_until_ctrl_c(
    folder: Path, library: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(folder, "enhance", "--input", "3", "--output", "Speakers", "--latency", "0.05")
    assert main(words) == 0
    log = library.log
    assert log["InputStream"]["device"] == 3 and log["OutputStream"]["device"] == "Speakers"
    for kind in ("InputStream", "OutputStream"):
        assert log[kind]["samplerate"] == RATE and log[kind]["latency"] == 0.05
        assert log[kind]["channels"] == 1 and log[kind]["dtype"] == "float32"
    heard = np.concatenate(log["heard"])
    assert np.abs(heard).max() > 0.001
    err = capsys.readouterr().err
    assert "ms with the sound devices; Ctrl-C ends" in err
    assert "in 1 over-runs" in err


def test_a_device_that_fails_is_one_line(
    folder: Path, library: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise library.PortAudioError("Invalid sample rate [PaErrorCode -9997]", -9997)

    library.InputStream = fail
    assert main(command(folder, "enhance")) == 2
    err = capsys.readouterr().err
    assert err == (
        "uniaudio: error: expected a working sound device, got: Invalid sample rate [PaErrorCode "
        "-9997]; choose --input, --output and --rate, or use pipes: -i - -o -\n"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("No module named 'sounddevice'"), "pip install 'uniaudio-engine[live]'"),
        (OSError("PortAudio library not found"), "needs PortAudio (PortAudio library not found)"),
    ],
)
def test_without_the_library(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    message: str,
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "sounddevice":
                raise error

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert main(command(folder, "enhance")) == 2
    err = capsys.readouterr().err
    assert message in err and "or use pipes: -i - -o -" in err and err.count("\n") == 1


def test_a_slow_model_drops_what_it_cannot_hear() -> None:
    microphone = Microphone(RATE)
    for i in range(53):
        microphone.take(np.full((320, 1), i, np.float32), 320, None, None)
    assert microphone.overruns == 3 and microphone.dropped == pytest.approx(0.06)
    blocks = microphone.blocks()
    assert [next(blocks)[0] for _ in range(50)] == list(range(50))


def test_a_speaker_waits_for_a_reserve_and_drops_what_is_too_late() -> None:
    speaker, out = Speaker(RATE), np.ones((320, 1), np.float32)
    speaker.write(np.full(320, 0.5, np.float32))
    speaker.fill(out, 320, None, None)
    assert not out.any() and speaker.underruns == 0
    speaker.write(np.full(400, 0.25, np.float32))
    speaker.fill(out, 320, None, None)
    assert (out == 0.5).all()
    speaker.fill(out, 320, None, None)
    speaker.fill(out, 320, None, None)
    assert (out[:80] == 0.25).all() and not out[80:].any() and speaker.underruns == 1
    speaker.write(np.arange(5000, dtype=np.float32))
    speaker.fill(out, 320, None, None)
    assert out[0, 0] == 5000 - 12 * 320
