"""The post-filter: the torch reference, streams, forks, and what a model does with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
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
from uniaudio_engine.request.memory import filter_bytes, run_bytes
from uniaudio_engine.request.plan import make_plan
from uniaudio_engine.storage.codec_int8 import to_int8
from uniaudio_engine.storage.config import ConfigError, ModelConfig, PostFilterConfig, to_dict
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.folder_writing import add_postfilter
from uniaudio_engine.storage.postfilter_config import FILTERS
from uniaudio_engine.storage.tensors import from_bfloat16, save_tensors
from uniaudio_engine.storage.weight_shapes import postfilter_shapes

SHAPES = [
    PostFilterConfig(),
    POSTFILTER,
    PostFilterConfig(window=640, hop=128, width=24, hidden=40, blocks=1, lookahead=0),
    PostFilterConfig(window=320, hop=160, width=8, hidden=9, blocks=3, kernel_size=1, lookahead=7),
    PostFilterConfig(window=14, hop=3, width=8, hidden=9, blocks=1, kernel_size=63),
    VOICE_FILTER,
    PostFilterConfig(window=64, hop=20, width=8, hidden=9, blocks=1, voice=5, voice_blocks=2),
    dataclasses.replace(VOICE_FILTER, lookahead=1),
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


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32) * 0.1


@pytest.mark.parametrize("c", SHAPES, ids=lambda c: f"{c.window}/{c.hop}")
@pytest.mark.parametrize("n", [0, 1, 159, 5000])
def test_core_is_the_reference(c: PostFilterConfig, n: int) -> None:
    weights = sharp(c)
    model = Reference(c).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    x = noise(n)
    f, voice = core(c, weights), speech(0.7, 5)
    made = f.apply(x, voice=vector_of(f))
    assert made.dtype == np.float32 and made.shape == (n,)
    if n:
        with torch.no_grad():
            heard = torch.from_numpy(voice)[None] if c.voice else None
            expected = model(torch.from_numpy(x)[None], heard)[0].numpy()
        assert np.abs(made - expected).max() < 2e-6
        assert np.abs(made - x).max() > 1e-3  # it did something


def test_gains_of_one_give_the_source_back() -> None:
    weights = sharp(POSTFILTER)
    weights["net.output.weight"][:] = 0
    weights["net.output.bias"][:] = 40
    x = noise(9000)
    assert np.abs(core(POSTFILTER, weights).apply(x) - x).max() < 2e-7


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
    x = noise(9000)
    one, other = (f.apply(x, voice=vector_of(f, seed=s)) for s in (1, 2))
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
            plain.apply(noise(10), voice=np.zeros(size, np.float32))


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
    x = noise(3000)
    voice = vector_of(f)
    expected = (1 - least) * f.apply(x, voice=voice) + least * x
    assert np.abs(f.apply(x, least, voice) - expected).max() < 1e-6


@pytest.mark.parametrize("least", [-0.01, 1.01, np.nan, np.inf])
def test_a_least_gain_is_a_share(least: float) -> None:
    f = core(POSTFILTER, sharp(POSTFILTER))
    for make in (f.stream, lambda g: f.apply(noise(10), g)):
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
    x = noise(n, 3)
    f = core(c, weights, threads)
    voice = vector_of(f)
    whole = core(c, weights).apply(x, least, voice)
    stream, parts, at, i = f.stream(least, voice), [], 0, 0
    sizes = [*sizes, 777]
    while at < n:
        size = sizes[i % len(sizes)]
        parts.append(stream.push(x[at : at + size]))
        at, i = at + size, i + 1
        given_out = sum(map(len, parts))
        assert given_out >= min(at, n) - f.delay - c.hop  # no sample waits longer
        if i == 2:  # the copy goes on as the stream does
            copy, before = stream.fork(), list(parts)
            rest = [copy.push(x[at:]), copy.flush()]
            assert np.array_equal(np.concatenate([*before, *rest]), whole)
    parts.append(stream.flush())
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(np.concatenate([stream.push(x), stream.flush()]), whole)  # a new clip


def test_bad_sounds_are_refused_and_change_nothing() -> None:
    f = core(POSTFILTER, sharp(POSTFILTER))
    x = noise(3000)
    stream = f.stream()
    first = stream.push(x[:1000])
    broken = x[1000:].copy()
    broken[7] = np.nan
    for source, why in (
        (broken, "source: expected finite samples"),
        (np.zeros((2, 5), np.float32), "expected float32"),
    ):
        with pytest.raises(ValueError, match=why):
            stream.push(source)
    rest = stream.push(x[1000:])
    assert np.array_equal(np.concatenate((first, rest, stream.flush())), f.apply(x))


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
    assert made.meta["frames"] == 0 and own.meta["frames"]
    assert made.meta["seconds"] == len(x) / RATE
    assert len(made.samples) == len(own.samples) == len(x)
    assert not np.array_equal(made.samples, own.samples)
    if seconds < 10:  # one window: the filter of the whole, at the level that the model hears
        gain = np.float32(gain_to(x, RATE, engine.model.config.source_level(task)))
        c, voice = VOICE_FILTER if "prompt" in inputs else POSTFILTER, None
        f = core(c, random_weights(postfilter_shapes(c), 3))
        if c.voice:
            codes = engine.encode_voice(VOICE).codes[: engine.config.lm.num_codebooks]
            voice = f.voice(engine.model.codec.decode(codes))
        for limit, least in ((100.0, 1e-5), (20.0, 0.1), (6.0, 10**-0.3)):
            expected = f.apply(x * gain, least, voice) / gain
            heard = engine.generate(task, attenuation_limit=limit, **inputs).samples
            assert np.abs(heard - expected).max() < 1e-3  # weights in bfloat16
            default = engine.task(task).attenuation_limit
            assert np.array_equal(heard, made.samples) == (limit == default)
        same = engine.generate(task, attenuation_limit=0, **inputs).samples
        assert np.abs(same - x).max() < 1e-5


@pytest.mark.parametrize("task", CLEAN_UP)
@pytest.mark.parametrize("seconds", [1.3, 27.0])
def test_the_language_model_rests(
    engine: Engine, task: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {**CLEAN_UP[task], "source": (speech(seconds, 2), RATE), "seed": 4}
    if "prompt" in inputs:
        inputs["prompt"] = engine.encode_voice(inputs["prompt"])

    def not_now(*_: Any, **__: Any) -> None:
        raise AssertionError("the language model was asked")

    model = engine.model
    for part, name in ((model, "prefix"), (model.audio, "encode"), (model.semantic, "encode")):
        monkeypatch.setattr(part, name, not_now)
    made = engine.generate(task, **inputs)
    both = engine.generate_batch([inputs, inputs], task)
    assert all(np.array_equal(one.samples, made.samples) for one in both)


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
    assert all(c.codes.shape == (0, engine.layout.num_codebooks) for c in parts)


def test_silence_stays_silence(engine: Engine) -> None:
    made = engine.enhance((np.zeros(16000, np.float32), RATE), seed=1)
    assert not made.samples.any()


@pytest.mark.parametrize("task", CLEAN_UP)
def test_a_live_filter_waits_for_itself_alone(engine: Engine, task: str) -> None:
    x, more = speech(1.5, 2), {**CLEAN_UP[task], "seed": 4}
    with engine.open(task, **more) as live:
        assert live.latency == engine.config.codec.frame_size + POSTFILTER.delay
        whole = np.concatenate([live.push(x), live.flush()])
        parts = [live.push(x[at : at + 333]) for at in range(0, len(x), 333)]
        assert np.array_equal(np.concatenate([*parts, live.flush()]), whole)
        assert len(whole) == len(x) and live.meta["frames"] == 0
        live.push(x)
        live.cancel()
        live.reset()
        assert np.array_equal(np.concatenate([live.push(x), live.flush()]), whole)
    with engine.open(task, postfilter=0, **more) as own:
        assert own.latency > live.latency


@pytest.mark.parametrize("task", CLEAN_UP)
def test_a_loud_live_source_is_not_clipped_at_the_models_level(engine: Engine, task: str) -> None:
    x = np.clip(speech(1.0, 2) * 30, -1, 1)
    with engine.open(task, attenuation_limit=0, level=-60.0, **CLEAN_UP[task]) as live:
        made = np.concatenate([live.push(x), live.flush()])
    assert np.abs(made - x).max() < 1e-5


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


def test_a_filter_takes_no_session(engine: Engine) -> None:
    source = speech(0.5, 2), RATE
    few, many = (
        run_bytes(engine.model, make_plan(engine.model, "se", {"source": source, **own}))
        for own in ({}, {"postfilter": 0})
    )
    assert few == filter_bytes(POSTFILTER) + (1 << 19) != many


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_filter_of_before_does_without_the_answer(
    folder: Path, tmp_path: Path, dtype: str
) -> None:
    """It also heard the language model; it is what it was when that was silent."""
    copy, c = tmp_path / "older", POSTFILTER
    shutil.copytree(folder, copy)
    wide = postfilter_shapes(c) | {"net.input.weight": (c.width, 2 * c.bins)}
    weights = random_weights(wide, 3)
    file = copy / "postfilter.safetensors"
    tensors = to_int8(weights) if dtype == "int8" else weights
    save_tensors(file, tensors, rounded=set(weights) if dtype == "bfloat16" else set())
    config = json.loads((copy / "config.json").read_text())
    config["postfilter"]["answer"] = True
    (copy / "config.json").write_text(json.dumps(config))
    x = noise(3000)
    made = core(c, load_folder(copy).filters["postfilter"]).apply(x)
    silence = np.full(c.bins, 0.25 * np.log(c.log_floor) + 1.25, np.float32)
    heard, answer = np.split(weights["net.input.weight"], 2, axis=1)
    weights["net.input.weight"] = np.ascontiguousarray(heard)
    weights["net.input.bias"] = weights["net.input.bias"] + answer @ silence
    tolerance = 1e-6 if dtype == "float32" else 0.02
    assert np.abs(made - core(c, weights).apply(x)).max() < tolerance
    assert len(Engine.from_pretrained(copy, threads=1).enhance((x, RATE), seed=1).samples) == 3000


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


_RESIDENT = """
import json, mmap, sys
import numpy as np
from uniaudio_engine._C import PostFilter
from uniaudio_engine.storage.config import PostFilterConfig, to_dict
from uniaudio_engine.storage.weight_shapes import postfilter_shapes

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE

c = PostFilterConfig(window=1024, hop=512, width=128, hidden=512)
weights = {k: np.zeros(v, np.float32) for k, v in postfilter_shapes(c).items()}
f, x = PostFilter(json.dumps(to_dict(c)), weights, 1), np.zeros(1 << 17, np.float32)
streams = [f.stream() for _ in range(24)]
for stream in streams[:4]:  # what is allocated once
    stream.push(x)
before = resident()
for stream in streams[4:]:
    stream.push(x)
print((resident() - before) / 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_filter_takes_no_more_than_it_says() -> None:
    """Resident memory of streams that have heard a large chunk, in a process without old pages."""
    c = PostFilterConfig(window=1024, hop=512, width=128, hidden=512)
    done = subprocess.run(
        [sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True
    )
    assert 0.3 * filter_bytes(c) < float(done.stdout) < filter_bytes(c) + (1 << 19)
