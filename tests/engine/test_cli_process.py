"""The command as a process: Ctrl-C leaves nothing, streams flow, imports are light."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_tools import ROOT

pytestmark = pytest.mark.usefixtures("place")


def runner(*args: str, frame_seconds: float = 0.002) -> subprocess.Popen[bytes]:
    """The command in a process of its own, on a fake core that takes its time."""
    code = (
        "import sys, fake_core, uniaudio_engine.backends.core as c\n"
        f"c._module = fake_core; fake_core.FRAME_SECONDS = {frame_seconds}\n"
        "from uniaudio_engine.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["tts", "stream"])
def test_signals_leave_nothing(command: str, number: int, code: int, tiny_folder: Path) -> None:
    process = runner(command, "Hello there. " * 200, "-m", str(tiny_folder), "-o", "a.wav")
    wait_for(lambda: any(".a.wav." in name for name in os.listdir()))
    time.sleep(1.0)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == b"" and err == (b"uniaudio: error: interrupted\n" if code == 130 else b"")
    assert os.listdir() == ["voice.wav"]


def test_a_stream_comes_while_it_is_made(tiny_folder: Path) -> None:
    process = runner("stream", "Hello there. " * 50, "-m", str(tiny_folder), "-o", "-")
    assert process.stdout is not None
    assert len(process.stdout.read(44 + 2000)) == 2044
    assert process.poll() is None
    process.stdout.close()  # the reader goes: the writer ends, quietly
    assert process.wait(timeout=60) == 1
    assert process.stderr is not None and process.stderr.read() == b""


def test_import_loads_nothing_slow() -> None:
    code = (
        "import sys, uniaudio_engine\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'numpy', 'scipy', 'soundfile', 'soxr', 'safetensors', "
        "'sentencepiece'}))\n"
        "from uniaudio_engine.engine import Engine\n"
        "import uniaudio_engine.cli.commands\n"
        "print('torch' in sys.modules, 'soundfile' in sys.modules, 'soxr' in sys.modules)\n"
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\nFalse False False\n"
