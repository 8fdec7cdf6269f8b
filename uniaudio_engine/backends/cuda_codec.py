"""Codecs on an NVIDIA device, and the quantizer by itself.

:class:`CudaCodec` stands in for ``_C.Codec``; its sizes and look-aheads are asked of the compiled
core's codec, which it is made beside.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from ctypes import byref, c_double, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..storage.config import CodecConfig, to_dict
from .cuda import Ids, call, library, made, pointer, tensors_of
from .cuda_array import CudaArray


class CudaCodec:
    """A codec, or a tokenizer that ends at its codes, on a device, beside ``cpu``, the same of the
    compiled core.
    """

    @staticmethod
    def fits(config: CodecConfig) -> bool:
        """Whether a device does it: chunks, group norm and loudness look at whole clips, and stay
        on the CPU with codecs of several channels.
        """
        s = config.seanet
        return (
            s is None
            or config.family == "spectral"
            or not (s.channels > 1 or s.norm == "group" or s.normalize or s.chunk_size)
        )

    def __init__(
        self,
        config: CodecConfig,
        weights: Mapping[str, NDArray[Any]],
        cpu: Any,
        index: int = 0,
        lib: Any = None,
    ) -> None:
        self.config, self.cpu = config, cpu
        self._lib = lib if lib is not None else library()
        tensors, _keep = tensors_of(weights)
        self._handle = made(
            self._lib,
            "codec_create",
            index,
            json.dumps(to_dict(config)).encode(),
            tensors,
            len(weights),
        )

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._lib.codec_release(handle)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cpu, name)

    def encoder_stream(self, num_codebooks: int = 0) -> CudaEncoder:
        return CudaEncoder(
            self,
            made(self._lib, "encoder_create", self._handle, num_codebooks),
            num_codebooks or self.config.num_codebooks,
        )

    def encode(self, samples: Any, num_codebooks: int = 0) -> Ids:
        """samples float32 [N] -> codes int32 [K', ceil(N / frame_size)]."""
        return self.encoder_stream(num_codebooks).push(samples, flush=True)

    def decoder_stream(self) -> CudaDecoder:
        return CudaDecoder(self, made(self._lib, "decoder_create", self._handle))

    def decode_array(self, codes: Ids) -> CudaArray:
        """As :meth:`decode`; the samples stay on the device."""
        return self.decoder_stream().push_array(codes, flush=True)

    def decode(self, codes: Ids) -> NDArray[np.float32]:
        """codes [K', T] -> samples float32 [T x frame_size]."""
        return self.decoder_stream().push(codes, flush=True)


class CudaEncoder:
    """One clip: samples in, complete frames out, as ``_C.EncoderStream``."""

    def __init__(self, codec: CudaCodec, handle: c_void_p, num_codebooks: int) -> None:
        self.codec, self.num_codebooks, self._lib, self._handle, self._lock = (
            codec,
            num_codebooks,
            codec._lib,
            handle,
            threading.Lock(),
        )

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._lib.encoder_release(handle)

    def push(self, samples: Any, flush: bool = False) -> Ids:
        """samples float32 [n] -> the frames that are complete, int32 [K', t]; ``flush``: and the
        rest.
        """
        x = np.ascontiguousarray(samples, np.float32)
        if x.ndim == 2 and len(x) == 1:
            x = x[0]
        if x.ndim != 1:
            raise InputError(f"samples: expected [N] or [1, N], got {list(x.shape)}")
        most = (len(x) + self.codec.cpu.encoder_lookahead) // self.codec.config.frame_size + 2
        out, t = np.empty((most, self.num_codebooks), np.int32), c_int64()
        with self._lock:
            call(
                self._lib,
                "encoder_push",
                self._handle,
                pointer(x),
                len(x),
                flush,
                pointer(out),
                byref(t),
            )
        return np.ascontiguousarray(out[: t.value].T)

    def flush(self) -> Ids:
        """The last frames of the clip; the next push begins a new one."""
        return self.push(np.zeros(0, np.float32), flush=True)

    def reset(self) -> None:
        with self._lock:
            call(self._lib, "encoder_reset", self._handle)

    def fork(self) -> CudaEncoder:
        with self._lock:
            return CudaEncoder(
                self.codec, made(self._lib, "encoder_fork", self._handle), self.num_codebooks
            )


class CudaDecoder:
    """One clip: frames in, complete samples out, as ``_C.DecoderStream``."""

    def __init__(self, codec: CudaCodec, handle: c_void_p) -> None:
        self.codec, self._lib, self._handle, self._lock = (
            codec,
            codec._lib,
            handle,
            threading.Lock(),
        )

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._lib.decoder_release(handle)

    def push(self, codes: Any, flush: bool = False) -> NDArray[np.float32]:
        """codes [K', t] -> the samples that are complete; ``flush``: and the rest."""
        rows, k, most = self._rows(codes)
        out, n = np.empty(most, np.float32), c_int64()
        with self._lock:
            call(
                self._lib,
                "decoder_push",
                self._handle,
                pointer(rows),
                len(rows),
                k,
                flush,
                pointer(out),
                byref(n),
            )
        return out[: n.value].copy()

    def _rows(self, codes: Any) -> tuple[Ids, int, int]:
        """codes [K', t] -> [t, K'], K', and the samples that may come out at most."""
        c, config = np.asarray(codes), self.codec.config
        if c.ndim != 2 or not 1 <= len(c) <= config.num_codebooks or c.dtype.kind not in "iu":
            raise InputError(
                f"codes: expected whole numbers [1 to {config.num_codebooks}, t], got {c.dtype} "
                f"{list(c.shape)}"
            )
        return (
            np.ascontiguousarray(c.T, np.int32),
            len(c),
            (c.shape[1] + 1) * config.frame_size + self.codec.cpu.decoder_lookahead,
        )

    def push_array(self, codes: Any, flush: bool = False) -> CudaArray:
        """As :meth:`push`, but the samples stay on the device: torch.from_dlpack(...) and others
        read them there.
        """
        rows, k, most = self._rows(codes)
        with self._lock:
            return CudaArray(
                self._lib,
                made(
                    self._lib,
                    "decoder_push_array",
                    self._handle,
                    pointer(rows),
                    len(rows),
                    k,
                    flush,
                    most,
                ),
            )

    def flush(self) -> NDArray[np.float32]:
        """What the look-ahead held back; the next push begins a new clip."""
        return self.push(np.zeros((1, 0), np.int32), flush=True)

    def reset(self) -> None:
        with self._lock:
            call(self._lib, "decoder_reset", self._handle)

    def fork(self) -> CudaDecoder:
        with self._lock:
            return CudaDecoder(self.codec, made(self._lib, "decoder_fork", self._handle))


class CudaRVQ:
    """A codec's codebooks [K, C, E] on a device: the codes are the CPU's."""

    def __init__(self, codebooks: NDArray[np.float32], index: int = 0, lib: Any = None) -> None:
        self._lib = lib if lib is not None else library()
        books = np.ascontiguousarray(codebooks, np.float32)
        if books.ndim != 3:
            raise InputError(f"codebooks: expected [K, C, E], got {list(books.shape)}")
        self.shape = books.shape
        self._handle = made(self._lib, "rvq_create", index, pointer(books), *books.shape)

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._lib.rvq_release(handle)

    def encode(self, z: NDArray[np.float32], stages: int = 0) -> Ids:
        """z [T, E] -> codes [T, stages] (0: all)."""
        x = np.ascontiguousarray(z, np.float32)
        if x.ndim != 2 or x.shape[1] != self.shape[2]:
            raise InputError(f"z: expected [T, {self.shape[2]}], got {list(x.shape)}")
        codes = np.empty((len(x), stages or self.shape[0]), np.int32)
        call(
            self._lib,
            "rvq_encode",
            self._handle,
            pointer(x),
            len(x),
            codes.shape[1],
            pointer(codes),
            None,
        )
        return codes

    def encode_microseconds(self, z: NDArray[np.float32], stages: int, repeats: int = 20) -> float:
        """What encoding takes on the device, without the copies: the median."""
        x, us = np.ascontiguousarray(z, np.float32), c_double()
        call(self._lib, "rvq_time", self._handle, pointer(x), len(x), stages, repeats, byref(us))
        return us.value

    def decode(self, codes: Any) -> NDArray[np.float32]:
        """codes [T, stages] -> z [T, E]."""
        c = np.ascontiguousarray(codes, np.int32)
        if c.ndim != 2:
            raise InputError(f"codes: expected [T, stages], got {list(c.shape)}")
        z = np.empty((len(c), self.shape[2]), np.float32)
        call(self._lib, "rvq_decode", self._handle, pointer(c), len(c), c.shape[1], 0, pointer(z))
        return z
