"""Graphs of tiny models of each kind, against the torch modules (golden vectors) and the compiled
core;
and broken folders.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from encodec_case import PUBLISHED, codec_of, hf_state, write_hf
from import_tools import token_list, write_codec, write_lm
from reference_codec import ReferenceCodec
from reference_lm import ReferenceLM
from sounds import tone
from tiny import make_tiny_model, random_weights
from uniaudio_training.export.write import export_onnx

from uniaudio_engine import Engine, InputError
from uniaudio_engine.backends.token_lm import Sampling
from uniaudio_engine.backends.verify import table, verify
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.encodec import import_encodec
from uniaudio_engine.importers.uniaudio import import_uniaudio
from uniaudio_engine.storage.weight_shapes import codec_shapes

pytestmark = pytest.mark.slow  # exports of models


@pytest.fixture
def joint(joint_graphs: tuple[Path, Path]) -> tuple[Path, Path]:
    return joint_graphs


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """UniAudio v1's architecture: a codec that looks ahead, learned positions, continuous inputs."""
    root = tmp_path_factory.mktemp("imported")
    tokens = token_list(3, 16)
    write_lm(root / "lm", ReferenceLM(len(tokens), 300, 36, 3, 4, 3).randomize(1), tokens)
    write_codec(
        root / "codec", ReferenceCodec(filters=2, width=4, ratios=(5, 4, 2), codebooks=3, codes=16)
    )
    import_uniaudio(root / "lm", root / "codec", root / "model")
    export_onnx(root / "model", root / "graphs")
    return root / "model", root / "graphs"


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Projections and a part of the bridge for each slot."""
    root = tmp_path_factory.mktemp("slots")
    make_tiny_model(root / "model", slot_weights=True, conditioning="project")
    export_onnx(root / "model", root / "graphs")
    return root / "model", root / "graphs"


def encodec(root: Path, name: str) -> tuple[Path, Path]:
    """One of EnCodec's shapes, with few filters."""
    config = PUBLISHED[name] | {
        "num_filters": 2,
        "hidden_size": 8,
        "codebook_dim": 8,
        "codebook_size": 16,
        "target_bandwidths": [1.2],
    }
    codec = codec_of(config, root)
    import_encodec(
        write_hf(root / "source", config, hf_state(codec, random_weights(codec_shapes(codec)))),
        root / "model",
    )
    export_onnx(root / "model", root / "graphs")
    return root / "model", root / "graphs"


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return encodec(tmp_path_factory.mktemp("causal"), "24 kHz")


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return encodec(tmp_path_factory.mktemp("ahead"), "32 kHz")


def engines(pair: tuple[Path, Path]) -> tuple[Engine, Engine]:
    return Engine.from_pretrained(pair[0], dtype="float32", threads=1), Engine.from_pretrained(
        pair[1], backend="onnx", threads=1
    )


@pytest.mark.parametrize("which", ["joint", "imported", "slots", "causal", "ahead"])
def test_the_graphs_are_the_torch_modules_and_the_native_backend(
    which: str, request: pytest.FixtureRequest
) -> None:
    model, graphs = request.getfixturevalue(which)
    rows = verify(graphs, model)
    assert all(r.fine for r in rows), table(rows)
    about = json.loads((graphs / "export.json").read_text())
    assert {r.what for r in rows if r.against == "golden vectors"} == set(about["graphs"])
    assert sum(r.against == "native float32" for r in rows) >= (
        4 if which in ("joint", "imported", "slots") else 2
    )
    for file in graphs.glob("*.onnx"):
        assert (
            b"/home/" not in file.read_bytes()
            and str(Path(__file__).parents[2]).encode() not in file.read_bytes()
        )


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_types(joint: tuple[Path, Path], tmp_path: Path, dtype: str) -> None:
    export_onnx(joint[0], tmp_path / "graphs", dtype)
    rows = verify(tmp_path / "graphs", joint[0])
    assert all(r.fine is not False for r in rows), table(rows)
    weights = [int((p / "weights.bin").stat().st_size) for p in (joint[1], tmp_path / "graphs")]
    assert weights[1] < weights[0]
    types = {
        t.data_type
        for t in onnx.load(
            tmp_path / "graphs/global_step.onnx", load_external_data=False
        ).graph.initializer
    }
    assert {"float16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[dtype] in types
    with Engine.from_pretrained(tmp_path / "graphs", backend="onnx").stream(
        "tts", text="Hello.", seed=1
    ) as stream:
        assert sum(len(c.samples) for c in stream) > 1000


def test_every_task(joint: tuple[Path, Path]) -> None:
    native, graphs = engines(joint)
    sound = tone(1.0)
    given: dict[str, dict[str, Any]] = {
        "tts": {"text": "Hello there."},
        "vc": {"source": sound, "prompt": sound},
        "se": {"source": sound},
        "tse": {"source": sound, "prompt": sound},
        "svs": {"score": "C4 1 la\nD4 1 la", "prompt": sound},
        "t2s": {"text": "three knocks", "seconds": 0.5, "guidance": 2.0},
        "t2m": {"text": "slow piano", "seconds": 0.5},
        "a_edit": {"instruction": "add a bell", "source": sound, "span": (0.3, 0.6)},
        "sd": {"source": sound},
        "i_tts": {"instruction": "a low voice", "text": "Hello.", "best_of": 3},
        "s_edit": {"text": "hello", "source": sound, "span": (0.3, 0.6)},
    }
    assert set(given) == {t["name"] for t in native.tasks()}
    for task, inputs in given.items():
        try:
            a = native.generate(task, seed=3, **inputs)
        except InputError as e:
            pytest.fail(f"{task}: {e}")
        b = graphs.generate(task, seed=3, **inputs)
        np.testing.assert_allclose(a.samples, b.samples, atol=1e-4, err_msg=task)
        assert a.meta.get("chosen") == b.meta.get("chosen"), task
        with graphs.stream(task, seed=3, chunk_frames=(2, 5), **inputs) as stream:
            np.testing.assert_allclose(
                np.concatenate([c.samples for c in stream]), b.samples, atol=1e-6, err_msg=task
            )
    assert b.meta["backend"] == "onnx"
    requests = [{"text": "Hello."}, {"text": "Good day to you."}]
    for a, b in zip(native.generate_batch(requests), graphs.generate_batch(requests), strict=True):
        assert a.samples.shape == b.samples.shape or a.meta["seed"] != b.meta["seed"]


def test_sessions(joint: tuple[Path, Path]) -> None:
    native, graphs = engines(joint)
    k, v = native.lm.config.num_codebooks, native.lm.config.vocab_size
    frames = np.random.default_rng(0).integers(0, v, (300, k)).astype(np.int32)
    for sampling in (Sampling(0.0), Sampling(0.8, 10, 0.9, 4, 1.2)):
        made = [e.lm.generate(frames, 40, sampling, seed=9) for e in (native, graphs)]
        np.testing.assert_array_equal(*made)
    drawn = graphs.lm.sampling(0.9, seed=1)
    session = graphs.lm.session(200)
    session.prefill(frames[:70])
    session.prefill(frames[70:130])  # over the border where the buffer grows
    fork = session.fork()
    a = session.generate(20, drawn)
    np.testing.assert_array_equal(fork.generate(20, drawn), a)
    session.cancel()
    assert len(session.generate(5, drawn)) == 0 and len(session.generate(5, drawn)) == 5
    session.reset()
    session.prefill(frames[:130])
    np.testing.assert_array_equal(session.generate(20, drawn), a)
    for end in ("first", "last", "any"):
        how = {"seed": 4, "end_id": 9, "end_slots": end, "min_frames": 2}
        made = []
        for e in (native, graphs):
            s = e.lm.session(100)
            s.prefill(frames[:8])
            made.append((s.generate(80, e.lm.sampling(1.0, **how)), s.finished))
        np.testing.assert_array_equal(made[0][0], made[1][0])
        assert made[0][1] == made[1][1]
    with pytest.raises(InputError, match="at most 50 more frames"):
        session.generate(51, drawn)
    with pytest.raises(InputError, match="frames: expected an id from 0"):
        session.prefill(np.full((1, k), -1))
    with pytest.raises(InputError, match="expected one row per frame"):
        session.prefill(frames[:2], np.zeros((1, native.lm.config.aligned_slots), np.int32))
    with pytest.raises(InputError, match="another session of the same LM"):
        session.set_guidance(session, 2.0)
    with pytest.raises(InputError, match="max_frames"):
        graphs.lm.session(10**6)


def test_continuous_inputs(imported: tuple[Path, Path]) -> None:
    native, graphs = engines(imported)
    rng = np.random.default_rng(1)
    frames = rng.integers(0, native.lm.config.vocab_size, (30, 3)).astype(np.int32)
    values = rng.standard_normal((6, 768)).astype(np.float32)
    index = np.array([3, 4, 5, 6, 28, 29], np.int32)
    given = {"text_t5": (values, index)}
    np.testing.assert_allclose(
        native.lm.logits(frames, None, given), graphs.lm.logits(frames, None, given), atol=1e-3
    )
    made = []
    for e in (native, graphs):
        session = e.lm.session(80)
        session.prefill(frames[:2])
        session.prefill(frames, None, given)
        made.append(session.fork().generate(30, e.lm.sampling(0.9, seed=5)))
    np.testing.assert_array_equal(*made)
    session = graphs.lm.session(80)
    for bad, why in (
        ({"text": given["text_t5"]}, "one of this model's inputs"),
        ({"text_t5": (values, index + 9)}, "frame indices from 0 to 29"),
        ({"text_t5": (values * np.nan, index)}, "finite"),
    ):
        with pytest.raises(InputError, match=why):
            session.prefill(frames, None, bad)
    assert session.frames == 0


@pytest.mark.parametrize("which", ["joint", "imported", "causal", "ahead"])
def test_codec_streams(which: str, request: pytest.FixtureRequest) -> None:
    native, graphs = engines(request.getfixturevalue(which))
    size = native.config.codec.frame_size
    rng = np.random.default_rng(2)
    for frames in (0, 1, 2, 3, 11):
        codes = rng.integers(
            0, native.config.codec.codebook_size, (native.config.codec.num_codebooks, frames)
        ).astype(np.int32)
        whole = native.codec.decode(codes)
        np.testing.assert_allclose(graphs.codec.decode(codes), whole, atol=1e-5)
        stream = graphs.codec.decoder_stream()
        for _ in range(2):  # a flush ends the clip, and another may follow
            parts = [
                stream.push(codes[:, :2]),
                stream.fork().push(codes[:, 2:]) if frames > 2 else np.zeros(0, np.float32),
            ]
            parts[1:] = [stream.push(codes[:, 2:]), stream.flush()]
            np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    np.testing.assert_allclose(
        graphs.codec.decode(codes[:2]), native.codec.decode(codes[:2]), atol=1e-5
    )
    for n in (0, 1, size - 1, size, 7 * size + 3):
        x = tone(1.0, native.sample_rate).samples[:n]
        codes = native.codec.encode(x)
        found = graphs.codec.encode(x)
        assert (
            found.shape == codes.shape and (found == codes).mean() > 0.99
            if codes.size
            else found.shape == codes.shape
        )
    for bad in (np.full(400, np.nan, np.float32), np.zeros((2, 400), np.float32)):
        with pytest.raises(InputError, match="samples"):
            graphs.codec.encode(bad)
    with pytest.raises(InputError, match="codes"):
        graphs.codec.decode(np.full((2, 3), native.config.codec.codebook_size))


def test_semantic_units_stream(joint: tuple[Path, Path]) -> None:
    native, graphs = engines(joint)
    x = tone(1.3).samples
    units = graphs.semantic((x, 16000))
    assert (units == native.semantic((x, 16000))).mean() > 0.99
    stream = graphs.semantic_stream()
    parts = [stream.push(x[i : i + 777]) for i in range(0, len(x), 777)]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()]), units)


def test_broken_folders_are_one_line_at_load(joint: tuple[Path, Path], tmp_path: Path) -> None:
    def broken(how: Any, why: str) -> None:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(joint[1], folder)
        how(folder)
        with pytest.raises(InputError, match=why) as e:
            Engine.from_pretrained(folder, backend="onnx")
        assert "\n" not in str(e.value)

    def about(change: Any) -> Any:
        def how(folder: Path) -> None:
            data = json.loads((folder / "export.json").read_text())
            change(data)
            (folder / "export.json").write_text(json.dumps(data))

        return how

    def flip(folder: Path) -> None:
        data = bytearray((folder / "weights.bin").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "weights.bin").write_bytes(data)

    def resigned(folder: Path) -> None:  # a graph of another shape, checksums and all
        import hashlib

        proto = onnx.load(folder / "local_step.onnx", load_external_data=False)
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 33
        (folder / "local_step.onnx").write_bytes(proto.SerializeToString())
        about(
            lambda d: d["sha256"].update(
                {
                    "local_step.onnx": hashlib.sha256(
                        (folder / "local_step.onnx").read_bytes()
                    ).hexdigest()
                }
            )
        )(folder)

    broken(lambda f: (f / "global_step.onnx").unlink(), "global_step.onnx: expected the file")
    broken(flip, "weights.bin: its contents have changed")
    broken(lambda f: (f / "weights.bin").write_bytes(b""), "weights.bin: its contents have changed")
    broken(
        about(lambda d: d.update(format="uniaudio-onnx-9")), "expected the format uniaudio-onnx-1"
    )
    broken(about(lambda d: d["graphs"].pop("local_step")), "the graph local_step is missing")
    broken(
        about(lambda d: d["graphs"]["local_step"]["inputs"].update(hidden=["float", "rows", 77])),
        "inputs differ from export.json",
    )
    broken(about(lambda d: d["sha256"].update({"../x": "0"})), "files in its own folder")
    broken(about(lambda d: d.pop("graphs")), "expected graphs")
    broken(resigned, "local_step.onnx: ")
    broken(lambda f: (f / "export.json").write_text("{"), "expected JSON")
    broken(lambda f: (f / "export.json").write_text("[" * 10**6), "expected JSON")
    broken(lambda f: (f / "config.json").write_text("{}"), "config.json")
    with pytest.raises(InputError, match="use backend onnx"):
        Engine.from_pretrained(joint[1])
    with pytest.raises(InputError, match="expected a folder of graphs"):
        Engine.from_pretrained(joint[0], backend="onnx")
    with pytest.raises(InputError, match="no CUDA provider|chose"):
        Engine.from_pretrained(joint[1], backend="onnx", device="cuda")
    with pytest.raises(InputError, match="the export has fixed them"):
        Engine.from_pretrained(joint[1], backend="onnx", dtype="int8")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_tiny_model(tmp_path / "model")
    out = tmp_path / "graphs"
    assert main(["export", "onnx", "-m", str(model), "-o", str(out), "--verify"]) == 0
    text = capsys.readouterr().out
    assert "global_prefill" in text and "OUT OF BOUNDS" not in text and "native float32" in text
    assert main(["export", "onnx", "-m", str(model), "-o", str(out)]) == 2
    assert "not there yet" in capsys.readouterr().err
    assert (
        main(["export", "onnx", "-m", str(model), "-o", str(tmp_path / "x"), "--dtype", "int3"])
        == 2
    )
    assert (
        "expected float32, float16, int8" in capsys.readouterr().err
        and not (tmp_path / "x").exists()
    )
    assert main(["export", "verify", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fine"]
    golden = (out / "golden.safetensors").read_bytes()
    about = json.loads((out / "export.json").read_text())
    (out / "golden.safetensors").write_bytes(golden[:-400] + bytes(400))
    import hashlib

    about["sha256"]["golden.safetensors"] = hashlib.sha256(
        (out / "golden.safetensors").read_bytes()
    ).hexdigest()
    (out / "export.json").write_text(json.dumps(about))
    assert main(["export", "verify", str(out)]) == 2
    found = capsys.readouterr()
    assert "OUT OF BOUNDS" in found.out and "out of bounds" in found.err
    assert main(["export", "verify", str(out), "-m", str(out)]) == 2
    quantized = tmp_path / "quantized"
    assert main(["quantize", "-m", str(model), "--dtype", "int8", "-o", str(quantized)]) == 0
    assert main(["export", "onnx", "-m", str(quantized), "-o", str(tmp_path / "y")]) == 2
    assert "got quantized ones" in capsys.readouterr().err


def test_the_folders_own_program_speaks(joint: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "hello.wav"
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            str(joint[1] / "example.py"),
            str(out),
            "--phones",
            "pau hh ow1 pau",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    import soundfile

    assert soundfile.info(str(out)).duration > 0.5
    source = (joint[1] / "example.py").read_text()
    assert "uniaudio_engine" not in source and "torch" not in source


def test_the_program_of_the_page(joint: tuple[Path, Path], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    assert 'backend="onnx"' in program
    (tmp_path / "speech-onnx").symlink_to(joint[1])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("samples\n") and (tmp_path / "hello.wav").stat().st_size > 1000


@pytest.mark.slow
def test_the_folders_cpp_program_speaks(joint: tuple[Path, Path], tmp_path: Path) -> None:
    """Against ONNX Runtime's library as PyPI has it; its headers are not there: ONNXRUNTIME_INCLUDE
    names them (1.12 or newer).
    """
    import onnxruntime

    include, compiler = (
        os.environ.get("ONNXRUNTIME_INCLUDE"),
        shutil.which("c++") or shutil.which("g++"),
    )
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    request = tmp_path / "hello.txt"
    assert main(["export", "request", str(joint[1]), "Hello.", "-o", str(request)]) == 0
    lines = request.read_text().splitlines()
    known, target = (
        next(int(x.split()[1]) for x in lines if x.startswith(w)) for w in ("known ", "target ")
    )
    assert lines[0] == "uniaudio-request-1" and len(lines) == 6 + known + target
    if not (include and compiler and libraries):
        pytest.skip(
            "ONNXRUNTIME_INCLUDE does not name ONNX Runtime's headers, or there is no compiler"
        )
    (tmp_path / "libonnxruntime.so").symlink_to(libraries[0])
    (tmp_path / libraries[0].name[: len("libonnxruntime.so.1")]).symlink_to(libraries[0])
    command = [
        compiler,
        "-std=c++17",
        "-w",
        str(joint[1] / "example.cc"),
        "-I",
        include,
        "-L",
        str(tmp_path),
        "-lonnxruntime",
        "-o",
        str(tmp_path / "speak"),
    ]
    subprocess.run(command, check=True)
    done = subprocess.run(
        [str(tmp_path / "speak"), str(joint[1]), str(request), str(tmp_path / "out.wav")],
        capture_output=True,
        text=True,
        env={"LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    import soundfile

    info = soundfile.info(str(tmp_path / "out.wav"))
    assert (info.samplerate, info.frames) == (16000, 320 * target)
