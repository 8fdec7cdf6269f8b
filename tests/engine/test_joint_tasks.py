"""The eleven tasks of a joint model: the engine's sequences equal those of the trainer, and the
sound is finished as the task requires.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_core
import numpy as np
import pytest
from joint import make_joint_model
from sounds import tone
from uniaudio_training.lm.items import Item

from uniaudio_engine import Audio, Engine, InputError
from uniaudio_engine.request import aligned as aligned_rows
from uniaudio_engine.request.sequence import token_durations
from uniaudio_engine.request.sequence_builder import Spoken, Sung
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.request.tasks import ALIGNED_CODEBOOKS
from uniaudio_engine.score.reading import lay_out, read_score

SCORE = "C4 1 hello\nE4 1 -\nR 0.5\nG4 1 you\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")


@pytest.fixture
def engine(fake: None, folder: Path) -> Engine:
    return Engine.from_pretrained(folder)


@pytest.fixture(scope="module")
def real_one(folder: Path) -> Engine:
    return Engine.from_pretrained(folder, dtype="float32", threads=2)


VOICE = tone(1.0, hertz=330.0)
REQUESTS: dict[str, dict[str, Any]] = {
    "tts": {"phones": "pau hh ax0 l ow1 pau", "prompt": VOICE},
    "vc": {"source": tone(0.7), "prompt": VOICE},
    "se": {"source": tone(0.7)},
    "tse": {"source": tone(0.7), "prompt": VOICE},
    "svs": {"score": SCORE, "prompt": VOICE},
    "t2s": {"text": "Three knocks on wood.", "seconds": 0.5},
    "t2m": {"text": "slow piano", "seconds": 0.5},
    "a_edit": {"instruction": "add a bell", "source": tone(1.0), "span": "0.3:0.62"},
    "sd": {"source": tone(0.7)},
    "i_tts": {"instruction": "a low voice", "phones": "pau hh ax0 l ow1 pau"},
    "s_edit": {"source": tone(2.0), "span": (1.1, 1.4), "phones": "w ah1 n"},
}


def trained(e: Engine, task: str, log: np.ndarray) -> tuple[Item, np.ndarray | None]:
    """The trainer's item of a request, its target being what the engine made, and its voice prompt."""
    layout, given = e.layout, REQUESTS[task]
    begin = int(np.flatnonzero(log[:, 0] == layout.vocabulary.special("audio_start"))[-1]) + 1
    codes = layout.frames_to_codes(log[begin:])
    inputs: dict[str, Any] = {}
    prompt = e.encode(VOICE).T if "prompt" in given else None
    if task in ("tts", "i_tts", "s_edit"):
        first = (
            int(np.flatnonzero(log[:, 0] == layout.vocabulary.special("duration_start"))[-1]) + 1
        )
        phones = [e.model.label_ids("phone")[p] for p in given["phones"].split()]
        inputs["text"] = Spoken(
            np.array(phones), token_durations(layout, log[first : first + len(phones)])
        )
    if task in ("se", "tse", "sd", "a_edit"):
        inputs["source"] = e.encode(given["source"]).T[: len(codes)]
        if task != "a_edit":
            inputs["source, units"] = e.semantic(given["source"])
    if task == "a_edit":  # the rows look ahead into the source beyond what is made
        inputs["span"] = (15, 31)
    if task == "vc":
        inputs["source"] = e.semantic(given["source"])
    if task == "svs":
        song = lay_out(read_score(SCORE), 50.0)
        phones = [e.model.label_ids("phone")[p] for p in song.phones]
        inputs["score"] = Sung(
            *(np.array(v) for v in (phones, song.durations, song.pitches, song.note_frames))
        )
    if task == "s_edit":
        prompt = aligned_rows.edit_context(e.encode(given["source"]).T, 55, 70)
    for name in ("text", "instruction"):
        if name in given and task != "tts":
            inputs[name] = e.model.captions.encode(given[name])
    return Item(TASKS[task], codes, inputs), prompt


@pytest.mark.parametrize("task", TASKS)
def test_the_engine_lays_out_what_the_trainer_trains(
    task: str, engine: Engine, sessions: list[fake_core.LMSession]
) -> None:
    # One sequence, and no filter that makes the result alone.
    values = {"guidance": 1, "postfilter": 0}
    own = {o.name: values[o.name] for o in TASKS[task].options if o.name in values}
    engine.generate(task, seed=3, **REQUESTS[task], **own)
    (session,) = sessions
    item, prompt = trained(engine, task, session.log)
    expected = item.sequence(engine.layout, prompt).complete(item.codes)
    assert np.array_equal(session.log, expected.frames)
    aligned = expected.aligned.copy()
    if task == "a_edit":  # the trainer's source ends where this one goes on
        for k in range(ALIGNED_CODEBOOKS["ahead"]):
            c = engine.layout.aligned_column(f"ahead{k}")
            aligned[-aligned_rows.LOOKAHEAD :, c] = session.aligned[-aligned_rows.LOOKAHEAD :, c]
            assert (session.aligned[-aligned_rows.LOOKAHEAD :, c] >= 0).all()
    assert np.array_equal(session.aligned, aligned)


@pytest.mark.parametrize("task", TASKS)
def test_generate_is_the_stream_and_the_batch(task: str, real_one: Engine) -> None:
    request = {**REQUESTS[task], "seed": 5}
    whole = real_one.generate(task, **request)
    chunks = list(real_one.stream(task, chunk_frames=[3, 11], **request))
    assert np.array_equal(np.concatenate([c.samples for c in chunks]), whole.samples)
    ends = np.cumsum([0] + [len(c.samples) for c in chunks])
    assert [c.start for c in chunks] == ends[:-1].tolist()
    (batched,) = real_one.generate_batch([request], task)
    assert np.array_equal(batched.samples, whole.samples) and np.isfinite(whole.samples).all()


@pytest.mark.parametrize("task", ["vc", "se", "tse", "sd"])
@pytest.mark.parametrize("samples", [1, 319, 320, 9999])
def test_aligned_tasks_keep_every_sample_of_length(
    task: str, samples: int, real_one: Engine
) -> None:
    source = Audio(tone(1.0).samples[:samples], 16000)
    assert (
        len(real_one.generate(task, **{**REQUESTS[task], "source": source, "seed": 1}).samples)
        == samples
    )


@pytest.mark.parametrize("task", ["a_edit", "s_edit"])
def test_no_sample_outside_an_edit_changes(task: str, real_one: Engine) -> None:
    request = REQUESTS[task]
    source = request["source"].samples
    made = real_one.generate(task, **{**request, "seed": 1})
    begin, end = (round(t * 16000) for t in made.meta["span"])
    grown = len(made.samples) - len(source)
    assert task == "s_edit" or grown == 0
    assert np.array_equal(made.samples[:begin], source[:begin])
    assert np.array_equal(made.samples[end + grown :], source[end:])
    assert not np.array_equal(made.samples[begin : end + grown], source[begin : end + grown])
    assert abs(float(made.samples[begin] - source[begin])) < 0.1  # faded in


def test_an_instructed_text_may_arrive(engine: Engine) -> None:
    text, how = "Hello there. And a second one. ", {"instruction": "a low voice", "seed": 4}
    whole = engine.generate("i_tts", text=text, **how)
    pieces = engine.generate("i_tts", text=iter(text), flush_after="inf", **how)
    assert np.array_equal(pieces.samples, whole.samples)


def test_words_of_an_edit_come_with_it(engine: Engine) -> None:
    stream = engine.stream("s_edit", seed=3, source=tone(2.0), span=(1.1, 1.4), text="one")
    words = [w for chunk in stream for w in chunk.words]
    assert words == stream.meta["words"] and words[0]["start"] == 1.1


def test_words_of_an_edit_have_no_pauses_around_them(
    engine: Engine, sessions: list[fake_core.LMSession]
) -> None:
    for given in ({"text": "one"}, {"phones": "w ah1 n"}):
        engine.generate("s_edit", seed=3, source=tone(2.0), span=(1.1, 1.4), **given)
    assert np.array_equal(sessions[0].log, sessions[1].log)


def test_an_edit_without_a_span_is_the_whole(real_one: Engine) -> None:
    source = tone(0.7)
    made = real_one.generate("a_edit", instruction="add a bell", source=source, seed=1)
    assert len(made.samples) == len(source.samples) and made.meta["frames"] == 35


def test_verbs_are_the_tasks(real_one: Engine) -> None:
    made = {
        "vc": real_one.convert(tone(0.7), VOICE, seed=5),
        "se": real_one.enhance(tone(0.7), seed=5),
        "sd": real_one.dereverb(tone(0.7), seed=5),
        "tse": real_one.extract(tone(0.7), VOICE, seed=5),
        "svs": real_one.sing(SCORE, prompt=VOICE, seed=5),
        "t2s": real_one.sound("Three knocks on wood.", seconds=0.5, seed=5),
        "t2m": real_one.music("slow piano", seconds=0.5, seed=5),
        "a_edit": real_one.edit("add a bell", tone(1.0), span="0.3:0.62", seed=5),
        "i_tts": real_one.instruct("a low voice", phones="pau hh ax0 l ow1 pau", seed=5),
        "s_edit": real_one.speech_edit(tone(2.0), (1.1, 1.4), phones="w ah1 n", seed=5),
    }
    for task, audio in made.items():
        assert np.array_equal(
            audio.samples, real_one.generate(task, **{**REQUESTS[task], "seed": 5}).samples
        ), task


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no caption": ("t2s", {"text": "  "}, "expected words that describe the sound"),
    "a long caption": ("t2s", {"text": "knock " * 300}, "expected at most 96 pieces"),
    "a caption in pieces": ("t2s", {"text": iter("rain")}, "text: expected a string, got str_asc"),
    "an instruction in pieces": (
        "i_tts",
        {"instruction": iter("low"), "text": "Hello."},
        "instruction: expected a string",
    ),
    "an edit in pieces": (
        "s_edit",
        {"source": tone(1.0), "span": "0.2:0.5", "text": iter("one")},
        "s_edit: text: expected a string, got str_ascii_iterator; this task needs the whole text",
    ),
    "a source in pieces": ("se", {"source": iter("ab")}, "source: expected a path"),
    "a score in pieces": ("svs", {"score": iter("ab")}, "score: expected notes"),
    "a caption of numbers": ("t2s", {"text": 7}, "text: expected a string, got int"),
    "no score": ("svs", {"score": "la la"}, "score line 1"),
    "a span backwards": (
        "a_edit",
        {"instruction": "add a bell", "source": tone(1.0), "span": "0.6:0.3"},
        "expected begin:end in seconds",
    ),
    "a span too far": (
        "s_edit",
        {"source": tone(1.0), "span": "0.5:3", "text": "one"},
        "within the sound's 1 s",
    ),
    "no span": ("s_edit", {"source": tone(1.0), "text": "one"}, "input span is missing"),
    "nobody's voice": ("vc", {"source": tone(1.0)}, "input prompt is missing"),
    "no sound": ("se", {"source": Audio(np.zeros(0, np.float32), 16000)}, "expected at least"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_one_line(case: str, engine: Engine) -> None:
    task, inputs, words = REFUSED[case]
    with pytest.raises(InputError) as e:
        engine.generate(task, **inputs)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_a_model_without_captions_says_so(fake: None, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for f in folder.iterdir():
        if f.name != "text.model":
            (copy / f.name).symlink_to(f)
    with pytest.raises(InputError, match="reads no captions"):
        Engine.from_pretrained(copy).sound("rain")
    (copy / "text.model").write_bytes(b"no model")
    with pytest.raises(InputError, match="expected a sentencepiece model"):
        Engine.from_pretrained(copy).sound("rain")
