"""The semantic tokenizer: parity with torch, streams, ISAs, the model folder, the engine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import random_weights, tiny_config

from uniaudio_engine import _C, Engine
from uniaudio_engine.errors import InputError
from uniaudio_engine.storage.config import (
    CodecConfig,
    ConfigError,
    ModelConfig,
    SemanticConfig,
    SpectralConfig,
)
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.folder_writing import save_folder
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes
from uniaudio_engine.text import PHONES
from uniaudio_engine.tokenizers.semantic import SemanticEncoder


def encoder_config(**options: object) -> CodecConfig:
    shape = {
        "encoder_window": 400,
        "encoder_width": 20,
        "encoder_blocks": 2,
        "encoder_hidden": 36,
        "kernel_size": 5,
    }
    given = shape | {"encoder_phases": False, "decoder_blocks": 0} | options
    spectral = SpectralConfig(**given)  # type: ignore[arg-type]
    return CodecConfig(
        "spectral", num_codebooks=1, codebook_size=33, codebook_dim=10, spectral=spectral
    )


ENCODERS = {
    "one subframe": encoder_config(encoder_subframes=1),
    "two subframes": encoder_config(),
    "odd bins": encoder_config(encoder_subframes=4, encoder_window=250),
    "with phases": encoder_config(encoder_phases=True),
}


def semantic_config() -> SemanticConfig:
    return SemanticConfig(ENCODERS["two subframes"], delay=3)


def sound(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        rng.uniform(-1, 1, n) * np.repeat(rng.uniform(0.01, 0.9, n // 800 + 1), 800)[:n]
    ).astype(np.float32)


def make_encoder(threads: int = 2, seed: int = 0) -> SemanticEncoder:
    config = semantic_config()
    return SemanticEncoder.native(
        config, random_weights(codec_shapes(config.encoder), seed), threads
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_with(tmp_path / "model", semantic_config())


def save_with(path: Path, semantic: SemanticConfig | None, dtype: str = "float32") -> Path:
    config = dataclasses.replace(tiny_config(len(PHONES)), semantic=semantic)
    assert config.lm is not None
    units = random_weights(codec_shapes(semantic.encoder), 2) if semantic else None
    codec, lm = (
        random_weights(codec_shapes(config.codec), 0),
        random_weights(lm_shapes(config.lm), 1),
    )
    save_folder(path, config, codec, lm, PHONES, dtype, units)
    return path


@pytest.mark.parametrize("name", list(ENCODERS))
def test_parity_with_torch(name: str) -> None:
    pytest.importorskip("torch")
    import test_codec_parity as t

    config = ENCODERS[name]
    model = t.build(config)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == codec_shapes(config)
    double, codec = t.double_of(config, model), t.native(config, model)
    frames = ties = 0
    for n in (0, 1, 319, 320, 321, 23 * 320 + 11, 120 * 320):
        x = sound(n, n)
        codes = codec.encode(x)
        assert codes.shape == (1, -(-n // 320))
        f, m = t.check_codes(codes, model, double, x)
        frames, ties = frames + f, ties + m
    assert ties <= frames // 50, f"{ties} near-ties in {frames} frames"
    assert len(np.unique(codes)) > 5
    with pytest.raises(ValueError, match="without a decoder"):
        codec.decode(codes)
    with pytest.raises(ValueError, match="without a decoder"):
        codec.decoder_stream()


def test_unit_t_is_that_of_frame_t() -> None:
    encoder = make_encoder()
    x = sound(50 * 320 + 1)
    units = encoder.encode(x)
    raw = encoder.core.encode(np.concatenate((x, np.zeros(319 + 3 * 320, np.float32))))[0]
    assert units.dtype == np.int32 and len(units) == 51
    np.testing.assert_array_equal(units, raw[3:])
    # samples beyond a frame's look-ahead don't matter to it; those within do
    later = x.copy()
    later[24 * 320 :] = 0
    assert encoder.lookahead == 3 * 320
    np.testing.assert_array_equal(encoder.encode(later)[:21], units[:21])
    # those of the last frame within it do: each of 20 frames is followed by silence in one of 20
    # clips
    heard = 0
    for t in range(5, 25):
        cut = x.copy()
        cut[(t + 3) * 320 :] = 0
        heard += encoder.encode(cut)[t] != units[t]
    assert heard > 0


@pytest.mark.parametrize("n", [0, 1, 319, 320, 321, 3 * 320, 90 * 320 + 7])
def test_stream_is_offline(n: int) -> None:
    x = sound(n, n)
    expected = make_encoder(1).encode(x)
    assert len(expected) == -(-n // 320)
    rng = np.random.default_rng(n)
    for threads in (1, 3):
        stream = make_encoder(threads).stream()
        for _ in range(2):  # a flushed stream starts anew
            got, at = [np.zeros(0, np.int32)], 0
            while at < n:
                m = int(rng.integers(0, 1500))
                got.append(stream.push(x[at : at + m]))
                at = min(n, at + m)
                assert sum(map(len, got)) >= (at - stream.lookahead) // 320
                if rng.random() < 0.2:
                    stream = stream.fork()
            got.append(stream.flush())
            np.testing.assert_array_equal(np.concatenate(got), expected)


def test_bad_samples_change_nothing() -> None:
    encoder = make_encoder()
    x = sound(4000)
    stream = encoder.stream()
    first = stream.push(x[:1000])
    for bad in (np.full(500, np.nan, np.float32), np.zeros((2, 3, 4), np.float32), np.array(["a"])):
        with pytest.raises(ValueError, match="samples: expected"):
            stream.push(bad)
    with pytest.raises(ValueError, match="NaN"):
        encoder.encode(np.full(500, np.nan, np.float32))
    rest = [stream.push(x[1000:]), stream.flush()]
    np.testing.assert_array_equal(np.concatenate([first, *rest]), encoder.encode(x))
    stream.push(x)
    stream.reset()
    np.testing.assert_array_equal(
        np.concatenate([stream.push(x), stream.flush()]), encoder.encode(x)
    )


ISA_PROBE = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
import test_semantic as t
np.save(sys.argv[2], t.make_encoder().encode(t.sound(60 * 320 + 5)))
"""


def test_isas_agree(tmp_path: Path) -> None:
    units = {}
    for isa in _C.isa_available():
        path = tmp_path / f"{isa}.npy"
        env = os.environ | {"UNIAUDIO_ISA": isa}
        subprocess.run(
            [sys.executable, "-c", ISA_PROBE, os.path.dirname(__file__), str(path)],
            check=True,
            env=env,
        )
        units[isa] = np.load(path)
    for isa, got in units.items():
        np.testing.assert_array_equal(got, units["plain"], err_msg=isa)


# The model folder


def test_written_is_read(folder: Path) -> None:
    loaded = load_folder(folder)
    assert loaded.config.semantic == semantic_config()
    assert {k: v.shape for k, v in loaded.semantic.items()} == codec_shapes(
        semantic_config().encoder
    )
    assert ModelConfig.from_json(loaded.config.to_json()) == loaded.config


def test_stored_in_bfloat16(tmp_path: Path) -> None:
    loaded = load_folder(save_with(tmp_path / "m", semantic_config(), "bfloat16")).semantic
    assert loaded["encoder.input.weight"].dtype == np.uint16
    assert (
        loaded["quantizer.codebooks"].dtype == np.float32
    )  # a rounded codebook would give other units


def test_a_folder_without_one(tmp_path: Path) -> None:
    folder = save_with(tmp_path / "m", None)
    assert "semantic" not in json.loads((folder / "config.json").read_text())
    engine = Engine.from_pretrained(folder)
    with pytest.raises(InputError, match="no semantic tokenizer"):
        engine.semantic((sound(3200), 16000))
    with pytest.raises(InputError, match="no semantic tokenizer"):
        engine.semantic_stream()


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        part = data["semantic"]
        for p in parents:
            part = part[p]
        part[last] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"delay": 65}, "semantic.delay"),
        ({"delay": -1}, "semantic.delay"),
        ({"delay": "4"}, "delay"),
        ({"encoder__num_codebooks": 2}, "num_codebooks"),
        ({"encoder__frame_size": 160}, "frame_size"),
        ({"encoder__sample_rate": 24000}, "sample_rate"),
        ({"encoder__spectral__decoder_blocks": 1}, "decoder_blocks"),
        ({"encoder__codebook_size": 34}, "wrong shape: quantizer.codebooks"),
        ({"unit_rate": 50}, "unit_rate"),
    ],
)
def test_bad_configs_are_one_line(folder: Path, changes: dict[str, object], words: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=words) as e:
        load_folder(folder)
    assert "\n" not in str(e.value)


def test_missing_broken_or_left_over(folder: Path) -> None:
    path = folder / "semantic.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(InputError, match="semantic.safetensors"):
        load_folder(folder)
    path.unlink()
    with pytest.raises(InputError, match="semantic.safetensors"):
        load_folder(folder)
    path.write_bytes(whole)
    data = json.loads((folder / "config.json").read_text())
    del data["semantic"]
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="semantic.safetensors is left over"):
        load_folder(folder)


def test_a_codec_needs_its_decoder() -> None:
    with pytest.raises(ConfigError, match="decoder_blocks"):
        ModelConfig(1, "m", encoder_config()).check()


# The engine


def test_engine(folder: Path) -> None:
    engine = Engine.from_pretrained(folder, threads=2)
    x = sound(16000 + 5)
    units = engine.semantic((x, 16000))
    assert units.shape == (51,) and units.min() >= 0 and units.max() < 33
    assert engine.encode((x, 16000)).shape[1] == 51
    stream = engine.semantic_stream()
    assert stream.lookahead == 960
    parts = [stream.push(x[i : i + 777]) for i in range(0, len(x), 777)]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()]), units)
    np.testing.assert_array_equal(
        Engine.from_pretrained(folder, threads=1).semantic((x, 16000)), units
    )
    assert "33 units" in engine.info()["semantic"]
