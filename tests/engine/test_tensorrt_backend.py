"""The TensorRT backend with stand-ins for its libraries: everything above ``trt_api.py``, and the
logic of that module; not the libraries.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import fake_tensorrt
from sounds import tone
from uniaudio_training.export.tensorrt import OPERATORS, export_tensorrt, unsupported

from uniaudio_engine import Engine, InputError
from uniaudio_engine.backends.tensorrt import (
    changed_profiles,
    default_profiles,
    fitting,
    plan_key,
    shapes_of,
)
from uniaudio_engine.cli.main import main

pytestmark = pytest.mark.slow  # exports of models


def install(
    monkeypatch: pytest.MonkeyPatch, version: str = "10.9.0", gpu: str = "Fake GPU"
) -> fake_tensorrt.Cuda:
    cuda = fake_tensorrt.Cuda(gpu)
    parent, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    parent.bindings, bindings.runtime = bindings, cuda  # type: ignore[attr-defined]
    for name, module in (
        ("cuda", parent),
        ("cuda.bindings", bindings),
        ("cuda.bindings.runtime", cuda),
        ("tensorrt", fake_tensorrt.TensorRT(cuda, version)),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return cuda


@pytest.fixture
def graphs(joint_graphs: tuple[Path, Path]) -> tuple[Path, Path]:
    return joint_graphs


def test_tasks_streams_and_sessions(
    graphs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = install(monkeypatch)
    made = export_tensorrt(
        graphs[1], tmp_path / "plans", ["capacity=512"], timing_cache=tmp_path / "cache"
    )
    assert (tmp_path / "cache").read_bytes() == b"+" * len(made["plans"]) and made[
        "gpu"
    ] == "Fake GPU, 9.0"
    native = Engine.from_pretrained(graphs[0], dtype="float32", threads=1)
    engine = Engine.from_pretrained(tmp_path / "plans", backend="tensorrt")
    assert engine.info()["backend"] == "tensorrt" and engine.info()["device"] == "cuda"
    assert engine.capacity == 512
    sound = tone(0.8)
    for task, inputs in (
        ("tts", {"text": "Hello."}),
        ("se", {"source": sound}),
        ("t2s", {"text": "three knocks", "seconds": 0.4, "guidance": 2.0}),
    ):
        a, b = (e.generate(task, seed=3, **inputs) for e in (native, engine))
        np.testing.assert_allclose(a.samples, b.samples, atol=1e-4, err_msg=task)
        with engine.stream(task, seed=3, chunk_frames=(2, 5), **inputs) as stream:
            np.testing.assert_allclose(
                np.concatenate([c.samples for c in stream]), b.samples, atol=1e-6
            )
    assert cuda.launched > 100  # static steps are recorded
    frames = (
        np.random.default_rng(0)
        .integers(0, native.lm.config.vocab_size, (60, native.lm.config.num_codebooks))
        .astype(np.int32)
    )
    made_frames = [e.lm.generate(frames, 40, seed=9) for e in (native, engine)]
    np.testing.assert_array_equal(*made_frames)
    before = len(cuda.memory)
    session = engine.lm.session(100)
    session.prefill(frames)
    fork = session.fork()
    np.testing.assert_array_equal(
        session.generate(10, engine.lm.sampling(seed=1)),
        fork.generate(10, engine.lm.sampling(seed=1)),
    )
    del session, fork
    assert (
        len(cuda.memory) <= before + 4
    )  # buffers of the graphs may have grown; the sessions' are free
    with pytest.raises(InputError, match="max_frames: expected 1 to the limit 512"):
        engine.lm.session(513)
    with pytest.raises(
        InputError, match="expected at most samples .*; build the plans with a larger --profile"
    ):
        engine.codec.encode(np.zeros(40 * 16000, np.float32))


def test_plans_of_another_machine_are_refused(
    graphs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    export_tensorrt(graphs[1], tmp_path / "plans", [])
    export_tensorrt(graphs[1], tmp_path / "compatible", [], compatible=True)

    def refused(why: str, folder: str = "plans", **options: Any) -> None:
        with pytest.raises(InputError, match=why) as e:
            Engine.from_pretrained(tmp_path / folder, backend="tensorrt", **options)
        assert "\n" not in str(e.value)

    install(monkeypatch, gpu="Other GPU")
    refused(
        "it was built for TensorRT 10.9.0 on Fake GPU, 9.0, here is TensorRT 10.9.0 on Other "
        "GPU, 9.0"
    )
    install(monkeypatch, version="10.10.0")
    refused("build the plans here")
    Engine.from_pretrained(tmp_path / "compatible", backend="tensorrt")
    install(monkeypatch, version="11.0.0")
    refused("build the plans here", "compatible")
    install(monkeypatch)
    refused("error 101", device="cuda:1")
    refused("expected device cuda or cuda:N, got 'cpu'", device="cpu")
    shutil.copytree(tmp_path / "plans", tmp_path / "changed")
    with (tmp_path / "changed/local_step.plan").open("ab") as f:
        f.write(b" ")
    refused("local_step.plan: its contents have changed", "changed")
    (tmp_path / "changed/local_step.plan").unlink()
    refused("local_step.plan: expected a plan", "changed")
    (tmp_path / "changed/plans.json").write_text(json.dumps({"format": "x"}))
    refused("expected the format uniaudio-tensorrt-1", "changed")
    refused("expected a folder that export tensorrt wrote", "nowhere")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused("backend tensorrt needs TensorRT")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "cuda", None)
    refused("needs cuda-python")


def test_profiles() -> None:
    profiles, capacity = changed_profiles(
        default_profiles(320), ["steps=33:64:400", "capacity=2048"]
    )
    assert capacity == 2048 and profiles["global_prefill"] == [
        {"steps": (2, 16, 32)},
        {"steps": (33, 64, 400)},
    ]
    assert default_profiles(320)["global_prefill"][1] == {"steps": (33, 128, 256)}
    for bad in (
        "steps=3",
        "steps=9:8:7",
        "what=1:2:3",
        "capacity=0",
        "capacity=1:2:3",
        "steps",
        "steps=a:b:c",
        "capacity=99999999999",
    ):
        with pytest.raises(InputError, match="profile: expected"):
            changed_profiles(default_profiles(320), [bad])
    ports = {
        "x": (np.int64, ("steps", 4)),
        "keys": (np.float32, ("capacity", 2, 8)),
        "position": (np.int64, (1,)),
    }
    assert shapes_of(ports, {"steps": (2, 3, 5)}, 64) == {
        "x": ((2, 4), (3, 4), (5, 4)),
        "keys": ((64, 2, 8),) * 3,
    }
    with pytest.raises(InputError, match="sizes of steps"):
        shapes_of(ports, {}, 64)
    both = profiles["global_prefill"]
    assert [fitting(both, ports, {"x": (n, 4)}) for n in (2, 32, 33, 400)] == [0, 0, 1, 1]
    with pytest.raises(InputError, match="expected at most steps 400, got steps 401"):
        fitting(both, ports, {"x": (401, 4)})
    of = ("a", "b", "10.1.2", "gpu", both, 64, False)
    keys = {plan_key(*of)} | {
        plan_key(*(*of[:i], changed, *of[i + 1 :]))
        for i, changed in enumerate(("z", "z", "10.1.3", "z", both[:1], 65, True))
    }
    assert len(keys) == 8
    assert plan_key("a", "b", "10.1.2", "gpu", both, 64, True) == plan_key(
        "a", "b", "10.9.0", "gpu", both, 64, True
    )


def test_what_tensorrt_does_not_take(
    graphs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in sorted(graphs[1].glob("*.onnx")):
        proto = onnx.load(file, load_external_data=False)
        assert unsupported(proto) == (["type DOUBLE"] if file.stem == "local_frame" else []), (
            file.stem
        )
        assert {n.op_type for n in proto.graph.node} <= OPERATORS
    proto = onnx.load(graphs[1] / "global_step.onnx", load_external_data=False)
    proto.graph.node.add(op_type="Hardmax", input=["hidden"], output=["x"])
    proto.graph.node.add(op_type="CumSum", input=["hidden", "x"], output=["y"])
    proto.graph.node.add(op_type="Anything", domain="com.microsoft", input=["hidden"], output=["z"])
    assert unsupported(proto) == [
        "Anything of com.microsoft",
        "CumSum with an input 1 that is computed",
        "operator Hardmax",
    ]
    for name in ("tensorrt", "cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["export", "tensorrt", str(graphs[1]), "-o", str(tmp_path / "plans")]) == 2
    assert not (tmp_path / "plans").exists()


def test_the_command(
    graphs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch)
    command = ["export", "tensorrt", str(graphs[1]), "-o", str(tmp_path / "plans")]
    assert main([*command, "--profile", "capacity=256"]) == 0
    assert "7 plans for TensorRT 10.9.0 on Fake GPU, 9.0" in capsys.readouterr().out
    assert main(command) == 2 and "not there yet" in capsys.readouterr().err
    assert main(["export", "tensorrt", str(tmp_path), "-o", str(tmp_path / "x")]) == 2
    assert "export.json" in capsys.readouterr().err
