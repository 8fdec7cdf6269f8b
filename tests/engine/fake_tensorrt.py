"""Stand-ins for ``tensorrt`` and ``cuda.bindings.runtime`` on ONNX Runtime and host memory.

They implement the documented interfaces that ``backends/trt_api.py`` uses, and are strict about the
order of calls. Fresh memory is poisoned.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime


class Cuda(ModuleType):
    """``cuda.bindings.runtime``: each call answers with an error code first."""

    class cudaMemcpyKind(IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class cudaStreamCaptureMode(IntEnum):
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(self, gpu: str = "Fake GPU") -> None:
        super().__init__("cuda.bindings.runtime")
        self.gpu, self.memory, self.recording, self.launched = gpu, {}, None, 0

    def cudaSetDevice(self, device: int) -> tuple[int]:
        return (0 if device == 0 else 101,)

    def cudaGetErrorString(self, code: int) -> tuple[int, bytes]:
        return 0, f"error {code}".encode()

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return 0, SimpleNamespace(name=self.gpu.encode() + b"\0\0", major=9, minor=0)

    def cudaStreamCreate(self) -> tuple[int, int]:
        return 0, 1

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert self.recording is None
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        array = np.full(size, 0xFF, np.uint8)
        self.memory[array.ctypes.data] = array
        return 0, array.ctypes.data

    def cudaFree(self, pointer: int) -> tuple[int]:
        del self.memory[pointer]
        return (0,)

    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: int, stream: int) -> tuple[int]:
        device = to if kind == 1 else of
        assert self.recording is None and self.memory[device].nbytes >= size
        ctypes.memmove(to, of, size)
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, Any]:
        recorded, self.recording = self.recording, None
        return 0, recorded

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:
        return 0, graph

    def cudaGraphLaunch(self, graph: list[Callable[[], None]], stream: int) -> tuple[int]:
        for work in graph:
            work()
        self.launched += 1
        return (0,)


class TensorRT(ModuleType):
    class NetworkDefinitionCreationFlag(IntEnum):
        STRONGLY_TYPED = 1

    class BuilderFlag(IntEnum):
        VERSION_COMPATIBLE = 7

    class TensorIOMode(IntEnum):
        INPUT = 1
        OUTPUT = 2

    def __init__(self, cuda: Cuda, version: str = "10.9.0") -> None:
        super().__init__("tensorrt")
        self.cuda, self.__version__ = cuda, version

    @staticmethod
    def nptype(dtype: Any) -> Any:
        return dtype

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None: ...

    class Builder:
        def __init__(self, logger: Any) -> None: ...

        def create_network(self, flags: int) -> Any:
            assert flags == 2, "not strongly typed"
            return SimpleNamespace(path=None)

        def create_builder_config(self) -> Any:
            return _Config()

        def create_optimization_profile(self) -> Any:
            return _Profile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes:
            dynamic = {
                i.name
                for i in onnx.load(network.path, load_external_data=False).graph.input
                if any(d.dim_param for d in i.type.tensor_type.shape.dim)
            }
            assert all(set(p.shapes) == dynamic for p in config.profiles), (
                "every dynamic input has a shape in every profile"
            )
            return json.dumps(
                {"path": network.path, "profiles": [p.shapes for p in config.profiles]}
            ).encode()

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse_from_file(self, path: str) -> bool:
            self.network.path = path
            return True

        def get_error(self, i: int) -> str:
            return "unreadable"

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(
            deserialize_cuda_engine=lambda data: _Engine(self, json.loads(data)),
            engine_host_code_allowed=False,
        )


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, typical: Any, most: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, typical, most, strict=True))
        self.shapes[name] = [least, typical, most]


class _Config:
    def __init__(self) -> None:
        self.profiles: list[_Profile] = []

    def set_flag(self, flag: int) -> None: ...

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: data + b"+")

    def set_timing_cache(self, cache: Any, ignore: bool) -> None:
        self.cache = cache

    def get_timing_cache(self) -> Any:
        return self.cache

    def add_optimization_profile(self, profile: _Profile) -> None:
        self.profiles.append(profile)


_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class _Engine:
    def __init__(self, trt: TensorRT, plan: dict[str, Any]) -> None:
        self.trt, self.profiles = trt, plan["profiles"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self.session = onnxruntime.InferenceSession(
            plan["path"], options, providers=["CPUExecutionProvider"]
        )
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()
        self.ports = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.ports)

    def get_tensor_name(self, i: int) -> str:
        return str(self.ports[i].name)

    def get_tensor_mode(self, name: str) -> int:
        return (
            TensorRT.TensorIOMode.INPUT
            if name in {p.name for p in self.inputs}
            else TensorRT.TensorIOMode.OUTPUT
        )

    def get_tensor_dtype(self, name: str) -> Any:
        return next(_TYPES[p.type] for p in self.ports if p.name == name)

    def create_execution_context(self) -> Any:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.profile = engine, None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.places: dict[str, int] = {}
        self._known: dict[Any, Any] = {}

    def set_optimization_profile_async(self, i: int, stream: int) -> bool:
        if i >= len(self.engine.profiles):
            return False
        self.profile = self.engine.profiles[i]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        if name in self.profile:
            least, _, most = self.profile[name]
            if not all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True)):
                return False
        self.shapes[name] = tuple(shape)
        return True

    def _zeros(self) -> dict[str, Any]:
        return {p.name: np.zeros(self.shapes[p.name], _TYPES[p.type]) for p in self.engine.inputs}

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        key = tuple(sorted(self.shapes.items()))
        if key not in self._known:
            self._known[key] = {
                p.name: v.shape
                for p, v in zip(
                    self.engine.outputs, self.engine.session.run(None, self._zeros()), strict=True
                )
            }
        return tuple(self._known[key][name])

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.places[name] = pointer
        return any(p.name == name for p in self.engine.ports)

    def execute_async_v3(self, stream: int) -> bool:
        if len(self.places) < len(self.engine.ports):
            return False
        cuda, shapes, places = self.engine.trt.cuda, dict(self.shapes), dict(self.places)

        def work() -> None:
            def view(pointer: int, shape: Any, dtype: Any) -> Any:
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                return cuda.memory[pointer][:size].view(dtype).reshape(shape)

            given = {
                p.name: view(places[p.name], shapes[p.name], _TYPES[p.type]).copy()
                for p in self.engine.inputs
            }
            for port, value in zip(
                self.engine.outputs, self.engine.session.run(None, given), strict=True
            ):
                view(places[port.name], value.shape, _TYPES[port.type])[...] = value

        if cuda.recording is not None:
            cuda.recording.append(work)
        else:
            work()
        return True
