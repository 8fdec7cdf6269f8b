"""Frames with a slot of text beside the codec's codes: ids, ranges, and what a folder may hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniaudio_engine.errors import InputError
from uniaudio_engine.request.sequence import Layout
from uniaudio_engine.request.tasks import Input, Task
from uniaudio_engine.request.text_slot import feed_words
from uniaudio_engine.storage.config import (
    CodecConfig,
    ConfigError,
    LMConfig,
    ModelConfig,
    PromptPart,
    Span,
    SpectralConfig,
    StackConfig,
    TextSlotConfig,
    VocabularyConfig,
    WordByWord,
)
from uniaudio_engine.storage.folder import check_model

TEXT = 11
SPEAK = Task(
    "tts",
    "speak",
    (
        Input("prompt", "voice", "voice", "a voice", required=False),
        Input("text", "text", "text", "text"),
    ),
    "text",
    "uniaudio tts",
)
SLOT = TextSlotConfig("sentencepiece", (PromptPart("text"),), speaking=3, end=4)


def vocabulary(codebooks: int, size: int) -> VocabularyConfig:
    audio = Span("audio", 2 + TEXT, codebooks * size)
    return VocabularyConfig(("pad", "start"), (Span("text", 2, TEXT), audio))


def model(codebooks: int, of_codec: int, size: int = 8, **more: Any) -> ModelConfig:
    stack = StackConfig(1, 16, 2)
    lm = LMConfig(2 + TEXT + codebooks * size, codebooks + 1, stack, stack)
    codec = CodecConfig(
        "spectral",
        sample_rate=8000,
        frame_size=80,
        num_codebooks=of_codec,
        codebook_size=size,
        codebook_dim=4,
        spectral=SpectralConfig(),
    )
    rest: dict[str, Any] = {"text_slot": SLOT, "tasks": (SPEAK,), **more}
    return ModelConfig(1, "m", codec, lm, vocabulary(codebooks, size), **rest)


@given(
    codebooks=st.integers(1, 32),
    size=st.integers(1, 9),
    position=st.sampled_from(["first", "last"]),
    text=st.integers(-1, TEXT - 1),
    data=st.data(),
)
def test_frames(codebooks: int, size: int, position: Any, text: int, data: st.DataObject) -> None:
    slot = replace(SLOT, position=position)
    layout = Layout(vocabulary(codebooks, size), codebooks, slot)
    at = 0 if position == "first" else codebooks
    rows = data.draw(st.integers(0, 4))
    codes = np.array(
        data.draw(st.lists(st.integers(0, size - 1), min_size=rows * codebooks,
                           max_size=rows * codebooks)), np.int32
    ).reshape(rows, codebooks)  # fmt: skip
    frames = layout.codes_to_frames(codes, text)
    assert frames.shape == (rows, layout.slots) and layout.slots == codebooks + 1
    assert (frames[:, at] == (0 if text < 0 else 2 + text)).all()
    assert np.array_equal(layout.frames_to_codes(frames), codes)
    ranges = layout.audio_ranges()
    spoken = layout.codes_to_frames(codes, slot.speaking)
    for k, [(start, count)] in enumerate(ranges):
        assert ((spoken[:, k] >= start) & (spoken[:, k] < start + count)).all()
    taken = sorted((start, count) for [(start, count)] in ranges)
    assert all(a + n <= b for (a, n), (b, _) in zip(taken, taken[1:], strict=False))
    ids = np.arange(TEXT)
    written = layout.text_frames(ids)
    assert np.array_equal(written[:, at], ids + 2)
    assert not np.delete(written, at, axis=1).any()


def test_a_slot_of_text_is_not_one_of_the_codecs() -> None:
    for codebooks in (1, 16, 32):  # up to 33 slots
        config = model(codebooks, codebooks)
        config.check()
        check_model(config, (), Path("m"))
        assert config.lm_codebooks == codebooks
    with pytest.raises(InputError, match="up to the codec's 15 beside the slot of text, got 16"):
        check_model(model(16, 15), (), Path("m"))
    with pytest.raises(InputError, match="up to the codec's 16, got 17"):
        check_model(model(16, 16, text_slot=None), (), Path("m"))


def test_tasks_and_slot_belong_together() -> None:
    with pytest.raises(InputError, match="length text exactly where there is a text_slot"):
        check_model(model(2, 2, tasks=("tts",)), (), Path("m"))
    with pytest.raises(InputError, match="no inputs but a voice, tokens and a text"):
        replace(SPEAK, inputs=(*SPEAK.inputs, Input("a", "audio", "a", "a"))).check()
    tokens = Input("mood", "tokens", "audio", "a mood")
    task = replace(SPEAK, inputs=(*SPEAK.inputs, tokens))
    task.check()
    with pytest.raises(InputError, match="a part of the prompt for each input of tokens, got none"):
        check_model(model(2, 2, tasks=(task,)), (), Path("m"))
    with pytest.raises(InputError, match="expected an input named source"):
        replace(SPEAK, inputs=SPEAK.inputs[:1]).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ()}, "one part of kind text"),
        ({"prompt": (PromptPart("text"), PromptPart("text"))}, "one part of kind text"),
        ({"prompt": (PromptPart("text"), PromptPart("ids"))}, r"prompt\[1\].ids: expected 1 to"),
        ({"prompt": (PromptPart("text"), PromptPart("ids", (TEXT,)))}, "expected 0 to 10"),
        ({"prompt": (PromptPart("text", (1,)),)}, "expected 0 to 0 ids"),
        ({"prompt": (PromptPart("text"), *[PromptPart("voice")] * 2)}, "one voice at most"),
        ({"prompt": (PromptPart("text"), PromptPart("input"))}, "input: expected a name"),
        ({"prompt": (PromptPart("text", input="audio"),)}, "input: expected a name"),
        ({"prompt": (PromptPart("text"), PromptPart("ids", (1,), "given"))}, "expected a name"),
        (
            {"prompt": (PromptPart("text"), PromptPart("input", input="mood"))},
            "vocabulary has no span 'mood'",
        ),
        (
            {"prompt": (PromptPart("text"), PromptPart("input", (16,), input="audio"))},
            "expected 0 to 15, got 16",
        ),
        ({"end_token": True}, "vocabulary has no special token 'end'"),
        ({"least_frames": -1}, "least_frames: expected 0 to"),
        ({"speaking": TEXT}, "speaking: expected -1 to 10"),
        ({"speaking": -1}, "speaking: expected an id, as end has"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_frames_per_token": -1.0}, "max_frames_per_token"),
        ({"pause": 11.0}, "pause"),
    ],
)
def test_wrong_prompts_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as e:
        model(2, 2, text_slot=replace(SLOT, **change)).check()
    assert "\n" not in str(e.value)


def test_the_configuration_is_read_back() -> None:
    config = model(2, 2)
    assert ModelConfig.from_json(config.to_json()) == config


def test_words_in_a_session_without_them() -> None:
    slot = replace(SLOT, words=WordByWord(1, 2))
    with pytest.raises(InputError, match="^text: expected backend native"):
        feed_words(cast(Any, object()), Layout(vocabulary(2, 4), 2, slot), np.zeros(3, np.int32))
