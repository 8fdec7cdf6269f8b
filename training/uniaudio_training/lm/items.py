"""Token shards -> training items: the input values of a task, in frames and ids.

One function per modality reads a value from a corpus label. The engine's own
``sequence_builder.py`` builds the sequence from the values. T frames, K' codebooks of the codec
(the LM uses the first K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from uniaudio_engine.request.aligned import edit_context
from uniaudio_engine.request.sequence import Layout
from uniaudio_engine.request.sequence_builder import (
    Spoken,
    Sung,
    TaskSequence,
    Value,
    build,
    predicted,
    sentence_length,
    units_key,
    without_captions,
)
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.request.tasks import Input, Task
from uniaudio_engine.request.token_ids import token_ids
from uniaudio_engine.text import iter_sentences
from uniaudio_engine.text.phones import PHONES
from uniaudio_engine.tokenizers.captions import CaptionTokenizer

from ..corpus.schema import Label, Phone
from ..places import listed, load_arrays, place

# Corpus tasks whose voice prompt may be any other clip of the speaker; the others bring their own.
ANY_CLIP = ("tts", "vc", "svs")
FRAME_RATE = 50.0
FRAME = 320  # samples
_MIN_CONTEXT = 25  # frames around an edit
_PHONE_ID = {p: i for i, p in enumerate(PHONES)}


@dataclass(frozen=True)
class Item:
    """One example of a task; ``codes`` [T, K'] are those of the target.

    ``inputs``: values by input name, as defined in ``sequence_builder.py``. A voice is None where
    any clip of the ``speaker`` may be used. A missing input is empty; a missing span is absent.
    """

    task: Task
    codes: np.ndarray
    inputs: Mapping[str, Any] = field(default_factory=dict)
    speaker: str = ""

    @property
    def length(self) -> int:
        """Number of rows of the sequence after the shared part."""
        return sentence_length(self.task, self.inputs, len(self.codes))

    def sequence(self, layout: Layout, prompt: np.ndarray | None = None) -> TaskSequence:
        """Builds the sequence.

        ``prompt``: codes [T', K'] of the voice it begins with; empty or None for no voice.
        """
        shared = self.task.shared_prompt
        given = {} if shared is None else {shared.name: prompt}
        return build(layout, self.task, {**self.inputs, **given})

    def without_captions(self) -> Item:
        """The same example with empty captions, as in the unconditional pass of classifier-free
        guidance (arXiv 2207.12598).
        """
        captions = without_captions(self.task)
        return replace(self, inputs={**self.inputs, **captions}) if captions else self


@dataclass(frozen=True)
class Given:
    """An example: its label, codes [T, K'] and units [T] by role, and the tokenizers."""

    task: Task
    label: Label
    codes: Mapping[str, np.ndarray]
    units: Mapping[str, np.ndarray]
    captions: CaptionTokenizer | None
    labels: Mapping[str, Sequence[str]]  # of the vocabulary's spans


class Skip(Exception):
    """The example cannot be used: too short for its phones, or too little around its edit."""


def frame_durations(ends: Any, frames: int) -> np.ndarray | None:
    """End times [P] in seconds -> durations [P] of at least one frame, which sum to ``frames``.

    None where there are more phones than frames.
    """
    count = len(ends)
    if count == 0 or frames < count:
        return None
    bounds = np.round(np.asarray(ends) * FRAME_RATE).astype(np.int64)
    bounds[-1] = frames
    # forwards: every phone gets a frame; backwards: leave room for the following phones
    for i in range(count):
        bounds[i] = max(bounds[i], (bounds[i - 1] if i else 0) + 1)
    bounds[-1] = frames
    for i in range(count - 2, -1, -1):
        bounds[i] = min(bounds[i], bounds[i + 1] - 1)
    return np.diff(bounds, prepend=0)


def phone_ids(phones: tuple[Phone, ...]) -> np.ndarray:
    return np.array([_PHONE_ID[p.phone] for p in phones], np.int64)


def song_notes(label: Label, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Pitches and durations in frames of a song's notes; rests have pitch 0. The durations sum to
    ``frames``.
    """
    pitches: list[int] = []
    bounds: list[int] = []
    for note in label.notes:
        start, end = (
            min(frames, round(t * FRAME_RATE)) for t in (note.start, note.start + note.duration)
        )
        if start > (bounds[-1] if bounds else 0):
            pitches.append(0)
            bounds.append(start)
        pitches.append(note.pitch)
        bounds.append(end)
    pitches.append(0)
    bounds.append(frames)
    return np.array(pitches), np.diff(np.maximum.accumulate(np.array(bounds)), prepend=0)


# The inputs of an example, by modality


def _voice(g: Given, i: Input) -> np.ndarray | None:
    if g.task.name in ANY_CLIP:
        return None
    return g.codes.get(i.name, g.codes["target"][:0]) if i is g.task.shared_prompt else _heard(g, i)


def _heard(g: Given, i: Input) -> np.ndarray:
    """The codes of a sound, cropped as in the engine; empty where there is none."""
    codes = g.codes.get(i.name, g.codes["target"][:0])
    return codes[: round(i.max_seconds * FRAME_RATE)] if i.max_seconds else codes


def _audio(g: Given, i: Input) -> np.ndarray:
    codes = _heard(g, i)
    return _aligned(g, i, codes) if i.place == "aligned" else codes


def _units(g: Given, i: Input) -> np.ndarray:
    if i.name not in g.units:
        raise ValueError(
            f"{g.label.id}: expected semantic units of {i.name}, got none; make the tokens with "
            "--units"
        )
    return _aligned(g, i, g.units[i.name])


def _aligned(g: Given, i: Input, values: np.ndarray) -> np.ndarray:
    if len(values) != len(g.codes["target"]):
        raise ValueError(
            f"{g.label.id}: expected {i.name} of {len(g.codes['target'])} frames, as the target "
            f"has, got {len(values)}"
        )
    return values


def _caption(g: Given, i: Input) -> np.ndarray:
    text = g.label.inputs.get(i.name, g.label.caption)
    if not text and not i.required:
        return np.zeros(0, np.int32)
    if g.captions is None:
        raise ValueError(
            f"{g.label.id}: expected a caption tokenizer for a task with captions, got none"
        )
    return g.captions.encode(text, i.name)


def _tokens(g: Given, i: Input) -> np.ndarray:
    labels = g.labels.get(i.segment, ())
    if i.name not in g.label.inputs:
        return np.zeros(0, np.int32)
    return token_ids(
        i, g.label.inputs[i.name], len(labels), {label: n for n, label in enumerate(labels)}
    )


def _text(g: Given, i: Input) -> Spoken:
    """The phones of the target, or of its edited part."""
    codes, phones = g.codes["target"], g.label.tracks["target"].phones
    if g.task.length != "durations":
        spoken = [p.phone for p in phones] or [
            p for s in iter_sentences(g.label.tracks["target"].text) for p in s.phones
        ]
        ids = np.array([_PHONE_ID[p] for p in spoken], np.int64)
        return Spoken(
            ids[np.concatenate(([True], ids[1:] != ids[:-1]))] if i.collapse else ids, ids[:0]
        )
    ends = np.array([p.end for p in phones])
    if any(o.modality == "context" for o in g.task.inputs):
        begin, end = edited(g)
        starts = np.concatenate(([0.0], ends[:-1]))
        inside = np.flatnonzero(
            (np.minimum(ends * FRAME_RATE, end) - np.maximum(starts * FRAME_RATE, begin)) > 0.25
        )
        if end - begin < 2 or not len(inside):
            raise Skip
        durations = frame_durations(
            (np.minimum(ends[inside] * FRAME_RATE, end) - begin) / FRAME_RATE, end - begin
        )
        ids = phone_ids(phones)[inside]
    else:
        durations, ids = frame_durations(ends, len(codes)), phone_ids(phones)
    if durations is None:
        raise Skip
    return Spoken(ids, durations)


def _score(g: Given, i: Input) -> Sung:
    target = g.label.tracks["target"]
    frames = len(g.codes["target"])
    durations = frame_durations([p.end for p in target.phones], frames)
    if durations is None:
        raise Skip
    return Sung(phone_ids(target.phones), durations, *song_notes(g.label, frames))


def _context(g: Given, i: Input) -> np.ndarray:
    around = edit_context(g.codes["target"], *edited(g))
    if len(around) < _MIN_CONTEXT:
        raise Skip
    return around


def edited(g: Given) -> tuple[int, int]:
    """The edited frames [begin, end) of the target; all frames where the label has no edit."""
    frames = len(g.codes["target"])
    if g.label.edit is None:
        return 0, frames
    span = g.label.edit.target
    return span.start // FRAME, min(frames, -(-span.end // FRAME))


READ: dict[str, Callable[[Given, Input], Value]] = {
    "voice": _voice,
    "audio": _audio,
    "units": _units,
    "caption": _caption,
    "tokens": _tokens,
    "text": _text,
    "score": _score,
    "context": _context,
    "span": lambda g, i: edited(g),
}


def make_item(g: Given) -> Item | None:
    """The item of an example, None where it cannot be used.

    Raises ValueError where its data do not match its task.
    """
    try:
        inputs = {i.name: READ[i.modality](g, i) for i in g.task.inputs}
        inputs |= {units_key(i): _units(g, i) for i in g.task.inputs if i.units}
    except Skip:
        return None
    codes = g.codes["target"]
    if any(i.modality == "context" for i in g.task.inputs):  # only the edit is predicted
        codes = codes[slice(*edited(g))]
    item = Item(g.task, codes, inputs, g.label.tracks["target"].speaker)
    begin, end = predicted(g.task, inputs, len(codes))
    if begin >= end:
        return None
    sound = g.task.aligned_sound
    if sound is not None and (begin, end) != (0, len(codes)):  # an edit continues the source
        source = inputs[sound.name]
        assert isinstance(source, np.ndarray)
        codes = np.concatenate((source[:begin], codes[begin:end], source[end : len(codes)]))
    return replace(item, codes=codes)


def read_items(
    folders: str | Path | Sequence[str | Path],
    task: str | Task,
    split: str,
    captions: CaptionTokenizer | None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Item]:
    """All items of a task and split in folders of token shards, which may be URLs.

    ``task``: a definition, or the name of a built-in task. ``labels``: the labels of the spans of
    its ``tokens`` inputs. Raises FileNotFoundError where there are no shards.
    """
    entry = TASKS[task] if isinstance(task, str) else task
    folders = [folders] if isinstance(folders, (str, Path)) else folders
    paths = sorted(p for f in folders for p in listed(place(f), f"{entry.name}-{split}-*.npz"))
    if not paths:
        where = ", ".join(map(str, folders))
        raise FileNotFoundError(
            f"no {entry.name}-{split} token shards in {where}; make them: uniaudio-train tokenize"
        )
    for path in paths:
        found = [Label.parse(line) for line in path.with_suffix(".jsonl").read_bytes().splitlines()]
        z = load_arrays(path)
        cuts = np.cumsum(z["frames"])[:-1]
        codes = iter(np.split(z["codes"], cuts))
        units = iter(np.split(z["units"], cuts)) if "units" in z else None
        for label in found:
            tracks = {role: next(codes) for role in label.tracks}
            spoken = {role: next(units) for role in label.tracks} if units is not None else {}
            item = make_item(Given(entry, label, tracks, spoken, captions, labels or {}))
            if item is not None:
                yield item
