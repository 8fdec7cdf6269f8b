"""Names of SEANet checkpoints: both layouts, both forms of weight norm, and rejected states."""

from __future__ import annotations

import math

import numpy as np
import pytest

from uniaudio_engine.errors import InputError
from uniaudio_engine.importers.seanet import Layout, seanet_names, seanet_tensors
from uniaudio_engine.storage.config import CodecConfig, SeanetConfig
from uniaudio_engine.storage.weight_shapes import codec_shapes

TINY = SeanetConfig(filters=4, ratios=(3, 2), lstm_layers=2)
EMBED = {
    "soundstream": "quantizer.vq.layers.{}._codebook",
    "transformers": "quantizer.layers.{}.codebook",
}


def codec(c: SeanetConfig) -> CodecConfig:
    return CodecConfig(
        "seanet",
        frame_size=math.prod(c.ratios),
        num_codebooks=3,
        codebook_size=8,
        codebook_dim=5,
        seanet=c,
    )


def state_of(c: SeanetConfig, layout: Layout, spelling: str = "g") -> dict[str, np.ndarray]:
    """A checkpoint as the layout spells it, random."""
    rng = np.random.default_rng(0)
    theirs = dict(seanet_names(c, layout))
    state: dict[str, np.ndarray] = {}
    for name, shape in codec_shapes(codec(c)).items():
        x = rng.standard_normal(shape).astype(np.float32)
        if name == "quantizer.codebooks":
            for i, book in enumerate(x):
                place = EMBED[layout].format(i)
                state |= {
                    f"{place}.embed": book,
                    f"{place}.embed_avg": book,
                    f"{place}.cluster_size": np.ones(8, np.float32),
                }
                state[f"{place}.inited"] = np.ones(1, np.float32)
            continue
        ours, part = name.rsplit(".", 1)
        if ours.endswith(".norm"):
            place = theirs[ours.removesuffix(".norm")]
            state[f"{place[: place.rindex('.')]}.norm.{part}"] = x
        elif part == "weight" and spelling != "plain":
            keys = (
                ("weight_g", "weight_v")
                if spelling == "g"
                else (f"parametrizations.weight.original{i}" for i in (0, 1))
            )
            gain, direction = (f"{theirs[ours]}.{k}" for k in keys)
            state[gain] = rng.uniform(0.5, 2, (shape[0], 1, 1)).astype(np.float32)
            state[direction] = x
        else:
            state[f"{theirs[ours]}.{part}"] = x
    return state


def test_names_of_the_soundstream_layout() -> None:
    """Against the state dict of the UniAudio repository's codec, read there."""
    assert seanet_names(SeanetConfig(filters=32), "soundstream")[:4] == [
        ("encoder.input", "encoder.model.0.conv.conv"),
        ("encoder.stages.0.blocks.0.first", "encoder.model.1.block.1.conv.conv"),
        ("encoder.stages.0.blocks.0.second", "encoder.model.1.block.3.conv.conv"),
        ("encoder.stages.0.blocks.0.shortcut", "encoder.model.1.shortcut.conv.conv"),
    ]
    names = dict(seanet_names(SeanetConfig(filters=32), "soundstream"))
    assert names["encoder.stages.3.down"] == "encoder.model.12.conv.conv"
    assert names["encoder.lstm"] == "encoder.model.13.lstm"
    assert names["encoder.output"] == "encoder.model.15.conv.conv"
    assert names["decoder.lstm"] == "decoder.model.1.lstm"
    assert names["decoder.stages.0.up"] == "decoder.model.3.convtr.convtr"
    assert names["decoder.stages.3.blocks.0.shortcut"] == "decoder.model.13.shortcut.conv.conv"
    assert names["decoder.output"] == "decoder.model.15.conv.conv"


@pytest.mark.parametrize("layout", ["soundstream", "transformers"])
@pytest.mark.parametrize("spelling", ["g", "parametrized", "plain"])
@pytest.mark.parametrize(
    "options",
    [{}, {"conv_shortcut": False, "residual_layers": 2}, {"lstm_layers": 0}, {"norm": "group"}],
    ids=str,
)
def test_every_spelling(layout: Layout, spelling: str, options: dict) -> None:
    c = SeanetConfig(**({"filters": 4, "ratios": (3, 2)} | options))
    state = state_of(c, layout, spelling)
    got = seanet_tensors(c, layout, state)
    assert {k: v.shape for k, v in got.items()} == codec_shapes(codec(c))
    assert all(v.dtype == np.float32 for v in got.values())
    theirs = dict(seanet_names(c, layout))
    if (
        spelling != "plain"
    ):  # the length of each direction is its gain, for transposed convolutions too: the first axis
        gains = ("weight_g", "parametrizations.weight.original0")
        for ours in ("encoder.input", "decoder.stages.1.up"):
            length = np.linalg.norm(got[f"{ours}.weight"], axis=(1, 2))
            gain = next(
                state[f"{theirs[ours]}.{g}"] for g in gains if f"{theirs[ours]}.{g}" in state
            )
            assert np.abs(length - gain.ravel()).max() < 1e-6
    assert np.array_equal(got["quantizer.codebooks"][2], state[EMBED[layout].format(2) + ".embed"])
    assert np.array_equal(got["encoder.output.bias"], state[theirs["encoder.output"] + ".bias"])


def test_half_precision_is_widened() -> None:
    state = {k: v.astype(np.float16) for k, v in state_of(TINY, "transformers", "plain").items()}
    got = seanet_tensors(TINY, "transformers", state)
    assert np.array_equal(
        got["encoder.input.weight"], state["encoder.layers.0.conv.weight"].astype(np.float32)
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("encoder.layers.0.conv.bias"), "missing encoder.layers.0.conv.bias;"),
        (
            lambda s: s.pop("encoder.layers.0.conv.weight_v"),
            "missing encoder.layers.0.conv.weight_v",
        ),
        (
            lambda s: [s.pop(f"quantizer.layers.{i}.codebook.embed") for i in range(3)],
            "missing quantizer.layers.0.codebook.embed",
        ),
        (
            lambda s: s.pop("quantizer.layers.1.codebook.embed"),
            "left over quantizer.layers.2.codebook.embed",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.weight": np.ones((4, 1, 7), np.float32)}),
            "left over encoder.layers.0.conv.weight;",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.inited": np.ones(1, np.float32)}),
            "left over encoder.layers.0.conv.inited",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.bias": np.ones(5, np.float32)}),
            r"encoder.layers.0.conv.bias \[5\] \(expected \[4\]\)",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.bias": np.ones((), np.float32)}),
            r"encoder.layers.0.conv.bias \[\]",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.weight_g": np.ones((1, 1, 4), np.float32)}),
            r"weight_g: expected the gain",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.weight_v": np.ones(4, np.float32)}),
            r"weight_g: expected the gain",
        ),
        (lambda s: s["encoder.layers.0.conv.weight_v"].fill(0), "all zero"),
        (
            lambda s: s["encoder.layers.0.conv.bias"].fill(np.nan),
            "NaN or infinity in encoder.layers.0.conv.bias",
        ),
        (
            lambda s: s["quantizer.layers.1.codebook.embed"].fill(np.inf),
            "quantizer.layers.1.codebook.embed: NaN or infinity",
        ),
        (
            lambda s: s.update({"quantizer.layers.1.codebook.embed": np.ones((8, 6), np.float32)}),
            "expected the shape of the first codebook",
        ),
        (
            lambda s: s.update({"quantizer.layers.0.codebook.embed": np.ones((), np.float32)}),
            "expected the shape of the first codebook",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.bias": np.ones(4, np.int64)}),
            "expected floating-point numbers, got int64",
        ),
    ],
)
def test_what_is_refused(change, words: str) -> None:
    state = state_of(TINY, "transformers")
    change(state)
    with pytest.raises(InputError, match=words) as e:
        seanet_tensors(TINY, "transformers", state)
    assert "\n" not in str(e.value)


def test_the_wrong_layout_is_one_line() -> None:
    with pytest.raises(
        InputError,
        match=r"soundstream layout\): missing encoder.model.0.conv.conv.bias, .* and \d+ more; left over",
    ):
        seanet_tensors(TINY, "soundstream", state_of(TINY, "transformers"))
