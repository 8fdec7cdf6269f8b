"""Rejected EnCodec checkpoints: one line states the error, and nothing is written."""

from __future__ import annotations

import copy
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from encodec_case import write_hf
from encodec_tools import Config, refused, tiny

from uniaudio_engine import InputError
from uniaudio_engine.importers.encodec import import_encodec


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "mimi"}, "expected model_type encodec, got 'mimi'"),
        ({"model_type": None}, "expected model_type encodec, got None"),
        ({"model_type": ["encodec"]}, "expected model_type encodec"),
        ({"sampling_rate": ...}, "missing sampling_rate"),
        (
            {"sampling_rate": ..., "use_causal_conv": ..., "normalize": ..., "compress": ...},
            "missing sampling_rate, compress, normalize and 1 more",
        ),
        ({"sampling_rate": -24000}, "sampling_rate: expected 1000 to 384000, got -24000"),
        ({"sampling_rate": 24000.0}, "sampling_rate: expected a whole number, got 24000.0"),
        ({"sampling_rate": True}, "sampling_rate: expected a whole number, got True"),
        ({"sampling_rate": 10**300}, "sampling_rate: expected 1000 to 384000"),
        ({"audio_channels": 0}, "audio_channels: expected 1 to 2, got 0"),
        ({"audio_channels": 6}, "audio_channels: expected 1 to 2, got 6"),
        ({"num_filters": -1}, "filters: expected 1 to 4096, got -1"),
        ({"num_filters": 10**9}, "filters: expected 1 to 4096"),
        ({"num_filters": [2]}, "num_filters: expected a whole number, got [2]"),
        ({"hidden_size": 10**30, "codebook_dim": None}, "codebook_dim: expected 1 to 4096"),
        ({"hidden_size": 0, "codebook_dim": 0}, "codebook_dim: expected 1 to 4096"),
        ({"codebook_dim": 6}, "codebook_dim: expected hidden_size 5, got 6"),
        ({"codebook_size": 1}, "codebook_size: expected 2 to 65536, got 1"),
        ({"upsampling_ratios": []}, "upsampling_ratios: expected 1 to 16 numbers"),
        ({"upsampling_ratios": [3, -2]}, "upsampling_ratios: expected 1 to 16 numbers above 0"),
        ({"upsampling_ratios": [3.0, 2]}, "upsampling_ratios: expected 1 to 16 numbers"),
        ({"upsampling_ratios": [[3], 2]}, "upsampling_ratios: expected 1 to 16 numbers"),
        ({"upsampling_ratios": [2] * 100000}, "upsampling_ratios: expected 1 to 16 numbers"),
        ({"upsampling_ratios": [64] * 16}, "frame_size: expected 1 to 65536"),
        ({"upsampling_ratios": [65]}, "upsampling_ratios: expected 1 to 64 each"),
        ({"upsampling_ratios": 6}, "upsampling_ratios: expected a list, got 6"),
        ({"target_bandwidths": []}, "target_bandwidths: expected 1 to 64 numbers"),
        ({"target_bandwidths": [float("nan")]}, "target_bandwidths: expected 1 to 64 numbers"),
        ({"target_bandwidths": [float("inf")]}, "target_bandwidths: expected 1 to 64 numbers"),
        ({"target_bandwidths": ["6"]}, "target_bandwidths: expected 1 to 64 numbers"),
        ({"target_bandwidths": [900000.0]}, "num_codebooks: expected 1 to 64"),
        ({"target_bandwidths": [24.0]}, "6 codebooks there (target_bandwidths), 3 here"),
        (
            {"norm_type": "layer_norm"},
            "norm_type: expected weight_norm or time_group_norm, got 'layer_norm'",
        ),
        ({"norm_type": "time_group_norm"}, "missing encoder.layers.0.norm.weight"),
        ({"pad_mode": "replicate"}, "pad_mode: expected reflect or constant, got 'replicate'"),
        ({"normalize": "yes"}, "normalize: expected true or false, got 'yes'"),
        ({"trim_right_ratio": 2}, "trim_right_ratio: expected 0 to 1, got 2"),
        ({"trim_right_ratio": float("nan")}, "trim_right_ratio: expected 0 to 1, got nan"),
        ({"trim_right_ratio": 10**400}, "trim_right_ratio: expected 0 to 1"),
        (
            {"trim_right_ratio": 0.5, "use_causal_conv": False},
            "trim_right_ratio: expected 1 without use_causal_conv, got 0.5",
        ),
        ({"num_lstm_layers": 0}, "num_lstm_layers: expected 1 to 16"),
        ({"num_lstm_layers": 3}, "missing encoder.layers.7.lstm.weight_ih_l2"),
        ({"num_residual_layers": -1}, "residual_layers: expected 0 to 16, got -1"),
        (
            {"num_residual_layers": 16, "dilation_growth_rate": 4096},
            "missing encoder.layers.2.block.1.conv.bias",
        ),
        (
            {"kernel_size": 5},
            "wrong shape: encoder.layers.0.conv.parametrizations.weight.original1 [2, 1, 7] "
            "(expected [2, 1, 5])",
        ),
        ({"compress": 4}, "wrong shape"),
        ({"use_conv_shortcut": False}, "left over decoder.layers.4.shortcut.conv.bias"),
        ({"upsampling_ratios": [2, 3]}, "wrong shape"),
        (
            {"hidden_size": 6, "codebook_dim": 6},
            "model.safetensors: config.json is of another codec: hidden_size 6 there, codebooks "
            "of 5 here",
        ),
        ({"codebook_size": 32}, "codebook_size 32 there, 16 here"),
        (
            {"chunk_length_s": -1.0, "overlap": 0.1},
            "chunk_length_s: expected seconds up to 3600, or null, got -1.0",
        ),
        ({"chunk_length_s": float("inf"), "overlap": 0.1}, "chunk_length_s: expected seconds"),
        ({"chunk_length_s": 1.0}, "overlap: expected 0 to 1 beside chunk_length_s, got None"),
        ({"chunk_length_s": 1.0, "overlap": 1.0}, "overlap: expected 0 to 1"),
        ({"chunk_length_s": 1.0, "overlap": 0.99}, "chunk_stride: expected 750 to chunk_size 6000"),
        ({"chunk_length_s": 3000, "overlap": 0.0}, "chunk_size: expected 0 to 1048576"),
        (
            {"sampling_rate": "fast", "audio_channels": None, "compress": {}, "normalize": 0},
            "and 1 more",
        ),
    ],
    ids=str,
)
def test_configurations_that_are_refused(change: Config, words: str, tmp_path: Path) -> None:
    source, config, _ = tiny(tmp_path)
    config = {k: v for k, v in (config | change).items() if v is not ...}
    (source / "config.json").write_text(json.dumps(config))
    refused(tmp_path, source, words)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nope",
        "[]",
        "7",
        '{"a": 1',
        "[" * 100000,
        '{"sampling_rate": ' + "9" * 5000 + "}",
        "\xff\xfe",
    ],
    ids=range(8),
)
def test_configurations_that_are_no_json(text: str, tmp_path: Path) -> None:
    source, *_ = tiny(tmp_path)
    (source / "config.json").write_bytes(text.encode("latin-1"))
    refused(tmp_path, source, "config.json", "expected")


def _drop(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda s: s.pop(name)


@pytest.mark.parametrize(
    "change, words",
    [
        (_drop("encoder.layers.0.conv.bias"), "missing encoder.layers.0.conv.bias"),
        (
            _drop("quantizer.layers.2.codebook.embed"),
            "3 codebooks there (target_bandwidths), 2 here",
        ),
        (
            lambda s: s.update({"encoder.layers.99.conv.bias": np.ones(2, np.float32)}),
            "left over encoder.layers.99.conv.bias",
        ),
        (
            lambda s: s["encoder.layers.0.conv.bias"].fill(np.nan),
            "NaN or infinity in encoder.layers.0.conv.bias",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.bias": np.ones((2, 1), np.float32)}),
            "encoder.layers.0.conv.bias [2, 1] (expected [2])",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.bias": np.ones(2, np.int32)}),
            "expected floating-point numbers, got int32",
        ),
        (lambda s: s.clear(), "expected tensors by name"),
        (
            lambda s: [s.update({f"enc.{k}": s.pop(k)}) for k in list(s)],
            "missing encoder.layers.0.conv.bias",
        ),
    ],
)
def test_weights_that_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    source, config, state = tiny(tmp_path)
    state = {k: v.copy() for k, v in copy.copy(state).items()}
    change(state)
    write_hf(source, config, state)
    refused(tmp_path, source, "model.safetensors", words)


def test_files_that_are_refused(tmp_path: Path) -> None:
    source, config, state = tiny(tmp_path)
    good = (source / "model.safetensors").read_bytes()
    for cut in (0, 5, 100, len(good) - 1):
        (source / "model.safetensors").write_bytes(good[:cut])
        refused(tmp_path, source, "model.safetensors", "expected")
    (source / "model.safetensors").unlink()
    refused(
        tmp_path,
        source,
        "expected a checkpoint of EnCodec (model.safetensors,",
        "config.json",
    )
    refused(tmp_path, tmp_path / "none", "found nothing there")
    (source / "pytorch_model.bin").write_bytes(b"garbage" * 100)
    refused(tmp_path, source, "expected a torch checkpoint")
    import pickle

    (source / "pytorch_model.bin").write_bytes(pickle.dumps({"a": os.getcwd}))
    refused(tmp_path, source, "expected a torch checkpoint")
    torch.save([1, 2], source / "pytorch_model.bin")
    refused(tmp_path, source, "expected tensors by name, got [1, 2]")
    write_hf(source, config, state)
    (source / "config.json").unlink()
    refused(tmp_path, source, "expected config.json next to model.safetensors")
    refused(
        tmp_path, source / "model.safetensors", "expected config.json next to model.safetensors"
    )
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as z:
        z.writestr("../model.safetensors", good)
        z.writestr("config.json", json.dumps(config))
    refused(tmp_path, tmp_path / "out.zip", "leads out of the zip")
    write_hf(source, config, state)
    (tmp_path / "there").write_text("mine")
    for output, words in (
        ("there", "already exists"),
        ("no/where", "does not exist"),
        ("source", "already exists"),
    ):
        with pytest.raises(InputError, match=words):
            import_encodec(source, tmp_path / output)
    with pytest.raises(InputError, match="dtype: expected float32 or bfloat16, got 'int8'"):
        import_encodec(source, tmp_path / "ours", dtype="int8")
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "ours").exists()


def test_what_only_the_core_can_tell(tmp_path: Path) -> None:
    """A dilation beyond all bounds, with weights that fit it."""
    source, *_ = tiny(tmp_path, num_residual_layers=3, dilation_growth_rate=4096)
    refused(tmp_path, source, "dilation grows beyond")
