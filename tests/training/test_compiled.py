"""Compiled blocks compute what they compute otherwise, and new lengths compile nothing new.

Where blocks compute, the backend is ``aot_eager``, which traces as Inductor does, and runs what it
traced without generating code: that alone takes minutes.
"""

from __future__ import annotations

import json

import pytest
import torch
from curves_case import curves
from joint_items import write_shards
from test_ranks import EVEN
from torch._dynamo.utils import counters
from torch._inductor import async_compile, cpu_vec_isa
from uniaudio_training import compiling
from uniaudio_training.lm.data import AUDIO, DURATION, Batch
from uniaudio_training.lm.objective import Objective
from uniaudio_training.lm.setup import Stacks, build_config
from uniaudio_training.models.lm import MultiScaleLM
from uniaudio_training.run_checkpoint import read_run

from uniaudio_engine.storage.config import StackConfig

# rows, items of a row's prompt, its sentences, items of a sentence
LENGTHS = [(2, 5, 3, 9), (3, 7, 2, 12), (2, 9, 4, 20), (4, 6, 2, 31), (2, 12, 3, 17)]
LENGTHS += [(3, 8, 2, 25), (2, 4, 2, 40), (2, 5, 5, 11), (3, 3, 3, 14), (2, 10, 2, 50)]


def random_batch(layout, b, p, n, length):
    starts = torch.tensor([start for [(start, _)] in layout.audio_ranges()])

    def codes(*shape):
        return torch.randint(0, 16, (*shape, len(starts))) + starts

    kind, frames = torch.full((b, n, length), AUDIO), codes(b, n, length)
    kind[..., :2], frames[..., :2, :] = DURATION, layout.vocabulary.span("duration").start + 1
    aligned = torch.zeros(b, n, length, layout.aligned_slots, dtype=torch.int64)
    return Batch(codes(b, p), codes(b, n, length), frames, aligned, kind, "tts")


def steps(objective):
    """Loss and gradients of a batch of each length."""
    torch.manual_seed(0)
    for lengths in LENGTHS:
        objective.zero_grad()
        codes, duration = objective(random_batch(objective.layout, *lengths))
        loss = codes.mean() + duration
        loss.backward()
        yield [loss.detach(), *(p.grad.clone() for p in objective.parameters())]


@pytest.mark.slow
def test_ten_lengths_share_their_code(monkeypatch):
    monkeypatch.setattr(compiling, "backend", "aot_eager")
    shape = StackConfig(2, 16, 2, 0, 24)
    local = StackConfig(2, 16, 2, 0, 24, positions="learned")
    config, layout = build_config(Stacks(shape, local), 16, 4, 0, 32)
    model = MultiScaleLM(config)
    model.init_weights()
    names = list(model.state_dict())
    objective = Objective(model, layout)
    expected = list(steps(objective))
    torch._dynamo.reset()
    counters.clear()
    compiling.compile_blocks((*model.global_.blocks(), *model.local.blocks()))
    assert list(model.state_dict()) == names
    for recompute in (False, True):
        for block in (*model.global_.blocks(), *model.local.blocks()):
            block.recompute = recompute
        for found, wanted in zip(steps(objective), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
            # the global blocks; the local ones for codes, and for durations, whose slot is one
            assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]


@pytest.mark.parametrize(("backend", "graphs"), [("inductor", 2), (compiling.inductor, 1)])
def test_inductor_chooses_nothing_by_a_length(monkeypatch, backend, graphs):
    """Inductor sums more than 4096 rows otherwise, and keeps the condition; ours does not.

    Only its conditions count here: no C++ is compiled, and kernels compute nothing.
    """

    class NoCompiler(async_compile.AsyncCompile):
        def cpp_pybinding(self, argtypes, source_code):
            assert "extern" in source_code
            return lambda *_: None

    monkeypatch.setattr(async_compile, "AsyncCompile", NoCompiler)
    monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", lambda: [])
    torch._dynamo.reset()
    counters.clear()
    weight = torch.ones(8, requires_grad=True)
    scaled = torch.compile(lambda x: x * weight, backend=backend, dynamic=True)
    uncached = torch._functorch.config.patch(enable_autograd_cache=False)
    with uncached, torch._inductor.config.patch(fx_graph_cache=False):
        for rows in (10, 5000, 20):
            scaled(torch.ones(rows, 8)).sum().backward()
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_a_run_with_shards_in_bfloat16(tmp_path):
    """Compiled, with shards of two processes and recomputation: curve and names of the plain run."""
    write_shards(tmp_path, ("tts",))
    settings = {**EVEN, "data": str(tmp_path), "tasks": {"tts": 1.0}, "parts": 2, "steps": 4}
    settings |= {"lr": 1e-2, "precision": "bfloat16", "sharding": "all", "recompute": True}
    cases = {"plain": (2, 2, {}), "compiled": (2, 2, {"compile": True})}
    torch.multiprocessing.spawn(curves, (str(tmp_path), settings, cases), nprocs=2)
    assert [(tmp_path / f"graphs-{case}").read_text() for case in cases] == ["0", "3"]
    one, other = (json.loads((tmp_path / f"curve-{case}").read_text()) for case in cases)
    assert len(one) == 4 and other == pytest.approx(one, rel=2e-3)
    one, other = (read_run(tmp_path / case)["parts"]["model"] for case in cases)
    assert list(one) == list(other)
    for name, value in one.items():
        assert (value - other[name]).norm() < 0.02 * value.norm(), name
