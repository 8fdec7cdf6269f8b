"""The CUDA module ``uniaudio_engine._cuda``: the models of ``csrc/cuda/`` on NVIDIA devices.

It is imported when a device is first asked for, links neither torch nor cuBLAS, and looks for the
driver only then. Its LM, sessions and codecs have the methods of ``_C``'s. Nothing here falls back
to the CPU: what is missing is an :class:`InputError` that says why.
"""

from __future__ import annotations

import importlib.util
import threading
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import InputError, shown
from ..storage.config import CodecConfig
from .core import core

if TYPE_CHECKING:
    from .. import _cuda

MODULE = Path(__file__).resolve().parents[1] / f"_cuda{EXTENSION_SUFFIXES[0]}"
_LEAST_FREE = 1 << 28  # bytes of device memory


class Cuda(Protocol):
    """What the engine uses of ``_cuda``; ``_cuda.pyi`` has all of it."""

    @property
    def LM(self) -> type[_cuda.LM]: ...
    @property
    def Codec(self) -> type[_cuda.Codec]: ...
    @property
    def ResidualVQ(self) -> type[_cuda.ResidualVQ]: ...
    @property
    def backend(self) -> str: ...
    @property
    def sampling_layout(self) -> str: ...

    def device_count(self) -> int: ...
    def device(self, index: int) -> tuple[str, int, int]: ...
    def bandwidth(self, device: int = 0, megabytes: int = 1024) -> float: ...


_lock = threading.Lock()
_module: Cuda | None = None


def module() -> Cuda:
    """The CUDA module.

    Raises :class:`InputError` where this installation has none, or one of another build.
    """
    global _module
    with _lock:
        if _module is None:
            _module = load(MODULE)
    return _module


def load(path: Path, backend: str = "cuda") -> Cuda:
    """The module in a file, checked.  ``backend`` "host": the tests', whose device is the CPU."""
    if not path.exists():
        raise InputError(
            "cuda: this installation has no CUDA module; install it where nvcc 12.8 or newer is "
            "(CMAKE_ARGS=-DUNIAUDIO_CUDA=ON), or use device cpu"
        )
    wanted = core().sampling_layout  # _C first: its Sampling is the one that sessions take
    name = f"{__package__.rpartition('.')[0]}.{path.name.partition('.')[0]}"
    try:
        loader = ExtensionFileLoader(name, str(path))
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        imported = importlib.util.module_from_spec(spec)
        loader.exec_module(imported)
    except ImportError as e:
        raise InputError(
            f"cuda: {path}: expected the engine's CUDA module, got: {' '.join(str(e).split())}"
        ) from None
    found = cast(Cuda, imported)
    if found.backend != backend:
        raise InputError(
            f"cuda: {path}: expected a module for {backend}, got one for {found.backend}"
        )
    if found.sampling_layout != wanted:
        raise InputError(
            f"cuda: {path}: expected a module of the same build as the compiled core; install "
            "uniaudio-engine again"
        )
    return found


def device_index(device: str) -> int:
    """ "cuda" or "cuda:N" -> N.  Raises :class:`InputError` for anything else."""
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (
        colon and not (number.isascii() and number.isdigit() and len(number) < 4)
    ):
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, got {shown(device)}")
    return int(number) if colon else 0


def check_device(device: str) -> int:
    """The index of a device that can be used now.

    Raises :class:`InputError` with the reason where it cannot.
    """
    index, cuda = device_index(device), module()
    cuda.device_count()
    cuda.device(index)
    return index


def status() -> str:
    """One line for ``uniaudio doctor``: the device that would be used, or why there is none.

    Raises nothing.
    """
    try:
        cuda = module()
        cuda.device_count()
        name, multiprocessors, free = cuda.device(0)
    except InputError as e:
        return f"not used: {str(e).removeprefix('cuda: ')}"
    gib = free / 2**30
    if free < _LEAST_FREE:
        return f"not used: {name} has {gib:.2f} GiB of memory free, which is too little"
    return f'{name}, {multiprocessors} multiprocessors, {gib:.1f} GiB free; used with device="cuda"'


def fits(config: CodecConfig) -> bool:
    """Whether a device runs this codec.

    Chunks, group norm and loudness look at whole clips: those codecs run on the CPU, and so do
    codecs of several channels or with transformers.
    """
    if config.core_only:
        return False
    s = config.seanet
    return (
        s is None
        or config.family == "spectral"
        or not (s.channels > 1 or s.norm == "group" or s.normalize or s.chunk_size)
    )
