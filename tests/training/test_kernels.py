"""Each Triton kernel equals its plain torch version, forward and backward.

On a CPU the kernels run in Triton's interpreter, with small blocks; on a GPU as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="the kernels are written in Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from uniaudio_training import kernels
from uniaudio_training.kernels import attention, cross_entropy, norm, plain, rvq

few = settings(
    max_examples=5,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)


def random(*shape, seed=0, dtype=torch.float32, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=g)).to(DEVICE, dtype)


def both(fused, truth, *tensors):
    """Asserts that outputs and gradients of the two agree; tensors that float get gradients."""
    found = []
    for function in (fused, truth):
        inputs = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in tensors]
        outputs = function(*inputs)
        outputs = [o for o in outputs if o.requires_grad]
        seeds = [random(*o.shape, seed=i) if o.dim() else o.detach() for i, o in enumerate(outputs)]
        torch.autograd.backward(
            outputs, [s.to(o.dtype) for s, o in zip(seeds, outputs, strict=True)]
        )
        found.append([o.detach() for o in outputs] + [t.grad for t in inputs if t.requires_grad])
    assert len(found[0]) == len(found[1])
    for ours, expected in zip(*found, strict=True):
        assert ours.dtype == expected.dtype
        near = {} if ours.dtype == torch.float16 else {"rtol": 2e-4, "atol": 2e-5}
        torch.testing.assert_close(ours, expected, **near)


@few
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 20), st.integers(1, 4), st.booleans())
@example(17, 40, kernels.MAX_DIM, 3, False)
def test_residual_vq(n, size, width, stages, ties):
    """Small integers make all arithmetic exact: equal codes, also where several are nearest."""
    x = random(n, width, scale=3.0).round()
    books = random(stages, size, width, seed=1, scale=2.0).round()
    if ties:
        books[:, size // 2 :] = books[:, : size - size // 2]
    for ours, expected in zip(rvq.residual_vq(x, books), plain.residual_vq(x, books), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    both(
        lambda x: rvq.residual_vq(x, books)[:2] + (rvq.residual_vq(x, books).commitment,),
        lambda x: plain.residual_vq(x, books)[:2] + (plain.residual_vq(x, books).commitment,),
        x,
    )


def test_residual_vq_of_any_numbers():
    """A code may differ from the plain one only where both are equally near, to rounding."""
    x, books = random(100, 24), random(3, 50, 24, seed=1)
    got, expected = rvq.residual_vq(x, books), plain.residual_vq(x, books)
    assert (got.codes == expected.codes).float().mean() > 0.98
    residual = x
    for codes, words in zip(got.codes, books, strict=True):
        distance = torch.cdist(residual, words)
        chosen = distance.gather(1, codes[:, None])[:, 0]
        torch.testing.assert_close(chosen, distance.min(1).values, rtol=1e-5, atol=1e-5)
        residual = residual - words[codes]
    torch.testing.assert_close(got.value, x - residual, rtol=1e-5, atol=1e-5)
    assert got.counts.sum(1).tolist() == [100] * 3
    with pytest.raises(ValueError, match="expected float32"):
        rvq.residual_vq(x.half(), books)


@few
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 40), st.integers(1, 50), st.booleans())
def test_codebook_losses(n, slots, width, size, more):
    """Slots with their own rows, of different counts, and one more row that all share."""
    ranges = [(2 + k * size, max(1, size - k)) for k in range(slots)]
    extra = 1 if more else None
    g = torch.Generator().manual_seed(n)
    columns = [s + more for _, s in ranges]
    target = torch.stack([torch.randint(0, c, (n,), generator=g) for c in columns], 1).to(DEVICE)
    if more:
        target[0] = torch.tensor([s for _, s in ranges])
    both(
        lambda y, w: [cross_entropy.codebook_losses(y, w, ranges, extra, target)],
        lambda y, w: [plain.codebook_losses(y, w, ranges, extra, target)],
        random(n, slots, width),
        random(2 + slots * size, width, seed=1),
    )


@few
@given(
    st.integers(1, 12),
    st.integers(1, 32),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    st.integers(1, 24),
)
@example(3, kernels.MAX_SLOTS, (4, 2), 24)
@example(1, 1, (1, 1), 1)
def test_slot_attention(n, slots, heads, width):
    both(
        lambda *qkv: [attention.slot_attention(*qkv)],
        lambda *qkv: [plain.slot_attention(*qkv)],
        *(random(n, slots, h, width, seed=i) for i, h in enumerate((heads[0], *heads[1:] * 2))),
    )


@few
@given(st.integers(1, 9), st.integers(1, 70), st.booleans(), st.sampled_from([None, 4, 2]))
@example(5, 33, True, 2)
@example(5, 33, False, 2)
def test_add_norm(rows, width, layernorm, branch):
    """``branch``: the bytes of its numbers. Under autocast it has two, and the sum has four."""
    eps = 1e-5
    # LayerNorm of two equal numbers divides by eps: its gradient is all rounding
    width += 2 * layernorm
    weight, bias = 1 + random(width, seed=2, scale=0.1), random(width, seed=3)
    tensors = [random(rows, 2, width)]
    if branch:
        low = {4: torch.float32, 2: torch.float16}[branch]
        tensors.append(random(rows, 2, width, seed=1, dtype=low))
    tensors += [weight] + [bias] * layernorm

    def of(module):
        def run(x, *rest):
            rest = list(rest)
            b = rest.pop(0) if branch else None
            w = rest.pop(0)
            total, y = module.add_norm(x, b, w, rest.pop(0) if layernorm else None, eps)
            return [total * 1.5, y]  # the sum goes on as the residual stream

        return run

    both(of(norm), of(plain), *tensors)


@pytest.mark.parametrize("name", ["norm", "attention", "loss"])
def test_two_bytes_are_as_accurate_as_in_the_plain_version(name):
    """Against the plain version in float64 of the same numbers. The interpreter multiplies the bits
    of bfloat16 as integers, so on a CPU the type is float16.
    """
    low = torch.float16 if DEVICE == "cpu" else torch.bfloat16
    ranges, target = [(0, 30), (30, 30)], torch.arange(34, device=DEVICE).view(17, 2) % 30
    weight, cases = random(24, seed=5), {}
    cases["norm"] = (
        lambda m, x, b: m.add_norm(x, b, weight.to(x.dtype), None, 1e-5)[1],
        (random(20, 24, dtype=low), random(20, 24, seed=1, dtype=low)),
    )
    cases["attention"] = (
        lambda m, *qkv: m.slot_attention(*qkv),
        tuple(random(5, 8, 2, 16, seed=i, dtype=low) for i in range(3)),
    )
    cases["loss"] = (
        lambda m, y, w: m.codebook_losses(y, w, ranges, None, target),
        (random(17, 2, 24, dtype=low), random(60, 24, seed=1, dtype=low)),
    )
    call, inputs = cases[name]
    fused = {"norm": norm, "attention": attention, "loss": cross_entropy}[name]

    def gradients(module, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in inputs]
        out = call(module, *leaves)
        out.double().square().sum().backward()
        return [out.detach().double(), *(t.grad.double() for t in leaves)]

    truth = gradients(plain, torch.float64)
    ours, theirs = gradients(fused, low), gradients(plain, low)
    for a, b, t in zip(ours, theirs, truth, strict=True):
        assert (a - t).norm() <= 1.5 * (b - t).norm() + 1e-3 * t.norm()


def test_operators_are_whole():
    """Schemas, shapes without data and gradients agree, as torch.compile needs them."""
    x, books = random(5, 6).requires_grad_(), random(2, 7, 6, seed=1)
    qkv = [random(3, 4, 2, 8, seed=i).requires_grad_() for i in range(3)]
    y, w = random(5, 2, 6).requires_grad_(), random(20, 6, seed=1).requires_grad_()
    target = torch.zeros(5, 2, dtype=torch.int64, device=DEVICE)
    weight = random(6, seed=2).requires_grad_()
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    for operator, arguments in (
        (rvq.residual_codes, (x, books)),
        (attention.slot_attention, tuple(qkv)),
        (cross_entropy._losses, (y, w, [0, 9], [9, 9], 19, target)),
        (norm._add_norm, (x, x.detach() + 1, weight, weight, 1e-5, torch.bfloat16)),
        (norm._add_norm, (x, None, weight, None, 1e-5, torch.float32)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=checks)


def test_nothing_to_do():
    """No frames: empty results, as from the plain versions."""
    q = random(0, 4, 2, 8).requires_grad_()
    attention.slot_attention(q, q, q).sum().backward()
    assert q.grad.shape == q.shape
    empty = torch.zeros(0, 2, dtype=torch.int64, device=DEVICE)
    assert (
        cross_entropy.codebook_losses(random(0, 2, 6), random(9, 6), [(0, 4), (4, 4)], None, empty)
        .isnan()
        .all()
    )
    assert rvq.residual_vq(random(0, 6), random(2, 7, 6)).codes.shape == (2, 0)
    assert norm.add_norm(random(0, 6), None, random(6), None, 1e-5)[1].shape == (0, 6)


def test_what_does_not_fit_on_chip_is_left_to_torch():
    """The bits of the plain versions, as the kernels refuse such shapes."""
    qkv = [random(2, kernels.MAX_SLOTS + 1, 1, 4, seed=i) for i in range(3)]
    x, books = random(3, kernels.MAX_DIM + 1), random(2, 5, kernels.MAX_DIM + 1, seed=1)
    kernels.select("triton")
    try:
        assert torch.equal(kernels.slot_attention(*qkv), plain.slot_attention(*qkv))
        assert torch.equal(kernels.residual_vq(x, books).value, plain.residual_vq(x, books).value)
    finally:
        kernels.select("auto")


def test_the_switch(monkeypatch):
    assert kernels.selected() == "auto"
    on_cpu = torch.zeros(1)
    assert not kernels.fused(on_cpu)
    try:
        kernels.select("triton")
        assert kernels.fused(on_cpu)
        kernels.select("torch")
        assert not kernels.fused(on_cpu.to(DEVICE))
    finally:
        kernels.select("auto")
    monkeypatch.setattr(kernels, "_installed", False)
    with pytest.raises(ValueError, match="pip install triton"):
        kernels.select("triton")
    assert kernels.selected() == "auto"


@pytest.mark.slow
def test_compiled_for_hopper():
    """Each kernel fits an H100 and multiplies on its tensor cores; no GPU is needed for that."""
    case = Path(__file__).with_name("hopper_kernels.py")
    env = dict(os.environ, TRITON_INTERPRET="0")
    done = subprocess.run([sys.executable, case], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 20 and not any("TOO MUCH" in line for line in lines)
    products = [line for line in lines if not line.startswith("norm")]
    assert not any("wgmma 0, mma 0" in line for line in products)
