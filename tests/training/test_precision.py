"""The precision of a run depends on the machine, and a resumed run keeps its own."""

import pytest

torch = pytest.importorskip("torch", reason="the trainers need torch")

from uniaudio_training import precision
from uniaudio_training.loop import Run
from uniaudio_training.muon import Muon, orthogonal
from uniaudio_training.precision import checkpoint_precision, choose
from uniaudio_training.settings import RunSettings

CPU = torch.device("cpu")


def timed(monkeypatch, float32, bfloat16):
    times = {torch.float32: float32, torch.bfloat16: bfloat16}
    monkeypatch.setattr(precision, "time_products", lambda device: times)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [(1.0, 20.0, "float32"), (1.0, 0.5, "bfloat16"), (1.0, 0.95, "float32")],
)
def test_the_faster_one_is_taken_and_said(monkeypatch, tmp_path, float32, bfloat16, expected):
    timed(monkeypatch, float32, bfloat16)
    lines = []
    arithmetic = choose("auto", CPU, tmp_path, lines.append)
    assert arithmetic.dtype == getattr(torch, expected)
    assert len(lines) == 1 and lines[0].startswith(f"precision: {expected};")
    for wanted in ("float32", "bfloat16"):  # whatever the machine is fast at
        assert choose(wanted, CPU, tmp_path, lines.append).dtype == getattr(torch, wanted)
    layer = torch.nn.Linear(4, 4)
    with arithmetic.autocast():
        assert layer(torch.ones(1, 4)).dtype == arithmetic.dtype


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
def test_a_resumed_run_keeps_its_precision(monkeypatch, tmp_path, kept):
    other = "bfloat16" if kept == "float32" else "float32"
    timed(monkeypatch, *((1.0, 0.1) if kept == "float32" else (0.1, 1.0)))
    assert checkpoint_precision(tmp_path) is None
    with Run(tmp_path, RunSettings(steps=1), kept) as run:
        run.save()
    lines = []
    assert choose("auto", CPU, tmp_path, lines.append).dtype == getattr(torch, kept)
    assert "from the checkpoint" in lines[0]
    assert choose(other, CPU, tmp_path, lines.append).dtype == getattr(torch, other)


def test_a_checkpoint_without_the_entry_was_trained_in_bfloat16(tmp_path):
    torch.save({"step": 3, "parts": {}}, tmp_path / "checkpoint.pt")
    assert checkpoint_precision(tmp_path) == "bfloat16"


def test_both_are_timed():
    times = precision.time_products(CPU, repeats=1)
    assert set(times) == {torch.float32, torch.bfloat16}
    assert all(0 < seconds < float("inf") for seconds in times.values())


def trained(dtype, kind, shape, steps=3):
    """The weights [m, n] after some steps with fixed gradients, and the optimizer's state."""
    p = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    if kind is Muon:
        optimizer = Muon([p], 0.02, 0.05, dtype)
    else:
        optimizer = torch.optim.Muon([p], lr=0.02, momentum=0.95, weight_decay=0.05)
    for step in range(steps):
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1 + step))
        optimizer.step()
    return p.detach(), optimizer.state_dict()


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_muon_is_torchs(shape):
    """In bfloat16 to the bit; in float32 within what bfloat16 rounds away, state and all."""
    theirs, state = trained(None, torch.optim.Muon, shape)
    same, _ = trained(torch.bfloat16, Muon, shape)
    assert torch.equal(theirs, same)
    exact, ours = trained(torch.float32, Muon, shape)
    assert (theirs - exact).norm() < 0.03 * 0.02 * 3 * min(shape) ** 0.5 * 2
    assert not torch.equal(theirs, exact)
    assert ours["state"].keys() == state["state"].keys()
    torch.testing.assert_close(
        ours["state"][0]["momentum_buffer"], state["state"][0]["momentum_buffer"]
    )


def test_orthogonal():
    x = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(x, (3.4445, -4.775, 2.0315), 5, 1e-7))
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3
