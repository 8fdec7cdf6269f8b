"""The planner counts what the model has, and gpu_bench.py runs without a GPU."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from uniaudio_training import plan
from uniaudio_training.flops import frame_flops, muon_flops, parameters
from uniaudio_training.lm.setup import LMSettings, build_config
from uniaudio_training.models.lm import MultiScaleLM
from uniaudio_training.muon import ITERATIONS, orthogonal
from uniaudio_training.settings import read_settings

from uniaudio_engine.storage.config import LMConfig, StackConfig
from uniaudio_engine.storage.weight_shapes import lm_shapes, matrix_part

TRAINING = Path(__file__).parents[2] / "training"
CONFIG = str(TRAINING / "configs" / "uniaudio-1b.yaml")


@st.composite
def lm_configs(draw):
    def stack(positions):
        heads = draw(st.sampled_from([2, 4]))
        return StackConfig(
            draw(st.integers(1, 3)),
            8 * heads,
            heads,
            draw(st.sampled_from([0, 1, 2])),
            draw(st.sampled_from([0, 24])),
            norm=draw(st.sampled_from(["layernorm", "rmsnorm"])),
            activation=draw(st.sampled_from(["gelu", "gelu_tanh", "swiglu"])),
            positions=positions,
            head_width=draw(st.sampled_from([0, 6])),
            qk_norm=draw(st.booleans()),
            final_norm=draw(st.booleans()),
            q_bias=draw(st.booleans()),
            k_bias=draw(st.booleans()),
            mlp_bias=draw(st.booleans()),
        )

    codebooks = draw(st.sampled_from([1, 4]))
    aligned = draw(st.booleans())
    return LMConfig(
        50,
        codebooks,
        stack(draw(st.sampled_from(["rope", "learned"]))),
        stack(draw(st.sampled_from(["rope", "learned"]))),
        draw(st.sampled_from(["concat", "sum"])),
        draw(st.sampled_from(["add", "prefix"])),
        max_frames=40,
        aligned_slots=2 * aligned,
        aligned_vocab=9 * aligned,
    )


@pytest.mark.parametrize("name", ["uniaudio-1b", "uniaudio-v1"])
def test_counts_of_a_config_are_those_of_its_model(name):
    """Parameters, and FLOPs forward and backward, at its full size, on tensors without data."""
    s = read_settings(LMSettings, TRAINING / "configs" / f"{name}.yaml")
    c, _ = build_config(s.lm, s.codebook_size, s.num_codebooks, plan.CAPTIONS, s.units)
    k, low, length = c.num_codebooks, c.local, plan.CONTEXT
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        model = MultiScaleLM(c)
        model(torch.zeros(1, length, k, dtype=torch.int64)).sum().backward()
        assert parameters(c) == sum(p.numel() for p in model.parameters())
    # computed: all rows of the head, all pairs of frames, and masked pairs of slots
    masked = 4 * low.layers * low.width * (k * k - k * (k + 1) / 2)
    whole = frame_flops(c, c.vocab_size, length).trained + 3 * masked
    assert counter.get_total_flops() == length * whole
    # planned: the head's rows of a codebook
    other_rows = 3 * 2 * k * low.width * (c.vocab_size - s.codebook_size)
    planned = plan.plan(s, plan.Cluster(1, 8, "H100"), 1, 1, 0.4).flops_per_frame
    assert planned == whole - 3 * masked - other_rows


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(lm_configs())
def test_counts_are_those_of_the_model(c):
    model, frames = MultiScaleLM(c), torch.zeros(2, 6, c.num_codebooks, dtype=torch.int64)
    assert parameters(c) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        model(frames)
    # what is computed: all pairs of frames and of slots, and all rows of the head
    k, low = c.num_codebooks, c.local
    counts = frame_flops(c, c.vocab_size, 6)
    masked = 4 * low.layers * low.width * (k * k - k * (k + 1) / 2)
    assert counter.get_total_flops() == 12 * (counts.forward + masked)


def test_plan_of_the_papers_model(capsys):
    assert plan.main(["--config", CONFIG, "--gpus", "64x8xH100", "--hours", "165000"]) == 0
    text = capsys.readouterr().out
    assert "954 M" in text and "0.40 (assumed)" in text and "512 H100" in text
    one = ["--config", CONFIG, "--hours", "100", "--json", "--mfu", "0.5", "--gpus"]
    found = []
    for gpus in ("1x8xH100", "2x8xH100"):
        assert plan.main([*one, gpus]) == 0
        found.append(json.loads(capsys.readouterr().out))
    # twice the GPUs, half the time of the passes; frames and FLOPs stay
    passes = [f["step"] - f["update"] for f in found]
    assert passes[0] == pytest.approx(2 * passes[1])
    assert found[0]["activations"] == pytest.approx(2 * found[1]["activations"])
    seconds = found[0]["frames_per_step"] * found[0]["flops_per_frame"] / (8 * 989e12 * 0.5)
    assert passes[0] == pytest.approx(seconds)


def planned(*changes):
    s = read_settings(LMSettings, CONFIG, changes)
    return plan.plan(s, plan.Cluster(4, 8, "H100"), 100, 1, 0.4)


def test_plan_of_shards():
    none, node, everywhere = (planned(f"sharding={kind}") for kind in ("none", "node", "all"))
    for p, shards in ((none, 1), (node, 8), (everywhere, 32)):
        assert p.shards == shards
        assert p.weights * shards == 4 * p.parameters == none.weights
        assert p.optimizer * shards == none.optimizer
        assert p.checkpoint == none.checkpoint and p.activations == none.activations
    assert none.memory > node.memory > everywhere.memory
    assert none.update > 7 * node.update > 7 * everywhere.update
    # copies on each machine exchange only sums of gradients with the other machines
    assert node.network == pytest.approx(2 * 4 * node.parameters / 8 * 3 / 4)
    assert node.network < node.exchanged and everywhere.network == everywhere.exchanged
    # more parts: less of a pass is kept, and more passes gather the weights
    more = planned("sharding=node", "parts=64")
    assert (more.passes, node.passes) == (2, 1)
    assert more.activations == pytest.approx(node.activations / 2)
    assert node.exchanged < more.exchanged < 2 * node.exchanged


def test_muon_flops_are_those_of_the_iterations():
    c = build_config(read_settings(LMSettings, CONFIG).lm, 16, 2, 0, 8)[0]
    small = dataclasses.replace(
        c, global_=StackConfig(2, 16, 2, 0, 24), local=StackConfig(1, 16, 2, 0, 24)
    )
    shapes = [
        shape
        for name, shape in lm_shapes(small).items()
        if matrix_part(name) in ("global", "local")
    ]
    with FlopCounterMode(display=False) as counter:
        for shape in shapes:
            orthogonal(torch.randn(shape), (1.0, 1.0, 1.0), ITERATIONS, 1e-7)
    assert muon_flops(small, 1) == counter.get_total_flops()
    assert muon_flops(small, 1) / 3 <= muon_flops(small, 3) < muon_flops(small, 1) / 2


def test_plan_refuses_in_one_line(capsys, tmp_path):
    good = ["--config", CONFIG, "--hours", "1", "--gpus", "1x1xH100"]
    (tmp_path / "none.json").write_text("{}")
    for change, named in (
        (["--gpus", "8H100"], "NODESxGPUSxKIND"),
        (["--gpus", "1x1xT4"], "a kind of"),
        (["--mfu", "2"], "--mfu"),
        (["--hours", "-1"], "--hours"),
        (["--set", "parts=3", "--gpus", "1x2xH100"], "parts: expected a multiple"),
        (["--set", "items=1", "--gpus", "1x8xH100"], "one per GPU"),
        (["--measured", str(tmp_path / "none.json")], "gpu_bench.py"),
        (["--config", str(tmp_path / "no.yaml")], "no.yaml"),
    ):
        assert plan.main([*good, *change]) == 2
        error = capsys.readouterr().err
        assert named in error and error.count("\n") == 1


@pytest.mark.slow
def test_gpu_bench_without_a_gpu(tmp_path):
    command = [sys.executable, TRAINING / "gpu_bench.py", "--dry", "--out", tmp_path / "r.json"]
    env = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert not result["left out"] and len(result["kernels"]) == 5 and len(result["steps"]) == 3
    assert all(case["relative difference"] < 1e-4 for case in result["kernels"].values())
