"""The post-filter: the torch reference, streams, forks, and what a model does with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint import POSTFILTER, make_joint_model, without_filter
from live_tools import RATE, speech
from tiny import random_weights
from uniaudio_training.models.postfilter import PostFilter as Reference

from uniaudio_engine import Engine, InputError
from uniaudio_engine._C import PostFilter
from uniaudio_engine.storage.config import ConfigError, PostFilterConfig, to_dict
from uniaudio_engine.storage.weight_shapes import postfilter_shapes

SHAPES = [
    PostFilterConfig(),
    POSTFILTER,
    PostFilterConfig(window=640, hop=128, width=24, hidden=40, blocks=1, lookahead=0),
    PostFilterConfig(window=320, hop=160, width=8, hidden=9, blocks=3, kernel_size=1, lookahead=7),
    PostFilterConfig(window=14, hop=3, width=8, hidden=9, blocks=1, kernel_size=63),
]
CLEAN_UP = ("se", "sd")


def sharp(c: PostFilterConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights whose gains are far from one another."""
    weights = random_weights(postfilter_shapes(c), seed)
    weights["net.output.weight"] *= 4
    return weights


def core(c: PostFilterConfig, weights: dict[str, np.ndarray], threads: int = 1) -> PostFilter:
    return PostFilter(json.dumps(to_dict(c)), weights, threads)


def sounds(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((2, n)).astype(np.float32) * 0.1
    return x[0], x[1]


@pytest.mark.parametrize("c", SHAPES, ids=lambda c: f"{c.window}/{c.hop}")
@pytest.mark.parametrize("n", [0, 1, 159, 5000])
def test_core_is_the_reference(c: PostFilterConfig, n: int) -> None:
    weights = sharp(c)
    model = Reference(c).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    x, y = sounds(n)
    made = core(c, weights).apply(x, y)
    assert made.dtype == np.float32 and made.shape == (n,)
    if n:
        with torch.no_grad():
            expected = model(torch.from_numpy(x)[None], torch.from_numpy(y)[None])[0].numpy()
        assert np.abs(made - expected).max() < 2e-6
        assert np.abs(made - x).max() > 1e-3  # it did something


def test_gains_of_one_give_the_source_back() -> None:
    weights = sharp(POSTFILTER)
    weights["net.output.weight"][:] = 0
    weights["net.output.bias"][:] = 40
    x, y = sounds(9000)
    assert np.abs(core(POSTFILTER, weights).apply(x, y) - x).max() < 2e-7


@pytest.mark.parametrize("c", SHAPES[1:], ids=lambda c: f"{c.window}/{c.hop}")
@pytest.mark.parametrize("least", [0.1, 0.5, 1.0])
def test_a_least_gain_mixes_the_source_in(c: PostFilterConfig, least: float) -> None:
    f = core(c, sharp(c))
    x, y = sounds(3000)
    expected = (1 - least) * f.apply(x, y) + least * x
    assert np.abs(f.apply(x, y, least) - expected).max() < 1e-6


@pytest.mark.parametrize("least", [-0.01, 1.01, np.nan, np.inf])
def test_a_least_gain_is_a_share(least: float) -> None:
    f = core(POSTFILTER, sharp(POSTFILTER))
    for make in (f.stream, lambda g: f.apply(*sounds(10), g)):
        with pytest.raises(ValueError, match="least_gain: expected 0 to 1, got"):
            make(least)


@given(
    st.sampled_from(SHAPES[1:]),
    st.integers(0, 30000),
    st.lists(st.integers(0, 4000), min_size=1, max_size=5),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.1, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_no_splitting_changes_a_sample(
    c: PostFilterConfig, n: int, sizes: list[int], threads: int, least: float
) -> None:
    weights = sharp(c)
    x, y = sounds(n, 3)
    whole = core(c, weights).apply(x, y, least)
    f = core(c, weights, threads)
    stream, parts, at, i = f.stream(least), [], 0, 0
    sizes = [*sizes, 777]
    while at < n:
        size = sizes[i % len(sizes)]
        parts.append(stream.push(x[at : at + size], y[at : at + size]))
        at, i = at + size, i + 1
        given_out = sum(map(len, parts))
        assert given_out >= min(at, n) - f.delay - c.hop  # no sample waits longer
        if i == 2:  # the copy goes on as the stream does
            copy, before = stream.fork(), list(parts)
            rest = [copy.push(x[at:], y[at:]), copy.flush()]
            assert np.array_equal(np.concatenate([*before, *rest]), whole)
    parts.append(stream.flush())
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(np.concatenate([stream.push(x, y), stream.flush()]), whole)  # a new clip


def test_bad_sounds_are_refused_and_change_nothing() -> None:
    f = core(POSTFILTER, sharp(POSTFILTER))
    x, y = sounds(3000)
    stream = f.stream()
    first = stream.push(x[:1000], y[:1000])
    broken = y[1000:].copy()
    broken[7] = np.nan
    for source, answer, why in (
        (x[1000:], broken, "answer: expected finite samples"),
        (broken, y[1000:], "source: expected finite samples"),
        (x[1000:], y[1000:1500], "as many samples as the source's 2000, got 500"),
        (np.zeros((2, 5), np.float32), y[:5], "expected float32"),
    ):
        with pytest.raises(ValueError, match=why):
            stream.push(source, answer)
    rest = stream.push(x[1000:], y[1000:])
    assert np.array_equal(np.concatenate((first, rest, stream.flush())), f.apply(x, y))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"window": 511}, "window: expected an even number"),
        ({"hop": 400}, "hop"),
        ({"hop": 0}, "hop"),
        ({"blocks": 0}, "blocks"),
        ({"lookahead": -1}, "lookahead"),
        ({"log_floor": 0.0}, "log_floor"),
    ],
)
def test_bad_configurations_are_refused_on_both_sides(change: dict[str, Any], why: str) -> None:
    c = dataclasses.replace(POSTFILTER, **change)
    with pytest.raises(ConfigError, match=why):
        c.check()
    with pytest.raises(ValueError, match=why):
        core(c, {})


# In a model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.from_pretrained(folder, dtype="float32", threads=1)


@pytest.mark.parametrize("task", CLEAN_UP)
@pytest.mark.parametrize("seconds", [0.01, 1.3, 27.0])
def test_the_source_comes_back_filtered(engine: Engine, task: str, seconds: float) -> None:
    x = speech(seconds, 2)
    inputs = {"source": (x, RATE), "seed": 4}
    own = engine.generate(task, postfilter=0, **inputs)
    made = engine.generate(task, **inputs)
    assert made.meta["postfilter"] == 1 and own.meta["postfilter"] == 0
    assert len(made.samples) == len(own.samples) == len(x)
    assert not np.array_equal(made.samples, own.samples)
    if seconds < 10:  # one window: the filter of the whole, at the level that the model hears
        from uniaudio_engine.audio.level import gain_to

        gain = gain_to(x, RATE, engine.model.config.source_level(task))
        f = core(POSTFILTER, random_weights(postfilter_shapes(POSTFILTER), 3))
        for limit, least in ((100.0, 0.0), (20.0, 0.1), (6.0, 10**-0.3)):
            expected = f.apply(x * np.float32(gain), own.samples * np.float32(gain), least) / gain
            heard = engine.generate(task, attenuation_limit=limit, **inputs).samples
            assert np.abs(heard - expected).max() < 1e-3  # weights in bfloat16
            assert np.array_equal(heard, made.samples) == (limit == 100)
        same = engine.generate(task, attenuation_limit=0, **inputs).samples
        assert np.abs(same - x).max() < 1e-5


@pytest.mark.parametrize("task", CLEAN_UP)
@pytest.mark.parametrize("chunks", [[1], [4, 8], [3, 50], [500]])
def test_streams_are_the_whole(engine: Engine, task: str, chunks: list[int]) -> None:
    x = speech(2.7, 2)
    inputs = {"source": (x, RATE), "seed": 4}
    whole = engine.generate(task, **inputs).samples
    with engine.stream(task, chunk_frames=chunks, **inputs) as stream:
        parts = list(stream)
    assert np.array_equal(np.concatenate([c.samples for c in parts]), whole)
    assert all(len(c.samples) for c in parts[:-1])
    assert [c.start for c in parts] == np.cumsum(
        [0, *(len(c.samples) for c in parts[:-1])]
    ).tolist()
    codes = np.concatenate([c.codes for c in parts])
    assert len(codes) == -(-len(x) // 320)


def test_silence_stays_silence(engine: Engine) -> None:
    made = engine.enhance((np.zeros(16000, np.float32), RATE), seed=1)
    assert not made.samples.any()


def test_a_live_stream_waits_for_the_filter(engine: Engine) -> None:
    with engine.open("se") as live, engine.open("se", postfilter=0) as own:
        assert live.latency == own.latency + POSTFILTER.delay


def test_models_without_a_filter_have_no_such_option(folder: Path, tmp_path: Path) -> None:
    engine = Engine.from_pretrained(without_filter(folder, tmp_path / "bare"), threads=1)
    for name in ("postfilter", "attenuation_limit"):
        assert all(o["name"] != name for t in engine.tasks() for o in t["options"])
    x = (speech(0.5, 2), RATE)
    engine.enhance(x, seed=1)
    with pytest.raises(InputError, match="unknown input postfilter"):
        engine.enhance(x, postfilter=1)
    with pytest.raises(InputError, match="has no post-filter"):
        _ = engine.model.postfilter


def test_a_folder_has_the_filter_that_it_names(folder: Path, tmp_path: Path) -> None:
    bare = without_filter(folder, tmp_path / "bare")
    (bare / "postfilter.safetensors").write_bytes((folder / "postfilter.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"postfilter.safetensors is left over"):
        Engine.from_pretrained(bare)
    (bare / "postfilter.safetensors").unlink()
    (bare / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"postfilter.safetensors"):
        Engine.from_pretrained(bare)


def test_own_tasks_may_ask_for_it() -> None:
    from uniaudio_engine.request.task_table import TASKS

    wrong = dataclasses.replace(TASKS["vc"], name="mine", postfilter=True)
    with pytest.raises(InputError, match="postfilter: expected finish length and an aligned sound"):
        wrong.check()
    dataclasses.replace(TASKS["se"], name="mine").check()
