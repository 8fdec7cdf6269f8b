"""From an input's value to its tokens: one function for each modality of ``tasks.Input``.

Each gives the :class:`Prefix` that stands between the segment's start and end tokens, or raises
:class:`InputError` before the model has run. Not responsible for text that is spoken sentence by
sentence: that is ``plan.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..audio.sound import Audio, read_audio
from ..audio.voice import Voice
from ..errors import InputError, first_few, shown
from . import aligned as aligned_rows
from .sequence import Ids, Prefix
from .tasks import Input

if TYPE_CHECKING:
    from ..engine import Engine

Meta = dict[str, Any]
_MAX_FILE = 64 << 20  # bytes of a file of tokens or states


def read_segment(engine: Engine, spec: Input, value: Any, meta: Meta) -> Prefix:
    """The tokens of one input; an absent one that is not required is an empty segment."""
    return _READERS[spec.modality](engine, spec, value, meta)


def hide_span(engine: Engine, spec: Input, value: Any, source: Prefix, meta: Meta) -> Prefix:
    """The codes of a sound with those of a span of time replaced by mask tokens, as many or for
    another length.
    """
    seconds, rate = len(source) / engine.frame_rate, engine.frame_rate
    wanted = f"{spec.name}: expected begin:end or begin:end:new length in seconds, within the sound's {seconds:.4g} s"
    parts = value.split(":") if isinstance(value, str) else value
    try:
        begin, end, *rest = (float(v) for v in parts)
        length = rest.pop() if rest else end - begin
        first, last, count = (round(v * rate) for v in (begin, end, length))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{wanted}, got {shown(value)}") from None
    if rest or not 0 <= first < last <= len(source) or not 1 <= count <= engine.capacity:
        raise InputError(f"{wanted}, got {shown(value)}")
    mask = np.repeat(engine.layout.tokens("audio_mask", [0]), count, axis=0)
    meta[spec.name] = [first / rate, (first + count) / rate]
    return Prefix(np.concatenate((source.frames[:first], mask, source.frames[last:])))


@dataclass(frozen=True)
class Beside:
    """What goes beside the target: aligned rows ``rows`` [T, S], and of a sound its ``samples`` [N]
    and ``codes`` [T, K'].
    """

    rows: Ids
    samples: NDArray[np.float32] | None = None
    codes: Ids | None = None


def read_beside(engine: Engine, spec: Input, value: Any, meta: Meta) -> Beside:
    """The input that goes beside the target."""
    layout = engine.layout
    if spec.modality == "score":
        from ..score.reading import score_rows

        return Beside(score_rows(engine, spec, value, meta))
    sound = _sound(engine, spec, value, meta)
    if spec.modality == "units":
        units = engine.semantic(sound)
        rows = layout.no_aligned(len(units))
        aligned_rows.put_units(layout, rows, units)
        return Beside(rows, sound.samples)
    codes = np.ascontiguousarray(engine.encode(sound).T)
    rows = layout.no_aligned(len(codes))
    aligned_rows.put_source(layout, rows, codes)
    if spec.units:
        aligned_rows.put_units(layout, rows, engine.semantic(sound))
    return Beside(rows, sound.samples, codes)


def read_span(engine: Engine, spec: Input, value: Any, frames: int, meta: Meta) -> tuple[int, int]:
    """Frames [begin, end) of a part of a sound of ``frames`` frames, given in seconds as
    "begin:end" or a pair.
    """
    rate = engine.frame_rate
    parts = value.split(":") if isinstance(value, str) else value
    wanted = f"{spec.name}: expected begin:end in seconds, within the sound's {frames / rate:.4g} s"
    try:
        begin, end = (float(v) for v in parts)
        first, last = math.floor(begin * rate + 1e-6), math.ceil(end * rate - 1e-6)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{wanted}, got {shown(value)}") from None
    if not 0 <= first < last <= frames:
        raise InputError(f"{wanted}, got {shown(value)}")
    meta[spec.name] = [first / rate, last / rate]
    return first, last


def read_context(engine: Engine, spec: Input, value: Any, meta: Meta) -> Beside:
    """A sound that is to be changed in a part, whole: its samples and codes."""
    sound = _sound(engine, spec, value, meta)
    codes = np.ascontiguousarray(engine.encode(sound).T)
    return Beside(engine.layout.no_aligned(0), sound.samples, codes)


def token_ids(spec: Input, value: Any, size: int, labels: Mapping[str, int]) -> Ids:
    """Whole numbers [n] of the span ``spec.segment``, which has ``size`` ids and perhaps ``labels``
    for them, from numbers, labels, ``LABEL:SECONDS`` parts, or a file of them.
    """
    what = f"{spec.name}: expected {_kind(spec, size, labels)}"
    value = _file(spec.name, value)
    if isinstance(value, str):
        value = value.split()
    if isinstance(value, (list, tuple)) and any(isinstance(v, (str, list, tuple)) for v in value):
        value = np.array(_timed(spec, value, labels, what), np.int64)
    ids = np.asarray(value)
    if (
        ids.ndim != 1
        or not len(ids)
        or ids.dtype.kind not in "iu"
        or ids.min() < 0
        or ids.max() >= size
    ):
        got = (
            shown(value)
            if ids.ndim != 1 or not len(ids)
            else f"{ids.dtype} from {ids.min()} to {ids.max()}"
        )
        raise InputError(f"{what}, got {got}")
    if spec.max_count and len(ids) > spec.max_count:
        raise InputError(f"{spec.name}: expected at most {spec.max_count} tokens, got {len(ids)}")
    if spec.collapse:
        ids = ids[np.concatenate(([True], ids[1:] != ids[:-1]))]
    return ids.astype(np.int32)


def _voice(engine: Engine, spec: Input, value: Any, meta: Meta) -> Prefix:
    layout = engine.layout
    voice = find_voice(engine, value, spec)
    if voice is None:
        meta["voice"] = None
        return Prefix(np.zeros((0, layout.num_codebooks), np.int32))
    meta["voice"] = voice.name
    meta["notes"] += voice.notes
    if voice.codes.shape[1] > engine.capacity // 2:
        most = engine.capacity // 2 / engine.frame_rate
        raise InputError(
            f"voice {shown(voice.name)}: expected at most {most:.3g} s, got {voice.seconds:.3g} s"
        )
    return Prefix(layout.codes_to_frames(voice.codes[: layout.num_codebooks].T))


def _sound(engine: Engine, spec: Input, value: Any, meta: Meta) -> Audio:
    audio = read_audio(
        value, engine.sample_rate, spec.max_seconds or None, spec.name, spec.min_seconds
    )
    meta["notes"] += audio.meta["notes"]
    return audio


def _audio(engine: Engine, spec: Input, value: Any, meta: Meta) -> Prefix:
    codes = engine.encode(_sound(engine, spec, value, meta), engine.layout.num_codebooks)
    return Prefix(engine.layout.codes_to_frames(codes.T))


def _caption(engine: Engine, spec: Input, value: Any, meta: Meta) -> Prefix:
    ids = engine.captions.encode(value, spec.name)
    meta[spec.name] = value
    return Prefix(engine.layout.tokens(spec.segment, ids))


def _tokens(engine: Engine, spec: Input, value: Any, meta: Meta) -> Prefix:
    if spec.encoder and _is_sound(value):
        encoder = engine.encoder(spec.encoder, spec.name, "a sound")
        audio = read_audio(
            value, encoder.sample_rate, spec.max_seconds or None, spec.name, spec.min_seconds
        )
        meta["notes"] += audio.meta["notes"]
        value = encoder.units(audio.samples)
    size = engine.layout.vocabulary.span(spec.segment).size
    return Prefix(
        engine.layout.tokens(
            spec.segment, token_ids(spec, value, size, engine.label_ids(spec.segment))
        )
    )


def _states(engine: Engine, spec: Input, value: Any, meta: Meta) -> Prefix:
    width = engine.lm.config.continuous[spec.segment]
    limit = f" of at most {spec.max_count}" if spec.max_count else ""
    value = _file(spec.name, value)
    if isinstance(value, str):
        if not value.strip():
            raise InputError(f"{spec.name}: expected words, got an empty text; write some")
        meta[spec.name] = value
        value = engine.encoder(spec.encoder, spec.name, "a text").states(value)
    states = np.asarray(value)
    good = (
        states.ndim == 2 and states.shape[1] == width and len(states) and states.dtype.kind == "f"
    )
    if not good or (spec.max_count and len(states) > spec.max_count):
        raise InputError(
            f"{spec.name}: expected rows{limit} of {width} numbers, got {states.dtype} "
            f"{list(states.shape)}"
        )
    states = np.ascontiguousarray(states, np.float32)
    if not np.isfinite(states).all():
        raise InputError(f"{spec.name}: expected finite numbers, got NaN or infinity")
    place = engine.layout.special(*["continuous_token"] * len(states))
    return Prefix(place, {spec.segment: (states, np.arange(len(states), dtype=np.int32))})


_READERS: dict[str, Callable[[Engine, Input, Any, Meta], Prefix]] = {
    "voice": _voice,
    "audio": _audio,
    "caption": _caption,
    "tokens": _tokens,
    "states": _states,
}


def _kind(spec: Input, size: int, labels: Mapping[str, int]) -> str:
    parts = f"whole numbers from 0 to {size - 1}" + (
        f" or labels ({first_few(list(labels), 12)})" if labels else ""
    )
    parts += f", {spec.rate:.4g} a second" if spec.rate else ""
    parts += " (or LABEL:SECONDS parts)" if spec.rate else ""
    return parts + (f", or a sound for the {spec.encoder} encoder" if spec.encoder else "")


def _timed(spec: Input, parts: Iterable[Any], labels: Mapping[str, int], what: str) -> list[int]:
    """Labels, numbers, and (label, seconds) pairs -> ids, one for each frame of ``spec.rate``.

    A pair lasts until the frame nearest to its end, so rounding never adds up.
    """
    ids: list[int] = []
    end = 0.0
    for part in parts:
        label, seconds = (
            part if isinstance(part, (list, tuple)) and len(part) == 2 else (part, None)
        )
        if isinstance(label, str) and seconds is None and spec.rate and ":" in label:
            label, _, seconds = label.rpartition(":")
        number = labels.get(label) if isinstance(label, str) else label
        if number is None and isinstance(label, str) and label.isdecimal():
            number = int(label)
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise InputError(f"{what}, got {shown(part)}")
        count = 1
        if seconds is not None:
            try:
                end += float(seconds)
            except (TypeError, ValueError):
                raise InputError(f"{what}, got {shown(part)}") from None
            if not spec.rate or not 0 <= end * spec.rate - len(ids) < 1 << 20:
                raise InputError(f"{what}, got {shown(part)}")
            count = round(end * spec.rate) - len(ids)
        else:
            end += 1 / spec.rate if spec.rate else 0.0
        ids += [int(number)] * count  # type: ignore[arg-type]
    return ids


def _file(name: str, value: Any) -> Any:
    """What an .npy file (never pickled) or a .txt file holds; any other value as it is."""
    if not isinstance(value, (str, os.PathLike)):
        return value
    path = Path(value)
    if path.suffix not in (".npy", ".txt"):
        return os.fspath(value)
    try:
        if path.stat().st_size > _MAX_FILE:
            raise InputError(
                f"{name}: {path}: expected at most {_MAX_FILE} bytes, got {path.stat().st_size}"
            )
        if path.suffix == ".txt":
            return path.read_text(encoding="utf-8")
        loaded: NDArray[Any] = np.load(path, allow_pickle=False)
        return loaded
    except InputError:
        raise
    except (OSError, ValueError, EOFError) as e:
        raise InputError(
            f"{name}: {path}: expected a readable .npy or .txt file, got: "
            f"{' '.join(str(e).split())}"
        ) from None


def _is_sound(value: Any) -> bool:
    """Whether a value for tokens is a sound to be encoded: a file that is no table of tokens, or
    samples.
    """
    if isinstance(value, (str, os.PathLike)):
        return Path(value).suffix.lower() in (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
    if isinstance(value, tuple):
        return len(value) == 2 and isinstance(value[0], np.ndarray)
    return hasattr(value, "samples") or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


def find_voice(engine: Engine, value: Any, spec: Input) -> Voice | None:
    """A voice by name, by file, or made from a sound; None gives the default voice, if the model
    has any.
    """
    if isinstance(value, Voice):
        voice = value
    elif value is None:
        names = engine.voices()
        if not names:
            return None
        voice = engine.voice("default" if "default" in names else names[0])
    elif isinstance(value, str) and value in engine.voices():
        voice = engine.voice(value)
    elif isinstance(value, (str, os.PathLike)) and Path(value).suffix == ".safetensors":
        voice = Voice.load(value)
    elif isinstance(value, str) and not os.path.exists(value) and not Path(value).suffix:
        names = engine.voices()
        known = (
            f"the model's voices ({first_few(names, 20)})"
            if names
            else "a file (the model brings no voices)"
        )
        raise InputError(
            f"{spec.name}: there is neither a voice nor a file {shown(value)}; expected {known}"
        )
    else:
        return engine.encode_voice(
            value, max_seconds=spec.max_seconds, min_seconds=spec.min_seconds
        )
    engine.check_voice(voice)
    return voice
