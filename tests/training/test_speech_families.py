"""VieNeu-TTS and MOSS-TTS-Nano whole: files of their own formats with random weights -> a model
folder -> text to sound.
"""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tokenizers")
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import family_models as family
from family_models import MOSS, VIENEU
from windowed_tools import CAT, cat_state, write

from uniaudio_engine import Audio, Engine, InputError
from uniaudio_engine.audio.voice import Voice
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.moss_nano import import_moss_nano
from uniaudio_engine.importers.vieneu import import_vieneu
from uniaudio_engine.request.sampling import target_sampling

CODEC = CAT | {
    "quantizer_kwargs": CAT["quantizer_kwargs"] | {"num_quantizers": 4, "codebook_size": 30}
}
RATE = CODEC["sampling_rate"]
R = np.random.default_rng(0)
PRESETS = {
    name: {
        "speaker_emb": R.standard_normal(VIENEU["speaker_embedding_dim"]).tolist(),
        "codes": R.integers(0, 30, (frames, 4)).tolist(),
        "description": "a voice",
    }
    for name, frames in (("Đoan Trang", 6), ("Adam", 9))
}
BUILTIN = [{"voice": n, "prompt_audio_codes": p["codes"]} for n, p in PRESETS.items()]
TEXT = "hello there, my old friend. how are you today? i am well and very glad to see you."


def speaker_encoder(width: int) -> bytes:
    """Like the project's: features [1, T, 80] -> a vector [1, width]."""
    onnx = pytest.importorskip("onnx")
    h, numbers = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.random.default_rng(4).standard_normal((80, width)).astype(np.float32)
    graph = h.make_graph(
        [
            h.make_node("Abs", ["input"], ["loud"]),
            h.make_node("ReduceMean", ["loud"], ["mean"], axes=[1], keepdims=0),
            h.make_node("MatMul", ["mean", "w"], ["output"]),
        ],
        "speaker",
        [h.make_tensor_value_info("input", numbers, [1, "t", 80])],
        [h.make_tensor_value_info("output", numbers, [1, width])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vieneu, moss, and the codec next to them, as the projects publish them."""
    root = tmp_path_factory.mktemp("downloads")
    write(root / "MOSS-Audio-Tokenizer-Nano", CODEC, cat_state(CODEC))
    family.save(root / "vieneu" / "update", VIENEU, family.vieneu_tensors(VIENEU))
    (root / "vieneu" / "config.json").write_text("{}")
    width = VIENEU["speaker_embedding_dim"]
    (root / "vieneu" / "speaker_encoder.onnx").write_bytes(speaker_encoder(width))
    voices = {"default_voice": "Adam", "presets": PRESETS}
    (root / "vieneu" / "voices_v3_turbo.json").write_text(json.dumps(voices))
    family.save(root / "moss", MOSS, family.moss_tensors(MOSS))
    (root / "voices.json").write_text(json.dumps({"builtin_voices": BUILTIN}))
    return root


@pytest.fixture(scope="module")
def folders(downloads: Path) -> dict[str, Path]:
    made = {"vieneu": downloads / "out" / "vieneu", "moss": downloads / "out" / "moss"}
    made["vieneu"].parent.mkdir()
    about = import_vieneu(downloads / "vieneu", made["vieneu"])
    assert about["channels"] == 2 and about["voices"] == list(PRESETS)
    assert main(
        ["import", "moss-nano", str(downloads / "moss"), "-o", str(made["moss"])]
        + ["--voices", str(downloads / "voices.json")]
    ) == 0  # fmt: skip
    return made


@pytest.fixture(scope="module")
def engines(folders: dict[str, Path]) -> dict[str, Engine]:
    return {k: Engine.from_pretrained(f, dtype="float32", threads=1) for k, f in folders.items()}


def said(name: str, **more: Any) -> dict[str, Any]:
    """A request of text; VieNeu's phones stand for themselves, without its package."""
    key = "phones" if name == "vieneu" else "text"
    return {key: TEXT.replace(". ", ".\n") if name == "vieneu" else TEXT, "seed": 3, **more}


def streamed(engine: Engine, sizes: list[int], **request: Any) -> Audio:
    with engine.stream("tts", chunk_frames=sizes, **request) as stream:
        chunks = [c.samples for c in stream]
    assert len(chunks) > 3
    return Audio(np.concatenate(chunks, axis=-1), RATE, stream.meta)


@pytest.mark.parametrize("name", ["vieneu", "moss"])
def test_text_to_sound(engines: dict[str, Engine], name: str) -> None:
    """Stereo, the same streamed in any chunks, alone or beside others; voices are heard."""
    engine = engines[name]
    assert engine.voices() == sorted(PRESETS) and engine.channels == 2
    audio = engine.tts(**said(name))
    assert audio.channels == 2 and audio.sample_rate == RATE and audio.meta["voice"] == "Adam"
    assert audio.meta["frames"] > 20 and np.abs(audio.samples).max() > 0
    assert audio.meta["sentences"] > 1
    for sizes in ([1], [3, 1, 7]):
        again = streamed(engine, sizes, **said(name))
        np.testing.assert_array_equal(again.samples, audio.samples)
    other = engine.tts(**said(name, voice="Đoan Trang"))
    assert other.samples.tobytes() != audio.samples.tobytes()
    both = engine.generate_batch([said(name), said(name, voice="Đoan Trang")])
    np.testing.assert_array_equal(both[0].samples, audio.samples)
    np.testing.assert_array_equal(both[1].samples, other.samples)
    assert engine.info()["channels"] == 2 and engine.info()["num_codebooks"] == 4
    exact = engine.tts(**said(name, seconds=0.4))
    assert exact.meta["frames"] == 40 * exact.meta["sentences"]


def test_the_server_sends_one_channel(engines: dict[str, Engine]) -> None:
    pytest.importorskip("fastapi")
    sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
    from server_tools import running

    engine = engines["moss"]
    with running(engine) as server, server.client() as client:
        asked = {"model": engine.config.name, "input": TEXT, "voice": "Adam", "seed": 3}
        answer = client.post("/v1/audio/speech", json={**asked, "response_format": "wav"})
        assert answer.status_code == 200, answer.text
        mono = np.frombuffer(answer.content[44:], "<i2") / 32768
        refused = client.post("/v1/audio/speech", json={**asked, "speed": 1.5})
        assert refused.status_code == 400 and "unknown name speed" in refused.text
    truth = engine.tts(text=TEXT, voice="Adam", seed=3).samples.mean(axis=0)
    np.testing.assert_allclose(mono, truth, atol=2 / 32768)


@pytest.mark.parametrize("name", ["vieneu", "moss"])
def test_frames_are_those_of_the_core(engines: dict[str, Engine], name: str) -> None:
    """One sentence: the prompt in a session, greedily, and its codes decoded at once."""
    engine = engines[name]
    request = said(name) | {"phones" if name == "vieneu" else "text": "good morning to you all"}
    plan = engine.plan("tts", temperature=0, **request)
    (piece,) = plan.pieces
    known = piece.sequence.conditional
    session = engine.lm.session(engine.capacity)
    if known.shared.condition is not None:
        session.set_condition(known.shared.condition)
    session.prefill(np.concatenate((known.shared.frames, known.body.frames)))
    sampling = target_sampling(engine.layout, plan.task, plan.options, piece.seed, 0)
    codes = engine.layout.frames_to_codes(session.generate(piece.frames, sampling))
    truth = np.clip(engine.codec.decode(np.ascontiguousarray(codes.T)), -1, 1)
    audio = engine.tts(temperature=0, **request)
    assert audio.meta["frames"] == len(codes) > 0
    np.testing.assert_array_equal(audio.samples, truth)


def test_the_voice_is_read_once(engines: dict[str, Engine]) -> None:
    """MOSS's recording comes before the text: its sentences share that prefix."""
    plan = engines["moss"].plan("tts", **said("moss"))
    pieces = list(plan.pieces)
    keys = {p.sequence.conditional.shared.key() for p in pieces}
    assert len(pieces) > 1 and len(keys) == 1
    assert len(pieces[0].sequence.conditional.shared) > len(PRESETS["Adam"]["codes"])


@pytest.mark.parametrize("name", ["vieneu", "moss"])
def test_cloning(engines: dict[str, Engine], name: str, tmp_path: Path) -> None:
    engine = engines[name]
    t = np.arange(RATE) / RATE
    sound = Audio(np.stack((np.sin(300 * t), np.cos(200 * t))).astype(np.float32) / 3, RATE)
    sound.save(tmp_path / "me.wav")
    audio = engine.tts(**said(name, prompt=tmp_path / "me.wav"))
    assert audio.meta["voice"] == "me" and audio.channels == 2
    voice = engine.encode_voice(tmp_path / "me.wav", max_seconds=8.0)
    assert (voice.vector is None) == (name == "moss") and voice.codes.shape[0] == 4
    voice.save(tmp_path / "me.safetensors")
    again = engine.tts(**said(name, voice=tmp_path / "me.safetensors"))
    np.testing.assert_array_equal(again.samples, audio.samples)
    np.testing.assert_array_equal(again.samples, engine.tts(**said(name, voice=voice)).samples)


def test_without_a_voice(engines: dict[str, Engine], folders: dict[str, Path]) -> None:
    """MOSS's prompt says so; VieNeu needs a vector."""
    bare = folders["moss"].parent / "bare"
    shutil.copytree(folders["moss"], bare, ignore=shutil.ignore_patterns("voices"))
    engine = Engine.from_pretrained(bare, threads=1)
    plan = engine.plan("tts", **said("moss"))
    first = next(iter(plan.pieces)).sequence.conditional
    none = engine.layout.text_frames(family.pieces("None"))
    shared = first.shared.frames
    assert any(np.array_equal(shared[i : i + len(none)], none) for i in range(len(shared)))
    assert engine.tts(**said("moss")).meta["voice"] is None
    voice = engines["vieneu"].voice("Adam")
    plain = Voice("plain", voice.codes, voice.codec, voice.frame_rate)
    with pytest.raises(
        InputError, match="voice 'plain': expected a vector of 10 numbers, got none"
    ):
        engines["vieneu"].tts(**said("vieneu", voice=plain))


def test_text_that_arrives(engines: dict[str, Engine]) -> None:
    engine = engines["moss"]
    whole = engine.tts(text=TEXT, seed=3)
    parts = (TEXT[i : i + 7] for i in range(0, len(TEXT), 7))
    arriving = engine.tts(text=parts, seed=3, flush_after=float("inf"))
    np.testing.assert_array_equal(arriving.samples, whole.samples)


def test_vieneu_in_bfloat16_maps_vectors(
    downloads: Path, engines: dict[str, Engine], tmp_path: Path
) -> None:
    import_vieneu(downloads / "vieneu", tmp_path / "half", dtype="bfloat16")
    half = Engine.from_pretrained(tmp_path / "half", threads=1)
    vector = half.voice("Adam").vector
    ours, exact = (e.model.speaker.row(vector) for e in (half, engines["vieneu"]))
    assert 0 < np.abs(ours - exact).max() < 0.02 * np.abs(exact).max()


def test_vieneu_reads_text(engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through sea-g2p, sentence by sentence; cues become tokens."""
    asked = []

    class Pipeline:
        def __init__(self, lang: str) -> None:
            assert lang == "vi"

        def run(self, text: str, punc_norm: bool) -> str:
            asked.append((text, punc_norm))
            return text.lower().strip()

    library = types.ModuleType("sea_g2p")
    vars(library).update(SEAPipeline=Pipeline, punc_norm=lambda text: text)
    monkeypatch.setitem(sys.modules, "sea_g2p", library)
    engine = engines["vieneu"]
    monkeypatch.setattr(engine.model, "_text", None)
    text = "Xin chào tất cả các bạn. Well, [chuckle] hello there my friend."
    spoken = engine.plan("tts", text=text, seed=1)
    first, second = spoken.pieces
    assert asked == [
        ("Xin chào tất cả các bạn.", True),
        ("Well, ", False),
        (" hello there my friend.", False),
    ]
    same = engine.plan("tts", phones="well, <|emotion_1|> hello there my friend.")
    (truth,) = same.pieces
    for one in (second, truth):
        assert 2 + 10 in one.sequence.conditional.body.frames[:, 0]
    assert len(first.sequence.conditional) > 20
    monkeypatch.setitem(sys.modules, "sea_g2p", None)
    monkeypatch.setattr(engine.model, "_text", None)
    with pytest.raises(InputError, match=r"pip install 'uniaudio-engine\[vietnamese\]'"):
        engine.tts(text=text)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"text": ""}, "expected words to speak"),
        ({"text": "…"}, "expected text with letters or digits"),
        ({"text": "<speak>hi</speak>", "markup": "ssml"}, "reads plain text by itself"),
        ({"phones": "a b"}, "phones: expected none, since this model reads text"),
        ({"text": "a\ud800"}, "which is cut"),
        ({"text": "hi", "speed": 2}, "unknown"),
        ({"text": "hi", "seconds": 0}, "seconds: expected a number from 0.02"),
        ({"text": "hi", "seconds": 60}, "expected up to"),
    ],
)
def test_wrong_requests_are_refused(
    engines: dict[str, Engine], request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as e:
        engines["moss"].tts(**request_)
    assert "\n" not in str(e.value)


def changed_json(path: Path, **change: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def broken(downloads: Path, tmp_path: Path, name: str, damage: str) -> dict[str, Any]:
    """A copy of a download with one thing wrong; how to import it."""
    shutil.copytree(downloads / name, tmp_path / name)
    codec = downloads / "MOSS-Audio-Tokenizer-Nano"
    weights = tmp_path / name / ("update" if name == "vieneu" else "")
    how: dict[str, Any] = {"codec": codec}
    if damage == "no codec":
        del how["codec"]
    elif damage == "other codec":
        config = CODEC | {"quantizer_kwargs": CODEC["quantizer_kwargs"] | {"num_quantizers": 3}}
        how["codec"] = write(tmp_path / "other", config, cat_state(config))
    elif damage.startswith("tokenizer"):
        for file in ("tokenizer.json", "tokenizer.model"):
            (weights / file).write_bytes(b"nothing" if damage == "tokenizer" else b"")
    elif damage == "small vocabulary":
        (weights / "tokenizer.json").write_text(family.phone_tokenizer(40).replace(":39", ":99"))
    elif damage in ("name", "vector", "code", "book"):
        path = tmp_path / name / "voices_v3_turbo.json"
        preset = dict(PRESETS["Adam"])
        preset |= {"vector": {"speaker_emb": [1.0]}, "code": {"codes": [[0, 1, 2, 30]]},
                   "book": {"codes": [[0, 1, 2]]}}.get(damage, {})  # fmt: skip
        changed_json(path, presets={"../x" if damage == "name" else "Adam": preset})
    elif damage == "mark":
        changed_json(weights / "config.json", text_prompt_end_token_id=40, audio_end_token_id=350)
    return how


DAMAGE = [
    ("vieneu", "no codec", r"name it \(--codec DIR\)"),
    ("vieneu", "other codec", "up to the codec's 3 beside the slot of text, got 4"),
    ("vieneu", "tokenizer", "tokenizer.json: expected a tokenizer's JSON"),
    ("vieneu", "tokenizer gone", "expected this model's tokenizer, found none"),
    ("vieneu", "small vocabulary", "expected up to 40 pieces"),
    ("vieneu", "name", "expected a name of letters, digits and spaces"),
    ("vieneu", "vector", "expected a vector of 10, got 1"),
    ("vieneu", "code", "codes: expected 0 to 29, got 30"),
    ("vieneu", "book", r"codes: expected \[T, 4\], got \[1, 3\]"),
    ("vieneu", "mark", r"prompt\[2\].ids: expected 0 to 39, got 40"),
    ("moss", "no codec", r"name it \(--codec DIR\)"),
    ("moss", "tokenizer", "expected a sentencepiece model"),
    ("moss", "mark", "expected -?[01] to 349, got 350"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE)
def test_damaged_downloads_are_refused(
    downloads: Path, tmp_path: Path, name: str, damage: str, message: str
) -> None:
    how = broken(downloads, tmp_path, name, damage)
    importer = import_vieneu if name == "vieneu" else import_moss_nano
    with pytest.raises(InputError, match=message) as e:
        importer(tmp_path / name, tmp_path / "out", **how)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_hostile_folders_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def refused(message: str, damage: Any, name: str = "vieneu") -> None:
        copy = tmp_path / "copy"
        shutil.copytree(folders[name], copy)
        damage(copy)
        with pytest.raises(InputError, match=message) as e:
            Engine.from_pretrained(copy, threads=1).tts(**said(name))
        assert "\n" not in str(e.value)
        shutil.rmtree(copy)

    def slot(**change: Any) -> Any:
        def damage(copy: Path) -> None:
            config = json.loads((copy / "config.json").read_text())
            config["text_slot"] |= change
            (copy / "config.json").write_text(json.dumps(config))

        return damage

    refused("speaker.safetensors", lambda c: (c / "speaker.safetensors").unlink())
    refused("speaker.safetensors", slot(voice_width=9))
    refused("expected a tokenizer's JSON", lambda c: (c / "tokenizer.json").write_text("{}"))
    refused("found none", lambda c: (c / "tokenizer.json").unlink())
    refused("prompt: expected one part of kind text", slot(prompt=[]))
    refused("expected one of", slot(tokenizer="pickle"))
    refused("unknown key", slot(code="import os"))
    refused("expected this model's tokenizer", lambda c: (c / "text.model").unlink(), "moss")
    refused("sentencepiece", lambda c: (c / "text.model").write_bytes(b"no"), "moss")
    refused("expected -1 to 349", slot(end=1 << 20), "moss")
