"""An engine in its own process, driven through a pipe; only one engine works at a time."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
from collections.abc import Iterator, Sequence
from typing import Any

from uniaudio_engine.errors import InputError

from .base import AnySpec

# kind -> (module, class, required packages)
KINDS = {
    "native": ("peers.native", "Native", ()),
    "torch": ("peers.torch_lm", "TorchPeer", ("torch",)),
    "onnx": ("peers.onnx_lm", "OnnxPeer", ("onnxruntime", "onnx")),
    "llama": ("peers.llama_lm", "LlamaPeer", ("llama_cpp", "gguf")),
    "speech-native": ("peers.speech_native", "SpeechNative", ()),
    "speech-torch": ("peers.speech_torch", "SpeechTorch", ("torch",)),
    "speech-onnx": ("peers.speech_onnx", "SpeechOnnx", ("onnxruntime", "onnx")),
}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def missing(kind: str) -> str:
    """The first package that this kind of peer needs and that is not installed, or ""."""
    import importlib.util

    return next((p for p in KINDS[kind][2] if importlib.util.find_spec(p) is None), "")


def serve(pipe: multiprocessing.connection.Connection, spec: AnySpec) -> None:
    """Child process: makes the engine, then answers (method, arguments) with (True, value) or
    (False, message).
    """
    try:
        module, name, _ = KINDS[spec.kind]
        peer = getattr(importlib.import_module(module), name)(spec)
        pipe.send((True, peer.version))
        while True:
            method, args = pipe.recv()
            try:
                pipe.send((True, getattr(peer, method)(*args)))
            except (ValueError, RuntimeError, OSError, MemoryError) as e:
                pipe.send((False, f"{type(e).__name__}: {e}"))
    except (EOFError, KeyboardInterrupt):
        pass
    # any failure of a peer's package at import or load: the parent reports and skips it
    except Exception as e:
        with contextlib.suppress(OSError):
            pipe.send((False, f"{type(e).__name__}: {e}"))


class Worker:
    """The parent's side of an engine; methods of the peer are called by name."""

    def __init__(self, spec: AnySpec) -> None:
        self.spec, self.name, self.version = spec, spec.name, ""
        context = multiprocessing.get_context("spawn")
        self.pipe, child = context.Pipe()
        with _environment(spec.threads):
            self.process = context.Process(target=serve, args=(child, spec), daemon=True)
            self.process.start()
        child.close()

    def call(self, method: str, *args: Any) -> Any:
        try:
            self.pipe.send((method, args))
        except OSError:
            raise InputError(f"{self.name}: its process is gone") from None
        return self.answer()

    def answer(self) -> Any:
        try:
            ok, value = self.pipe.recv()
        except (EOFError, OSError):
            raise InputError(
                f"{self.name}: its process ended (code {self.process.exitcode})"
            ) from None
        if not ok:
            raise InputError(f"{self.name}: {' '.join(str(value).split())[:300]}")
        return value

    def close(self) -> None:
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Sets thread counts for libraries that read them at load.

    OpenBLAS (NumPy) gets one thread: it only does the glue around a peer, and idle threads would
    spin next to those of the peer.
    """
    before = {k: os.environ.get(k) for k in (*_THREADS, "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)), OPENBLAS_NUM_THREADS="1")
    try:
        yield
    finally:
        for k, v in before.items():
            if v is None:
                del os.environ[k]
            else:
                os.environ[k] = v


@contextlib.contextmanager
def workers(specs: Sequence[AnySpec]) -> Iterator[tuple[list[Worker], dict[str, str]]]:
    """The workers that started, and for the others name -> reason."""
    started, failed = [Worker(s) for s in specs], {}
    try:
        ready = []
        for worker in started:
            try:
                worker.version = worker.answer()
                ready.append(worker)
            except InputError as e:
                failed[worker.name] = str(e)
        yield ready, failed
    finally:
        for worker in started:
            worker.close()
