"""Session: the LM session and the codec's decoder stream joined."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lm_tools import BASE, native_lm, torch_lm
from uniaudio_training.models.spectral import SpectralCodec

from uniaudio_engine import _C
from uniaudio_engine.storage.config import CodecConfig, SeanetConfig, SpectralConfig, to_dict
from uniaudio_engine.storage.weight_shapes import codec_shapes

CODEC = CodecConfig(
    family="spectral",
    frame_size=40,
    num_codebooks=5,
    codebook_size=12,
    codebook_dim=8,
    spectral=SpectralConfig(
        encoder_window=80,
        encoder_width=16,
        encoder_blocks=1,
        encoder_hidden=24,
        decoder_window=80,
        decoder_width=16,
        decoder_blocks=2,
        decoder_hidden=24,
        kernel_size=3,
    ),
)
LM = replace(BASE, aligned_slots=2, aligned_vocab=7)
ALLOWED = [[(10 + 12 * k, 12)] for k in range(3)]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    torch.manual_seed(0)
    codec = SpectralCodec(CODEC).eval()
    weights = {k: np.ascontiguousarray(v.numpy()) for k, v in codec.state_dict().items()}
    return native_lm(LM, torch_lm(LM)), _C.Codec(json.dumps(to_dict(CODEC)), weights, 1)


def sampling(**more: Any) -> Any:
    return _C.Sampling(**{"seed": 4, "allowed": ALLOWED, "top_p": 0.95, **more})


ALIGNED = np.random.default_rng(0).integers(-1, 7, (30, 2)).astype(np.int32)


def test_stream_equals_offline(models: tuple[Any, Any]) -> None:
    lm, codec = models
    prompt = np.full((5, 3), 1, np.int32)
    s = _C.Session(lm, codec, 64)
    s.prefill(prompt)
    codes, pcm = s.generate_audio(30, sampling(), ALIGNED, flush=True)
    plain = lm.session(64)
    plain.prefill(prompt)
    ids = plain.generate(30, sampling(), ALIGNED)
    assert np.array_equal(codes, ids - np.array([10, 22, 34]))
    offline = codec.decode(np.ascontiguousarray(codes.T))
    assert pcm.shape == offline.shape == (30 * 40,) and pcm.dtype == np.float32
    tolerance = 1e-5 * np.abs(offline).max()
    assert np.abs(pcm - offline).max() <= tolerance

    s.reset()
    s.prefill(prompt)
    pieces, at = [], 0
    for n in (1, 2, 0, 7, 20):
        c, p = s.generate_audio(n, sampling(), ALIGNED[at : at + n], flush=at + n == 30)
        assert np.array_equal(c, codes[at : at + n])
        pieces.append(p)
        at += n
    assert np.abs(np.concatenate(pieces) - offline).max() <= tolerance

    # Codes that were made elsewhere go through the same stream.
    s.reset_audio()
    again = np.concatenate([s.decode(codes[:11], False), s.decode(codes[11:], True)])
    assert np.abs(again - offline).max() <= tolerance


def test_fork_save_restore(models: tuple[Any, Any]) -> None:
    lm, codec = models
    s = _C.Session(lm, codec, 64)
    s.generate_audio(9, sampling(), ALIGNED[:9])
    blob, twin = s.save(), s.fork()
    expected = s.generate_audio(8, sampling(), ALIGNED[9:17], flush=True)
    other = _C.Session(lm, codec, 32)
    other.restore(blob)
    for t in (twin, other):
        assert t.frames == 9
        got = t.generate_audio(8, sampling(), ALIGNED[9:17], flush=True)
        assert np.array_equal(got[0], expected[0]) and np.array_equal(got[1], expected[1])
    before = other.save()
    for bad in (b"", blob[:20], blob[:-1], blob + b"x", b"\xff" * len(blob)):
        with pytest.raises(ValueError, match="."):
            other.restore(bad)
    assert other.save() == before


def test_end_drains_and_cancel_does_not(models: tuple[Any, Any]) -> None:
    lm, codec = models
    s = _C.Session(lm, codec, 64)
    codes, pcm = s.generate_audio(64, sampling(end_id=4, min_frames=2, temperature=4.0))
    assert s.finished and 2 <= len(codes) < 64 and len(pcm) == 40 * len(codes)
    s.reset()
    s.cancel()
    codes, pcm = s.generate_audio(10, sampling(), flush=True)
    assert codes.shape == (0, 3) and pcm.shape == (0,)
    assert len(_C.generate_batch([s.lm_session], 3, [sampling()])[0]) == 3


def test_refusals(models: tuple[Any, Any]) -> None:
    lm, codec = models
    s = _C.Session(lm, codec, 8)
    before = s.save()
    for match, call in (
        ("one allowed range for each of 3 slots", lambda: s.generate_audio(1, _C.Sampling())),
        (
            "one range of at most 12 ids",
            lambda: s.generate_audio(1, sampling(allowed=[[(0, 13)]] * 3)),
        ),
        (
            "one range of at most 12 ids",
            lambda: s.generate_audio(1, sampling(allowed=[[(0, 3), (6, 3)]] * 3)),
        ),
        ("tie_slots off", lambda: s.generate_audio(1, sampling(tie_slots=True))),
        ("at most 8 more frames", lambda: s.generate_audio(9, sampling())),
        ("0 or more frames", lambda: s.generate_audio(-1, sampling())),
        ("codes", lambda: s.decode(np.full((2, 3), 12, np.int32), False)),
        ("codes: expected shape", lambda: s.decode(np.zeros((2, 4), np.int32), False)),
        (
            "at least the LM's 6 codebooks",
            lambda: _C.Session(
                native_lm(replace(LM, num_codebooks=6), torch_lm(replace(LM, num_codebooks=6))),
                codec,
                8,
            ),
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    assert s.save() == before


def test_a_codec_that_normalises_loudness_is_refused(models: tuple[Any, Any]) -> None:
    """An LM's codes have no scales."""
    config = CodecConfig(
        "seanet",
        16000,
        6,
        5,
        12,
        8,
        seanet=SeanetConfig(
            filters=2, ratios=(3, 2), normalize=True, chunk_size=60, chunk_stride=60
        ),
    )
    weights = {k: np.ones(s, np.float32) for k, s in codec_shapes(config).items()}
    with pytest.raises(ValueError, match="session: expected a codec that codes loudness too"):
        _C.Session(models[0], _C.Codec(json.dumps(to_dict(config)), weights, 1), 50)
