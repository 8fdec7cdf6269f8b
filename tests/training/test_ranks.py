"""A run gives the same model on any number of processes, and survives the death of any of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from joint_items import write_shards
from test_resume import LM, _equal, _weights, train_lm
from uniaudio_training.data_parallel import Team

CASE = Path(__file__).with_name("ranks_case.py")
# no decay: its rate depends on the number of steps, which a resumed run here changes
EVEN = {**LM, "parts": 4, "decay_share": 1e-9, "items": 600, "rows": 4}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    write_shards(folder, ("tts", "se"))
    return {"data": str(folder), "tasks": {"tts": 1.0, "se": 1.0}}


def ranks(settings, out, count, *kill, restarts=0):
    """The exit code of ``torchrun`` with so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={count}", f"--max-restarts={restarts}", str(CASE)]
    command += [json.dumps(settings), str(out), *kill]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stderr[-3000:]


def assert_close(one, other):
    one, other = _weights(one)["model"], _weights(other)["model"]
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4, msg=name)


def test_every_part_has_one_process():
    """For any number of processes the parts of a step are the same, and each is computed once."""
    for parts in (1, 2, 4, 12):
        whole = {
            key for key, _ in zip(Team(0, 1, parts).keys(7, 3), range(2 * parts), strict=False)
        }
        for size in (n for n in range(1, parts + 1) if parts % n == 0):
            keys = [
                key
                for rank in range(size)
                for key, _ in zip(
                    Team(rank, size, parts).keys(7, 3), range(2 * parts // size), strict=False
                )
            ]
            assert len(keys) == 2 * parts and set(keys) == whole
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        Team(0, 3, 4)
    # a run without parts draws what it always drew
    assert next(Team().keys(7, 3)) == (7, 3)
    assert next(Team(1, 2).keys(7, 3)) == (7, 1, 3)


def test_recomputed_activations_give_the_same_bits(tokens, tmp_path):
    for name, more in (("kept", {}), ("again", {"recompute": True})):
        train_lm({**LM, **tokens, **more, "steps": 2}, tmp_path / name)
    assert _equal(_weights(tmp_path / "kept"), _weights(tmp_path / "again"))


@pytest.mark.slow
def test_two_processes_resume_on_one(tokens, tmp_path):
    """Steps on two processes, then on one: the model of a run on one."""
    train_lm({**EVEN, **tokens, "steps": 4}, tmp_path / "one")
    train_lm({**EVEN, **tokens, "steps": 2, "processes": 2}, tmp_path / "two")
    train_lm({**EVEN, **tokens, "steps": 4}, tmp_path / "two")
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_torchrun(tokens, tmp_path):
    """The model of a run on one process; the same bits after SIGKILL of a rank."""
    settings = {**EVEN, **tokens, "steps": 5, "checkpoint_minutes": 1e-9}
    train_lm(settings, tmp_path / "one")
    code, errors = ranks(settings, tmp_path / "whole", 2)
    assert code == 0, errors
    assert_close(tmp_path / "one", tmp_path / "whole")
    code, errors = ranks(settings, tmp_path / "killed", 2, "one", restarts=1)
    assert code == 0, errors
    assert (tmp_path / "killed/killed-1").exists()
    assert _equal(_weights(tmp_path / "whole"), _weights(tmp_path / "killed"))


def test_an_error_of_two_processes_is_one_line(tmp_path, capfd):
    from uniaudio_training.train import main

    config = tmp_path / "lm.yaml"
    config.write_text(json.dumps({**LM, "data": str(tmp_path / "nothing"), "processes": 2}))
    out = str(tmp_path / "run")
    assert main(["lm", "--config", str(config), "--out", out, "--device", "cpu"]) == 2
    error = capfd.readouterr().err
    assert "token shards in" in error and error.count("\n") == 1


def test_processes_is_refused_under_torchrun(tokens, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match="expected 1 under torchrun"):
        train_lm({**LM, **tokens, "processes": 2}, tmp_path)
