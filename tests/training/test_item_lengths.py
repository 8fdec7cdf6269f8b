"""The length of a training item, which selects its bucket, is that of its sequence."""

from __future__ import annotations

import joint_items
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainers need torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from uniaudio_training.corpus.schema import TASKS
from uniaudio_training.lm.items import make_item

from uniaudio_engine.request import aligned
from uniaudio_engine.request.sequence import Layout, make_vocabulary
from uniaudio_engine.text.phones import PHONES

K = 4
CAPTIONS = joint_items.tokenizer()
LAYOUT = Layout(
    make_vocabulary(
        K,
        joint_items.SIZE,
        len(PHONES),
        tuple(TASKS),
        ("caption",),
        CAPTIONS.size,
        lambda start: aligned.joint_spans(start, joint_items.SIZE, 32),
    ),
    K,
)


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1 << 31), prompt=st.none() | st.integers(0, 60))
def test_length_is_that_of_the_sequence(task: str, seed: int, prompt: int | None) -> None:
    rng = np.random.default_rng(seed)
    label, frames = joint_items.random_label(rng, task, 0)
    codes = {
        role: rng.integers(0, joint_items.SIZE, (n, joint_items.CODEBOOKS))
        for role, n in zip(label.tracks, frames, strict=True)
    }
    units = {"source": rng.integers(0, 32, frames[0])}
    item = make_item(joint_items.given(label, codes, units, CAPTIONS))
    if item is None:
        return
    voice = None if prompt is None else rng.integers(0, joint_items.SIZE, (prompt, 8))
    sequence = item.sequence(LAYOUT, voice)
    whole = sequence.complete(item.codes)
    assert len(whole.frames) == len(whole.aligned) == len(sequence.shared) + item.length
    assert len(sequence) == whole.durations.start <= whole.audio.start
    assert whole.audio.stop == len(whole.frames)
    assert np.array_equal(LAYOUT.frames_to_codes(whole.frames[whole.audio]), item.codes[:, :K])
