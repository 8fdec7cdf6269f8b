"""User-defined tasks: from a task file and a manifest of recordings, trainer and engine build the
same sequence.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import fake_core
import numpy as np
import pytest
from joint import CAPTIONS, UNITS, K, joint_config
from sounds import tone
from tiny import random_weights
from uniaudio_training.corpus.reading import open_corpus
from uniaudio_training.lm.caption_tokenizer import train_captions
from uniaudio_training.lm.items import Given, Item, make_item
from uniaudio_training.user_tasks import extend, read_user_tasks

from uniaudio_engine import Engine
from uniaudio_engine.request.sequence import Layout, aligned_vocab, token_durations, vocab_size
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.storage.folder_writing import save_folder
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes
from uniaudio_engine.text import PHONES
from uniaudio_engine.tokenizers.captions import CaptionTokenizer

LABELS = {"fault": "telephone\nmuffled\n", "mood": "calm\nglad\nangry\n"}
PHONES_OF = "pau hh ax0 l ow1 pau"
SOURCE = {"name": "source", "modality": "audio", "help": "the sound"}
ENTRIES: dict[str, dict[str, Any]] = {
    "restore": {
        "inputs": [
            {"name": "fault", "modality": "tokens", "segment": "fault", "help": "what is wrong"},
            {**SOURCE, "segment": "source", "place": "aligned"},
        ],
        "length": "source",
        "finish": "length",
    },
    "backwards": {
        "inputs": [
            {**SOURCE, "segment": "forwards"},
            {
                "name": "moods",
                "modality": "tokens",
                "segment": "mood",
                "collapse": True,
                "help": "how",
            },
        ],
        "length": "source",
        "token": "REV_task",
    },
    "scene": {
        "inputs": [
            {"name": "what", "modality": "caption", "segment": "caption", "help": "what is heard"}
        ],
        "length": "seconds",
    },
    "announce": {
        "inputs": [
            {
                "name": "who",
                "modality": "voice",
                "segment": "audio_prompt",
                "max_seconds": 3.0,
                "help": "the voice",
            },
            {
                "name": "mood",
                "modality": "tokens",
                "segment": "mood",
                "required": False,
                "help": "how",
            },
            {"name": "text", "modality": "text", "segment": "phone", "help": "what"},
        ],
        "length": "durations",
    },
    "answer": {
        "inputs": [
            {
                "name": "text",
                "modality": "text",
                "segment": "phone",
                "collapse": True,
                "help": "what",
            },
            {
                "name": "who",
                "modality": "voice",
                "segment": "audio_prompt",
                "max_seconds": 0.5,
                "help": "the voice",
            },
        ],
        "length": "end",
    },
    "respeak": {
        "inputs": [
            {
                "name": "source",
                "modality": "units",
                "segment": "unit",
                "place": "aligned",
                "help": "the speech",
            }
        ],
        "length": "source",
        "finish": "length",
    },
    "patch": {
        "inputs": [
            {**SOURCE, "segment": "source", "place": "aligned"},
            {
                "name": "hole",
                "modality": "span",
                "segment": "source",
                "required": False,
                "help": "the part that is missing",
            },
        ],
        "length": "source",
        "finish": "span",
    },
}
# What is asked, and the line of the manifest beyond audio and task: inputs that are said in another
# way there.
ASKED: dict[str, dict[str, Any]] = {
    "restore": {"fault": "muffled", "source": "source.wav"},
    "backwards": {"source": "source.wav", "moods": "glad glad 2"},
    "scene": {"what": "Three knocks on wood.", "seconds": 0.5},
    "announce": {"who": "voice.wav", "phones": PHONES_OF},
    "answer": {"text": "Hello there.", "who": "voice.wav"},
    "respeak": {"source": "source.wav"},
    "patch": {"source": "source.wav"},
}
SOUNDS = {
    "source.wav": tone(0.7),
    "voice.wav": tone(1.0, hertz=330.0),
    "target.wav": tone(0.7, hertz=150.0),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: task files, labels, sounds; and a model folder whose vocabulary was extended
    for them.
    """
    folder = tmp_path_factory.mktemp("mine")
    (folder / "labels").mkdir()
    for span, names in LABELS.items():
        (folder / "labels" / f"{span}.txt").write_text(names)
    for name, entry in ENTRIES.items():
        (folder / f"{name}.json").write_text(
            json.dumps(
                {"name": name, "help": name, "example": f"uniaudio run {name} -o out.wav", **entry}
            )
        )
    for name, sound in SOUNDS.items():
        sound.save(folder / name)
    model = train_captions(CAPTIONS, 300)
    config = joint_config(CaptionTokenizer(model).size)
    assert config.lm is not None and config.vocabulary is not None and config.semantic is not None
    users = read_user_tasks(folder / f"{name}.json" for name in ENTRIES)
    vocabulary, labels = extend(
        Layout.of(config.lm, config.vocabulary), users.values(), TASKS, {"phone": PHONES}, UNITS
    )
    lm = dataclasses.replace(
        config.lm,
        vocab_size=vocab_size(vocabulary),
        aligned_slots=len(vocabulary.aligned_spans),
        aligned_vocab=aligned_vocab(vocabulary),
    )
    entries = (*config.tasks, *(u.task for u in users.values()))
    config = dataclasses.replace(config, lm=lm, vocabulary=vocabulary, tasks=entries)
    codec = random_weights(codec_shapes(config.codec))
    codec["decoder.output.bias"] -= 2.0
    semantic = random_weights(codec_shapes(config.semantic.encoder), 2)  # type: ignore[union-attr]
    own = {span: names for span, names in labels.items() if span != "phone"}
    save_folder(
        folder / "model",
        config,
        codec,
        random_weights(lm_shapes(lm), 1),
        PHONES,
        captions=model,
        semantic=semantic,
        labels=own,
    )
    return folder


@pytest.fixture
def engine(fake: None, work: Path) -> Engine:
    return Engine.from_pretrained(work / "model")


def trainer_item(e: Engine, work: Path, task: str, **row: Any) -> Item:
    """The item of a manifest's line, read, tokenized and laid out as the trainer does."""
    (work / "mine.jsonl").write_text(
        json.dumps({"audio": "target.wav", "task": task, **row}) + "\n"
    )
    users = read_user_tasks([work / f"{task}.json"])
    (example,) = open_corpus(work / "mine.jsonl", users)[task, "train"]
    codes = {role: e.encode((example.audio(role), 16000)).T for role in example.roles}
    units = {role: e.semantic((example.audio(role), 16000)) for role in example.roles}
    item = make_item(
        Given(
            users[task].task,
            example.label,
            codes,
            units,
            e.model.captions,
            {"phone": PHONES, **users[task].labels},
        )
    )
    assert item is not None
    return item


def rows_of(task: str) -> dict[str, Any]:
    """The manifest's way to say what is asked."""
    row = {k: v for k, v in ASKED[task].items() if k not in ("seconds", "phones")}
    if "phones" in ASKED[task]:
        row["phones"] = [[p, 0.1 * (n + 1)] for n, p in enumerate(PHONES_OF.split())]
    return row


@pytest.mark.parametrize("task", ENTRIES)
def test_the_engine_lays_out_what_the_trainer_trains(
    task: str, engine: Engine, work: Path, sessions: list[fake_core.LMSession]
) -> None:
    request = {k: str(work / v) if str(v).endswith(".wav") else v for k, v in ASKED[task].items()}
    made = engine.generate(task, seed=3, **request)
    (session,) = sessions
    layout = engine.layout
    item = trainer_item(engine, work, task, **rows_of(task))
    start = layout.vocabulary.special("audio_start")
    begin = int(np.flatnonzero(session.log[:, 0] == start)[-1]) + 1
    codes = layout.frames_to_codes(session.log[begin:])
    inputs = dict(item.inputs)
    if task == "announce":  # how long each phone is, and so the target, is what the engine drew
        first = (
            int(
                np.flatnonzero(session.log[:, 0] == layout.vocabulary.special("duration_start"))[-1]
            )
            + 1
        )
        drawn = token_durations(layout, session.log[first : first + len(inputs["text"])])
        inputs["text"] = dataclasses.replace(inputs["text"], durations=drawn)
    voice = inputs["who"] if item.task.shared_prompt is not None else None
    item = dataclasses.replace(item, codes=codes, inputs=inputs)
    sequence = item.sequence(layout, voice).complete(codes)
    frames, aligned = sequence.frames, sequence.aligned
    if (
        task == "answer"
    ):  # the trainer's last frame says that this is the end; the fake core never says so
        assert (frames[-1] == layout.vocabulary.special("audio_end")).all()
        frames, aligned = frames[:-1], aligned[:-1]
    assert np.array_equal(session.log, frames)
    assert np.array_equal(session.aligned, aligned)
    assert np.isfinite(made.samples).all() and sequence.frames.shape[1] == K
    if ENTRIES[task].get("finish"):
        assert len(made.samples) == len(SOUNDS["source.wav"].samples)


def test_an_entry_s_own_tokens_are_in_the_sequence(engine: Engine, work: Path) -> None:
    """Not only equal, but what was asked: the task's token, its segment, its label."""
    v = engine.layout.vocabulary
    item = trainer_item(engine, work, "backwards", **rows_of("backwards"))
    frames = item.sequence(engine.layout).complete(item.codes).frames[:, 0].tolist()
    assert frames[:3] == [v.special("start"), v.special("REV_task"), v.special("forwards_start")]
    mood = v.span("mood").start
    at = frames.index(v.special("mood_start"))
    assert frames[at : at + 5] == [
        v.special("mood_start"),
        mood + 1,
        mood + 2,
        v.special("mood_end"),
        v.special("audio_start"),
    ]  # "glad glad 2", collapsed
    assert (
        len(item.inputs["source"]) == 35 == len(item.codes)
        and item.length == 35 + 2 + 2 + 2 + 1 + 35
    )


def test_a_voice_is_another_recording_of_the_speaker(engine: Engine, work: Path) -> None:
    rows = [
        {"audio": a, "task": "announce", "speaker": s, "phones": [["hh", 0.3]]}
        for a, s in (("target.wav", "me"), ("voice.wav", "me"))
    ]
    (work / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    first, second = open_corpus(work / "mine.jsonl", read_user_tasks([work / "announce.json"]))[
        "announce", "train"
    ]
    assert np.array_equal(first.pcm("who"), second.pcm()) and np.array_equal(
        second.pcm("who"), first.pcm()
    )


def test_the_folder_says_what_can_be_asked(
    engine: Engine, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniaudio_engine.cli.main import main

    schema = next(t for t in engine.tasks() if t["name"] == "restore")
    assert [(i["name"], i["modality"], i["required"]) for i in schema["inputs"]] == [
        ("fault", "tokens", True),
        ("source", "audio", True),
    ]
    monkeypatch.chdir(work)
    assert (
        main(
            [
                "run",
                "restore",
                "-m",
                "model",
                "fault=telephone",
                "source=source.wav",
                "seed=1",
                "-o",
                "out.wav",
            ]
        )
        == 0
    )
    assert (
        main(
            ["run", "restore", "-m", "model", "fault=broken", "source=source.wav", "-o", "out.wav"]
        )
        == 2
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert "labels (telephone, muffled), got 'broken'" in error
