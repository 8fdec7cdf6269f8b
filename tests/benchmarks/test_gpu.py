"""``benchmarks/gpu.sh`` without a GPU: every part of it, with tiny shapes, in the CPU emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "engine"))
from cuda_host import host_file  # noqa: E402, F401 - a fixture


def dry(emulator: Path, out: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """The script on a machine without packages for sound files, as the bare image of a GPU is."""
    bare = out.with_name("bare")
    bare.mkdir()
    for name in ("soundfile", "soxr"):
        (bare / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    path = [str(bare), *(p for p in sys.path if p)]
    environment = {"DRY": "1", "EMULATOR": str(emulator), "OUT": str(out), "PYTHON": sys.executable}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh")]
    environment = os.environ | environment | more
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_dry_run(host_file: Path, tmp_path: Path) -> None:  # noqa: F811
    """Its figures are the emulator's, but every part has run, and the tokens are the CPU's."""
    emulator = tmp_path / "emulator"
    emulator.mkdir()
    # the tests that take a minute are run by ctest
    for name in (host_file.name, "test_cuda_kernels", "test_cuda_rvq"):
        if (host_file.parent / name).exists():
            (emulator / name).symlink_to(host_file.parent / name)
    done = dry(emulator, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT TRIED: to compile;" in done.stdout and "NOT TRIED: no test_cuda_lm" in done.stdout
    assert "ok    measure" in done.stdout and "Lower bounds at" in done.stdout
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["parity"] == {"greedy_tokens": 600, "that_differ": 0}
    assert found["soak"]["runs_that_differ"] == 0 < found["soak"]["frames"]
    assert found["rvq_encode_us"] > 0 and found["first_audio"]["bundled_ms"] > 0
    kinds = {(row["dtype"], row["streams"]) for row in found["lm"]}
    assert kinds == {(dtype, n) for dtype in ("bfloat16", "int8") for n in (1, 9)}
    assert all(row["us"] > 0 and "error" not in row for row in found["lm"])


def test_what_fails_or_has_no_time_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pybind11")  # which the script compiles with
    emulator = tmp_path / "emulator"
    emulator.mkdir()
    for name, line in (("kernels", "echo a wrong tile; exit 1"), ("lm", "sleep 60")):
        (emulator / f"test_cuda_{name}").write_text(f"#!/bin/sh\n{line}\n")
        (emulator / f"test_cuda_{name}").chmod(0o755)
    done = dry(emulator, tmp_path / "out", LIMIT="9")
    assert done.returncode == 1
    assert "FAIL  cuda_kernels" in done.stdout and "a wrong tile" in done.stdout
    assert "FAIL  cuda_lm" in done.stdout and "LEFT OUT: measure, no time" in done.stdout
