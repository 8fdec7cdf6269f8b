"""The token sequence of a task, built from the values of its inputs.

The engine reads the values from a request (``inputs.py``), the trainer from a corpus label. Both
build the sequence here, so a model is asked exactly what it was trained on.

Values, by the modality of their input; T frames, K' >= K codebooks, P phones::

    voice, audio, context   codes [T, K'], None or empty for "not given"; -1 where they are hidden
    caption, tokens         ids [n] from 0 within the span ``segment``
    states                  float32 [n, width]
    text                    Spoken; score: Sung
    units                   ids [T]; an aligned audio input with ``units`` also has a second value,
                            named by units_key()
    span                    (begin, end) in frames of an aligned sound
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import aligned
from .sequence import Ids, Layout, Prefix, duration_tokens, join, segment
from .tasks import Input, Task
from .text_slot import prompt, vector_key


def _empty() -> Ids:
    return np.zeros(0, np.int32)


@dataclass(frozen=True)
class Spoken:
    """``phones`` [P] as ids, and ``durations`` [P] in frames; empty where they are not known."""

    phones: NDArray[Any]
    durations: NDArray[Any] = field(default_factory=_empty)

    def __len__(self) -> int:
        return len(self.phones)


@dataclass(frozen=True)
class Sung(Spoken):
    """Spoken on notes: ``pitches`` are MIDI numbers in order (0: a rest), ``note_frames`` their
    lengths. Phones and notes are equally long in all.
    """

    pitches: NDArray[Any] = field(default_factory=_empty)
    note_frames: NDArray[Any] = field(default_factory=_empty)


Value = NDArray[Any] | Spoken | tuple[int, int] | None
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Sequence:
    """A complete sequence: ``frames`` [T, K], ``aligned`` [T, S], and where in T the planned
    durations and the audio lie.
    """

    frames: Ids
    aligned: Ids
    durations: slice
    audio: slice


@dataclass(frozen=True)
class TaskSequence:
    """What is known of a sequence before its target; made by :func:`build`.

    ``shared``: start, task token, and the voice prompt it begins with. It is the same for all
    sentences of a request. ``body``: the rest, up to the first frame that is predicted.
    """

    layout: Layout
    task: Task
    values: Values
    shared: Prefix
    body: Prefix

    def __len__(self) -> int:
        return len(self.shared) + len(self.body)

    def changed(self, values: Values) -> TaskSequence:
        """The sequence with some values replaced."""
        return build(self.layout, self.task, {**self.values, **values})

    def with_durations(self, durations: Ids) -> TaskSequence:
        """The sequence with durations [P] in frames for its phones."""
        assert self.spoken is not None and self.task.text_input is not None
        spoken = replace(self.spoken, durations=durations)
        return replace(self, values={**self.values, self.task.text_input.name: spoken})

    def unconditional(self) -> TaskSequence:
        """The sequence without its captions, or without the voice where words are fed, for
        classifier-free guidance.
        """
        slot = self.layout.text_slot
        if slot is not None and slot.words is not None:
            nothing = np.full(
                (len(self.body), self.layout.slots), self.layout.text_id(-1), np.int32
            )
            return replace(self, body=Prefix(nothing))
        return self.changed(without_captions(self.task))

    # Durations, for tasks of length "durations"

    @property
    def spoken(self) -> Spoken | None:
        """The phones whose durations are predicted before the audio, if any."""
        if self.task.length != "durations" or self.task.text_input is None:
            return None
        value = self.values[self.task.text_input.name]
        assert isinstance(value, Spoken)
        return value

    @property
    def tokens(self) -> int:
        """Tokens of the spoken text, 0 where there is none."""
        text = self.task.text_input
        value = None if text is None else self.values.get(text.name)
        return 0 if value is None else len(value)

    def duration_frames(self) -> Ids:
        """The duration tokens [P, K] of the phones."""
        assert self.spoken is not None
        return duration_tokens(self.layout, self.spoken.durations)

    def duration_rows(self) -> Ids:
        """The aligned rows [P, S] of the duration tokens."""
        assert self.spoken is not None
        return aligned.phone_features(self.layout, self.spoken.phones)

    def after_durations(self) -> Ids:
        """The special tokens [2, K] between the durations and the target."""
        return self.layout.special("duration_end", f"{self.task.target}_start")

    # The target

    @property
    def source_frames(self) -> int:
        """Frames of the source that the target is as long as; 0 where there is none."""
        aligned_input = self.task.aligned_input
        name = "source" if aligned_input is None else aligned_input.name
        value = self.values.get(name)
        if isinstance(value, Sung):
            return int(value.durations.sum())
        return 0 if value is None else len(value)

    @property
    def is_aligned(self) -> bool:
        """Whether the target's frames have aligned rows."""
        task = self.task
        return (
            task.aligned_input is not None or task.length == "durations" or self._counts_time_left
        )

    @property
    def _counts_time_left(self) -> bool:
        spans = self.layout.vocabulary.aligned_spans
        return self.task.length == "seconds" and any(s.name == "time_left" for s in spans)

    def target_rows(self, frames: int) -> Ids:
        """The aligned rows [frames, S] of the target."""
        layout, task = self.layout, self.task
        rows = layout.no_aligned(frames)
        for spec in task.inputs:
            value = self.values.get(spec.name)
            if spec.place == "aligned" or (spec.modality == "text" and task.length == "durations"):
                rows = _put_aligned(layout, rows, spec.modality, value)
            if spec.units:
                aligned.put_units(layout, rows, _array(self.values[units_key(spec)]))
            if spec.modality == "span" and value is not None and task.hides_aligned(spec):
                aligned.put_edit(layout, rows, *_span(value))
        if self._counts_time_left:
            aligned.put_time_left(layout, rows)
        if len(rows) != frames:
            raise ValueError(f"rows: expected {frames}, one per frame, got {len(rows)}")
        return rows

    def predicted(self, frames: int) -> tuple[int, int]:
        """See :func:`predicted`."""
        return predicted(self.task, self.values, frames)

    def known_target(self, frames: int) -> Ids:
        """The frames [n, K] at the start of the target that are copied from the source."""
        begin, _ = self.predicted(frames)
        sound = self.task.aligned_sound
        if not begin or sound is None:
            return self.layout.fill([])
        return _code_frames(self.layout, _array(self.values[sound.name])[:begin])

    def complete(self, codes: NDArray[Any]) -> Sequence:
        """The whole training sequence with the target's codes [T, K'].

        Where the model decides on the length, ``<audio_end>`` is the last of the audio frames.
        """
        layout = self.layout
        audio = _code_frames(layout, codes)
        rows = self.target_rows(len(audio))
        if self.task.length == "end":
            audio = np.concatenate((audio, layout.special(f"{self.task.target}_end")))
            rows = np.concatenate((rows, layout.no_aligned(1)))
        parts = [self.shared.frames, self.body.frames]
        planned = layout.fill([])
        if self.spoken is not None:
            planned = self.duration_frames()
            parts += [planned, self.after_durations()]
        first, begin = len(self), sum(map(len, parts))
        all_rows = layout.no_aligned(begin + len(audio))
        if self.spoken is not None:
            all_rows[first : first + len(planned)] = self.duration_rows()
        all_rows[begin:] = rows
        return Sequence(
            np.concatenate([*parts, audio]),
            all_rows,
            slice(first, first + len(planned)),
            slice(begin, begin + len(audio)),
        )


@dataclass(frozen=True)
class Guided:
    """A sequence and, under classifier-free guidance, the same one without its captions."""

    conditional: TaskSequence
    unconditional: TaskSequence | None = None

    def changed(self, values: Values) -> Guided:
        """Both sequences with some values replaced."""
        other = self.unconditional
        return Guided(
            self.conditional.changed(values), None if other is None else other.changed(values)
        )

    def with_phones(self, phones: Ids) -> Guided:
        """Both sequences with other phones [P] as their text."""
        text = self.conditional.task.text_input
        assert text is not None
        return self.changed({text.name: Spoken(phones)})


def build(layout: Layout, task: Task, values: Values) -> TaskSequence:
    """Lay out a task's inputs; ``values`` by the names of its inputs.

    Inputs keep the order of the task's definition, except that phones whose durations are predicted
    come last. Raises ValueError for values out of range.
    """
    if layout.text_slot is not None:
        before, rest = prompt(layout, task, values)
        for spec in task.inputs:
            if vector_key(spec) in values and layout.text_slot.speaker is None:
                before = replace(before, condition=_array(values[vector_key(spec)]))
        return TaskSequence(layout, task, values, before, rest)
    shared = [Prefix(layout.special("start", task.special))]
    body: list[Prefix] = []
    planned: list[Prefix] = []
    for spec in task.inputs:
        if not in_sequence(spec):
            continue
        tokens = segment(layout, spec.segment, _tokens(layout, spec, values.get(spec.name)))
        if spec is task.shared_prompt:
            shared.append(tokens)
        elif spec.modality == "text" and task.length == "durations":
            planned.append(tokens)
        else:
            body.append(tokens)
    next_token = "duration_start" if task.length == "durations" else f"{task.target}_start"
    body = [*body, *planned, Prefix(layout.special(next_token))]
    return TaskSequence(layout, task, values, join(shared), join(body))


def sentence_length(task: Task, values: Values, frames: int) -> int:
    """Rows of a complete sequence after its shared part, with a target of ``frames`` frames."""
    length = 1 + frames + (task.length == "end")  # with the target's start, and its end
    for spec in task.inputs:
        if not in_sequence(spec) or spec is task.shared_prompt:
            continue
        value = values.get(spec.name)
        count = 0 if value is None else len(value)
        length += count + 2
        if spec.modality == "text" and task.length == "durations":
            length += count + 2
    return length


def predicted(task: Task, values: Values, frames: int) -> tuple[int, int]:
    """Frames [begin, end) that the model predicts, of a target of ``frames`` frames.

    All of them; or, in an edit of an aligned sound, those of its span.
    """
    if task.finish != "span" or task.aligned_sound is None:
        return 0, frames
    spec = next(i for i in task.inputs if i.modality == "span")
    return _span(values[spec.name])


def in_sequence(spec: Input) -> bool:
    """Whether an input has a segment of its own in the sequence."""
    return spec.place == "sequence" and spec.modality != "span"


def without_captions(task: Task) -> dict[str, Value]:
    """Values that leave a task's captions empty."""
    return {i.name: _empty() for i in task.inputs if i.modality == "caption"}


def units_key(spec: Input) -> str:
    """The name of the value that holds an aligned sound's semantic units."""
    return f"{spec.name}, units"


def _tokens(layout: Layout, spec: Input, value: Value) -> Prefix:
    """The tokens of one input, without the special tokens around them."""
    if value is None or not len(value):
        return Prefix(layout.fill([]))
    if isinstance(value, Spoken):
        return Prefix(layout.tokens(spec.segment, value.phones))
    if spec.modality in ("voice", "audio", "context"):
        return Prefix(_code_frames(layout, _array(value)))
    if spec.modality == "states":
        place = layout.special(*["continuous_token"] * len(value))
        return Prefix(place, {spec.segment: (_array(value), np.arange(len(value), dtype=np.int32))})
    return Prefix(layout.tokens(spec.segment, value))


def _code_frames(layout: Layout, codes: NDArray[Any]) -> Ids:
    """codes [T, K'] -> frames [T, K]; mask tokens where codes are -1."""
    codes = codes[:, : layout.num_codebooks]
    hidden = np.flatnonzero((codes < 0).all(axis=1)) if codes.size else _empty()
    if not len(hidden):
        return layout.codes_to_frames(codes)
    shown = codes.copy()
    shown[hidden] = 0
    frames = layout.codes_to_frames(shown)
    frames[hidden] = layout.tokens("audio_mask", [0])
    return frames


def _put_aligned(layout: Layout, rows: Ids, modality: str, value: Value) -> Ids:
    """Aligned rows [T, S] with the columns of one aligned source."""
    if isinstance(value, Spoken):
        rows = aligned.phone_rows(layout, value.phones, value.durations)
    if isinstance(value, Sung):
        aligned.put_notes(layout, rows, value.pitches, value.note_frames)
    elif modality == "units":
        aligned.put_units(layout, rows, _array(value))
    elif modality == "audio":
        aligned.put_source(layout, rows, _array(value))
    return rows


def _array(value: Value) -> NDArray[Any]:
    assert isinstance(value, np.ndarray)
    return value


def _span(value: Value) -> tuple[int, int]:
    assert isinstance(value, tuple)
    return value
