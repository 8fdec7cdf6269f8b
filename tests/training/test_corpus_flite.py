"""flite's samples depend on the arguments alone: not on other threads, nor on earlier calls."""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from uniaudio_training.corpus.flite import VOICES, flite

TEXT = "Three birds sang on a wire."
LIBC = ctypes.CDLL(None)


@pytest.fixture(scope="module")
def say():
    try:
        return flite().say
    except RuntimeError as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("voice", VOICES)
def test_noise_comes_from_no_state_of_the_process(say, voice):
    """Threads of Ray and of ONNX Runtime draw from the process's rand() at any time."""
    LIBC.srand(1)
    expected = [LIBC.rand() for _ in range(3)]
    LIBC.srand(1)
    say(TEXT, voice)
    assert [LIBC.rand() for _ in range(3)] == expected


@pytest.mark.parametrize("voice", VOICES)
def test_noise_is_drawn_by_its_seed(say, voice):
    one, two = (say(TEXT, voice, noise_seed=seed)[0] for seed in (1, 2))
    assert len(one) == len(two)
    assert np.array_equal(one, two) == (voice == "kal16")  # diphones have no drawn noise


@pytest.mark.parametrize("voice", VOICES)
def test_every_thread_hears_the_same(say, voice):
    text = "Dr. Smith has 25 birds, 3 of them grey!"
    samples, segments = say(text, voice)
    with ThreadPoolExecutor(1) as pool:
        other, same = pool.submit(say, text, voice).result()
    assert np.array_equal(samples, other) and segments == same


@pytest.mark.parametrize("voice", VOICES)
def test_a_call_leaves_nothing_to_the_next(say, voice):
    plain, _ = say(TEXT, voice)
    say(TEXT, voice, f0=210.0, stretch=1.3, noise_seed=9)
    assert np.array_equal(say(TEXT, voice)[0], plain)
