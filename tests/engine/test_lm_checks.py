"""What the native LM rejects at construction, and the sizes that it reports."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from lm_tools import CONFIGS, native_lm, random_inputs, torch_lm

from uniaudio_engine import _C
from uniaudio_engine.storage.config import to_dict

torch = pytest.importorskip("torch")


def refused(
    match: str, call: Any, *args: Any, error: type[Exception] = ValueError, **kwargs: Any
) -> None:
    with pytest.raises(error, match=match) as e:
        call(*args, **kwargs)
    assert "\n" not in str(e.value)


def test_weights_and_config_are_checked() -> None:
    c = CONFIGS["base"]
    weights = {k: v.numpy() for k, v in torch_lm(c).state_dict().items()}
    text = json.dumps(to_dict(c))
    bad = dict(weights)
    del bad["head.weight"]
    bad["bridge.bias"] = bad["bridge.bias"][:-1]
    bad["extra"] = np.zeros((2, 2), np.float32)
    refused(
        r"missing: head.weight \[53, 20\]; wrong shape: bridge.bias \(expected \[20\], got "
        r"\[19\]\); left over: extra \[2, 2\];",
        _C.LM,
        text,
        bad,
    )
    refused(
        "expected a float32 array",
        _C.LM,
        text,
        {**weights, "head.weight": weights["head.weight"].astype(np.float64)},
    )
    refused("finite", _C.LM, text, {**weights, "head.weight": weights["head.weight"] * np.inf})
    refused("dtype: expected", _C.LM, text, weights, "int3")
    refused("kv_dtype: expected", _C.LM, text, weights, "int8", 1, "int4")
    for threads in (0, -1, 1000):
        refused("threads: expected 1 to 256", _C.LM, text, weights, "float32", threads)
    refused("JSON", _C.LM, text[:-1], weights)
    refused('unknown key "colour"', _C.LM, json.dumps({**to_dict(c), "colour": 1}), weights)
    refused(
        "lm.global.width: expected 1 to 16384",
        _C.LM,
        json.dumps({**to_dict(c), "global": {"layers": 1, "width": 1 << 30, "heads": 1}}),
        weights,
    )
    # bfloat16, as uint16, is widened exactly.
    half = {k: torch.from_numpy(v).bfloat16() for k, v in weights.items()}
    a = _C.LM(text, {k: v.view(torch.uint16).numpy() for k, v in half.items()})
    b = _C.LM(text, {k: v.float().numpy() for k, v in half.items()})
    frames = random_inputs(c, 10)[0]
    assert np.array_equal(a.logits(frames), b.logits(frames))


def test_sizes() -> None:
    c = CONFIGS["base"]
    lm = native_lm(c, torch_lm(c))
    assert (lm.vocab_size, lm.num_codebooks, lm.threads, lm.dtype) == (53, 3, 1, "float32")
    parameters = sum(
        p.numel()
        for n, p in torch_lm(c).named_parameters()
        if "layers" in n or "norm" in n or n.startswith(("bridge", "head"))
    )
    local = sum(
        p.numel()
        for n, p in torch_lm(c).named_parameters()
        if n.startswith(("local.layers", "local.norm", "head"))
    )
    assert lm.weight_bytes_per_frame == 4 * (parameters + 2 * local)
    assert lm.weight_bytes(10) == lm.weight_bytes_per_frame - 3 * 43 * 20 * 4
    assert lm.memory_bytes(64) > 64 * 2 * 2 * 24 * 4 and lm.kv_dtype == "float32"
    wide = CONFIGS["wide"]
    sizes = [
        native_lm(wide, torch_lm(wide), f"int8/{kv}").memory_bytes(64)
        for kv in ("float32", "bfloat16", "int8")
    ]
    history, values = 64 * 3 * 4, 64 * 2 * 2 * 192
    assert sizes == [
        history + 4 * values,
        history + 2 * values,
        history + values + values // 64 * 4,
    ]
    assert _C.read_bandwidth(1, 8) > 0.1
    refused("megabytes", _C.read_bandwidth, 1, 0)
