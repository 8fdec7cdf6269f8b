"""Run by test_lm_parity in a separate process, since the instruction set is chosen once: parity,
and digests of int8 and int4 results.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from lm_tools import CONFIGS, native_lm, random_inputs, there, torch_lm, torch_logits

from uniaudio_engine import _C

print("isa", _C.isa())
logits, tokens = hashlib.sha256(), hashlib.sha256()
NAMES = ("base", "everything", "reference", "wide", "odd_widths", "others", "depth", "delays")
for name in NAMES:
    c = CONFIGS[name]
    model = torch_lm(c)
    inputs = random_inputs(c, 40)
    expected = there(torch_logits(model, inputs, torch.float32))
    got = there(native_lm(c, model).logits(*inputs))
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max(), name
    if (
        name != "everything"
    ):  # its continuous inputs go through a float32 layer, which fuses where the ISA can
        for dtype in ("int8", "int4", "int8/bfloat16", "int8/int8"):
            quantized = native_lm(c, model, dtype)
            logits.update(quantized.logits(*inputs).tobytes())
            tokens.update(
                quantized.session(40).generate(40, _C.Sampling(seed=3, top_p=0.9)).tobytes()
            )
print("logits", logits.hexdigest())
print("tokens", tokens.hexdigest())
