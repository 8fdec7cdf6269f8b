"""``device="cuda"`` through the public engine, in a CPU emulator; and the errors without a device.

``cuda_host.py`` builds the emulator. UNIAUDIO_CUDA_TESTS=gpu runs the same tests on a GPU.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny import make_tiny_model, random_weights, tiny_config

import uniaudio_engine.backends.core
from uniaudio_engine import Engine
from uniaudio_engine.backends import cuda
from uniaudio_engine.backends.core import core
from uniaudio_engine.backends.token_lm import Sampling
from uniaudio_engine.cli.main import main
from uniaudio_engine.errors import InputError
from uniaudio_engine.storage.config import CodecConfig, SeanetConfig, to_dict
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes

pytestmark = pytest.mark.slow  # the emulator is compiled first, and emulates every thread

TEXT = "Hello. Yes."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("uniaudio_training", reason="the folder's caption tokenizer is trained")
    from joint import make_joint_model

    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")


def engines(folder: Path, **options: Any) -> tuple[Engine, Engine]:
    return tuple(
        Engine.from_pretrained(folder, device=d, threads=1, **options) for d in ("cpu", "cuda")
    )  # type: ignore[return-value]


def test_speech_is_the_cpus(host: Any, folder: Path) -> None:
    cpu, gpu = engines(folder, dtype="float32")
    for options in (
        {"seed": 3},
        {"seed": 4, "temperature": 0.0},
        {"seed": 5, "top_k": 5, "top_p": 0.8, "speed": 1.3},
    ):
        a, b = cpu.generate("tts", text=TEXT, **options), gpu.generate("tts", text=TEXT, **options)
        assert len(a.samples) > 4000
        np.testing.assert_allclose(
            a.samples, b.samples, atol=1e-5
        )  # the same tokens, decoded on the device
        assert (a.meta["device"], b.meta["device"]) == ("cpu", "cuda")


def test_streams_and_batches_are_the_one_shot_call(host: Any, folder: Path) -> None:
    gpu = Engine.from_pretrained(folder, device="cuda", dtype="int8", threads=1)
    assert gpu.info()["kv_dtype"] == "bfloat16" and gpu.info()["device"] == "cuda"
    requests = [{"text": TEXT, "seed": s} for s in range(2)]
    alone = [gpu.generate("tts", **r).samples for r in requests]
    with gpu.stream("tts", chunk_frames=(3, 5), **requests[0]) as stream:
        np.testing.assert_array_equal(np.concatenate([c.samples for c in stream]), alone[0])
    for a, b in zip(gpu.generate_batch(requests), alone, strict=True):
        np.testing.assert_allclose(a.samples, b, atol=1e-5)  # decoded in other chunks
    gpu.lm.core.set_batched_from(1)  # the batched path
    np.testing.assert_array_equal(gpu.generate("tts", **requests[0]).samples, alone[0])
    for a, b in zip(gpu.generate_batch(requests), alone, strict=True):
        np.testing.assert_allclose(a.samples, b, atol=1e-5)
    with pytest.raises(InputError, match="from: expected 1 or more, got 0"):
        gpu.lm.core.set_batched_from(0)


def test_the_lm_for_those_who_work_on_tokens(host: Any, folder: Path) -> None:
    cpu, gpu = engines(folder, dtype="float32")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, cpu.lm.config.vocab_size, (12, cpu.lm.config.num_codebooks)).astype(
        np.int32
    )
    np.testing.assert_allclose(gpu.lm.logits(frames), cpu.lm.logits(frames), atol=2e-4)
    for sampling in (Sampling(0.0), Sampling(0.8, 10, 0.9, 4, 1.2)):
        made = [e.lm.generate(frames, 30, sampling, seed=9) for e in (cpu, gpu)]
        np.testing.assert_array_equal(*made)
    assert gpu.lm.core.weight_bytes_per_frame > 0
    assert gpu.lm.core.memory_bytes(100) > 0
    assert gpu.lm.core.most_streams == 64


def test_sessions(host: Any, folder: Path) -> None:
    gpu = Engine.from_pretrained(folder, device="cuda", dtype="float32", threads=1)
    k = gpu.lm.config.num_codebooks
    sampling = gpu.lm.sampling(0.9, seed=1)
    session = gpu.lm.session(40)
    assert (session.frames, session.capacity, session.finished, session.frame_offset) == (
        0,
        40,
        False,
        0,
    )
    session.prefill(np.zeros((3, k), np.int32))
    fork = session.fork()
    a = session.generate(20, sampling)
    session.cancel()
    assert len(session.generate(5, sampling)) == 0  # and the request is used up
    assert len(session.generate(5, sampling)) == 5
    np.testing.assert_array_equal(fork.generate(20, sampling), a)
    fork.reset()
    fork.prefill(np.zeros((3, k), np.int32))
    np.testing.assert_array_equal(fork.generate(20, sampling), a)
    fork.reset()
    fork.frame_offset = 100
    fork.prefill(np.zeros((3, k), np.int32))
    assert not np.array_equal(fork.generate(20, sampling), a)
    with pytest.raises(InputError, match="at most 12 more frames"):
        session.generate(13, sampling)
    with pytest.raises(InputError, match="frames: expected shape"):
        session.prefill(np.zeros((3, k + 1), np.int32))
    with pytest.raises(InputError, match="expected an id from 0"):
        session.prefill(np.full((1, k), -1))


def test_continuous_inputs(host: Any) -> None:
    config = dataclasses.replace(tiny_config(10).lm, continuous={"text": 5})  # type: ignore[type-var]
    weights, text = random_weights(lm_shapes(config)), json.dumps(to_dict(config))
    gpu, cpu = host.LM(text, weights), core().LM(text, weights)
    rng = np.random.default_rng(2)
    frames = rng.integers(0, config.vocab_size, (9, config.num_codebooks)).astype(np.int32)
    aligned = rng.integers(-1, config.aligned_vocab, (9, config.aligned_slots)).astype(np.int32)
    values = {
        "text": (rng.standard_normal((3, 5)).astype(np.float32), np.array([1, 4, 8], np.int32))
    }
    made = []
    for lm in (cpu, gpu):
        session = lm.session(60)
        session.prefill(frames, aligned, values)
        made.append(session.generate(40, core().Sampling(seed=3)))
    np.testing.assert_array_equal(*made)
    with pytest.raises(InputError, match="given twice"):
        gpu.session(20).prefill(frames, None, {"text": (values["text"][0], np.array([1, 1, 8]))})


def test_decoding(host: Any, folder: Path) -> None:
    cpu, gpu = engines(folder)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (3, 40)).astype(np.int32)
    np.testing.assert_allclose(gpu.decode(codes).samples, cpu.decode(codes).samples, atol=1e-5)
    stream = gpu.codec.decoder_stream()
    parts = [stream.push(codes[:, :7])]
    fork = stream.fork()
    for s in (stream, fork):
        whole = np.concatenate([*parts, s.push(codes[:, 7:8]), s.push(codes[:, 8:]), s.flush()])
        np.testing.assert_array_equal(whole, gpu.codec.decode(codes))
    with pytest.raises(InputError, match="expected 0 to 15, got 16"):
        stream.push(np.full((3, 1), 16))
    with pytest.raises(InputError, match="codes: expected integers"):
        stream.push(np.zeros((4, 1), np.int32))


def test_encoding(host: Any, joint: Path) -> None:
    """Codes and units of sound: the CPU's but for sums in another order, which a random model's
    close codewords show more than a trained one's.
    """
    cpu, gpu = engines(joint)
    rng = np.random.default_rng(3)
    sound = (0.2 * rng.standard_normal(16000 + 77)).astype(np.float32)
    for ours, theirs in (
        (gpu.encode((sound, 16000)), cpu.encode((sound, 16000))),
        (gpu.semantic((sound, 16000)), cpu.semantic((sound, 16000))),
    ):
        assert ours.shape == theirs.shape and np.mean(np.asarray(ours) == np.asarray(theirs)) > 0.98
    stream, parts = gpu.codec.encoder_stream(3), []
    for at in range(0, 16000, 700):
        parts.append(stream.push(sound[at : at + 700]))
        if at == 7000:
            fork, early = stream.fork(), list(parts)
        elif at > 7000:
            early.append(fork.push(sound[at : at + 700]))
    whole = gpu.codec.encode(sound[:16100], 3)
    for s, p in ((stream, parts), (fork, early)):
        np.testing.assert_array_equal(np.concatenate([*p, s.flush()], 1), whole)
    units = gpu.semantic_stream()
    np.testing.assert_array_equal(
        np.concatenate([units.push(sound[:5000]), units.push(sound[5000:]), units.flush()]),
        gpu.semantic((sound, 16000)),
    )
    for wrong, why in (
        (np.full(400, np.nan), "finite"),
        (np.zeros((2, 400)), r"expected float32 \[N\] or \[1, N\]"),
    ):
        with pytest.raises(InputError, match=why):
            stream.push(wrong)
    with pytest.raises(InputError, match="num_codebooks: expected 0 to 8, got 9"):
        gpu.codec.encoder_stream(9)


@pytest.mark.parametrize(
    "changes", [{}, {"causal": True, "pad_mode": "zero", "residual_layers": 2}]
)
def test_a_seanet_codec(host: Any, changes: dict[str, Any]) -> None:
    """Of EnCodec's kind, whose layers look ahead where they are not causal: a flush gives more than
    was pushed last.
    """
    config = CodecConfig(
        "seanet",
        num_codebooks=3,
        codebook_size=16,
        codebook_dim=8,
        frame_size=16,
        seanet=SeanetConfig(filters=4, ratios=(4, 4), lstm_layers=1, **changes),
    )
    weights, text = random_weights(codec_shapes(config)), json.dumps(to_dict(config))
    gpu, cpu = host.Codec(text, weights), core().Codec(text, weights, 1)
    for name in ("encoder_lookahead", "decoder_lookahead", "sample_rate", "frame_size"):
        assert getattr(gpu, name) == getattr(cpu, name)
    stereo = dataclasses.replace(config, seanet=SeanetConfig(channels=2))
    assert cuda.fits(config) and not cuda.fits(stereo)
    x = np.random.default_rng(0).standard_normal(16 * 40 + 3).astype(np.float32)
    codes = cpu.encode(x, 0)
    assert np.mean(gpu.encode(x) == codes) > 0.98 and gpu.encode(x).shape == codes.shape
    encoder, decoder = gpu.encoder_stream(), gpu.decoder_stream()
    parts = [encoder.push(x[at : at + 21]) for at in range(0, len(x), 21)]
    np.testing.assert_array_equal(np.concatenate([*parts, encoder.flush()], 1), gpu.encode(x))
    sound = cpu.decode(codes)
    np.testing.assert_allclose(gpu.decode(codes), np.ravel(sound), atol=1e-5 * np.abs(sound).max())
    heard = [decoder.push(codes[:, t : t + 1]) for t in range(codes.shape[1])]
    np.testing.assert_allclose(
        np.concatenate([*heard, decoder.flush()]), np.ravel(sound), atol=1e-5 * np.abs(sound).max()
    )


def counted_deleter(capsule: Any) -> list[int]:
    """Gets an entry when the DLManagedTensor in the capsule is deleted."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    place = ctypes.c_void_p.from_address(get(capsule, b"dltensor") + 56)  # tensor 48, context 8
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    original, released = kind(place.value), []

    @kind
    def deleter(tensor: int) -> None:
        released.append(tensor)
        original(tensor)

    _KEPT.append(deleter)
    place.value = ctypes.cast(deleter, ctypes.c_void_p).value
    return released


_KEPT: list[Any] = []  # callbacks that C calls when it likes


def test_results_stay_on_the_device(host: Any, folder: Path) -> None:
    """DLPack lends the memory itself, for as long as anybody holds it; a capsule that nobody takes
    gives its share back.
    """
    gpu = Engine.from_pretrained(folder, device="cuda", dtype="float32", threads=1)
    codes = np.random.default_rng(0).integers(0, 16, (3, 30)).astype(np.int32)
    pcm = gpu.codec.decode_array(codes)
    assert pcm.dtype == np.float32 and len(pcm) == 30 * gpu.codec.frame_size
    np.testing.assert_array_equal(pcm.numpy(), gpu.codec.decode(codes))
    session = gpu.lm.session(40)
    session.prefill(np.zeros((3, gpu.lm.config.num_codebooks), np.int32))
    made = session.generate(10, gpu.lm.sampling(0.9, seed=1))
    known = session.known(3, 10)
    np.testing.assert_array_equal(known.numpy(), made)
    for first, count in ((0, 14), (-1, 2), (13, 1), (4, -1)):
        with pytest.raises(InputError, match="expected some of the 13 known ones"):
            session.known(first, count)
    device = pcm.__dlpack_device__()
    if device[0] == 1:  # the CPU plays the device: NumPy may look
        seen = np.from_dlpack(pcm)
        np.testing.assert_array_equal(seen, pcm.numpy())
        codes_seen = np.from_dlpack(known)
        assert codes_seen.dtype == np.int32 and not seen.flags.writeable
        expected = pcm.numpy()
        del pcm, known, session
        gc.collect()
        np.testing.assert_array_equal(seen, expected)
        np.testing.assert_array_equal(codes_seen, made)
    array = gpu.codec.decode_array(codes)
    released = counted_deleter(array.__dlpack__(stream=-1))  # a capsule that nobody takes
    gc.collect()
    assert len(released) == 1
    with pytest.raises(BufferError, match="lent where it lies"):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="lent where it lies"):
        array.__dlpack__(dl_device=(device[0] + 1, 0))
    torch = pytest.importorskip("torch")
    if device[0] == 1 or torch.cuda.is_available():
        assert torch.equal(torch.from_dlpack(array).cpu(), torch.from_numpy(array.numpy()))


def test_every_task_and_guidance(host: Any, joint: Path) -> None:
    """The same tokens from the same sources; the two sequences of a guided task share a launch,
    alone and in batches.
    """
    cpu, gpu = engines(joint, dtype="float32")
    for options in (
        {"seed": 1, "seconds": 0.5},
        {"seed": 2, "seconds": 0.4, "guidance": 1.0},
        {"seed": 3, "seconds": 0.3, "guidance": 4.0, "temperature": 0.0},
    ):
        a, b = (e.generate("t2s", text="a low bell", **options) for e in (cpu, gpu))
        np.testing.assert_allclose(a.samples, b.samples, atol=1e-5)
    requests = [
        {"text": t, "seconds": 0.4, "seed": i, "guidance": 1.0 + i}
        for i, t in enumerate(["a bell", "three knocks", "a low voice"])
    ]
    for made, request in zip(gpu.generate_batch(requests, task="t2s"), requests, strict=True):
        np.testing.assert_allclose(made.samples, gpu.generate("t2s", **request).samples, atol=1e-5)
    source = (0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32), 16000)
    answer = gpu.generate("se", source=source, seed=1)
    assert len(answer.samples) == 8000 and np.isfinite(answer.samples).all()
    with pytest.raises(InputError, match="another session"):
        s = gpu.lm.session(20)
        s.set_guidance(s, 2.0)


def test_the_quantizers_codes_are_the_cpus(host: Any, folder: Path) -> None:
    books = np.asarray(load_folder(folder).codec["quantizer.codebooks"], np.float32)
    rvq = host.ResidualVQ(books)
    z = np.random.default_rng(1).standard_normal((50, books.shape[2])).astype(np.float32)
    codes = rvq.encode(z)
    rest = z.copy()
    for s, book in enumerate(books):
        distance = ((rest[:, None, :].astype(np.float64) - book[None].astype(np.float64)) ** 2).sum(
            -1
        )
        np.testing.assert_array_equal(codes[:, s], distance.argmin(1))
        rest -= book[codes[:, s]]
    np.testing.assert_allclose(rvq.decode(codes), z - rest, atol=1e-5)


def test_what_it_refuses(host: Any, host_file: Path, folder: Path, tmp_path: Path) -> None:
    def refused(why: str, **options: Any) -> None:
        with pytest.raises(InputError, match=why) as e:
            Engine.from_pretrained(folder, **options)
        assert "\n" not in str(e.value)

    refused("expected auto, cpu, cuda or cuda:N", device="gpu")
    refused("expected auto, cpu, cuda or cuda:N", device="cuda:x")
    refused("expected a device from 0 to [0-9]+, got 300", device="cuda:300")
    refused("int4", device="cuda", dtype="int4")
    refused("kv_dtype", device="cuda", kv_dtype="int8")
    # The emulator is never taken for a GPU, nor is any other file.
    with pytest.raises(InputError, match="expected a module for cuda, got one for host"):
        cuda.load(host_file)
    other = tmp_path / "other.so"
    other.write_bytes(b"no module")
    with pytest.raises(InputError, match="expected the engine's CUDA module"):
        cuda.load(other)
    with pytest.raises(InputError, match="no CUDA module"):
        cuda.load(tmp_path / "none.so")


def test_modules_of_two_builds_are_refused(
    host_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They pass each other C++ objects."""
    old = SimpleNamespace(sampling_layout="another")
    monkeypatch.setattr(uniaudio_engine.backends.core, "_module", old)
    with pytest.raises(InputError, match="of the same build as the compiled core"):
        cuda.load(host_file, "host")


def test_without_a_device_there_is_one_line_and_no_fallback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "_module", None)
    status = cuda.status()
    if not status.startswith("not used: "):
        pytest.skip(f"a GPU is here: {status}")
    with pytest.raises(
        InputError, match="use device cpu|update the driver|CUDA_VISIBLE_DEVICES"
    ) as e:
        Engine.from_pretrained(folder, device="cuda")
    assert "\n" not in str(e.value)
    assert main(["tts", "Hello.", "-m", str(folder), "--device", "cuda", "-o", "-"]) == 2
    assert main(["doctor", "-m", str(folder)]) == 0
    assert any(
        line.startswith("gpu ") and "not used" in line
        for line in capsys.readouterr().out.splitlines()
    )


@pytest.mark.skipif(
    not cuda.MODULE.exists() or not sys.platform.startswith("linux"),
    reason="no CUDA module was built here",
)
def test_the_module_stands_alone() -> None:
    """It needs neither torch nor cuBLAS, nor the driver before it is asked."""
    out = subprocess.run(
        ["readelf", "-d", "-W", str(cuda.MODULE)], capture_output=True, text=True, check=True
    ).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", out)
    fine = ("c", "m", "stdc++", "gcc_s", "pthread", "dl", "rt")
    allowed = (*(f"lib{name}." for name in fine), "ld-linux")
    assert needed and all(n.startswith(allowed) for n in needed), needed
    names = subprocess.run(
        ["nm", "-D", "--defined-only", str(cuda.MODULE)], capture_output=True, text=True, check=True
    ).stdout
    exported = [line.split()[-1] for line in names.splitlines() if " T " in line]
    assert exported == ["PyInit__cuda"]
