"""The C++ codecs against the torch modules, over their options; streams, threads and instruction
sets against each other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from codec_tools import build, check_audio, check_codes, clip, double_of, native, seanet, spectral

from uniaudio_engine import _C
from uniaudio_engine.storage.config import CodecConfig, SpectralConfig, to_dict

CONFIGS = {
    "spectral": spectral(),
    "spectral-one-subframe": spectral(encoder_subframes=1, decoder_subframes=1),
    "spectral-four-subframes": spectral(
        encoder_subframes=4,
        decoder_subframes=4,
        encoder_window=128,
        decoder_window=40,
        kernel_size=1,
    ),
    "spectral-long-windows": spectral(encoder_window=250, decoder_window=270, frame_size=60),
    "spectral-window-is-hop": spectral(encoder_window=32, decoder_window=32),
    "seanet-v1": seanet(),
    "seanet-encodec24": seanet(causal=True, conv_shortcut=False, ratios=(8, 5, 4, 2), filters=4),
    "seanet-encodec32": seanet(conv_shortcut=False, ratios=(8, 5, 4, 4), filters=4),
    "seanet-encodec48": seanet(channels=2, norm="group"),
    "seanet-zero": seanet(pad_mode="zero"),
    "seanet-zero-causal": seanet(pad_mode="zero", causal=True, lstm_layers=0),
    "seanet-stereo": seanet(channels=2, lstm_layers=1, compress=3),
    "seanet-deep-blocks": seanet(residual_layers=3, dilation_base=3, residual_kernel_size=5),
    "seanet-trim": seanet(causal=True, trim_right_ratio=0.3, ratios=(10, 4), lstm_layers=3),
    "seanet-even-kernels": seanet(
        kernel_size=4, last_kernel_size=2, residual_kernel_size=2, ratios=(3, 3)
    ),
    "seanet-wide": seanet(filters=40, ratios=(3, 2), lstm_layers=2, compress=2),
}


@pytest.fixture(scope="module", params=list(CONFIGS), ids=list(CONFIGS))
def pair(request):
    config = CONFIGS[request.param]
    model = build(config)
    return config, model, double_of(config, model), native(config, model)


def test_parity_at_any_length(pair):
    config, model, double, codec = pair
    frames = ties = 0
    for n in (
        0,
        1,
        2,
        7,
        config.frame_size - 1,
        config.frame_size,
        config.frame_size + 1,
        23 * config.frame_size + 11,
        120 * config.frame_size,
    ):
        x = clip(config, n, n)
        codes = codec.encode(x)
        assert codes.dtype == np.int32 and codes.shape == (3, -(-n // config.frame_size))
        f, m = check_codes(codes, model, double, x)
        frames, ties = frames + f, ties + m
        for k in (1, 3):
            np.testing.assert_array_equal(codec.encode(x, num_codebooks=k), codes[:k])
            check_audio(codec.decode(codes[:k]), model, double, codes[:k])
    assert ties <= max(1, frames // 50), f"{ties} near-ties in {frames} frames"


def test_streams_equal_offline(pair):
    config, model, _, codec = pair
    if config.seanet and config.seanet.norm == "group":
        with pytest.raises(ValueError, match="whole clips"):
            codec.encoder_stream()
        with pytest.raises(ValueError, match="whole clips"):
            codec.decoder_stream()
        return
    rng = np.random.default_rng(1)
    for n in (1, 5 * config.frame_size + 3, 90 * config.frame_size):
        x = clip(config, n, 3)
        codes = codec.encode(x)
        pcm = codec.decode(codes)
        for threads in (1, 3):
            other = native(config, model, threads)
            np.testing.assert_array_equal(other.encode(x), codes)
            np.testing.assert_array_equal(other.decode(codes), pcm)
            encoder, decoder = other.encoder_stream(), other.decoder_stream()
            got, played, at = [], [], 0
            while at < n:
                m = int(rng.integers(0, 3 * config.frame_size))
                got.append(encoder.push(x[..., at : at + m]))
                at += m
                played.append(decoder.push(got[-1]))
                if rng.random() < 0.1:
                    state, heir = decoder.save(), other.decoder_stream()
                    heir.restore(state)
                    decoder, encoder = heir.fork(), encoder.fork()
            got.append(encoder.flush())
            played += [decoder.push(got[-1]), decoder.flush()]
            np.testing.assert_array_equal(np.concatenate(got, axis=1), codes)
            np.testing.assert_array_equal(np.concatenate(played, axis=-1), pcm)


def test_bad_arguments(pair):
    config, model, _, codec = pair
    good = clip(config, 3 * config.frame_size, 4)
    bad = good.copy()
    bad[..., 5] = np.nan
    rank3 = np.zeros((1, 1, 10), np.float32)
    wrong_channels = np.zeros((config.channels + 1, 10), np.float32)
    for x in (bad, rank3, wrong_channels, "text", None, np.array(["a"]), good.astype(np.complex64)):
        with pytest.raises(ValueError, match="samples: expected") as e:
            codec.encode(x)
        assert "\n" not in str(e.value)
    for c in (
        np.zeros((0, 3), int),
        np.zeros((4, 3), int),
        np.zeros(3, int),
        np.zeros((3, 2)),
        [[1], [2, 3]],
        np.full((3, 2), 33),
        np.full((3, 2), -1),
        np.full((3, 2), 1 << 40),
    ):
        with pytest.raises(ValueError, match="codes: expected") as e:
            codec.decode(c)
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="num_codebooks"):
        codec.encode(good, num_codebooks=4)
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    for change in (
        {"extra": np.zeros(3, np.float32)},
        {"quantizer.codebooks": np.zeros((1, 2, 3), np.float32)},
        {"quantizer.codebooks": np.full((3, 33, 10), np.nan, np.float32)},
        {"quantizer.codebooks": np.zeros((3, 33, 10))},
    ):
        with pytest.raises(ValueError, match="extra|quantizer.codebooks"):
            _C.Codec(json.dumps(to_dict(config)), weights | change, 1)


def test_bundled_shape():
    config = CodecConfig("spectral", spectral=SpectralConfig())
    model = build(config)
    double = double_of(config, model)
    codec = native(config, model)
    assert codec.encoder_stream().lookahead == 0 and codec.decoder_stream().lookahead == 480
    x = clip(config, 16000 * 4 + 77, 5)
    codes = codec.encode(x)
    frames, ties = check_codes(codes, model, double, x)
    assert ties <= frames // 50
    check_audio(codec.decode(codes[:4]), model, double, codes[:4])


ISA_PROBE = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
import test_codec_parity as t
out = {}
for name in ("spectral", "seanet-v1", "seanet-zero-causal", "seanet-encodec48"):
    config = t.CONFIGS[name]
    codec = t.native(config, t.build(config))
    codes = codec.encode(t.clip(config, 40 * config.frame_size + 5, 8))
    out[name + ".codes"], out[name + ".pcm"] = codes, codec.decode(codes)
np.savez(sys.argv[2], **out)
"""


@pytest.mark.slow
def test_isas_agree(tmp_path):
    results = {}
    for isa in _C.isa_available():
        path = tmp_path / f"{isa}.npz"
        env = os.environ | {"UNIAUDIO_ISA": isa}
        subprocess.run(
            [sys.executable, "-c", ISA_PROBE, os.path.dirname(__file__), str(path)],
            check=True,
            env=env,
        )
        results[isa] = dict(np.load(path))
    reference = results["plain"]
    for isa, result in results.items():
        for key, value in result.items():
            if key.endswith(".codes"):
                np.testing.assert_array_equal(value, reference[key], err_msg=f"{isa} {key}")
            else:
                assert (
                    np.abs(value - reference[key]).max() <= 2e-5 * np.abs(reference[key]).max()
                ), f"{isa} {key}"
    if {"avx2", "avx512"} <= set(results):  # both fuse multiply-adds, in the same order
        for key in reference:
            np.testing.assert_array_equal(results["avx2"][key], results["avx512"][key], err_msg=key)


def test_ten_minutes():
    config = CONFIGS["spectral"]
    codec = native(config, build(config))
    n = 600 * 16000 + 1
    codes = codec.encode(clip(config, n, 9))
    assert codes.shape == (3, -(-n // config.frame_size))
    pcm = codec.decode(codes)
    assert pcm.shape == (codes.shape[1] * config.frame_size,) and np.isfinite(pcm).all()
