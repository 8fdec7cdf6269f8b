"""The compiled core ``uniaudio_engine._C``, imported when first needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, cast

from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

if TYPE_CHECKING:
    from .. import _C


class Core(Protocol):
    """What the engine uses of ``_C``; ``_C.pyi`` has all of it."""

    @property
    def LM(self) -> type[_C.LM]: ...
    @property
    def Codec(self) -> type[_C.Codec]: ...
    @property
    def PostFilter(self) -> type[_C.PostFilter]: ...
    @property
    def Sampling(self) -> type[_C.Sampling]: ...
    @property
    def Sampler(self) -> type[_C.Sampler]: ...
    @property
    def sampling_layout(self) -> str: ...

    def isa(self) -> str: ...
    def isa_available(self) -> list[str]: ...
    def read_bandwidth(self, threads: int, megabytes: int) -> float: ...
    def fma_peak(self, threads: int) -> float: ...
    def byte_peak(self, threads: int) -> float: ...
    def quantize(self, matrix: ArrayLike, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]: ...
    def lm_dtype(self, text: str) -> tuple[str, dict[str, str]]: ...


_module: Core | None = None


def core() -> Core:
    """The compiled module.

    Raises :class:`InputError` where it is missing, or where UNIAUDIO_ISA names an instruction set
    that this machine lacks.
    """
    global _module
    if _module is None:
        try:
            from .. import _C

            _C.isa()  # raises for UNIAUDIO_ISA now, not in the middle of the work
        except ImportError as e:
            raise InputError(
                f"the compiled core is missing ({e}); install with: pip install ."
            ) from None
        except (RuntimeError, ValueError) as e:
            raise InputError(str(e)) from None
        _module = cast(Core, _C)
    return _module


def default_threads() -> int:
    """Processors that this process may use, at most 8: memory bandwidth, not arithmetic, limits one
    stream.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    return max(1, min(count, 8))
