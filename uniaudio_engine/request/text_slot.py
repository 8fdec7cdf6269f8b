"""Sequences of models whose frames have a slot of text; see ``TextSlotConfig``.

Prompts are data of the model folder. What comes before the text in them, the voice often, is shared
by all sentences of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ..backends.protocols import Session, WordSession
from ..errors import InputError
from ..storage.text_slot_config import VECTOR
from .sequence import Ids, Layout, Prefix, join
from .tasks import Input, Task


def vector_key(spec: Input) -> str:
    """The name of the value that holds a voice's vector [W], or its row [D]."""
    return f"{spec.name}, vector"


def transcript_key(spec: Input) -> str:
    """The name of the value that holds the text ids [n] of what is said in a voice's recording."""
    return f"{spec.name}, transcript"


def prompt(layout: Layout, task: Task, values: Mapping[str, Any]) -> tuple[Prefix, Prefix]:
    """What is before the text, and the rest.

    ``values``: of the voice codes [T, K'] or None, of the text :class:`Spoken`, of other inputs ids
    [n] or None, by the names of their inputs; and the voice's vector and transcript where the model
    takes them.
    """
    slot, text = layout.text_slot, task.text_input
    assert slot is not None and text is not None
    voice = next((i for i in task.inputs if i.modality == "voice"), None)
    codes = None if voice is None else values.get(voice.name)
    codes = layout.no_codes if codes is None else codes[:, : layout.num_codebooks]
    heard = len(codes) > 0
    nothing = Prefix(layout.text_frames(np.zeros(0, np.int64)))
    parts = [[nothing], [nothing]]
    for part in slot.prompt:
        name = next((i.name for i in task.inputs if i.segment == part.input), "")
        given = values.get(name) is not None
        there = "always", "voice" if heard else "no_voice", "given" if given else "absent"
        if part.when not in there:
            continue
        if part.kind == "ids":
            frames = layout.text_frames(part.ids)
        elif part.kind == "text":
            parts[0], parts[1] = parts[1], parts[0]
            frames = layout.text_frames(values[text.name].phones)
        elif part.kind == "transcript":
            words = None if voice is None else values.get(transcript_key(voice))
            frames = layout.text_frames([] if words is None else words)
        elif part.kind == "vector":
            assert voice is not None
            row = np.asarray(values[vector_key(voice)], np.float32)[None]
            place = layout.text_frames([0])  # whose embedding it replaces
            parts[1].append(Prefix(place, {VECTOR: (row, np.zeros(1, np.int32))}))
            continue
        elif part.kind == "input":
            frames = layout.slot_frames(part.input, values[name] if given else part.ids)
        elif heard:
            frames = layout.codes_to_frames(codes, part.ids[0] if part.ids else -1)
        else:
            continue
        parts[1].append(Prefix(frames))
    return join(parts[0]), join(parts[1])


def feed_words(session: Session, layout: Layout, ids: Ids) -> None:
    """Have a session speak text ids [P] word by word; see ``WordByWord``.

    Raises :class:`InputError` where the session is a graph's.
    """
    if not hasattr(session, "set_words"):
        raise InputError("text: expected backend native, which alone speaks a text word by word")
    assert layout.text_slot is not None and layout.text_slot.words is not None
    words, span = layout.text_slot.words, layout.vocabulary.span("text")
    said: list[list[int]] = [[]]
    for id in ids.tolist():
        if id == span.size - 1:
            said.append([])
        else:
            said[-1].append(span.start + id)
    second = layout.vocabulary.span("ahead").start - span.start if words.ahead else 0
    cast("WordSession", session).set_words(
        [(word, words.between + len(word) - 1 if words.between else 0) for word in said if word],
        new_word=span.start + words.new_word,
        pad=span.start + words.pad,
        ahead=words.ahead,
        second_offset=second,
        none=layout.text_id(-1),
        max_padding=words.max_padding,
        initial_padding=words.initial_padding,
        final_frames=words.final_frames,
    )
