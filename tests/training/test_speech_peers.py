"""The peers of benchmarks/text_slot_peers.py compute what the engine computes, from text to sound."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for package in ("tokenizers", "onnx", "onnxruntime", "torch"):
    pytest.importorskip(package)
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "engine"))

import family_models as family
from test_speech_families import CODEC, PRESETS
from windowed_tools import cat_state, write

from uniaudio_engine.importers.moss_nano import import_moss_nano
from uniaudio_engine.importers.vieneu import import_vieneu
from uniaudio_engine.storage.quantize import quantize_folder
from uniaudio_engine.storage.tensors import load_tensors, save_tensors

# ONNX Runtime turns heads of 16 or more alone.
VIENEU = family.VIENEU | {
    "hidden_size": 64,
    "head_dim": 16,
    "local_num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = family.MOSS["gpt2_config"] | {"n_embd": 64}
MOSS = family.MOSS | {"gpt2_config": GPT2}
FRAMES = 3


def codec() -> dict[str, Any]:
    """With windows that hold a clip."""
    config = copy.deepcopy(CODEC)
    for module in config["encoder_kwargs"] + config["decoder_kwargs"]:
        if module["module_type"] == "Transformer":
            module |= {"num_heads": 1, "context_duration": 1.0}
    return config


@pytest.fixture(params=["vieneu", "moss-nano"])
def prepared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    write(tmp_path / "codec", codec(), cat_state(codec()))
    voices = tmp_path / "voices.json"
    if request.param == "vieneu":
        family.save(tmp_path / "x", VIENEU, family.vieneu_tensors(VIENEU))
        voices.write_text(json.dumps({"presets": {"one": PRESETS["Adam"]}}))
        importer = import_vieneu
    else:
        family.save(tmp_path / "x", MOSS, family.moss_tensors(MOSS))
        one = {"voice": "one", "prompt_audio_codes": PRESETS["Adam"]["codes"]}
        voices.write_text(json.dumps({"builtin_voices": [one]}))
        importer = import_moss_nano
    importer(tmp_path / "x", tmp_path / "whole", codec=tmp_path / "codec", voices=voices)
    quantize_folder(tmp_path / "whole", tmp_path / "int8", "int8")
    speech = importlib.import_module("peers.speech")
    found, _ = load_tensors(tmp_path / "whole" / "codec.safetensors")
    config = speech.Source(tmp_path).config
    save_tensors(tmp_path / "decoder.safetensors", speech.decoder_tensors(config, found))
    importlib.import_module("peers.speech_onnx").write_graphs(
        speech.Source(tmp_path), ("int8", "float32")
    )
    return tmp_path


def test_peers_speak_as_the_engine_does(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speech, worker = (importlib.import_module(f"peers.{m}") for m in ("speech", "worker"))
    for module in (speech, importlib.import_module("peers.speech_native")):
        monkeypatch.setattr(module, "TEXT", "hello there.")  # few tokens of this tokenizer

    def peer(kind: str, dtype: str) -> Any:
        module, name, _ = worker.KINDS[f"speech-{kind}"]
        spec = speech.SpeechSpec(f"speech-{kind}", dtype, prepared, 1)
        return getattr(importlib.import_module(module), name)(spec)

    engine, source = peer("native", "int8"), speech.Source(prepared)
    frames = source.model.frames(9, 3)
    c = source.config.codec
    codes = np.random.default_rng(5).integers(0, c.codebook_size, (c.num_codebooks, 6), np.int32)
    logits, sound = engine.logits(frames, 5), engine.decode(codes)
    # With AVX2 alone, ONNX Runtime's int8 sound was .31 off.
    for dtype, most in (("float32", 1e-4), ("int8", 0.4)):
        made = []
        for kind in ("onnx", "torch"):
            other = peer(kind, dtype)
            other.begin(16, 6)
            found = {"logits": (other.logits(frames, 5), logits)}
            other.begin(16, 6)
            found["sound"] = (other.decode(codes), sound)
            for part, (got, exact) in found.items():
                assert got.shape == exact.shape
                error = np.sqrt(np.mean((got - exact) ** 2)) / exact.std()
                assert error < most, (kind, dtype, part)
            assert other.speak(FRAMES) > 0 and other.first() > 0
            prompt = source.prompt("hello there.")
            other.begin(len(prompt) + FRAMES, FRAMES)
            made.append(other.generate(prompt, FRAMES))
            assert made[-1].shape == (FRAMES, source.model.config.num_codebooks)
        if dtype == "float32":
            np.testing.assert_array_equal(*made)
    assert engine.speak(FRAMES) > 0 and engine.first() > 0 and engine.loaded()[0] > 0


def test_the_table_has_a_row_for_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    peers = importlib.import_module("text_slot_peers")
    row = {"clip_s": [1.0, 2.0], "first_ms": [50.0], "load_s": [0.5], "peak_mb": [300]}
    slow = row | {"clip_s": [3.0, 4.0]}
    engines = {"native-int8": row | {"held_mb": 310}, "torch-float32": slow | {"held_mb": 900}}
    found = {"date": "today", "seconds": 3.0, "engines": engines}
    about = {"cpu": "a CPU", "cores": 2, "isa": "avx2"}
    text = peers.table({"models": {"vieneu": found}, "machine": about, "threads": 2})
    assert "| VieNeu-TTS v3 Turbo | **uniaudio-engine** int8 | 2.00 | 1.00 | 50 ms |" in text
    assert "| VieNeu-TTS v3 Turbo | PyTorch float32 | 0.86 | 2.50 | 50 ms |" in text
