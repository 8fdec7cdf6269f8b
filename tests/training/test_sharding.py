"""Sharded runs: the model of a run on one process, and a checkpoint that any number reads."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ranks import EVEN, assert_close, ranks, tokens  # noqa: F401 - a fixture
from test_resume import _equal, _folder, _weights, train_lm
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from uniaudio_training import run_checkpoint
from uniaudio_training.data_parallel import Team, run_team
from uniaudio_training.lm.validation import FILE
from uniaudio_training.muon import Muon, assign_owners, shard_rows
from uniaudio_training.run_checkpoint import Piece, Writer, newest, read, read_run

SHAPES = [(12, 8), (7, 20), (16, 16), (1, 30), (9, 9)]


@given(st.integers(0, 40), st.integers(1, 9))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_rows_are_those_of_chunk(rows, size):
    sizes = [len(piece) for piece in torch.arange(rows).chunk(size)] if rows else []
    assert shard_rows(rows, size) == sizes + [0] * (size - len(sizes))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12),
    st.integers(1, 5),
)
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_no_process_has_a_matrix_too_many(shapes, size):
    owners = assign_owners(shapes, size)
    work = [0] * size
    for (m, n), owner in zip(shapes, owners, strict=True):
        work[owner] += m * n * min(m, n)
    # greedy: what separates two processes is at most one matrix
    most = max((m * n * min(m, n) for m, n in shapes), default=0)
    assert max(work) - min(work) <= most


def gradients(step):
    g = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=g) for shape in SHAPES]


def muon_steps(team, folder, dtype):
    """Three steps on shards; the leading process writes the whole matrices."""
    mesh = init_device_mesh("cpu", (team.size,))

    def sharded(values):
        return [distribute_tensor(x, mesh, [Shard(0)]) for x in values]

    params = [torch.nn.Parameter(x) for x in sharded(gradients(0))]
    optimizer = Muon(params, 0.02, 0.05, dtype)
    for step in (1, 2, 3):
        for p, g in zip(params, sharded(gradients(step)), strict=True):
            p.grad = g
        optimizer.step()
    whole = [p.full_tensor().detach() for p in params]
    if team.leads:
        torch.save(whole, folder / f"{dtype}.pt")


def test_muon_of_shards_has_the_bits_of_whole_matrices(tmp_path):
    """On two processes, which do not divide all rows, and of which one holds none of a matrix."""
    run_team(muon_steps, 2, 0, "none", tmp_path, torch.float32)
    params = [torch.nn.Parameter(x) for x in gradients(0)]
    optimizer = Muon(params, 0.02, 0.05, torch.float32)
    for step in (1, 2, 3):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g
        optimizer.step()
    assert _equal(torch.load(tmp_path / "torch.float32.pt"), [p.detach() for p in params])


@pytest.fixture
def alone():
    """A process group of this process alone, and a sharded tensor of it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    yield lambda value: distribute_tensor(torch.full((3, 2), float(value)), mesh, [Shard(0)])
    dist.destroy_process_group()


def state(step, weight):
    return {"step": step, "parts": {"model": {"w": weight}, "clock": {"spent": 1.5}}}


def value(run):
    return float(read_run(run)["parts"]["model"]["w"][0, 0])


def test_file_and_folder_replace_each_other(alone, tmp_path):
    writer = Writer(tmp_path, Team())
    assert newest(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="with a checkpoint"):
        read_run(tmp_path)
    # a folder twice at one step, a file, a folder again
    kinds = [(1, alone), (1, alone), (2, torch.full), (3, alone)]
    for i, (step, kind) in enumerate(kinds):
        weight = kind((3, 2), float(i)) if kind is torch.full else kind(i)
        writer.write(state(step, weight))
        with torch.no_grad():
            weight.zero_()  # what the run trains on meanwhile is not written
        writer.wait()
        assert value(tmp_path) == i and read_run(tmp_path)["step"] == step
        assert read_run(tmp_path)["parts"]["clock"] == {"spent": 1.5}
        assert len(list(tmp_path.iterdir())) == 1
        assert set(read_run(tmp_path, ("clock", "none"))["parts"]) == {"clock"}


def test_either_is_read_into_shards(alone, tmp_path):
    like = alone(0)
    for step, weight in ((1, torch.full((3, 2), 1.0)), (2, alone(2))):
        writer = Writer(tmp_path, Team())
        writer.write(state(step, weight))
        writer.wait()
        found = read(newest(tmp_path), like=lambda keys, shape: like if shape == (3, 2) else None)
        shard = found["parts"]["model"]["w"]
        assert shard.placements == like.placements
        assert torch.equal(shard.to_local(), torch.full((3, 2), float(step)))


def test_a_failed_write_leaves_the_old_checkpoint(alone, tmp_path, monkeypatch):
    writer = Writer(tmp_path, Team())
    writer.write(state(1, alone(1)))
    writer.wait()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", full)
    writer.write(state(2, alone(2)))
    with pytest.raises(OSError, match="process 0 failed: no space left"):
        writer.wait()
    assert value(tmp_path) == 1
    monkeypatch.undo()
    writer.write(state(3, alone(3)))
    writer.wait()
    assert value(tmp_path) == 3 and len(list(tmp_path.iterdir())) == 1


def test_state_names_the_pieces(alone, tmp_path):
    writer = Writer(tmp_path, Team())
    writer.write(state(1, alone(1)))
    writer.wait()
    head = run_checkpoint.head(newest(tmp_path))
    assert head["parts"]["model"]["w"] == Piece("parts/model/w", (3, 2), torch.float32)


def test_sharded_run_goes_on_alone(tokens, tmp_path):  # noqa: F811
    """Two steps on two processes with shards, two on one without: the model of a run on one."""
    more = {**EVEN, **tokens, "validation_batches": 1}
    train_lm({**more, "steps": 4}, tmp_path / "one")
    train_lm({**more, "steps": 2, "processes": 2, "sharding": "all"}, tmp_path / "two")
    assert newest(tmp_path / "two").is_dir()
    train_lm({**more, "steps": 4}, tmp_path / "two")
    assert newest(tmp_path / "two").is_file()
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_sharded_run_goes_on_from_a_file(tokens, tmp_path):  # noqa: F811
    """Alone, then with shards: the same model and the same validation."""
    more = {**EVEN, **tokens, "recompute": True}
    train_lm({**more, "steps": 4}, tmp_path / "one")
    train_lm({**more, "steps": 2}, tmp_path / "two")
    train_lm({**more, "steps": 4, "processes": 2, "sharding": "node"}, tmp_path / "two")
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_old_tasks_are_kept_with_shards(tokens, tmp_path):  # noqa: F811
    """Start from a folder, validation and the way back to the bound, as alone."""
    train_lm({**EVEN, **tokens, "steps": 2}, tmp_path / "first")
    folder = _folder(tmp_path / "first", tmp_path / "folder")
    settings = {
        **EVEN,
        "data": tokens["data"],
        "tasks": {"se": 1.0},
        "init": str(folder),
        "old": 0.5,
    }
    settings |= {"lr": 0.8, "matrix_lr": 2.4, "warmup": 1, "steps": 2, "bound": 0.02}
    train_lm(settings, tmp_path / "one")
    train_lm({**settings, "processes": 2, "sharding": "all"}, tmp_path / "two")
    one, two = (
        [json.loads(line) for line in (tmp_path / name / FILE).read_text().splitlines()]
        for name in ("one", "two")
    )
    # before, after, and at least once on the way back
    assert len(one) == len(two) > 2
    for a, b in zip(one, two, strict=True):
        assert a["losses"]["tts"] == pytest.approx(b["losses"]["tts"], rel=1e-3)
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_bfloat16(tokens, tmp_path):  # noqa: F811
    """Gathered in bfloat16, computed in it: near the run whose whole weights are cast."""
    settings = {**EVEN, **tokens, "steps": 3, "precision": "bfloat16"}
    train_lm(settings, tmp_path / "one")
    train_lm({**settings, "processes": 2, "sharding": "all"}, tmp_path / "two")
    one, two = (_weights(tmp_path / name)["model"] for name in ("one", "two"))
    for name, value in one.items():
        assert (value - two[name]).norm() < 0.02 * value.norm(), name


@pytest.fixture(scope="module")
def not_killed(tokens, tmp_path_factory):  # noqa: F811
    """Settings of a run that writes a checkpoint at each step, and its folder."""
    settings = {**EVEN, **tokens, "steps": 5, "checkpoint_minutes": 1e-9, "sharding": "all"}
    folder = tmp_path_factory.mktemp("whole")
    code, errors = ranks(settings, folder, 2)
    assert code == 0, errors
    return settings, folder


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["one", "all"])
def test_killed_ranks(not_killed, tmp_path, kill):
    """SIGKILL of a rank, or of all with their launcher, while a checkpoint may be in writing: the
    same bits as without.
    """
    settings, whole = not_killed
    code, errors = ranks(settings, tmp_path, 2, kill, restarts=1)
    if kill == "all":
        assert code != 0
        assert 0 < read_run(tmp_path, ())["step"] < 5
        code, errors = ranks(settings, tmp_path, 2)
    assert code == 0, errors
    assert (tmp_path / "killed-1").exists()
    assert _equal(_weights(whole), _weights(tmp_path))
