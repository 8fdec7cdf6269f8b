"""The native LM against the torch module, over all options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lm_tools import CONFIGS, native_lm, random_inputs, there, torch_lm, torch_logits, truth_logits
from uniaudio_training.kernels import plain
from uniaudio_training.models.lm import SlotLinear

from uniaudio_engine import _C


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_logits(name: str) -> None:
    c = CONFIGS[name]
    model = torch_lm(c)
    inputs = random_inputs(c, 50)
    truth = there(truth_logits(model, inputs))
    own = np.abs(there(torch_logits(model, inputs, torch.float32)) - truth)
    error = np.abs(there(native_lm(c, model).logits(*inputs)) - truth)
    assert np.abs(truth).max() > 0.5
    # No worse than a small multiple of the module's own float32 error, at worst and on average.
    assert error.max() <= 4 * own.max(), (error.max(), own.max())
    assert error.mean() <= 2 * own.mean(), (error.mean(), own.mean())


def round_rows(v: torch.Tensor) -> torch.Tensor:
    scale = v.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (v / scale).round() * scale


def rounded_matrix(weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """What the stored form stands for."""
    if dtype == "bfloat16":
        return weight.bfloat16().float()
    stored, scale = _C.quantize(weight.numpy(), dtype)
    if dtype == "int8":
        return torch.from_numpy(stored.astype(np.float32) * scale[:, None])
    nibbles = (
        np.stack([stored & 15, stored >> 4], -1).reshape(len(stored), -1, 32).astype(np.float32) - 8
    )
    scales = torch.from_numpy(scale.view(np.int16)).view(torch.bfloat16).float()
    return (torch.from_numpy(nibbles) * scales[..., None]).reshape(len(stored), -1)[
        :, : weight.shape[1]
    ]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


# How far logits may move, in parts of their size, and log perplexity: these models have short, wild
# rows, which amplify.
BOUNDS = {"bfloat16": (0.02, 0.01), "int8": (0.08, 0.05), "int4": (0.65, 0.6)}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_rounded_logits_and_perplexity(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = CONFIGS[name]
    model = torch_lm(c)
    inputs = random_inputs(c, 60)
    exact = there(native_lm(c, model).logits(*inputs))
    rounded = there(native_lm(c, model, dtype).logits(*inputs))
    small = (
        {model.bridge, model.head, model.global_head} if dtype == "int4" else set()
    )  # int4 keeps these in int8
    weights = {
        m: rounded_matrix(m.weight.detach(), "int8" if m in small else dtype)
        for m in {*model.modules(), model.head}
        if isinstance(m, torch.nn.Linear)
    }

    def fake(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """The product in torch: weights as stored, activations of the integer types rounded to
        1/127 of their row's peak.
        """
        x = x if dtype == "bfloat16" else round_rows(x)
        if isinstance(self, SlotLinear):
            return self.product(x, weights[self])
        return torch.nn.functional.linear(x, weights[self], self.bias)

    with monkeypatch.context() as m:
        m.setattr(SlotLinear, "forward", lambda self, x, slot=None: fake(self, x))
        continuous = set(model.continuous.values())
        real = torch.nn.Linear.forward
        m.setattr(
            torch.nn.Linear,
            "forward",
            lambda self, x: real(self, x) if self in continuous else fake(self, x),
        )
        expected = there(torch_logits(model, inputs, torch.float32))
    # The native arithmetic is the stated rounding and nothing worse: only values at the edge
    # between two steps may fall otherwise, which costs far less than the rounding itself.
    assert rms(rounded - expected) < 0.35 * rms(expected - exact), (
        rms(rounded - expected),
        rms(expected - exact),
    )
    assert rms(rounded - exact) < BOUNDS[dtype][0] * rms(exact), rms(rounded - exact) / rms(exact)

    def log_perplexity(logits: np.ndarray, ids: np.ndarray) -> float:
        z = logits.astype(np.float64)
        z = z - z.max(-1, keepdims=True)
        z = z - np.log(np.exp(z).sum(-1, keepdims=True))
        return float(-np.take_along_axis(z, ids[..., None], -1).mean())

    # Text that the exact model itself would say, and text that it would not.
    likely = np.array(native_lm(c, model).session(60).generate(60, _C.Sampling(seed=5), inputs[1]))
    for ids in (likely, inputs[0]):
        frames = (ids, inputs[1], {})
        a, b = (
            log_perplexity(native_lm(c, model, d).logits(*frames), ids) for d in ("float32", dtype)
        )
        assert abs(b - a) < BOUNDS[dtype][1], (a, b)


def cached(x: torch.Tensor, kv_dtype: str) -> torch.Tensor:
    """Keys or values [..., head_dim] as a cache of ``kv_dtype`` gives them back."""
    if kv_dtype == "bfloat16":
        return x.bfloat16().to(x.dtype)
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale.clamp(min=1e-30)).round() * scale


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_kv_dtype_logits(name: str, kv_dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the module with the global stack's keys and values rounded in the same way."""
    c = CONFIGS[name]
    model = torch_lm(c)
    inputs = random_inputs(c, 50)
    truth = there(torch_logits(model, inputs, torch.float32))
    real = plain.attend

    def attention(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        if k.shape[-2] >= 50:
            k, v = cached(k, kv_dtype), cached(v, kv_dtype)
        return real(q, k, v, mask)

    with monkeypatch.context() as m:
        m.setattr(plain, "attend", attention)
        expected = there(torch_logits(model, inputs, torch.float32))
    got = there(native_lm(c, model, f"float32/{kv_dtype}").logits(*inputs))
    # Values at the edge between two steps may fall otherwise, which costs far less than the
    # rounding itself.
    rounding = rms(expected - truth)
    assert rms(got - expected) < 0.1 * rounding, (rms(got - expected), rounding)
    # These models are small and wild: the int8 weights of the same ones may cost 0.08.
    assert 0 < rounding < 0.03 * rms(truth)


@pytest.mark.parametrize("isa", ["avx512", "avxvnni", "avx2", "neon", "plain"])
def test_every_isa(isa: str) -> None:
    if isa not in _C.isa_available():
        pytest.skip(f"this machine lacks {isa}")
    here = Path(__file__)
    env = dict(os.environ, UNIAUDIO_ISA=isa)
    run = subprocess.run(
        [sys.executable, here.parent / "lm_isa_case.py"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    digests = dict(line.split() for line in run.stdout.splitlines())
    assert digests["isa"] == isa
    env["UNIAUDIO_ISA"] = "plain"
    plain = subprocess.run(
        [sys.executable, here.parent / "lm_isa_case.py"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    # int8 and int4 models round every product and sum at the same places on every ISA: the same
    # bits.
    expected = dict(line.split() for line in plain.stdout.splitlines())
    assert digests["logits"] == expected["logits"]
    assert digests["tokens"] == expected["tokens"]


def test_unknown_isa_raises() -> None:
    env = dict(os.environ, UNIAUDIO_ISA="mmx")
    run = subprocess.run(
        [sys.executable, "-c", "from uniaudio_engine import _C; _C.isa()"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "expected one of" in run.stderr and "got mmx" in run.stderr
