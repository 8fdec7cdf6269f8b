"""Folders with quantized weights: the same numbers as quantizing at load, the same checks, atomic
writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny import make_tiny_model

from uniaudio_engine import _C, Engine, InputError
from uniaudio_engine.storage import dtypes
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.quantize import quantize_folder
from uniaudio_engine.storage.tensors import load_tensors, save_tensors
from uniaudio_engine.storage.weight_shapes import lm_shapes, matrix_part


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "source", dtype="bfloat16")


def logits(folder: Path, dtype: str = "auto") -> np.ndarray:
    engine = Engine.from_pretrained(folder, dtype=dtype, threads=1)
    c = engine.config.lm
    assert c is not None
    frames = np.random.default_rng(0).integers(0, c.vocab_size, (12, c.num_codebooks))
    return engine.lm.logits(frames)


@pytest.mark.parametrize(
    "dtype", ["int8", "int4", "int8,local=int4", "float32,global=int4", "bfloat16,head=int8"]
)
def test_stored_is_as_loaded(source: Path, tmp_path: Path, dtype: str) -> None:
    about = quantize_folder(source, tmp_path / "small", dtype)
    assert about["lm_bytes"] < about["lm_bytes_before"]
    assert (logits(tmp_path / "small", dtype) == logits(source, dtype)).all()
    if "float" not in dtype:  # what is stored quantized is what auto takes
        assert (logits(tmp_path / "small") == logits(source, dtype)).all()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]


def test_other_formats_can_be_made_of_a_quantized_folder(source: Path, tmp_path: Path) -> None:
    quantize_folder(source, tmp_path / "small", "int4")
    assert Engine.from_pretrained(tmp_path / "small").dtype == "int4"
    exact, widened = logits(source, "float32"), logits(tmp_path / "small", "float32")
    assert np.abs(widened - exact).max() > 0
    for dtype in ("bfloat16", "int8"):
        assert (
            np.abs(logits(tmp_path / "small", dtype) - widened).max() < 0.2 * np.abs(widened).max()
        )


@pytest.mark.parametrize("shape", [(3, 64), (5, 40), (16, 1), (7, 33)])
def test_round_trip(shape: tuple[int, int]) -> None:
    w = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    q, scale = _C.quantize(w, "int8")
    assert q.dtype == np.int8 and (np.abs(q).max(1) == 127).all()
    assert np.abs(q * scale[:, None] - w).max() <= 0.5001 * scale.max()
    q, scale = _C.quantize(w, "int4")
    groups = -(-shape[1] // 32)
    assert (
        q.dtype == np.uint8
        and q.shape == (shape[0], 16 * groups)
        and scale.shape == (shape[0], groups)
    )
    values = np.stack([q & 15, q >> 4], -1).reshape(shape[0], groups, 32).astype(np.float32) - 8
    widened = (values * (scale.astype(np.uint32) << 16).view(np.float32)[..., None]).reshape(
        shape[0], -1
    )
    assert (values.reshape(shape[0], -1)[:, shape[1] :] == 0).all()
    error = widened[:, : shape[1]] - w
    assert np.square(error).mean() < 0.011 * np.square(w).mean()


@pytest.mark.parametrize("bad", [np.zeros(4, np.float32), np.full((2, 2), np.nan, np.float32)])
def test_what_cannot_be_quantized(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="quantize: expected"):
        _C.quantize(bad, "int8")
    with pytest.raises(ValueError, match="expected"):
        _C.quantize(np.zeros((2, 2), np.float32), "bfloat16")


def test_zeros_stay_zeros() -> None:
    for dtype in ("int8", "int4"):
        q, scale = _C.quantize(np.zeros((2, 32), np.float32), dtype)
        assert not scale.any() and (q == (0 if dtype == "int8" else 0x88)).all()


def test_parts_of_the_lm(source: Path) -> None:
    c = load_folder(source).config.lm
    assert c is not None
    parts = {n: matrix_part(n) for n in lm_shapes(c)}
    assert {parts["global.layers.0.attn.q.weight"], parts["global.layers.0.mlp.down.weight"]} == {
        "global"
    }
    assert (
        parts["local.layers.0.mlp.up.weight"] == "local"
        and parts["bridge.weight"] == parts["head.weight"] == "head"
    )
    for n, part in parts.items():
        if "embed" in n or "norm" in n or n.endswith("bias") or n.startswith("guide"):
            assert part is None, n


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("int8", "int8"),
        ("global=int8", "int8"),
        ("int4", "int4"),
        ("int4,head=int4", "int4,head=int4"),
        ("int8,local=int4,head=int8", "int8,local=int4"),
        ("global=float32,local=int8,head=int8", "float32,local=int8,head=int8"),
        ("head=bfloat16", "int8,head=bfloat16"),
    ],
)
def test_names_of_choices(text: str, name: str) -> None:
    assert _C.lm_dtype(text)[0] == name and _C.lm_dtype(name) == _C.lm_dtype(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "int5",
        "int8,",
        ",int8",
        "int8,int4",
        "local=int8,local=int4",
        "tail=int8",
        "local=",
        "=int8",
        "int8 ",
        "INT8",
    ],
)
def test_choices_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="dtype: expected"):
        _C.lm_dtype(text)


def damaged(folder: Path, change: Any) -> Path:
    tensors, _ = load_tensors(folder / "lm.safetensors")
    change(tensors)
    os.unlink(folder / "lm.safetensors")
    save_tensors(folder / "lm.safetensors", tensors)
    return folder


WEIGHT = "global.layers.0.attn.q.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{WEIGHT}_scale"), "missing"),
        (lambda t: t.update({f"{WEIGHT}_scale": t[f"{WEIGHT}_scale"][:-1]}), "wrong shape"),
        (lambda t: t.update({WEIGHT: t[WEIGHT][:, :-1]}), "wrong shape"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].astype(np.int32)}), "left over"),
        (lambda t: t[f"{WEIGHT}_scale"].fill(np.nan), "NaN"),
        (lambda t: t[f"{WEIGHT}_scale"].fill(3e38), "finite"),
        (lambda t: t[WEIGHT].fill(-128), "-128"),
        (
            lambda t: t.update({f"{WEIGHT}_scale": t[f"{WEIGHT}_scale"].astype(np.uint16)}),
            "wrong dtype",
        ),
        (
            lambda t: t.update({"global.norm.weight": t["global.norm.weight"].astype(np.int8)}),
            "wrong dtype",
        ),
    ],
)
def test_damaged_folders(source: Path, tmp_path: Path, change: Any, message: str) -> None:
    quantize_folder(source, tmp_path / "small", "int8")
    folder = damaged(tmp_path / "small", change)
    with pytest.raises(InputError if message not in ("finite", "-128") else ValueError) as e:
        Engine.from_pretrained(folder, dtype="float32" if message == "finite" else "int8")
    assert message in str(e.value) and "\n" not in str(e.value)


def test_refusals(source: Path, tmp_path: Path) -> None:
    quantize_folder(source, tmp_path / "small", "int8")
    for arguments, message in (
        ((source, tmp_path / "small", "int8"), "already exists"),
        ((tmp_path / "small", tmp_path / "again", "int4"), "already quantized"),
        ((source, tmp_path / "no" / "small", "int8"), "does not exist"),
        ((source, tmp_path / "other", "int3"), "dtype: expected"),
    ):
        with pytest.raises(InputError, match=message):
            quantize_folder(*arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small", "source"]


@pytest.mark.parametrize("isa", ["avx512", "avxvnni", "avx2", "neon", "plain"])
def test_the_default_is_what_the_instruction_set_is_fastest_with(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtypes, "core", lambda: SimpleNamespace(isa=lambda: isa))
    assert set(dtypes.FASTEST) <= {"avx512", "avxvnni", "avx2", "neon", "plain"}
    assert dtypes.auto_dtype() == ("float32" if isa == "plain" else "int8")
