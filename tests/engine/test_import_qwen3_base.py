"""Importing Qwen3-TTS Base, which clones: from files and a recording to speech, and refused encoders.

tests/training/test_qwen3_base_upstream.py compares with the authors' own classes.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from qwen3_tools import BASE, check_refused, lm_state, write_lm
from windowed_tools import write

from uniaudio_engine import Engine, InputError, Voice
from uniaudio_engine.audio.mel import LEAST, log_mel
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.auto import import_auto
from uniaudio_engine.importers.qwen3_tts import import_qwen3_tts
from uniaudio_engine.storage.folder import load_folder

pytest.importorskip("tokenizers")


def recording(folder: Path, pitch: float, seconds: float = 1.5) -> Path:
    t = np.arange(round(seconds * 2400)) / 2400
    path = folder / f"{pitch:g}.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * t) * (1 + np.sin(9 * t)) / 2, 2400)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_lm(tmp_path_factory.mktemp("qwen3-base") / "theirs", BASE)
    import_qwen3_tts(source, source.with_name("ours"))
    return source.with_name("ours")


def test_a_text_is_spoken_in_the_voice_of_a_recording(folder: Path, tmp_path: Path) -> None:
    engine = Engine.from_pretrained(folder, dtype="float32", threads=1)
    low, high = recording(tmp_path, 90), recording(tmp_path, 300)
    given = {"text": "hello there. And again!", "seconds": 0.1, "seed": 3}
    audio = engine.tts(**given, voice=low)
    assert audio.sample_rate == 2400 and np.isfinite(audio.samples).all()
    chunks = [c.samples for c in engine.stream("tts", **given, voice=low)]
    np.testing.assert_array_equal(np.concatenate(chunks), audio.samples)
    assert not np.array_equal(engine.tts(**given, voice=high).samples, audio.samples)
    voice = engine.encode_voice(low)
    voice.save(tmp_path / "low.safetensors")
    saved = Voice.load(tmp_path / "low.safetensors")
    np.testing.assert_array_equal(engine.tts(**given, voice=saved).samples, audio.samples)
    wav = tmp_path / "a.wav"
    assert main(["tts", "hello", "-m", str(folder), "--voice", str(low), "-o", str(wav)]) == 0
    assert len(soundfile.read(wav)[0]) > 0


def test_it_has_no_voice_of_its_own(folder: Path, tmp_path: Path) -> None:
    engine = Engine.from_pretrained(folder, threads=1)
    with pytest.raises(InputError, match=r"prompt: .*speaks with a voice's vector"):
        engine.tts("hello")
    with pytest.raises(InputError, match="neither a voice nor a file 'vivian'"):
        engine.tts("hello", voice="vivian")


def test_prompts_hold_the_vector(folder: Path, tmp_path: Path) -> None:
    """It stands between the language and the text, and tts_pad is added to it."""
    engine = Engine.from_pretrained(folder, dtype="float32", threads=1)
    voice = engine.encode_voice(recording(tmp_path, 90))
    plan = engine.plan("tts", text="hello", prompt=voice, language="english", seed=0)
    (piece,) = plan.pieces
    shared = piece.sequence.conditional.shared
    values, where = shared.continuous["speaker"]
    np.testing.assert_array_equal(values, voice.vector[None])
    assert where.tolist() == [len(shared) - 2]
    lm = load_folder(folder).lm
    text = engine.layout.vocabulary.span("text")
    pad = np.asarray(lm["global.embed.weight"])[text.start + engine.config.text_slot.speaking]
    np.testing.assert_array_equal(lm["continuous.speaker.bias"], pad)
    np.testing.assert_array_equal(lm["continuous.speaker.weight"], np.eye(32))


def test_a_recording_whose_words_are_known_is_heard(folder: Path, tmp_path: Path) -> None:
    engine = Engine.from_pretrained(folder, dtype="float32", threads=1)
    sound, file = recording(tmp_path, 90, 0.8), tmp_path / "said.safetensors"
    command = ["voices", str(sound), "-m", str(folder), "-o", str(file)]
    assert main([*command, "--text", "hello assistant"]) == 0
    voice, silent = Voice.load(file), engine.encode_voice(sound)
    assert voice.text == "hello assistant" and silent.text == ""
    prompts = []
    for given in (voice, silent):
        (piece,) = engine.plan("tts", text="hello!", prompt=given, seed=0).pieces
        sequence = piece.sequence.conditional
        prompts.append(np.concatenate((sequence.shared.frames, sequence.body.frames)))
    heard, plain = prompts
    codes, layout = voice.codes.T[:, :4], engine.layout
    spoken = layout.codes_to_frames(codes, engine.config.text_slot.speaking)
    np.testing.assert_array_equal(heard[-len(codes) :], spoken)
    words = layout.text_frames(engine.model.text.said("hello assistant"))
    # Before the text, its end and codec_bos; the rest is as without them.
    at = len(plain) - len(engine.model.text.said("hello!")) - 2
    np.testing.assert_array_equal(heard[at : at + len(words)], words)
    rest = np.concatenate((heard[:at], heard[at + len(words) : -len(codes)]))
    np.testing.assert_array_equal(rest, plain)
    request = {"text": "hello!", "seconds": 0.1, "seed": 3}
    a, b = (engine.tts(**request, voice=v).samples for v in (voice, silent))
    assert not np.array_equal(a, b)
    chunks = [c.samples for c in engine.stream("tts", **request, voice=voice)]
    np.testing.assert_array_equal(np.concatenate(chunks), a)
    long = engine.encode_voice(recording(tmp_path, 91, 1.4), text="hel " * 60)
    with pytest.raises(InputError, match="expected at most 0.905 s, got 1.4 s"):
        engine.tts("hello", voice=long)


def test_bfloat16_and_quantized_folders_clone(folder: Path, tmp_path: Path) -> None:
    theirs = folder.with_name("theirs")
    assert import_auto(theirs, tmp_path / "half", dtype="bfloat16")["family"] == "qwen3-tts"
    small = str(tmp_path / "small")
    assert main(["quantize", "-m", str(tmp_path / "half"), "--dtype", "int4", "-o", small]) == 0
    sound = recording(tmp_path, 90)
    whole = Engine.from_pretrained(folder, threads=1).encode_voice(sound).vector
    for name in ("half", "small"):
        engine = Engine.from_pretrained(tmp_path / name, threads=1)
        found = engine.encode_voice(sound).vector
        assert 0 < np.linalg.norm(found - whole) < 0.05 * np.linalg.norm(whole)
        assert len(engine.tts("hello", voice=sound, seed=1).samples)


@pytest.mark.parametrize("samples", [LEAST, 1000, 12345])
def test_spectra(samples: int) -> None:
    """Against librosa's filters and their definition frame by frame."""
    librosa = pytest.importorskip("librosa")
    x = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    found = log_mel(x)
    assert found.shape == (samples // 256, 128)
    filters = librosa.filters.mel(sr=24000, n_fft=1024, n_mels=128, fmin=0, fmax=12000)
    padded = np.pad(x.astype(np.float64), 384, mode="reflect")
    window = np.sin(np.pi * np.arange(1024) / 1024) ** 2
    for t, row in enumerate(found):
        power = np.abs(np.fft.rfft(padded[256 * t : 256 * t + 1024] * window)) ** 2
        expected = np.log(np.maximum(filters @ np.sqrt(power + 1e-9), 1e-5))
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_too_short_for_spectra(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least 385"):
        log_mel(np.zeros(LEAST - 1, np.float32))
    engine = Engine.from_pretrained(folder, threads=1)
    with pytest.raises(InputError, match="prompt: samples: expected at least 385"):
        engine.encode_voice(recording(tmp_path, 90, 0.01), min_seconds=0.001)


# Refused checkpoints


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(BASE)
    config["speaker_encoder_config"][key] = value
    return config


@pytest.mark.parametrize(
    "config, words",
    [
        ({**BASE, "tts_model_type": "voice_design"}, "'base', the one that clones, got 'voice_d"),
        ({**BASE, "speaker_encoder_config": None}, "key 'speaker_encoder_config' is missing"),
        ({**BASE, "speaker_encoder_config": 3}, "expected an object"),
        (changed("enc_dim", 31), "enc_dim: expected the talker's 32, got 31"),
        (changed("enc_dim", "32"), "enc_dim: expected a whole number"),
        (changed("sample_rate", 16000), "sample_rate: expected 24000, got 16000"),
        (changed("mel_dim", 80), "mel_dim: expected 128, got 80"),
        (changed("enc_channels", []), "enc_channels: expected"),
        (changed("enc_channels", [16, 16, 16, 48]), "enc_channels: expected"),
        (changed("enc_channels", [16, 16, 8, 16, 48]), "enc_channels: expected"),
        (changed("enc_channels", [16] * 99 + [97 * 16]), "enc_channels: expected"),
        (changed("enc_channels", [10**9] * 4 + [3 * 10**9]), "channels: expected 1 to 8192"),
        (changed("enc_kernel_sizes", [5, 3, 3, 1]), "enc_kernel_sizes: expected 5"),
        (changed("enc_kernel_sizes", [5, 3, 3, 10**6, 1]), "kernel_sizes: expected 1 to 64"),
        (changed("enc_dilations", [1, 2, 3, 4]), "dilations: expected 5"),
        (changed("enc_dilations", [1, 2, 3, 0, 1]), "dilations: expected 1 to 64"),
        (changed("enc_res2net_scale", 0), "groups: expected 2 or more that divide 16"),
        (changed("enc_res2net_scale", 3), "groups: expected 2 or more that divide 16"),
        (changed("enc_se_channels", 7), "expected the shape [7, 16, 1], got [6, 16, 1]"),
        (changed("enc_attention_channels", 10**5), "attention: expected 1 to 8192"),
    ],
    ids=str,
)
def test_hostile_configurations(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    write(tmp_path / "theirs", config, lm_state(BASE))
    check_refused(tmp_path / "theirs", words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"speaker_encoder.fc.weight": None}, "speaker_encoder.fc.weight is missing"),
        ({"speaker_encoder.more": np.ones(3, "f4")}, "left over speaker_encoder.more"),
        ({"speaker_encoder.fc.bias": np.full(32, np.inf, "f4")}, "NaN or infinity"),
    ],
    ids=["missing", "left over", "infinity"],
)
def test_hostile_weights(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    state = {k: v for k, v in (lm_state(BASE) | change).items() if v is not None}
    write(tmp_path / "theirs", BASE, state)
    check_refused(tmp_path / "theirs", words)


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:

    for name, value in (("channels", 32), ("width", 31), ("kernel_sizes", [1] * 3)):
        target = tmp_path / name
        shutil.copytree(folder, target)
        config = json.loads((target / "config.json").read_text())
        config["text_slot"]["speaker"][name] = value
        (target / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError) as e:
            Engine.from_pretrained(target)
        assert "\n" not in str(e.value)
