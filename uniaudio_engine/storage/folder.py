"""The model folder: config.json, lm.safetensors, codec.safetensors, phones.txt,
voices/*.safetensors, README.md.

Optional: semantic.safetensors (the semantic tokenizer), unit_phones.safetensors (which phones its
units stand for), text.model (the tokenizer of captions or text, sentencepiece), tokenizer.json
(another tokenizer of text), speaker.safetensors and speaker.onnx (vectors of speakers),
postfilter.safetensors (the filter of clean-up), voice_filter.safetensors (the one that keeps a
voice), labels/SPAN.txt (labels of another span's tokens, one per line) and lexicon.txt (words in the
labels of phones.txt).

Loading checks everything first: a folder is complete and consistent, or raises one
:class:`InputError`. Weights stay as they are stored: float32, bfloat16 as uint16 bits, and of the
LM's matrices also int8, or int4 as uint8. Codecs and filters may be stored in int8 to be small, and
are loaded in float32. Not responsible for what is computed with them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few
from ..request.tasks import HEARD
from .codec_int8 import from_int8
from .config import CodecConfig, ConfigError, ModelConfig
from .opening import read_regular
from .postfilter_config import FILTERS, PostFilterConfig
from .tensors import (
    Tensors,
    all_finite,
    drop_pages,
    from_bfloat16,
    load_tensors,
    map_tensors,
    require_names,
)
from .weight_shapes import (
    Quantized,
    Shapes,
    codec_shapes,
    in_codec,
    in_lm,
    lm_shapes,
    matrix_part,
    postfilter_shapes,
)

UNIT_PHONES = "unit_phones.safetensors"
MAX_CONFIG_BYTES = 4 << 20
MAX_TEXT_BYTES = 32 << 20
MODELS = Path(__file__).parents[1] / "models"  # one folder per bundled model


_FLOATS: tuple[np.dtype[Any], ...] = (np.dtype(np.float32), np.dtype(np.uint16))
_QUANTIZED = {np.dtype(np.int8): "int8", np.dtype(np.uint8): "int4"}


@dataclass(frozen=True)
class ModelFolder:
    """A checked model.

    ``codec``, ``lm``, ``semantic``: weights by tensor name; ``filters``: those of each filter by its
    name. ``phones``: labels in order. ``voices``: files by name. ``labels``: those of other spans.
    ``lexicon``, ``captions`` and ``tokenizer``: contents of lexicon.txt, text.model and
    tokenizer.json. ``speaker``: the map of voices' vectors, or their encoder.
    ``speaker_encoder``: the file that makes them, if there is one. ``unit_phones`` [units, phones]:
    the probability of the phone given the semantic unit, or [0, 0].
    """

    path: Path
    config: ModelConfig
    codec: Tensors
    lm: Tensors = field(default_factory=dict)
    phones: tuple[str, ...] = ()
    voices: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lexicon: str = ""
    captions: bytes = b""
    semantic: Tensors = field(default_factory=dict)
    tokenizer: bytes = b""
    speaker: Tensors = field(default_factory=dict)
    speaker_encoder: Path | None = None
    filters: dict[str, Tensors] = field(default_factory=dict)
    unit_phones: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def weights(self) -> tuple[Tensors, ...]:
        """The weights of the models that were trained for this folder."""
        return self.codec, self.lm, self.semantic, *self.filters.values()


def bundled_models() -> dict[str, Path]:
    """The models that come with this installation, by name."""
    if not MODELS.is_dir():
        return {}
    return {p.name: p for p in sorted(MODELS.iterdir()) if (p / "config.json").is_file()}


def find_folder(path: str | os.PathLike[str] | None) -> Path:
    """A model folder by path or by the name of a bundled model; None is the default bundled one."""
    bundled = bundled_models()
    if path is None:
        if not bundled:
            raise InputError(
                "no model is bundled in this installation; name a model folder (-m FOLDER)"
            )
        return next(iter(bundled.values()))
    folder = Path(path)
    if folder.is_dir():
        return folder
    if str(path) in bundled:
        return bundled[str(path)]
    known = f"; bundled: {', '.join(bundled)}" if bundled else ""
    raise InputError(f"{path}: expected a model folder with a config.json, found none{known}")


def load_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """``config.json`` of a folder, checked."""
    path = Path(folder) / "config.json"
    try:
        text = read_regular(path, MAX_CONFIG_BYTES).decode("utf-8")
    except OSError as e:
        raise InputError(
            f"{path}: expected a readable config.json, got: {e.strerror or e}"
        ) from None
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: expected JSON, got: {e}") from None
    try:
        return ModelConfig.from_json(text)
    except ConfigError as e:
        raise InputError(f"{path}: {e}") from None
    except ValueError as e:  # numbers too long to read
        raise InputError(f"{path}: expected JSON, got: {e}") from None


def load_folder(path: str | os.PathLike[str] | None = None, *, mapped: bool = False) -> ModelFolder:
    """Load and check a model folder; see :func:`find_folder`.

    ``mapped``: the weights stay in their files, as read-only arrays; see :func:`map_tensors`.

    Raises :class:`InputError` for anything wrong with it.
    """
    described = load_described(find_folder(path))
    folder, config = described.path, described.config
    codec = load_codec(folder / "codec.safetensors", config.codec, mapped)
    lm: Tensors = {}
    if config.lm is not None:
        lm = load_weights(folder / "lm.safetensors", lm_shapes(config.lm), mapped)
    semantic: Tensors = {}
    if config.semantic is not None:
        semantic = load_codec(folder / "semantic.safetensors", config.semantic.encoder, mapped)
    speaker: Tensors = {}
    if shapes := speaker_shapes(config):
        speaker = load_weights(folder / "speaker.safetensors", shapes)
    for part in ("lm", "semantic", *FILTERS):
        if getattr(config, part) is None and (folder / f"{part}.safetensors").exists():
            raise InputError(
                f"{folder}: {part}.safetensors is left over: config.json has no {part} section; "
                "remove the file"
            )
    return dataclasses.replace(described, codec=codec, lm=lm, semantic=semantic, speaker=speaker)


def load_described(folder: Path) -> ModelFolder:
    """All of a folder except the weights of its models, checked."""
    config = load_config(folder)
    phones = _load_labels(folder / "phones.txt")
    labels = {p.stem: _load_labels(p) for p in sorted((folder / "labels").glob("*.txt"))}
    check_model(config, phones, folder, labels)
    voices = {p.stem: p for p in sorted((folder / "voices").glob("*.safetensors"))}
    texts = _read_text(folder / "lexicon.txt"), _read_bytes(folder / "text.model")
    encoder = folder / "speaker.onnx"
    filters = {  # small, and run by the core on every backend
        name: _load_filter(folder / f"{name}.safetensors", c) for name, c in config.filters.items()
    }
    return ModelFolder(
        folder,
        config,
        {},
        phones=phones,
        voices=voices,
        labels=labels,
        lexicon=texts[0],
        captions=texts[1],
        tokenizer=_read_bytes(folder / "tokenizer.json"),
        speaker_encoder=encoder if encoder.is_file() else None,
        filters=filters,
        unit_phones=_load_unit_phones(folder / UNIT_PHONES, config, phones),
    )


def unit_phones_shape(config: ModelConfig, phones: Sequence[str]) -> tuple[int, int]:
    """[units, phones]; (0, 0) where a model lacks either."""
    if config.semantic is None or not phones:
        return 0, 0
    return config.semantic.encoder.codebook_size, len(phones)


def _load_unit_phones(
    path: Path, config: ModelConfig, phones: Sequence[str]
) -> NDArray[np.float32]:
    shape = unit_phones_shape(config, phones)
    if not path.exists():
        return np.zeros((0, 0), np.float32)
    if not all(shape):
        raise InputError(
            f"{path} is left over: the model has no semantic tokenizer or no phones; remove the file"
        )
    stored = load_weights(path, {"probability": shape})["probability"]
    table = from_bfloat16(stored) if stored.dtype == np.uint16 else stored
    if table.min() < 0:
        raise InputError(f"{path}: expected probabilities from 0 up, got {table.min():.3g}")
    return table


def speaker_shapes(config: ModelConfig) -> Shapes:
    """Of the tensors in speaker.safetensors; none where voices have no vectors."""
    width = 0 if config.text_slot is None else config.text_slot.voice_width
    if not width or config.lm is None:
        return {}
    if config.text_slot is not None and config.text_slot.speaker is not None:
        return config.text_slot.speaker.shapes
    d = config.lm.global_.width
    return {"weight": (d, width), "bias": (d,), "norm.weight": (d,), "norm.bias": (d,)}


def load_codec(path: Path, config: CodecConfig, mapped: bool = False) -> Tensors:
    """The tensors of a codec's file, in float32 where they are stored in int8; see
    :func:`load_weights`.
    """
    stored = load_weights(path, codec_shapes(config), mapped, in_codec)
    made = from_int8(stored)
    if mapped:  # what was read to widen it
        drop_pages(stored)
    return made


def _load_filter(file: Path, config: PostFilterConfig) -> Tensors:
    """The weights of a filter. One of before, which also heard the language model's answer, becomes
    what it was with a silent one.
    """
    shapes, first = postfilter_shapes(config), "net.input.weight"
    try:
        return from_int8(load_weights(file, shapes, quantized=in_codec))
    except InputError as problem:
        older = shapes | {first: (config.width, 2 * config.bins)}
        try:
            tensors = from_int8(load_weights(file, older, quantized=in_codec))
        except InputError:
            raise problem from None
    tensors = {
        name: from_bfloat16(x) if x.dtype == np.uint16 else np.asarray(x, np.float32)
        for name, x in tensors.items()
    }
    heard, answer = np.split(tensors[first], 2, axis=1)
    tensors[first] = np.ascontiguousarray(heard)
    tensors["net.input.bias"] = tensors["net.input.bias"] + answer.sum(1) * np.float32(
        config.silence
    )
    return tensors


def load_weights(
    path: Path, shapes: Shapes, mapped: bool = False, quantized: Quantized = in_lm
) -> Tensors:
    """The tensors of one file: exactly those in ``shapes``, and the scales of quantized ones.

    ``mapped`` as in :func:`load_folder`; ``quantized`` as in :func:`check_weights`.

    Raises :class:`InputError` where one is missing, left over, misshapen or not finite.
    """
    expected = sum(int(np.prod(s, dtype=object)) for s in shapes.values())
    # float32 is the widest type accepted: a larger file is refused before it is read
    most = 4 * expected + 512 * len(shapes) + (1 << 20)
    tensors = map_tensors(path, most) if mapped else load_tensors(path, most)[0]
    check_weights(tensors, shapes, str(path), quantized)
    if mapped:
        drop_pages(tensors)
    return tensors


def check_weights(
    tensors: Mapping[str, NDArray[Any]],
    shapes: Shapes,
    where: str,
    quantized: Quantized = in_lm,
) -> None:
    """Check names, shapes, dtypes and finiteness.

    ``quantized``: the stored shapes of a matrix and its scales, by name, shape and type.

    Raises :class:`InputError` that lists the first wrong tensors.
    """
    stored: dict[str, tuple[np.dtype[Any], ...]] = dict.fromkeys(shapes, _FLOATS)
    shapes = dict(shapes)
    for name, shape in list(shapes.items()):
        dtype = _QUANTIZED.get(tensors[name].dtype) if name in tensors else None
        if dtype and (found := quantized(name, shape, dtype)):
            shapes[name], shapes[f"{name}_scale"] = found
            stored[name] = (tensors[name].dtype,)
            stored[f"{name}_scale"] = _FLOATS[:1] if dtype == "int8" else _FLOATS[1:]
    require_names(tensors, set(shapes), where)
    wrong = [
        f"{n} {list(tensors[n].shape)} (expected {list(s)})"
        for n, s in shapes.items()
        if tensors[n].shape != s
    ]
    if wrong:
        raise InputError(f"{where}: wrong shape: {first_few(wrong)}")
    wrong = [f"{n} {a.dtype}" for n, a in tensors.items() if a.dtype not in stored[n]]
    if wrong:
        raise InputError(f"{where}: wrong dtype: {first_few(wrong)}; expected float32 or bfloat16")
    wrong = [n for n, a in tensors.items() if not all_finite(a)]
    if wrong:
        raise InputError(
            f"{where}: NaN or infinity in {first_few(wrong)}; export or download the model again"
        )


def stored_dtypes(lm: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """The parts of the LM (``weight_shapes.PARTS``) stored quantized -> "int8" or "int4"."""
    return {
        str(matrix_part(n)): _QUANTIZED[a.dtype]
        for n, a in lm.items()
        if matrix_part(n) and a.dtype in _QUANTIZED
    }


def check_model(
    config: ModelConfig,
    phones: tuple[str, ...],
    where: Path,
    labels: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Raise :class:`InputError` unless codec, LM, vocabulary, tasks and labels fit together."""
    if config.lm is None or config.vocabulary is None:
        return
    k, c = config.lm_codebooks, config.codec.codebook_size
    spans = {s.name: s.size for s in config.vocabulary.spans}
    if k > config.codec.num_codebooks:
        beside = " beside the slot of text" if config.text_slot is not None else ""
        raise InputError(
            f"{where}: lm.num_codebooks: expected up to the codec's "
            f"{config.codec.num_codebooks}{beside}, got {k}"
        )
    if "audio" in spans and spans["audio"] != k * c:
        raise InputError(
            f"{where}: vocabulary span audio: expected {k} x {c} ids, got {spans['audio']}"
        )
    if phones and spans.get("phone") != len(phones):
        raise InputError(
            f"{where}: vocabulary span phone has {spans.get('phone', 0)} ids, phones.txt "
            f"{len(phones)} phones"
        )
    for name, given in (labels or {}).items():
        if spans.get(name) != len(given):
            raise InputError(
                f"{where}: vocabulary span {name} has {spans.get(name, 0)} ids, labels/{name}.txt "
                f"{len(given)}"
            )
    known = {
        *config.vocabulary.specials,
        *spans,
        *config.lm.continuous,
        *(s.name for s in config.vocabulary.aligned_spans),
    }
    for task in config.task_table.values():
        if (task.length == "text") != (config.text_slot is not None):
            raise InputError(
                f"{where}: task {task.name}: expected length text exactly where there is a "
                f"text_slot, got {task.length}"
            )
        slot = config.text_slot
        placed = {p.input for p in slot.prompt if p.kind == "input"} if slot is not None else set()
        unplaced = [
            i.segment for i in task.inputs if i.modality == "tokens" and i.segment not in placed
        ]
        if slot is not None and unplaced:
            raise InputError(
                f"{where}: task {task.name}: expected a part of the prompt for each input of "
                f"tokens, got none for {first_few(unplaced)}"
            )
        heard = next((i.name for i in task.inputs if i.modality in HEARD), None)
        if config.codec.channels != 1 and heard is not None:
            raise InputError(
                f"{where}: task {task.name}: expected a mono codec with the input {heard}, got "
                f"{config.codec.channels} channels"
            )
        missing = sorted(task.needs(config.codec.num_codebooks) - known)
        if missing:
            raise InputError(
                f"{where}: task {task.name} needs {first_few(missing)}, which the vocabulary does "
                "not have"
            )


def _load_labels(path: Path) -> tuple[str, ...]:
    """The labels of a file with one per line; none where there is no such file."""
    labels = tuple(_read_text(path).split())
    if len(set(labels)) != len(labels):
        raise InputError(f"{path}: expected each label once; remove the repeated ones")
    return labels


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: expected a UTF-8 text, got: {e}") from None


def _read_bytes(path: Path) -> bytes:
    """The contents of a file; empty where there is none."""
    if not path.exists():
        return b""
    try:
        return read_regular(path, MAX_TEXT_BYTES)
    except OSError as e:
        raise InputError(f"{path}: expected a readable file, got: {e.strerror or e}") from None
