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


def runner(
    *args: str, frame_seconds: float = 0.002, stdin: int | None = None
) -> subprocess.Popen[bytes]:
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
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
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


@pytest.mark.parametrize("command", ["tts", "stream"])
def test_standard_input_is_spoken_as_it_arrives(command: str, tiny_folder: Path) -> None:
    process = runner(
        *(command, "-", "-m", str(tiny_folder), "-o", "-", "--seed", "3", "--flush-after", "inf"),
        stdin=subprocess.PIPE,
    )
    text = "Hello there. Naïve means caf\u00e9. "
    assert process.stdin is not None and process.stdout is not None
    pieces = [text.encode()[:14], text.encode()[14:16], text.encode()[16:]]
    process.stdin.write(pieces[0])
    process.stdin.flush()
    begin = process.stdout.read(44 + 2000)  # the first sentence, while the second is not there
    for piece in pieces[1:]:
        process.stdin.write(piece)
        process.stdin.flush()
    process.stdin.close()
    sound = begin + process.stdout.read()
    assert process.wait(timeout=60) == 0 and process.stderr is not None
    whole = runner(command, text, "-m", str(tiny_folder), "-o", "-", "--seed", "3")
    assert sound[44:] == whole.communicate(timeout=60)[0][44:]


def test_ctrl_c_while_standard_input_is_waited_for(tiny_folder: Path) -> None:
    process = runner(
        "stream", "-", "-m", str(tiny_folder), "-o", "-", "--raw", stdin=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"Hello there. And then ")
    process.stdin.flush()
    assert process.stdout.read(1000)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130 and process.stderr is not None
    assert process.stderr.read() == b"uniaudio: error: interrupted\n"


def test_the_help_s_pipe_runs(tiny_folder: Path) -> None:
    path = os.pathsep.join([str(ROOT), *sys.path])
    env = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "uniaudio_engine", "stream", "--help"]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    (line,) = [line.strip() for line in out.splitlines() if " | uniaudio stream -" in line]
    line = line.replace("uniaudio", f"{sys.executable} -m uniaudio_engine")
    done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and ": error:" not in done.stderr, done.stderr
    assert Path("piped.wav").stat().st_size > 10_000


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
