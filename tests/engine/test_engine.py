"""The engine's own rules, on the fake core: plans, chunks, seeds, cancelling, and rejected input."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import fake_core
import numpy as np
import pytest
from sequences import tts_sequence, voice_prefix
from sounds import codes_of, tone
from tiny import make_tiny_model, tiny_config

from uniaudio_engine import Audio, Engine, InputError, Sampling
from uniaudio_engine.model import Model
from uniaudio_engine.request import sequence as seq
from uniaudio_engine.request.batch import run_together
from uniaudio_engine.request.plan import piece_seed, split_phones
from uniaudio_engine.request.tasks import Input, Task

TEXT = "Hello there. This is a second sentence, and it is longer."


def test_generate_is_the_stream(engine: Engine) -> None:
    audio = engine.generate("tts", text=TEXT, seed=5)
    for sizes in (None, [1], [7], [3, 1000], [1000]):
        chunks = list(engine.stream("tts", text=TEXT, seed=5, chunk_frames=sizes))
        assert np.array_equal(np.concatenate([c.samples for c in chunks]), audio.samples)
        assert [c.last for c in chunks] == [False] * (len(chunks) - 1) + [True]
        ends = np.cumsum([0] + [len(c.samples) for c in chunks])
        assert [c.start for c in chunks] == ends[:-1].tolist()
        assert all(c.sample_rate == audio.sample_rate == 16000 for c in chunks)
    assert len(audio.samples) == audio.meta["frames"] * 320
    assert audio.meta["sentences"] == 2


def test_the_first_chunk_is_small(engine: Engine) -> None:
    sizes = [len(c.codes) for c in engine.stream("tts", text="Hello.", seed=1)]
    assert sizes[:4] == [4, 8, 16, 32] and sizes[-1] == 0 and max(sizes) == 50


def test_the_model_hears_the_trainer_s_sequence(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[fake_core.LMSession] = []
    original = Model.fork_prefix

    def kept(self: Model, shared: seq.Ids) -> Any:
        sessions.append(original(self, shared))
        return sessions[-1]

    monkeypatch.setattr(Model, "fork_prefix", kept)
    voice = engine.encode_voice(tone(1.0))
    for speed in (1.0, 1.6):
        sessions.clear()
        codes = codes_of(engine, phones="pau hh ax0 l ow1 pau", voice=voice, seed=3, speed=speed)
        (session,) = [s for s in sessions if s.frames > 100]
        phones = [
            engine.model.label_ids("phone")[p] for p in ("pau", "hh", "ax0", "l", "ow1", "pau")
        ]
        first = len(voice.codes[0]) + 4 + 6 + 3
        durations = seq.token_durations(engine.layout, session.log[first : first + 6])
        expected = tts_sequence(engine.layout, phones, durations, codes, voice.codes[:2].T)
        assert np.array_equal(session.log, expected.frames)
        assert np.array_equal(session.aligned, expected.aligned)


def test_speed_changes_the_length(engine: Engine) -> None:
    slow, plain, fast = (engine.tts(TEXT, seed=2, speed=s).seconds for s in (0.5, 1.0, 2.0))
    assert slow == pytest.approx(2 * plain, rel=0.03) and fast == pytest.approx(plain / 2, rel=0.03)


def test_seeds(engine: Engine) -> None:
    one = engine.tts(TEXT)
    assert isinstance(one.meta["seed"], int)
    assert np.array_equal(engine.tts(TEXT, seed=one.meta["seed"]).samples, one.samples)
    assert not np.array_equal(
        engine.tts(TEXT, seed=one.meta["seed"] + 1).samples[:5000], one.samples[:5000]
    )
    assert len({piece_seed(7, i) for i in range(1000)}) == 1000
    assert piece_seed(7, 0) == 7 and all(
        0 <= piece_seed(s, 3) < 1 << 63 for s in (0, (1 << 63) - 1)
    )


def test_sentences_of_one_text_differ(engine: Engine) -> None:
    codes = codes_of(engine, phones="pau hh\npau hh", seed=4)
    plan = engine.plan("tts", phones="pau hh", seed=4)
    first = run_together(engine.scheduler, [plan])[0][0][1][0]
    assert np.array_equal(codes[: len(first)], engine.layout.frames_to_codes(first))
    assert not np.array_equal(codes[len(first) : 2 * len(first)], codes[: len(first)])


def test_batched_is_alone(engine: Engine) -> None:
    requests = [
        {"text": TEXT, "seed": s, "speed": v}
        for s, v in ((1, 1.0), (2, 1.3), (3, 0.7), (4, 1.0), (5, 1.0))
    ]
    together = engine.generate_batch(requests)
    for request, audio in zip(requests, together, strict=True):
        assert np.array_equal(audio.samples, engine.tts(**request).samples)
        assert audio.meta["seed"] == request["seed"] and audio.meta["batch"] == 5


def test_a_voice_is_prefilled_once(engine: Engine) -> None:
    voice = engine.encode_voice(tone(3.0))
    engine.tts(TEXT, voice=voice, seed=1)
    before = engine.lm.core.prefilled
    engine.tts(TEXT, voice=voice, seed=2)
    assert engine.lm.core.prefilled - before < 150


def test_long_sentences_are_cut_to_fit(fake: None, tiny_folder: Path) -> None:
    engine = Engine.from_pretrained(tiny_folder, max_seconds=4)
    assert engine.capacity < 600
    audio = engine.tts(
        "This sentence goes on and on, and then on, until it cannot fit into a few seconds.", seed=1
    )
    assert audio.meta["sentences"] == 1 and audio.seconds > 20
    batched = engine.generate_batch([{"text": audio.meta["text"], "seed": 1}])[0]
    assert np.array_equal(batched.samples, audio.samples)


def test_split_phones_prefers_pauses() -> None:
    phones = np.array([1, 2, 3, 0, 4, 5, 6, 7, 8, 9], np.int32)
    assert [p.tolist() for p in split_phones(phones, 6, 0)] == [[1, 2, 3, 0], [4, 5, 6, 7, 8, 9]]
    assert [len(p) for p in split_phones(phones[4:], 3, 0)] == [3, 3]
    assert [len(p) for p in split_phones(phones[4:], 0, 0)] == [1] * 6


def test_cancel_from_another_thread(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_core, "FRAME_SECONDS", 0.005)
    stream = engine.stream("tts", text=TEXT * 20, seed=1)
    next(stream)
    threading.Timer(0.05, stream.cancel).start()
    frames = sum(len(c.codes) for c in stream)
    assert stream.meta["cancelled"] and stream.cancelled
    assert frames < 100
    assert next(stream, None) is None


def test_cancel_before_the_start(engine: Engine) -> None:
    stream = engine.stream("tts", text=TEXT, seed=1)
    stream.cancel()
    assert list(stream) == []


def test_closing_frees_the_sessions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    original = Model.fork_prefix

    def seen(self: Model, shared: seq.Ids) -> Any:
        session = original(self, shared)
        made.append(weakref.ref(session))
        return session

    monkeypatch.setattr(Model, "fork_prefix", seen)
    with engine.stream("tts", text=TEXT, seed=1) as stream:
        next(stream)
        assert made[-1]() is not None
    assert next(stream, None) is None
    gc.collect()
    assert made[-1]() is None


def test_several_threads(engine: Engine) -> None:
    alone = [engine.tts(TEXT, seed=s).samples for s in range(6)]
    found: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        found[seed] = engine.tts(TEXT, seed=seed).samples

    workers = [threading.Thread(target=work, args=(s,)) for s in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert all(np.array_equal(found[s], alone[s]) for s in range(6))


def test_phones_may_be_given(engine: Engine) -> None:
    codes = codes_of(engine, text="Hello.", seed=9)
    from uniaudio_engine.text import phonemize

    phones = phonemize("Hello.")[0].phones
    assert np.array_equal(codes_of(engine, phones=" ".join(phones), seed=9), codes)
    assert np.array_equal(codes_of(engine, phones=phones, seed=9), codes)


def test_meta_says_how_it_was_made(engine: Engine) -> None:
    meta = engine.tts(
        "Hello.", seed=1, prompt=(np.tile(tone(0.2).samples[:, None], (20, 2)), 48000)
    ).meta
    assert meta["notes"] == ["2 channels mixed down to mono", "resampled from 48000 Hz to 16000 Hz"]
    for key in (
        "task",
        "model",
        "seed",
        "temperature",
        "voice",
        "first_chunk_ms",
        "realtime_factor",
        "isa",
        "dtype",
    ):
        assert key in meta


# What is refused: (arguments, words of the message)

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "text is missing"),
    "empty": ({"text": ""}, "text: expected words"),
    "blank": ({"text": " \n\t "}, "text: expected words"),
    "symbols": ({"text": "*** !!! ---"}, "text: expected text with letters or digits"),
    "not text": ({"text": 7}, "text: expected a string, got int"),
    "bytes": ({"text": b"hello"}, "text: expected a string"),
    "both": ({"text": "a", "phones": "hh"}, "either text or phones"),
    "no phones": ({"phones": " "}, "expected phones"),
    "bad phone": ({"phones": "hh qq"}, "'qq'"),
    "phones type": ({"phones": 3}, "phones: expected phones"),
    "unknown input": ({"text": "a", "txt": "b"}, "unknown input txt"),
    "two voices": ({"text": "a", "voice": "x", "prompt": "y"}, "either voice or prompt"),
    "no such voice": ({"text": "a", "voice": "anna"}, "neither a voice nor a file 'anna'"),
    "no such file": ({"text": "a", "prompt": "none.wav"}, "none.wav"),
    "no such voice file": ({"text": "a", "voice": "none.safetensors"}, "none.safetensors"),
    "short prompt": ({"text": "a", "prompt": tone(0.2)}, "at least 0.5 s"),
    "silent prompt": ({"text": "a", "prompt": (np.zeros(30000), 16000)}, "not silent"),
    "seed": (
        {"text": "a", "seed": -1},
        "seed: expected a whole number from 0 to 9223372036854775807, got -1",
    ),
    "large seed": ({"text": "a", "seed": 1 << 63}, "seed: expected"),
    "seed type": ({"text": "a", "seed": 1.5}, "seed: expected a whole number"),
    "seed bool": ({"text": "a", "seed": True}, "seed: expected a whole number"),
    "temperature": (
        {"text": "a", "temperature": -0.1},
        "temperature: expected a number from 0 to 5, got -0.1",
    ),
    "temperature nan": ({"text": "a", "temperature": float("nan")}, "temperature: expected"),
    "temperature type": ({"text": "a", "temperature": "hot"}, "temperature: expected a number"),
    "top_k": ({"text": "a", "top_k": -1}, "top_k: expected"),
    "top_p": ({"text": "a", "top_p": 0}, "top_p: expected"),
    "top_p high": ({"text": "a", "top_p": 1.01}, "top_p: expected"),
    "penalty": ({"text": "a", "repetition_penalty": 0.5}, "repetition_penalty: expected"),
    "speed": ({"text": "a", "speed": 0}, "speed: expected a number from 0.25 to 4, got 0"),
    "speed infinite": ({"text": "a", "speed": float("inf")}, "speed: expected"),
    "chunks": ({"text": "a", "chunk_frames": [0]}, "chunk_frames: expected"),
    "no chunks": ({"text": "a", "chunk_frames": []}, "chunk_frames: expected"),
    "one number": ({"text": "a", "chunk_frames": 3}, "chunk_frames: expected whole numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_one_line_before_any_work(case: str, engine: Engine) -> None:
    given, words = REFUSED[case]
    with pytest.raises((InputError, ValueError)) as e:
        engine.stream("tts", **given)
    assert words in str(e.value) and "\n" not in str(e.value)
    assert engine.lm.core.prefilled == 0


@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "held"),
    [
        ("auto", "auto", "int8"),
        ("float32", "auto", "float32"),
        ("float32", "int8", "int8"),
        ("int8", "bfloat16", "bfloat16"),
    ],
)
def test_keys_and_values_are_held_as_asked(
    dtype: str, kv_dtype: str, held: str, fake: None, tiny_folder: Path
) -> None:
    engine = Engine.from_pretrained(tiny_folder, dtype=dtype, kv_dtype=kv_dtype)
    assert (
        engine.lm.core.kv_dtype
        == engine.info()["kv_dtype"]
        == engine.tts("Hello.", seed=1).meta["kv_dtype"]
        == held
    )


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"device": "gpu"}, "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"dtype": "int3"}, "dtype: expected"),
        ({"dtype": "int8,local=int5"}, "dtype: expected"),
        ({"kv_dtype": "int4"}, "kv_dtype: expected auto, float32, bfloat16, int8, got 'int4'"),
        ({"backend": "tflite"}, "backend: expected native or onnx or tensorrt, got 'tflite'"),
        ({"backend": "onnx"}, "expected a folder of graphs"),
        ({"threads": 0}, "threads: expected"),
        ({"threads": 1.5}, "threads: expected"),
        ({"max_seconds": 0}, "max_seconds: expected"),
        ({"max_seconds": float("nan")}, "max_seconds: expected"),
        ({"path": "someone/their-model"}, "someone/their-model: "),
    ],
)
def test_what_is_not_there_is_said(
    how: dict[str, Any], words: str, fake: None, tiny_folder: Path
) -> None:
    with pytest.raises(InputError) as e:
        Engine.from_pretrained(**{"path": tiny_folder, **how})
    assert words in str(e.value) and "\n" not in str(e.value)


def test_unknown_tasks(engine: Engine) -> None:
    with pytest.raises(InputError, match="not trained for 'dance'; it does tts"):
        engine.generate("dance")


# Voices and codes


def test_codes_there_and_back(engine: Engine) -> None:
    codes = engine.encode(tone(1.0))
    assert codes.shape == (3, 50) and engine.encode(tone(1.0), 2).shape == (2, 50)
    audio = engine.decode(codes)
    assert isinstance(audio, Audio) and len(audio.samples) == 16000
    for bad in (
        codes[0],
        codes + 16,
        codes - 99,
        codes.astype(float),
        np.zeros((4, 5), int),
        np.zeros((0, 5), int),
    ):
        with pytest.raises(InputError, match="codes: expected"):
            engine.decode(bad)
    with pytest.raises(InputError, match="num_codebooks"):
        engine.encode(tone(1.0), 4)


# Tokens


def test_token_api(engine: Engine) -> None:
    lm = engine.lm
    prefix = voice_prefix(engine.layout)
    assert lm.logits(prefix).shape == (4, 2, engine.config.lm.vocab_size)  # type: ignore[union-attr]
    frames = lm.generate(prefix, 6, Sampling(temperature=0.5), seed=1)
    assert frames.shape == (6, 2)
    engine.layout.frames_to_codes(frames)
    other = lm.generate(prefix, 5, seed=1, allowed=[[(3, 2)], [(5, 1)]])
    assert set(other[:, 0]) <= {3, 4} and set(other[:, 1]) == {5}


@pytest.mark.parametrize(
    "call",
    [
        lambda lm, p: lm.generate(p, 0),
        lambda lm, p: lm.generate(p, 1021),
        lambda lm, p: lm.generate(p, 1 << 40),
        lambda lm, p: lm.generate(p[:0], 3),
        lambda lm, p: lm.generate(p[:, :1], 3),
        lambda lm, p: lm.generate(p + 10000, 3),
        lambda lm, p: lm.generate(p - 10000, 3),
        lambda lm, p: lm.generate(p * 0.5, 3),
        lambda lm, p: lm.generate(p, 3, seed=-1),
        lambda lm, p: lm.generate(p, 3, Sampling(top_p=2.0)),
        lambda lm, p: lm.generate(p, 3, Sampling(temperature=-1)),
        lambda lm, p: lm.generate(p, 3, aligned=np.zeros((6, 4), int)),
        lambda lm, p: lm.generate(p, 3, aligned=np.full((7, 4), 9999)),
        lambda lm, p: lm.logits(np.zeros((2000, 2), int)),
        lambda lm, p: lm.logits([1, 2]),
    ],
)
def test_token_api_refuses(call: Any, engine: Engine) -> None:
    with pytest.raises(InputError, match="expected"):
        call(engine.lm, voice_prefix(engine.layout))


# Tasks are data


def test_schema(engine: Engine) -> None:
    (tts,) = engine.tasks()
    names = ["prompt", "text", "phones", "markup", "lexicon", "flush_after"]
    assert [i["name"] for i in tts["inputs"]] == names
    assert [i["name"] for i in tts["inputs"] if i["required"]] == ["text"]
    assert {"seed", "temperature", "speed"} <= {o["name"] for o in tts["options"]}
    assert tts["target"] == "audio" and tts["length"] == "durations"


@pytest.fixture
def more_tasks(fake: None, tmp_path: Path) -> Engine:
    """A model of two more tasks, each of which is nothing but an entry."""
    source = Input("source", "audio", "audio_source", "the sound to clean", max_seconds=2.0)
    tasks = (
        Task("se", "clean", (source,), "source", "uniaudio se"),
        Task("hum", "hum", (), "seconds", "uniaudio hum"),
    )
    config = tiny_config(4)
    vocabulary = seq.make_vocabulary(2, 16, 4, ("tts", "se", "hum"), ("audio_source",))
    config = dataclasses.replace(config, vocabulary=vocabulary, tasks=tasks)
    folder = make_tiny_model(tmp_path / "m", ["pau", "a", "b", "c"])
    (folder / "config.json").write_text(config.to_json())
    return Engine.from_pretrained(folder)


def test_a_task_is_an_entry(more_tasks: Engine) -> None:
    assert [t["name"] for t in more_tasks.tasks()] == ["se", "hum"]
    cleaned = more_tasks.generate("se", source=tone(1.0), seed=1)
    assert cleaned.seconds == 1.0
    assert more_tasks.generate("se", source=tone(9.0), seed=1).seconds == 2.0
    assert more_tasks.generate("hum", seconds=0.5, seed=1).seconds == 0.5
    with pytest.raises(InputError, match="input source is missing"):
        more_tasks.generate("se")
    with pytest.raises(InputError, match="not trained for 'tts'; it does se, hum"):
        more_tasks.tts("Hello.")
    with pytest.raises(InputError, match="expected up to"):
        more_tasks.generate("hum", seconds=29.0)


def test_a_codec_without_a_language_model(fake: None, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m", ["pau"])
    config = dataclasses.replace(tiny_config(1), lm=None, vocabulary=None, tasks=())
    (folder / "config.json").write_text(config.to_json())
    (folder / "lm.safetensors").unlink()
    engine = Engine.from_pretrained(folder)
    assert engine.tasks() == [] and engine.encode(tone(1.0)).shape == (3, 50)
    assert engine.encode_voice(tone(1.0)).codes.shape == (3, 50)
    assert engine.info()["parameters"] > 0
    with pytest.raises(InputError, match="it does no task"):
        engine.tts("Hello.")
    with pytest.raises(InputError, match="without a language model"):
        engine.lm.logits([[0, 0]])
