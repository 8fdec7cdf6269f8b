"""Live streams: what they return is a function of the sound alone, and the offline answer."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_tools import FRAME, RATE, TASK_INPUTS, make_live_model, pushed, speech, whole

from uniaudio_engine import Engine, InputError
from uniaudio_engine.audio.level import level_db
from uniaudio_engine.request.live import Live

SECONDS = {"none": 0.0, "one sample": 1 / RATE, "less than a frame": 0.012, "long": 30.0}
DB = [-40.0, -24.0, -6.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_live_model(tmp_path_factory.mktemp("models") / "live")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.from_pretrained(folder, dtype="float32", threads=1)


@pytest.fixture(scope="module")
def short(folder: Path) -> Engine:
    """An engine whose sessions are full after about a second."""
    return Engine.from_pretrained(folder, dtype="float32", threads=1, max_seconds=1)


def opened(engine: Engine, task: str, **more: object) -> Live:
    return engine.open(task, **{"seed": 5, **TASK_INPUTS[task], **more})  # type: ignore[arg-type]


# A function of the sound alone


@given(
    st.sampled_from(sorted(TASK_INPUTS)),
    st.sampled_from([16000, 8000, 11025, 24000, 44100, 48000]),
    st.integers(0, 70000),
    st.lists(st.sampled_from([0, 1, 2, 159, 320, 321, 960, 5000]), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_no_splitting_changes_a_sample(
    short: Engine, task: str, rate: int, length: int, sizes: list[int]
) -> None:
    x = speech(length / RATE, 3)
    if max(sizes) < 300:
        sizes = [*sizes, 700]
    with opened(short, task, sample_rate=rate) as live:
        y = pushed(live, x, sizes)
        assert y.dtype == np.float32 and len(y) == len(x)
        assert np.array_equal(pushed(live, x, [len(x) or 1]), y)


@pytest.mark.parametrize("task", TASK_INPUTS)
@pytest.mark.parametrize("length", SECONDS)
@pytest.mark.parametrize("db", DB)
def test_live_is_the_causal_offline_answer(
    engine: Engine, task: str, length: str, db: float
) -> None:
    x = speech(SECONDS[length], 1, db)
    with opened(engine, task) as live:
        y = pushed(live, x, [640])
    assert len(y) == len(x)
    if not len(x):
        return
    inputs = {"seed": 5, **TASK_INPUTS[task]}
    offline = engine.generate(task, source=(x, RATE), causal=True, **inputs)
    assert np.array_equal(offline.samples, y)
    assert offline.meta["seed"] == 5 and offline.meta["frames"] == -(-len(x) // FRAME)


@pytest.mark.parametrize("task", TASK_INPUTS)
@pytest.mark.parametrize("db", DB)
@pytest.mark.parametrize("seconds", [1 / RATE, 0.012, 3.21])
def test_at_a_known_level_live_is_the_offline_answer(
    engine: Engine, task: str, db: float, seconds: float
) -> None:
    """Of requests that the offline path hears in one window."""
    x = speech(seconds, 2, db)
    inputs = {"seed": 5, **TASK_INPUTS[task]}
    expected = engine.generate(task, source=(x, RATE), **inputs).samples
    with opened(engine, task, level=level_db(x, RATE)) as live:
        assert np.array_equal(pushed(live, x, [500]), expected)
    given = engine.generate(task, source=(x, RATE), causal=True, level=level_db(x, RATE), **inputs)
    assert np.array_equal(given.samples, expected)


@pytest.mark.parametrize("task", TASK_INPUTS)
def test_sessions_follow_each_other_without_a_seam(engine: Engine, task: str) -> None:
    x = speech(27.0, 4, -30.0)
    with opened(engine, task) as live:
        y = pushed(live, x, [1600])
    inputs = {"seed": 5, **TASK_INPUTS[task]}
    assert np.array_equal(y, whole(engine, task, x, 600, 200, **inputs))


# Latency


@pytest.mark.parametrize("task", ["se", "vc"])
@pytest.mark.parametrize("rate", [16000, 8000, 44100, 48000])
def test_latency_is_as_declared(short: Engine, task: str, rate: int) -> None:
    with opened(short, task, sample_rate=rate) as live:
        came, waits = 0, []
        for sample in range(1, round(0.7 * rate)):
            new = len(live.push(np.full(1, 0.1, np.float32)))
            if new:
                waits.append(sample - came)
            came += new
        # Filters of other rates: rounding to a sample of the lower rate.
        slack = 0 if rate == RATE else 1 + 2 * max(1, rate // RATE)
        assert live.latency - slack <= max(waits) <= live.latency
        assert live.latency_seconds == live.latency / rate


def test_the_bundled_models_filters_wait_less_than_its_language_model() -> None:
    engine = Engine.from_pretrained()
    for task, own, samples in (
        ("se", {}, 992),
        ("se", {"postfilter": 0}, 3200),
        ("vc", {}, 3200),
        ("tse", {}, 1088),
    ):
        voice = {"voice": engine.voices()[0]} if task in ("vc", "tse") else {}
        with engine.open(task, **voice, **own) as live:
            assert live.latency == samples and live.sample_rate == 16000


# State


def test_flush_and_reset_begin_a_new_sound(engine: Engine) -> None:
    x = speech(0.7)
    with opened(engine, "se") as live:
        expected = pushed(live, x, [FRAME])
        assert live.meta["frames"] == 35 and live.meta["seconds"] == pytest.approx(0.7)
        assert live.meta["task"] == "se" and live.meta["seed"] == 5
        assert np.array_equal(pushed(live, x, [FRAME]), expected)
        live.push(x[:5000])
        live.reset()
        assert live.meta["frames"] == 0
        assert np.array_equal(pushed(live, x, [FRAME]), expected)
        assert len(live.flush()) == 0


def running(live: Live, made: list[np.ndarray]) -> threading.Thread:
    """A thread that pushes five minutes of sound, and has begun."""
    begun = threading.Event()
    levelled = live._levelled

    def watched(frame: np.ndarray) -> np.ndarray:
        begun.set()
        return levelled(frame)

    live._levelled = watched  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: made.append(live.push(np.zeros(300 * RATE, "f4"))))
    thread.start()
    assert begun.wait(60)
    return thread


def test_cancel_stops_a_push_within_a_frame(engine: Engine) -> None:
    x = speech(0.7)
    with opened(engine, "se") as live:
        expected = pushed(live, x, [FRAME])
        made: list[np.ndarray] = []
        thread = running(live, made)
        for call in (lambda: live.push(x), live.flush, live.reset):
            with pytest.raises(InputError, match="another thread"):
                call()
        live.cancel()
        thread.join(60)
        assert not thread.is_alive() and len(made[0]) < 200 * RATE
        for call in (lambda: live.push(x), live.flush):
            with pytest.raises(InputError, match="cancelled; reset it"):
                call()
        live.reset()
        assert np.array_equal(pushed(live, x, [FRAME]), expected)


def test_a_push_that_broke_off_is_not_continued(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(row: np.ndarray) -> None:
        raise KeyboardInterrupt

    x = speech(0.7)
    with opened(engine, "se") as live:
        expected = pushed(live, x, [FRAME])
        with monkeypatch.context() as patch:
            patch.setattr(live._answers._frames, "next", interrupted)
            with pytest.raises(KeyboardInterrupt):
                live.push(x)
        with pytest.raises(InputError, match="cancelled; reset it"):
            live.push(x)
        live.reset()
        assert np.array_equal(pushed(live, x, [FRAME]), expected)


def test_close_from_another_thread_frees_the_sessions(engine: Engine) -> None:
    live = opened(engine, "se")
    made: list[np.ndarray] = []
    thread = running(live, made)
    live.close()
    thread.join(60)
    assert (
        not thread.is_alive() and len(made[0]) < 200 * RATE and live._answers._frames._base is None
    )
    for call in (lambda: live.push(speech(0.1)), live.flush, live.reset):
        with pytest.raises(InputError, match="closed; open another"):
            call()
    live.close()


def test_two_streams_do_not_disturb_each_other(engine: Engine) -> None:
    x, y = speech(1.0, 1), speech(1.0, 2)
    with opened(engine, "se") as a, opened(engine, "vc") as b:
        expected = pushed(a, x, [640]), pushed(b, y, [640])
        got = [], []
        for at in range(0, len(x), 640):
            got[0].append(a.push(x[at : at + 640]))
            got[1].append(b.push(y[at : at + 640]))
        for live, parts, wanted in zip((a, b), got, expected, strict=True):
            assert np.array_equal(np.concatenate([*parts, live.flush()]), wanted)


@pytest.mark.parametrize("minutes", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_memory_is_flat(short: Engine, minutes: int) -> None:
    """Of Python's objects; the sessions' are sized once."""
    x = speech(10.0)
    with opened(short, "se") as live:
        pushed(live, x, [FRAME])
        sizes = []
        tracemalloc.start()
        for _ in range(minutes * 6):
            for at in range(0, len(x), FRAME):
                live.push(x[at : at + FRAME])
            sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert live.meta["frames"] > minutes * 3000 - 20
        assert max(sizes) < min(sizes) + 100_000, sizes


# Bad input


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, np.nan]), "expected finite numbers, got"),
        (np.array([np.inf]), "expected finite numbers, got"),
        (np.zeros((2, 3)), r"expected floating-point numbers \[n\], got float64 \[2, 3\]"),
        (np.zeros(3, np.int16), r"expected floating-point numbers \[n\], got int16 \[3\]"),
        ("sound", "expected floating-point numbers"),
    ],
)
def test_bad_samples_change_nothing(engine: Engine, samples: object, message: str) -> None:
    x = speech(0.5)
    with opened(engine, "se") as live:
        expected = pushed(live, x, [400])
        first = live.push(x[:3000])
        with pytest.raises(InputError, match=message):
            live.push(samples)  # type: ignore[arg-type]
        rest = live.push(x[3000:])
        assert np.array_equal(np.concatenate((first, rest, live.flush())), expected)


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("tts", {"text": "Hello."}, "cannot be done live; the model does vc, se, tse, sd"),
        ("a_edit", {"instruction": "add a bell"}, "cannot be done live"),
        ("se", {"source": "x.wav"}, "source: expected none, since it is pushed; leave it out"),
        ("se", {"sample_rate": 16001}, "sample_rate: expected 8000 to 192000 Hz in steps of 25"),
        ("se", {"sample_rate": 16000.0}, "sample_rate: expected"),
        ("se", {"level": 3}, "level: expected a number from -90 to 0, got 3"),
        ("se", {"level": "loud"}, "level: expected a number"),
        ("se", {"temperature": -1}, "temperature: expected"),
        ("se", {"strength": 1}, "unknown input strength"),
        ("vc", {}, "input prompt is missing"),
        ("vc", {"voice": "nobody"}, "there is neither a voice nor a file 'nobody'"),
        ("no", {}, "was not trained for 'no'"),
    ],
)
def test_bad_requests(engine: Engine, task: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.open(task, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("se", {}, "input source is missing"),
        ("tts", {"text": "Hello."}, "cannot be done live"),
        ("se", {"source": (np.zeros(0, np.float32), RATE)}, "expected at least"),
    ],
)
def test_bad_causal_requests(
    engine: Engine, task: str, given: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        engine.generate(task, causal=True, **given)


def test_a_model_without_room_is_refused(folder: Path) -> None:
    engine = Engine.from_pretrained(folder, max_seconds=1)
    engine.model.capacity = 8  # three of them are the sequence before the target
    with pytest.raises(InputError, match="expected room for 6 frames, got 5"):
        opened(engine, "se")
