"""The engine's CUDA side without a GPU: the library whose device is played by the CPU (csrc/cuda/device_host.cc).

It is built once, with CMake, into ``build-cuda-tests``; UNIAUDIO_CUDA_HOST_LIBRARY names one that is there already, and
UNIAUDIO_CUDA_TESTS=gpu runs the same tests on a GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uniaudio_engine import cuda

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "engine"))


@pytest.fixture(scope="session")
def host_file() -> Path:
    given = os.environ.get("UNIAUDIO_CUDA_HOST_LIBRARY")
    if given:
        return Path(given)
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake to build the library of the tests with")
    build = ROOT / "build-cuda-tests"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DUNIAUDIO_PYTHON=OFF", "-DUNIAUDIO_CUDA=OFF"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(build), "--target", "uniaudio_cuda_host"], check=True, stdout=subprocess.DEVNULL)
    return build / "libuniaudio_cuda_host.so"


@pytest.fixture
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The engine's library is the one of the tests."""
    lib = cuda.load(cuda.LIBRARY) if os.environ.get("UNIAUDIO_CUDA_TESTS") == "gpu" else cuda.load(request.getfixturevalue("host_file"), "host")
    monkeypatch.setattr(cuda, "_library", lib)
    yield lib
