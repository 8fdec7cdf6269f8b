"""The post-filter: the torch reference, streams, forks, and what a model does with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint import POSTFILTER, VOICE_FILTER, make_joint_model, without_filter
from live_tools import RATE, speech
from tiny import random_weights
from uniaudio_training.models.postfilter import PostFilter as Reference

from uniaudio_engine import Engine, InputError
from uniaudio_engine._C import PostFilter
from uniaudio_engine.audio.level import gain_to
from uniaudio_engine.request.memory import run_bytes
from uniaudio_engine.request.plan import make_plan
from uniaudio_engine.storage.config import ConfigError, ModelConfig, PostFilterConfig, to_dict
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.folder_writing import add_postfilter
from uniaudio_engine.storage.postfilter_config import FILTERS
from uniaudio_engine.storage.tensors import from_bfloat16
from uniaudio_engine.storage.weight_shapes import postfilter_shapes

SHAPES = [
    PostFilterConfig(),
    POSTFILTER,
    PostFilterConfig(window=640, hop=128, width=24, hidden=40, blocks=1, lookahead=0),
    PostFilterConfig(window=320, hop=160, width=8, hidden=9, blocks=3, kernel_size=1, lookahead=7),
    PostFilterConfig(window=14, hop=3, width=8, hidden=9, blocks=1, kernel_size=63),
    VOICE_FILTER,
    PostFilterConfig(window=64, hop=20, width=8, hidden=9, blocks=1, voice=5, voice_blocks=2),
    dataclasses.replace(POSTFILTER, answer=False),
    dataclasses.replace(VOICE_FILTER, answer=False, lookahead=1),
]
VOICE = (speech(2.0, 9), RATE)
CLEAN_UP = {"se": {}, "sd": {}, "tse": {"prompt": VOICE}}


def sharp(c: PostFilterConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights whose gains are far from one another."""
    weights = random_weights(postfilter_shapes(c), seed)
    weights["net.output.weight"] *= 4
    return weights


def vector_of(f: PostFilter, seconds: float = 0.7, seed: int = 5) -> np.ndarray:
    """What a filter makes of a voice."""
    return f.voice(speech(seconds, seed))


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
    f, voice = core(c, weights), speech(0.7, 5)
    made = f.apply(x, y, voice=vector_of(f))
    assert made.dtype == np.float32 and made.shape == (n,)
    if n:
        with torch.no_grad():
            heard = torch.from_numpy(voice)[None] if c.voice else None
            expected = model(torch.from_numpy(x)[None], torch.from_numpy(y)[None], heard)[0].numpy()
        assert np.abs(made - expected).max() < 2e-6
        assert np.abs(made - x).max() > 1e-3  # it did something


def test_gains_of_one_give_the_source_back() -> None:
    weights = sharp(POSTFILTER)
    weights["net.output.weight"][:] = 0
    weights["net.output.bias"][:] = 40
    x, y = sounds(9000)
    assert np.abs(core(POSTFILTER, weights).apply(x, y) - x).max() < 2e-7


@pytest.mark.parametrize("c", [s for s in SHAPES if s.voice], ids=lambda c: f"{c.window}")
@pytest.mark.parametrize("n", [0, 1, 700, 50_000])
def test_the_vector_of_a_voice_is_the_references(c: PostFilterConfig, n: int) -> None:
    weights = sharp(c)
    model = Reference(c).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    x = speech(4.0, 1)[:n]
    with torch.no_grad():
        expected = model.vector(model.spectrum(torch.from_numpy(x)[None]))[0].numpy()
    made = core(c, weights, 2).voice(x)
    assert np.abs(made - expected).max() < 2e-5
    assert np.array_equal(made, core(c, weights, 1).voice(x))


def test_another_voice_is_another_sound() -> None:
    f = core(VOICE_FILTER, sharp(VOICE_FILTER))
    x, y = sounds(9000)
    one, other = (f.apply(x, y, voice=vector_of(f, seed=s)) for s in (1, 2))
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("size", [0, 11, 13])
def test_a_vector_has_the_filters_size(size: int) -> None:
    f = core(VOICE_FILTER, sharp(VOICE_FILTER))
    with pytest.raises(ValueError, match=f"voice: expected a vector of 12 numbers, got {size}"):
        f.stream(voice=np.zeros(size, np.float32))
    plain = core(POSTFILTER, sharp(POSTFILTER))
    assert len(plain.voice(speech(0.5, 1))) == 0
    if size:
        with pytest.raises(ValueError, match=f"voice: expected a vector of 0 numbers, got {size}"):
            plain.apply(*sounds(10), voice=np.zeros(size, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_voice_is_finite(bad: float) -> None:
    f = core(VOICE_FILTER, sharp(VOICE_FILTER))
    vector, sound = vector_of(f), speech(0.5, 1)
    vector[3] = sound[100] = bad
    with pytest.raises(ValueError, match="voice: expected finite samples"):
        f.stream(voice=vector)
    with pytest.raises(ValueError, match="voice: expected finite samples"):
        f.voice(sound)


@pytest.mark.parametrize("c", SHAPES[1:], ids=lambda c: f"{c.window}/{c.hop}")
@pytest.mark.parametrize("least", [0.1, 0.5, 1.0])
def test_a_least_gain_mixes_the_source_in(c: PostFilterConfig, least: float) -> None:
    f = core(c, sharp(c))
    x, y = sounds(3000)
    voice = vector_of(f)
    expected = (1 - least) * f.apply(x, y, voice=voice) + least * x
    assert np.abs(f.apply(x, y, least, voice) - expected).max() < 1e-6


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
    f = core(c, weights, threads)
    voice = vector_of(f)
    whole = core(c, weights).apply(x, y, least, voice)
    stream, parts, at, i = f.stream(least, voice), [], 0, 0
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


def test_a_filter_without_the_answer_does_not_read_it() -> None:
    c = dataclasses.replace(POSTFILTER, answer=False)
    f = core(c, sharp(c))
    x, y = sounds(3000)
    assert np.array_equal(f.apply(x, y), f.apply(x, np.full_like(x, np.nan)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"window": 511}, "window: expected an even number"),
        ({"hop": 400}, "hop"),
        ({"hop": 0}, "hop"),
        ({"blocks": 0}, "blocks"),
        ({"lookahead": -1}, "lookahead"),
        ({"log_floor": 0.0}, "log_floor"),
        ({"voice": -1}, "voice"),
        ({"voice_blocks": 0}, "voice_blocks"),
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
    inputs = {"source": (x, RATE), "seed": 4, **CLEAN_UP[task]}
    own = engine.generate(task, postfilter=0, **inputs)
    made = engine.generate(task, **inputs)
    assert made.meta["postfilter"] == 1 and own.meta["postfilter"] == 0
    assert len(made.samples) == len(own.samples) == len(x)
    assert not np.array_equal(made.samples, own.samples)
    if seconds < 10:  # one window: the filter of the whole, at the level that the model hears
        gain = gain_to(x, RATE, engine.model.config.source_level(task))
        c, voice = POSTFILTER, None
        if "prompt" in inputs:
            c = VOICE_FILTER
            codes = engine.encode_voice(VOICE).codes[: engine.config.lm.num_codebooks]
        f = core(c, random_weights(postfilter_shapes(c), 3))
        if c.voice:
            voice = f.voice(engine.model.codec.decode(codes))
        for limit, least in ((100.0, 0.0), (20.0, 0.1), (6.0, 10**-0.3)):
            heard_by_it = x * np.float32(gain), own.samples * np.float32(gain)
            expected = f.apply(*heard_by_it, least, voice) / gain
            heard = engine.generate(task, attenuation_limit=limit, **inputs).samples
            assert np.abs(heard - expected).max() < 1e-3  # weights in bfloat16
            assert np.array_equal(heard, made.samples) == (limit == 20)
        same = engine.generate(task, attenuation_limit=0, **inputs).samples
        assert np.abs(same - x).max() < 1e-5


@pytest.mark.parametrize("task", CLEAN_UP)
@pytest.mark.parametrize("chunks", [[1], [4, 8], [3, 50], [500]])
def test_streams_are_the_whole(engine: Engine, task: str, chunks: list[int]) -> None:
    x = speech(2.7, 2)
    inputs = {"source": (x, RATE), "seed": 4, **CLEAN_UP[task]}
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
    for task, more in CLEAN_UP.items():
        with engine.open(task, **more) as live, engine.open(task, postfilter=0, **more) as own:
            assert live.latency == own.latency + POSTFILTER.delay


def test_a_live_stream_hears_the_voice(engine: Engine) -> None:
    x = speech(1.5, 2)
    made = []
    for seed in (9, 10):
        prompt = speech(2.0, seed), RATE
        with engine.open("tse", prompt=prompt, level=-24.0, seed=1) as live:
            made.append(np.concatenate([live.push(x), live.flush()]))
        assert len(made[-1]) == len(x)
    assert not np.array_equal(*made)


def test_models_without_a_filter_have_no_such_option(folder: Path, tmp_path: Path) -> None:
    engine = Engine.from_pretrained(without_filter(folder, tmp_path / "bare"), threads=1)
    for name in ("postfilter", "attenuation_limit"):
        assert all(o["name"] != name for t in engine.tasks() for o in t["options"])
    x = (speech(0.5, 2), RATE)
    engine.enhance(x, seed=1)
    with pytest.raises(InputError, match="unknown input postfilter"):
        engine.enhance(x, postfilter=1)
    for task, name in (("se", "postfilter"), ("tse", "voice_filter")):
        with pytest.raises(InputError, match=f"has no {name}"):
            engine.model.filter_of(engine.model.task(task))


# Filters that need no answer


@pytest.fixture(scope="module")
def unanswered(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine whose filters do without the language model's answer."""
    copy = tmp_path_factory.mktemp("models") / "unanswered"
    shutil.copytree(folder, copy)
    for c in (POSTFILTER, VOICE_FILTER):
        c = dataclasses.replace(c, answer=False)
        add_postfilter(copy, c, random_weights(postfilter_shapes(c), 3))
    return Engine.from_pretrained(copy, dtype="float32", threads=1)


@pytest.mark.parametrize("task", CLEAN_UP)
@pytest.mark.parametrize("seconds", [0.01, 1.3, 27.0])
def test_the_language_model_rests(
    unanswered: Engine, task: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = speech(seconds, 2)
    inputs = {**CLEAN_UP[task], "source": (x, RATE), "seed": 4}
    own = unanswered.generate(task, postfilter=0, **inputs)
    assert own.meta["frames"]
    if "prompt" in inputs:
        inputs["prompt"] = unanswered.encode_voice(inputs["prompt"])

    def not_now(*_: Any, **__: Any) -> None:
        raise AssertionError("the language model was asked")

    model = unanswered.model
    for part, name in ((model, "prefix"), (model.audio, "encode"), (model.semantic, "encode")):
        monkeypatch.setattr(part, name, not_now)
    made = unanswered.generate(task, **inputs)
    assert made.meta["frames"] == 0 and made.meta["seconds"] == len(x) / RATE
    assert len(made.samples) == len(x) and not np.array_equal(made.samples, own.samples)
    for chunks in ([1], [3, 50], [5000]):
        with unanswered.stream(task, chunk_frames=chunks, **inputs) as stream:
            parts = list(stream)
        assert np.array_equal(np.concatenate([c.samples for c in parts]), made.samples)
        assert all(len(c.samples) for c in parts[:-1])
        assert all(c.codes.shape == (0, model.layout.num_codebooks) for c in parts)
    both = unanswered.generate_batch([inputs, inputs], task)
    assert all(np.array_equal(one.samples, made.samples) for one in both)


@pytest.mark.parametrize("task", CLEAN_UP)
def test_it_is_the_filter_of_the_source(unanswered: Engine, task: str) -> None:
    x, c = speech(1.3, 2), VOICE_FILTER if task == "tse" else POSTFILTER
    c = dataclasses.replace(c, answer=False)
    f, voice = core(c, random_weights(postfilter_shapes(c), 3)), None
    if c.voice:
        codes = unanswered.encode_voice(VOICE).codes[: unanswered.config.lm.num_codebooks]
        voice = f.voice(unanswered.model.codec.decode(codes))
    gain = np.float32(gain_to(x, RATE, unanswered.config.source_level(task)))
    made = unanswered.generate(task, attenuation_limit=100, source=(x, RATE), **CLEAN_UP[task])
    expected = f.apply(x * gain, x, 1e-5, voice) / gain
    assert np.abs(made.samples - expected).max() < 1e-3  # weights in bfloat16


@pytest.mark.parametrize("task", CLEAN_UP)
def test_a_live_filter_waits_for_itself_alone(unanswered: Engine, task: str) -> None:
    x, more = speech(1.5, 2), {**CLEAN_UP[task], "seed": 4}
    with unanswered.open(task, **more) as live:
        assert live.latency == unanswered.config.codec.frame_size + POSTFILTER.delay
        whole = np.concatenate([live.push(x), live.flush()])
        parts = [live.push(x[at : at + 333]) for at in range(0, len(x), 333)]
        assert np.array_equal(np.concatenate([*parts, live.flush()]), whole)
        assert len(whole) == len(x) and live.meta["frames"] == 0
        live.push(x)
        live.cancel()
        live.reset()
        assert np.array_equal(np.concatenate([live.push(x), live.flush()]), whole)
    with unanswered.open(task, postfilter=0, **more) as own:
        assert own.latency > live.latency


def test_it_takes_no_session(unanswered: Engine) -> None:
    source = speech(0.5, 2), RATE
    few, many = (
        run_bytes(unanswered.model, make_plan(unanswered.model, "se", {"source": source, **own}))
        for own in ({}, {"postfilter": 0})
    )
    assert 0 < few < many


@pytest.mark.parametrize("name", FILTERS)
def test_a_folder_has_the_filters_that_it_names(folder: Path, tmp_path: Path, name: str) -> None:
    bare = without_filter(folder, tmp_path / "bare")
    file = f"{name}.safetensors"
    (bare / file).write_bytes((folder / file).read_bytes())
    with pytest.raises(InputError, match=rf"{file} is left over"):
        Engine.from_pretrained(bare)
    (bare / file).unlink()
    about = json.loads((bare / "config.json").read_text())
    about[name] = json.loads((folder / "config.json").read_text())[name]
    (bare / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=file):
        Engine.from_pretrained(bare)


def test_only_the_voice_filter_hears_a_voice(folder: Path, tmp_path: Path) -> None:
    both = json.loads((folder / "config.json").read_text())
    for wrong, why in (
        ({"postfilter": both["voice_filter"]}, "postfilter.voice: expected 0, got 12"),
        ({"voice_filter": both["postfilter"]}, "voice_filter.voice: expected above 0, got 0"),
    ):
        with pytest.raises(ConfigError, match=why):
            ModelConfig.from_json(json.dumps(both | wrong))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_filters_are_stored_in_three_types(folder: Path, tmp_path: Path, dtype: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = random_weights(postfilter_shapes(VOICE_FILTER), 3)
    add_postfilter(copy, VOICE_FILTER, weights, dtype)
    stored = load_folder(copy).filters["voice_filter"]
    error = {"float32": 0, "bfloat16": 2**-8, "int8": 1 / 127}[dtype]
    for name, w in weights.items():
        got = from_bfloat16(stored[name]) if stored[name].dtype == np.uint16 else stored[name]
        assert np.abs(got - w).max() <= error * np.abs(w).max()
    x = speech(0.5, 2)
    assert len(Engine.from_pretrained(copy).extract((x, RATE), VOICE, seed=1).samples) == len(x)


def test_own_tasks_may_ask_for_it() -> None:
    from uniaudio_engine.request.task_table import TASKS

    wrong = dataclasses.replace(TASKS["vc"], name="mine", postfilter=True)
    with pytest.raises(InputError, match="postfilter: expected finish length and an aligned sound"):
        wrong.check()
    dataclasses.replace(TASKS["se"], name="mine").check()
