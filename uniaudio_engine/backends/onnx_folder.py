"""A folder that ``uniaudio export onnx`` wrote: what is in it, checked, and its graphs as ONNX Runtime sessions.

Nothing runs before everything is checked: the format, the checksum of every file, each graph's inputs and outputs by name, type and shape.
What is amiss is one :class:`InputError` line at load, never wrong sound.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..folder import MAX_CONFIG_BYTES, ModelFolder, load_described

FORMAT = "uniaudio-onnx-1"
TYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip
_NAMES = {"float": "tensor(float)", "float16": "tensor(float16)", "double": "tensor(double)", "int64": "tensor(int64)", "bool": "tensor(bool)"}


def is_exported(path: str | os.PathLike[str] | None) -> bool:
    return path is not None and (Path(path) / "export.json").is_file()


class Exported:
    """Immutable; its sessions may be run from several threads.  ``about`` is ``export.json``."""

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu", threads: int = 1) -> None:
        self.path, self.device, self.threads = Path(path), device, threads
        self.about = _load_about(self.path)
        self.folder: ModelFolder = load_described(self.path)
        _check_sums(self.path, self.about["sha256"])
        missing = sorted(wanted_graphs(self.folder) - set(self.about["graphs"]))
        if missing:
            raise InputError(f"{self.path}: the graph {first_few(missing)} is missing; export the model again")
        self._runtime = runtime()
        self._providers = _providers(self._runtime, device)
        self._sessions = {name: self._open(name) for name in self.about["graphs"]}

    @property
    def dtype(self) -> str:
        return str(self.about["dtype"])

    def graph(self, name: str) -> Graph:
        return self._sessions[name]

    def has(self, name: str) -> bool:
        return name in self._sessions

    def _open(self, name: str) -> Graph:
        file = self.path / f"{name}.onnx"
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = self.threads, 1, 3
        # Workers that spin between two steps would take the processor from whoever else is here; the steps are short.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.threads > 1 else "0")
        try:
            session = self._runtime.InferenceSession(str(file), options, providers=self._providers)
        except Exception as e:  # the runtime has exceptions of its own for each way to fail
            raise InputError(f"{file}: ONNX Runtime can't load it: {shown(' '.join(str(e).split()), 200)}") from None
        if self.device != "cpu" and session.get_providers()[0] != self._providers[0][0]:
            raise InputError(f"{file}: expected to run on {self.device}, but ONNX Runtime chose {session.get_providers()[0]}; use device cpu")
        return Graph(name, session, self.about["graphs"][name], str(file), self.device)


class Graph:
    """One graph: ``run`` for arrays, ``bind`` for memory that stays where it is."""

    def __init__(self, name: str, session: Any, about: Mapping[str, Any], where: str, device: str) -> None:
        self.name, self.session, self.about, self.device = name, session, about, device
        for kind, ports, given in (("input", session.get_inputs(), about["inputs"]), ("output", session.get_outputs(), about["outputs"])):
            found = {p.name: (p.type, *p.shape) for p in ports}
            wanted = {n: (_NAMES[t[0]], *t[1:]) for n, t in given.items()}
            if found != wanted:
                wrong = [f"{n} {found.get(n, 'missing')} (expected {wanted.get(n, 'none')})" for n in sorted({*found, *wanted}) if found.get(n) != wanted.get(n)]
                raise InputError(f"{where}: {kind}s differ from export.json: {first_few(wrong, 2)}; export the model again")
        self.outputs = list(about["outputs"])

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self.outputs, self.session.run(self.outputs, dict(inputs)), strict=True))


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
        raise InputError(f"backend onnx needs ONNX Runtime ({e}): pip install onnxruntime, or onnxruntime-gpu for device cuda") from None
    return onnxruntime


def _providers(ort: Any, device: str) -> list[Any]:
    if device == "cpu":
        return [("CPUExecutionProvider", {})]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise InputError("device cuda: this ONNX Runtime has no CUDA provider; pip install onnxruntime-gpu, or use device cpu")
    return [("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}), ("CPUExecutionProvider", {})]


def _load_about(path: Path) -> dict[str, Any]:
    file = path / "export.json"
    again = "export the model again: uniaudio export onnx"
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{file}: expected at most {MAX_CONFIG_BYTES} bytes, got {file.stat().st_size}; {again}")
        about = json.loads(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{file}: expected a folder that export wrote, got: {e.strerror or e}; {again}") from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"{file}: expected JSON, got: {shown(str(e))}; {again}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        got = about.get("format") if isinstance(about, dict) else about
        raise InputError(f"{file}: expected the format {FORMAT}, which this version reads, got {shown(got)}; {again}")
    ports_fine = all(
        isinstance(g, dict) and all(_fine_ports(g.get(side)) for side in ("inputs", "outputs")) for g in about.get("graphs", {}).values()
    ) if isinstance(about.get("graphs"), dict) else False  # fmt: skip
    if not (ports_fine and isinstance(about.get("sha256"), dict) and all(isinstance(about.get(k), str) for k in ("dtype", "codec", "model"))):
        raise InputError(f"{file}: expected graphs, sha256, dtype, codec and model; {again}")
    if any(not n.isidentifier() for n in about["graphs"]) or any(Path(n).name != n for n in about["sha256"]):
        raise InputError(f"{file}: expected names of files in its own folder; {again}")
    return about


def _fine_ports(ports: Any) -> bool:
    return isinstance(ports, dict) and all(isinstance(t, list) and t and t[0] in _NAMES for t in ports.values())


def _check_sums(path: Path, sums: Mapping[str, str]) -> None:
    for name, wanted in sums.items():
        file, digest = path / name, hashlib.sha256()
        try:
            with file.open("rb") as f:
                while block := f.read(1 << 20):
                    digest.update(block)
        except OSError as e:
            raise InputError(f"{file}: expected the file that export.json names, got: {e.strerror or e}; export the model again") from None
        if digest.hexdigest() != wanted:
            raise InputError(f"{file}: its contents have changed since the export (checksum {digest.hexdigest()[:12]}, expected {str(wanted)[:12]}); export the model again")
