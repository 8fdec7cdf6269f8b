"""Errors in user-defined tasks, manifests and settings are one line with what to do; and a
vocabulary grows without changing ids.
"""

import dataclasses
import json

import numpy as np
import pytest

sf = pytest.importorskip("soundfile")
torch = pytest.importorskip("torch", reason="the trainers need torch")

from joint_items import write_shards
from uniaudio_training.corpus.reading import CorpusError, open_corpus
from uniaudio_training.corpus.schema import TASKS as JOINT
from uniaudio_training.lm import train_lm as lm_train
from uniaudio_training.lm.data import AUDIO, TaskData, task_batch
from uniaudio_training.lm.items import Item
from uniaudio_training.lm.objective import global_hidden, losses
from uniaudio_training.lm.setup import LMSettings, Stacks, build_config
from uniaudio_training.models.lm import MultiScaleLM
from uniaudio_training.settings import settings_from
from uniaudio_training.user_tasks import UserTask, extend, read_user_tasks

from uniaudio_engine.request.sequence import Layout, aligned_vocab, make_vocabulary, vocab_size
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.request.tasks import Input, Task
from uniaudio_engine.storage.config import StackConfig
from uniaudio_engine.text.phones import PHONES

FAULT = {"name": "fault", "modality": "tokens", "segment": "fault", "help": "what is wrong"}
SOURCE = {
    "name": "source",
    "modality": "audio",
    "segment": "source",
    "place": "aligned",
    "help": "the sound",
}
RESTORE = {
    "name": "restore",
    "help": "undo",
    "inputs": [FAULT, SOURCE],
    "length": "source",
    "example": "uniaudio run restore",
}
STACK = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 24}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "fault.txt").write_text("telephone\nclipped\n")
    rng = np.random.default_rng(0)
    for name, seconds in (("a.wav", 1.0), ("b.wav", 1.0), ("short.wav", 0.5)):
        sf.write(tmp_path / name, 0.1 * rng.standard_normal(int(16000 * seconds)), 16000)
    return tmp_path


def task_file(folder, **changes):
    path = folder / "restore.json"
    path.write_text(json.dumps({**RESTORE, **changes}))
    return path


def test_a_task_file_is_an_entry_and_its_labels(folder):
    user = read_user_tasks([task_file(folder)])["restore"]
    assert (
        user.labels == {"fault": ("telephone", "clipped")} and user.task.special == "restore_task"
    )
    assert user.task.inputs[1] == Input("source", "audio", "source", "the sound", place="aligned")


BAD_FILES = {
    "an unknown modality": (
        {"inputs": [{**SOURCE, "modality": "sound"}]},
        "modality: expected one of 'voice', 'audio'",
    ),
    "a misspelt field": ({"lenght": "source"}, "unknown key 'lenght'"),
    "a missing field": ({"help": None}, "help: expected str"),
    "a name that exists": ({"name": "se"}, "there is a task se already"),
    "a name with a space": ({"name": "my task"}, "expected a short name"),
    "no such labels": (
        {"inputs": [{**FAULT, "segment": "mood"}, SOURCE]},
        "mood.txt; there is no such file",
    ),
    "the model's own segment": (
        {"inputs": [{**FAULT, "segment": "caption"}, SOURCE]},
        "the segment caption is the model's own",
    ),
    "a caption by another name": (
        {"inputs": [{**FAULT, "modality": "caption"}, SOURCE]},
        "expected segment caption for a caption",
    ),
    "an external encoder": (
        {"inputs": [{**FAULT, "modality": "states"}, SOURCE]},
        "choose caption or tokens",
    ),
    "an answer that is no sound": (
        {"inputs": [FAULT], "target": "fault", "length": "one"},
        "expected target audio",
    ),
    "an input by a manifest's name": (
        {"inputs": [FAULT, {**SOURCE, "name": "target"}]},
        "choose another one than audio, target, split, speaker",
    ),
    "an input by the engine's name": (
        {"inputs": [{**FAULT, "name": "voice"}, SOURCE]},
        "none of task, voice and chunk_frames",
    ),
    "a source that may be absent": (
        {"inputs": [{**SOURCE, "required": False}]},
        "expected at most one aligned input, required",
    ),
    "two aligned inputs": (
        {"inputs": [SOURCE, {**SOURCE, "name": "other"}]},
        "expected at most one aligned input",
    ),
    "nothing to finish on": (
        {"inputs": [{**SOURCE, "place": "sequence"}], "finish": "length"},
        "finish length: expected a sound named source",
    ),
    "text with a source": (
        {
            "inputs": [
                SOURCE,
                {"name": "text", "modality": "text", "segment": "phone", "help": "words"},
            ]
        },
        "choose durations, end or seconds",
    ),
    "a hidden part in the sequence": (
        {
            "inputs": [
                {**SOURCE, "place": "sequence"},
                {"name": "hole", "modality": "span", "segment": "source", "help": "where"},
            ]
        },
        "put source in place aligned",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_task_files_get_one_line(folder, case):
    changes, words = BAD_FILES[case]
    path = task_file(folder, **changes)
    with pytest.raises(ValueError) as e:
        read_user_tasks([path])
    message = str(e.value)
    assert message.startswith(str(path)) and words in message and "\n" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "Expecting"),
        (b"[" * 100000, "recursion"),
        (b"[]", "expected an object"),
        (b"\xff", "decode"),
    ],
)
def test_hostile_task_files_get_one_line(folder, content, words):
    path = folder / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as e:
        read_user_tasks([path])
    assert words in str(e.value) and "\n" not in str(e.value) and str(e.value).startswith(str(path))
    with pytest.raises(ValueError, match="none.json: expected a readable task file"):
        read_user_tasks([folder / "none.json"])
    with pytest.raises(ValueError, match="in two files"):
        (folder / "again.json").write_text(task_file(folder).read_text())
        read_user_tasks([folder / "restore.json", folder / "again.json"])
    (folder / "labels" / "fault.txt").write_text("telephone telephone\n")
    with pytest.raises(ValueError, match="one per line, got 2 of which 1 differ"):
        read_user_tasks([task_file(folder)])


GOOD = {"audio": "a.wav", "task": "restore", "source": "b.wav", "fault": "telephone"}
BAD_LINES = {
    "a misspelt input": (
        {**GOOD, "sorce": "b.wav"},
        "unknown key 'sorce'; expected audio, task, split, speaker, phones, fault, source",
    ),
    "another task's key": ({**GOOD, "caption": "x"}, "unknown key 'caption'"),
    "a missing input": (
        {k: v for k, v in GOOD.items() if k != "source"},
        "restore needs source: the path of a sound",
    ),
    "a label that is not in the file": (
        {**GOOD, "fault": "telefone"},
        "fault: expected whole numbers from 0 to 1 or labels (telephone, clipped), got 'telefone'",
    ),
    "a number beyond the labels": ({**GOOD, "fault": [2]}, "from 2 to 2"),
    "no label at all": ({**GOOD, "fault": ""}, "fault: expected whole numbers"),
    "labels of another kind": ({**GOOD, "fault": {"a": 1}}, "expected labels or numbers"),
    "a source of another length": (
        {**GOOD, "source": "short.wav"},
        "source: expected the length of audio, 1.000 s",
    ),
    "no such file": ({**GOOD, "source": "c.wav"}, "source: no file"),
    "an unknown task": (
        {**GOOD, "task": "opera"},
        "task: expected restore (from the task files) or one of tts",
    ),
    "no sound": ({k: v for k, v in GOOD.items() if k != "audio"}, "audio is missing"),
    "an unknown split": ({**GOOD, "split": "dev"}, "split: expected one of train, valid, test"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines_get_one_line(folder, case):
    row, words = BAD_LINES[case]
    (folder / "mine.jsonl").write_text(json.dumps(GOOD) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(CorpusError) as e:
        open_corpus(folder / "mine.jsonl", read_user_tasks([task_file(folder)]))
    assert words in str(e.value) and "line 2" in str(e.value) and "\n" not in str(e.value)


def test_without_its_task_file_a_task_is_unknown(folder):
    (folder / "mine.jsonl").write_text(json.dumps(GOOD) + "\n")
    with pytest.raises(CorpusError) as e:
        open_corpus(folder / "mine.jsonl")
    assert "got 'restore'; a user-defined task needs its task file" in str(
        e.value
    ) and "\n" not in str(e.value)


def test_a_manifest_s_files_are_told_apart(folder):
    """Tracks are known by their file: a shard's tokens would else be those of the first example."""
    rows = [GOOD, {**GOOD, "audio": "b.wav", "source": "a.wav", "fault": [1]}]
    (folder / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    corpus = open_corpus(folder / "mine.jsonl", read_user_tasks([task_file(folder)]))
    (shard,) = corpus.shards("restore", "train")

    from uniaudio_training.lm.tokenize import tokenize

    first, second = shard
    arrays = tokenize(
        shard, lambda x: np.full((8, -(-len(x) // 320)), int(1000 * abs(x[0])), np.int32)
    )
    codes = np.split(arrays["codes"][:, 0], np.cumsum(arrays["frames"])[:-1])
    expected = [int(1000 * abs(e.audio(role)[0])) for e in (first, second) for role in e.roles]
    assert [int(c[0]) for c in codes] == expected == [
        *expected[:2],
        expected[1],
        expected[0],
    ] and expected[0] != expected[1]


# The vocabulary


def stacks(positions="rope"):
    local = {**STACK, "positions": positions}
    return Stacks(StackConfig(**STACK), StackConfig(**local))


def layout(captions=300):
    return build_config(stacks(), 16, 4, captions, 32)[1]


def test_no_id_moves(folder):
    user = read_user_tasks(
        [task_file(folder, inputs=[FAULT, {**SOURCE, "segment": "heard", "place": "sequence"}])]
    )["restore"]
    old = layout()
    new, labels = extend(old, [user], TASKS, {"phone": tuple(PHONES)}, 32)
    assert new.specials[: len(old.vocabulary.specials)] == old.vocabulary.specials
    assert new.specials[len(old.vocabulary.specials) :] == (
        "restore_task",
        "fault_start",
        "fault_end",
        "heard_start",
        "heard_end",
    )
    assert (
        new.spans[:-1] == old.vocabulary.spans and new.aligned_spans == old.vocabulary.aligned_spans
    )
    assert (new.spans[-1].name, new.spans[-1].start, new.spans[-1].size) == (
        "fault",
        vocab_size(old.vocabulary),
        2,
    )
    assert labels["fault"] == ("telephone", "clipped")


def test_a_model_of_speech_alone_gains_what_goes_beside_the_target(folder):
    old = Layout(make_vocabulary(4, 16, len(PHONES)), 4)
    user = read_user_tasks([task_file(folder)])["restore"]
    new, _ = extend(old, [user], {"tts": TASKS["tts"]}, {"phone": tuple(PHONES)}, 0)
    names = [s.name for s in new.aligned_spans]
    assert {"source0", "source7", "ahead3", "edit"} <= set(names) and "unit" not in names
    assert new.aligned_spans[: len(old.vocabulary.aligned_spans)] == old.vocabulary.aligned_spans
    assert aligned_vocab(new) == aligned_vocab(old.vocabulary) + 64 + 64 + 64 + 2 + 12 * 16


def entry(name="mine", segment="fault", labels=("a", "b"), **more):
    return UserTask(
        Task(name, "help", (Input("what", "tokens", segment, "what"),), "seconds", "x", **more),
        {segment: labels},
    )


CLASHES = {
    "a name that the model has": ([entry("se")], "has a task se already"),
    "a special token that is taken": ([entry(token="SE_task")], None),
    "a special token of the model": (
        [entry(token="audio_start")],
        "the special token audio_start is taken",
    ),
    "labels that clash": (
        [entry(), entry("other", labels=("b", "a"))],
        "the model's span fault has the labels a, b, this file b, a; rename yours",
    ),
    "a span of the model": (
        [entry(segment="duration")],
        "the model's span duration has tokens of another kind",
    ),
    "too many segments": (
        [
            UserTask(
                Task(
                    "many",
                    "help",
                    tuple(Input(f"i{n}", "tokens", f"s{n}", "x") for n in range(20)),
                    "seconds",
                    "x",
                ),
                {f"s{n}": ("a",) for n in range(20)},
            )
        ],
        "expected at most 64 special tokens",
    ),
    "the same labels": ([entry(), entry("other")], None),
}


@pytest.mark.parametrize("case", CLASHES)
def test_what_clashes_is_refused(case):
    users, words = CLASHES[case]
    if words is None:
        vocabulary, _ = extend(layout(), users, TASKS, {"phone": tuple(PHONES)}, 32)
        assert [s.name for s in vocabulary.spans].count("fault") == 1
        return
    with pytest.raises(ValueError) as e:
        extend(layout(), users, TASKS, {"phone": tuple(PHONES)}, 32)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_what_a_model_lacks_is_named():
    heard = UserTask(
        Task(
            "respeak",
            "help",
            (Input("source", "units", "unit", "x", place="aligned"),),
            "source",
            "x",
        )
    )
    with pytest.raises(
        ValueError,
        match=(
            "needs unit, unit_next, which the model does not have; start from a model with a semantic "
            "tokenizer"
        ),
    ):
        extend(Layout(make_vocabulary(4, 16, len(PHONES)), 4), [heard], {}, {}, 0)
    told = UserTask(
        Task("scene", "help", (Input("what", "caption", "caption", "x"),), "seconds", "x")
    )
    with pytest.raises(
        ValueError,
        match="needs caption, which the model does not have; name a caption tokenizer in captions",
    ):
        extend(Layout(make_vocabulary(4, 16, len(PHONES)), 4), [told], {}, {}, 0)


def test_a_task_may_say_where_it_ends():
    """The last frame of its target is the end token, in every slot beside the codes that it stands
    for.
    """
    torch.manual_seed(0)
    task = Task("answer", "help", (Input("what", "tokens", "fault", "what"),), "end", "x")
    user = UserTask(task, {"fault": ("a", "b")})
    lm, old = build_config(stacks("learned"), 16, 4, 300, 32)
    vocabulary, _ = extend(old, [user], TASKS, {"phone": tuple(PHONES)}, 32)
    lm = dataclasses.replace(lm, vocab_size=vocab_size(vocabulary))
    layout, model = Layout.of(lm, vocabulary), MultiScaleLM(lm)
    model.init_weights(1)
    rng = np.random.default_rng(0)
    items = [
        Item(task, rng.integers(0, 16, (n, 8)), {"what": np.array([n % 2])}) for n in (20, 22, 25)
    ]
    assert items[0].length == 20 + 1 + 1 + 3
    batch = task_batch(layout, TaskData(task, items), rng, 2, 100)
    end = vocabulary.special("audio_end")
    ended = (batch.frames[batch.kind == AUDIO] == end).all(-1)
    assert (
        int(ended.sum()) == len(batch.frames)
        and not (batch.frames[batch.kind == AUDIO] == end)[~ended].any()
    )
    codes, duration = losses(model, layout, batch)
    codes.sum().backward()
    assert torch.isnan(duration) and model.head.weight.grad[end].abs().sum() > 0
    h = global_hidden(model, batch)[batch.kind == AUDIO]
    frames = batch.frames[batch.kind == AUDIO]
    logits = model.head(model.local_hidden(h, frames))[:, 2]
    start = layout.audio_ranges()[2][0][0]
    allowed = torch.cat((logits[:, start : start + 16], logits[:, end : end + 1]), 1)
    expected = torch.nn.functional.cross_entropy(
        allowed, torch.where(ended, 16, frames[:, 2] - start)
    )
    torch.testing.assert_close(codes[2], expected)


# Settings

LM = {
    "rows": 2,
    "items": 300,
    "codebook_size": 16,
    "units": 32,
    "validate_every": 1000,
    "warmup": 2,
    "steps": 1,
    "lm": {"global": STACK, "local": {**STACK, "positions": "learned"}},
    "tasks": {"se": 1.0},
}
SETTINGS = {
    "an unknown task": (
        {"tasks": {"opera": 1.0}},
        f"unknown task opera; the model knows {', '.join(JOINT)}",
    ),
    "no tasks": ({"tasks": {}}, "tasks: expected shares by name"),
    "old tasks of nobody": (
        {"old": 0.05},
        "old: expected an init folder whose model does other tasks",
    ),
    "no model": ({"lm": None}, "lm: expected the model's stacks"),
    "a task without a share": (
        {"task_files": ["restore.json"]},
        "tasks: expected a share for restore",
    ),
    "no recordings": (
        {"task_files": "restore.json", "tasks": {"restore": 1.0}},
        "no restore-train token shards in",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_bad_settings_get_one_line(folder, case, monkeypatch):
    changes, words = SETTINGS[case]
    monkeypatch.chdir(folder)
    task_file(folder)
    write_shards(folder, ("se",))
    config = {k: v for k, v in {**LM, "data": ".", **changes}.items() if k != "lm" or v is not None}
    with pytest.raises((ValueError, OSError)) as e:
        lm_train.train(settings_from(LMSettings, config), folder / "run", "cpu")
    assert words in str(e.value) and "\n" not in str(e.value)
