"""From the inputs of a request to values for the sequence: one reader for each modality.

A reader returns the value that ``sequence_builder.py`` expects for its modality, or raises
:class:`InputError` before the language model has run. Not responsible for spoken text, which is
read sentence by sentence: that is ``plan.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.blocks import open_sound
from ..audio.level import gain_to, scaled
from ..audio.reading import read_audio
from ..audio.sound import Audio
from ..audio.voice import Voice
from ..errors import InputError, first_few, shown
from ..model import Model
from ..score.reading import read_song
from .aligned import edit_context
from .sequence import Ids
from .sequence_builder import Sung, Value, units_key
from .tasks import Input, Task
from .text_slot import transcript_key, vector_key
from .token_ids import read_file, token_ids
from .windows import WINDOW_SECONDS, SourceWindows, Window

_SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


@dataclass(frozen=True)
class SourceSound:
    """A source that the result is fitted to: ``samples`` [N], and ``codes`` [T, K'] for edits.

    The model hears the samples times ``gain``.
    """

    samples: NDArray[np.float32]
    codes: Ids | None = None
    gain: float = 1.0


@dataclass
class RequestInputs:
    """The values of a request's inputs, by name, and what else was learned while reading them.

    ``meta``: what the result says about its inputs. ``span``: frames [begin, end) of the source
    that are replaced. ``windows``: those of a source that is too long to be heard at once.
    ``answered``: whether the language model hears the source; else only its samples are read.
    """

    model: Model
    task: Task
    meta: dict[str, Any]
    answered: bool = True
    values: dict[str, Value] = field(default_factory=dict)
    source: SourceSound | None = None
    span: tuple[int, int] | None = None
    windows: SourceWindows | None = None

    def level_gain(self, spec: Input, samples: NDArray[np.float32]) -> float:
        """What brings samples [N] of an input to the level that the model was trained on."""
        config = self.model.config
        level = config.source_level(self.task.name) if spec.name == "source" else config.level
        return gain_to(samples, self.model.sample_rate, level)

    def sound(self, spec: Input, value: Any, rate: int | None = None) -> Audio:
        """A sound at ``rate`` Hz (None: the model's), within the input's limits."""
        audio = read_audio(
            value,
            rate or self.model.sample_rate,
            spec.max_seconds or None,
            spec.name,
            spec.min_seconds,
        )
        self.meta["notes"] += audio.meta["notes"]
        return audio


def read_inputs(
    model: Model,
    task: Task,
    given: Mapping[str, Any],
    meta: dict[str, Any],
    answered: bool = True,
) -> RequestInputs:
    """Read all inputs but spoken text; an absent optional one has the value None."""
    inputs = RequestInputs(model, task, meta, answered)
    for spec in task.inputs:
        if spec.modality in ("text", "span"):  # a span is read with the sound that it is a part of
            continue
        value = given.get(spec.name)
        if value is None and spec.modality != "voice":
            inputs.values[spec.name] = None
            continue
        inputs.values[spec.name] = _READERS[spec.modality](inputs, spec, value)
        span = task.span_of(spec)
        if span is not None:
            _read_span(inputs, spec, span, given.get(span.name))
    return inputs


# Spans


def _read_span(inputs: RequestInputs, sound: Input, spec: Input, value: Any) -> None:
    """A span of a sound that was just read; without one, all of an aligned sound or context."""
    codes = inputs.values[sound.name]
    if sound.modality == "audio" and sound.place == "sequence":
        if value is not None:
            assert isinstance(codes, np.ndarray)
            inputs.values[sound.name] = _hide_span(inputs, spec, value, codes)
        return
    if sound.modality == "context":
        assert inputs.source is not None
        codes = inputs.source.codes
    assert isinstance(codes, np.ndarray)
    span = (0, len(codes))
    if value is not None:
        span = _span_frames(inputs, spec, value, len(codes))
    inputs.span = span
    # Of a long sound the model hears the surroundings of the span.
    around = round(WINDOW_SECONDS * inputs.model.frame_rate)
    begin, end = 0, len(codes)
    if len(codes) > around:
        margin = max(0, around - (span[1] - span[0])) // 2
        begin, end = max(0, span[0] - margin), min(len(codes), span[1] + margin)
    inputs.values[spec.name] = span = (span[0] - begin, span[1] - begin)
    if sound.modality == "context":
        inputs.values[sound.name] = edit_context(codes[begin:end], *span)
        return
    inputs.values[sound.name] = codes[begin:end]
    if sound.units:
        units = inputs.values[units_key(sound)]
        assert isinstance(units, np.ndarray)
        inputs.values[units_key(sound)] = units[begin:end]


def _span_frames(inputs: RequestInputs, spec: Input, value: Any, frames: int) -> tuple[int, int]:
    """Frames [begin, end) of a sound of ``frames`` frames, from "begin:end" or a pair in seconds."""
    rate = inputs.model.frame_rate
    assert inputs.source is not None
    seconds = len(inputs.source.samples) / inputs.model.sample_rate
    # Rounded down: what the message allows must be accepted.
    wanted = (
        f"{spec.name}: expected begin:end in seconds, within the sound's "
        f"{math.floor(seconds * 1000) / 1000:g} s"
    )
    parts = value.split(":") if isinstance(value, str) else value
    try:
        begin, end = (float(v) for v in parts)
        first, last = math.floor(begin * rate + 1e-6), math.ceil(end * rate - 1e-6)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{wanted}, got {shown(value)}") from None
    if not 0 <= first < last <= frames:
        raise InputError(f"{wanted}, got {shown(value)}")
    inputs.meta[spec.name] = [first / rate, last / rate]
    return first, last


def _hide_span(inputs: RequestInputs, spec: Input, value: Any, codes: NDArray[Any]) -> NDArray[Any]:
    """codes [T, K'] with -1 in a span, which may get a new length."""
    rate = inputs.model.frame_rate
    wanted = (
        f"{spec.name}: expected begin:end or begin:end:new length in seconds, within the sound's "
        f"{len(codes) / rate:.4g} s"
    )
    parts = value.split(":") if isinstance(value, str) else value
    try:
        begin, end, *rest = (float(v) for v in parts)
        length = rest.pop() if rest else end - begin
        first, last, count = (round(v * rate) for v in (begin, end, length))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{wanted}, got {shown(value)}") from None
    good = not rest and 0 <= first < last <= len(codes) and 1 <= count <= inputs.model.capacity
    if not good:
        raise InputError(f"{wanted}, got {shown(value)}")
    inputs.meta[spec.name] = [first / rate, (first + count) / rate]
    hidden = np.full((count, codes.shape[1]), -1, codes.dtype)
    return np.concatenate((codes[:first], hidden, codes[last:]))


# One reader for each modality


def _voice(inputs: RequestInputs, spec: Input, value: Any) -> Value:
    model = inputs.model
    voice = find_voice(model, value, spec)
    inputs.meta["voice"] = None if voice is None else voice.name
    if model.speaker is not None:
        if voice is None or voice.vector is None:
            raise InputError(
                f"{spec.name}: model {model.config.name} speaks with a voice's vector; expected a "
                "voice that has one"
            )
        inputs.values[vector_key(spec)] = model.speaker.row(voice.vector)
    if voice is None:
        return None
    inputs.meta["notes"] += voice.notes
    slot = model.config.text_slot
    if slot is not None and any(p.kind == "transcript" for p in slot.prompt):
        if not (voice.text.strip() and voice.codes.size):
            return None  # the vector is all that the model is given
        inputs.values[transcript_key(spec)] = np.array(model.text.said(voice.text.strip()))
    words = inputs.values.get(transcript_key(spec))
    room = model.capacity // 2 - (len(words) if isinstance(words, np.ndarray) else 0)
    if voice.codes.shape[1] > room:
        most = max(0, room) / model.frame_rate
        raise InputError(
            f"voice {shown(voice.name)}: expected at most {most:.3g} s, got {voice.seconds:.3g} s"
        )
    return voice.codes.T


def _audio(inputs: RequestInputs, spec: Input, value: Any) -> Value:
    model = inputs.model
    if spec.place == "sequence":
        sound = inputs.sound(spec, value)
        gain = inputs.level_gain(spec, sound.samples)
        if spec.name == "source" and gain != 1.0:
            inputs.source = SourceSound(sound.samples, None, gain)
        heard = Audio(scaled(sound.samples, gain), model.sample_rate)
        return model.audio.encode(heard, model.layout.num_codebooks).T
    return _aligned(inputs, spec, value)


def _context(inputs: RequestInputs, spec: Input, value: Any) -> Value:
    """All of the sound's codes; they are cut to the surroundings of the span once it is known."""
    sound = inputs.sound(spec, value)
    gain = inputs.level_gain(spec, sound.samples)
    heard = Audio(scaled(sound.samples, gain), inputs.model.sample_rate)
    codes = np.ascontiguousarray(inputs.model.audio.encode(heard).T)
    inputs.source = SourceSound(sound.samples, codes, gain)
    return codes


def _aligned(inputs: RequestInputs, spec: Input, value: Any) -> Value:
    """A source whose frames are the target's: codes, or units. A long one is read in windows."""
    model = inputs.model
    if inputs.task.finish != "length" or spec.max_seconds:
        sound = inputs.sound(spec, value)
        gain = inputs.level_gain(spec, sound.samples)
        window = Window(sound.samples, gain, True, True)
    else:
        reader = open_sound(value, model.sample_rate, spec.name, spec.min_seconds)
        inputs.meta["notes"] += reader.notes
        frame_size = model.config.codec.frame_size
        level = model.config.source_level(inputs.task.name)
        windows = SourceWindows(reader, model.sample_rate, frame_size, level)
        window = windows.first
        if not window.is_last:
            inputs.windows = windows
            inputs.meta["source_seconds"] = round(windows.seconds, 3)
    if not inputs.answered:
        inputs.source = SourceSound(window.samples, None, window.gain)
        return None
    values = window_values(model, spec, window)
    inputs.values |= values
    codes = values[spec.name] if spec.modality == "audio" else None
    assert codes is None or isinstance(codes, np.ndarray)
    inputs.source = SourceSound(window.samples, codes, window.gain)
    return values[spec.name]


def window_values(model: Model, spec: Input, window: Window) -> dict[str, Value]:
    """The values of an aligned source in one of its windows."""
    samples = scaled(window.samples, window.gain)
    if spec.modality == "units":
        return {spec.name: model.semantic.encode(samples)}
    codes = np.ascontiguousarray(model.audio.encode(Audio(samples, model.sample_rate)).T)
    values: dict[str, Value] = {spec.name: codes}
    if spec.units:
        values[units_key(spec)] = model.semantic.encode(samples)
    return values


def _score(inputs: RequestInputs, spec: Input, value: Any) -> Value:
    labels = inputs.model.label_ids("phone")
    song = read_song(value, inputs.model.frame_rate, labels, spec.name)
    inputs.meta["notes_sung"] = sum(p > 0 for p in song.pitches)
    phones = [labels[p] for p in song.phones]
    lists = (phones, song.durations, song.pitches, song.note_frames)
    return Sung(*(np.array(v, np.int32) for v in lists))


def _caption(inputs: RequestInputs, spec: Input, value: Any) -> Value:
    ids = inputs.model.captions.encode(value, spec.name)
    inputs.meta[spec.name] = value
    return ids


def _tokens(inputs: RequestInputs, spec: Input, value: Any) -> Value:
    model = inputs.model
    if spec.encoder and _is_sound(value):
        encoder = model.encoder(spec.encoder, spec.name, "a sound")
        value = encoder.units(inputs.sound(spec, value, encoder.sample_rate).samples)
    size = model.layout.vocabulary.span(spec.segment).size
    return token_ids(spec, value, size, model.label_ids(spec.segment))


def _states(inputs: RequestInputs, spec: Input, value: Any) -> Value:
    width = inputs.model.lm.config.continuous[spec.segment]
    limit = f" of at most {spec.max_count}" if spec.max_count else ""
    value = read_file(spec.name, value)
    if isinstance(value, str):
        if not value.strip():
            raise InputError(f"{spec.name}: expected words, got an empty text; write some")
        inputs.meta[spec.name] = value
        value = inputs.model.encoder(spec.encoder, spec.name, "a text").states(value)
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
    return states


_READERS: dict[str, Callable[[RequestInputs, Input, Any], Value]] = {
    "voice": _voice,
    "audio": _audio,
    "context": _context,
    "units": _aligned,
    "score": _score,
    "caption": _caption,
    "tokens": _tokens,
    "states": _states,
}


def _is_sound(value: Any) -> bool:
    """Whether a value for tokens is a sound to encode: samples, or a file that holds no tokens."""
    if isinstance(value, (str, os.PathLike)):
        return Path(value).suffix.lower() in _SOUND_SUFFIXES
    if isinstance(value, tuple):
        return len(value) == 2 and isinstance(value[0], np.ndarray)
    return hasattr(value, "samples") or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


def find_voice(model: Model, value: Any, spec: Input) -> Voice | None:
    """A voice by name, from a voice file, or made from a sound.

    None selects the default voice, if the model has voices.
    """
    names = model.voices()
    if isinstance(value, Voice):
        voice = value
    elif value is None:
        if not names:
            return None
        voice = model.voice("default" if "default" in names else names[0])
    elif isinstance(value, str) and value in names:
        voice = model.voice(value)
    elif isinstance(value, (str, os.PathLike)) and Path(value).suffix == ".safetensors":
        voice = Voice.load(value)
    elif isinstance(value, str) and not os.path.exists(value) and not Path(value).suffix:
        known = (
            f"the model's voices ({first_few(names, 20)})"
            if names
            else "a file (the model brings no voices)"
        )
        raise InputError(
            f"{spec.name}: there is neither a voice nor a file {shown(value)}; expected {known}"
        )
    else:
        return model.audio.encode_voice(
            value, max_seconds=spec.max_seconds, min_seconds=spec.min_seconds
        )
    model.audio.check_voice(voice)
    return voice
