"""A model folder is evaluated through the public engine; a random model must fail."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the training package needs torch (the train extra)")
pytest.importorskip("uniaudio_engine._C", reason="the engine's core is not built")

from uniaudio_training.evaluate import originals
from uniaudio_training.evaluate.engines import able, load_subject
from uniaudio_training.evaluate.metrics import edit_errors, error_rate
from uniaudio_training.evaluate.recogniser import recogniser

from uniaudio_engine import Audio
from uniaudio_engine.text import phonemize


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    spec = importlib.util.spec_from_file_location(
        "tiny", Path(__file__).parents[1] / "engine" / "tiny.py"
    )
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return load_subject(str(tiny.make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))


def test_subject_of_a_model_folder(subject):
    assert (subject.codebooks, subject.lm_codebooks, subject.codebook_size) == (3, 2, 16)
    assert able(subject, ["tts", "codec"]) == ["tts", "codec"]
    assert len(originals.choose_voices(subject.voices(), 10)) == 10
    assert subject.asked_phones("Hello there.") == [
        p.rstrip("012") for p in phonemize("Hello there.")[0].phones if p != "pau"
    ]


def test_codec_and_speech_of_a_random_model(subject):
    x = (0.1 * np.sin(np.arange(16000) * 0.1)).astype(np.float32)
    codes = subject.encode(x)
    assert codes.shape == (3, 50) and subject.through_codec(x, 2).shape == (16000,)
    text = "the teacher found two red letters"
    spoken = subject.say(text, seed=3, prompt=x)
    assert np.array_equal(spoken, subject.say(text, seed=3, prompt=x)) and np.isfinite(spoken).all()
    errors = edit_errors(subject.asked_phones(text), recogniser().hear(spoken))
    assert error_rate([errors]) > 0.7


def test_voices_that_the_folder_lacks_are_cloned(subject, monkeypatch):
    asked = []
    monkeypatch.setattr(
        originals, "prompt", lambda name: asked.append(name) or np.zeros(48000, np.float32) + 0.1
    )
    monkeypatch.setattr(
        type(subject.engine),
        "generate",
        lambda self, task, **inputs: Audio(inputs["prompt"][0], inputs["prompt"][1]),
    )
    assert len(subject.say("hello", 0, voice="slt-102-163")) == 48000 and asked == ["slt-102-163"]
