"""Language models whose frames begin with a slot of text: one text id, then a code per codebook.

Their rows of text have no codes, and their sequences have no start. In this engine a row is K ids
of one vocabulary and every sequence begins with a start frame, so that these models' ids become

    0 pad     a row of zeros: a slot without a code
    1 start   1/K of the first text row, so that a frame of K of them is that row
    2 ...     text, then the codes, codebook by codebook

and the first row of a prompt is left out, since it is the start frame.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.voice import Voice, codec_fingerprint
from ..errors import InputError, first_few, shown
from ..request.sequence import Layout
from ..request.tasks import Input, Task
from ..storage.config import (
    FORMAT_VERSION,
    CodecConfig,
    ConfigError,
    LMConfig,
    ModelConfig,
    Span,
    TextSlotConfig,
    VocabularyConfig,
)
from ..storage.folder import load_folder
from ..storage.folder_writing import save_folder
from ..storage.opening import read_regular
from ..storage.tensors import Tensors
from ..tokenizers.text import TextTokenizer
from .archive import Member, Progress
from .card import Origin, write_card
from .cat import cat_family
from .codec_folder import Family, check_codec, check_dtype, read_codec
from .output import new_folder, sha256

PAD, START, TEXT = 0, 1, 2
_CODECS = ("MOSS-Audio-Tokenizer-Nano", "codec")  # folders beside or inside a model's
_MAX_FILE, _MAX_ENCODER = 64 << 20, 512 << 20  # bytes
_MAX_NAME = 100  # bytes


@dataclass(frozen=True)
class TextSlot:
    """``text_size`` text ids and ``codebooks`` codebooks of ``codebook_size`` codes."""

    text_size: int
    codebooks: int
    codebook_size: int

    @property
    def slots(self) -> int:
        return 1 + self.codebooks

    @property
    def audio_start(self) -> int:
        return TEXT + self.text_size

    @property
    def size(self) -> int:
        return self.audio_start + self.codebooks * self.codebook_size

    def vocabulary(self) -> VocabularyConfig:
        audio = Span("audio", self.audio_start, self.codebooks * self.codebook_size)
        return VocabularyConfig(("pad", "start"), (Span("text", TEXT, self.text_size), audio))

    def table(
        self, text: NDArray[np.float32], codes: list[NDArray[np.float32]], first: int
    ) -> NDArray[np.float32]:
        """The embeddings [size, D] of this vocabulary; ``first``: the text id that every prompt
        begins with.
        """
        if not 0 <= first < len(text):
            raise InputError(f"first text id: expected 0 to {len(text) - 1}, got {first}")
        special = np.stack((np.zeros_like(text[0]), text[first] / np.float32(self.slots)))
        return np.concatenate((special, text, *codes))


@dataclass(frozen=True)
class SpokenVoice:
    """``codes`` int [T, codebooks] of a recording, perhaps none; ``vector`` float32 [W] of its
    speaker, or none.
    """

    codes: NDArray[np.int32]
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TextSlotModel:
    """A language model as read: everything in a model folder but the codec and the voices."""

    config: LMConfig
    vocabulary: VocabularyConfig
    tensors: Tensors
    text_slot: TextSlotConfig
    task: Task
    speaker: Tensors = field(default_factory=dict)
    captions: bytes = b""  # text.model
    tokenizer: bytes = b""  # tokenizer.json
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of spans, in order

    @property
    def layout(self) -> Layout:
        return Layout.of(self.config, self.vocabulary, self.text_slot)

    def check_voice(self, name: str, voice: SpokenVoice) -> None:
        """Raise :class:`InputError` unless the voice is one of this model's."""
        layout, where = self.layout, f"voice {shown(name)}"
        c = voice.codes
        if len(c) and (c.ndim != 2 or c.shape[1] < layout.num_codebooks):
            raise InputError(
                f"{where}: codes: expected [T, {layout.num_codebooks}], got {list(c.shape)}"
            )
        if c.size and not 0 <= c.min() <= c.max() < layout.codebook_size:
            wrong = c.min() if c.min() < 0 else c.max()
            raise InputError(
                f"{where}: codes: expected 0 to {layout.codebook_size - 1}, got {wrong}"
            )
        width = self.text_slot.voice_width
        got = 0 if voice.vector is None else len(voice.vector)
        if width != got:
            raise InputError(f"{where}: expected a vector of {width}, got {got}")


@dataclass(frozen=True)
class Project:
    """What a model's card says. ``files`` by their roles."""

    about: str
    licence: str
    notes: tuple[str, ...]
    files: Mapping[str, Path]


def speaking_task(seconds: float, languages: str, example: str, **sampling: Any) -> Task:
    """The task of these models; ``seconds``: of a voice's recording."""
    voice = "a voice's name or file, or a sound to take the voice from"
    return Task(
        "tts",
        "speak a text in a given voice",
        (
            Input("prompt", "voice", "voice", voice, False, min_seconds=0.5, max_seconds=seconds),
            Input("text", "text", "text", f"{languages} text"),
        ),
        "text",
        example,
        verb="tts",
        **sampling,
    )


def write_model(
    model: TextSlotModel,
    project: Project,
    output: str | os.PathLike[str],
    codec: str | os.PathLike[str] | tuple[CodecConfig, Tensors] | None,
    voices: Mapping[str, SpokenVoice],
    dtype: str,
    licence: str,
    progress: Progress,
    beside: Path,
    family: Family | None = None,
) -> dict[str, Any]:
    """Write the model folder ``output``; returns plain JSON values about it.

    ``codec``: one as read, or as for :func:`.cat.import_cat`; None: a folder of its usual name
    inside ``beside`` or next to it. ``family``: how a codec in files is read; None: as CAT. Raises
    :class:`InputError`, in one line; no partial output remains.
    """
    check_dtype(dtype)
    for name, voice in voices.items():
        _check_name(name)
        model.check_voice(name, voice)
    with new_folder(output) as shop:
        progress("reading the codec")
        members: dict[str, Member] = {}
        notes: list[str] = []
        if isinstance(codec, tuple):
            own, tensors = codec
        else:
            source = _codec_beside(beside) if codec is None else Path(codec)
            own, tensors, members, notes = read_codec(
                family or cat_family(), source, shop.files, progress
            )
        target, licence = Path(output), licence or project.licence
        config = ModelConfig(
            FORMAT_VERSION,
            target.name,
            own,
            model.config,
            model.vocabulary,
            (model.task,),
            licence,
            text_slot=model.text_slot,
        )
        try:
            config.check()
        except ConfigError as e:
            raise InputError(f"{beside}: {e}") from None
        progress("writing")
        save_folder(
            shop.model,
            config,
            tensors,
            model.tensors,
            dtype=dtype,
            captions=model.captions,
            tokenizer=model.tokenizer,
            speaker=model.speaker,
            labels=model.labels,
        )
        fingerprint = codec_fingerprint(tensors["quantizer.codebooks"])
        (shop.model / "voices").mkdir()
        for name, voice in voices.items():
            codes = np.ascontiguousarray(voice.codes.reshape(len(voice.codes), -1).T, np.int32)
            if not codes.size:
                codes = np.zeros((own.num_codebooks, 0), np.int32)
            Voice(name, codes, fingerprint, own.frame_rate, licence, vector=voice.vector).save(
                shop.model / "voices" / f"{name}.safetensors"
            )
        if encoder := project.files.get("speaker encoder"):
            (shop.model / "speaker.onnx").write_bytes(read_regular(encoder, _MAX_ENCODER))
        paths = {**project.files, **{f"codec {k}": m.source for k, m in members.items()}}
        origins = [
            Origin(role, path.name, path.stat().st_size, sha256(path, progress))
            for role, path in paths.items()
        ]
        notes = [f"Weights are stored as {dtype}.", *project.notes, *notes]
        write_card(shop.model, target.name, project.about, origins, notes, licence)
        progress("checking what was written")
        check_codec(load_folder(shop.model, mapped=True), f"{beside}: the codec")
        progress("")
    count = sum(int(a.size) for part in (tensors, model.tensors) for a in part.values())
    return {
        "output": str(target),
        "model": target.name,
        "dtype": dtype,
        "parameters": count,
        "sample_rate": own.sample_rate,
        "channels": own.channels,
        "voices": list(voices),
        "files": [vars(o) for o in origins],
        "notes": list(project.notes),
    }


def check_tokenizer(model: TextSlotModel, folder: Path) -> TextTokenizer:
    """The model's tokenizer. Raises :class:`InputError` where it is none, or its package absent."""
    file = model.captions or model.tokenizer
    size = model.vocabulary.span("text").size
    return TextTokenizer(model.text_slot, size, file, folder)


def read_file(folder: Path, name: str, what: str) -> bytes:
    """A file of a checkpoint. Raises :class:`InputError` where there is none."""
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"{path}: expected {what}, found none; take it from where the weights came"
        )
    return read_regular(path, _MAX_FILE)


def codes_of(value: Any) -> NDArray[np.int32]:
    """Codes [T, codebooks] of JSON lists. Raises ValueError or TypeError for anything else."""
    codes = np.asarray(value)
    if codes.ndim != 2 or (codes.size and codes.dtype.kind not in "iu"):
        raise ValueError("codes")
    return np.clip(codes, -1, 1 << 30).astype(np.int32)


def checked(config: LMConfig, where: str) -> LMConfig:
    """The configuration. Raises :class:`InputError` for one that the engine does not take."""
    try:
        config.check()
    except ConfigError as e:
        raise InputError(f"{where}: {e}") from None
    return config


def halves_first(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows [heads * dim, ...] of queries or keys whose pairs of rope are neighbours -> the same with
    pairs (i, i + dim / 2), as the engine turns them.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(np.moveaxis(pairs, 2, 1).reshape(rows.shape))


def _codec_beside(folder: Path) -> Path:
    places: Iterable[Path] = (at / name for at in (folder, folder.parent) for name in _CODECS)
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise InputError(
        f"{folder}: expected the codec in a folder {_CODECS[0]} inside it or next to it, found "
        "none; name it (--codec DIR)"
    )


def _check_name(name: str) -> None:
    """Raise :class:`InputError` unless a voice's name can be a file's."""
    wrong = [c for c in name if c in '/\\:*?"<>|' or ord(c) < 32]
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if wrong or name != name.strip(" .") or not 1 <= size <= _MAX_NAME:
        raise InputError(
            f"voices: expected a name of letters, digits and spaces, got {shown(name)}"
            + (f" with {first_few([shown(c) for c in wrong])}" if wrong else "")
        )
