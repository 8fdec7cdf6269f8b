"""Voices of the engine, on the fake core: made, saved, loaded, damaged, and those of a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import codes_of, tone
from tiny import make_tiny_model

from uniaudio_engine import Engine, InputError, Voice
from uniaudio_engine.storage.tensors import load_tensors, save_tensors


def test_voices_are_saved_and_checked(engine: Engine, tmp_path: Path) -> None:
    voice = engine.encode_voice(tone(5.0), "anna", licence="CC0-1.0")
    assert voice.seconds == 3.0 and voice.codes.dtype == np.int32
    path = tmp_path / "anna.safetensors"
    voice.save(path)
    loaded = Voice.load(path)
    assert np.array_equal(loaded.codes, voice.codes)
    assert dataclasses.replace(loaded, codes=voice.codes) == dataclasses.replace(voice, notes=())
    expected = codes_of(engine, text="Hello.", voice=voice, seed=1)
    for same in (loaded, path, str(path)):
        assert np.array_equal(codes_of(engine, text="Hello.", voice=same, seed=1), expected)
    assert not np.array_equal(codes_of(engine, text="Hello.", seed=1)[:20], expected[:20])
    with pytest.raises(InputError, match=r"\.safetensors"):
        voice.save(tmp_path / "anna.wav")


def damage(path: Path, change: Callable[[dict[str, Any], dict[str, str]], Any]) -> None:
    tensors, metadata = load_tensors(path)
    change(tensors, metadata)
    save_tensors(path, tensors, metadata)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, m: m.pop("format"), "expected a voice file"),
        (lambda t, m: m.update(extra="1"), "expected a voice file"),
        (lambda t, m: t.update(more=np.zeros(1, np.int32)), "expected a voice file"),
        (lambda t, m: t.update(codes=np.zeros((3, 0), np.int32)), "expected codes"),
        (lambda t, m: t.update(codes=np.zeros((3, 9), np.float32)), "expected codes"),
        (lambda t, m: t.update(codes=np.full((3, 9), -1, np.int32)), "expected codes"),
        (lambda t, m: t.update(codes=np.full((3, 9), 16, np.int32)), "3 codebooks of 16"),
        (lambda t, m: t.update(codes=np.zeros((1, 9), np.int32)), "2 to 3 codebooks"),
        (lambda t, m: t.update(codes=np.zeros((3, 9999), np.int32)), "expected at most"),
        (lambda t, m: m.update(codec="0123"), "another codec"),
        (lambda t, m: m.update(frame_rate="often"), "frame rate"),
        (lambda t, m: m.update(frame_rate="nan"), "frame rate"),
    ],
)
def test_damaged_voices(change: Any, words: str, engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    engine.encode_voice(tone(1.0)).save(path)
    damage(path, change)
    with pytest.raises(InputError) as e:
        engine.stream("tts", text="Hello.", voice=path)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_bundled_voices(fake: None, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m")
    (folder / "voices").mkdir()
    engine = Engine.from_pretrained(folder)
    for name, hertz in (("ben", 110.0), ("anna", 220.0)):
        engine.encode_voice(tone(1.0, hertz=hertz), name).save(
            folder / "voices" / f"{name}.safetensors"
        )
    engine = Engine.from_pretrained(folder)
    assert engine.voices() == ["anna", "ben"]
    by_default = engine.tts("Hello.", seed=1)
    assert by_default.meta["voice"] == "anna"
    assert np.array_equal(by_default.samples, engine.tts("Hello.", voice="anna", seed=1).samples)
    assert engine.tts("Hello.", voice="ben", seed=1).meta["voice"] == "ben"
    with pytest.raises(InputError, match="anna, ben"):
        engine.tts("Hello.", voice="carl")
