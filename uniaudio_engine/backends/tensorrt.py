"""A folder of TensorRT plans that ``uniaudio export tensorrt`` wrote, behind the interface of an
exported folder's graphs.

Plans are keyed by graph, weights, TensorRT's version, GPU and profile: another machine's are
refused when they are loaded. The global stack's keys and values and the codec's state stay on the
device; static steps are recorded as CUDA graphs. All calls into the library are in ``trt_api.py``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.folder import MAX_CONFIG_BYTES
from ..storage.opening import read_regular
from .onnx_folder import Memory, load_exported, ports_of
from .trt_api import Api, DeviceMemory, Plan

FORMAT = "uniaudio-tensorrt-1"
_MAX_PLAN_BYTES = 64 << 30
Sizes = dict[str, tuple[int, int, int]]  # dynamic dimension -> smallest, typical, largest
NEEDED = (
    "codec_encoder",
    "codec_decoder",
    "codec_decoder_step",
    "semantic_encoder",
    "global_prefill",
    "global_step",
    "local_step",
)  # local_frame is in double


def default_profiles(frame_size: int) -> dict[str, list[Sizes]]:
    """Graph -> its profiles: one for short inputs, which a stream has, and one for long ones;
    static steps have none to choose.
    """
    short, long = (1, 25, 50), (51, 500, 1500)  # frames
    samples = [
        {"samples": (frame_size * a, frame_size * b, frame_size * c)} for a, b, c in (short, long)
    ]
    return {
        "codec_encoder": samples,
        "semantic_encoder": samples,
        "codec_decoder": [{"frames": short}, {"frames": long}],
        "global_prefill": [{"steps": (2, 16, 32)}, {"steps": (33, 128, 256)}],
        "global_step": [{}],
        "local_step": [{"rows": (1, 1, 2)}],
        "codec_decoder_step": [{}],
    }


def changed_profiles(
    profiles: dict[str, list[Sizes]], changes: list[str]
) -> tuple[dict[str, list[Sizes]], int]:
    """With what ``--profile`` says, NAME=LEAST:TYPICAL:MOST for the long profile's dimension, or
    capacity=N: (profiles, capacity).
    """
    capacity, out = 1024, {g: [dict(p) for p in ps] for g, ps in profiles.items()}
    known = {n for ps in profiles.values() for p in ps for n in p}
    for change in changes:
        name, _, text = change.partition("=")
        numbers = text.split(":")
        if not all(n.isascii() and n.isdigit() and 0 < int(n) <= 1 << 24 for n in numbers):
            raise InputError(
                f"profile: expected NAME=LEAST:TYPICAL:MOST or capacity=N, got {shown(change)}"
            )
        values = [int(n) for n in numbers]
        if name == "capacity" and len(values) == 1:
            capacity = values[0]
        elif name in known and len(values) == 3 and values == sorted(values):
            for graph in out.values():
                for profile in [p for p in graph if name in p][-1:]:
                    profile[name] = (values[0], values[1], values[2])
        else:
            raise InputError(
                f"profile: expected capacity=N or one of {', '.join(sorted(known))} with rising "
                f"numbers, got {shown(change)}"
            )
    return out, capacity


def shapes_of(
    ports: Mapping[str, tuple[Any, tuple[Any, ...]]], sizes: Sizes, capacity: int
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """input -> its smallest, typical and largest shape.

    Raises :class:`InputError` for a dimension that the profile doesn't name.
    """
    known = {**sizes, "capacity": (capacity,) * 3}
    unknown = sorted(
        {d for _, shape in ports.values() for d in shape if isinstance(d, str) and d not in known}
    )
    if unknown:
        raise InputError(f"profile: expected sizes of {first_few(unknown)}")
    return {
        n: tuple(tuple(known[d][i] if isinstance(d, str) else d for d in shape) for i in range(3))
        for n, (_, shape) in ports.items()
        if any(isinstance(d, str) for d in shape)
    }


def plan_key(
    graph_sum: str,
    weights_sum: str,
    version: str,
    gpu: str,
    profiles: list[Sizes],
    capacity: int,
    compatible: bool,
) -> str:
    """What a plan was built of and for.

    A plan that suits several versions is keyed by the first number of TensorRT's.
    """
    of = version.partition(".")[0] if compatible else version
    text = json.dumps(
        [
            graph_sum,
            weights_sum,
            of,
            gpu,
            [sorted(p.items()) for p in profiles],
            capacity,
            compatible,
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def fitting(
    profiles: list[Sizes],
    ports: Mapping[str, tuple[Any, tuple[Any, ...]]],
    shapes: Mapping[str, tuple[int, ...]],
) -> int:
    """The first profile that has room for inputs of these shapes.

    Raises :class:`InputError` where none has.
    """
    sizes = {
        d: n
        for name, shape in shapes.items()
        for d, n in zip(ports[name][1], shape, strict=True)
        if isinstance(d, str) and d != "capacity"
    }
    for i, profile in enumerate(profiles):
        if all(profile[d][0] <= n <= profile[d][2] for d, n in sizes.items() if d in profile):
            return i
    got = ", ".join(f"{d} {n}" for d, n in sizes.items())
    most = ", ".join(
        f"{d} {max(p[d][2] for p in profiles if d in p)}"
        for d in sizes
        if any(d in p for p in profiles)
    )
    raise InputError(
        f"tensorrt: expected at most {most}, got {got}; build the plans with a larger --profile"
    )


class TrtFolder:
    """The plans of a folder, loaded for one device."""

    def __init__(self, path: str | Path, device: str = "cuda") -> None:
        self.path, self.device = Path(path), device
        self.plans = _load_plans(self.path)
        self.about, self.folder = load_exported(self.path)
        if device.partition(":")[0] != "cuda":
            raise InputError(
                f"backend tensorrt: expected device cuda or cuda:N, got {shown(device)}"
            )
        self.api = Api(int(device.partition(":")[2] or 0))
        self.capacity: int = self.plans["capacity"]
        self._graphs = {
            name: self._open(name, entry) for name, entry in self.plans["plans"].items()
        }

    @property
    def dtype(self) -> str:
        return str(self.about["dtype"])

    def graph(self, name: str) -> TrtGraph:
        return self._graphs[name]

    def memory(self, array: NDArray[Any]) -> Memory:
        with self.api.lock:
            return self.api.memory(array)

    def _open(self, name: str, entry: Mapping[str, Any]) -> TrtGraph:
        profiles: list[Sizes] = [
            {d: (v[0], v[1], v[2]) for d, v in p.items()} for p in entry["profiles"]
        ]
        sums = self.about["sha256"]
        key = plan_key(
            sums[f"{name}.onnx"],
            sums["weights.bin"],
            self.api.version,
            self.api.gpu,
            profiles,
            self.capacity,
            self.plans["compatible"],
        )
        file = self.path / f"{name}.plan"
        if key != entry["key"]:
            made = f"TensorRT {self.plans['tensorrt']} on {self.plans['gpu']}"
            raise InputError(
                f"{file}: it was built for {made}, here is TensorRT {self.api.version} on "
                f"{self.api.gpu}; build the plans here: uniaudio export tensorrt"
            )
        try:
            data = read_regular(file, _MAX_PLAN_BYTES)
        except OSError as e:
            raise InputError(
                f"{file}: expected a plan, got: {e.strerror or e}; build the plans again"
            ) from None
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise InputError(
                f"{file}: its contents have changed since it was built; build the plans again"
            )
        return TrtGraph(
            name,
            self.api.load(data, str(file), len(profiles)),
            self.about["graphs"][name],
            profiles,
            self.api,
        )


class TrtGraph:
    """One plan.

    Inputs and outputs that come from and go to the host have buffers of their own, which grow.
    """

    def __init__(
        self, name: str, plan: Plan, about: Mapping[str, Any], profiles: list[Sizes], api: Api
    ) -> None:
        self.name, self.plan, self.about, self.profiles, self.api = name, plan, about, profiles, api
        self.ports: Mapping[str, tuple[Any, tuple[Any, ...]]] = ports_of(about)
        if set(plan.inputs) != set(self.ports) or set(plan.outputs) != set(about["outputs"]):
            raise InputError(
                f"{name}.plan: its inputs and outputs are not those of export.json; build the "
                "plans again"
            )
        self.static = not any(
            isinstance(d, str) and d != "capacity"
            for _, shape in self.ports.values()
            for d in shape
        )
        self._buffers: dict[str, DeviceMemory] = {}

    def most(self, dimension: str) -> int:
        return max((p[dimension][2] for p in self.profiles if dimension in p), default=0)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self.run_state(inputs, {}, {}, self.plan.outputs)

    def run_state(
        self,
        inputs: Mapping[str, NDArray[Any]],
        read: Mapping[str, Memory],
        write: Mapping[str, Memory],
        outputs: Sequence[str],
        rows: int = 0,
    ) -> dict[str, NDArray[Any]]:
        arrays = {n: np.ascontiguousarray(v, self.ports[n][0]) for n, v in inputs.items()}
        shapes = {n: a.shape for n, a in arrays.items()}
        for n in read:
            shape = self.ports[n][1]
            shapes[n] = (rows, *shape[1:]) if rows else shape
        profile = fitting(self.profiles, self.ports, shapes)
        with self.api.lock:
            out = self.plan.shapes(profile, shapes)
            places = {n: m.pointer() for n, m in read.items()} | {
                f"{n}_out": m.pointer() for n, m in write.items()
            }
            for name, array in arrays.items():
                buffer = self._buffer(name, array.shape, array.dtype)
                buffer.write(array)
                places[name] = buffer.pointer()
            for name, shape in out.items():
                if name not in places:
                    places[name] = self._buffer(name, shape, self.plan.output_dtype(name)).pointer()
            self.plan.run(profile, places, self.static)
            return {n: self._buffers[n].read(out[n]) for n in outputs}

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: Any) -> DeviceMemory:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < math.prod(shape) * np.dtype(dtype).itemsize:
            buffer = self._buffers[name] = DeviceMemory(self.api, shape, dtype)
        return buffer


def _load_plans(path: Path) -> dict[str, Any]:
    file = path / "plans.json"
    try:
        plans = json.loads(read_regular(file, MAX_CONFIG_BYTES).decode("utf-8"))
    except OSError as e:
        raise InputError(
            f"{file}: expected a folder that export tensorrt wrote, got: {e.strerror or e}"
        ) from None
    except InputError:
        raise
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"{file}: expected JSON, got: {shown(str(e))}; build the plans again"
        ) from None
    fine = (
        isinstance(plans, dict)
        and plans.get("format") == FORMAT
        and isinstance(plans.get("capacity"), int)
        and isinstance(plans.get("plans"), dict)
    )
    if not fine or any(
        not (isinstance(e, dict) and {"key", "sha256", "profiles"} <= set(e))
        for e in plans["plans"].values()
    ):
        raise InputError(
            f"{file}: expected the format {FORMAT}; build the plans again: uniaudio export tensorrt"
        )
    return dict(plans)
