"""The parts of a live stream on their own: its running gain and its resampler."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_tools import FRAME, LEVEL, RATE, speech

from uniaudio_engine.audio.level import RunningGain, gain_to, level_db
from uniaudio_engine.audio.resampling import Resampler

RATES = [8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000]


def gains(x: np.ndarray, level: float | None = None, target: float | None = LEVEL) -> np.ndarray:
    gain = RunningGain(RATE, FRAME, target, level)
    return np.concatenate([gain.push(x[at : at + FRAME]) for at in range(0, len(x), FRAME)])


def db(gain: np.ndarray) -> np.ndarray:
    return np.asarray(20 * np.log10(gain))


# Gain


@pytest.mark.parametrize("level", [-42.0, -36.0, -30.0, -24.0, -18.0, -10.0])
def test_the_gain_comes_to_that_of_the_whole_sound(level: float) -> None:
    x = speech(12.0, 1, level)
    g = db(gains(x))
    wanted = 20 * np.log10(gain_to(x, RATE, LEVEL))
    assert np.abs(g[4 * RATE :] - wanted).max() < 2.5
    assert np.abs(g[4 * RATE :].mean() - wanted) < 1.0


@given(st.integers(0, 5), st.floats(-90, 0), st.floats(-90, 0))
@settings(max_examples=25, deadline=None)
def test_the_gain_is_slow_bounded_and_causal(seed: int, before: float, after: float) -> None:
    x, y = speech(3.0, seed, before), speech(3.0, seed, after)
    g = gains(np.concatenate((x, y)))
    assert np.array_equal(g[: len(x)], gains(x))
    assert len(g) == len(x) + len(y) and np.abs(db(g)).max() <= 40 + 1e-9
    per_frame = db(g)[FRAME - 1 :: FRAME]
    assert np.abs(np.diff(per_frame)).max() <= 12 * FRAME / RATE + 1e-9
    assert db(g)[0] == pytest.approx(0, abs=0.3)


def test_pauses_and_silence_do_not_move_the_gain() -> None:
    x = speech(6.0, 2, -36.0)
    noise = (0.0004 * np.random.default_rng(0).standard_normal(8 * RATE)).astype(np.float32)
    g = db(gains(np.concatenate((x, noise))))
    assert np.ptp(g[len(x) + RATE :]) < 1.0
    assert (gains(np.zeros(60 * RATE, np.float32)) == 1).all()


def test_a_very_quiet_sound_counts_in_time() -> None:
    g = db(gains(speech(40.0, 3, -60.0)))
    assert np.abs(g[: 10 * RATE]).max() < 0.5 and 30 < g[-1] <= 40


def test_a_known_level_and_a_model_without_one_have_a_fixed_gain() -> None:
    x = speech(2.0, 1, -31.0)
    level = level_db(x, RATE)
    assert (gains(x, level) == gain_to(x, RATE, LEVEL)).all()
    assert (gains(x, level, None) == 1).all() and (gains(x, None, None) == 1).all()


# Resampling


@given(
    st.sampled_from(RATES),
    st.sampled_from(RATES),
    st.integers(0, 20000),
    st.lists(st.sampled_from([0, 1, 7, 320, 441, 5000]), min_size=1, max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_resampling_does_not_depend_on_the_splitting(
    rate_in: int, rate_out: int, length: int, sizes: list[int]
) -> None:
    x = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    if max(sizes) < 300:
        sizes = [*sizes, 2000]
    resampler = Resampler(rate_in, rate_out)
    whole = np.concatenate((resampler.push(x), resampler.flush()))
    assert len(whole) == -(-length * rate_out // rate_in)
    at, turn, parts = 0, 0, []
    while at < length:
        size = sizes[turn % len(sizes)]
        parts.append(resampler.push(x[at : at + size]))
        at, turn = at + size, turn + 1
        made = sum(map(len, parts))
        assert made >= (min(at, length) - resampler.lookahead) * rate_out // rate_in
    assert np.array_equal(np.concatenate([*parts, resampler.flush()]), whole)


@pytest.mark.parametrize("rate_in", RATES)
@pytest.mark.parametrize("rate_out", [8000, 16000, 48000])
def test_tones_keep_their_time_and_level(rate_in: int, rate_out: int) -> None:
    for hertz in (50, 1000, round(0.4 * min(rate_in, rate_out))):
        x = np.sin(2 * np.pi * hertz * np.arange(rate_in) / rate_in).astype(np.float32)
        resampler = Resampler(rate_in, rate_out)
        y = np.concatenate((resampler.push(x), resampler.flush()))
        expected = np.sin(2 * np.pi * hertz * np.arange(len(y)) / rate_out)
        inner = slice(rate_out // 10, -rate_out // 10)
        assert np.abs(y - expected)[inner].max() < 0.001


@pytest.mark.parametrize(("rate_in", "rate_out"), [(48000, 16000), (44100, 16000), (16000, 8000)])
def test_what_the_lower_rate_cannot_hold_is_gone(rate_in: int, rate_out: int) -> None:
    x = np.sin(2 * np.pi * 0.51 * rate_out * np.arange(rate_in) / rate_in).astype(np.float32)
    resampler = Resampler(rate_in, rate_out)
    y = np.concatenate((resampler.push(x), resampler.flush()))
    assert np.abs(y[rate_out // 10 : -rate_out // 10]).max() < 0.001
