"""Results that stay on an NVIDIA device, for other libraries there: the DLPack protocol of Python's
array API, without any of them.

``torch.from_dlpack(array)``, ``cupy.from_dlpack(array)`` and ``jax.dlpack.from_dlpack(array)`` read
the very memory; what they do next waits for the values on the device, not on the host.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int32, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

_NAME = b"dltensor"  # of a capsule, until somebody has taken what is in it
_LEGACY, _NO_ORDER = 1, -1  # streams, as the protocol numbers them
_DELETER = 56  # where a DLManagedTensor has it: behind its tensor (48 bytes) and its context

_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [c_void_p, c_char_p, c_void_p]
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = c_char_p, [c_void_p]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = c_void_p, [c_void_p, c_char_p]


def _release(tensor: int) -> None:
    deleter = c_void_p.from_address(tensor + _DELETER).value
    if deleter:  # DLPack allows none
        ctypes.CFUNCTYPE(None, c_void_p)(deleter)(tensor)


@ctypes.PYFUNCTYPE(None, c_void_p)
def _forget(capsule: int) -> None:
    """A capsule goes: what is in it goes with it, unless somebody took it."""
    if _name(capsule) == _NAME:
        _release(_pointer(capsule, _NAME))


class CudaArray:
    """float32 or int32 ``shape`` on ``device``: DLPack's (type, number)."""

    def __init__(self, lib: Any, handle: c_void_p) -> None:
        self._lib, self._handle = lib, handle
        shape, rank, integers, device = (c_int64 * 4)(), c_int32(), c_int32(), (c_int32 * 2)()
        lib.array_info(handle, shape, byref(rank), byref(integers), device)
        self.shape = tuple(shape[: rank.value])
        self.dtype = np.dtype(np.int32 if integers.value else np.float32)
        self.device = (device[0], device[1])

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._lib.array_release(handle)

    def __len__(self) -> int:
        return self.shape[0]

    def numpy(self) -> NDArray[Any]:
        """A copy on the host."""
        out = np.empty(self.shape, self.dtype)
        if self._lib.array_download(self._handle, c_void_p(out.ctypes.data)):
            raise InputError(self._lib.error().decode("utf-8", "replace"))
        return out

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule that owns a share of the memory.

        ``stream``: of the consumer, as the protocol numbers them; -1: no order is asked for.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.device):
            raise BufferError("a CudaArray is lent where it lies; use numpy() for a copy")
        order = _LEGACY if stream is None else 0 if stream == _NO_ORDER else int(stream)
        tensor = self._lib.array_dlpack(self._handle, order)
        if not tensor:
            raise InputError(self._lib.error().decode("utf-8", "replace"))
        return _new(tensor, _NAME, ctypes.cast(_forget, c_void_p))
