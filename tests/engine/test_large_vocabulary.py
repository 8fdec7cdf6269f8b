"""The head of a large vocabulary, which is rounded some rows at a time."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lm_tools import BASE, torch_lm

from uniaudio_engine import _C
from uniaudio_engine.storage.config import to_dict
from uniaudio_engine.storage.tensors import to_bfloat16


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_it_is_rounded_as_a_whole(dtype: str, stored: str) -> None:
    config = replace(BASE, vocab_size=4096 * 2 + 5)
    tensors = {k: v.numpy() for k, v in torch_lm(config).state_dict().items()}
    head = tensors["head.weight"]
    if stored == "bfloat16":
        tensors["head.weight"] = to_bfloat16(head)
        head = (tensors["head.weight"].astype(np.uint32) << 16).view(np.float32)
    frames = np.random.default_rng(0).integers(0, config.vocab_size, (5, 3))
    text, formats = json.dumps(to_dict(config)), f"float32,head={dtype}"
    found = _C.LM(text, tensors, formats).logits(frames)
    whole, scale = _C.quantize(head, dtype)
    tensors |= {"head.weight": whole, "head.weight_scale": scale}
    np.testing.assert_array_equal(found, _C.LM(text, tensors, formats).logits(frames))


def test_it_is_checked() -> None:
    config = replace(BASE, vocab_size=4096 + 9)
    tensors = {k: v.numpy().copy() for k, v in torch_lm(config).state_dict().items()}
    tensors["head.weight"][-1, -1] = np.inf
    with pytest.raises(ValueError, match="head.weight"):
        _C.LM(json.dumps(to_dict(config)), tensors, "int8")
