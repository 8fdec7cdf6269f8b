"""Importing Qwen3-TTS: from files to speech, its tokenizer, and refused checkpoints.

tests/training/test_qwen3_lm_upstream.py compares with the authors' own classes, and
test_qwen3_upstream.py the tokenizer with that of transformers.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from qwen3_tools import LM, check_refused, lm_state, tokenizer_files, write_lm
from windowed_tools import write

from uniaudio_engine import Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers import qwen3_tts, shapes
from uniaudio_engine.importers.auto import import_auto
from uniaudio_engine.importers.hub_files import Settings
from uniaudio_engine.importers.qwen3_tts import import_qwen3_tts
from uniaudio_engine.request.sampling import target_sampling
from uniaudio_engine.storage.folder import load_folder

pytest.importorskip("tokenizers")
TALKER = LM["talker_config"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_lm(tmp_path_factory.mktemp("qwen3") / "theirs")
    import_qwen3_tts(source, source.with_name("ours"))
    return source.with_name("ours")


def test_a_text_is_spoken(folder: Path, tmp_path: Path) -> None:
    engine = Engine.from_pretrained(folder, dtype="float32", threads=1)
    given = {"text": "hello there. And again!", "seconds": 0.1}
    audio = engine.generate("tts", **given, seed=3, language="english")
    assert engine.config.text_slot.languages == ("zh", "en")
    assert audio.sample_rate == 2400 and np.isfinite(audio.samples).all()
    chunks = [c.samples for c in engine.stream("tts", **given, seed=3, language="english")]
    np.testing.assert_array_equal(np.concatenate(chunks), audio.samples)
    for other in ({"prompt": "ryan"}, {"language": "chinese"}, {"language": None}, {"seed": 4}):
        wanted = {"seed": 3, "language": "english", **other}
        assert not np.array_equal(engine.generate("tts", **given, **wanted).samples, audio.samples)
    first = engine.generate("tts", **given, seed=3, language="english", prompt="vivian")
    np.testing.assert_array_equal(first.samples, audio.samples)  # the first one is the default
    wav = tmp_path / "a.wav"
    assert main(["tts", "hello", "-m", str(folder), "--voice", "ryan", "-o", str(wav)]) == 0
    assert len(soundfile.read(wav)[0]) > 0


@pytest.mark.parametrize("name", ["prompt", "language"])
@pytest.mark.parametrize("value", ["nobody", "vivian ryan", 7, [0, 1], -1, b"no"])
def test_unknown_speakers_and_languages(folder: Path, name: str, value: Any) -> None:
    engine = Engine.from_pretrained(folder, threads=1)
    with pytest.raises(InputError) as e:
        engine.generate("tts", text="hello", **{name: value})
    assert str(e.value).startswith(name) and "\n" not in str(e.value)


def test_prompts_are_rows_of_the_table(folder: Path) -> None:
    """Each row of the prompt is the sum that the authors' code makes."""
    engine = Engine.from_pretrained(folder, dtype="float32", threads=1)
    state = {k.removeprefix("talker."): v.astype(np.float64) for k, v in lm_state().items()}
    text_table, own = (state[f"model.{n}_embedding.weight"] for n in ("text", "codec"))

    def text(*ids: int) -> np.ndarray:
        fc = "text_projection.linear_fc{}.{}".format
        x = text_table[list(ids)] @ state[fc(1, "weight")].T + state[fc(1, "bias")]
        return x / (1 + np.exp(-x)) @ state[fc(2, "weight")].T + state[fc(2, "bias")]

    said = engine.model.text.said("hello!")
    pad, bos, end = (LM[f"tts_{n}_token_id"] for n in ("pad", "bos", "eos"))
    t = {k.removeprefix("codec_"): v for k, v in TALKER.items() if k.startswith("codec_")}
    for language, tags in (
        (None, [t["nothink_id"], t["think_bos_id"], t["think_eos_id"]]),
        ("english", [t["think_id"], t["think_bos_id"], 78, t["think_eos_id"]]),
    ):
        plan = engine.plan("tts", text="hello!", prompt="ryan", language=language, seed=0)
        (piece,) = plan.pieces
        sequence = piece.sequence.conditional
        frames = np.concatenate((sequence.shared.frames, sequence.body.frames))
        table = np.asarray(load_folder(folder).lm["global.embed.weight"])
        rows = np.concatenate(([table[1] * 5], table[frames].sum(1)))  # the start frame first
        control = own[[*tags, 81, t["pad_id"]]]
        expected = np.concatenate(
            [
                text(LM["im_start_token_id"], LM["assistant_token_id"], 198),
                text(*[pad] * (len(tags) + 1), bos) + control,
                text(*said, end) + own[t["pad_id"]],
                text(pad) + own[t["bos_id"]],
            ]
        )
        np.testing.assert_allclose(rows, expected, atol=2e-6)
        assert not frames[:, :4].any()  # no codes


def test_only_the_first_code_is_guarded(folder: Path) -> None:
    engine = Engine.from_pretrained(folder, dtype="float32", threads=1)
    task, layout = engine.task("tts"), engine.layout
    options = task.check_options({"temperature": 0.0, "repetition_penalty": 10.0})
    plan = engine.plan("tts", text="hello", seed=0)
    (piece,) = plan.pieces
    said = []
    for free in (False, True):
        if free:
            options["repetition_penalty"] = 1.0
        session = engine.lm.session(200)
        sequence = piece.sequence.conditional
        session.prefill(np.concatenate((sequence.shared.frames, sequence.body.frames)))
        said.append(
            layout.frames_to_codes(
                session.generate(40, target_sampling(layout, task, options, 0, None))
            )
        )
    guarded, plain = (len(np.unique(codes[:, 0])) for codes in said)
    assert guarded > 30 > plain  # hardly any code twice
    assert max(len(np.unique(said[0][:, k])) for k in (1, 2, 3)) < 30


def test_it_is_recognised_and_bfloat16_halves_it(folder: Path, tmp_path: Path) -> None:
    about = import_auto(folder.with_name("theirs"), tmp_path / "half", dtype="bfloat16")
    assert about["family"] == "qwen3-tts" and about["sample_rate"] == 2400
    sizes = [(p / "lm.safetensors").stat().st_size for p in (tmp_path / "half", folder)]
    assert sizes[0] < 0.55 * sizes[1]
    assert len(Engine.from_pretrained(tmp_path / "half").generate("tts", text="hello").samples)


def test_published_shape_is_what_the_importer_reads() -> None:
    """With the values that the published configuration has apart from the class's defaults."""
    predictor = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 5}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    shared = {**heads, "rope_theta": 1000000, "num_code_groups": 16}
    talker = {
        **TALKER,
        **predictor,
        **shared,
        "num_hidden_layers": 28,
        "vocab_size": 3072,
        "text_vocab_size": 151936,
        "max_position_embeddings": 32768,
        "spk_id": {f"speaker{i}": 2048 + i for i in range(9)},
        "codec_language_id": {f"language{i}": 2060 + i for i in range(12)},
        "code_predictor_config": {**predictor, **shared, "vocab_size": 2048},
    }
    talker |= {k: v + 2048 for k, v in TALKER.items() if k.startswith("codec_") and type(v) is int}
    settings = Settings({**LM, "talker_config": talker}, "config.json")
    section = settings.section("talker_config")
    control = qwen3_tts.Control.of(settings, section)
    assert qwen3_tts.lm_config(section, control) == shapes.QWEN3_TTS


# The tokenizer


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("vocab.json", "[]", "expected an object"),
        ("vocab.json", '{"a": -1}', "expected ids by their tokens, got 'a'"),
        ("vocab.json", "{}", "expected ids by their tokens"),
        ("merges.txt", "a b c\n", "expected two tokens on each line"),
        ("merges.txt", b"\xff\xfe", "expected a UTF-8 text"),
        ("merges.txt", "q zzz\n", "expected a tokenizer's JSON"),
        ("merges.txt", None, "expected the model's tokenizer, found none"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "expected tokens by"),
        ("tokenizer_config.json", '{"added_tokens_decoder": 5}', "expected tokens by"),
        ("vocab.json", '{"a": 0}', "expected a tokenizer"),
    ],
)
def test_hostile_tokenizers(tmp_path: Path, name: str, content: Any, words: str) -> None:
    source = write_lm(tmp_path / "theirs")
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as e:
        import_qwen3_tts(source, tmp_path / "ours")
    assert "\n" not in str(e.value) and words in str(e.value), str(e.value)
    assert os.listdir(tmp_path) == ["theirs"]


# Refused checkpoints


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(LM)
    *keys, last = path.split(".")
    inside: Any = config
    for key in keys:
        inside = inside[key]
    inside[last] = value
    return config


T, P = "talker_config", "talker_config.code_predictor_config"


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("model_type", "csm", "model_type: expected 'qwen3_tts'"),
        ("tts_model_type", "design", "expected 'custom_voice', the kind with built-in speakers"),
        ("tokenizer_type", "qwen3_tts_tokenizer_25hz", "tokenizer_type: expected"),
        (T, 5, "talker_config: expected an object"),
        (P, None, "code_predictor_config"),
        (f"{T}.num_hidden_layers", 10**6, "layers: expected 1 to 256"),
        (f"{T}.num_attention_heads", 0, "num_attention_heads: expected 1 or more"),
        (f"{T}.vocab_size", 1089, "expected 1024 ids beside the 64 codes"),
        (f"{P}.vocab_size", 1 << 30, "expected 1024 ids beside"),
        (f"{T}.codec_bos_id", 1088, "below 1088, got 1088"),
        (f"{T}.spk_id", {"a": 5000}, "below 1088, got 5000"),
        (f"{T}.spk_id", {}, "expected speakers and languages, got none"),
        (f"{T}.spk_id", {"two words": 80}, "expected names of one word"),
        (f"{T}.spk_id", {"a": "b"}, "expected a whole number, got 'b'"),
        (f"{T}.codec_language_id", None, "codec_language_id"),
        (f"{T}.text_vocab_size", 280, "text_vocab_size: expected 285 to"),
        (f"{T}.text_vocab_size", 1 << 30, "text_vocab_size: expected"),
        (f"{T}.num_code_groups", 64, "num_code_groups: expected 2 to 63"),
        (f"{P}.num_code_groups", 5, "num_code_groups: expected 4, as the talker has, got 5"),
        (f"{T}.rope_scaling", {"rope_type": "yarn"}, "rope_type"),
        (f"{T}.use_sliding_window", True, "use_sliding_window: expected False"),
        (f"{T}.hidden_act", "relu", "hidden_act: expected 'silu'"),
        (f"{P}.hidden_size", 24, "expected the shape [64, 24], got [64, 32]"),
        ("tts_pad_token_id", -1, "tts_pad_token_id: expected a whole number"),
        ("assistant_token_id", 10**6, "text_vocab_size: expected"),
    ],
    ids=str,
)
def test_hostile_configurations(tmp_path: Path, path: str, value: Any, words: str) -> None:
    write(tmp_path / "theirs", changed(path, value), lm_state())
    check_refused(tmp_path / "theirs", words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"talker.codec_head.weight": None}, "codec_head.weight is missing"),
        ({"talker.more": np.ones(3, "f4")}, "left over talker.more"),
        ({"talker.codec_head.weight": np.ones((7, 32), "f4")}, "expected the shape [1088, 32]"),
        (
            {"talker.model.text_embedding.weight": np.full((290, 24), np.nan, "f4")},
            "NaN or infinity",
        ),
    ],
    ids=["missing", "left over", "shape", "NaN"],
)
def test_hostile_weights(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    state = {k: v for k, v in (lm_state() | change).items() if v is not None}
    write(tmp_path / "theirs", LM, state)
    check_refused(tmp_path / "theirs", words)


def test_without_its_codec(tmp_path: Path) -> None:
    source = write(tmp_path / "theirs", LM, lm_state())
    tokenizer_files(source)
    with pytest.raises(InputError, match="the codec in a folder speech_tokenizer inside it"):
        import_qwen3_tts(source, tmp_path / "ours")
    assert json.loads((source / "config.json").read_text()) == LM
