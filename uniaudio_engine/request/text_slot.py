"""Sequences of models whose frames have a slot of text; see ``TextSlotConfig``.

Prompts are data of the model folder. What comes before the text in them, the voice often, is shared
by all sentences of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .sequence import Layout, Prefix, join
from .tasks import Input, Task


def vector_key(spec: Input) -> str:
    """The name of the value that holds a voice's row [D]."""
    return f"{spec.name}, vector"


def prompt(layout: Layout, task: Task, values: Mapping[str, Any]) -> tuple[Prefix, Prefix]:
    """What is before the text, and the rest.

    ``values``: of the voice codes [T, K'] or None, of the text :class:`Spoken`, by the names of
    their inputs; and the voice's row where it has one.
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
        if part.when not in ("always", "voice" if heard else "no_voice"):
            continue
        if part.kind == "ids":
            frames = layout.text_frames(part.ids)
        elif part.kind == "text":
            parts[0], parts[1] = parts[1], parts[0]
            frames = layout.text_frames(values[text.name].phones)
        elif heard:
            frames = layout.codes_to_frames(codes, part.ids[0] if part.ids else -1)
        else:
            continue
        parts[1].append(Prefix(frames))
    return join(parts[0]), join(parts[1])
