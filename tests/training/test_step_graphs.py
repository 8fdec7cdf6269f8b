"""The modules that exporters trace, step by step, against the language model in one pass."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from lm_tools import CONFIGS, random_inputs, there, torch_lm, torch_logits
from uniaudio_training.export.lm_graphs import GlobalSteps, LocalStep

FRAMES = 14


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "gelu_tanh",
        "qk_norm_grouped",
        "tied",
        "window",
        "global_head",
        "local_table",
        "project",
        "project_head",
        "slot_weights",
        "slot_weights_bias",
        "depth",
        "others",
    ],
)
def test_steps_are_the_whole(name: str) -> None:
    c = CONFIGS[name]
    model = torch_lm(c)
    inputs = random_inputs(c, FRAMES)
    truth = there(torch_logits(model, inputs, torch.float32))
    steps, local = GlobalSteps(model), LocalStep(model)
    frames = torch.from_numpy(inputs[0]).long()
    previous = torch.cat((torch.full((1, c.num_codebooks), c.start_id), frames[:-1]))
    g, s = c.global_, c.local
    caches = [torch.zeros(FRAMES, g.num_kv_heads, g.head_dim) for _ in range(2 * g.layers)]
    found = []
    with torch.no_grad():
        for t in range(FRAMES):
            hidden, *caches = steps(previous[t : t + 1], torch.tensor([t]), [], caches)
            rows = [
                torch.zeros(1, c.num_codebooks, s.num_kv_heads, s.head_dim)
                for _ in range(2 * s.layers)
            ]
            for slot in range(c.num_codebooks):
                code = frames[t, max(0, slot - 1)][None]
                logits, *rows = local(hidden, code, torch.tensor([slot]), rows)
                found.append(logits[0].numpy())
    error = np.abs(there(np.stack(found)).reshape(truth.shape) - truth).max()
    assert error < 2e-5 * np.abs(truth).max()
