"""Sequences: the documented layout, spelled out by hand on a small vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from sequences import tts_sequence, voice_prefix

from uniaudio_engine.request import aligned as aligned_rows
from uniaudio_engine.request import sequence as seq
from uniaudio_engine.request.sequence_builder import Spoken, build
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.storage.config import ConfigError

LAYOUT = seq.Layout(seq.make_vocabulary(num_codebooks=2, codebook_size=8, num_phones=5), 2)
V = LAYOUT.vocabulary


def test_vocabulary_spans_leave_room_for_specials() -> None:
    assert (V.special("start"), V.special("local_start")) == (0, 1)
    assert [(s.name, s.start, s.size) for s in V.spans] == [
        ("audio", 64, 16),
        ("phone", 80, 5),
        ("duration", 85, 64),
    ]
    assert seq.vocab_size(V) == 149
    assert [(s.start, s.size) for s in V.aligned_spans] == [(0, 5), (5, 5), (10, 5), (15, 32)]
    assert seq.aligned_vocab(V) == 47


def test_tts_sequence_by_hand() -> None:
    s = tts_sequence(
        LAYOUT, [3, 0, 4], [1, 2, 1], [[0, 1], [2, 3], [4, 5], [6, 7]], prompt=[[7, 0], [0, 7]]
    )
    name = V.special
    expected = [
        (name("start"),) * 2,
        (name("tts_task"),) * 2,
        (name("audio_prompt_start"),) * 2,
        (64 + 7, 72 + 0),
        (64 + 0, 72 + 7),
        (name("audio_prompt_end"),) * 2,
        (name("phone_start"),) * 2,
        (83, 83),
        (80, 80),
        (84, 84),
        (name("phone_end"),) * 2,
        (name("duration_start"),) * 2,
        (85, 85),
        (86, 86),
        (85, 85),
        (name("duration_end"),) * 2,
        (name("audio_start"),) * 2,
        (64, 73),
        (66, 75),
        (68, 77),
        (70, 79),
    ]
    assert s.frames.tolist() == [list(row) for row in expected]
    assert s.frames.dtype == s.aligned.dtype == np.int32
    nothing = [-1] * 4
    assert s.aligned.tolist() == [nothing] * 12 + [
        [3, 5 + 0, 10 + 4, -1],
        [0, 5 + 4, -1, -1],
        [4, -1, -1, -1],
        nothing,
        nothing,
        [3, 5 + 0, 10 + 4, 15],
        [0, 5 + 4, -1, 16],
        [0, 5 + 4, -1, 15],
        [4, -1, -1, 15],
    ]
    assert (s.durations, s.audio) == (slice(12, 15), slice(17, 21))


def test_codes_and_durations_round_trip() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (9, 2))
    assert (LAYOUT.frames_to_codes(LAYOUT.codes_to_frames(codes)) == codes).all()
    assert seq.token_durations(LAYOUT, seq.duration_tokens(LAYOUT, [1, 64, 65, 900])).tolist() == [
        1,
        64,
        64,
        64,
    ]


def test_frames_left_is_clipped_but_the_frames_are_all_there() -> None:
    rows = aligned_rows.phone_rows(LAYOUT, [2], [70])
    assert rows.shape == (70, 4)
    assert rows[:, 3].tolist() == [15 + min(left, 32) - 1 for left in range(70, 0, -1)]


def test_no_prompt_is_an_empty_segment() -> None:
    assert len(voice_prefix(LAYOUT)) == 4
    assert (
        voice_prefix(LAYOUT).tolist() == voice_prefix(LAYOUT, np.zeros((0, 2), np.int64)).tolist()
    )


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.25, 2.0])
def test_speed_keeps_the_total(speed: float) -> None:
    d = np.random.default_rng(1).integers(2, 20, 200)
    scaled = seq.scale_durations(d, speed)
    assert scaled.min() >= 1
    assert abs(scaled.sum() - d.sum() / speed) <= 1


def with_phones(phones: list[float]) -> None:
    build(LAYOUT, TASKS["tts"], {"text": Spoken(np.array(phones))})


@pytest.mark.parametrize(
    "call",
    [
        lambda: with_phones([5]),
        lambda: with_phones([-1]),
        lambda: with_phones([0.5]),
        lambda: LAYOUT.codes_to_frames([[0, 8]]),
        lambda: LAYOUT.codes_to_frames([0, 1]),
        lambda: seq.duration_tokens(LAYOUT, [0]),
        lambda: aligned_rows.phone_rows(LAYOUT, [1, 2], [3]),
        lambda: tts_sequence(LAYOUT, [1], [2], [[0, 0]]),
    ],
)
def test_values_out_of_range_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="expected"):
        call()


def test_vocabulary_that_does_not_fit_the_frames() -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        seq.Layout(V, 3)
