"""Every call into TensorRT (10.x and 11.x) and the CUDA runtime that the engine makes, and nothing
else.

Written against the documented interfaces; no machine of this project has had the library, so
nothing here has run but over the stand-ins of the tests. Source: NVIDIA TensorRT documentation,
Python API; cuda-python, ``cuda.bindings.runtime``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown

Shapes = Mapping[
    str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
]  # input -> smallest, typical, largest


class Api:
    """TensorRT and the CUDA runtime of one device.

    Raises :class:`InputError` where either is missing.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            import tensorrt
        except ImportError as e:
            raise InputError(
                f"backend tensorrt needs TensorRT ({e}): pip install tensorrt, from NVIDIA's index"
            ) from None
        try:
            from cuda.bindings import runtime
        except ImportError as e:
            raise InputError(
                f"backend tensorrt needs cuda-python ({e}): pip install cuda-python"
            ) from None
        self.trt, self.cuda = tensorrt, runtime
        self.logger = self.trt.Logger(self.trt.Logger.ERROR)
        self.check(self.cuda.cudaSetDevice(device), "device")
        properties = self.check(self.cuda.cudaGetDeviceProperties(device), "device")
        name = (
            properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        )
        self.device, self.gpu = (
            device,
            f"{name.rstrip(chr(0))}, {properties.major}.{properties.minor}",
        )
        self.version = str(self.trt.__version__)
        self.stream = self.check(self.cuda.cudaStreamCreate(), "stream")
        self.lock = threading.Lock()  # of the stream and of all contexts

    def check(self, answer: Any, what: str) -> Any:
        """The CUDA runtime answers with an error code and, often, a value."""
        code, *values = answer
        if int(code) != 0:
            text = self.cuda.cudaGetErrorString(code)[1]
            raise InputError(
                f"tensorrt: {what}: {text.decode() if isinstance(text, bytes) else text}"
            )
        return values[0] if values else None

    # Building

    def build(
        self, onnx: Path, profiles: Sequence[Shapes], timing_cache: bytes, compatible: bool
    ) -> tuple[bytes, bytes]:
        """(plan, timing cache) of a strongly typed network."""
        trt = self.trt
        builder = trt.Builder(self.logger)
        typed = getattr(
            trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None
        )  # 11.x knows no other networks
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(onnx)):
            why = "; ".join(str(parser.get_error(i)) for i in range(min(2, parser.num_errors)))
            raise InputError(f"{onnx}: TensorRT can't read it: {shown(' '.join(why.split()), 300)}")
        config = builder.create_builder_config()
        if compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(cache, False)
        for shapes in profiles:
            profile = builder.create_optimization_profile()
            for name, (least, typical, most) in shapes.items():
                profile.set_shape(name, least, typical, most)
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise InputError(f"{onnx}: TensorRT could not build a plan of it; its messages say why")
        return bytes(plan), bytes(config.get_timing_cache().serialize())

    # Running

    def load(self, plan: bytes, where: str, profiles: int) -> Plan:
        runtime = self.trt.Runtime(self.logger)
        runtime.engine_host_code_allowed = (
            True  # plans that suit several versions carry their runtime
        )
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise InputError(
                f"{where}: TensorRT {self.version} can't load it; build the plans again"
            )
        return Plan(self, engine, profiles)

    def memory(self, array: NDArray[Any]) -> DeviceMemory:
        memory = DeviceMemory(self, array.shape, array.dtype)
        memory.write(array)
        return memory


class DeviceMemory:
    def __init__(self, api: Api, shape: tuple[int, ...], dtype: Any) -> None:
        self.api, self.shape, self.dtype = api, shape, np.dtype(dtype)
        self.size = int(np.prod(shape)) * self.dtype.itemsize
        self._pointer = int(api.check(api.cuda.cudaMalloc(max(1, self.size)), "memory"))

    def __del__(self) -> None:
        pointer = getattr(self, "_pointer", None)
        if pointer is not None:
            self.api.cuda.cudaFree(pointer)

    def pointer(self) -> int:
        return self._pointer

    def write(self, array: NDArray[Any]) -> None:
        a, api = np.ascontiguousarray(array, self.dtype), self.api
        api.check(
            api.cuda.cudaMemcpyAsync(
                self._pointer,
                a.ctypes.data,
                a.nbytes,
                api.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice,
                api.stream,
            ),
            "upload",
        )
        api.check(api.cuda.cudaStreamSynchronize(api.stream), "upload")  # the array may go

    def array(self) -> NDArray[Any]:
        with self.api.lock:
            return self.read(self.shape)

    def read(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first values, in this shape."""
        out, api = np.empty(shape, self.dtype), self.api
        api.check(
            api.cuda.cudaMemcpyAsync(
                out.ctypes.data,
                self._pointer,
                out.nbytes,
                api.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost,
                api.stream,
            ),
            "download",
        )
        api.check(api.cuda.cudaStreamSynchronize(api.stream), "a plan")
        return out


class Plan:
    """A loaded plan: one context a profile.  Callers hold ``api.lock``."""

    def __init__(self, api: Api, engine: Any, profiles: int) -> None:
        self.api, self.engine = api, engine
        self.contexts = []
        for i in range(profiles):
            context = engine.create_execution_context()
            if not context.set_optimization_profile_async(i, api.stream):
                raise InputError(f"tensorrt: profile {i} is not in the plan; build the plans again")
            self.contexts.append(context)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == api.trt.TensorIOMode.INPUT]
        self.inputs, self.outputs = inputs, [n for n in names if n not in inputs]
        self._recorded: dict[Any, Any] = {}

    def output_dtype(self, name: str) -> Any:
        return np.dtype(self.api.trt.nptype(self.engine.get_tensor_dtype(name)))

    def shapes(
        self, profile: int, inputs: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        """Sets the inputs' shapes; returns the outputs'."""
        context = self.contexts[profile]
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                raise InputError(
                    f"tensorrt: {name}: {list(shape)} is not in the plan's profile; build the "
                    "plans with a larger one"
                )
        return {n: tuple(context.get_tensor_shape(n)) for n in self.outputs}

    def run(self, profile: int, places: Mapping[str, int], recorded: bool) -> None:
        """Runs over memory at these addresses.

        ``recorded``: as a CUDA graph, made at the second call with the same addresses.
        """
        api, context = self.api, self.contexts[profile]
        key = (profile, tuple(sorted(places.items())))
        if recorded and self._recorded.get(key) is not None:
            api.check(api.cuda.cudaGraphLaunch(self._recorded[key], api.stream), "a plan")
            return
        for name, pointer in places.items():
            if not context.set_tensor_address(name, pointer):
                raise InputError(f"tensorrt: the plan has no {name}; build the plans again")
        if (
            recorded and key in self._recorded
        ):  # the first call has let TensorRT set up what can't be recorded
            api.check(
                api.cuda.cudaStreamBeginCapture(
                    api.stream, api.cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
                ),
                "recording",
            )
            went = context.execute_async_v3(api.stream)
            graph = api.check(api.cuda.cudaStreamEndCapture(api.stream), "recording")
            if went:
                self._recorded[key] = api.check(
                    api.cuda.cudaGraphInstantiate(graph, 0), "recording"
                )
                api.check(api.cuda.cudaGraphLaunch(self._recorded[key], api.stream), "a plan")
        else:
            went = context.execute_async_v3(api.stream)
            if recorded:
                if len(self._recorded) >= 64:  # sessions that have ended left theirs
                    self._recorded.pop(next(iter(self._recorded)))
                self._recorded[key] = None
        if not went:
            raise InputError("tensorrt: a plan could not be run")
