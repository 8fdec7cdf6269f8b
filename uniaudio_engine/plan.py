"""From a task and its inputs to pieces of work: token prefixes, and how much is to be generated after each.

A long text becomes one piece a sentence.  All pieces of a plan share ``shared`` (the voice), whose KV cache is made
once and forked.  Not responsible for running the pieces: that is ``stream.py``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .audio import read_audio
from .errors import InputError, first_few, shown
from .sequence import Ids, Layout, phone_segment, segment
from .tasks import MAX_SEED, Input, Task
from .voice import Voice

if TYPE_CHECKING:
    from .engine import Engine

# A sentence is cut before its durations are known when even this many frames a phone (0.2 s at 50 Hz) would not fit.
_FRAMES_A_PHONE = 10


@dataclass(frozen=True)
class Piece:
    """One run of the model: feed ``shared`` and ``body`` [n, K], then generate.

    With ``phones`` [P]: a duration for each, then the audio.  Without: exactly ``frames`` audio frames.
    """

    shared: Ids
    body: Ids
    seed: int
    phones: Ids | None = None
    frames: int = 0


@dataclass
class Plan:
    """``pieces`` in order, to be iterated once: a long text is turned into phones while its beginning is spoken.

    ``meta`` is what the result will say about its inputs.
    """

    task: Task
    options: dict[str, Any]
    pieces: Iterable[Piece]
    meta: dict[str, Any] = field(default_factory=dict)


def piece_seed(seed: int, index: int) -> int:
    """The seed of sentence ``index``: the first keeps ``seed``; the others are scrambled (splitmix64), so that
    sentences do not share their random numbers."""
    if index == 0:
        return seed
    mask = (1 << 64) - 1
    z = (seed + index * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & MAX_SEED


def make_plan(engine: Engine, task: Task, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Plan:
    """Check everything and lay out the work; the model has not run yet when this raises :class:`InputError`."""
    given = {k: v for k, v in inputs.items() if v is not None}
    task.check_inputs(given)
    values = task.check_options(options)
    layout = engine.layout
    meta: dict[str, Any] = {"notes": []}
    parts = [layout.special("start", f"{task.name}_task")]
    shared: Ids | None = None
    body: list[Ids] = []
    sentences: Iterator[list[str]] = iter(())
    lengths: dict[str, int] = {}
    for spec in task.inputs:
        if spec.modality == "text":
            sentences = _sentences(given, spec.name, meta)
            shared, body = np.concatenate(parts + body), []
            continue
        codes = _codes(engine, spec, given.get(spec.name), meta)
        lengths[spec.name] = len(codes)
        body.append(segment(layout, spec.segment, layout.codes_to_frames(codes)))
        if shared is None and spec.modality == "voice":
            parts, body = parts + body, []
    if shared is None:
        shared = np.concatenate(parts)
    seed = int(values["seed"])
    if task.length == "durations":
        meta["sentences"] = 0
        spoken = _spoken(engine, sentences, shared, seed, meta)
        pieces: Iterable[Piece] = itertools.chain([next(spoken)], spoken)  # the first at once: it shows bad input
    else:
        frames = lengths["source"] if task.length == "source" else round(values["seconds"] * engine.frame_rate)
        tail = np.concatenate([*body, layout.special("audio_start")])
        if len(shared) + len(tail) + frames > engine.capacity:
            most = (engine.capacity - len(shared) - len(tail)) / engine.frame_rate
            raise InputError(f"{task.name}: expected at most {most:.3g} s, got {frames / engine.frame_rate:.3g} s")
        pieces = [Piece(shared, tail, seed, None, max(1, frames))]
    return Plan(task, values, pieces, meta)


def _spoken(
    engine: Engine, sentences: Iterator[list[str]], shared: Ids, seed: int, meta: dict[str, Any]
) -> Iterator[Piece]:
    """A piece for each sentence; more where one is too long for the KV cache."""
    most = (engine.capacity - len(shared) - 5) // (2 + _FRAMES_A_PHONE)
    index = itertools.count()
    for sentence in sentences:
        meta["sentences"] += 1
        for run in split_phones(_phone_ids(engine, sentence), most, engine.pause_id):
            yield phone_piece(engine.layout, shared, run, piece_seed(seed, next(index)))


def phone_piece(layout: Layout, shared: Ids, phones: Ids, seed: int) -> Piece:
    return Piece(shared, phone_segment(layout, phones), seed, phones)


def split_phones(phones: Ids, most: int, pause: int) -> list[Ids]:
    """Runs of at most ``most`` phones: cut after the pause nearest to the middle, or where there is none, there."""
    if len(phones) <= max(1, most):
        return [phones]
    middle = len(phones) / 2
    cuts = [i + 1 for i in range(len(phones) - 1) if phones[i] == pause]
    cut = min(cuts, key=lambda c: abs(c - middle), default=0)
    if not len(phones) / 8 <= cut <= len(phones) * 7 / 8:
        cut = int(middle)
    return split_phones(phones[:cut], most, pause) + split_phones(phones[cut:], most, pause)


def _sentences(given: Mapping[str, Any], name: str, meta: dict[str, Any]) -> Iterator[list[str]]:
    """Phones, sentence by sentence, from ``text`` or from ``phones`` (a string, one line a sentence, or a list)."""
    from .text import iter_sentences, parse_phones

    phones = given.get("phones")
    if phones is not None:
        if not isinstance(phones, (str, list, tuple)) or not all(isinstance(p, str) for p in phones):
            raise InputError(f"phones: expected phones separated by spaces, got {shown(phones)}")
        lines = phones.splitlines() if isinstance(phones, str) else [" ".join(phones)]
        return iter([parse_phones(line) for line in lines if line.strip()] or [parse_phones("")])
    text = given[name]
    if not isinstance(text, str):
        raise InputError(f"{name}: expected a string, got {type(text).__name__}")
    if not text.strip():
        raise InputError(f"{name}: expected words to speak, got an empty text; write some")
    meta["text"] = text
    return _phones_of(iter_sentences(text), name)


def _phones_of(sentences: Iterable[Any], name: str) -> Iterator[list[str]]:
    try:
        for sentence in sentences:
            yield sentence.phones
    except ValueError as e:  # nothing in it can be spoken
        raise InputError(f"{name}: {e}") from None


def _phone_ids(engine: Engine, phones: Iterable[str]) -> Ids:
    index = engine.phone_ids
    phones = list(phones)
    unknown = sorted({p for p in phones if p not in index})
    if unknown:
        raise InputError(f"phones: this model does not know {first_few(unknown)}; it has {' '.join(index)}")
    return np.array([index[p] for p in phones], np.int32)


def _codes(engine: Engine, spec: Input, value: Any, meta: dict[str, Any]) -> Ids:
    """codes [T, K of the LM] of a voice or a sound; an absent voice is the model's default, or empty."""
    k = engine.layout.num_codebooks
    if spec.modality == "voice":
        voice = find_voice(engine, value, spec)
        if voice is None:
            meta["voice"] = None
            return np.zeros((0, k), np.int32)
        meta["voice"] = voice.name
        meta["notes"] += voice.notes
        if voice.codes.shape[1] > engine.capacity // 2:
            most = engine.capacity // 2 / engine.frame_rate
            raise InputError(f"voice {shown(voice.name)}: expected at most {most:.3g} s, got {voice.seconds:.3g} s")
        return np.ascontiguousarray(voice.codes[:k].T)
    audio = read_audio(value, engine.sample_rate, spec.max_seconds or None, spec.name, spec.min_seconds)
    meta["notes"] += audio.meta["notes"]
    return np.ascontiguousarray(engine.encode(audio)[:k].T)


def find_voice(engine: Engine, value: Any, spec: Input) -> Voice | None:
    """A voice by name, by file, or made from a sound; None gives the default voice, if the model has any."""
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
        known = f"the model's voices ({first_few(names, 20)})" if names else "a file (the model brings no voices)"
        raise InputError(f"{spec.name}: there is neither a voice nor a file {shown(value)}; expected {known}")
    else:
        return engine.encode_voice(value, max_seconds=spec.max_seconds, min_seconds=spec.min_seconds)
    engine.check_voice(voice)
    return voice
