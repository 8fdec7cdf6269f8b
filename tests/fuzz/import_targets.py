"""Other projects' files: checkpoints, archives, YAML, vocabularies, and whole imports."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import torch_files
from changes import changed, changed_json
from target import Target

from uniaudio_engine.importers.archive import CHECKPOINT, CONFIG, find_members
from uniaudio_engine.importers.byte_bpe import read_byte_bpe
from uniaudio_engine.importers.cat import import_cat
from uniaudio_engine.importers.checkpoint import load_checkpoint
from uniaudio_engine.importers.csm import read_csm
from uniaudio_engine.importers.encodec import import_encodec
from uniaudio_engine.importers.hub_files import INDEX, WEIGHTS, Reader, open_split
from uniaudio_engine.importers.kyutai_tts import read_kyutai_tts
from uniaudio_engine.importers.mimi import import_mimi
from uniaudio_engine.importers.moss_nano import read_moss_nano
from uniaudio_engine.importers.qwen3_codec import import_qwen3_codec
from uniaudio_engine.importers.qwen3_tts import read_qwen3_tts
from uniaudio_engine.importers.vieneu import read_vieneu
from uniaudio_engine.importers.vocabulary import read_labels, read_lexicon, read_vocabulary
from uniaudio_engine.importers.yaml_file import load_yaml
from uniaudio_engine.storage.config import Span
from uniaudio_engine.storage.folder import MODELS
from uniaudio_engine.storage.tensors import save_tensors
from uniaudio_engine.storage.weight_shapes import codec_shapes

_OBJECT = torch_files.mapping(
    model=torch_files.mapping(w=torch_files.tensor(), v=torch_files.tensor((3,), (2,), 1)),
    epoch=torch_files.number(5),
    names=b"](" + torch_files.text("a") + b"K\1K\2\x86e",
    time=torch_files.name("datetime", "timedelta") + torch_files.numbers(3) + b"R",
)


def _legacy() -> bytes:
    """The layout of torch before 1.6, with one storage of six numbers."""
    body = _OBJECT.replace(torch_files.number(6) + b"t" + b"Q", torch_files.number(6) + b"NtQ")
    system = b"\x80\x02}(" + torch_files.text("little_endian") + b"\x88u."
    return b"".join(
        (
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
            system,
            b"\x80\x02" + body + b".",
            b"\x80\x02]" + torch_files.text("0") + b"a.",
            (6).to_bytes(8, "little") + torch_files.SIX,
        )
    )


def checkpoint(folder: Path) -> Target:
    """Torch files: the pickle, the zip around it, and the old layout."""
    path = folder / "x.pt"
    zipped, legacy = torch_files.write(path, _OBJECT).read_bytes(), _legacy()
    for good in (zipped, legacy):
        path.write_bytes(good)
        assert load_checkpoint(path)["model"]["w"].shape == (2, 3)

    def make(draw: Random) -> bytes:
        kind = draw.random()
        if kind < 0.5:
            return torch_files.write(path, changed(draw, _OBJECT)).read_bytes()
        return changed(draw, zipped if kind < 0.75 else legacy)

    def use(data: bytes) -> None:
        path.write_bytes(data)
        load_checkpoint(path)

    return Target(make, use)


def archive(folder: Path) -> Target:
    """Zips of a checkpoint and its configuration; nothing may be written outside."""
    path, scratch = folder / "a.zip", folder / "scratch"
    files = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as z:
            z.writestr("m/x.pth", bytes(range(256)) * 4)
            z.writestr("m/config.yaml", b"a: 1\n" * 50)
            z.writestr("m/notes/", b"")
        files.append(file.getvalue())

    def use(data: bytes) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        path.write_bytes(data)
        find_members(path, {"checkpoint": CHECKPOINT, "config": CONFIG}, scratch)
        assert {p.name for p in folder.iterdir()} == {"a.zip", "scratch"}

    return Target(lambda draw: changed(draw, draw.choice(files)), use)


_YAML = b"""a: 1
b: [1, 2, {c: d}]
e: !!python/object:os.system x
f: &x [1]
g: 2020-01-01 10:00:00
h: 0x1F
i: 1_000
j: 12:30:45
k: |
  text
l: .inf
"""
_MORE_YAML = b"""? x
: y
m: !!binary aGk=
n: !!set {a, b}
o: !!float 1
<<: {z: 1}
p: 0o17
"""


def yaml(folder: Path) -> Target:
    path = folder / "config.yaml"

    def use(data: bytes) -> None:
        path.write_bytes(data)
        load_yaml(path)

    return Target(lambda draw: changed(draw, draw.choice((_YAML, _MORE_YAML))), use)


def vocabulary(folder: Path) -> Target:
    """Token lists, label files and lexicons of UniAudio's trainings."""
    specials = "pad start end mega_global mega_local audio_start audio_end phone_start".split()
    tokens = [f"<{s}>" for s in specials] + [f"<audio_{i}>" for i in range(13)]
    tokens += [f"<phone_{i}>" for i in range(5)]
    labels, lexicon = b"SIL 0\nHH 1\nAH0 2\nOW1 3\n", b"HELLO HH AH0 OW1\nOH 0.5 OW1\n"
    path = folder / "labels"

    def make(draw: Random) -> tuple[str, Any]:
        kind = draw.choice(("tokens", "labels", "lexicon"))
        if kind == "tokens":
            return kind, changed_json(draw, tokens)
        return kind, changed(draw, labels if kind == "labels" else lexicon)

    def use(given: tuple[str, Any]) -> None:
        kind, value = given
        if kind == "tokens":
            read_vocabulary(value, 3, 4, "config.yaml")
            return
        path.write_bytes(value)
        if kind == "labels":
            read_labels(path, "phone", {"phone": Span("phone", 21, 5)})
        else:
            read_lexicon(path, ["SIL", "HH", "AH0", "OW1"])

    return Target(make, use)


def encodec(folder: Path) -> Target:
    """Imports of an EnCodec checkpoint whose configuration and weights are changed."""
    from encodec_case import COMMON, codec_of, hf_state, write_hf

    small = {
        "num_filters": 2,
        "hidden_size": 5,
        "codebook_dim": 5,
        "codebook_size": 16,
        "upsampling_ratios": [3, 2],
        "sampling_rate": 6000,
        "target_bandwidths": [4.0, 12.0],
    }
    config = COMMON | small
    codec = codec_of(config, folder)
    rng = np.random.default_rng(0)
    ours = {k: rng.standard_normal(s).astype(np.float32) for k, s in codec_shapes(codec).items()}
    source, output = folder / "source", folder / "output"
    write_hf(source, config, hf_state(codec, ours))
    return _changed_folder(source, lambda: import_encodec(source, output))


def mimi(folder: Path) -> Target:
    """Imports of a Mimi checkpoint, changed alike."""
    from windowed_tools import MIMI, mimi_state, write

    source = write(folder / "source", MIMI, mimi_state(MIMI, folder))
    return _changed_folder(source, lambda: import_mimi(source, folder / "output"))


def cat(folder: Path) -> Target:
    from windowed_tools import CAT, cat_state, write

    source = write(folder / "source", CAT, cat_state(CAT))
    return _changed_folder(source, lambda: import_cat(source, folder / "output"))


_VIENEU = {
    "text_vocab_size": 40,
    "audio_vocab_size": 30,
    "n_vq": 4,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 80,
    "local_num_hidden_layers": 1,
    "local_num_attention_heads": 3,
    "local_intermediate_size": 64,
    "use_speaker_embedding": True,
    "speaker_embedding_dim": 10,
    "max_position_embeddings": 256,
}
_MOSS = {
    "n_vq": 4,
    "audio_vocab_size": 30,
    "audio_codebook_sizes": [30] * 4,
    "local_transformer_layers": 1,
    "im_start_token_id": 3,
    "audio_start_token_id": 5,
    "audio_end_token_id": 7,
    "audio_user_slot_token_id": 8,
    "audio_assistant_slot_token_id": 9,
    "gpt2_config": {
        "vocab_size": 700,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "position_embedding_type": "rope",
        "rope_base": 10000.0,
    },
}


_CSM = {
    "model_type": "csm",
    "num_codebooks": 5,
    "vocab_size": 67,
    "text_vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 400,
    "bos_token_id": 40,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 0.125,
        "high_freq_factor": 0.5,
        "original_max_position_embeddings": 64,
    },
    "depth_decoder_config": {
        "num_codebooks": 5,
        "backbone_hidden_size": 48,
        "vocab_size": 67,
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    },
}


def _with_weights(
    source: Path,
    config: dict[str, Any],
    read: Callable[[], object],
    tokenizer: str,
    more: dict[str, np.ndarray] | None = None,
) -> Path:
    """``source`` with the tensors that ``read`` asks for, random, and ``more`` of them."""
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    if tokenizer:
        text = MODELS / "base" / "text.model"
        (source / tokenizer).write_bytes(text.read_bytes())
    rng, asked = np.random.default_rng(0), dict(more or {})
    save_tensors(source / WEIGHTS, asked)

    def take(reader: Reader, name: str, *shape: int) -> np.ndarray:
        asked[name] = rng.standard_normal(shape).astype(np.float32)
        return asked[name]

    with (
        patch.object(Reader, "take", take),
        patch.object(Reader, "__contains__", lambda *_: True),
        patch.object(Reader, "end", lambda *_, **__: None),
    ):
        read()
    save_tensors(source / WEIGHTS, asked)
    read()
    return source


def vieneu(folder: Path) -> Target:
    source = folder / "source"

    def read() -> object:
        return read_vieneu(source)

    return _changed_folder(_with_weights(source, _VIENEU, read, "tokenizer.json"), read)


def moss_nano(folder: Path) -> Target:
    source = folder / "source"

    def read() -> object:
        return read_moss_nano(source)

    return _changed_folder(_with_weights(source, _MOSS, read, "tokenizer.model"), read)


def kyutai_tts(folder: Path) -> Target:
    from kyutai_tools import lm_config

    source = folder / "source"

    def read() -> object:
        return read_kyutai_tts(source)

    return _changed_folder(_with_weights(source, lm_config(), read, "tokenizer.model"), read)


def csm(folder: Path) -> Target:
    from windowed_tools import MIMI, mimi_state

    source, inside = folder / "source", "codec_model.{}".format
    mimi = {inside(n): x for n, x in mimi_state(MIMI, folder).items()}

    def read() -> object:
        return read_csm(source)

    return _changed_folder(
        _with_weights(source, _CSM | {"codec_config": MIMI}, read, "", mimi), read
    )


def qwen3_codec(folder: Path) -> Target:
    from qwen3_tools import CODEC, codec_state
    from windowed_tools import write

    source = write(folder / "source", CODEC, codec_state(folder))
    return _changed_folder(source, lambda: import_qwen3_codec(source, folder / "output"))


def qwen3_tts(folder: Path) -> Target:
    """Its language model and encoder of speakers, and the files of its tokenizer."""
    from qwen3_tools import BASE, lm_state, tokenizer_files
    from windowed_tools import write

    source = write(folder / "source", BASE, lm_state(BASE))
    tokenizer_files(source)

    def read() -> object:
        return read_byte_bpe(source), read_qwen3_tts(source)

    return _changed_folder(source, read)


def index(folder: Path) -> Target:
    """The index of a checkpoint in several files."""
    good = {"metadata": {"total_size": 24}, "weight_map": {}}
    for i, name in enumerate(("a", "b", "c")):
        file = f"model-{i % 2}.safetensors"
        good["weight_map"][name] = file
    for file in ("model-0.safetensors", "model-1.safetensors"):
        names = [n for n, f in good["weight_map"].items() if f == file]
        save_tensors(folder / file, {n: np.ones(2, np.float32) for n in names})
    path = folder / INDEX

    def use(data: bytes) -> None:
        path.write_bytes(data)
        state = open_split(path)
        assert all(state[name].shape == (2,) for name in state)

    text = json.dumps(good).encode()

    def make(draw: Random) -> bytes:
        if draw.random() < 0.5:
            return changed(draw, text)
        return json.dumps(changed_json(draw, good)).encode()

    return Target(make, use)


def _changed_folder(source: Path, convert: Callable[[], object]) -> Target:
    """``convert`` reads ``source``, whose configuration or header of weights is changed; it leaves
    nothing behind but ``output`` beside it.
    """
    config = json.loads((source / "config.json").read_text())
    weights = (source / "model.safetensors").read_bytes()
    folder, output = source.parent, source.parent / "output"

    def make(draw: Random) -> tuple[bytes, bytes]:
        if draw.random() < 0.7:
            return json.dumps(changed_json(draw, config)).encode(), weights
        length = int.from_bytes(weights[:8], "little")
        header = json.dumps(changed_json(draw, json.loads(weights[8 : 8 + length]))).encode()
        return (
            json.dumps(config).encode(),
            len(header).to_bytes(8, "little") + header + weights[8 + length :],
        )

    def use(given: tuple[bytes, bytes]) -> None:
        (source / "config.json").write_bytes(given[0])
        (source / "model.safetensors").write_bytes(given[1])
        before = {p.name for p in folder.iterdir()}
        try:
            convert()
        finally:
            shutil.rmtree(output, ignore_errors=True)
            assert {p.name for p in folder.iterdir()} == before

    return Target(make, use)


TARGETS = {
    "checkpoint": checkpoint,
    "archive": archive,
    "yaml": yaml,
    "vocabulary": vocabulary,
    "encodec": encodec,
    "mimi": mimi,
    "cat": cat,
    "vieneu": vieneu,
    "moss_nano": moss_nano,
    "csm": csm,
    "kyutai_tts": kyutai_tts,
    "qwen3_codec": qwen3_codec,
    "qwen3_tts": qwen3_tts,
    "index": index,
}
