"""Model folders and the files in them: configuration, weights, labels, lexicon, voices, codes."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from changes import changed, changed_json
from joint import make_joint_model
from target import Target
from tiny import make_tiny_model, random_weights

from uniaudio_engine import Engine, Voice
from uniaudio_engine.audio.encoded import EncodedAudio
from uniaudio_engine.request.token_ids import read_file as read_tokens
from uniaudio_engine.storage.folder import find_folder, load_config
from uniaudio_engine.storage.tensors import load_tensors, save_tensors
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes
from uniaudio_engine.tokenizers.captions import CaptionTokenizer

_SOUND = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
_SEANET = {
    "family": "seanet",
    "num_codebooks": 3,
    "codebook_size": 16,
    "codebook_dim": 8,
    "frame_size": 320,
    "seanet": {"filters": 4, "ratios": [8, 5, 4, 2], "lstm_layers": 1, "causal": False},
}
_MOST_WEIGHTS = 2_000_000  # numbers; a larger model would only be slow


def config(folder: Path) -> Target:
    """config.json alone: bytes, and JSON values in the place of others."""
    tiny = make_tiny_model(folder / "tiny")
    texts = [(p / "config.json").read_bytes() for p in (tiny, find_folder(None))]
    values = [json.loads(t) for t in texts]

    def make(draw: Random) -> bytes:
        if draw.random() < 0.25:
            return changed(draw, draw.choice(texts))
        return json.dumps(changed_json(draw, draw.choice(values))).encode()

    def use(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        read = load_config(folder)
        codec_shapes(read.codec)
        if read.lm is not None:
            lm_shapes(read.lm)
        for task in read.task_table.values():
            task.schema()

    return Target(make, use)


def folders(folder: Path) -> Target:
    """Whole folders of a changed configuration with weights that fit it, then run."""
    tiny = json.loads((make_tiny_model(folder / "tiny") / "config.json").read_text())
    codec_only = {"format_version": 1, "name": "seanet", "codec": _SEANET}
    labels = (folder / "tiny" / "phones.txt").read_bytes()

    def make(draw: Random) -> tuple[Any, dict[str, Any]]:
        value = copy.deepcopy(draw.choice((tiny, tiny, codec_only)))
        options = {
            "max_seconds": draw.choice((None, 3)),
            "dtype": draw.choice(("auto", "float32", "int4")),
        }
        return changed_json(draw, value, draw.choice((1, 1, 2, 3))), options

    def use(given: tuple[Any, dict[str, Any]]) -> None:
        value, options = given
        model = folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        model.mkdir()
        (model / "config.json").write_text(json.dumps(value))
        (model / "phones.txt").write_bytes(labels)
        read = load_config(model)
        parts = {"codec": codec_shapes(read.codec), "lm": lm_shapes(read.lm) if read.lm else {}}
        sizes = [math.prod(s) for shapes in parts.values() for s in shapes.values()]
        if sum(sizes) > _MOST_WEIGHTS or len(sizes) > 3000:
            return
        for name, shapes in parts.items():
            if shapes:
                save_tensors(model / f"{name}.safetensors", random_weights(shapes))
        engine = Engine.from_pretrained(model, threads=1, **options)
        engine.decode(engine.encode_audio((_SOUND[:4000], 16000)))
        for task in engine.tasks()[:1]:
            if task["name"] == "tts":
                engine.tts("Hi.", seed=1)

    return Target(make, use)


def labels(folder: Path) -> Target:
    """Text files of a folder: phones, labels, lexicon, tokenizer of captions."""
    model = make_joint_model(folder / "model")
    lexicon = "kokoro k ax k ao1 r ow0\nhello hh ax l ow1\n"
    (model / "lexicon.txt").write_text(lexicon)
    names = ("phones.txt", "lexicon.txt", "text.model", "labels/caption.txt")
    (model / "labels").mkdir()
    count = CaptionTokenizer((model / "text.model").read_bytes()).size
    (model / "labels" / "caption.txt").write_text("\n".join(f"c{i}" for i in range(count)))
    originals = {name: (model / name).read_bytes() for name in names}

    def make(draw: Random) -> tuple[str, bytes]:
        name = draw.choice(names)
        return name, changed(draw, originals[name])

    def use(given: tuple[str, bytes]) -> None:
        name, data = given
        (model / name).write_bytes(data)
        try:
            engine = Engine.from_pretrained(model, threads=1)
            engine.plan("tts", text="Hello kokoro.", seed=1)
            engine.plan("t2s", text="three knocks on wood", seconds=1, seed=1)
        finally:
            (model / name).write_bytes(originals[name])

    return Target(make, use)


def captions(folder: Path) -> Target:
    """The tokenizer's model, which sentencepiece reads."""
    model = (make_joint_model(folder / "model") / "text.model").read_bytes()

    def make(draw: Random) -> bytes:
        return changed(draw, model)

    def use(data: bytes) -> None:
        tokenizer = CaptionTokenizer(data)
        tokenizer.decode(tokenizer.encode("three knocks on wood, ünï 🎵"))

    return Target(make, use)


def _with_header(draw: Random, data: bytes) -> bytes:
    """A safetensors file, changed anywhere or in its header's values."""
    if draw.random() < 0.4:
        return changed(draw, data)
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(changed_json(draw, json.loads(data[8 : 8 + length]))).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def tensors(folder: Path) -> Target:
    """Safetensors files."""
    path = folder / "x.safetensors"
    given = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((0, 4), np.int64),
        "c": np.ones(5, np.uint16),
    }
    save_tensors(path, given, {"format": "x"})
    original = path.read_bytes()

    def use(data: bytes) -> None:
        path.write_bytes(data)
        load_tensors(path)

    return Target(lambda draw: _with_header(draw, original), use)


def voices(folder: Path) -> Target:
    """Files of voices, checked by a model."""
    engine = Engine.from_pretrained(make_tiny_model(folder / "model"), threads=1)
    path = folder / "voice.safetensors"
    engine.encode_voice((_SOUND, 16000), "voice", min_seconds=0.1).save(path)
    original = path.read_bytes()

    def use(data: bytes) -> None:
        path.write_bytes(data)
        engine.plan("tts", text="Hi.", voice=Voice.load(path), seed=1)

    return Target(lambda draw: _with_header(draw, original), use)


def codes(folder: Path) -> Target:
    """Files of encoded sound, decoded."""
    engine = Engine.from_pretrained(make_tiny_model(folder / "model"), threads=1)
    path = folder / "codes.safetensors"
    engine.encode_audio((_SOUND, 16000)).save(path)
    original = path.read_bytes()

    def use(data: bytes) -> None:
        path.write_bytes(data)
        engine.decode(EncodedAudio.load(path))

    return Target(lambda draw: _with_header(draw, original), use)


def arrays(folder: Path) -> Target:
    """Files of tokens: .npy and .txt."""
    path = folder / "x.npy"
    files = []
    for array in (np.arange(12, dtype=np.int32).reshape(3, 4), np.ones(5), np.zeros((2, 0))):
        np.save(path, array)
        files.append((".npy", path.read_bytes()))
    files.append((".txt", b"1 2 3 a:0.5 b\n"))

    def make(draw: Random) -> tuple[str, bytes]:
        suffix, data = draw.choice(files)
        return suffix, changed(draw, data)

    def use(given: tuple[str, bytes]) -> None:
        file = folder / f"tokens{given[0]}"
        file.write_bytes(given[1])
        read_tokens("tokens", file)

    return Target(make, use)


TARGETS = {
    "config": config,
    "folder": folders,
    "labels": labels,
    "captions": captions,
    "tensors": tensors,
    "voice": voices,
    "codes": codes,
    "array": arrays,
}
