"""The loudness loss: agrees with PESQ, does not hear levels, and has a gradient everywhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uniaudio_training.codec.loudness import LoudnessLoss
from uniaudio_training.evaluate import judges

LOSS = LoudnessLoss()


def voice(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Harmonics with a moving pitch and syllables, float32 [N] at 16 kHz."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16000)) / 16000
    pitch = rng.uniform(90, 200) * (1 + 0.2 * np.sin(2 * np.pi * t * rng.uniform(0.5, 1.5)))
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    x = sum(np.sin(k * phase + rng.uniform(0, 6)) / k**1.2 for k in range(1, 30))
    x = x * (0.1 + np.clip(np.sin(2 * np.pi * t * 3), 0, 1))
    return np.float32(0.1 * x + 1e-4 * rng.standard_normal(len(t)))


def predicted(x: np.ndarray, y: np.ndarray) -> float:
    """PESQ from the disturbances, through the output mapping of P.862.2."""
    both, extra = LOSS.disturbance(*(torch.from_numpy(s)[None] for s in (x, y)))
    raw = 4.5 - 0.1 * float(both) - 0.0309 * float(extra)
    return float(0.999 + 4 / (1 + np.exp(-1.3669 * raw + 3.8224)))


def test_agrees_with_pesq():
    pytest.importorskip("pesq")
    ours, theirs = [], []
    for seed in range(6):
        x = voice(seed, 3.0)
        noise = np.random.default_rng(seed).standard_normal(len(x))
        for level in (0.0003, 0.001, 0.003, 0.01):
            y = np.float32(x + level * noise)
            ours.append(predicted(x, y))
            theirs.append(judges.pesq_wb(x, y))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98
    assert np.abs(np.subtract(ours, theirs)).mean() < 0.2


@settings(deadline=None, max_examples=20)
@given(gain=st.floats(-40, 20), other=st.floats(-40, 20), seed=st.integers(0, 9))
def test_levels_do_not_matter(gain, other, seed):
    x = torch.from_numpy(voice(seed))[None]
    y = x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    expected = LOSS(x, y)
    assert LOSS(x * 10 ** (gain / 20), y * 10 ** (other / 20)) == pytest.approx(
        float(expected), rel=0.02
    )


def test_an_equal_copy_costs_nothing():
    x = torch.from_numpy(voice(0))[None]
    assert float(LOSS(x, x.clone())) < 1e-3


@settings(deadline=None, max_examples=30)
@given(
    kinds=st.tuples(*[st.sampled_from(("voice", "silence", "noise", "tone", "quiet"))] * 2),
    samples=st.sampled_from((512, 4000, 16640)),
)
def test_every_pair_has_a_finite_gradient(kinds, samples):
    t = np.arange(samples) / 16000
    sounds = {
        "voice": voice(1, samples / 16000),
        "silence": np.zeros(samples, np.float32),
        "noise": np.random.default_rng(0).standard_normal(samples).astype(np.float32),
        "tone": np.sin(2 * np.pi * 440 * t).astype(np.float32),
        "quiet": 1e-5 * voice(2, samples / 16000),
    }
    x, y = (torch.from_numpy(sounds[k][:samples])[None] for k in kinds)
    y = y.clone().requires_grad_(True)
    loss = LOSS(x, y)
    (gradient,) = torch.autograd.grad(loss, [y])
    assert bool(loss.isfinite()) and bool(gradient.isfinite().all())


def test_steps_against_the_gradient_lower_it():
    x = torch.from_numpy(voice(3))[None]
    y = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    first = float(LOSS(x, y))
    for _ in range(20):
        y = y.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(LOSS(x, y), [y])
        y = y - 0.05 * gradient / gradient.norm()
    assert float(LOSS(x, y)) < 0.95 * first
