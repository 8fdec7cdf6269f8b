"""Delays of slots: slot k of frame t is predicted at step t + delays[k]."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lm_tools import BASE, CONFIGS, native_lm, random_inputs, torch_lm
from tiny import tiny_config
from uniaudio_training.export import write
from uniaudio_training.lm import setup

from uniaudio_engine import _C, InputError
from uniaudio_engine.backends.graph_lm import GraphLM
from uniaudio_engine.storage.config import ConfigError, LMConfig, from_dict, to_dict
from uniaudio_engine.storage.delays import delayed, undelayed

NAMES = ["delays", "delays_depth"]


def slowly(
    c: LMConfig, prompt: np.ndarray, count: int, sampling: dict[str, Any]
) -> tuple[np.ndarray, bool]:
    """The frames after ``prompt``, id by id, from the logits of the same model without delays."""
    plain = replace(c, delays=(), delay_ids=())
    lm = native_lm(plain, torch_lm(c))
    sampler = _C.Sampler(_C.Sampling(**sampling), json.dumps(to_dict(plain)))
    keep, k = sampling.get("keep_end_frame", False), c.num_codebooks
    known, end = len(prompt), None
    frames = np.zeros((known + count + 2 * c.max_delay + 1, k), np.int32)
    frames[:known] = prompt
    rows: list[list[int]] = []
    while len(rows) - c.max_delay < known + count:
        step = len(rows)
        rows.append([0] * k)
        for slot in range(k):
            t = step - c.delays[slot]
            if t < 0:
                id = c.delay_ids[min(step, len(c.delay_ids) - 1)][slot]
            elif t < known:
                id = int(prompt[t, slot])
            elif end is not None and t >= end + keep:
                id = c.delay_ids[-1][slot]
            else:
                logits = lm.logits(np.array(rows, np.int32))[step, slot]
                id = sampler.sample(logits, slot, t, frames[known:t])
                if sampler.ends(slot, id):
                    end = t if end is None else min(end, t)
            rows[step][slot] = id
            if t >= 0:
                frames[t, slot] = id
        whole = step - c.max_delay
        if (
            end is None
            and whole >= known
            and sampler.ends_frame(frames[whole].tolist(), whole - known)
        ):
            end = whole
        if end is not None and whole >= end + keep - 1:
            break
    last = known + count if end is None else min(known + count, end + keep)
    return frames[known:last], end is not None and end + keep <= known + count


SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True},
    "drawn": {"seed": 3, "top_p": 0.9, "repetition_window": 4, "repetition_penalty": 1.3},
}


@pytest.mark.parametrize("how", SAMPLINGS)
@pytest.mark.parametrize("known", [0, 9])
@pytest.mark.parametrize("name", NAMES)
def test_frames_are_those_of_each_id_by_itself(name: str, known: int, how: str) -> None:
    c = CONFIGS[name]
    prompt = random_inputs(c, 9)[0][:known]
    expected, _ = slowly(c, prompt, 12, SAMPLINGS[how])
    session = native_lm(c, torch_lm(c)).session(40)
    session.prefill(prompt)
    found = session.generate(12, _C.Sampling(**SAMPLINGS[how]))
    np.testing.assert_array_equal(found, expected)
    assert session.frames == known + 12


def ending(c: LMConfig, name: str) -> list[dict[str, Any]]:
    """Samplings that end: at an id of slot 0, of the last slot, of any, or at a whole frame."""
    base = {"seed": 3, "temperature": 3.0}
    free = slowly(c, np.zeros((0, c.num_codebooks), np.int32), 12, base)[0]
    frame = [-1] * c.num_codebooks
    frame[-1] = int(free[7, -1])
    first, last = int(free[6, 0]), int(free[6, -1])
    return [
        {**base, "end_id": first, "end_slots": "first"},
        {**base, "end_id": first, "end_slots": "first", "min_frames": 5},
        {**base, "end_id": last, "end_slots": "last"},
        {**base, "end_frame": frame, "min_frames": 2},
        *([{**base, "end_id": last, "end_slots": "any"}] if name == "delays" else []),
    ]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_where_a_sequence_ends(name: str, keep: bool) -> None:
    """The slots that are behind go on to the end; streamed and beside others it is the same."""
    c = CONFIGS[name]
    lm = native_lm(c, torch_lm(c))
    for options in ending(c, name):
        options = {**options, "keep_end_frame": keep}
        expected, ended = slowly(c, np.zeros((0, c.num_codebooks), np.int32), 30, options)
        assert ended and len(expected) < 20
        sampling = _C.Sampling(**options)
        session = lm.session(40)
        np.testing.assert_array_equal(session.generate(30, sampling), expected)
        assert session.finished and session.frames == len(expected)
        assert len(session.generate(2, sampling)) == 0
        restored = lm.session(40)
        restored.restore(session.save())
        assert restored.finished and restored.frames == len(expected)
        pieces = lm.session(40)
        parts = [pieces.generate(n, sampling) for n in (1, 3, 2, 1, 9, 14)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)
        other = _C.Sampling(seed=8)
        both = [lm.session(40), lm.session(40)]
        made = _C.LM.generate_batch(both, 30, [sampling, other])
        np.testing.assert_array_equal(made[0], expected)
        np.testing.assert_array_equal(made[1], lm.session(40).generate(30, other))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4", "int8/int8"])
@pytest.mark.parametrize("name", NAMES)
def test_a_stream_is_the_whole_to_the_bit(name: str, dtype: str) -> None:
    """In pieces, forked, saved and restored, cancelled, and in a batch of sessions at other steps."""
    c = CONFIGS[name]
    lm = native_lm(c, torch_lm(c), dtype)
    prompt, sampling = random_inputs(c, 7)[0], _C.Sampling(seed=5, top_p=0.95)
    whole = lm.session(60)
    whole.prefill(prompt)
    expected = whole.generate(40, sampling)
    session = lm.session(60)
    session.prefill(prompt[:3])
    session.prefill(prompt[3:])
    parts = [session.generate(n, sampling) for n in (1, 2, 0, 5)]
    session = session.fork()
    parts.append(session.generate(6, sampling))
    session.cancel()
    assert len(session.generate(6, sampling)) == 0
    restored = lm.session(60)
    restored.restore(session.save())
    late = lm.session(60)
    together = _C.LM.generate_batch([late, restored], 26, [_C.Sampling(seed=2), sampling])
    parts.append(together[1])
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    np.testing.assert_array_equal(together[0], lm.session(60).generate(26, _C.Sampling(seed=2)))
    restored.reset()
    restored.prefill(prompt)
    np.testing.assert_array_equal(restored.generate(40, sampling), expected)


@pytest.mark.parametrize("name", NAMES)
def test_guided_streams(name: str) -> None:
    """The unconditional session takes the same ids, with a prompt of another length."""
    c = CONFIGS[name]
    lm = native_lm(c, torch_lm(c))
    prompt, sampling = random_inputs(c, 7)[0], _C.Sampling(seed=5)
    made = []
    for scale, parts in ((0.0, (20,)), (1.0, (20,)), (3.0, (20,)), (3.0, (1, 4, 15))):
        own, other = lm.session(40), lm.session(40)
        own.prefill(prompt)
        other.prefill(prompt[:2])
        own.set_guidance(other, scale)
        made.append(np.concatenate([own.generate(n, sampling) for n in parts]))
    alone = lm.session(40)
    alone.prefill(prompt)
    np.testing.assert_array_equal(made[1], alone.generate(20, sampling))
    np.testing.assert_array_equal(made[2], made[3])
    assert not np.array_equal(made[0], made[1]) and not np.array_equal(made[2], made[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_layout(name: str) -> None:
    c = CONFIGS[name]
    frames = random_inputs(c, 9)[0]
    steps = delayed(c, frames)
    assert steps.shape == (9 + c.max_delay, c.num_codebooks)
    for k, d in enumerate(c.delays):
        np.testing.assert_array_equal(steps[d : d + 9, k], frames[:, k])
        last = len(c.delay_ids) - 1
        assert steps[:d, k].tolist() == [c.delay_ids[min(s, last)][k] for s in range(d)]
        assert (steps[d + 9 :, k] == c.delay_ids[-1][k]).all()
    np.testing.assert_array_equal(undelayed(c, steps), frames)
    in_torch = torch_lm(c).delayed(torch.from_numpy(frames)[None].long())
    np.testing.assert_array_equal(in_torch[0].numpy(), steps)


def test_known_frames_come_before_generated_ones() -> None:
    c = CONFIGS["delays"]
    session = native_lm(c, torch_lm(c)).session(30)
    session.generate(2, _C.Sampling())
    with pytest.raises(ValueError, match="expected known frames before generated ones") as e:
        session.prefill(random_inputs(c, 3)[0])
    assert "\n" not in str(e.value) and session.frames == 2
    with pytest.raises(ValueError, match="tie_slots: expected false with delays"):
        session.generate(1, _C.Sampling(tie_slots=True))


IDS = ((5, 6, 7),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delays": (0, 1), "delay_ids": IDS}, "lm.delays: expected a list of 3"),
        ({"delays": (0, 1, -1), "delay_ids": IDS}, "lm.delays: expected 0 to 256, got -1"),
        ({"delays": (0, 1, 257), "delay_ids": IDS}, "lm.delays: expected 0 to 256, got 257"),
        ({"delays": (1, 1, 2), "delay_ids": IDS}, "lm.delays: expected 0 for some slots"),
        ({"delays": (0, 0, 0), "delay_ids": IDS}, "lm.delays: expected 0 for some slots"),
        ({"delays": (0, 1, 1)}, "lm.delay_ids: expected given exactly where delays are"),
        ({"delay_ids": IDS}, "lm.delay_ids: expected given exactly where delays are"),
        ({"delays": (0, 1, 1), "delay_ids": ((5, 6),)}, "lm.delay_ids: expected"),
        ({"delays": (0, 1, 1), "delay_ids": ((),)}, "lm.delay_ids: expected rows of 3 ids"),
        ({"delays": (0, 1, 1), "delay_ids": ((5, 6, 53),)}, "lm.delay_ids: expected 0 to 52"),
        ({"delays": (0, 1, 1), "delay_ids": IDS * 257}, "lm.delay_ids: expected a list of rows"),
        (
            {"delays": (0, 1, 1), "delay_ids": IDS, "aligned_slots": 1, "aligned_vocab": 4},
            "lm.delays: expected none with guide_slots",
        ),
        (
            {"delays": (0, 1, 1), "delay_ids": IDS, "continuous": {"text": 4}},
            "lm.delays: expected none with guide_slots, continuous",
        ),
        (
            {
                "delays": (0, 1, 1),
                "delay_ids": IDS,
                "global_": replace(BASE.global_, positions="learned"),
            },
            "lm.delays: expected none with guide_slots, continuous or learned",
        ),
    ],
)
def test_both_readers_refuse_the_same(changes: dict[str, Any], message: str) -> None:
    c = replace(BASE, **changes)
    data = json.loads(json.dumps(to_dict(c)))
    with pytest.raises(ConfigError, match=message) as e:
        from_dict(LMConfig, data, "config.lm").check()
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=message) as native:
        _C.LM(json.dumps(data), {})
    assert "\n" not in str(native.value)


def test_damaged_lists_are_refused() -> None:
    data = to_dict(CONFIGS["delays"])
    for wrong in ({"delays": 3}, {"delays": [0, "1", 2]}, {"delay_ids": [5]}, {"delay_ids": 1}):
        with pytest.raises(ConfigError, match="expected"):
            from_dict(LMConfig, {**data, **wrong}, "config.lm")
        with pytest.raises(ValueError, match="expected") as e:
            _C.LM(json.dumps({**data, **wrong}), {})
        assert "\n" not in str(e.value)


def test_what_a_session_keeps() -> None:
    c = CONFIGS["delays"]
    lm = native_lm(c, torch_lm(c))
    plain = native_lm(replace(c, delays=(), delay_ids=()), torch_lm(c))
    assert lm.memory_bytes(30) >= plain.memory_bytes(30 + c.max_delay)


def test_graphs_and_the_trainer_refuse_delays(tmp_path: Path) -> None:
    lm = replace(
        tiny_config(50).lm,
        delays=(0, 1, 1),
        delay_ids=((2, 2, 2),),
        aligned_slots=0,
        aligned_vocab=0,
    )
    config = replace(tiny_config(50), lm=lm)
    folder = SimpleNamespace(config=config, lm={}, captions=b"", path="model")
    message = "expected a (language )?model without delays of slots"
    with mock.patch.object(write, "load_folder", lambda _: folder):
        with pytest.raises(InputError, match=message):
            write.export_onnx("model", tmp_path / "out")
    with pytest.raises(InputError, match=message):
        GraphLM(SimpleNamespace(folder=folder))
    read = mock.patch.multiple(setup, load_config=lambda _: config, _base=lambda *_: folder)
    with read:
        with pytest.raises(ValueError, match=message):
            setup.set_up(setup.LMSettings(steps=1, init="model"))
