"""The benchmark commands on tiny shapes: structure and the correctness checks in them, never times."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
QUICK = ["--rounds", "2", "--threads", "2"]
LM = ["--model", "tiny", "--seconds", "0.01", "--frames", "4", "--megabytes", "16", *QUICK]


def run(command: str, *options: Any, where: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(BENCHMARKS / command), *map(str, options)]
    return subprocess.run(argv, cwd=where, capture_output=True, text=True, check=False, timeout=600)


def ok(command: str, *options: Any, where: Path) -> str:
    done = run(command, *options, where=where)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(p) for p in packages)


def bfloat16_products() -> bool:
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@pytest.mark.slow
def test_lm_native_all_formats_and_rows(tmp_path: Path) -> None:
    results, docs = tmp_path / "lm.json", tmp_path / "page.md"
    common = [*LM, "--cache", tmp_path / "cache", "--results", results, "--docs", docs]
    ok("lm.py", *common, "--engines", "native", "--rows", "1@20,3@20", where=tmp_path)
    ok(
        "lm.py",
        *common,
        "--engines",
        "native-int8",
        "--rows",
        "context@200,prefill@20,neighbour@20",
        where=tmp_path,
    )
    found = json.loads(results.read_text())
    assert list(found["rows"]) == [
        "1@20",
        "3@20",
        "context@200",
        "prefill@20",
        "neighbour@20",
    ]  # both invocations' rows
    for name, row in found["rows"].items():
        assert "native-float32" in row["engines"]
        assert len(row["bandwidth"]) == 2 and min(row["bandwidth"]) > 0
        assert row["arithmetic"]["NumPy float32 product"]
        for times in row["engines"].values():
            assert all(len(t) == 2 and min(t) > 0 for t in times.values())
            assert ("base" in times) == name.startswith(("context", "neighbour"))
    ok("lm.py", *common, "--engines", "native-int8", "--rows", "1@20", "--append", where=tmp_path)
    row = json.loads(results.read_text())["rows"][
        "1@20"
    ]  # two rounds more, of the engines that both runs had
    assert {e: len(t["ms"]) for e, t in row["engines"].items()} == {
        "native-float32": 4,
        "native-int8": 4,
    }
    assert len(row["bandwidth"]) == 4
    checks = found["checks"]
    assert checks["native-float32"]["greedy"] == 1.0
    order = ["native-bfloat16", "native-int8", "native-int4"]
    errors = [checks[e]["rms"] for e in order]
    assert errors == sorted(errors) and errors[0] > 0  # fewer bits, larger error
    sizes = [checks[e]["weight_bytes"] for e in order]
    assert sizes == sorted(sizes, reverse=True)
    text = json.dumps(found)
    assert "/home" not in text and os.uname().nodename not in text.replace(" ", "\n").split("\n")

    docs.write_text("# Page\n\nBefore.\n")
    ok("lm.py", *common, "--write", where=tmp_path)
    once = docs.read_text()
    docs.write_text(once + "\nAfter.\n")
    ok("lm.py", *common, "--write", where=tmp_path)
    twice = docs.read_text()
    assert twice == once + "\nAfter.\n" and "Before." in twice and twice.count("begin lm-tiny") == 1
    assert "| **uniaudio-engine** int8 |" in twice


@pytest.mark.parametrize(
    ("kind", "packages", "dtypes"),
    [
        pytest.param("torch", ["torch"], ["float32", "bfloat16", "int8"], marks=pytest.mark.slow),
        ("onnx", ["onnx", "onnxruntime"], ["float32", "int8", "int4"]),
        ("llama", ["llama_cpp", "gguf"], ["q8_0"]),
    ],
)
@pytest.mark.parametrize("model", ["tiny", pytest.param("base", marks=pytest.mark.slow)])
def test_peers_compute_the_same_model(
    kind: str, packages: list[str], dtypes: list[str], model: str, tmp_path: Path
) -> None:
    if not installed(*packages):
        pytest.skip(f"needs {' and '.join(packages)}, not installed here")
    if (kind, model) == ("llama", "base"):
        pytest.skip("llama.cpp has no model type that fits the bundled model")
    results = tmp_path / "lm.json"
    names = [f"{kind}-{d}" for d in dtypes]
    options = [
        *LM,
        "--cache",
        tmp_path / "cache",
        "--results",
        results,
        "--rows",
        "2@20,prefill@20",
        "--engines",
        ",".join(names),
    ]
    options[options.index("--model") + 1] = model
    done = run("lm.py", *options, where=tmp_path)
    assert done.returncode == 0, done.stderr[
        -2000:
    ]  # it fails where an engine's logits are not the model's
    checks = json.loads(results.read_text())["checks"]
    if kind == "torch" and not bfloat16_products():  # oneDNN has none for AVX2 alone
        names.remove("torch-bfloat16")
        assert "left out: torch-bfloat16" in done.stderr
    assert set(checks) == {*names, "native-float32"}, done.stderr[-2000:]
    for name in names:
        assert checks[name]["rms"] < (1e-4 if name.endswith("float32") else 0.3)
    rows = json.loads(results.read_text())["rows"]
    assert all(set(row["engines"]) == set(checks) for row in rows.values())


def test_check_refuses_an_engine_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    lm = importlib.import_module("lm")
    base = importlib.import_module("peers.base")
    spec = base.Spec("native", "float32", "tiny", 0, 1, Path())

    class Fake:
        def __init__(self, name: str, dtype: str, noise: float) -> None:
            self.name, self.version, self.noise = name, "1", noise
            self.spec = (
                base.Spec("torch", dtype, "tiny", 0, 1, Path()) if name != "reference" else spec
            )

        def call(self, method: str, *args: Any) -> Any:
            if method == "logits":
                rng = np.random.default_rng(3)
                truth = rng.standard_normal((8, 3, 33))
                return (truth + self.noise * rng.standard_normal(truth.shape)).astype(np.float32)
            return {"weight_bytes": 1, "greedy_agreement": 1.0}[method]

    reference = Fake("reference", "float32", 0.0)
    assert set(lm.check([Fake("torch-int8", "int8", 0.1)], reference, 0)) == {"torch-int8"}
    for dtype, noise in (("float32", 0.01), ("int8", 0.5)):
        with pytest.raises(ValueError, match="expected the native logits within"):
            lm.check([Fake(f"torch-{dtype}", dtype, noise)], reference, 0)


def test_accuracy(tmp_path: Path) -> None:
    results, docs = tmp_path / "accuracy.json", tmp_path / "page.md"
    options = [
        "--models",
        "tiny,base",
        "--sequences",
        1,
        "--frames",
        30,
        "--formats",
        "float32,int8,int4",
        "--cache",
        tmp_path / "cache",
    ]
    ok("accuracy.py", *options, "--results", results, where=tmp_path)
    models = json.loads(results.read_text())["models"]
    assert set(models) == {"tiny", "base"}
    for sets in models.values():
        for formats in sets.values():
            assert (
                formats["float32"]["rms"] == 0
                and formats["float32"]["top1"] == 1
                and formats["float32"]["change"] == 0
            )
            assert 0 < formats["int8"]["rms"] < formats["int4"]["rms"] < 0.5
            assert 0 < formats["int8"]["divergence"] < formats["int4"]["divergence"]
            assert formats["int8"]["top1"] > 0.8
            assert abs(formats["int8"]["change"]) < 0.05  # nats
    ok("accuracy.py", "--results", results, "--docs", docs, "--write", where=tmp_path)
    assert "Bundled model, on speech that the model made itself" in docs.read_text()


@pytest.mark.slow
def test_first_chunk(tmp_path: Path) -> None:
    results, docs = tmp_path / "first.json", tmp_path / "page.md"
    options = [
        "--formats",
        "int8,float32",
        "--rounds",
        1,
        "--repeat",
        1,
        "--seconds",
        0.2,
        "--results",
        results,
    ]
    ok("first_chunk.py", *options, where=tmp_path)
    formats = json.loads(results.read_text())["formats"]
    assert list(formats) == ["int8", "float32"]
    for figures in formats.values():
        assert (
            figures["first_chunk_ms"][0] > 0
            and figures["realtime_factor"][0] > 0
            and figures["prefill_frames"] > 0
        )
    assert formats["int8"]["weight_bytes"] < formats["float32"]["weight_bytes"]
    ok("first_chunk.py", "--results", results, "--docs", docs, "--write", where=tmp_path)
    assert "| int8 |" in docs.read_text()


def test_kernels(tmp_path: Path) -> None:
    options = ["--model", "tiny", "--rows", "1,5", "--seconds", 0.001, "--threads", 1]
    options += ["--positions", "1,40"]
    found = json.loads(ok("kernels.py", *options, "--megabytes", 1, "--json", where=tmp_path))
    assert min(found["peaks"].values()) > 0
    assert len(found["products"]) == 4 * 2 * 5  # formats, rows, products
    assert all(p["us"] > 0 and p["gops"] > 0 for p in found["products"])
    assert [(a["kv_dtype"], a["positions"]) for a in found["attention"]] == [
        (dtype, count) for dtype in ("float32", "bfloat16", "int8") for count in (1, 40)
    ]
    assert all(a["us"] > 0 and a["gb_per_s"] > 0 for a in found["attention"])
    text = ok("kernels.py", *options, "--megabytes", 0, "--dtypes", "int8", where=tmp_path)
    assert "MLP down, 384 × 96" in text


@pytest.mark.slow
@pytest.mark.skipif(
    "cpuid_fault" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    if Path("/proc/cpuinfo").exists()
    else True,
    reason="needs a processor with CPUID faulting",
)
def test_every_engine_is_held_to_avx2(tmp_path: Path) -> None:
    results, docs = tmp_path / "lm-MODEL.json", tmp_path / "page.md"
    common = [*LM, "--tier", "avx2", "--results", results, "--docs", docs]
    rows = ["--cache", tmp_path / "cache", "--engines", "native-int8", "--rows", "2@20"]
    ok("lm.py", *common, *rows, where=tmp_path)
    found = json.loads((tmp_path / "lm-tiny-avx2.json").read_text())
    assert found["machine"]["isa"] == "avx2" and found["tier"] == "avx2"
    ok("lm.py", *common, "--write", where=tmp_path)
    page = docs.read_text()
    assert "begin lm-tiny-avx2" in page and "all engines held to AVX2" in page


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("kernels.py", ["--dtypes", "int3"], "--dtypes: expected float32"),
        ("kernels.py", ["--rows", "many"], "--rows: expected whole numbers"),
        ("kernels.py", ["--rows", "", "--positions", "0"], "positions: expected 1 to 65536, got 0"),
        ("kernels.py", ["--model", "tiny", "--rows", "0"], "rows: expected 1 to 4096, got 0"),
        ("lm.py", ["--rows", "fast"], "--rows: expected STREAMS@CONTEXT"),
        ("lm.py", ["--rows", "0@10"], "--rows: expected STREAMS@CONTEXT"),
        ("lm.py", ["--engines", "jax"], "--engines: expected native, torch"),
        ("lm.py", ["--engines", "native-int3", "--results", "r.json", *LM, "--rows", "1@20"], None),
        ("lm.py", ["--write", "--results", "absent.json"], "no results yet"),
        ("lm.py", ["--write", "--results", "damaged.json"], "expected results as JSON"),
        ("accuracy.py", ["--models", "big"], "expected --models of"),
        (
            "accuracy.py",
            ["--models", "base", "--formats", "int3", "--sequences", "1"],
            "does not take 'int3'",
        ),
        ("accuracy.py", ["--models", "base", "--tokens", "nowhere"], "expected tts-valid-*.npz"),
        ("first_chunk.py", ["--formats", "int3"], "dtype: expected"),
    ],
)
def test_errors_are_one_line(
    command: str, options: list[str], message: str | None, tmp_path: Path
) -> None:
    (tmp_path / "damaged.json").write_text("{")
    done = run(
        command,
        *options,
        *(["--cache", "cache"] if command not in ("first_chunk.py", "kernels.py") else []),
        where=tmp_path,
    )
    if message is None:  # a format that the engine lacks is left out and named, as a peer would be
        assert "left out: native-int3" in done.stderr
        return
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last


@pytest.mark.parametrize(
    "command", ["lm.py", "kernels.py", "accuracy.py", "first_chunk.py", "all.py"]
)
def test_help_has_examples(command: str, tmp_path: Path) -> None:
    assert f"python benchmarks/{command}" in ok(command, "--help", where=tmp_path)


def test_all_lists_every_table(tmp_path: Path) -> None:
    listed = run("all.py", "--list", where=tmp_path).stderr
    assert "error: --only: expected lm" in run("all.py", "--only", "gpu", where=tmp_path).stderr
    for part in (
        "lm.py --model v1 --prepare",
        "lm.py --model base --rows 1@150",
        "first_chunk.py --write",
        "accuracy.py --write",
    ):
        assert part in listed


def test_sections_that_are_broken_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    common = importlib.import_module("common")
    page = tmp_path / "page.md"
    common.write_section(page, "one", "first")
    common.write_section(page, "two", "second")
    common.write_section(page, "one", "third")
    text = page.read_text()
    assert "first" not in text and text.index("third") < text.index("second")
    page.write_text(text.replace("<!-- end one -->", ""))
    with pytest.raises(ValueError, match="repair or remove"):
        common.write_section(page, "one", "fourth")
    assert "third" in page.read_text()


def test_imported_shapes_are_folders_that_load() -> None:
    """The configurations that are measured pass the folder's own checks, with the tasks of the
    released model.
    """
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import imported
    finally:
        sys.path.remove(str(BENCHMARKS))
    for name, layers in (("v1", 16), ("1b", 24)):
        config = imported.config_of(name)
        config.check()
        assert (
            config.lm is not None
            and config.lm.global_.layers == layers
            and {"tts", "se"} <= set(config.task_table)
        )
    text = imported.section(
        "v1",
        {
            "date": "2026-01-01",
            "machine": {"cpu": "x", "cores": 2, "isa": "plain"},
            "threads": 2,
            "seed": 0,
            "version": "0",
            "seconds": 10,
            "rounds": 3,
            "bandwidth_gb_per_s": [40.0],
            "weight_bytes": {"int8": 200e6},
            "rows": {"tts int8": {"factor": [2.0], "first_ms": [50.0], "ms_per_frame": [10.0]}},
        },
    )
    assert "| tts | int8 | 2.00 | 0.50 | 50 | 10.00 | 5.00 | 0.50 |" in text
