"""Importing Mimi: spellings, the command line, and refused checkpoints.

tests/training/test_mimi_transformers.py compares with ``MimiModel`` itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from windowed_tools import MIMI, mimi_state, write

from uniaudio_engine import Audio, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.mimi import import_mimi, mimi_tensors
from uniaudio_engine.storage.folder import load_folder

BOOK = "quantizer.acoustic_residual_vector_quantizer.layers.0.codebook"
LAYER = "encoder_transformer.layers.0"


def test_names_in_memory_are_read_too(tmp_path: Path) -> None:
    state = mimi_state(MIMI, tmp_path)
    import_mimi(write(tmp_path / "a", MIMI, state), tmp_path / "one")
    spelled = {
        (
            f"{k.split('_')[0]}.{k}"
            if "_transformer." in k
            else f"encoder.{k}"
            if k.startswith("downsample")
            else f"decoder.{k}"
            if k.startswith("upsample")
            else k.replace("coder.layers.", "coder.encoder_seanet.layers.")
            if k.startswith("encoder.")
            else k.replace("coder.layers.", "coder.decoder_seanet.layers.")
        ): v
        for k, v in state.items()
    }
    assert len(spelled) == len(state) and spelled.keys() != state.keys()
    import_mimi(write(tmp_path / "b", MIMI, spelled), tmp_path / "two")
    one, two = (load_folder(tmp_path / n) for n in ("one", "two"))
    assert all(np.array_equal(one.codec[n], two.codec[n]) for n in one.codec)
    assert one.codec.keys() == two.codec.keys()


def test_mimi_inside_of_another_model(tmp_path: Path) -> None:
    state = mimi_state(MIMI, tmp_path)
    import_mimi(write(tmp_path / "a", MIMI, state), tmp_path / "one")
    folder = load_folder(tmp_path / "one")
    inside = {f"codec_model.{k}": v for k, v in state.items()} | {"lm.weight": np.ones(2)}
    _, tensors = mimi_tensors(folder.config.codec, inside, "x", prefix="codec_model.")
    assert tensors.keys() == folder.codec.keys()
    assert all(np.array_equal(tensors[n], folder.codec[n]) for n in tensors)


def test_from_the_command_line_to_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, model = write(tmp_path / "mimi", MIMI, mimi_state(MIMI, tmp_path)), tmp_path / "ours"
    assert main(["import", "mimi", str(source), "-o", str(model), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["sample_rate"], about["num_codebooks"], about["notes"]) == (2400, 6, [])
    assert "Mimi" in (model / "README.md").read_text()
    x = (np.random.default_rng(0).standard_normal(2000) * 0.1).astype(np.float32)
    wav, codes, back = (str(tmp_path / n) for n in ("a.wav", "a.safetensors", "b.wav"))
    Audio(x, 2400).save(wav)
    assert main(["codec", "encode", wav, "-o", codes, "-m", str(model), "--codebooks", "4"]) == 0
    assert main(["codec", "decode", codes, "-o", back, "-m", str(model)]) == 0
    assert soundfile.read(back)[0].shape == (2000,)


def refused(tmp_path: Path, config: dict[str, Any], state: Any, words: str) -> None:
    source = write(tmp_path / "theirs", config, state)
    with pytest.raises(InputError) as e:
        import_mimi(source, tmp_path / "ours")
    message = str(e.value)
    assert "\n" not in message and len(message) < 500 and words in message, message
    assert os.listdir(tmp_path) == ["theirs"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "encodec"}, "expected model_type mimi, got 'encodec'"),
        ({"sliding_window": ...}, "missing sliding_window"),
        ({"sliding_window": 0}, "window: expected 1 to 65536, got 0"),
        ({"sliding_window": 10**30}, "window: expected 1 to 65536"),
        ({"num_hidden_layers": 10**6}, "layers: expected 1 to 64"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "a divisor of half of width 32"),
        ({"num_key_value_heads": 1}, "num_key_value_heads: expected 2, got 1"),
        ({"head_dim": 8}, "head_dim: expected 32, got 16"),
        ({"audio_channels": 2}, "audio_channels: expected 1, got 2"),
        ({"upsample_groups": 1}, "upsample_groups: expected 32, got 1"),
        ({"use_causal_conv": False}, "use_causal_conv: expected True, got False"),
        ({"trim_right_ratio": 0.5}, "trim_right_ratio: expected 1, got 0.5"),
        ({"pad_mode": "reflect"}, "pad_mode: expected 'constant', got 'reflect'"),
        ({"hidden_act": "relu"}, "hidden_act: expected 'gelu', got 'relu'"),
        ({"attention_bias": True}, "attention_bias: expected False, got True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type: expected 'default', got 'yarn'"),
        ({"rope_theta": 0.5}, "rope_theta: expected a number above 1, got 0.5"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta: expected a number above 1"),
        ({"frame_rate": 0}, "frame_rate: expected frames per second"),
        ({"frame_rate": 1e-9}, "stride: expected 1 to 64"),
        ({"upsampling_ratios": [3, 65]}, "upsampling_ratios: expected 1 to 16 numbers, 1 to 64"),
        ({"upsampling_ratios": 6}, "upsampling_ratios: expected a list, got 6"),
        ({"codebook_dim": 8}, "codebook_dim: expected 16, got 8"),
        ({"num_semantic_quantizers": 6}, "semantic_codebooks: expected 1 to num_codebooks - 1"),
        ({"num_quantizers": 65}, "num_codebooks: expected 1 to 64, got 65"),
        ({"norm_eps": 1.0}, "norm_eps: expected between 0 and 1"),
        ({"hidden_size": "32"}, "hidden_size: expected a whole number, got '32'"),
    ],
    ids=str,
)
def test_hostile_configurations(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    config = {k: v for k, v in (MIMI | change).items() if v is not ...}
    refused(tmp_path, config, mimi_state(MIMI, tmp_path), words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({f"{LAYER}.mlp.fc1.weight": None}, f"missing {LAYER}.mlp.fc1.weight"),
        ({f"{BOOK}.cluster_usage": None}, f"missing {BOOK}.cluster_usage"),
        (
            {"decoder.layers.99.weight": np.ones(3, np.float32)},
            "left over decoder.layers.99.weight",
        ),
        ({f"{BOOK}.embed_sum": np.ones((64, 15), np.float32)}, "expected the shape [64, 16]"),
        ({f"{BOOK}.embed_sum": np.ones((64, 16), np.int32)}, "expected floating-point numbers"),
        ({f"{BOOK}.embed_sum": np.full((64, 16), np.inf, np.float32)}, "NaN or infinity"),
        (
            {
                f"{BOOK}.embed_sum": np.full((64, 16), 3e38, np.float32),
                f"{BOOK}.cluster_usage": np.zeros(64, np.float32),
            },
            "expected sums that fit their counts",
        ),
        (
            {"encoder.encoder_transformer.layers.0.mlp.fc1.weight": np.ones(3, np.float32)},
            "is there twice, in two spellings",
        ),
    ],
    ids=["no matrix", "no counts", "left over", "shape", "type", "infinity", "overflow", "twice"],
)
def test_hostile_weights(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    state = mimi_state(MIMI, tmp_path) | change
    refused(tmp_path, MIMI, {k: v for k, v in state.items() if v is not None}, words)
