"""Sessions of the native LM: the same seed gives the same tokens however they are generated, and
bad input changes nothing.
"""

from __future__ import annotations

import struct
import threading
import time
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lm_tools import BASE, CONFIGS, native_lm, random_inputs, torch_lm

from uniaudio_engine import _C

NAMES = [
    "base",
    "reference",
    "aligned",
    "everything",
    "one_codebook",
    "wide",
    "others",
]
# Of the weights, and of keys and values after a slash.
DTYPES = [
    "float32",
    "bfloat16",
    "int8",
    "int4",
    "int8,local=int4,head=float32",
    "float32/bfloat16",
    "int8/int8",
]
SAMPLING: dict[str, Any] = {
    "temperature": 1.1,
    "top_k": 20,
    "top_p": 0.95,
    "seed": 11,
    "repetition_window": 4,
    "repetition_penalty": 1.3,
}


def sampling(**more: Any) -> _C.Sampling:
    return _C.Sampling(**{**SAMPLING, **more})


def aligned_for(c: Any, n: int, seed: int = 9) -> np.ndarray | None:
    return (
        np.random.default_rng(seed)
        .integers(-1, c.aligned_vocab, (n, c.aligned_slots))
        .astype(np.int32)
        if c.aligned_slots
        else None
    )


def cut(aligned: np.ndarray | None, begin: int, end: int) -> np.ndarray | None:
    return None if aligned is None else aligned[begin:end]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_tokens(name: str, dtype: str) -> None:
    c = CONFIGS[name]
    model = torch_lm(c)
    frames, prompt_aligned, continuous = random_inputs(c, 20)
    aligned = aligned_for(c, 30)
    lm = native_lm(c, model, dtype)

    def start(lm: _C.LM) -> _C.LMSession:
        s = lm.session(64)
        s.prefill(frames, prompt_aligned, continuous)
        return s

    expected = start(lm).generate(30, sampling(), aligned)
    assert expected.shape == (30, c.num_codebooks)
    assert len(np.unique(expected)) > 5

    for threads in (2, 3):
        assert np.array_equal(
            start(native_lm(c, model, dtype, threads)).generate(30, sampling(), aligned), expected
        )

    # Cut into calls, with known frames in pieces too.
    s = lm.session(50)
    if not continuous:
        for begin, end in ((0, 1), (1, 8), (8, 20)):
            s.prefill(frames[begin:end], cut(prompt_aligned, begin, end))
    else:
        s.prefill(frames, prompt_aligned, continuous)
    pieces = [
        s.generate(n, sampling(), cut(aligned, begin, begin + n))
        for begin, n in ((0, 1), (1, 0), (1, 7), (8, 22))
    ]
    assert np.array_equal(np.concatenate(pieces), expected)
    assert s.frames == 50 and not s.finished

    # Fork, save, restore in the middle.
    s = start(lm)
    first = s.generate(13, sampling(), cut(aligned, 0, 13))
    blob = s.save()
    twin = s.fork()
    rest = s.generate(17, sampling(), cut(aligned, 13, 30))
    assert np.array_equal(np.concatenate((first, rest)), expected)
    assert np.array_equal(twin.generate(17, sampling(), cut(aligned, 13, 30)), rest)
    back = lm.session(60)
    back.generate(5, sampling(seed=1))
    back.restore(blob)
    assert back.frames == 33
    assert np.array_equal(back.generate(17, sampling(), cut(aligned, 13, 30)), rest)

    # After a reset a session is as new.
    s.reset()
    s.prefill(frames, prompt_aligned, continuous)
    assert np.array_equal(s.generate(30, sampling(), aligned), expected)

    # Another seed says something else.
    assert not np.array_equal(start(lm).generate(30, sampling(seed=12), aligned), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_batched_equals_alone(name: str, threads: int, dtype: str) -> None:
    c = CONFIGS[name]
    lm = native_lm(c, torch_lm(c), dtype, threads)
    half = c.vocab_size // 2
    samplings = [
        sampling(seed=1),
        sampling(seed=2, top_k=0),
        sampling(greedy=True),
        sampling(seed=4, end_id=5, min_frames=3, top_k=0, temperature=3.0),
        sampling(seed=5, allowed=[[(0, half)]] * c.num_codebooks),
        sampling(seed=6, tie_slots=True),
        sampling(seed=7, temperature=0.5),
        sampling(
            seed=8, allowed=[[(half, 4), (3, 2)]] * c.num_codebooks, end_id=0, end_slots="last"
        ),
        sampling(seed=9, top_p=0.5),
    ]

    def start(i: int) -> _C.LMSession:
        s = lm.session(40)
        frames, aligned, continuous = random_inputs(c, 3 * i + 6, seed=i)
        s.prefill(frames[: 3 * i + 6], aligned, continuous)
        return s

    n = 9
    alone = [start(i).generate(n, s, aligned_for(c, n, i)) for i, s in enumerate(samplings)]
    sessions = [start(i) for i in range(len(samplings))]
    together = _C.LM.generate_batch(
        sessions, n, samplings, [aligned_for(c, n, i) for i in range(len(samplings))]
    )
    for i, (a, b) in enumerate(zip(alone, together, strict=True)):
        assert np.array_equal(a, b), i
    if c.num_codebooks > 1:
        assert (together[5] == together[5][:, :1]).all()
    assert set(np.unique(together[4])) <= set(range(half))
    # They go on alone where the batch left them.
    assert np.array_equal(
        sessions[0].generate(4, samplings[0]),
        _continued(start(0), n, samplings[0], aligned_for(c, n, 0)),
    )


def _continued(
    s: _C.LMSession, n: int, sampling: _C.Sampling, aligned: np.ndarray | None
) -> np.ndarray:
    s.generate(n, sampling, aligned)
    return s.generate(4, sampling)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_greedy_follows_teacher_forced_logits(name: str, dtype: str) -> None:
    """Every generated id is the arg-max of `logits` over the same frames: stepping and the one-shot
    pass are the same numbers.
    """
    c = CONFIGS[name]
    lm = native_lm(c, torch_lm(c), dtype)
    frames, prompt_aligned, continuous = random_inputs(c, 20)
    aligned = aligned_for(c, 20)
    s = lm.session(40)
    s.prefill(frames, prompt_aligned, continuous)
    out = s.generate(20, _C.Sampling(greedy=True), aligned)
    whole_aligned = (
        None
        if aligned is None or prompt_aligned is None
        else np.concatenate((prompt_aligned, aligned))
    )
    logits = lm.logits(np.concatenate((frames, out)), whole_aligned, continuous)
    assert np.array_equal(logits[20:].argmax(-1), out)


def test_end_id() -> None:
    lm = native_lm(BASE, torch_lm(BASE))
    slots = [[(10, 20)]] * 3
    for where, slot in (("first", 0), ("last", 2), ("any", 1)):
        s = lm.session(64)
        out = s.generate(
            64,
            _C.Sampling(
                seed=3, allowed=slots, end_id=4, end_slots=where, min_frames=6, temperature=5.0
            ),
        )
        assert 6 <= len(out) < 64 and s.finished and s.frames == len(out), slot
        assert out.min() >= 10 and out.max() < 30
        assert len(s.generate(3, _C.Sampling())) == 0
        s.prefill(np.full((1, 3), 8, np.int32))
        assert not s.finished and len(s.generate(2, _C.Sampling())) == 2
    # min_frames counts what was generated, not what was given, in one call or several.
    a, b = lm.session(64), lm.session(64)
    options = {
        "seed": 3,
        "allowed": slots,
        "end_id": 4,
        "end_slots": "first",
        "min_frames": 6,
        "temperature": 5.0,
    }
    whole = a.generate(60, _C.Sampling(**options))
    pieces = [b.generate(4, _C.Sampling(**options)) for _ in range(15)]
    assert np.array_equal(whole, np.concatenate(pieces)) and b.finished


def test_tied_slots_and_frame_offset() -> None:
    lm = native_lm(BASE, torch_lm(BASE))
    out = lm.session(20).generate(20, _C.Sampling(seed=3, tie_slots=True, allowed=[[(7, 9)]]))
    assert (out == out[:, :1]).all() and len(np.unique(out)) > 3
    s = lm.session(20)
    s.frame_offset = 1000
    assert not np.array_equal(
        s.generate(20, _C.Sampling(seed=3, tie_slots=True, allowed=[[(7, 9)]])), out
    )
    with pytest.raises(ValueError, match="frame_offset: expected 0 or more, got -1"):
        s.frame_offset = -1


def test_cancel() -> None:
    c = CONFIGS["wide"]
    lm = native_lm(c, torch_lm(c))
    expected = lm.session(64).generate(64, sampling())
    s = lm.session(64)
    s.cancel()
    assert len(s.generate(10, sampling())) == 0
    pieces: list[np.ndarray] = []

    def work() -> None:
        while sum(map(len, pieces)) < 64:
            pieces.append(s.generate(64 - sum(map(len, pieces)), sampling()))

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(200):
        s.cancel()
        time.sleep(0.0002)
    thread.join()
    assert len(pieces) > 1
    assert np.array_equal(np.concatenate(pieces), expected)


def test_one_call_at_a_time_and_threads_sharing_a_model() -> None:
    c = CONFIGS["wide"]
    lm = native_lm(c, torch_lm(c), threads=2)
    expected = [lm.session(64).generate(64, sampling(seed=i)) for i in range(4)]
    got: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        got[i] = lm.session(64).generate(64, sampling(seed=i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(4):
        assert np.array_equal(got[i], expected[i])
    s = lm.session(8)
    with pytest.raises(ValueError, match="distinct sessions, got one twice"):
        _C.LM.generate_batch([s, s], 2, [sampling(), sampling()])
    assert len(s.generate(2, sampling())) == 2


def refused(
    match: str, call: Any, *args: Any, error: type[Exception] = ValueError, **kwargs: Any
) -> None:
    with pytest.raises(error, match=match) as e:
        call(*args, **kwargs)
    assert "\n" not in str(e.value)


def test_hostile_calls_are_refused_and_change_nothing() -> None:
    c = CONFIGS["everything"]
    lm = native_lm(c, torch_lm(c))
    k, v, width = c.num_codebooks, c.vocab_size, c.continuous["text"]
    s = lm.session(10)
    s.prefill(np.ones((4, k), np.int32))
    before = s.save()
    ok = np.ones((2, k), np.int32)
    text = np.zeros((1, width), np.float32)
    refused("expected an id from 0 to 52, got 53", s.prefill, np.full((2, k), v))
    refused("expected an id from 0 to 52, got -1", s.prefill, np.full((2, k), -1))
    refused("expected ids of 32 bits", s.prefill, np.full((2, k), 1 << 40))
    refused("expected integers, got float64", s.prefill, np.ones((2, k)))
    refused(r"\[n, K\] = \[\*, 3\], got \[2, 4\]", s.prefill, np.ones((2, k + 1), np.int32))
    refused("got \\[3\\]", s.prefill, np.ones(3, np.int32))
    refused("frames: expected", s.prefill, "frames")
    refused("at most 6 more frames", s.prefill, np.ones((7, k), np.int32))
    refused("one row per frame \\(2\\), got 1", s.prefill, ok, np.zeros((1, 2), np.int32))
    refused("or -1 for none, got 7", s.prefill, ok, np.full((2, 2), 7, np.int32))
    refused(
        "expected one of this model's inputs \\(text\\)",
        s.prefill,
        ok,
        None,
        {"image": (text, np.zeros(1, np.int32))},
    )
    refused(
        "infinity or NaN", s.prefill, ok, None, {"text": (text * np.nan, np.zeros(1, np.int32))}
    )
    refused(
        "frame indices from 0 to 1, got 2",
        s.prefill,
        ok,
        None,
        {"text": (text, np.full(1, 2, np.int32))},
    )
    refused(
        "given twice",
        s.prefill,
        ok,
        None,
        {"text": (np.zeros((2, width), np.float32), np.zeros(2, np.int32))},
    )
    refused(
        r"\[n, 11\], got \[1, 4\]",
        s.prefill,
        ok,
        None,
        {"text": (np.zeros((1, 4), np.float32), np.zeros(1, np.int32))},
    )
    refused("one frame index per row", s.prefill, ok, None, {"text": (text, np.zeros(2, np.int32))})
    refused("at most 6 more frames", s.generate, 7, _C.Sampling())
    refused("0 or more frames, got -1", s.generate, -1, _C.Sampling())
    refused("at most 6", s.generate, 1 << 60, _C.Sampling())
    for options, match in (
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"repetition_window": -1}, "repetition_window"),
        ({"repetition_penalty": 0.5}, "repetition_penalty"),
        ({"end_id": v}, "end_id"),
        ({"min_frames": -1}, "min_frames"),
        ({"allowed": [[(0, 5)]]}, "allowed"),
        ({"allowed": [[(0, v + 1)]] * k}, "allowed"),
        ({"allowed": [[]] * k}, "allowed"),
    ):
        refused(f"sampling: {match}", s.generate, 1, _C.Sampling(**options))
    refused("end_slots", _C.Sampling, end_slots="middle")
    refused("allowed", _C.Sampling, allowed=[[(-1, 3)]])
    refused("allowed", _C.Sampling, allowed=[[(0, 0)]])
    refused("max_frames: expected 1 to", lm.session, 0)
    refused("max_frames: expected 1 to", lm.session, 65)
    refused("at most max_frames", lm.logits, np.ones((65, k), np.int32))
    refused(
        "one sampling and one set of aligned rows per session", _C.LM.generate_batch, [s], 1, []
    )
    refused(
        "sessions of one LM",
        _C.LM.generate_batch,
        [s, native_lm(c, torch_lm(c)).session(10)],
        1,
        [_C.Sampling()] * 2,
    )
    assert s.save() == before
    assert lm.logits(np.ones((0, k), np.int32)).shape == (0, k, v)


def sealed(body: bytes) -> bytes:
    """With the checksum that the core would give it."""
    h = 0xCBF29CE484222325
    for (v,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8]):
        h = (h ^ v) * 0x100000001B3 % 2**64
        h ^= h >> 32
    for b in body[len(body) // 8 * 8 :]:
        h = (h ^ b) * 0x100000001B3 % 2**64
    return body + struct.pack("<Q", h)


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
def test_damaged_snapshots_are_refused(kv_dtype: str) -> None:
    lm = native_lm(BASE, torch_lm(BASE), f"float32/{kv_dtype}")
    s = lm.session(30)
    s.generate(20, sampling())
    blob = s.save()
    expected = s.generate(10, sampling())
    for bad in (b"", b"x" * 500, blob[:-1], blob + b"\0", blob[: len(blob) // 2]):
        refused("restore: ", s.restore, bad)
    r = np.random.default_rng(0)
    for at in [*range(0, 56, 3), *r.integers(0, len(blob), 50)]:
        broken = bytearray(blob)
        broken[at] ^= 0x41
        refused("restore: ", s.restore, bytes(broken))
    refused("at most 19 frames, got 20", lm.session(19).restore, blob)
    refused(
        "of this model and dtype",
        native_lm(BASE, torch_lm(BASE), f"int8/{kv_dtype}").session(30).restore,
        blob,
    )
    for other in {"float32", "bfloat16", "int8"} - {kv_dtype}:
        refused(
            "of this model and dtype",
            native_lm(BASE, torch_lm(BASE), f"float32/{other}").session(30).restore,
            blob,
        )
    refused(
        "of this model and dtype",
        native_lm(BASE, torch_lm(BASE, seed=5), f"float32/{kv_dtype}").session(30).restore,
        blob,
    )
    for value in (
        b"\xff\xff\xff\x7f",
        b"\x00\x00\x80\x7f",
    ):  # a NaN and an infinity, with the checksum that fits
        refused("restore: the saved session holds infinite", s.restore, sealed(blob[:-12] + value))
    assert s.frames == 30
    s.restore(blob)
    assert np.array_equal(s.generate(10, sampling()), expected)
