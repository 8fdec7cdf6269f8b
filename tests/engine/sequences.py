"""Shortcuts to the sequences of the tts task."""

from __future__ import annotations

from typing import Any

import numpy as np

from uniaudio_engine.request.sequence import Ids, Layout
from uniaudio_engine.request.sequence_builder import Sequence, Spoken, build
from uniaudio_engine.request.task_table import TASKS


def voice_prefix(layout: Layout, prompt: Any | None = None) -> Ids:
    """The frames [T, K] that a voice's sentences share; ``prompt``: codes [T', K] or None."""
    value = None if prompt is None else np.asarray(prompt)
    return build(layout, TASKS["tts"], {"prompt": value}).shared.frames


def tts_sequence(
    layout: Layout, phones: Any, durations: Any, codes: Any, prompt: Any | None = None
) -> Sequence:
    """phones [P], durations [P] that sum to T, codes [T, K], prompt codes [T', K] or None."""
    values = {
        "prompt": None if prompt is None else np.asarray(prompt),
        "text": Spoken(np.asarray(phones), np.asarray(durations)),
    }
    return build(layout, TASKS["tts"], values).complete(np.asarray(codes))
