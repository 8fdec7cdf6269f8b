"""Imported CAT codecs against their definition in float64, and refused checkpoints.

Where ``UNIAUDIO_MOSS_AUDIO_TOKENIZER`` names a checkout of OpenMOSS/MOSS-Audio-Tokenizer, the truth
is the authors' class too.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from windowed_tools import CAT, CatReference, Config, cat_state, patch, stage, write

from uniaudio_engine import Engine, InputError
from uniaudio_engine.importers.cat import import_cat

NANO: Config = CAT | {
    "sampling_rate": 48000,
    "downsample_rate": 3840,
    "encoder_kwargs": [
        patch(240),
        *(stage(240, 384, 4, 4.0), patch(2), stage(768, 384, 2, 6.0), patch(2)),
        *(stage(768, 384, 2, 8.0), patch(2), stage(768, 192, 4, 10.0), patch(4)),
    ],
    "decoder_kwargs": [
        patch(4),
        *(stage(192, 768, 4, 20.0), patch(2), stage(384, 768, 2, 16.0), patch(2)),
        *(stage(384, 768, 2, 12.0), patch(2), stage(384, 240, 4, 8.0), patch(240)),
    ],
    "quantizer_kwargs": CAT["quantizer_kwargs"]
    | {"input_dim": 768, "rvq_dim": 512, "output_dim": 768, "num_quantizers": 16}
    | {"codebook_size": 1024, "codebook_dim": 8},
}
for side in ("encoder_kwargs", "decoder_kwargs"):
    for module in NANO[side]:
        if module["module_type"] == "Transformer":
            module |= {"d_model": 256, "num_heads": 4, "dim_feedforward": 1024}


def sound(config: Config, n: int) -> np.ndarray:
    shape = config["number_channels"], n
    return (np.random.default_rng(n).standard_normal(shape) * 0.2).astype(np.float32)


def imported(tmp_path: Path, config: Config, state: dict[str, np.ndarray]) -> Any:
    import_cat(write(tmp_path / "theirs", config, state), tmp_path / "ours")
    return Engine.from_pretrained(tmp_path / "ours", threads=2).codec


def check(codec: Any, truth: CatReference, x: np.ndarray) -> None:
    """Codes are equal but for proven near-ties, and audio within 1e-4 of full scale."""
    expected, gaps = truth.encode(x)
    samples = x if truth.channels > 1 else x[0]
    codes = codec.encode(samples)
    assert codes.shape == expected.shape
    for t in np.nonzero((codes != expected).any(0))[0]:
        k = int(np.nonzero(codes[:, t] != expected[:, t])[0][0])
        assert gaps[k, t] < 1e-5, f"frame {t}, codebook {k}: no near-tie"
    assert (codes != expected).any(0).mean() <= 0.02
    for k in (1, len(expected)):
        pcm = truth.decode(expected[:k])
        mine = codec.decode(expected[:k].astype(np.int32)).reshape(pcm.shape)
        assert np.abs(mine - pcm).max() <= 1e-4 * np.abs(pcm).max()


@pytest.mark.parametrize("layout", [1, 2])
@pytest.mark.parametrize("n", [1, 12, 1201])
def test_both_layouts(tmp_path: Path, layout: int, n: int) -> None:
    state = cat_state(CAT, layout=layout)
    check(imported(tmp_path, CAT, state), CatReference(CAT, state), sound(CAT, n))


MONO: Config = CAT | {
    "number_channels": 1,
    "encoder_kwargs": [patch(6), stage(6, 16, 1, 0.2), patch(2), stage(32, 32, 2, 0.5)],
    "decoder_kwargs": [
        stage(32, 24, 1, 0.3, num_heads=4),
        patch(2),
        stage(12, 6, 1, 0.2),
        patch(6),
    ],
}


@pytest.mark.parametrize(
    "change",
    [
        MONO,
        {"quantizer_kwargs": CAT["quantizer_kwargs"] | {"rvq_dim": 32}},
        {"causal_transformer_context_duration": 0.05},
    ],
    ids=["mono, no patch at the quantizer", "no projections", "one duration for all"],
)
def test_what_configurations_can_say(tmp_path: Path, change: Config) -> None:
    config = copy.deepcopy(CAT | change)
    if "causal_transformer_context_duration" in change:
        for m in config["encoder_kwargs"] + config["decoder_kwargs"]:
            m.pop("context_duration", None)
    state = cat_state(config, 3, layout=2)
    codec = imported(tmp_path, config, state)
    if "causal_transformer_context_duration" in change:
        for m in config["encoder_kwargs"] + config["decoder_kwargs"]:
            m["context_duration"] = 0.05
    check(codec, CatReference(config, state), sound(config, 500))


def test_a_decoder_given_in_the_encoders_order(tmp_path: Path) -> None:
    config = {k: v for k, v in CAT.items() if k != "decoder_kwargs"}
    turned = [dict(m) for m in CAT["decoder_kwargs"][::-1]]
    for m in turned:
        if m["module_type"] == "Transformer":
            m["input_dimension"], m["output_dimension"] = (
                m["output_dimension"],
                m["input_dimension"],
            )
    config["reversed_decoder_kwargs"] = turned
    state = cat_state(CAT)
    check(imported(tmp_path, config, state), CatReference(CAT, state), sound(CAT, 300))


@pytest.mark.slow
def test_the_nanos_shape(tmp_path: Path) -> None:
    state = cat_state(NANO, layout=2)
    check(imported(tmp_path, NANO, state), CatReference(NANO, state), sound(NANO, 48000))


@pytest.mark.parametrize("config", [CAT, MONO], ids=["stereo", "mono"])
def test_the_authors_class(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = os.environ.get("UNIAUDIO_MOSS_AUDIO_TOKENIZER")
    if not checkout:
        pytest.skip("UNIAUDIO_MOSS_AUDIO_TOKENIZER names no checkout of the authors' repository")
    torch = pytest.importorskip("torch")
    package = tmp_path / "moss_codec"
    package.mkdir()
    for name in ("modeling", "configuration"):
        file = f"{name}_moss_audio_tokenizer.py"
        (package / file).write_bytes((Path(checkout) / file).read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    modeling = importlib.import_module("moss_codec.modeling_moss_audio_tokenizer")
    names = importlib.import_module("moss_codec.configuration_moss_audio_tokenizer")
    for name in [n for n in sys.modules if n.startswith("moss_codec")]:
        monkeypatch.delitem(sys.modules, name)
    channels = config["number_channels"]
    # this version of the class is mono and has one duration for all: it is given the interleaved
    # signal, and each attention its window
    plain = {
        k: [{a: b for a, b in m.items() if a != "context_duration"} for m in config[k]]
        for k in ("encoder_kwargs", "decoder_kwargs")
    }
    model = modeling.MossAudioTokenizerModel(
        names.MossAudioTokenizerConfig(
            sampling_rate=config["sampling_rate"] * channels,
            downsample_rate=config["downsample_rate"] * channels,
            quantizer_kwargs=config["quantizer_kwargs"],
            **plain,
        )
    ).eval()
    rates = {
        "encoder": float(config["sampling_rate"] * channels),
        "decoder": config["sampling_rate"] / config["downsample_rate"],
    }
    for side, rate in rates.items():
        for i, m in enumerate(config[f"{side}_kwargs"]):
            if m["module_type"] == "Transformer":
                for layer in getattr(model, side)[i].transformer.layers:
                    layer.self_attn.context = round(rate * m["context_duration"])
            else:
                rate *= m["patch_size"] if side == "decoder" else 1 / m["patch_size"]
    state = cat_state(config)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    codec = imported(tmp_path, config, state)
    x = sound(config, 60 * config["downsample_rate"])
    with torch.no_grad():
        theirs = model._encode_frame(torch.from_numpy(x.T.reshape(1, 1, -1).copy()))
        codes = theirs.audio_codes[:, 0]
        pcm = model._decode_frame(codes[:, None]).audio[0, 0].numpy().reshape(-1, channels).T
    mine = codec.encode(x if channels > 1 else x[0])
    assert (mine != codes.numpy()).any(0).mean() <= 0.02
    back = codec.decode(codes.numpy().astype(np.int32)).reshape(pcm.shape)
    assert np.abs(back - pcm).max() <= 1e-4 * np.abs(pcm).max()


# --- refused -------------------------------------------------------------------------------------


def refused(tmp_path: Path, config: Config, state: dict[str, np.ndarray], words: str) -> None:
    source = write(tmp_path / "theirs", config, state)
    with pytest.raises(InputError) as e:
        import_cat(source, tmp_path / "ours")
    message = str(e.value)
    assert "\n" not in message and len(message) < 500 and words in message, message
    assert os.listdir(tmp_path) == ["theirs"]


@pytest.mark.parametrize(
    "path, value, words",
    [
        (["model_type"], "mimi", "expected model_type moss-audio-tokenizer or "),
        (["sampling_rate"], None, "sampling_rate: expected a whole number, got None"),
        (["sampling_rate"], 10**12, "sampling_rate: expected 1000 to 384000"),
        (["downsample_rate"], 0, "codec.frame_size: expected 1 to 65536"),
        (["downsample_rate"], 24, "a product of frame_size x channels 48"),
        (["number_channels"], 0, "number_channels: expected 1 to 64, got 0"),
        (["number_channels"], 10**9, "number_channels: expected 1 to 64"),
        (["enable_channel_interleave"], False, "enable_channel_interleave: expected true"),
        (["quantizer_kwargs"], [], "quantizer_kwargs: expected an object"),
        (["quantizer_kwargs", "quantizer_type"], "rvq", "quantizer_type: expected rlfq"),
        (["quantizer_kwargs", "rvq_dim"], -1, "quantizer_kwargs.rvq_dim: expected a whole number"),
        (["quantizer_kwargs", "output_dim"], 30, "output_dim: expected input_dim 32, got 30"),
        (["quantizer_kwargs", "num_quantizers"], 10**9, "num_codebooks: expected 1 to 64"),
        (["encoder_kwargs"], [], "encoder_kwargs: expected 1 to 33 modules, got 0"),
        (["encoder_kwargs"], [patch(2)] * 40, "encoder_kwargs: expected 1 to 33 modules"),
        (["encoder_kwargs", 0], patch(0), "encoder_kwargs[0].patch_size: expected 2 to 65536"),
        (["encoder_kwargs", 0], patch(10**40), "patch_size: expected 2 to 65536"),
        (["encoder_kwargs", 0], 7, "expected PatchedPretransform and Transformer in turn, got 7"),
        (["encoder_kwargs", 1], patch(2), "encoder_kwargs[1]: expected PatchedPretransform and"),
        (["encoder_kwargs", 1, "num_layers"], 10**9, "layers: expected 1 to 64"),
        (["encoder_kwargs", 1, "d_model"], "16", "d_model: expected a whole number, got '16'"),
        (["encoder_kwargs", 1, "num_heads"], 16, "heads: expected a divisor of half of width 16"),
        (["encoder_kwargs", 1, "norm"], "rms_norm", "norm: expected 'layer_norm', got 'rms_norm'"),
        (["encoder_kwargs", 1, "gating"], "silu", "gating: expected 'none', got 'silu'"),
        (["encoder_kwargs", 1, "causal"], False, "causal: expected True, got False"),
        (["encoder_kwargs", 1, "context_duration"], float("nan"), "context_duration: expected"),
        (["encoder_kwargs", 1, "context_duration"], 3600.0, "window: expected 1 to 65536"),
        (["encoder_kwargs", 1, "max_period"], 0, "max_period: expected a number above 1"),
        (["encoder_kwargs", 1, "output_dimension"], 9, "a last width of"),
        (["decoder_kwargs", 1, "output_dimension"], 7, "a divisor of the width 7 before it"),
    ],
    ids=str,
)
def test_hostile_configurations(tmp_path: Path, path: list[Any], value: Any, words: str) -> None:
    config = copy.deepcopy(CAT)
    inside: Any = config
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    if path == ["encoder_kwargs", 1, "output_dimension"]:
        words = "encoder.1.output_proj.weight: expected the shape [9, 16]"
    refused(tmp_path, config, cat_state(CAT), words)


LAYER = "encoder.1.transformer.layers.0"
CODEBOOK = "quantizer.quantizers.0.codebook.weight"


@pytest.mark.parametrize(
    "change, words",
    [
        ({f"{LAYER}.linear1.weight": None}, f"missing {LAYER}.ffn.0.weight"),
        ({CODEBOOK: None}, f"missing {CODEBOOK}"),
        ({"encoder.9.weight": np.ones(3, np.float32)}, "left over encoder.9.weight"),
        ({CODEBOOK: np.ones((64, 5), np.float32)}, "expected the shape [64, 4], got [64, 5]"),
        ({CODEBOOK: np.ones((64, 4), np.int32)}, "expected floating-point numbers, got int32"),
        ({CODEBOOK: np.full((64, 4), np.nan, np.float32)}, f"{CODEBOOK}: NaN or infinity"),
        (
            {
                "quantizer.input_proj.parametrizations.weight.original1": np.zeros(
                    (20, 32, 1), np.float32
                )
            },
            "directions that are not all zero",
        ),
    ],
    ids=["no matrix", "no codebook", "left over", "shape", "type", "NaN", "no direction"],
)
def test_hostile_weights(tmp_path: Path, change: dict[str, np.ndarray | None], words: str) -> None:
    state = {k: v for k, v in (cat_state(CAT) | change).items() if v is not None}
    refused(tmp_path, CAT, state, words)
