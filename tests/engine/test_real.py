"""The engine on the compiled core with tiny random models: guarantees on streams, seeds and
threads.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sequences import tts_sequence, voice_prefix
from sounds import tone

import uniaudio_engine
from uniaudio_engine import Engine, Sampling
from uniaudio_engine.storage.folder import load_folder

TEXT = "Hello there. This is a second sentence."
ROOT = Path(uniaudio_engine.__file__).parents[
    1
]  # of the package under test, installed or in the tree


def codes_of(engine: Engine, **inputs: Any) -> np.ndarray:
    return np.concatenate([c.codes for c in engine.stream("tts", **inputs)])


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to float32 rounding of sums of some thousand terms near 1."""
    return a.shape == b.shape and bool(np.abs(a - b).max() <= 1e-4 * max(1e-3, np.abs(b).max()))


@pytest.fixture(scope="module")
def voice(real: Engine) -> Any:
    return real.encode_voice(tone(2.0))


@pytest.mark.parametrize(
    ("dtype", "kv_dtype"), [("float32", "auto"), ("int8", "auto"), ("int8", "bfloat16")]
)
def test_same_seed_same_tokens(dtype: str, kv_dtype: str, tiny_folder: Path, voice: Any) -> None:
    """At 1 and 2 threads, streamed in any chunks, batched with others, and in one go."""
    how = {"text": TEXT, "seed": 11, "voice": voice}
    one = Engine.from_pretrained(tiny_folder, dtype=dtype, kv_dtype=kv_dtype, threads=1)
    two = Engine.from_pretrained(tiny_folder, dtype=dtype, kv_dtype=kv_dtype, threads=2)
    expected = codes_of(one, **how)
    audio = one.tts(**how)
    assert len(expected) * 320 == len(audio.samples) and len(np.unique(expected)) > 4
    for engine in (one, two):
        for sizes in (None, [1], [13], [2000]):
            assert np.array_equal(codes_of(engine, chunk_frames=sizes, **how), expected)
    requests = [
        how,
        {"text": "Another one.", "seed": 5},
        {"text": TEXT, "seed": 12, "speed": 1.5, "voice": voice},
    ]
    for engine in (one, two):
        for request, batched in zip(requests, engine.generate_batch(requests), strict=True):
            alone = engine.tts(**request)
            assert batched.meta["frames"] == alone.meta["frames"]
            assert np.array_equal(batched.samples, alone.samples)
    assert not np.array_equal(codes_of(one, **{**how, "seed": 13})[:50], expected[:50])


FADED = 320  # samples


def test_stream_is_offline(real: Engine, voice: Any) -> None:
    audio = real.generate("tts", text=TEXT, seed=3, voice=voice)
    codes = codes_of(real, text=TEXT, seed=3, voice=voice)
    decoded = real.decode(codes.T).samples
    assert len(audio.samples) == len(decoded)  # the end is faded where it is loud
    assert close(audio.samples[:-FADED], decoded[:-FADED])
    assert (np.abs(audio.samples[-FADED:]) <= np.abs(decoded[-FADED:]) + 1e-6).all()
    for sizes in ([1], [5, 90], [100000]):
        chunks = list(real.stream("tts", text=TEXT, seed=3, voice=voice, chunk_frames=sizes))
        assert close(np.concatenate([c.samples for c in chunks]), audio.samples)
        assert sum(len(c.codes) for c in chunks) == len(codes)
    default = np.concatenate(
        [c.samples for c in real.stream("tts", text=TEXT, seed=3, voice=voice)]
    )
    assert np.array_equal(default, audio.samples)
    assert np.abs(audio.samples).max() <= 1.0 and np.isfinite(audio.samples).all()


def test_saved_and_restored_sessions_go_on_with_the_same_tokens(real: Engine) -> None:
    layout = real.layout
    prefix = voice_prefix(layout)
    how = {"seed": 4, "allowed": layout.audio_ranges(), "temperature": 0.9, "top_k": 12}
    straight = real.lm.session(64)
    straight.prefill(prefix)
    expected = straight.generate(30, real.lm.sampling(**how))
    session = real.lm.session(64)
    session.prefill(prefix)
    first = session.generate(11, real.lm.sampling(**how))
    saved, fork = session.save(), session.fork()
    other = real.lm.session(64)
    other.restore(saved)
    for again in (session, fork, other):
        assert np.array_equal(
            np.concatenate((first, again.generate(19, real.lm.sampling(**how)))), expected
        )
    by_api = real.lm.generate(prefix, 30, Sampling(temperature=0.9, top_k=12), seed=4)
    assert np.array_equal(by_api, expected)


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_logits_are_torch_s(real: Engine) -> None:
    import torch
    from uniaudio_training.models.lm import MultiScaleLM

    config = real.config.lm
    assert config is not None
    module = MultiScaleLM(config).eval()
    module.load_state_dict(
        {k: torch.from_numpy(v) for k, v in load_folder(real.model.folder.path).lm.items()}
    )
    rng = np.random.default_rng(0)
    sequence = tts_sequence(real.layout, [1, 2, 3], [4, 5, 6], rng.integers(0, 16, (15, 2)))
    with torch.no_grad():
        expected = module(
            torch.from_numpy(sequence.frames)[None].long(),
            torch.from_numpy(sequence.aligned)[None].long(),
        )
        exact = module.double()(
            torch.from_numpy(sequence.frames)[None].long(),
            torch.from_numpy(sequence.aligned)[None].long(),
        )
    # norms and rope tables stay float32 in the module: its own float32 error is the yardstick
    error = (expected - exact).abs().max().item()
    found = real.lm.logits(sequence.frames, sequence.aligned)
    assert np.abs(found - exact[0].numpy()).max() <= max(10 * error, 1e-5)


def test_greedy_is_the_argmax_of_the_logits(real: Engine) -> None:
    prefix = voice_prefix(real.layout)
    frames = real.lm.generate(prefix, 5, Sampling(temperature=0), seed=0)
    logits = real.lm.logits(np.concatenate((prefix, frames)))[len(prefix) :]
    for slot, ((start, size),) in enumerate(real.layout.audio_ranges()):
        best = start + logits[:, slot, start : start + size].argmax(-1)
        assert np.array_equal(best, frames[:, slot])


def test_one_engine_in_several_threads(real: Engine, voice: Any) -> None:
    alone = [codes_of(real, text="Hello there.", seed=s, voice=voice) for s in range(4)]
    found: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        found[seed] = codes_of(real, text="Hello there.", seed=seed, voice=voice)

    workers = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert all(np.array_equal(found[s], alone[s]) for s in range(4))


def test_cancel_from_another_thread(real: Engine) -> None:
    stream = real.stream("tts", text=TEXT * 100, seed=1, chunk_frames=[4, 1000])
    next(stream)
    timer = threading.Timer(0.02, stream.cancel)
    timer.start()
    for _ in stream:
        pass
    timer.join()
    assert stream.meta["cancelled"]


def test_bfloat16_weights_run(tmp_path: Path, real: Engine) -> None:
    from tiny import make_tiny_model

    half = Engine.from_pretrained(
        make_tiny_model(tmp_path / "half", dtype="bfloat16"), dtype="float32"
    )
    prefix = voice_prefix(real.layout)
    a, b = half.lm.logits(prefix), real.lm.logits(prefix)
    assert 0 < np.abs(a - b).max() < 0.2 * np.abs(b).max()


def test_an_isa_that_is_not_there_is_said(tiny_folder: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "UNIAUDIO_ISA": "abacus"}
    say = ["tts", "Hello.", "-m", str(tiny_folder), "-o", str(tmp_path / "a.wav")]
    for command, code in ((say, 2), (["doctor"], 1)):
        done = subprocess.run(
            [sys.executable, "-m", "uniaudio_engine", *command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code and "Traceback" not in done.stderr
        assert "abacus" in done.stdout + done.stderr and done.stderr.count("\n") == (code == 2)
    assert os.listdir(tmp_path) == []


def test_ctrl_c_stops_the_core(tiny_folder: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), *sys.path])
    say = ["tts", "Hello there. " * 3000, "-m", str(tiny_folder), "-o", str(tmp_path / "a.wav")]
    process = subprocess.Popen(
        [sys.executable, "-m", "uniaudio_engine", *say],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tiny_folder,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 120
    while not os.listdir(tmp_path):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"uniaudio: error: interrupted\n")
    assert os.listdir(tmp_path) == []
