"""Output is whole or absent, also when its writer is killed, and the next run removes what is left."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from uniaudio_engine import InputError
from uniaudio_engine.storage import files
from uniaudio_engine.storage.files import atomic_folder, atomic_write

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")

WRITER = """
import sys, time
from uniaudio_engine.storage.files import atomic_folder, atomic_write
with {call}("{target}") as f:
    {work}
    print("ready", flush=True)
    time.sleep(60)
"""
WORK = {"atomic_write": "f.write(bytes(1000))", "atomic_folder": "(f / 'new' / 'x').write_text('')"}


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SETTLED", 0.0)


@pytest.fixture(params=list(WORK))
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing ``out``."""
    program = WRITER.format(call=request.param, target=tmp_path / "out", work=WORK[request.param])
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def test_the_next_run_removes_what_a_killed_one_left(
    writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    (left,) = tmp_path.iterdir()
    with atomic_write(tmp_path / "out") as f:  # the other one is still at work
        f.write(b"mine")
        assert left.exists()
    writer.kill()
    writer.wait()
    assert left.exists()
    with atomic_write(tmp_path / "other") as f:
        f.write(b"")
    assert left.exists()  # another output's is not looked at
    with atomic_write(tmp_path / "out") as f:
        f.write(b"again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"]
    assert (tmp_path / "out").read_bytes() == b"again"


def test_a_folder_that_was_left_before_its_lock(tmp_path: Path) -> None:
    (tmp_path / ".out.12345678.part").mkdir()
    with atomic_folder(tmp_path / "out") as work:
        (work / "new" / "x").write_text("")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    names = [".out.part", ".out.12345678.partial", ".out.123.part", "out.12345678.part"]
    for name in names:
        (tmp_path / name).write_text("")
    os.mkfifo(tmp_path / ".out.abcdabcd.part")  # nor is it opened
    with atomic_write(tmp_path / "out") as f:
        f.write(b"")
    assert {p.name for p in tmp_path.iterdir()} == {*names, ".out.abcdabcd.part", "out"}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_permissions_stay(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    path.chmod(mode)
    with atomic_write(path) as f:
        f.write(b"after")
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b"after"


@pytest.mark.parametrize("length", [200, 245, 251])
def test_long_names(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("ä" * (length // 2 - 2) + ".wav")
    with atomic_write(path) as f:
        f.write(b"x")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(InputError), atomic_write(tmp_path / ("x" * 256)):
        pass
    with pytest.raises(InputError), atomic_folder(tmp_path / ("x" * 256)):
        pass


def test_a_path_with_nul(tmp_path: Path) -> None:
    with pytest.raises(InputError), atomic_write(f"{tmp_path}/a\0b"):
        pass
    with pytest.raises(InputError), atomic_folder(f"{tmp_path}/a\0b"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uniaudio_engine", "tts", "Yes.", "-o", "-"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_leave_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "uniaudio_engine", "tts", "Yes. " * 300, "-o", "out.wav"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert not list(tmp_path.iterdir())
