"""Which phones the units of a model folder's semantic tokenizer stand for, counted on aligned speech.

The engine chooses the clearest of several sounds by that (the option ``best_of``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uniaudio_engine.engine import Engine
from uniaudio_engine.text.phones import PHONES

from .speech_clips import open_speech
from .views import frame_labels

CLIPS = 400  # of each corpus, spread over its training split
_PRIOR = 0.5  # frames with each phone, added to those of every unit


def count(folder: str | Path, corpora: Sequence[str], clips: int = CLIPS) -> NDArray[np.float32]:
    """Probability of the phone given the unit, [units, phones], from corpora with phone times.

    Vowels count together whatever their stress, which units tell badly. Raises FileNotFoundError where
    a corpus has no training speech with phone times, InputError for a folder without a tokenizer.
    """
    engine = Engine.from_pretrained(folder)
    encoder = engine.semantic_encoder
    plain = sorted({p.rstrip("012") for p in PHONES})
    index = np.array([plain.index(p.rstrip("012")) for p in PHONES])
    table = np.full((encoder.num_units, len(plain)), _PRIOR)
    hop = 1 / engine.frame_rate
    for corpus in corpora:
        spoken = open_speech(corpus, "train")
        for clip in spoken[:: max(1, len(spoken) // clips)]:
            units = encoder.encode(clip.samples())
            np.add.at(table, (units, index[frame_labels(clip.phones, len(units), hop=hop).now]), 1)
    share = table / table.sum(1, keepdims=True)
    return np.asarray(share[:, index], np.float32)
