"""Classifier-free guidance: ids are sampled from unconditional + scale (conditional -
unconditional) logits, and the unconditional sequence of the engine lacks only the caption, or in
tasks without one the aligned rows of the target.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from joint import make_joint_model
from lm_tools import CONFIGS, native_lm, random_inputs, torch_lm

from uniaudio_engine import _C, Engine, InputError
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.storage.config import ConfigError
from uniaudio_engine.storage.folder import load_config

GREEDY: dict[str, Any] = {"greedy": True}
DRAWN: dict[str, Any] = {
    "temperature": 1.1,
    "top_k": 20,
    "seed": 3,
    "repetition_window": 3,
    "repetition_penalty": 1.2,
}


def pair(
    name: str, dtype: str = "float32", threads: int = 1
) -> tuple[Any, _C.LM, _C.LMSession, _C.LMSession, list[Any], list[Any]]:
    """A session of 12 known frames and one of 7 others, with what they were fed."""
    c = CONFIGS[name]
    lm = native_lm(c, torch_lm(c), dtype, threads)
    own, unconditional = random_inputs(c, 12, seed=1), random_inputs(c, 7, seed=2)
    sessions = [lm.session(n) for n in (64, 50)]
    for s, given in zip(sessions, (own, unconditional), strict=True):
        s.prefill(*given)
    return c, lm, *sessions, list(own), list(unconditional)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("name", ["base", "reference", "aligned", "everything", "one_codebook"])
def test_ids_follow_both_sides_logits(name: str, scale: float) -> None:
    c, lm, s, unconditional, own_given, unconditional_given = pair(name)
    aligned = (
        np.random.default_rng(9)
        .integers(-1, c.aligned_vocab, (20, c.aligned_slots))
        .astype(np.int32)
        if c.aligned_slots
        else None
    )
    s.set_guidance(unconditional, scale)
    out = s.generate(20, _C.Sampling(**GREEDY), aligned)
    assert s.guided and out.shape == (20, c.num_codebooks)

    def logits(given: list[Any]) -> np.ndarray:
        frames, known_aligned, continuous = given
        whole = None if aligned is None else np.concatenate((known_aligned, aligned))
        return lm.logits(np.concatenate((frames, out)), whole, continuous)[len(frames) :]

    a, b = logits(own_given), logits(unconditional_given)
    assert np.array_equal((b + np.float32(scale) * (a - b)).argmax(-1), out)
    assert not np.array_equal(a.argmax(-1), b.argmax(-1))  # the sides do differ
    if scale == 1.0:
        c, _, alone, *_ = pair(name)
        assert np.array_equal(alone.generate(20, _C.Sampling(**GREEDY), aligned), out)


@pytest.mark.parametrize("name", ["aligned", "everything"])
def test_the_unconditional_side_may_lack_the_aligned_rows(name: str) -> None:
    c, lm, s, _, given, _ = pair(name)
    rng = np.random.default_rng(9)
    rows = rng.integers(0, c.aligned_vocab, (22, c.aligned_slots)).astype(np.int32)
    s.set_guidance(s.fork(), 2.5, aligned=False)
    known = random_inputs(c, 2, seed=4)[0]
    s.prefill(known, rows[:2])  # that side hears the frames, and not the rows
    out = s.fork().generate(20, _C.Sampling(**GREEDY), rows[2:])  # as does a fork's
    frames, known_rows, continuous = given
    whole = np.concatenate((frames, known, out))
    with_rows = np.concatenate((known_rows, rows))
    without = np.concatenate((known_rows, np.full_like(rows, -1)))
    a, b = (lm.logits(whole, r, continuous)[len(frames) + 2 :] for r in (with_rows, without))
    assert np.array_equal((b + np.float32(2.5) * (a - b)).argmax(-1), out)
    assert not np.array_equal(a.argmax(-1), out)


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_alone_forked_in_parts_and_in_a_batch(threads: int, dtype: str) -> None:
    def start() -> _C.LMSession:
        *_, s, unconditional, _, _ = pair("base", dtype, threads)[1:]
        s.set_guidance(unconditional, 1.7)
        s.prefill(np.full((2, 3), 5, np.int32))  # both sides hear it
        return s

    expected = start().generate(24, _C.Sampling(**DRAWN))
    s = start()
    first = s.generate(10, _C.Sampling(**DRAWN))
    twin = s.fork()
    assert twin.guided
    for one in (s, twin):
        assert np.array_equal(
            np.concatenate((first, one.generate(14, _C.Sampling(**DRAWN)))), expected
        )

    c, lm, a, unconditional, *_ = pair("base", dtype, threads)
    unguided = a.fork().generate(24, _C.Sampling(**DRAWN))
    a.set_guidance(unconditional, 1.7)
    a.prefill(np.full((2, 3), 5, np.int32))
    ends, alone = (
        a.fork(),
        a.fork(),
    )  # one ends early: its side must not stay behind in the others' rows
    end = {**DRAWN, "top_k": 0, "temperature": 3.0, "end_id": 4, "end_slots": "first"}
    without = lm.session(64)
    without.prefill(*random_inputs(c, 12, seed=1))
    made = _C.LM.generate_batch(
        [ends, without, a], 24, [_C.Sampling(**end), _C.Sampling(**DRAWN), _C.Sampling(**DRAWN)]
    )
    assert np.array_equal(made[2], expected) and np.array_equal(made[1], unguided)
    assert np.array_equal(made[0], alone.generate(24, _C.Sampling(**end)))
    assert not np.array_equal(unguided, expected)


def test_bad_guidance_is_refused_and_changes_nothing() -> None:
    c, lm, s, unconditional, *_ = pair("base")
    other = pair("base")[3]
    guided = s.fork()
    guided.set_guidance(unconditional, 2.0)
    for wrong in (s, other, guided):
        with pytest.raises(ValueError, match="another session of the same LM"):
            s.set_guidance(wrong, 2.0)
    for scale in (-1.0, 101.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a scale from 0 to 100"):
            s.set_guidance(unconditional, scale)
    assert not s.guided
    with pytest.raises(ValueError, match="without guidance"):
        guided.save()
    with pytest.raises(
        ValueError, match="at most 43 more frames"
    ):  # there is less room at its side
        guided.generate(44, _C.Sampling())
    with pytest.raises(ValueError, match="at most 43 more frames"):
        guided.prefill(np.zeros((44, c.num_codebooks), np.int32))
    assert guided.frames == 12 and len(guided.generate(43, _C.Sampling())) == 43
    guided.restore(s.save())
    assert not guided.guided
    guided.set_guidance(unconditional, 2.0)
    guided.reset()
    assert not guided.guided and guided.frames == 0


def tone(seconds: float) -> tuple[np.ndarray, int]:
    t = np.arange(round(16000 * seconds)) / 16000
    return (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32), 16000


ALIGNED: dict[str, dict[str, Any]] = {
    "tts": {"phones": "pau hh ax0 l ow1 pau", "prompt": tone(1.5)},
    "vc": {"source": tone(0.7), "prompt": tone(1.5)},
    "se": {"source": tone(0.7)},
    "tse": {"source": tone(0.7), "prompt": tone(1.5)},
    "svs": {"score": "C4 1 hello\nR 0.5\n", "prompt": tone(1.5)},
    "sd": {"source": tone(0.7)},
    "s_edit": {"source": tone(2.0), "span": (1.1, 1.4), "phones": "w ah1 n"},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.from_pretrained(make_joint_model(tmp_path_factory.mktemp("guided") / "m"))


@pytest.mark.parametrize(
    ("task", "request_"),
    [
        ("t2s", {"text": "three knocks on wood", "seconds": 0.5}),
        (
            "a_edit",
            {
                "instruction": "add a bell",
                "source": (np.zeros(16000, np.float32), 16000),
                "span": (0.2, 0.6),
            },
        ),
        ("i_tts", {"instruction": "a low voice, slowly", "text": "Hello there. And again."}),
    ],
)
def test_tasks_with_a_caption_take_guidance(
    task: str, request_: dict[str, Any], engine: Engine
) -> None:
    plan = engine.plan(task, **request_, guidance=3.0)
    layout = engine.layout
    begin, end = (layout.special(f"caption_{side}") for side in ("start", "end"))
    for piece in plan.pieces:
        sequence = piece.sequence
        assert sequence.unconditional is not None
        body = sequence.conditional.body.frames
        at = int(np.flatnonzero((body == begin).all(1))[0])
        stop = int(np.flatnonzero((body == end).all(1))[0])
        assert stop > at + 1
        without = np.delete(body, range(at + 1, stop), 0)
        assert np.array_equal(sequence.unconditional.body.frames, without)
    strong = engine.generate(task, **request_, guidance=3.0, seed=1)
    with engine.stream(task, **request_, guidance=3.0, seed=1, chunk_frames=(3, 5)) as stream:
        assert np.array_equal(np.concatenate([c.samples for c in stream]), strong.samples)
    together = engine.generate_batch(
        [{**request_, "guidance": 3.0, "seed": 1}, {**request_, "guidance": 1.0, "seed": 1}], task
    )
    assert np.array_equal(together[0].samples, strong.samples)
    assert not np.array_equal(together[1].samples, strong.samples)
    assert strong.meta["guidance"] == 3.0
    unguided = engine.plan(task, **request_, guidance=1.0)
    assert all(p.sequence.unconditional is None for p in unguided.pieces)


@pytest.mark.parametrize("task", ["tts", "vc", "se", "tse", "svs", "sd", "s_edit"])
def test_other_tasks_are_guided_by_what_is_aligned(task: str, engine: Engine) -> None:
    """As by a session that never had the rows: the target's codes are drawn from both."""
    request_ = {**ALIGNED[task], "seed": 1}
    if engine.task(task).postfilter:
        request_["postfilter"] = 0
    unguided, strong = (engine.generate(task, **request_, guidance=g) for g in (1.0, 4.0))
    assert not np.array_equal(unguided.samples, strong.samples)
    assert strong.samples.shape == unguided.samples.shape  # durations are not guided
    with engine.stream(task, **request_, guidance=4.0, chunk_frames=(3, 5)) as stream:
        assert np.array_equal(np.concatenate([c.samples for c in stream]), strong.samples)
    (piece,) = engine.plan(task, **request_, guidance=4.0).pieces
    assert piece.sequence.unconditional is None


def test_a_model_has_its_own_defaults(engine: Engine, tmp_path: Path) -> None:
    folder = make_joint_model(tmp_path / "m")
    config = replace(load_config(folder), guidance={"tts": 4.0})
    (folder / "config.json").write_text(config.to_json())
    own = Engine.from_pretrained(folder)
    assert own.model.tasks["tts"].option("guidance").default == 4.0
    request_ = {**ALIGNED["tts"], "seed": 1}
    expected = engine.generate("tts", **request_, guidance=4.0)
    assert np.array_equal(own.generate("tts", **request_).samples, expected.samples)
    assert own.model.tasks["t2s"] == TASKS["t2s"]
    for wrong in ({"tts": 21.0}, {"nothing": 2.0}, {"tts": float("nan")}):
        with pytest.raises(ConfigError, match="guidance"):
            replace(config, guidance=wrong).check()


def test_guidance_is_an_option_of_every_task(engine: Engine) -> None:
    assert all(any(o.name == "guidance" for o in t.options) for t in TASKS.values())
    with pytest.raises(InputError, match="guidance: expected a number from 0 to 20"):
        engine.plan("t2s", text="a bell", guidance=21)
