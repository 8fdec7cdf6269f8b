"""The families of models that can be imported: how each is recognised, its files, who publishes it.

Loading this module loads no importer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..errors import InputError, shown
from ..storage.config import CodecConfig, LMConfig
from . import shapes
from .hub_files import INDEX, WEIGHTS

CONFIG = "config.json"
PLACES = ("", "update/")  # where in a model's folder its checkpoint may be
NATIVE = "uniaudio-engine"


@dataclass(frozen=True)
class Published:
    """A model as its authors publish it. The configurations are what the importer makes of it."""

    name: str  # on the hub
    licence: str
    codec: CodecConfig
    lm: LMConfig | None = None


@dataclass(frozen=True)
class Family:
    """``name``: of ``uniaudio import NAME``, whose importer is ``importers.MODULE.import_MODULE``.

    ``model_types``: what ``config.json`` calls it. ``files``: patterns of what the importer reads
    besides ``config.json`` and the weights. ``parts``: keyword of the importer -> the model on the
    hub that it takes from elsewhere. ``voices``: help for its option of that name, if it has one.
    ``speaks``: it is more than a codec.
    """

    name: str
    what: str
    example: str
    model_types: tuple[str, ...]
    published: tuple[Published, ...]
    files: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()
    voices: str = ""
    speaks: bool = False
    weights: str = ""  # pattern of the file of the weights, where it has no usual name

    @property
    def importer(self) -> Callable[..., dict[str, Any]]:
        """``import_X(source, output, *, dtype, licence, progress)``."""
        module = self.name.replace("-", "_")
        found = importlib.import_module(f".{module}", __package__)
        importer: Callable[..., dict[str, Any]] = getattr(found, f"import_{module}")
        return importer

    def reads(self, file: str) -> bool:
        """Whether the importer reads a file of this name, besides the weights."""
        patterns = (CONFIG, *self.files, *((self.weights,) if self.weights else ()))
        return any(fnmatchcase(file, place + p) for p in patterns for place in PLACES)


_MOSS_CODEC = "OpenMOSS-Team/MOSS-Audio-Tokenizer-Nano"
FAMILIES = (
    Family(
        "encodec",
        "an EnCodec codec, as transformers stores it",
        "encodec_24khz -o encodec-24khz",
        ("encodec",),
        (
            Published("facebook/encodec_24khz", "see its page", shapes.ENCODEC_24KHZ),
            Published("facebook/encodec_32khz", "see its page", shapes.ENCODEC_32KHZ),
            Published("facebook/encodec_48khz", "see its page", shapes.ENCODEC_48KHZ),
        ),
    ),
    Family(
        "mimi",
        "a Mimi codec, as transformers stores it",
        "mimi -o my-mimi",
        ("mimi",),
        (Published("kyutai/mimi", "CC-BY-4.0", shapes.MIMI),),
    ),
    Family(
        "cat",
        "a CAT codec (MOSS-Audio-Tokenizer)",
        "MOSS-Audio-Tokenizer-Nano -o my-codec",
        ("moss-audio-tokenizer", "moss_audio_tokenizer", "speech_tokenizer"),
        (Published(_MOSS_CODEC, "Apache-2.0", shapes.MOSS_TOKENIZER_NANO),),
    ),
    Family(
        "qwen3-codec",
        "the 12 Hz tokenizer of Qwen3-TTS, a codec",
        "Qwen3-TTS-Tokenizer-12Hz -o my-codec",
        ("qwen3_tts_tokenizer_12hz",),
        (Published("Qwen/Qwen3-TTS-Tokenizer-12Hz", "Apache-2.0", shapes.QWEN3_TOKENIZER),),
    ),
    Family(
        "vieneu",
        "VieNeu-TTS v3 Turbo with its codec and voices",
        "VieNeu-TTS-v3-Turbo --codec MOSS-Audio-Tokenizer-Nano --voices voices_v3_turbo.json "
        "-o vieneu",
        ("vieneu_v3",),
        (
            Published(
                "pnnbao-ump/VieNeu-TTS-v3-Turbo",
                "Apache-2.0",
                shapes.MOSS_TOKENIZER_NANO,
                shapes.VIENEU,
            ),
        ),
        ("tokenizer.json", "voices_v3_turbo.json", "speaker_encoder.onnx"),
        (("codec", _MOSS_CODEC),),
        "the project's voices_v3_turbo.json (default: the one in DIR)",
        speaks=True,
    ),
    Family(
        "moss-nano",
        "MOSS-TTS-Nano with its codec",
        "MOSS-TTS-Nano --codec MOSS-Audio-Tokenizer-Nano -o moss-nano",
        ("moss_tts_nano",),
        (
            Published(
                "OpenMOSS-Team/MOSS-TTS-Nano",
                "Apache-2.0",
                shapes.MOSS_TOKENIZER_NANO,
                shapes.MOSS_NANO,
            ),
        ),
        ("tokenizer.model",),
        (("codec", _MOSS_CODEC),),
        "a JSON file with builtin_voices, from the project's ONNX release",
        speaks=True,
    ),
    Family(
        "csm",
        "CSM with its codec, as transformers stores it",
        "csm-1b -o my-csm",
        ("csm",),
        (Published("sesame/csm-1b", "Apache-2.0", shapes.MIMI, shapes.CSM_1B),),
        ("tokenizer.json",),
        speaks=True,
    ),
    Family(
        "qwen3-tts",
        "Qwen3-TTS with built-in speakers (CustomVoice) or cloning (Base), and its codec",
        "Qwen3-TTS-12Hz-0.6B-CustomVoice -o my-qwen",
        ("qwen3_tts",),
        (
            Published(
                "Qwen/Qwen3-TTS-12Hz-0.6B-CustomVoice",
                "Apache-2.0",
                shapes.QWEN3_TOKENIZER,
                shapes.QWEN3_TTS,
            ),
            Published(
                "Qwen/Qwen3-TTS-12Hz-0.6B-Base",
                "Apache-2.0",
                shapes.QWEN3_TOKENIZER,
                shapes.QWEN3_TTS_BASE,
            ),
        ),
        (
            *("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"),
            *("speech_tokenizer/config.json", "speech_tokenizer/*.safetensors"),
        ),
        speaks=True,
    ),
    Family(
        "kyutai-tts",
        "Kyutai's delayed-streams TTS whose voice is a recording before the text",
        "tts-0.75b-en-public --codec mimi -o my-kyutai",
        ("tts",),
        (Published("kyutai/tts-0.75b-en-public", "CC-BY-4.0", shapes.MIMI, shapes.KYUTAI_TTS),),
        ("tokenizer*.model",),
        (("codec", "kyutai/mimi"),),
        speaks=True,
        weights="dsm_tts*.safetensors",
    ),
)

# A model folder of this engine is downloaded as it is. None of its weights is in two files.
_NATIVE_FILES = (
    *("codec.safetensors", "lm.safetensors", "semantic.safetensors"),
    *("phones.txt", "lexicon.txt", "text.model", "labels/*.txt", "voices/*.safetensors"),
    *("tokenizer.json", "speaker.safetensors", "speaker.onnx", "postfilter.safetensors"),
    *("voice_filter.safetensors", "unit_phones.safetensors"),
)
_NATIVE = Family(NATIVE, "a model folder of this engine", "", (), (), _NATIVE_FILES)


def recognise(config: Mapping[str, Any], where: str) -> Family:
    """The family of a ``config.json``, or ``native`` for a model folder.

    Raises :class:`InputError`, which names the families, for any other.
    """
    if "format_version" in config and "codec" in config:
        return _NATIVE
    found = config.get("model_type")
    for family in FAMILIES:
        if isinstance(found, str) and found in family.model_types:
            return family
    known = ", ".join(t for f in FAMILIES for t in f.model_types)
    raise InputError(
        f"{where}: expected the config.json of a model that can be imported (model_type {known}), "
        f"got {'none' if found is None else shown(found)}; see: uniaudio models"
    )


def place_of(names: Collection[str]) -> str | None:
    """Where the checkpoint is in a folder with these files; none where there is no config.json."""
    return next((p for p in PLACES if p + CONFIG in names), None)


def weight_files(names: Collection[str], place: str = "") -> tuple[str, ...]:
    """The first of the forms in which a folder with these files may have its weights."""
    for name in (WEIGHTS, INDEX, "pytorch_model.bin"):
        if place + name in names:
            return (place + name,)
    return ()
