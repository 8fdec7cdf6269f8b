"""Packed weights are restored approximately."""

import os
import stat

import pytest
import torch
from uniaudio_training import packed


def state():
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(96, 64) * torch.logspace(-3, 1, 96)[:, None],
        "conv.weight": torch.randn(128, 1, 40),
        "a.bias": torch.randn(96),
        "quantizer.codebooks": torch.randn(2, 64, 64),
    }


def test_round_trip(tmp_path):
    (path,) = packed.save(state(), tmp_path / "w.safetensors", about={"steps": "3"})
    found, about = packed.load(path)
    assert about == {"steps": "3"} and found.keys() == state().keys()
    for name, value in state().items():
        assert found[name].dtype == torch.float32 and found[name].shape == value.shape
        rows = value.flatten(1) if value.dim() > 1 else value[None]
        error = (found[name] - value).abs().reshape(rows.shape).amax(1)
        assert (error <= rows.abs().amax(1) / 127 * 0.51 + 1e-6).all()
    assert packed.packed(state())["quantizer.codebooks"].dtype == torch.float16


def test_parts(tmp_path):
    files = packed.save(state(), tmp_path / "w.safetensors", most=9000)
    assert len(files) > 1 and all(f.name.startswith("w-") for f in files)
    found, _ = packed.load(tmp_path / "w.safetensors")
    assert found.keys() == state().keys()
    files[0].unlink()
    with pytest.raises(ValueError, match="number of parts"):
        packed.load(tmp_path / "w.safetensors")


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        (path,) = packed.save(state(), tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        packed.load(tmp_path / "w.safetensors")
