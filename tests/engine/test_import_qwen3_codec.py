"""Importing the 12 Hz tokenizer of Qwen3-TTS: its decoder by definition, the command line, and refused
checkpoints.

tests/training/test_qwen3_upstream.py compares with the authors' own classes.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen3_tools import CODEC, DECODER, LONG, DecoderDefinition, codec_state
from windowed_tools import MIMI, mimi_state, write

from uniaudio_engine import Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.mimi import import_mimi
from uniaudio_engine.importers.qwen3_codec import import_qwen3_codec

WORDS = "decoder.quantizer.rvq_rest.vq.layers.0._codebook"


def changed(**changes: Any) -> dict[str, Any]:
    """The configuration with other values in its decoder."""
    config = copy.deepcopy(CODEC)
    config["decoder_config"] = {k: v for k, v in {**DECODER, **changes}.items() if v is not ...}
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head_dim": ..., "num_attention_heads": 4, "num_key_value_heads": 4},
        {"upsample_rates": [2, 3], "upsampling_ratios": [2]},
        {"upsample_rates": [3, 2, 2], "upsampling_ratios": [], "sliding_window": 1},
        {"rope_theta": 100.0, "rms_norm_eps": 1e-2, "num_hidden_layers": 1},
    ],
    ids=str,
)
def test_decoder_is_its_definition(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = changed(**changes)
    full = {**config["decoder_config"]}
    full.setdefault("head_dim", full["hidden_size"] // full["num_attention_heads"])
    config = {**config, "decoder_config": full}
    state = codec_state(tmp_path, config)
    given = {**config, "decoder_config": {k: v for k, v in full.items() if changes.get(k) != ...}}
    import_qwen3_codec(write(tmp_path / "theirs", given, state), tmp_path / "ours")
    codec = Engine.from_pretrained(tmp_path / "ours", threads=2).codec
    codes = np.random.default_rng(0).integers(0, 64, (4, 40), dtype=np.int32)
    expected = DecoderDefinition(full, state)(codes)
    assert 0.01 < np.abs(expected).max() and (np.abs(expected) < 1).mean() > 0.5
    assert np.abs(codec.decode(codes) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_decoder_of_long_frames_is_its_definition(tmp_path: Path) -> None:
    state = codec_state(tmp_path, LONG)
    import_qwen3_codec(write(tmp_path / "theirs", LONG, state), tmp_path / "ours")
    codec = Engine.from_pretrained(tmp_path / "ours", threads=2).codec
    codes = np.random.default_rng(0).integers(0, 64, (4, 40), dtype=np.int32)
    expected = DecoderDefinition(LONG["decoder_config"], state)(codes)
    assert expected.shape == (40 * 80,) and (np.abs(expected) < 1).mean() > 0.5
    assert np.abs(codec.decode(codes) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_encoder_is_that_of_mimi(tmp_path: Path) -> None:
    config, state = CODEC["encoder_config"], codec_state(tmp_path)
    mimi = mimi_state(MIMI, tmp_path)
    mimi |= {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    import_mimi(write(tmp_path / "mimi", config, mimi), tmp_path / "one")
    import_qwen3_codec(write(tmp_path / "theirs", CODEC, state), tmp_path / "two")
    one, two = (Engine.from_pretrained(tmp_path / n, threads=1).codec for n in ("one", "two"))
    x = (np.random.default_rng(0).standard_normal(500) * 0.2).astype(np.float32)
    assert one.encode(x).shape == (6, 42)
    assert np.array_equal(two.encode(x), one.encode(x)[:4])


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "theirs", CODEC, codec_state(tmp_path))
    ours = tmp_path / "ours"
    assert main(["import", "qwen3-codec", str(source), "-o", str(ours), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["sample_rate"], about["num_codebooks"], about["notes"]) == (2400, 4, [])
    assert main(["import", "auto", str(source), "-o", str(tmp_path / "again")]) == 0


def refused(tmp_path: Path, config: Any, state: Any, words: str) -> None:
    source = write(tmp_path / "theirs", config, state)
    with pytest.raises(InputError) as e:
        import_qwen3_codec(source, tmp_path / "ours")
    message = str(e.value)
    assert "\n" not in message and len(message) < 500 and words in message, message
    assert os.listdir(tmp_path) == ["theirs"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_quantizers": 5}, "num_quantizers: expected 4, as its encoder has, got 5"),
        ({"codebook_size": 32}, "codebook_size: expected 64, as its encoder has, got 32"),
        ({"num_key_value_heads": 1}, "num_key_value_heads: expected 2, got 1"),
        ({"num_attention_heads": 0, "num_key_value_heads": 0}, "expected 1 to 256, got 0"),
        ({"hidden_act": "relu"}, "hidden_act: expected 'silu', got 'relu'"),
        ({"attention_bias": True}, "attention_bias: expected False, got True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type: expected one of default"),
        ({"rope_theta": 0.5}, "rope_base: expected above 1"),
        ({"head_dim": 7}, "head_width: expected an even number, got 7"),
        ({"sliding_window": 1 << 20}, "window: expected 1 to 65536"),
        ({"num_hidden_layers": 10**8}, "layers: expected 1 to 64"),
        ({"upsample_rates": [5]}, "with upsample a product of frame_size 12, got 20"),
        ({"upsample_rates": [3] * 10**5}, "ratios: expected 0 to 16"),
        ({"upsample_rates": 3}, "upsample_rates: expected a list of whole numbers, got 3"),
        ({"decoder_dim": 15}, "filters: expected a multiple of 2, got 15"),
        ({"latent_dim": "16"}, "latent_dim: expected a whole number, got '16'"),
    ],
    ids=str,
)
def test_hostile_configurations(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    refused(tmp_path, changed(**change), codec_state(tmp_path), words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "mimi"}, "model_type: expected 'qwen3_tts_tokenizer_12hz', got 'mimi'"),
        ({"encoder_valid_num_quantizers": 7}, "num_quantizers: expected 7, as its encoder has"),
        ({"decode_upsample_rate": 24}, "decode_upsample_rate: expected 12"),
        ({"output_sample_rate": 48000}, "output_sample_rate: expected 2400"),
        ({"encoder_config": 5}, "encoder_config: expected an object, got 5"),
        ({"encoder_config": {"sliding_window": 0}}, "window: expected 1 to 65536, got 0"),
    ],
    ids=str,
)
def test_hostile_values_beside_the_decoder(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    refused(tmp_path, {**CODEC, **change}, codec_state(tmp_path), words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"decoder.pre_conv.conv.bias": None}, "missing decoder.pre_conv.conv.bias"),
        ({"decoder.more": np.ones(3, "f4")}, "left over decoder.more"),
        ({"more": np.ones(3, "f4")}, "left over 'more'"),
        ({"encoder.more": np.ones(3, "f4")}, "left over more"),
        ({f"{WORDS}.embedding_sum": np.ones((64, 5), "f4")}, "expected the shape [64, 6]"),
        ({f"{WORDS}.cluster_usage": np.full(64, np.nan, "f4")}, "NaN or infinity"),
        (
            {
                f"{WORDS}.embedding_sum": np.full((64, 6), 3e38, "f4"),
                f"{WORDS}.cluster_usage": np.zeros(64, "f4"),
            },
            "expected sums that fit their counts",
        ),
        ({"decoder.decoder.2.alpha": np.full(8, 100, "f4")}, "expected the logarithm"),
    ],
    ids=["missing", "left over", "elsewhere", "encoder", "shape", "NaN", "overflow", "snake"],
)
def test_hostile_weights(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    state = codec_state(tmp_path) | change
    refused(tmp_path, CODEC, {k: v for k, v in state.items() if v is not None}, words)
