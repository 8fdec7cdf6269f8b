"""A run has the same loss curve and weights on 1, 2 and 4 processes, with shards and without."""

from __future__ import annotations

import json

import pytest
import torch
from curves_case import curves
from test_ranks import EVEN, assert_close, tokens  # noqa: F401 - a fixture

# the last: two machines with two processes each
CASES = {
    f"{size}-{sharding}": (size, machine, {"sharding": sharding})
    for size, sharding, machine in (
        (1, "none", 1),
        (2, "none", 2),
        (2, "all", 2),
        (4, "none", 4),
        (4, "all", 4),
        (4, "node", 2),
    )
}


@pytest.mark.slow
def test_loss_curves(tokens, tmp_path):  # noqa: F811
    settings = {**EVEN, **tokens, "steps": 6, "lr": 1e-2}
    torch.multiprocessing.spawn(curves, (str(tmp_path), settings, CASES), nprocs=4)
    found = {case: json.loads((tmp_path / f"curve-{case}").read_text()) for case in CASES}
    alone = found["1-none"]
    assert len(alone) == 6 and alone[-1] < alone[0] - 0.1, "it does not learn"
    for case, losses in found.items():
        assert losses == pytest.approx(alone, rel=2e-5), case
        assert_close(tmp_path / "1-none", tmp_path / case)
