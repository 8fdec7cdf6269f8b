"""One contract for all backends (``backends/protocols.py``): the compiled core, the CUDA module, and
exported graphs on ONNX Runtime and TensorRT (a stand-in) run the same checks on the same model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tiny_model

from uniaudio_engine import InputError
from uniaudio_engine.backends.core import core
from uniaudio_engine.backends.load import Parts, load_parts
from uniaudio_engine.backends.protocols import Session

# the others compile the emulator or export graphs first
BACKENDS = ["cpu", *(pytest.param(b, marks=pytest.mark.slow) for b in ("cuda", "onnx", "tensorrt"))]
SAMPLING: dict[str, Any] = {"temperature": 0.9, "top_k": 10, "seed": 3}
WIDTH = 5  # of the continuous input


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("contract") / "model"
    return make_tiny_model(root, continuous={"text": WIDTH})


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    for name in ("torch", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from uniaudio_training.export.write import export_onnx

    export_onnx(folder, folder.parent / "graphs")
    return folder.parent / "graphs"


@pytest.fixture(scope="module")
def reference(folder: Path) -> Parts:
    return load_parts(folder, "cpu", "float32", "native", "float32", 1)


@pytest.fixture(params=BACKENDS)
def parts(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """The model on one backend, in float32."""
    if request.param == "cpu":
        return request.getfixturevalue("reference")
    if request.param == "cuda":
        request.getfixturevalue("host")
        return load_parts(folder, "cuda", "float32", "native", "float32", 1)
    graphs = request.getfixturevalue("exported")
    if request.param == "onnx":
        return load_parts(graphs, "cpu", "auto", "onnx", "auto", 1)
    from test_tensorrt_backend import install
    from uniaudio_training.export.tensorrt import export_tensorrt

    install(monkeypatch)
    plans = request.getfixturevalue("tmp_path") / "plans"
    export_tensorrt(graphs, plans, ["capacity=1024"])
    return load_parts(plans, "cuda", "auto", "tensorrt", "auto", 1)


def frames(parts: Parts, n: int, seed: int = 0) -> np.ndarray:
    c = parts.folder.config.lm
    assert c is not None
    r = np.random.default_rng(seed)
    return r.integers(0, c.vocab_size, (n, c.num_codebooks)).astype(np.int32)


def aligned(parts: Parts, n: int, seed: int = 0) -> np.ndarray:
    c = parts.folder.config.lm
    assert c is not None
    r = np.random.default_rng(seed)
    return r.integers(-1, c.aligned_vocab, (n, c.aligned_slots)).astype(np.int32)


def started(parts: Parts, capacity: int = 60, seed: int = 0) -> Session:
    """A session that knows 9 frames, two of them continuous inputs."""
    assert parts.lm is not None
    s = parts.lm.session(capacity)
    values = np.random.default_rng(seed).standard_normal((2, WIDTH)).astype(np.float32)
    known = frames(parts, 9, seed)
    s.prefill(known, aligned(parts, 9, seed), {"text": (values, np.array([3, 8]))})
    return s


def sampling(**more: Any) -> Any:
    return core().Sampling(**{**SAMPLING, **more})


def refused(why: str, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(InputError, match=why) as e:
        call(*arguments)
    assert "\n" not in str(e.value)


def test_tokens_are_the_references(parts: Parts, reference: Parts) -> None:
    made = [
        started(p).generate(20, sampling(), aligned(reference, 20, 1)) for p in (reference, parts)
    ]
    assert made[1].dtype == np.int32
    np.testing.assert_array_equal(*made)


def test_a_session_s_life(parts: Parts) -> None:
    assert parts.lm is not None
    s = started(parts)
    assert (s.frames, s.capacity, s.finished, s.guided, s.frame_offset) == (9, 60, False, False, 0)
    fork = s.fork()
    whole = s.generate(12, sampling())
    assert s.frames == 21 and fork.frames == 9
    pieces = [fork.generate(n, sampling()) for n in (5, 0, 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    s.cancel()
    assert len(s.generate(3, sampling())) == 0  # and the request is used up
    assert len(s.generate(3, sampling())) == 3
    s.frame_offset = 100
    assert s.frame_offset == 100
    s.reset()
    assert (s.frames, s.frame_offset) == (0, 0)
    s.prefill(frames(parts, 9))
    assert not np.array_equal(s.generate(12, sampling()), whole)  # without rows, other tokens
    s.reset()
    s.prefill(frames(parts, 2))
    first = int(s.fork().generate(1, sampling())[0, 0])
    assert len(s.generate(9, sampling(end_id=first, end_slots="first"))) == 0 and s.finished
    s.prefill(frames(parts, 1))
    assert not s.finished
    assert parts.lm.memory_bytes(20) > parts.lm.memory_bytes(10) > 0
    assert parts.lm.weight_bytes() == parts.lm.weight_bytes_per_frame > 0


def test_guidance(parts: Parts, reference: Parts) -> None:
    made = []
    for p in (reference, parts):
        s, unconditional = started(p), started(p, 50, 1)
        s.set_guidance(unconditional, 1.7)
        assert s.guided and not unconditional.guided
        s.prefill(frames(p, 2, 2))
        twin = s.fork()
        made.append(s.generate(20, sampling()))
        np.testing.assert_array_equal(twin.generate(20, sampling()), made[-1])
        assert unconditional.frames == 9
    np.testing.assert_array_equal(*made)
    refused("at most 19 more frames", s.generate, 20, sampling())  # the unconditional one is full
    s.reset()
    assert not s.guided


def test_guidance_without_the_aligned_rows(parts: Parts, reference: Parts) -> None:
    made = []
    for p in (reference, parts):
        s = started(p)
        s.set_guidance(s.fork(), 1.7, aligned=False)
        s.prefill(frames(p, 2, 2), aligned(p, 2, 3))
        twin = s.fork()
        made.append(s.generate(12, sampling(), aligned(p, 12, 1)))
        np.testing.assert_array_equal(twin.generate(12, sampling(), aligned(p, 12, 1)), made[-1])
        both = started(p)
        both.set_guidance(both.fork(), 1.7)
        both.prefill(frames(p, 2, 2), aligned(p, 2, 3))
        assert not np.array_equal(both.generate(12, sampling(), aligned(p, 12, 1)), made[-1])
    np.testing.assert_array_equal(*made)


def test_bad_guidance_changes_nothing(parts: Parts, reference: Parts) -> None:
    s, other = started(parts), started(parts)
    guided = s.fork()
    guided.set_guidance(other, 2.0)
    for wrong in (s, guided):
        refused("another session of the same LM", s.set_guidance, wrong, 2.0)
    for scale in (-0.5, 101.0, float("nan")):
        refused("a scale from 0 to 100", s.set_guidance, other, scale)
    assert not s.guided


def test_a_batch_is_each_alone(parts: Parts) -> None:
    assert parts.lm is not None
    sessions = [started(parts, 60, i) for i in range(3)]
    sessions[1].set_guidance(started(parts, 60, 5), 2.0)
    rows = [None, aligned(parts, 10, 1), aligned(parts, 10, 2)]
    samplings = [sampling(seed=i) for i in range(3)]
    jobs = zip(sessions, samplings, rows, strict=True)
    alone = [s.fork().generate(10, x, g) for s, x, g in jobs]
    made = parts.lm.generate_batch(sessions, 10, samplings, rows)
    for a, b in zip(made, alone, strict=True):
        np.testing.assert_array_equal(a, b)
    a, b = sessions[:2]
    refused("distinct sessions", parts.lm.generate_batch, [a, a], 1, samplings[:2])
    refused("one sampling", parts.lm.generate_batch, [a, b], 1, samplings[:1])
    refused("at most 41 more frames", parts.lm.generate_batch, [a, b], 42, samplings[:2])
    assert a.frames == b.frames == 19


def test_what_a_session_refuses(parts: Parts) -> None:
    assert parts.lm is not None
    c = parts.folder.config.lm
    assert c is not None
    s, k = started(parts), c.num_codebooks
    one = frames(parts, 1)
    refused("max_frames: expected 1 to", parts.lm.session, 0)
    refused("max_frames: expected 1 to", parts.lm.session, c.max_frames + 1)
    refused("at most 51 more frames", s.generate, 52, sampling())
    refused("at most 51 more frames", s.prefill, frames(parts, 52))
    refused("expected 0 or more frames, got -1", s.generate, -1, sampling())
    refused("frames: expected", s.prefill, np.zeros((3, k + 1), np.int32))
    refused("frames: expected", s.prefill, np.zeros((3, k)))
    refused(f"an id from 0 to {c.vocab_size - 1}", s.prefill, np.full((1, k), c.vocab_size))
    refused("an id from 0", s.prefill, np.full((1, k), -1))
    refused("one row per frame", s.prefill, one, aligned(parts, 2))
    refused("one row per frame", s.generate, 3, sampling(), aligned(parts, 2))
    refused(
        f"an id from .* {c.aligned_vocab - 1}", s.prefill, one, np.full((1, 4), c.aligned_vocab)
    )
    refused("frame_offset: expected 0 or more", setattr, s, "frame_offset", -1)
    row, first = np.zeros((1, WIDTH), np.float32), np.array([0])
    for why, continuous in (
        ("one of this model's inputs", {"other": (row, first)}),
        (f"values of shape .n, {WIDTH}.", {"text": (row[:, 1:], first)}),
        ("finite values", {"text": (row + np.inf, first)}),
        ("frame indices from 0 to 0", {"text": (row, first + 1)}),
        ("given twice", {"text": (np.repeat(row, 2, 0), np.array([0, 0]))}),
    ):
        refused(why, s.prefill, one, None, continuous)
    assert s.frames == 9
    np.testing.assert_array_equal(s.generate(5, sampling()), started(parts).generate(5, sampling()))


def test_one_call_at_a_time(parts: Parts) -> None:
    s = started(parts, 1024)
    thread = threading.Thread(target=s.generate, args=(1000, sampling()))
    thread.start()
    while thread.is_alive() and s.frames == 9:
        pass
    refused("one call at a time", s.fork)
    s.cancel()
    thread.join()
    s.fork()


def test_logits(parts: Parts, reference: Parts) -> None:
    f, g = frames(parts, 12), aligned(parts, 12)
    assert parts.lm is not None and reference.lm is not None
    found = parts.lm.logits(f, g)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference.lm.logits(f, g), atol=2e-4)
    refused("frames: expected", parts.lm.logits, f[:, 1:])
    refused("one row per frame", parts.lm.logits, f, g[1:])


def test_codecs(parts: Parts, reference: Parts) -> None:
    codec, r = parts.codec, np.random.default_rng(0)
    sound = (0.1 * r.standard_normal(320 * 12 + 7)).astype(np.float32)
    codes = codec.encode(sound, 2)
    assert codes.shape == (2, codec.frames(len(sound))) and codes.dtype == np.int32
    assert (codes == reference.codec.encode(sound, 2)).mean() > 0.98
    scaled, scales = codec.encode_scaled(sound)
    np.testing.assert_array_equal(scaled[:2], codes)
    assert scales.shape == (0,) and scales.dtype == np.float32
    pcm = codec.decode(scaled)
    assert pcm.shape == (scaled.shape[1] * 320,) and pcm.dtype == np.float32
    np.testing.assert_allclose(pcm, reference.codec.decode(scaled), atol=1e-4)
    assert codec.encoder_lookahead == reference.codec.encoder_lookahead
    assert codec.decoder_lookahead == reference.codec.decoder_lookahead
    for dtype in (
        np.float64,
        np.float16,
        np.int32,
        np.int64,
    ):  # other kinds of numbers are converted
        assert codec.encode(np.zeros(700, dtype)).shape[1] == 3
        assert codec.encoder_stream().push(np.zeros(320, dtype)).shape[1] == 1
    for dtype in (np.int64, np.uint8, np.uint64):
        np.testing.assert_allclose(codec.decode(scaled.astype(dtype)), pcm, atol=1e-6)
    refused("finite", codec.encode, np.full(400, np.nan, np.float32))
    refused("finite", codec.encode, np.full(400, np.nan))
    refused(r"float32 \[N\]", codec.encode, np.zeros((2, 400), np.float32))
    refused(r"num_codebooks: expected 0 (\(all\) )?to 3", codec.encode, sound, 4)
    refused(r"num_codebooks: expected 0 (\(all\) )?to 3", codec.encoder_stream, 4)
    refused("codes: expected", codec.decode, np.zeros((4, 1), np.int32))
    refused("codes: expected", codec.decode, np.zeros((3, 1)))
    refused("expected 0 to 15, got 16", codec.decode, np.full((3, 1), 16))
    refused("scales: expected none", codec.decode, scaled, np.ones(1, np.float32))


@pytest.mark.parametrize("cuts", [(1, 319, 320, 3000), (700,), (0, 2000, 2000)])
def test_streams_are_the_one_shot_calls(parts: Parts, cuts: tuple[int, ...]) -> None:
    codec, r = parts.codec, np.random.default_rng(1)
    sound = (0.1 * r.standard_normal(320 * 12 + 7)).astype(np.float32)
    encoder = codec.encoder_stream(2)
    for _ in range(2):  # a flush begins a new clip
        pieces = [encoder.push(x) for x in np.split(sound, cuts)]
        np.testing.assert_array_equal(
            np.concatenate([*pieces, encoder.flush()], 1), codec.encode(sound, 2)
        )
    encoder.push(sound[:700])
    twin = encoder.fork()
    for stream in (encoder, twin):
        rest = np.concatenate([stream.push(sound[700:]), stream.flush()], 1)
        np.testing.assert_array_equal(rest, codec.encode(sound, 2)[:, 2:])
    codes = codec.encode(sound)
    decoder = codec.decoder_stream()
    parts_ = np.split(codes, sorted(c // 320 for c in cuts), 1)
    heard = [decoder.push(parts_[0])]
    twin = decoder.fork()
    for stream in (decoder, twin):
        rest = [stream.push(c) for c in parts_[1:]]
        np.testing.assert_allclose(
            np.concatenate([*heard, *rest, stream.flush()]), codec.decode(codes), atol=1e-6
        )
    decoder.push(codes[:, :3])
    decoder.reset()
    np.testing.assert_allclose(
        np.concatenate([decoder.push(codes), decoder.flush()]), codec.decode(codes), atol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    n=st.integers(0, 6),
    count=st.integers(0, 4),
)
def test_continuous_inputs_are_refused_alike(
    folder: Path, reference: Parts, data: st.DataObject, n: int, count: int
) -> None:
    """The rules in Python (``session_rules.py``) and those in C++ agree on every input."""
    from uniaudio_engine.backends.session_rules import continuous_rows

    config, lm = reference.folder.config.lm, reference.lm
    assert config is not None and lm is not None
    width = data.draw(st.sampled_from([WIDTH, WIDTH, WIDTH, WIDTH - 1]))
    values = np.zeros((count, width), np.float32)
    if count and data.draw(st.booleans()):
        values[0, 0] = data.draw(st.sampled_from([np.nan, np.inf, 1.0]))
    index = np.array(data.draw(st.lists(st.integers(-1, n + 1), min_size=count, max_size=count)))
    name = data.draw(st.sampled_from(["text", "text", "text", "other"]))
    given_ = {name: (values, index.astype(np.int32))}
    verdicts = []
    for call in (
        lambda: continuous_rows(given_, config, n),
        lambda: lm.session(20).prefill(frames(reference, n), None, given_),
    ):
        try:
            call()
            verdicts.append(True)
        except InputError:
            verdicts.append(False)
    assert verdicts[0] == verdicts[1], given_
