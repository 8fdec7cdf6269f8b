"""A folder that ``uniaudio export onnx`` wrote: what is in it, checked, and its graphs as ONNX
Runtime sessions.

Nothing runs before everything is checked: the format, the checksum of every file, each graph's
inputs and outputs by name, type and shape. What is amiss is one :class:`InputError` line at load,
never wrong sound.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.folder import MAX_CONFIG_BYTES, ModelFolder, load_described
from ..storage.opening import open_regular, read_regular

FORMAT = "uniaudio-onnx-1"
TYPES: dict[str, Any] = {
    "float": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "int64": np.int64,
    "bool": np.bool_,
}  # export.json's names


class Memory(Protocol):
    """Where an array lies for a graph to read and write."""

    def pointer(self) -> int: ...

    def array(self) -> NDArray[Any]: ...


class Graph(Protocol):
    """What runs one graph.

    ``ports``: input -> (dtype, shape with names of what is dynamic); ``about`` as in export.json.
    """

    name: str
    about: Mapping[str, Any]
    ports: Mapping[str, tuple[Any, tuple[Any, ...]]]

    def most(self, dimension: str) -> int:
        """The largest size of a dynamic dimension, 0: any."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs."""

    def run_state(
        self,
        inputs: Mapping[str, NDArray[Any]],
        read: Mapping[str, Memory],
        write: Mapping[str, Memory],
        outputs: Sequence[str],
        rows: int = 0,
    ) -> dict[str, NDArray[Any]]:
        """These outputs. State is read from ``read`` and written to ``write``, which may be the
        same where the graph writes rows of it (caches: the first ``rows`` rows take part); its
        names are the inputs'.
        """


class Exported(Protocol):
    """A folder of graphs with what runs them.

    ``capacity``: rows of the caches where they are fixed, else 0.
    """

    path: Path
    about: dict[str, Any]
    folder: ModelFolder
    device: str
    capacity: int

    @property
    def dtype(self) -> str: ...

    def graph(self, name: str) -> Graph: ...

    def memory(self, array: NDArray[Any]) -> Memory: ...


def ports_of(about: Mapping[str, Any]) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    return {name: (TYPES[kind], tuple(shape)) for name, (kind, *shape) in about["inputs"].items()}


def is_exported(path: str | os.PathLike[str] | None) -> bool:
    return path is not None and (Path(path) / "export.json").is_file()


class OnnxFolder:
    """An exported folder on ONNX Runtime. Immutable; its sessions may be run from several threads.

    ``about`` is ``export.json``.
    """

    capacity = 0

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu", threads: int = 1) -> None:
        self.path, self.device, self.threads = Path(path), device, threads
        self.about, self.folder = load_exported(self.path)
        self._runtime = runtime()
        self._providers = _providers(self._runtime, device)
        self._sessions = {name: self._open(name) for name in self.about["graphs"]}

    @property
    def dtype(self) -> str:
        return str(self.about["dtype"])

    def graph(self, name: str) -> OnnxGraph:
        return self._sessions[name]

    def memory(self, array: NDArray[Any]) -> Memory:
        if self.device == "cpu":
            return HostMemory(array)
        return OrtMemory(
            self._runtime.OrtValue.ortvalue_from_numpy(
                array, "cuda", int(self.device.partition(":")[2] or 0)
            )
        )

    def _open(self, name: str) -> OnnxGraph:
        file = self.path / f"{name}.onnx"
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = (
            self.threads,
            1,
            3,
        )
        # Each graph has workers of its own: those that spin after their work take the processors
        # from the next graph (2.0 instead of 3.2 x realtime).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = self._runtime.InferenceSession(str(file), options, providers=self._providers)
        except Exception as e:  # the runtime has exceptions of its own for each way to fail
            raise InputError(
                f"{file}: ONNX Runtime can't load it: {shown(' '.join(str(e).split()), 200)}"
            ) from None
        if self.device != "cpu" and session.get_providers()[0] != self._providers[0][0]:
            raise InputError(
                f"{file}: expected to run on {self.device}, but ONNX Runtime chose "
                f"{session.get_providers()[0]}; use device cpu"
            )
        return OnnxGraph(name, session, self.about["graphs"][name], str(file), self.device)


class OnnxGraph:
    """One graph on ONNX Runtime."""

    def __init__(
        self, name: str, session: Any, about: Mapping[str, Any], where: str, device: str
    ) -> None:
        self.name, self.session, self.about = name, session, about
        self.ports: Mapping[str, tuple[Any, tuple[Any, ...]]] = ports_of(about)
        self.device, self.device_id = device.partition(":")[0], int(device.partition(":")[2] or 0)
        for kind, ports, given in (
            ("input", session.get_inputs(), about["inputs"]),
            ("output", session.get_outputs(), about["outputs"]),
        ):
            found = {p.name: (p.type, *p.shape) for p in ports}
            wanted = {n: (f"tensor({t[0]})", *t[1:]) for n, t in given.items()}
            if found != wanted:
                wrong = [
                    f"{n} {found.get(n, 'missing')} (expected {wanted.get(n, 'none')})"
                    for n in sorted({*found, *wanted})
                    if found.get(n) != wanted.get(n)
                ]
                raise InputError(
                    f"{where}: {kind}s differ from export.json: {first_few(wrong, 2)}; export the "
                    "model again"
                )
        self.outputs = list(about["outputs"])

    def most(self, dimension: str) -> int:
        return 0

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self.outputs, self.session.run(self.outputs, dict(inputs)), strict=True))

    def run_state(
        self,
        inputs: Mapping[str, NDArray[Any]],
        read: Mapping[str, Memory],
        write: Mapping[str, Memory],
        outputs: Sequence[str],
        rows: int = 0,
    ) -> dict[str, NDArray[Any]]:
        binding = self.session.io_binding()
        for name in outputs:
            binding.bind_output(
                name, "cpu"
            )  # those that are bound first are the first of get_outputs
        for name, value in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name, memory in read.items():
            dtype, shape = self.ports[name]
            shape = (rows, *shape[1:]) if rows else shape
            binding.bind_input(name, self.device, self.device_id, dtype, shape, memory.pointer())
            binding.bind_output(
                f"{name}_out", self.device, self.device_id, dtype, shape, write[name].pointer()
            )
        self.session.run_with_iobinding(binding)
        made = binding.get_outputs()  # the state stays where it is
        return {name: np.asarray(made[i].numpy()) for i, name in enumerate(outputs)}


class HostMemory:
    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def pointer(self) -> int:
        return int(self._array.ctypes.data)

    def array(self) -> NDArray[Any]:
        return self._array


class OrtMemory:
    """On the device of ONNX Runtime's provider."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def pointer(self) -> int:
        return int(self._value.data_ptr())

    def array(self) -> NDArray[Any]:
        return np.asarray(self._value.numpy())


def load_exported(path: Path) -> tuple[dict[str, Any], ModelFolder]:
    """``export.json`` and all but the weights, checked: checksums, and that no graph is missing."""
    about = _load_about(path)
    folder = load_described(path)
    _check_sums(path, about["sha256"])
    missing = sorted(wanted_graphs(folder) - set(about["graphs"]))
    if missing:
        raise InputError(
            f"{path}: the graph {first_few(missing)} is missing; export the model again"
        )
    return about, folder


def wanted_graphs(folder: ModelFolder) -> set[str]:
    """The graphs that a model of this configuration needs to run."""
    graphs = {"codec_encoder", "codec_decoder", "codec_decoder_step"}
    if folder.config.semantic is not None:
        graphs.add("semantic_encoder")
    if folder.config.lm is not None:
        graphs |= {"global_prefill", "global_step", "local_step", "local_frame"}
    return graphs


def runtime() -> Any:
    """ONNX Runtime, or one :class:`InputError` line."""
    try:
        import onnxruntime
    except ImportError as e:
        raise InputError(
            f"backend onnx needs ONNX Runtime ({e}): pip install onnxruntime, or onnxruntime-gpu "
            "for device cuda"
        ) from None
    return onnxruntime


def _providers(ort: Any, device: str) -> list[Any]:
    if device == "cpu":
        return [("CPUExecutionProvider", {})]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise InputError(
            "device cuda: this ONNX Runtime has no CUDA provider; pip install onnxruntime-gpu, "
            "or use device cpu"
        )
    return [
        ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}),
        ("CPUExecutionProvider", {}),
    ]


def _load_about(path: Path) -> dict[str, Any]:
    file = path / "export.json"
    again = "export the model again: uniaudio export onnx"
    try:
        about = json.loads(read_regular(file, MAX_CONFIG_BYTES).decode("utf-8"))
    except OSError as e:
        raise InputError(
            f"{file}: expected a folder that export wrote, got: {e.strerror or e}; {again}"
        ) from None
    except InputError as e:
        raise InputError(f"{e}; {again}") from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"{file}: expected JSON, got: {shown(str(e))}; {again}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        got = about.get("format") if isinstance(about, dict) else about
        raise InputError(
            f"{file}: expected the format {FORMAT}, which this version reads, got {shown(got)}; "
            f"{again}"
        )
    ports_fine = (
        all(
            isinstance(g, dict) and all(_fine_ports(g.get(side)) for side in ("inputs", "outputs"))
            for g in about.get("graphs", {}).values()
        )
        if isinstance(about.get("graphs"), dict)
        else False
    )
    if not (
        ports_fine
        and isinstance(about.get("sha256"), dict)
        and all(isinstance(about.get(k), str) for k in ("dtype", "codec", "model"))
    ):
        raise InputError(f"{file}: expected graphs, sha256, dtype, codec and model; {again}")
    if any(not n.isidentifier() for n in about["graphs"]) or any(
        Path(n).name != n for n in about["sha256"]
    ):
        raise InputError(f"{file}: expected names of files in its own folder; {again}")
    return about


def _fine_ports(ports: Any) -> bool:
    return isinstance(ports, dict) and all(
        isinstance(t, list) and t and t[0] in TYPES for t in ports.values()
    )


def _check_sums(path: Path, sums: Mapping[str, str]) -> None:
    for name, wanted in sums.items():
        file, digest = path / name, hashlib.sha256()
        try:
            with open_regular(file) as f:
                while block := f.read(1 << 20):
                    digest.update(block)
        except OSError as e:
            raise InputError(
                f"{file}: expected the file that export.json names, got: {e.strerror or e}; "
                "export the model again"
            ) from None
        if digest.hexdigest() != wanted:
            raise InputError(
                f"{file}: its contents have changed since the export (checksum "
                f"{digest.hexdigest()[:12]}, expected {str(wanted)[:12]}); export the model again"
            )
