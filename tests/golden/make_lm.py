"""Writes lm_*.safetensors: tiny random LMs with inputs and the torch module's float64 logits, so
that C++ tests run without torch.

PYTHONPATH=.:training:tests/engine python tests/golden/make_lm.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from lm_tools import CONFIGS, random_inputs, torch_lm, torch_logits, truth_logits
from safetensors.numpy import save_file

from uniaudio_engine.storage.config import to_dict

HERE = Path(__file__).resolve().parent
NAMES = ("base", "reference", "everything", "gqa")


def main() -> None:
    for name in NAMES:
        c = CONFIGS[name]
        model = torch_lm(c)
        inputs = random_inputs(c, 12)
        frames, aligned, continuous = inputs
        truth = truth_logits(model, inputs)
        own = float(np.abs(torch_logits(model, inputs, torch.float32) - truth).max())
        tensors = {f"lm.{k}": v.numpy() for k, v in model.state_dict().items()}
        tensors["frames"] = frames
        tensors["logits"] = truth.astype(np.float32)
        if aligned is not None:
            tensors["guide"] = aligned
        for key, (values, index) in continuous.items():
            tensors[f"continuous.{key}.values"] = values
            tensors[f"continuous.{key}.index"] = index
        # The module's own float32 error, from which the test's tolerance comes.
        metadata = {"config": json.dumps(to_dict(c)), "float32_error": repr(own)}
        save_file(tensors, HERE / f"lm_{name}.safetensors", metadata)


if __name__ == "__main__":
    main()
