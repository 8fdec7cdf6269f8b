"""Builds the C++ module with CMake; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Objects are kept here between builds, one folder per interpreter.
BUILD = (
    ROOT / "build" / f"cmake-{sysconfig.get_config_var('SOABI') or sys.implementation.cache_tag}"
)


class BuildPython(build_py):
    def run(self) -> None:
        # setuptools never removes what an earlier build left there: modules that have since been
        # moved or deleted would end up in the wheel.
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildCore(build_ext):
    """Runs CMake, then puts the libraries into the wheel and into the source package.

    Python started in this folder imports the source package before the installed one, so the
    source package needs the libraries too.
    """

    def build_extension(self, ext: Extension) -> None:
        made = BUILD / "module"
        shutil.rmtree(made, ignore_errors=True)  # a CUDA library of an earlier build, for one
        forget_configuration()
        configure = [
            "cmake",
            *("-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"),
            "-DCMAKE_BUILD_TYPE=Release",
            "-DUNIAUDIO_TESTS=OFF",
            f"-DUNIAUDIO_MODULE_DIR={made}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11_folder()}",
        ]
        run([*configure, *shlex.split(os.environ.get("CMAKE_ARGS", ""))])
        run(["cmake", "--build", str(BUILD)])

        source = ROOT / "uniaudio_engine"
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        target.mkdir(parents=True, exist_ok=True)
        libraries = [p for p in made.iterdir() if p.suffix in (".so", ".pyd", ".dylib", ".dll")]
        for path in libraries:
            shutil.copy2(path, target)
        if target != source and os.access(source, os.W_OK):
            for stale in source.glob("*uniaudio_cuda*"):
                stale.unlink()
            for path in libraries:
                replace(path, source)


def forget_configuration() -> None:
    """Removes CMake's cache but keeps the compiled objects.

    The cache names programs and headers of pip's temporary build environment, which is gone by the
    next build; configuring again takes seconds, and Ninja compiles only what has changed.
    """
    (BUILD / "CMakeCache.txt").unlink(missing_ok=True)
    for compilers in BUILD.glob("CMakeFiles/[0-9]*"):
        shutil.rmtree(compilers)


def pybind11_folder() -> Path:
    """pybind11's CMake files, in a copy of the package beside the objects.

    Its path in pip's temporary environment is another in each build, which would compile every
    binding again.
    """
    import pybind11

    package, folder = Path(pybind11.__file__).parent, Path(pybind11.get_cmake_dir())
    if not folder.is_relative_to(package):  # a distribution's own package, which stays in place
        return folder
    copy = BUILD / f"pybind11-{pybind11.__version__}"
    if not copy.is_dir():
        part = copy.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(package, part)
        part.rename(copy)
    return copy / folder.relative_to(package)


def replace(path: Path, folder: Path) -> None:
    """Copies by renaming: a process that has the old library loaded keeps it."""
    part = folder / f"{path.name}.part"
    shutil.copy2(path, part)
    os.replace(part, folder / path.name)


def run(command: list[str]) -> None:
    print("+", shlex.join(command), flush=True)
    subprocess.run(command, check=True)


setup(
    # `uniaudio examples` finds its files inside the installed package.
    packages=[*find_packages(include=["uniaudio_engine*"]), "uniaudio_engine.examples"],
    package_dir={"uniaudio_engine.examples": "examples"},
    ext_modules=[Extension("uniaudio_engine._C", sources=[])],
    cmdclass={"build_py": BuildPython, "build_ext": BuildCore},
)
