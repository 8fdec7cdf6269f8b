"""Fixtures: the CUDA module on a device emulated by the CPU (``csrc/cuda/device_host.cc``).

The module is built once, with CMake, into ``build-cuda-tests``; UNIAUDIO_CUDA_HOST_MODULE names an
existing build. With UNIAUDIO_CUDA_TESTS=gpu the fixture is the real module.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uniaudio_engine.backends import cuda

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def host_file() -> Path:
    given = os.environ.get("UNIAUDIO_CUDA_HOST_MODULE")
    if given:
        return Path(given)
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake to build the emulator with")
    pytest.importorskip("pybind11", reason="the emulator is a pybind11 module")
    build = ROOT / "build-cuda-tests"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DUNIAUDIO_CUDA=OFF"]
    configure += ["-DUNIAUDIO_TESTS=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    make = ["cmake", "--build", str(build), "--target", "_cuda_host"]
    build.mkdir(exist_ok=True)
    with (build / "lock").open("w") as lock:  # several workers would build in one folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (configure, make):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return build / cuda.MODULE.name.replace("_cuda", "_cuda_host")


@pytest.fixture
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine's CUDA module is the emulator."""
    module = (
        cuda.load(cuda.MODULE)
        if os.environ.get("UNIAUDIO_CUDA_TESTS") == "gpu"
        else cuda.load(request.getfixturevalue("host_file"), "host")
    )
    monkeypatch.setattr(cuda, "_module", module)
    return module
