"""Weights that stay in their file."""

from __future__ import annotations

import json
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from lm_tools import BASE, torch_lm

from uniaudio_engine import _C
from uniaudio_engine.errors import InputError
from uniaudio_engine.storage.config import to_dict
from uniaudio_engine.storage.tensors import (
    drop_pages,
    load_tensors,
    map_tensors,
    save_tensors,
    to_bfloat16,
)

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere files are read"
)
CONFIG = replace(BASE, vocab_size=1000)
TEXT = json.dumps(to_dict(CONFIG))
FRAMES = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (9, 3))


def stored(dtype: str, odd: bool = False) -> dict[str, np.ndarray]:
    """A model's weights as a folder has them. ``odd``: with a tensor of one byte that comes first, so
    that all others begin at an odd place.
    """
    tensors = {k: v.numpy() for k, v in torch_lm(CONFIG).state_dict().items()}
    for name, value in list(tensors.items()):
        if ".attn." in name and value.ndim == 2 and dtype == "int8":
            tensors[name], tensors[f"{name}_scale"] = _C.quantize(value, "int8")
        elif value.ndim == 2 and dtype != "float32":
            tensors[name] = to_bfloat16(value)
    return tensors | ({"a": np.ones(1, np.int8)} if odd else {})


def opened(path: Path, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    save_tensors(path, tensors)
    found = map_tensors(path)
    found.pop("a", None)
    return found


def test_what_is_mapped_is_what_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tensors = {
        "a": rng.integers(-9, 9, 3).astype(np.int8),
        "b": rng.standard_normal((70_000, 2)).astype(np.float32),
        "c": np.zeros((0, 5), np.float32),
        "d": rng.integers(0, 99, (3, 4)).astype(np.uint16),
        "e": rng.standard_normal(()).astype(np.float64),
    }
    found = opened(tmp_path / "x.safetensors", tensors | {"z": tensors["a"]})
    read, _ = load_tensors(tmp_path / "x.safetensors")
    del read["a"]
    assert found.keys() == read.keys()
    for name, value in read.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)
        assert not value.size or not found[name].flags.writeable
    drop_pages(found)
    np.testing.assert_array_equal(found["b"], read["b"])
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        map_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_model_of_mapped_weights_is_the_same(tmp_path: Path, dtype: str, odd: bool) -> None:
    path = tmp_path / "lm.safetensors"
    mapped = opened(path, stored(dtype, odd))
    formats = "float32" if dtype == "float32" else "int8"
    expected = _C.LM(TEXT, stored(dtype), formats).logits(FRAMES)
    lm = _C.LM(TEXT, mapped, formats)
    del mapped
    np.testing.assert_array_equal(lm.logits(FRAMES), expected)
    other = stored(dtype, odd) | {"global.embed.weight": np.zeros((1000, BASE.global_.width // 3))}
    save_tensors(path, {k: v.astype(np.float32) for k, v in other.items()})  # in its place
    np.testing.assert_array_equal(lm.logits(FRAMES), expected)
    path.unlink()
    session = lm.session(20)  # outlives the model's own object
    del lm
    session.prefill(FRAMES)
    assert len(session.generate(3, _C.Sampling(greedy=True)))


def test_memory_that_is_no_files_is_left_alone() -> None:
    """A read-only view of memory that can be written is not a mapping of a file."""
    tensors = stored("bfloat16")
    for name, value in tensors.items():
        memory = mmap.mmap(-1, max(1, value.nbytes))
        array = np.frombuffer(memory, value.dtype, value.size).reshape(value.shape)
        array[...] = value
        array.flags.writeable = False
        tensors[name] = array
    lm = _C.LM(TEXT, tensors, "int8")
    for name, value in stored("bfloat16").items():
        np.testing.assert_array_equal(tensors[name], value)
    expected = _C.LM(TEXT, stored("bfloat16"), "int8").logits(FRAMES)
    np.testing.assert_array_equal(lm.logits(FRAMES), expected)


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    tensors = stored("bfloat16")
    tensors["global.embed.weight"][-1, -1] = 0x7F80
    with pytest.raises(ValueError, match="global.embed.weight"):
        _C.LM(TEXT, opened(tmp_path / "lm.safetensors", tensors), "int8")
