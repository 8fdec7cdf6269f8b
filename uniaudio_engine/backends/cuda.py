"""The language model on an NVIDIA device: ``libuniaudio_cuda.so`` by its C ABI
(``csrc/cuda/abi.h``).

The library is loaded when it is first asked for and stands alone: no torch, no CUDA toolkit, one
build for every Python. :class:`CudaLM` and :class:`CudaSession` have the methods of ``_C.LM`` and
``_C.LMSession``. Nothing here falls back to the CPU: what cannot be done is an :class:`InputError`
that says why.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char, c_char_p, c_double, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.config import LMConfig, to_dict
from .cuda_array import CudaArray

ABI = 1
LIBRARY = Path(__file__).resolve().parents[1] / "libuniaudio_cuda.so"
KV_DTYPES = ("float32", "bfloat16")
_TOGETHER = 8  # frames between looks at Ctrl-C and cancel()
_TYPES = {
    np.dtype(np.float32): 0,
    np.dtype(np.uint16): 1,
    np.dtype(np.int8): 2,
    np.dtype(np.uint8): 3,
}
_END_SLOTS = {"first": 0, "last": 1, "any": 2}

Ids = NDArray[np.int32]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("type", c_int32),
        ("rank", c_int32),
        ("shape", POINTER(c_int64)),
        ("data", c_void_p),
    ]


class _Continuous(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("values", c_void_p), ("index", c_void_p), ("count", c_int64)]


class _Sampling(ctypes.Structure):
    _fields_ = [
        ("temperature", c_double),
        ("top_p", c_double),
        ("repetition_penalty", c_double),
        ("top_k", c_int64),
        ("repetition_window", c_int64),
        ("end_id", c_int64),
        ("min_frames", c_int64),
        ("seed", c_uint64),
        ("greedy", c_int32),
        ("tie_slots", c_int32),
        ("end_slots", c_int32),
        ("slots", c_int32),
        ("range_count", POINTER(c_int32)),
        ("ranges", POINTER(c_int32)),
    ]


class _Request(ctypes.Structure):
    _fields_ = [
        ("session", c_void_p),
        ("sampling", POINTER(_Sampling)),
        ("aligned", c_void_p),
        ("out", c_void_p),
        ("made", c_int64),
    ]


class _LMInfo(ctypes.Structure):
    _fields_ = [
        ("blocks", c_int64),
        ("most_columns", c_int64),
        ("weight_bytes", c_int64),
        ("free_bytes", c_int64),
        ("balance", c_double),
    ]


class _SessionInfo(ctypes.Structure):
    _fields_ = [
        ("frames", c_int64),
        ("capacity", c_int64),
        ("frame_offset", c_int64),
        ("finished", c_int32),
        ("guided", c_int32),
    ]


class _DeviceInfo(ctypes.Structure):
    _fields_ = [
        ("name", c_char * 256),
        ("multiprocessors", c_int64),
        ("shared_bytes", c_int64),
        ("free_bytes", c_int64),
    ]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "abi_version": (c_int32, []),
    "backend": (c_char_p, []),
    "error": (c_char_p, []),
    "device_count": (c_int32, [POINTER(c_int32)]),
    "device": (c_int32, [c_int32, POINTER(_DeviceInfo)]),
    "lm_create": (c_void_p, [c_int32, c_char_p, POINTER(_Tensor), c_int64, c_char_p, c_char_p]),
    "lm_release": (None, [c_void_p]),
    "lm_info": (c_int32, [c_void_p, c_int64, POINTER(_LMInfo)]),
    "lm_session_bytes": (c_int64, [c_void_p, c_int64]),
    "lm_set_wide_from": (c_int32, [c_void_p, c_int32]),
    "lm_logits": (c_int32, [c_void_p, c_void_p, c_int64, c_void_p, c_void_p]),
    "session_create": (c_void_p, [c_void_p, c_int64]),
    "session_release": (None, [c_void_p]),
    "session_fork": (c_void_p, [c_void_p]),
    "session_info": (c_int32, [c_void_p, POINTER(_SessionInfo)]),
    "session_set_offset": (c_int32, [c_void_p, c_int64]),
    "session_set_guidance": (c_int32, [c_void_p, c_void_p, c_double]),
    "session_reset": (c_int32, [c_void_p]),
    "session_cancel": (None, [c_void_p]),
    "session_prefill": (
        c_int32,
        [c_void_p, c_void_p, c_int64, c_void_p, POINTER(_Continuous), c_int64],
    ),
    "generate": (c_int32, [POINTER(_Request), c_int64, c_int64]),
    "rvq_create": (c_void_p, [c_int32, c_void_p, c_int32, c_int32, c_int32]),
    "rvq_release": (None, [c_void_p]),
    "rvq_encode": (c_int32, [c_void_p, c_void_p, c_int64, c_int32, c_void_p, c_void_p]),
    "rvq_decode": (c_int32, [c_void_p, c_void_p, c_int64, c_int32, c_int32, c_void_p]),
    "codec_create": (c_void_p, [c_int32, c_char_p, POINTER(_Tensor), c_int64]),
    "codec_release": (None, [c_void_p]),
    "encoder_create": (c_void_p, [c_void_p, c_int32]),
    "encoder_release": (None, [c_void_p]),
    "encoder_fork": (c_void_p, [c_void_p]),
    "encoder_reset": (c_int32, [c_void_p]),
    "encoder_push": (c_int32, [c_void_p, c_void_p, c_int64, c_int32, c_void_p, POINTER(c_int64)]),
    "decoder_create": (c_void_p, [c_void_p]),
    "decoder_release": (None, [c_void_p]),
    "decoder_fork": (c_void_p, [c_void_p]),
    "decoder_reset": (c_int32, [c_void_p]),
    "decoder_push": (
        c_int32,
        [c_void_p, c_void_p, c_int64, c_int32, c_int32, c_void_p, POINTER(c_int64)],
    ),
    "decoder_push_array": (c_void_p, [c_void_p, c_void_p, c_int64, c_int32, c_int32, c_int64]),
    "session_known": (c_void_p, [c_void_p, c_int64, c_int64]),
    "array_release": (None, [c_void_p]),
    "array_info": (
        c_int32,
        [c_void_p, POINTER(c_int64), POINTER(c_int32), POINTER(c_int32), POINTER(c_int32)],
    ),
    "array_download": (c_int32, [c_void_p, c_void_p]),
    "array_dlpack": (c_void_p, [c_void_p, c_uint64]),
    "bandwidth": (c_int32, [c_int32, c_int64, POINTER(c_double)]),
    "rvq_time": (c_int32, [c_void_p, c_void_p, c_int64, c_int32, c_int32, POINTER(c_double)]),
}

_lock = threading.Lock()
_library: Any = None


def library() -> Any:
    """The loaded library.

    Raises :class:`InputError` where it is not there or is of another version.
    """
    global _library
    with _lock:
        if _library is None:
            _library = load(LIBRARY)
    return _library


def load(path: Path, backend: str = "cuda") -> Any:
    """A library file, checked. ``backend`` "host" is the one of the tests, whose device is the CPU."""
    if not path.exists():
        raise InputError(
            "cuda: this installation has no CUDA library; install it where nvcc 12.8 or newer is "
            "(CMAKE_ARGS=-DUNIAUDIO_CUDA=ON), or use device cpu"
        )
    try:
        found = ctypes.CDLL(os.fspath(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, f"uniaudio_cuda_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(found, name, function)
            if name == "abi_version" and function() != ABI:
                raise InputError(
                    f"cuda: {path}: expected version {ABI} of its interface, got {function()}; "
                    "install uniaudio-engine again"
                )
    except (OSError, AttributeError) as e:
        raise InputError(
            f"cuda: {path}: expected the engine's CUDA library, got: {' '.join(str(e).split())}"
        ) from None
    if found.backend() != backend.encode():
        raise InputError(
            f"cuda: {path}: expected a library for {backend}, got one for "
            f"{found.backend().decode()}"
        )
    return found


def _fail(lib: Any) -> InputError:
    return InputError(lib.error().decode("utf-8", "replace"))


def call(lib: Any, name: str, *arguments: Any) -> None:
    if getattr(lib, name)(*arguments):
        raise _fail(lib)


def made(lib: Any, name: str, *arguments: Any) -> c_void_p:
    handle = getattr(lib, name)(*arguments)
    if not handle:
        raise _fail(lib)
    return c_void_p(handle)


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
    index, lib, count = device_index(device), library(), c_int32()
    call(lib, "device_count", byref(count))
    call(lib, "device", index, byref(_DeviceInfo()))
    return index


def status() -> str:
    """One line for ``uniaudio doctor``: the device that would be used, or why there is none.

    Raises nothing.
    """
    try:
        lib, info = library(), _DeviceInfo()
        call(lib, "device_count", byref(c_int32()))
        call(lib, "device", 0, byref(info))
    except InputError as e:
        return f"not used: {str(e).removeprefix('cuda: ')}"
    free = info.free_bytes / 2**30
    if info.free_bytes < 1 << 28:
        return (
            f"not used: {info.name.decode()} has {free:.2f} GiB of memory free, which is too little"
        )
    return f'{info.name.decode()}, {info.multiprocessors} multiprocessors, {free:.1f} GiB free; used with device="cuda"'


def bandwidth(index: int = 0, megabytes: int = 1024) -> float:
    """GB/s read and written by copies within the device, measured now."""
    found = c_double()
    call(library(), "bandwidth", index, megabytes, byref(found))
    return found.value


def pointer(array: NDArray[Any] | None) -> c_void_p | None:
    return None if array is None else c_void_p(array.ctypes.data)


def tensors_of(weights: Mapping[str, NDArray[Any]]) -> tuple[Any, list[Any]]:
    """Arrays by name as the library reads them, and what they point into."""
    keep: list[Any] = []
    tensors = (_Tensor * len(weights))()
    for t, (name, value) in zip(tensors, weights.items(), strict=True):
        array = np.ascontiguousarray(value)
        if array.dtype not in _TYPES:
            raise InputError(
                f"tensor {name}: expected float32, bfloat16, int8 or int4, got {array.dtype}"
            )
        shape = (c_int64 * array.ndim)(*array.shape)
        keep.append((array, shape))
        t.name, t.type, t.rank, t.shape, t.data = (
            name.encode(),
            _TYPES[array.dtype],
            array.ndim,
            shape,
            array.ctypes.data,
        )
    return tensors, keep


class CudaLM:
    """The multi-scale LM on a device, as ``_C.LM``: immutable, shared by its sessions and by
    threads.
    """

    def __init__(
        self,
        config: LMConfig,
        weights: Mapping[str, NDArray[Any]],
        dtype: str,
        kv_dtype: str,
        index: int = 0,
        lib: Any = None,
    ) -> None:
        self.config, self.dtype, self.kv_dtype = config, dtype, kv_dtype
        self._lib = lib if lib is not None else library()
        tensors, _keep = tensors_of(weights)
        text = json.dumps(to_dict(config)).encode()
        self._handle = made(
            self._lib,
            "lm_create",
            index,
            text,
            tensors,
            len(weights),
            dtype.encode(),
            kv_dtype.encode(),
        )

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._lib.lm_release(handle)

    def _info(self, head_rows: int = 0) -> _LMInfo:
        info = _LMInfo()
        call(self._lib, "lm_info", self._handle, head_rows, byref(info))
        return info

    def weight_bytes(self, head_rows: int = 0) -> int:
        """Bytes of weights read per frame when ``head_rows`` rows of the output head are used per
        slot (0: all).
        """
        return int(self._info(head_rows).weight_bytes)

    @property
    def weight_bytes_per_frame(self) -> int:
        return self.weight_bytes()

    @property
    def most_streams(self) -> int:
        """Sessions (or positions of a prefill) that one pass over the weights serves."""
        return int(self._info().most_columns)

    def set_wide_from(self, streams: int) -> None:
        """Steps ``streams`` and more together by plain launches (64 at most), fewer by the kernel
        that stays (8 at most). Only the speed changes: either gives the same bits. Not while
        another thread uses the model. The default is 9, or one more than the kernel that stays has
        room for.

        Raises:
            InputError: fewer than one.
        """
        call(self._lib, "lm_set_wide_from", self._handle, streams)

    def memory_bytes(self, max_frames: int) -> int:
        """Bytes of KV cache and history that a session of ``max_frames`` keeps, on the device."""
        return int(self._lib.lm_session_bytes(self._handle, max_frames))

    def logits(
        self, frames: Ids, aligned: Ids | None = None, continuous: Any = None
    ) -> NDArray[np.float32]:
        """Teacher-forced logits [T, K, V] of frames [T, K]."""
        if continuous:
            raise InputError("logits: continuous inputs are not there on cuda; use device cpu")
        f, g = np.ascontiguousarray(frames, np.int32), _rows(aligned)
        out = np.empty((*f.shape, self.config.vocab_size), np.float32)
        call(self._lib, "lm_logits", self._handle, pointer(f), len(f), pointer(g), pointer(out))
        return out

    @staticmethod
    def generate_batch(
        sessions: Sequence[CudaSession],
        n: int,
        samplings: Sequence[Any],
        aligned_rows: Sequence[Ids | None] | None = None,
    ) -> list[Ids]:
        return generate_batch(sessions, n, samplings, aligned_rows)

    def session(self, max_frames: int) -> CudaSession:
        return CudaSession(self, made(self._lib, "session_create", self._handle, max_frames))


class CudaSession:
    """One sequence, as ``_C.LMSession``: known frames in, generated frames out.

    Its state lives on the device.
    """

    def __init__(self, lm: CudaLM, handle: c_void_p) -> None:
        self.lm, self._lib, self._handle = lm, lm._lib, handle
        self._busy = threading.Lock()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._lib.session_release(handle)

    def _info(self) -> _SessionInfo:
        info = _SessionInfo()
        call(self._lib, "session_info", self._handle, byref(info))
        return info

    @property
    def finished(self) -> bool:
        return bool(self._info().finished)

    @property
    def frames(self) -> int:
        return int(self._info().frames)

    @property
    def capacity(self) -> int:
        return int(self._info().capacity)

    @property
    def frame_offset(self) -> int:
        """Added to the frame index that keys the random numbers."""
        return int(self._info().frame_offset)

    @frame_offset.setter
    def frame_offset(self, offset: int) -> None:
        call(self._lib, "session_set_offset", self._handle, offset)

    def prefill(
        self,
        frames: Ids,
        aligned: Ids | None = None,
        continuous: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        """Append known frames [n, K], with aligned rows [n, S] and continuous inputs name ->
        (values [m, width], frames [m]).
        """
        c = self.lm.config
        f, g = _matrix(frames, "frames", c.num_codebooks), _aligned(aligned, c, len(frames))
        inputs, keep = (_Continuous * len(continuous or {}))(), []
        for item, (name, (values, index)) in zip(inputs, (continuous or {}).items(), strict=True):
            v, i = np.ascontiguousarray(values, np.float32), np.ascontiguousarray(index, np.int32)
            width = c.continuous.get(name, 0)
            if v.ndim != 2 or (width and v.shape[1] != width) or i.shape != (len(v),):
                raise InputError(
                    f"continuous[{name!r}]: expected values [n, {width or '*'}] and n frames, got "
                    f"{list(v.shape)} and {list(i.shape)}"
                )
            keep.append((v, i))
            item.name, item.values, item.index, item.count = (
                name.encode(),
                v.ctypes.data,
                i.ctypes.data,
                len(v),
            )
        with _Use(self):
            call(
                self._lib,
                "session_prefill",
                self._handle,
                pointer(f),
                len(f),
                pointer(g),
                inputs,
                len(inputs),
            )

    def generate(self, n: int, sampling: Any, aligned: Ids | None = None) -> Ids:
        """Up to n new frames [m, K]; fewer when the end id came (``finished``) or after ``cancel``."""
        return generate_batch([self], n, [sampling], [aligned])[0]

    def known(self, first: int, count: int) -> CudaArray:
        """Frames [first, first + count), int32 [count, K], as they lie on the device."""
        with _Use(self):
            return CudaArray(
                self._lib, made(self._lib, "session_known", self._handle, first, count)
            )

    def cancel(self) -> None:
        """Stop a running generate within some frames, or else the next one at once; any thread."""
        self._lib.session_cancel(self._handle)

    def set_guidance(self, plain: CudaSession, scale: float) -> None:
        """From here on ids are drawn from plain + scale (own - plain), logit by logit; a fork of
        ``plain`` goes along.
        """
        if plain is self:
            raise InputError(
                "set_guidance: expected another session of the same LM that is not guided itself"
            )
        with _Use(self, plain):
            call(self._lib, "session_set_guidance", self._handle, plain._handle, scale)

    @property
    def guided(self) -> bool:
        return bool(self._info().guided)

    def reset(self) -> None:
        with _Use(self):
            call(self._lib, "session_reset", self._handle)

    def fork(self) -> CudaSession:
        with _Use(self):
            return CudaSession(self.lm, made(self._lib, "session_fork", self._handle))


class _Use:
    """One call at a time for each session; taken in the sessions' own order, or not at all."""

    def __init__(self, *sessions: CudaSession) -> None:
        self.sessions = sessions

    def __enter__(self) -> None:
        for i, s in enumerate(self.sessions):
            if not s._busy.acquire(blocking=False):
                for t in self.sessions[:i]:
                    t._busy.release()
                raise InputError(
                    "session: expected one call at a time, but another is using it; fork it or wait"
                )

    def __exit__(self, *_: object) -> None:
        for s in self.sessions:
            s._busy.release()


def generate_batch(
    sessions: Sequence[CudaSession],
    n: int,
    samplings: Sequence[Any],
    aligned_rows: Sequence[Ids | None] | None = None,
) -> list[Ids]:
    """Step several sessions of one LM together; each one's frames [m, K] are the same as alone."""
    aligned_rows = [None] * len(sessions) if aligned_rows is None else aligned_rows
    if not sessions:
        return []
    if type(n) is not int or n < 0:
        raise InputError(f"generate: expected 0 or more frames, got {shown(n)}")
    lm, lib = sessions[0].lm, sessions[0]._lib
    rows = [_aligned(g, lm.config, n) for g in aligned_rows]
    structs = [_sampling(s) for s in samplings]
    parts: list[list[Ids]] = [[] for _ in sessions]
    going = list(range(len(sessions)))
    with _Use(*sessions):
        for s in sessions:  # all of it at once, so that a refused request changes nothing
            info = s._info()
            if n > info.capacity - info.frames:
                left = f"at most {info.capacity - info.frames} more frames (capacity {info.capacity}, {info.frames} used)"
                raise InputError(
                    f"generate: expected {left}, got {n}; make the session with a larger max_frames"
                )
        for at in range(0, n, _TOGETHER):  # between two calls Python sees to its signals
            count = min(_TOGETHER, n - at)
            requests, outs = (_Request * len(going))(), []
            for r, i in zip(requests, going, strict=True):
                out = np.empty((count, lm.config.num_codebooks), np.int32)
                outs.append(out)
                aligned = rows[i]
                r.session, r.sampling, r.out = (
                    sessions[i]._handle,
                    ctypes.pointer(structs[i][0]),
                    out.ctypes.data,
                )
                r.aligned = None if aligned is None else aligned[at:].ctypes.data
            call(lib, "generate", requests, len(going), count)
            for i, r, out in zip(going, requests, outs, strict=True):
                parts[i].append(out[: r.made])
            going = [i for i, r in zip(going, requests, strict=True) if r.made == count]
            if not going:
                break
    empty = np.zeros((0, lm.config.num_codebooks), np.int32)
    return [np.concatenate([empty, *p]) for p in parts]


def _sampling(s: Any) -> tuple[_Sampling, Any]:
    """``_C.Sampling`` as the library reads it, and what it points into."""
    allowed = s.allowed or []
    counts = (c_int32 * max(1, len(allowed)))(*[len(slot) for slot in allowed])
    flat = [v for slot in allowed for start, size in slot for v in (start, start + size)]
    ranges = (c_int32 * max(1, len(flat)))(*flat)
    struct = _Sampling(
        s.temperature,
        s.top_p,
        s.repetition_penalty,
        s.top_k,
        s.repetition_window,
        s.end_id,
        s.min_frames,
        s.seed,
        s.greedy,
        s.tie_slots,
        _END_SLOTS[s.end_slots],
        len(allowed),
        counts,
        ranges,
    )
    return struct, (counts, ranges)


def _matrix(values: Any, what: str, columns: int) -> Ids:
    a = np.asarray(values)
    if a.ndim != 2 or a.shape[1] != columns or (a.size and a.dtype.kind not in "iu"):
        raise InputError(
            f"{what}: expected whole numbers [n, {columns}], got {a.dtype} {list(a.shape)}"
        )
    if a.size and not -(2**31) <= int(a.min()) <= int(a.max()) < 2**31:
        raise InputError(f"{what}: expected ids of 32 bits, got {a.min()} to {a.max()}")
    return np.ascontiguousarray(a, np.int32)


def _aligned(aligned: Any, config: LMConfig, rows: int) -> Ids | None:
    if aligned is None:
        return None
    if not config.aligned_slots:
        raise InputError(
            "aligned: expected none, since this model has no aligned slots; leave it out"
        )
    g = _matrix(aligned, "aligned", config.aligned_slots)
    if len(g) != rows:
        raise InputError(f"aligned: expected one row per frame ({rows}), got {len(g)}")
    return g


def _rows(aligned: Any) -> Ids | None:
    return None if aligned is None else np.ascontiguousarray(aligned, np.int32)
