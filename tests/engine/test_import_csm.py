"""Importing CSM: from files to speech, and refused checkpoints.

tests/training/test_csm_transformers.py compares with ``CsmForConditionalGeneration`` itself.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from csm_tools import CSM, csm_state, write_csm

from uniaudio_engine import Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.auto import import_auto
from uniaudio_engine.importers.csm import Turn, import_csm, read_csm
from uniaudio_engine.request.sampling import target_sampling

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csm(tmp_path_factory.mktemp("csm") / "theirs")


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    import_csm(checkpoint, checkpoint.with_name("ours"))
    return checkpoint.with_name("ours")


def test_a_text_is_spoken(folder: Path, tmp_path: Path) -> None:
    engine = Engine.from_pretrained(folder, dtype="float32")
    audio = engine.generate("tts", text="Hello there. And again.", seed=3)
    assert audio.sample_rate == 2400 and len(audio.samples) and np.isfinite(audio.samples).all()
    chunks = [c.samples for c in engine.stream("tts", text="Hello there. And again.", seed=3)]
    np.testing.assert_array_equal(np.concatenate(chunks), audio.samples)
    other = engine.generate("tts", text="Hello there. And again.", seed=4)
    assert not np.array_equal(other.samples, audio.samples)
    plan = engine.plan("tts", text="Hi.", seed=3)
    model = read_csm(folder.with_name("theirs"))
    ids = [298, *engine.model.text.said("Hi."), 299]
    (piece,) = plan.pieces
    sequence = piece.sequence.conditional
    frames = np.concatenate((sequence.shared.frames, sequence.body.frames))
    np.testing.assert_array_equal(frames, model.prompt([Turn(ids)]))
    wav = tmp_path / "a.wav"
    assert main(["tts", "Hi.", "-m", str(folder), "-o", str(wav), "--dtype", "int4"]) == 0
    assert len(soundfile.read(wav)[0]) > 0


@pytest.mark.slow
def test_speech_on_a_device_is_the_cpus(host: Any, folder: Path) -> None:
    cpu, gpu = (
        Engine.from_pretrained(folder, device=d, threads=1, dtype="float32")
        for d in ("cpu", "cuda")
    )
    for seed in (3, 4):
        a, b = (e.generate("tts", text="Hello there.", seed=seed) for e in (cpu, gpu))
        assert b.meta["device"] == "cuda" and len(a.samples)
        np.testing.assert_array_equal(a.samples, b.samples)


def test_it_is_recognised_and_bfloat16_halves_it(checkpoint: Path, tmp_path: Path) -> None:
    about = import_auto(checkpoint, tmp_path / "half", dtype="bfloat16")
    assert about["family"] == "csm" and about["sample_rate"] == 2400
    files = [p / "lm.safetensors" for p in (tmp_path / "half", checkpoint.with_name("ours"))]
    if files[1].exists():
        assert files[0].stat().st_size < 0.55 * files[1].stat().st_size
    engine = Engine.from_pretrained(tmp_path / "half")
    assert len(engine.generate("tts", text="Hi.", seed=1).samples)


def test_speakers_hear_each_other(folder: Path) -> None:
    engine = Engine.from_pretrained(folder, dtype="float32")
    model = read_csm(folder.with_name("theirs"))
    rng = np.random.default_rng(0)
    heard = (rng.standard_normal(600) * 0.1).astype(np.float32), 2400
    talk = engine.conversation()
    talk.hear("What is this?", heard, speaker=1)
    first = talk.say("A test.", seed=5, seconds=0.3)
    second = list(talk.stream("Good.", speaker=1, seed=6))
    assert second[-1].last and not any(c.last for c in second[:-1])
    assert first.meta["seed"] == 5 and first.meta["speaker"] == 0

    # The same turns in one prompt, each spoken in a session of its own.
    def words(text: str, speaker: int) -> list[int]:
        return [298, *engine.model.text.said(text, speaker), 299]

    turns = [Turn(words("What is this?", 1), engine.encode(heard, 5).T)]
    for text, speaker, seed, seconds in (("A test.", 0, 5, 0.3), ("Good.", 1, 6, 0)):
        session = engine.lm.session(400)
        session.prefill(model.prompt([*turns, Turn(words(text, speaker))]))
        task, least = engine.task("tts"), None if seconds else 0
        options = task.check_options({"seed": seed})
        sampling = target_sampling(engine.layout, task, options, seed, least)
        most = round(seconds * engine.frame_rate) or 12 * len(words(text, speaker))
        codes = engine.layout.frames_to_codes(session.generate(most, sampling))
        turns.append(Turn(words(text, speaker), codes))
    np.testing.assert_array_equal(np.concatenate([c.codes for c in second]), turns[-1].codes)
    np.testing.assert_allclose(first.samples, engine.decode(turns[1].codes.T).samples, atol=1e-5)


def test_a_conversation_ends_where_there_is_no_room(folder: Path) -> None:
    engine = Engine.from_pretrained(folder)
    talk, sound = engine.conversation(), (np.zeros(2400, np.float32), 2400)
    for wrong in ({"speaker": 10}, {"speaker": "a"}, {"text": " "}, {"sound": b"no"}):
        with pytest.raises(InputError):
            talk.hear(**({"text": "Hello.", "sound": sound} | wrong))
    assert talk.seconds_left == 400 / engine.frame_rate
    stream = talk.stream("Hello.", seed=1)
    next(stream)
    with pytest.raises(InputError, match="somebody is speaking"):
        talk.hear("Hello.", sound)
    stream.close()  # type: ignore[attr-defined]
    left = talk.seconds_left
    talk.hear("Hello.", sound)
    assert talk.seconds_left < left
    with pytest.raises(InputError, match="which is the room left"):
        for i in range(100):
            talk.say("Hello there.", seed=i)
    assert 0 <= talk.seconds_left < 60 / engine.frame_rate
    with pytest.raises(InputError, match="takes no turns"):
        Engine.from_pretrained().conversation()


def _at(*path: str) -> Callable[[dict[str, Any], Any], None]:
    def put(config: dict[str, Any], value: Any) -> None:
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return put


@pytest.mark.parametrize(
    ("put", "value", "words"),
    [
        (_at("model_type"), "llama", "model_type: expected 'csm'"),
        (_at("num_codebooks"), 7, "num_codebooks: expected 7, got 5"),
        (_at("num_codebooks"), 1 << 30, "num_codebooks: expected"),
        (_at("vocab_size"), 10, "vocab_size: expected 10, got 67"),
        (_at("hidden_size"), 50, "expected"),
        (_at("num_attention_heads"), 0, "expected 1 or more"),
        (_at("num_hidden_layers"), 10**6, "expected 1 to 256"),
        (_at("hidden_act"), "relu", "hidden_act: expected 'silu'"),
        (_at("codebook_eos_token_id"), 66, "codebook_eos_token_id: expected below 64"),
        (_at("bos_token_id"), 300, "first text id: expected 0 to 299"),
        (_at("text_vocab_size"), 1 << 30, "lm.vocab_size: expected"),
        (_at("rope_scaling", "rope_type"), "yarn", "expected one of default, llama3"),
        (_at("rope_scaling", "factor"), 0, "expected factor of at least 1"),
        (_at("rope_scaling", "high_freq_factor"), 0.1, "below high_freq_factor"),
        (_at("rope_theta"), 0, "expected"),
        (_at("depth_decoder_config"), None, "depth_decoder_config"),
        (
            _at("depth_decoder_config", "backbone_hidden_size"),
            49,
            "backbone_hidden_size: expected 48",
        ),
        (_at("codec_config"), {}, "expected model_type mimi"),
        (_at("codec_config", "num_quantizers"), 4, "expected 2 to 4 codebooks"),
        (_at("codec_config", "hidden_size"), 1 << 20, "expected"),
    ],
)
def test_other_configurations_are_refused(
    checkpoint: Path,
    tmp_path: Path,
    put: Callable[[dict[str, Any], Any], None],
    value: Any,
    words: str,
) -> None:
    config = copy.deepcopy(CSM)
    put(config, value)
    state = {"x": np.zeros(2, np.float32)} if value == 1 << 30 else None
    source = write_csm(tmp_path / "theirs", config, state)
    _refused(source, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("lm_head.weight"), "tensor lm_head.weight is missing"),
        (lambda s: s.update(more=np.zeros(2, np.float32)), "left over more"),
        (lambda s: s["lm_head.weight"].fill(np.nan), "NaN or infinity"),
        (lambda s: s.update({"lm_head.weight": np.zeros((3, 48), np.float32)}), "the shape"),
        (lambda s: s.pop("codec_model.downsample.conv.weight"), "missing downsample.conv.weight"),
        (
            lambda s: s.pop("backbone_model.embed_tokens.embed_audio_tokens.weight"),
            "embed_tokens.weight is missing",
        ),
    ],
)
def test_other_weights_are_refused(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], Any], words: str
) -> None:
    state = csm_state(tmp_path)
    change(state)
    _refused(write_csm(tmp_path / "theirs", CSM, state), words)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    source = write_csm(tmp_path / "theirs")
    (source / "tokenizer.json").write_text("{")
    _refused(source, "expected a tokenizer's JSON")
    (source / "tokenizer.json").unlink()
    _refused(source, "expected the model's tokenizer, found none")


def _refused(source: Path, words: str) -> None:
    before = sorted(os.listdir(source.parent))
    with pytest.raises(InputError) as e:
        import_csm(source, source.with_name("refused"))
    message = str(e.value)
    assert "\n" not in message and len(message) < 500 and words in message, message
    assert sorted(os.listdir(source.parent)) == before
