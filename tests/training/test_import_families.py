"""Language models of other projects: random weights in their own files, read, against what they
compute.

UNIAUDIO_VIENEU_SOURCE names a checkout of github.com/pnnbao97/VieNeu-TTS, UNIAUDIO_MOSS_SOURCE one
of github.com/OpenMOSS/MOSS-TTS: the same against their own classes.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

import family_models as family
from family_models import MOSS, VIENEU

from uniaudio_engine import _C
from uniaudio_engine.errors import InputError
from uniaudio_engine.importers.moss_nano import read_moss_nano
from uniaudio_engine.importers.text_slot import TEXT, TextSlotModel
from uniaudio_engine.importers.vieneu import read_vieneu, read_voices
from uniaudio_engine.request.sampling import target_sampling
from uniaudio_engine.request.sequence_builder import Spoken, build
from uniaudio_engine.storage.config import to_dict
from uniaudio_engine.storage.folder import check_weights
from uniaudio_engine.storage.weight_shapes import lm_shapes
from uniaudio_engine.tokenizers.speaker import Speaker

VECTORS = np.random.default_rng(5).standard_normal((2, 10)).astype(np.float32)
PHONES = [20, 31, 22, 17, 39]
SAID = [20, 21, 33, 14, 2]


@pytest.fixture(scope="module")
def vieneu(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextSlotModel, Path]:
    folder = tmp_path_factory.mktemp("families") / "vieneu"
    family.save(folder, VIENEU, family.vieneu_tensors(VIENEU))
    return read_vieneu(folder), folder


@pytest.fixture(scope="module")
def moss(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextSlotModel, Path]:
    folder = tmp_path_factory.mktemp("families") / "moss"
    family.save(folder, MOSS, family.moss_tensors(MOSS))
    return read_moss_nano(folder), folder


def native(model: TextSlotModel, dtype: str = "float32") -> _C.LM:
    check_weights(model.tensors, lm_shapes(model.config), "read")
    return _C.LM(json.dumps(to_dict(model.config)), model.tensors, dtype)


def anchored(model: TextSlotModel, voice: int, dtype: str = "float32") -> _C.LM:
    """With a voice's row as an aligned one, for logits: sessions take it as their condition."""
    config = replace(model.config, aligned_slots=1, aligned_vocab=1)
    row = Speaker(model.speaker, None).row(VECTORS[voice])[None]
    return _C.LM(json.dumps(to_dict(config)), {**model.tensors, "guide.weight": row}, dtype)


def session_of(model: TextSlotModel, voice: int) -> _C.LMSession:
    session = native(model).session(256)
    session.set_condition(Speaker(model.speaker, None).row(VECTORS[voice]))
    return session


def prompt(model: TextSlotModel, ids: list[int], codes: np.ndarray | None) -> np.ndarray:
    """The frames that the engine makes of text ids and a recording's codes."""
    values = {"text": Spoken(np.array(ids)), "prompt": codes}
    sequence = build(model.layout, model.task, values)
    return np.concatenate((sequence.shared.frames, sequence.body.frames))


def greedy(model: TextSlotModel, min_frames: int) -> _C.Sampling:
    return target_sampling(model.layout, model.task, {"temperature": 0.0}, 0, min_frames)


def codes_of(t: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 30, (t, 4))


def slot_logits(model: TextSlotModel, logits: np.ndarray) -> list[np.ndarray]:
    """Of text and of each codebook, out of logits [T, K, V]."""
    text = model.vocabulary.span("text")
    ranges = [range_ for [range_] in model.layout.audio_ranges()[1:]]
    codes = [logits[:, i + 1, start : start + size] for i, (start, size) in enumerate(ranges)]
    return [logits[:, 0, text.start : text.start + text.size], *codes]


def vieneu_rows(codes: np.ndarray, spoken: np.ndarray) -> np.ndarray:
    """The project's own rows: style, text between its marks, a recording, what is spoken."""
    text = np.full((len(PHONES) + 3, 5), 30)
    text[:, 0] = [16, 3, *PHONES, 4]
    reference = np.concatenate((np.full((len(codes), 1), 7), codes), 1)
    said = np.concatenate((np.full((len(spoken), 1), 5), spoken), 1)
    return np.concatenate((text, reference, said))


def moss_rows(codes: np.ndarray, spoken: np.ndarray) -> np.ndarray:
    def text(ids: list[int]) -> np.ndarray:
        rows = np.full((len(ids), 5), 30)
        rows[:, 0] = ids
        return rows

    def audio(codes: np.ndarray, slot: int) -> np.ndarray:
        return np.concatenate((np.full((len(codes), 1), slot), codes), 1)

    before, between, after = (text(family.pieces(t)) for t in family.MOSS_PROMPT)
    return np.concatenate(
        (
            *(text([3]), before, text([5]), audio(codes, 8), text([7]), between, text(SAID)),
            *(after, text([3]), text(family.pieces("assistant\n")), text([5])),
            audio(spoken, 9),
        )
    )


def vieneu_truth(rows: np.ndarray, voice: int) -> list[np.ndarray]:
    w = {k: v.double() for k, v in family.vieneu_tensors(VIENEU).items()}
    torch.set_default_dtype(torch.float64)
    try:
        r = torch.from_numpy(rows)
        vector = torch.from_numpy(VECTORS[voice]).double()
        with torch.no_grad():
            out = family.vieneu_logits(VIENEU, w, r[:-1], vector, r[1:] % 30)
    finally:
        torch.set_default_dtype(torch.float32)
    return [x.numpy() for x in out]


def moss_truth(rows: np.ndarray) -> list[np.ndarray]:
    w = {k: v.double() for k, v in family.moss_tensors(MOSS).items()}
    r = torch.from_numpy(rows)
    spoken = torch.cat((r[1:, :1], r[1:, 1:] % 30), 1)
    with torch.no_grad():
        return [x.numpy() for x in family.moss_logits(MOSS, w, r[:-1], spoken)]


@pytest.mark.parametrize("voice", [0, 1])
def test_vieneu_logits(vieneu: tuple[TextSlotModel, Path], voice: int) -> None:
    model, _ = vieneu
    codes, spoken = codes_of(9, 1), codes_of(40, 2)
    known = prompt(model, PHONES, codes)
    frames = np.concatenate((known, model.layout.codes_to_frames(spoken, 5)))
    aligned = np.zeros((len(frames), 1), np.int32)
    truth = [x[-40:] for x in vieneu_truth(vieneu_rows(codes, spoken), voice)]
    found = slot_logits(model, anchored(model, voice).logits(frames, aligned)[-40:])
    for a, b in zip(found, truth, strict=True):
        assert family.relative(a, b) < 1e-4
    int8 = slot_logits(model, anchored(model, voice, "int8").logits(frames, aligned)[-40:])
    agree = np.mean([a.argmax(-1) == b.argmax(-1) for a, b in zip(int8, truth, strict=True)])
    print(f"int8 agrees in {agree:.1%} of the slots")
    assert agree > 0.7


def test_moss_logits(moss: tuple[TextSlotModel, Path]) -> None:
    model, _ = moss
    codes, spoken = codes_of(9, 1), codes_of(40, 2)
    known = prompt(model, SAID, codes)
    frames = np.concatenate((known, model.layout.codes_to_frames(spoken, 9)))
    truth = [x[-40:] for x in moss_truth(moss_rows(codes, spoken))]
    found = slot_logits(model, native(model).logits(frames)[-40:])
    for a, b in zip(found, truth, strict=True):
        assert family.relative(a, b) < 1e-4
    int8 = slot_logits(model, native(model, "int8").logits(frames)[-40:])
    agree = np.mean([a.argmax(-1) == b.argmax(-1) for a, b in zip(int8, truth, strict=True)])
    print(f"int8 agrees in {agree:.1%} of the slots")
    assert agree > 0.7


def test_vieneu_speaks_greedily_as_upstream_does(vieneu: tuple[TextSlotModel, Path]) -> None:
    """200 frames, and then until the text slot's likeliest id is the end, whose frame counts."""
    model, _ = vieneu
    codes = codes_of(6, 3)
    known, session = prompt(model, PHONES, codes), session_of(model, 1)
    session.prefill(known)
    made = session.generate(256 - len(known), greedy(model, 200))
    assert len(made) >= 200 and (made[:, 0] == TEXT + 5).all()
    said = model.layout.frames_to_codes(made)
    truth = [x[-len(made) :] for x in vieneu_truth(vieneu_rows(codes, said), 1)]
    for i in range(4):
        np.testing.assert_array_equal(truth[i + 1].argmax(-1), said[:, i])
    ends = truth[0].argmax(-1)[200:] == 6
    assert not ends[:-1].any() and bool(ends[-1:].any()) == session.finished


def test_moss_speaks_greedily_as_upstream_does(moss: tuple[TextSlotModel, Path]) -> None:
    model, _ = moss
    codes = codes_of(6, 3)
    known = prompt(model, SAID, codes)
    session = native(model).session(512)
    session.prefill(known)
    made = session.generate(512 - len(known), greedy(model, 200))
    assert len(made) >= 200 and (made[:, 0] == TEXT + 9).all()
    said = model.layout.frames_to_codes(made)
    truth = [x[-len(made) :] for x in moss_truth(moss_rows(codes, said))]
    for i in range(4):
        np.testing.assert_array_equal(truth[i + 1].argmax(-1), said[:, i])
    goes_on = truth[0][200:, 9] > truth[0][200:, 7]
    assert goes_on.all()


CHANGES: list[tuple[str, Any, str]] = [
    ("config.json", {"hidden_size": 40}, "expected"),
    ("config.json", {"n_vq": "4"}, "n_vq: expected a whole number"),
    ("config.json", {"n_vq": 99}, "num_codebooks: expected 1 to 64"),
    ("config.json", {"num_attention_heads": 0}, "heads: expected 1 to 256"),
    ("config.json", {"rms_norm_eps": -1}, "norm_eps: expected between 0 and 1"),
    ("config.json", {"default_style_token_id": 400}, "first text id: expected 0 to 39"),
    ("tokenizer.json", None, "expected the model's tokenizer, found none"),
    ("config.json", None, "expected JSON"),
    ("-acoustic_decoder.norm.weight", None, "acoustic_decoder.norm.weight is missing"),
    ("+stranger", torch.zeros(2), "left over stranger"),
    ("+acoustic_decoder.norm.weight", torch.zeros(3), "expected the shape"),
    ("+acoustic_decoder.norm.weight", torch.full((48,), torch.nan), "NaN or infinity"),
    (
        "+acoustic_decoder.norm.weight",
        torch.zeros(48, dtype=torch.int32),
        "expected floating-point numbers",
    ),
]


@pytest.mark.parametrize(("what", "value", "message"), CHANGES)
def test_hostile_files_are_refused_in_one_line(
    tmp_path: Path, what: str, value: Any, message: str
) -> None:
    folder = family.save(tmp_path, VIENEU, family.vieneu_tensors(VIENEU))
    if what == "tokenizer.json":
        (folder / what).unlink()
    elif what == "config.json":
        text = "{" if value is None else json.dumps(VIENEU | value)
        (folder / what).write_text(text)
    else:
        tensors = load_file(folder / "model.safetensors")
        tensors.pop(what[1:], None)
        if what[0] == "+":
            tensors[what[1:]] = value
        save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=message) as e:
        read_vieneu(folder)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_codebook_sizes": [30, 30, 30, 31]}, "expected 4 equal sizes"),
        ({"gpt2_config": 3}, "gpt2_config: expected an object"),
        ({"gpt2_config": {"position_embedding_type": "absolute"}}, "expected 'rope'"),
        ({"gpt2_config": {"activation_function": "silu"}}, "expected one of gelu, gelu_new"),
        ({"audio_end_token_id": None}, "key 'audio_end_token_id' is missing"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    section = change.get("gpt2_config")
    if isinstance(section, dict):
        change = {"gpt2_config": MOSS["gpt2_config"] | section}
    folder = family.save(tmp_path, MOSS | change, family.moss_tensors(MOSS))
    with pytest.raises(InputError, match=message) as e:
        read_moss_nano(folder)
    assert "\n" not in str(e.value)


def test_half_precision_and_tied_copies_are_read(tmp_path: Path) -> None:
    tensors = family.vieneu_tensors(VIENEU)
    half = {k: v.bfloat16() for k, v in tensors.items()}
    half["text_lm_head.weight"] = half["text_embeddings.weight"].clone()
    a = read_vieneu(family.save(tmp_path / "half", VIENEU, half))
    whole = {k: v.bfloat16().float() for k, v in tensors.items()}
    b = read_vieneu(family.save(tmp_path / "whole", VIENEU, whole))
    for name, tensor in a.tensors.items():
        np.testing.assert_array_equal(tensor, b.tensors[name])


def test_voices(tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    preset = {"speaker_emb": VECTORS[0].tolist(), "codes": codes_of(5, 4).tolist()}
    path.write_text(json.dumps({"presets": {"An": preset}}))
    voices = read_voices(path)
    np.testing.assert_array_equal(voices["An"].vector, VECTORS[0])
    assert voices["An"].codes.shape == (5, 4)
    for wrong, message in (
        ({"speaker_emb": [0.0] * 10}, "expected a vector and codes"),
        ({**preset, "codes": [[1, 2], [3]]}, "expected a vector and codes"),
        ({**preset, "codes": [[0.5]]}, "expected a vector and codes"),
        ({}, "expected a vector and codes"),
    ):
        path.write_text(json.dumps({"presets": {"An": wrong}}))
        with pytest.raises(InputError, match=message):
            read_voices(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="expected voices"):
        read_voices(path)


def upstream(variable: str, package: str, module: str) -> Any:
    source = os.environ.get(variable)
    if not source:
        pytest.skip(f"{variable} names no checkout")
    sys.path.insert(0, str(Path(source) / package))
    return importlib.import_module(module)


def test_vieneu_is_upstreams_own_class(vieneu: tuple[TextSlotModel, Path]) -> None:
    engine = upstream("UNIAUDIO_VIENEU_SOURCE", "src/vieneu", "_v3_turbo_engine.modeling_v3_turbo")
    theirs = engine.VieNeuV3TurboForTTS(engine.VieNeuV3TurboConfig(**VIENEU)).eval()
    theirs.load_state_dict(family.vieneu_tensors(VIENEU), strict=False)
    theirs.tie_weights()
    model, _ = vieneu
    codes = codes_of(6, 3)
    session = session_of(model, 0)
    session.prefill(prompt(model, PHONES, codes))
    made = model.layout.frames_to_codes(session.generate(200, greedy(model, 0)))
    rows = torch.from_numpy(vieneu_rows(codes, codes[:0]))[None]
    vector = torch.from_numpy(VECTORS[:1])
    with torch.no_grad():
        for frame in made:
            x = theirs._build_inputs_embeds(rows, vector)
            h = theirs.semantic_backbone(inputs_embeds=x).last_hidden_state[:, -1]
            found, hidden = theirs.decode_one_frame(h, torch.tensor([5]), 1.0, 1)
            np.testing.assert_array_equal(found.numpy(), frame)
            rows = torch.cat((rows, torch.cat((torch.tensor([5]), found))[None, None]), 1)
        ended = int(theirs.text_lm_head(hidden[0, 0]).argmax()) == 6
    assert ended == session.finished and len(made) > 0
    print(f"{len(made)} frames, ended: {ended}")


def test_moss_is_upstreams_own_class(moss: tuple[TextSlotModel, Path]) -> None:
    """Their stack, with its rope over neighbours; what is around it is in family_models.py."""
    package = "moss_tts_local_v1.5"
    decoder = upstream("UNIAUDIO_MOSS_SOURCE", package, "gpt2_decoder")
    w = family.moss_tensors(MOSS)

    def stack(x: torch.Tensor, name: str) -> torch.Tensor:
        config = decoder.GPT2Config(**MOSS["gpt2_config"] | {"n_layer": layers[name]})
        theirs = decoder.MossTTSNanoGPT2Model(config, "eager").eval()
        state = {k[len(name) + 1 :]: v for k, v in w.items() if k.startswith(f"{name}.")}
        missing, left = theirs.load_state_dict(state, strict=False)
        assert not left and set(missing) <= {"wte.weight"}
        return theirs(inputs_embeds=x).last_hidden_state

    layers = family.moss_layers(MOSS)
    model, _ = moss
    codes, spoken = codes_of(9, 1), codes_of(40, 2)
    rows = torch.from_numpy(moss_rows(codes, spoken))
    known = torch.cat((rows[1:, :1], rows[1:, 1:] % 30), 1)
    with torch.no_grad():
        truth = family.moss_logits(MOSS, w, rows[:-1], known, stack)
    known = prompt(model, SAID, codes)
    frames = np.concatenate((known, model.layout.codes_to_frames(spoken, 9)))
    for a, b in zip(slot_logits(model, native(model).logits(frames)[-40:]), truth, strict=True):
        assert family.relative(a, b[-40:].numpy()) < 1e-4
