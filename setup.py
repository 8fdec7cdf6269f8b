"""Builds the C++ module with CMake; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_namespace_packages, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        out = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DUNIAUDIO_TESTS=OFF",
            f"-DUNIAUDIO_MODULE_DIR={out}",
            f"-DPython_EXECUTABLE={sys.executable}",
        ]
        subprocess.run(configure + os.environ.get("CMAKE_ARGS", "").split(), check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)


packages = find_namespace_packages(include=["uniaudio_engine*"], exclude=["*__pycache__*"])
packages += find_packages("training", include=["uniaudio_training*"])
setup(
    packages=[
        *packages,
        "uniaudio_engine.examples",
    ],  # `uniaudio examples` finds them inside the installed package
    package_dir={
        "uniaudio_training": "training/uniaudio_training",
        "uniaudio_engine.examples": "examples",
    },
    ext_modules=[Extension("uniaudio_engine._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
