"""Codecs with windowed transformers, Mimi's shape and CAT's: streams, states, and refused configurations."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen3_tools import CODEC as QWEN3
from qwen3_tools import LONG, codec_state
from windowed_tools import CAT, MIMI, cat_state, mimi_state, write

from uniaudio_engine import _C, Engine
from uniaudio_engine.backends import cuda
from uniaudio_engine.importers.cat import import_cat
from uniaudio_engine.importers.mimi import import_mimi
from uniaudio_engine.importers.qwen3_codec import import_qwen3_codec
from uniaudio_engine.request.memory import decoder_bytes
from uniaudio_engine.storage.config import CodecConfig, ConfigError, from_dict, to_dict
from uniaudio_engine.storage.folder import load_folder

FRAMES = 75  # several windows, and more rows at once than the ring takes


class Case:
    """A random codec, a clip, and what one call makes of it."""

    def __init__(self, name: str, folder: Path) -> None:
        if name == "mimi":
            source = write(folder / "theirs", MIMI, mimi_state(MIMI, folder))
            import_mimi(source, folder / "ours")
        elif name.startswith("qwen3"):
            config = LONG if name == "qwen3-long" else QWEN3
            source = write(folder / "theirs", config, codec_state(folder, config))
            import_qwen3_codec(source, folder / "ours")
        else:
            import_cat(write(folder / "theirs", CAT, cat_state(CAT)), folder / "ours")
        self.name, self.folder = name.removesuffix("-long"), folder / "ours"
        self.engine = Engine.from_pretrained(self.folder, threads=2)
        self.config, self.codec = self.engine.config.codec, self.engine.codec
        n = FRAMES * self.config.frame_size - 5
        x = np.random.default_rng(1).standard_normal((self.config.channels, n)) * 0.2
        self.x = np.squeeze(x.astype(np.float32))
        self.codes = self.codec.encode(self.x)
        self.pcm = self.codec.decode(self.codes)

    def core(self, threads: int, **changes: Any) -> _C.Codec:
        config = dataclasses.replace(self.config, **changes)
        return _C.Codec(json.dumps(to_dict(config)), self.weights(), threads)

    def weights(self) -> dict[str, Any]:
        return dict(load_folder(self.engine.model.folder.path).codec)


@pytest.fixture(scope="module", params=["mimi", "cat", "qwen3", "qwen3-long"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def pieces(x: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return [np.ascontiguousarray(p) for p in np.split(x, sorted(cuts), axis=-1)]


def test_codes_vary_and_are_all_of_the_clip(case: Case) -> None:
    assert case.codes.shape == (case.config.num_codebooks, FRAMES)
    assert all(len(np.unique(row)) > 3 for row in case.codes)
    assert case.pcm.shape[-1] == FRAMES * case.config.frame_size
    assert np.isfinite(case.pcm).all() and np.abs(case.pcm).max() > 1e-4


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_streams_are_the_one_call(case: Case, data: st.DataObject) -> None:
    cuts = st.lists(st.integers(0, case.x.shape[-1]), max_size=12)
    encoder = case.codec.encoder_stream()
    got = [encoder.push(p) for p in pieces(case.x, data.draw(cuts))]
    got.append(encoder.flush())
    assert np.array_equal(np.concatenate(got, 1), case.codes)
    decoder = case.codec.decoder_stream()
    cuts = st.lists(st.integers(0, FRAMES), max_size=12)
    played = [decoder.push(p) for p in pieces(case.codes, data.draw(cuts))]
    played.append(decoder.flush())
    assert np.array_equal(np.concatenate(played, -1), case.pcm)


@pytest.mark.parametrize("samples", [1, 7])
def test_tiny_pushes(case: Case, samples: int) -> None:
    encoder, decoder = case.codec.encoder_stream(), case.codec.decoder_stream()
    cuts = list(range(samples, case.x.shape[-1], samples))
    codes = [encoder.push(p) for p in pieces(case.x, cuts)] + [encoder.flush()]
    pcm = [decoder.push(c) for c in codes] + [decoder.flush()]
    assert np.array_equal(np.concatenate(codes, 1), case.codes)
    assert np.array_equal(np.concatenate(pcm, -1), case.pcm)


def test_frames_come_out_at_once(case: Case) -> None:
    assert case.codec.encoder_lookahead == case.codec.decoder_lookahead == 0
    frame = case.config.frame_size
    assert case.codec.encoder_stream().push(case.x[..., :frame].copy()).shape[1] == 1
    assert case.codec.decoder_stream().push(case.codes[:, :1].copy()).shape[-1] == frame


def test_threads_change_nothing(case: Case) -> None:
    for threads in (1, 3):
        core = case.core(threads)
        assert np.array_equal(core.encode(case.x), case.codes)
        assert np.array_equal(core.decode(case.codes), case.pcm)


def test_the_next_clip_begins_afresh(case: Case) -> None:
    decoder = case.codec.decoder_stream()
    for _ in range(2):
        played = [decoder.push(case.codes), decoder.flush()]
        assert np.array_equal(np.concatenate(played, -1), case.pcm)
    decoder.push(case.codes)
    decoder.reset()
    assert np.array_equal(np.concatenate([decoder.push(case.codes), decoder.flush()], -1), case.pcm)


@pytest.mark.parametrize("at", [0, 3, 40, 70])
def test_fork_and_saved_state(case: Case, at: int) -> None:
    n = at * case.config.frame_size
    encoder, decoder = case.codec.encoder_stream(), case.codec.decoder_stream()
    encoder.push(case.x[..., :n].copy())
    decoder.push(case.codes[:, :at].copy())
    encoders = [encoder.fork(), case.codec.encoder_stream()]
    decoders = [decoder.fork(), case.codec.decoder_stream()]
    encoders[1].restore(encoder.save())
    decoders[1].restore(decoder.save())
    for e, d in zip(encoders, decoders, strict=True):
        codes = [e.push(case.x[..., n:].copy()), e.flush()]
        assert np.array_equal(np.concatenate(codes, 1), case.codes[:, at:])
        pcm = d.push(case.codes[:, at:].copy())
        assert np.array_equal(pcm, case.pcm[..., n:])


def test_broken_states_are_refused(case: Case) -> None:
    decoder = case.codec.decoder_stream()
    decoder.push(case.codes)
    state, before = decoder.save(), decoder.fork()
    rng = np.random.default_rng(0)
    for cut in (0, 8, 24, len(state) // 2, len(state) - 1):
        with pytest.raises(ValueError, match="stream state"):
            decoder.restore(state[:cut])
    for at in rng.integers(0, len(state), 200):
        broken = bytearray(state)
        broken[at] ^= 0x7F
        try:
            decoder.restore(bytes(broken))
        except ValueError:
            continue
        decoder.push(case.codes[:, :2].copy())  # plausible numbers: no harm
    decoder.restore(state)
    more = case.codes[:, :4].copy()
    assert np.array_equal(decoder.push(more), before.push(more))


def test_fewer_codebooks_are_the_first_ones(case: Case) -> None:
    for k in range(1, case.config.num_codebooks + 1):
        codes = case.codec.encode(case.x, k)
        assert np.array_equal(codes, case.codes[:k])
        assert case.codec.decode(codes).shape == case.pcm.shape


def test_what_is_outside_of_all_windows_is_forgotten(case: Case) -> None:
    """Two pasts, then the same frames: in the end they decode to the same bits."""
    other = case.codes[:, ::-1].copy()
    tails = []
    for past in (case.codes, other):
        decoder = case.codec.decoder_stream()
        decoder.push(past)
        tails.append(decoder.push(np.concatenate([case.codes] * 2, 1)))
    same = (tails[0] == tails[1]).reshape(-1, tails[0].shape[-1]).all(0)
    frame = case.config.frame_size
    assert not same[:frame].all() and same[-frame:].all()


def test_instruction_sets_agree(case: Case) -> None:
    """Those with fused multiply-add to the bit; plain C++ within rounding."""
    code = (
        "import numpy as np, sys; from uniaudio_engine import Engine\n"
        "c = Engine.from_pretrained(sys.argv[1], threads=1).codec\n"
        "np.save(sys.argv[3], c.decode(np.load(sys.argv[2])))"
    )
    folder = case.folder.parent
    np.save(folder / "codes.npy", case.codes)
    for isa in ("avx2", "plain"):
        done = subprocess.run(
            [sys.executable, "-c", code, case.folder, folder / "codes.npy", folder / "pcm.npy"],
            env=os.environ | {"UNIAUDIO_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        if "UNIAUDIO_ISA" in done.stderr:
            continue  # this machine lacks it
        assert done.returncode == 0, done.stderr
        pcm = np.load(folder / "pcm.npy")
        assert np.abs(pcm - case.pcm).max() <= 2e-5 * np.abs(case.pcm).max()


def test_other_backends_and_memory(case: Case) -> None:
    assert case.config.core_only and not cuda.fits(case.config)
    kept = 4 * decoder_bytes(case.config)
    assert kept > len(case.codec.decoder_stream().save())


def test_configurations_come_back(case: Case) -> None:
    assert from_dict(CodecConfig, to_dict(case.config), "codec") == case.config


def changed(config: CodecConfig, path: str, value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(to_dict(config)))
    *keys, last = path.split(".")
    inside: Any = data
    for key in keys:
        inside = inside[int(key) if isinstance(inside, list) else key]
    inside[int(last) if isinstance(inside, list) else last] = value
    return data


TRANSFORMER = {"layers": 0, "width": 33, "heads": 3, "mlp_width": 0, "window": 1 << 17}
REFUSED = {
    "mimi": [
        *(("seanet.bottleneck.transformer." + k, v) for k, v in TRANSFORMER.items()),
        ("seanet.bottleneck.transformer.rope_base", 1.0),
        ("seanet.bottleneck.transformer.norm_eps", 0.0),
        ("seanet.bottleneck.stride", 3),
        ("seanet.bottleneck.stride", 0),
        ("seanet.causal", False),
        ("seanet.norm", "group"),
        ("quantizer.semantic_codebooks", 0),
        ("quantizer.semantic_codebooks", 6),
        ("quantizer.rvq_dim", 8),
        ("quantizer.latent_dim", 16),
        ("quantizer.kind", "other"),
    ],
    "cat": [
        *(("cat.encoder.stages.0.transformer." + k, v) for k, v in TRANSFORMER.items()),
        ("cat.channels", 5),
        ("cat.channels", 0),
        ("cat.encoder.patches", [6, 2]),
        ("cat.encoder.patches", [6, 2, 3]),
        ("cat.encoder.patches", [3, 4, 2]),
        ("cat.decoder.patches.0", 0),
        ("cat.decoder.stages.1.output", 7),
        ("cat.encoder.stages.1.output", 70000),
        ("cat.encoder.stages", []),
        ("quantizer.semantic_codebooks", 1),
        ("quantizer.rvq_dim", 0),
        ("quantizer.latent_dim", 31),
        ("family", "dog"),
        ("family", "spectral"),
    ],
}
REFUSED["qwen3"] = [
    *REFUSED["mimi"],
    *(
        ("seanet.decoder.transformer." + k, v)
        for k, v in ({**TRANSFORMER, "width": 0}).items()
        if k != "heads"
    ),
    ("seanet.decoder.transformer.heads", 300),
    ("seanet.decoder.transformer.head_width", 7),
    ("seanet.decoder.transformer.norm", "batchnorm"),
    ("seanet.decoder.transformer.activation", "relu"),
    ("seanet.decoder.latent_dim", 0),
    ("seanet.decoder.width", 5000),
    ("seanet.decoder.filters", 15),
    ("seanet.decoder.upsample", [2, 3]),
    ("seanet.decoder.ratios", [65]),
    ("seanet.decoder.ratios", [1] * 17),
    ("seanet.channels", 2),
    ("seanet.bottleneck", None),
]


def test_impossible_configurations_are_refused_twice(case: Case) -> None:
    """By Python and by the core, in one line."""
    for path, value in REFUSED[case.name]:
        data = changed(case.config, path, value)
        with pytest.raises(ConfigError) as e:
            from_dict(CodecConfig, data, "codec").check()
        assert "\n" not in str(e.value), path
        with pytest.raises(ValueError) as refused:
            _C.Codec(json.dumps(data), case.weights(), 1)
        assert "\n" not in str(refused.value), path
