"""Texts that are spoken word by word, and slots whose ids are given (``csrc/words.h``)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lm_tools import BASE, GIVEN, native_lm, random_inputs, there, torch_lm, torch_logits

from uniaudio_engine import _C
from uniaudio_engine.storage.config import ConfigError, LMConfig, from_dict, to_dict

ONE = replace(GIVEN, given_slots=0, num_codebooks=4)
LATE = {"delays": (0, 0, 2, 3, 3), "delay_ids": ((12, 0, 0, 0, 0),)}
LATE_ONE = {"delays": (0, 2, 3, 3), "delay_ids": ((12, 0, 0, 0),)}
NEW, PAD = 11, 12
WORDS: list[tuple[list[int], int]] = [
    ([13, 14], 2),
    ([15], 1),
    ([], 6),
    ([16, 17, 18], 4),
    ([19], 1),
]
KINDS = {
    "one text": (ONE, {}),
    "one text, late": (replace(ONE, **LATE_ONE), {}),
    "ahead": (GIVEN, {"ahead": 1}),
    "ahead, late": (replace(GIVEN, **LATE), {"ahead": 2}),
}
AHEAD = {"second_offset": 20, "none": 0}


def start(c: LMConfig, lm: _C.LM, more: dict[str, Any], words: Any = WORDS) -> _C.LMSession:
    session = lm.session(64)
    more = {**more, **(AHEAD if c.given_slots else {})}
    session.set_words(words, NEW, PAD, max_padding=5, initial_padding=2, final_frames=3, **more)
    return session


def expected(c: LMConfig, drawn: list[int], ahead: int) -> tuple[list[list[int]], int]:
    """(slots of text [T, 1 or 2], frames in all) where these ids are drawn, told step by step."""
    out, queue, later, todo = [], [], [], list(WORDS)
    may, must, end = 2, 2, 0
    for t, id in enumerate(drawn):
        new = not queue and must == 0 and (may == 0 or id == NEW)
        marked, second = False, 0
        if new and todo:
            ids, padding = todo.pop(0)
            must = padding
            if ids:
                marked, may, queue = True, 5, list(ids)
                coming = [w for w, _ in todo if w]
                later += [i + 20 for i in coming[ahead - 1]] if 0 < ahead <= len(coming) else []
        elif new:
            marked = ahead > 0 and not end
            end = end or t + 3
        if not marked:
            may, must = max(0, may - 1), max(0, must - 1)
        if ahead:
            second = NEW + 20 if marked else later.pop(0) if later else 0
            out.append([queue.pop(0) if queue else PAD, second])
        else:
            out.append([NEW if marked else queue.pop(0) if queue else PAD])
        if end and t + 1 >= end:
            break
    return out, end


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_fed_and_where_it_ends(kind: str) -> None:
    c, more = KINDS[kind]
    model = torch_lm(c)
    lm = native_lm(c, model)
    for seed in range(4):
        sampling = _C.Sampling(seed=seed)
        session = start(c, lm, more)
        frames = session.generate(60, sampling)
        assert session.finished and session.frames == len(frames) < 60
        texts = 1 + c.given_slots
        # The same draws again, from the logits of what was said.
        logits = torch_logits(model, (frames, None, {}), torch.float32)
        sampler = _C.Sampler(sampling, json.dumps(to_dict(c)))
        drawn = [sampler.sample(logits[t, 0], 0, t, frames[:t]) for t in range(len(frames))]
        told, end = expected(c, drawn, more.get("ahead", 0))
        assert frames[:, :texts].tolist() == told and len(frames) == end
        parts = start(c, lm, more)
        made = [parts.generate(n, sampling) for n in (1, 2)]
        parts = parts.fork()
        made += [parts.generate(n, sampling) for n in (4, 50)]
        np.testing.assert_array_equal(np.concatenate(made), frames)
        both = [start(c, lm, more), start(c, lm, more, WORDS[:2])]
        together = _C.LM.generate_batch(both, 60, [sampling, _C.Sampling(seed=9)])
        np.testing.assert_array_equal(together[0], frames)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_first_local_slot_hears_all_before_it(dtype: str) -> None:
    model = torch_lm(GIVEN)
    inputs = random_inputs(GIVEN, 40)
    inputs[0][:, 1] = inputs[0][:, 2]  # ids that the local table has
    found, wanted = (
        native_lm(GIVEN, model, dtype).logits(*inputs),
        torch_logits(model, inputs, torch.float32),
    )
    assert np.isneginf(found[:, 1]).all()
    error = np.abs(there(found) - there(wanted)).max() / np.abs(there(wanted)).max()
    assert error < (1e-5 if dtype == "float32" else 0.3)
    inputs[0][:, 1] += 1
    changed = native_lm(GIVEN, model).logits(*inputs)[0, 2]
    assert np.abs(changed[11:51] - wanted[0, 2, 11:51]).max() > 1e-3


def test_given_slots_need_ids() -> None:
    lm = native_lm(GIVEN, torch_lm(GIVEN))
    with pytest.raises(ValueError, match="slot 1: expected words or a forced id") as e:
        lm.session(8).generate(4, _C.Sampling())
    assert "\n" not in str(e.value)
    forced = _C.Sampling(forced=[-1, 17, -1, -1, -1])
    assert (lm.session(8).generate(4, forced)[:, 1] == 17).all()
    with pytest.raises(ValueError, match="save: expected a session without words"):
        start(GIVEN, lm, {"ahead": 1}).save()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"given_slots": 9}, "lm.given_slots: expected 0 to 8"),
        ({"given_slots": -1}, "lm.given_slots: expected 0 to 8"),
        ({"conditioning": "prefix", "given_slots": 1}, "lm.given_slots: expected 0 without"),
        ({"given_slots": 4}, "lm.num_codebooks: expected 6 or more"),
    ],
)
def test_both_readers_refuse_the_same(changes: dict[str, Any], message: str) -> None:
    data = json.loads(json.dumps(to_dict(replace(GIVEN, **changes))))
    with pytest.raises(ConfigError, match=message):
        from_dict(LMConfig, data, "config.lm").check()
    with pytest.raises(ValueError, match=message) as e:
        _C.LM(json.dumps(data), {})
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": [([53], 0)]}, "expected ids below 53, got 53"),
        ({"words": [([-1], 0)]}, "expected ids below 53, got -1"),
        ({"words": [([40], 0)]}, "expected ids below 53, got 60"),
        ({"words": [([13], -1)]}, "a padding of 0 to 1048576, got -1"),
        ({"new_word": 53}, "expected ids below 53"),
        ({"pad": -2}, "expected ids below 53"),
        ({"none": 99}, "expected ids below 53"),
        ({"second_offset": 2**31 - 1}, "expected ids below 53"),
        ({"ahead": 0}, "a given slot exactly with ahead"),
        ({"max_padding": -1}, "max_padding of 0 to 1048576"),
        ({"final_frames": 2**40}, "final_frames of 0 to 1048576"),
    ],
)
def test_words_out_of_range(changes: dict[str, Any], message: str) -> None:
    session = native_lm(GIVEN, torch_lm(GIVEN)).session(8)
    values = {"words": WORDS, "new_word": NEW, "pad": PAD, "ahead": 1, **AHEAD, **changes}
    with pytest.raises(ValueError, match=message) as e:
        session.set_words(**values)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="a given slot exactly with ahead"):
        native_lm(BASE, torch_lm(BASE)).session(8).set_words([], 0, 1, ahead=1)
