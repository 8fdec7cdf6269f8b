"""Tasks of models in the layout of the UniAudio repository: exact token sequences, length rules,
and rejected input.

The folder is built by hand, in the layout that ``uniaudio import uniaudio`` writes. The core is the
fake one, whose sessions record their input, and for the end token the real one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import fake_core
import numpy as np
import pytest
from sounds import tone
from tiny import random_weights, tiny_config

from uniaudio_engine import Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.uniaudio_tasks import available_tasks
from uniaudio_engine.storage.config import ModelConfig, Span, StackConfig, VocabularyConfig
from uniaudio_engine.storage.folder_writing import save_folder
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes

LABELS = ("<unk>", "SIL", "HH_B", "AH0_I", "L_I", "OW1_E", "AY1_S", "<UNK>")
SPECIALS = """
pad continuous_token start end phone_start phone_end text_start text_end audio_start audio_end
audio_prompt_start audio_prompt_end semantic_start semantic_end tts_task mega_global mega_local
asr_task VC_task Spex_task TSS_task text_t5_start text_t5_end SV_task sv_bool_start sv_bool_end
SE_task sing_task sing_phone_start sing_phone_end sing_midi_start sing_midi_end TTM_task
Audit_task InstructTTS_task Speech_RIR_task speech_edit_task
""".split()
SIZES = {
    "audio": 48,
    "audio_mask": 1,
    "phone": len(LABELS),
    "text": 20,
    "semantic": 30,
    "sv_bool": 2,
    "sing_phone": 5,
    "sing_midi": 12,
}
K, FIRST, WIDTH = 3, 40, 6


def reference_config() -> ModelConfig:
    spans, start = [], FIRST
    for name, size in SIZES.items():
        spans.append(Span(name, start, size))
        start += size
    stack = StackConfig(
        layers=2,
        width=24,
        heads=2,
        norm="layernorm",
        activation="gelu",
        positions="learned",
        q_bias=True,
        v_bias=True,
        o_bias=True,
        mlp_bias=True,
    )
    config = tiny_config(4)
    assert config.lm is not None
    lm = dataclasses.replace(
        config.lm,
        vocab_size=start,
        num_codebooks=K,
        global_=stack,
        local=dataclasses.replace(stack, layers=1),
        embedding="concat",
        conditioning="add",
        start_id=SPECIALS.index("mega_global"),
        local_start_id=SPECIALS.index("mega_local"),
        max_frames=400,
        aligned_slots=0,
        aligned_vocab=0,
        continuous={"text_t5": WIDTH},
    )
    vocabulary = VocabularyConfig(tuple(SPECIALS), tuple(spans))
    tasks = available_tasks({*SPECIALS, *SIZES, "text_t5"})
    return dataclasses.replace(config, name="reference", lm=lm, vocabulary=vocabulary, tasks=tasks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "reference"
    config = reference_config()
    assert config.lm is not None
    codec = random_weights(codec_shapes(config.codec))
    codec["decoder.output.bias"] -= 2.0
    save_folder(path, config, codec, random_weights(lm_shapes(config.lm), 1), LABELS)
    return path


@pytest.fixture
def engine(fake: None, folder: Path) -> Engine:
    return Engine.from_pretrained(folder)


def special(*names: str) -> list[list[int]]:
    return [[SPECIALS.index(n)] * K for n in names]


def plain(span: str, values: Any) -> list[list[int]]:
    start = FIRST + sum(size for name, size in list(SIZES.items())[: list(SIZES).index(span)])
    return [[start + v] * K for v in values]


def sound(engine: Engine, seconds: float, hertz: float = 220.0) -> list[list[int]]:
    """Codebook k's codes are offset by k times the codebook size."""
    codes = engine.encode(tone(seconds, hertz=hertz))[:K].T
    return (codes + FIRST + 16 * np.arange(K)).tolist()


STATES = np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH) / 10
CONTINUOUS = [[SPECIALS.index("continuous_token")] * K] * 4
T5 = ["text_t5_start", "text_t5_end"]


def around(name: str, rows: list[list[int]]) -> list[list[int]]:
    return special(f"{name}_start") + rows + special(f"{name}_end")


def cases(e: Engine) -> dict[str, tuple[dict[str, Any], list[list[int]]]]:
    """task -> inputs, and all that the model must hear before the target's first frame, by the
    repository's dataloader.
    """
    prompt = around("audio_prompt", sound(e, 1.0, 330.0))
    phones = around("phone", plain("phone", [1, 2, 3, 4, 5, 1]))
    units = around("semantic", plain("semantic", [3, 3, 7, 29]))
    states = around("text_t5", CONTINUOUS)
    noisy = around("audio", sound(e, 0.5))
    masked = sound(e, 1.0)
    masked[20:35] = plain("audio_mask", [0]) * 15
    voice = {"prompt": tone(1.0, hertz=330.0)}
    return {
        "tts": (
            {"phones": "SIL HH_B AH0_I L_I L_I OW1_E SIL SIL", **voice},
            special("start", "tts_task") + phones + prompt,
        ),
        "vc": ({"source": [3, 3, 7, 29], **voice}, special("start", "VC_task") + units + prompt),
        "se": ({"source": tone(0.5)}, special("start", "SE_task") + noisy),
        "sd": ({"source": tone(0.5)}, special("start", "Speech_RIR_task") + noisy),
        "tse": ({"source": tone(0.5), **voice}, special("start", "Spex_task") + noisy + prompt),
        "svs": (
            {"phones": "0 0 4", "notes": [11, 11, 0], **voice},
            special("start", "sing_task")
            + around("sing_phone", plain("sing_phone", [0, 0, 4]))
            + around("sing_midi", plain("sing_midi", [11, 11, 0]))
            + prompt,
        ),
        "t2s": ({"text": STATES}, special("start", "TSS_task") + states),
        "t2m": ({"text": STATES}, special("start", "TTM_task") + states),
        "a_edit": (
            {"instruction": STATES, "source": tone(0.5)},
            special("start", "Audit_task") + states + noisy,
        ),
        "i_tts": (
            {"phones": "SIL:0.06 HH_B AY1_S:0.03", "instruction": STATES},
            special("start", "InstructTTS_task")
            + around("phone", plain("phone", [1, 1, 2, 6]))
            + states,
        ),
        "s_edit": (
            {"phones": [("SIL", 0.09), ("AY1_S", 0.03)], "source": tone(1.0), "span": "0.4:0.7"},
            special("start", "speech_edit_task")
            + around("phone", plain("phone", [1, 1, 1, 6]))
            + around("audio", masked),
        ),
        "asr": ({"source": [3, 3, 7, 29]}, special("start", "asr_task") + units),
        "sv": ({"source": tone(0.5), **voice}, special("start", "SV_task") + noisy + prompt),
    }


def test_all_tasks_are_there(engine: Engine) -> None:
    assert [
        t["name"] for t in engine.tasks()
    ] == "tts vc se sd tse svs t2s t2m a_edit i_tts s_edit asr sv".split()
    assert all(
        engine.task(t).temperature == 1.0 and engine.task(t).top_k == 30 for t in cases(engine)
    )


@pytest.mark.parametrize("task", "tts vc se sd tse svs t2s t2m a_edit i_tts s_edit asr sv".split())
def test_the_sequence_is_the_repository_s(
    task: str, engine: Engine, sessions: list[fake_core.LMSession]
) -> None:
    inputs, expected = cases(engine)[task]
    sessions.clear()
    run = engine.understand if engine.task(task).target != "audio" else engine.generate
    run(task, seed=1, **inputs)
    (session,) = sessions
    expected = expected + special(f"{engine.task(task).target}_start")
    assert session.log[: len(expected)].tolist() == expected
    if any(i.modality == "states" for i in engine.task(task).inputs):
        values, where = session.continuous["text_t5"]
        assert np.array_equal(values, STATES) and np.array_equal(session.log[where], CONTINUOUS)
    else:
        assert not session.continuous


def test_edits_may_change_the_length(engine: Engine, sessions: list[fake_core.LMSession]) -> None:
    audio = engine.generate("s_edit", phones=[1, 6], source=tone(1.0), span=(0.4, 0.7, 0.5), seed=1)
    assert audio.meta["frames"] == 60 and audio.meta["span"] == [0.4, 0.9]
    mask = plain("audio_mask", [0])[0]
    where = [i for i, row in enumerate(sessions[0].log.tolist()) if row == mask]
    assert len(where) == 25 and where == list(range(where[0], where[0] + 25))


@pytest.mark.parametrize(
    ("task", "frames"), [("se", 25), ("sd", 25), ("tse", 25), ("a_edit", 25), ("s_edit", 50)]
)
def test_time_aligned_tasks_keep_the_length(task: str, frames: int, engine: Engine) -> None:
    assert engine.generate(task, seed=1, **cases(engine)[task][0]).meta["frames"] == frames


def test_length_by_ratio_and_by_seconds(engine: Engine) -> None:
    inputs, expected = cases(engine)["t2s"]
    assert engine.generate("t2s", seed=1, **inputs).meta["frames"] == 7 * len(
        expected
    )  # the fake core never ends
    assert engine.generate("t2s", seed=1, max_ratio=2.5, **inputs).meta["frames"] == int(
        2.5 * len(expected)
    )
    assert engine.generate("t2s", seed=1, seconds=0.5, **inputs).meta["frames"] == 25
    long = engine.generate("t2s", seed=1, max_ratio=1000, **inputs)
    assert long.meta["frames"] == engine.capacity - len(expected) - 1


@pytest.fixture(scope="module")
def real_one(folder: Path) -> Engine:
    return Engine.from_pretrained(folder, dtype="float32", threads=2)


def test_the_model_may_end_it(real_one: Engine) -> None:
    """Random weights draw the end token often: nothing before min_ratio, the stream and the batch
    give the same frames.
    """
    prefix = 2 + 6
    lengths = set()
    for seed in range(12):
        request: dict[str, Any] = {
            "text": STATES,
            "seed": seed,
            "top_k": 0,
            "min_ratio": 2.0,
            "max_ratio": 10.0,
            "temperature": 3.0,
        }
        with real_one.stream("t2s", chunk_frames=[3], **request) as stream:
            codes = np.concatenate([c.codes for c in stream])
        assert prefix * 2 - 1 <= len(codes) <= prefix * 10 and codes.min() >= 0 and codes.max() < 16
        lengths.add(len(codes))
        whole = real_one.generate("t2s", **request)
        assert whole.meta["frames"] == len(codes) and not stream.cancelled
        batch = real_one.generate_batch([request, {**request, "seed": seed + 100}], "t2s")
        assert np.array_equal(batch[0].samples, whole.samples)
    assert len(lengths) > 3


def test_answers_that_are_no_sound(
    real_one: Engine, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = real_one.understand("sv", source=tone(0.5), prompt=tone(1.0), seed=3)
    assert (
        len(same.tokens) == 1
        and same.tokens[0] in (0, 1)
        and same.labels == ()
        and same.meta["task"] == "sv"
    )
    words = real_one.understand("asr", source=[1, 2, 3], seed=3, max_ratio=1.0)
    assert (
        1 <= len(words.tokens) <= 7
        and max(words.tokens) < 20
        and str(words).split() == [str(t) for t in words.tokens]
    )
    assert (
        main(
            [
                "run",
                "asr",
                "-m",
                str(folder),
                "--dtype",
                "float32",
                "source=1 2 3",
                "seed=3",
                "max_ratio=1",
                "-o",
                str(tmp_path / "w.txt"),
            ]
        )
        == 0
    )
    assert (tmp_path / "w.txt").read_text() == f"{words}\n"
    assert (
        main(["run", "asr", "-m", str(folder), "source=1 2 3", "-o", str(tmp_path / "w.wav")]) == 2
    )
    assert "ends in .txt" in capsys.readouterr().err


def test_labels_of_other_spans(fake: None, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for f in folder.iterdir():
        (copy / f.name).symlink_to(f)
    (copy / "labels").mkdir()
    (copy / "labels" / "sv_bool.txt").write_text("different\nsame\n")
    (copy / "labels" / "sing_phone.txt").write_text("a\nb\nsh\nai\nn\n")
    e = Engine.from_pretrained(copy)
    assert str(e.understand("sv", source=tone(0.5), prompt=tone(1.0), seed=3)) in (
        "different",
        "same",
    )
    e.generate("svs", phones="sh ai n", notes=[1, 2, 3], prompt=tone(1.0), seed=1)
    with pytest.raises(
        InputError,
        match=r"expected whole numbers from 0 to 4 or labels \(a, b, sh, ai, n\), got .zz.",
    ):
        e.generate("svs", phones="sh zz", notes=[1, 2], prompt=tone(1.0))
    (copy / "labels" / "sing_phone.txt").write_text("a\n")
    with pytest.raises(InputError, match="span sing_phone has 5 ids, labels/sing_phone.txt 1"):
        Engine.from_pretrained(copy)


def test_tokens_and_states_from_files(
    engine: Engine, tmp_path: Path, sessions: list[fake_core.LMSession]
) -> None:
    np.save(tmp_path / "units.npy", np.array([3, 3, 7, 29]))
    (tmp_path / "units.txt").write_text("3 3\n7 29\n")
    np.save(tmp_path / "states.npy", STATES.astype(np.float64))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("units.npy", "units.txt"):
        engine.generate("vc", source=str(tmp_path / name), prompt=tone(1.0, hertz=330.0), seed=1)
    expected = cases(engine)["vc"][1]
    assert all(s.log[: len(expected)].tolist() == expected for s in sessions if s.frames > 50)
    engine.generate("t2s", text=tmp_path / "states.npy", seed=1)
    assert np.array_equal(sessions[-1].continuous["text_t5"][0], STATES)
    with pytest.raises(InputError, match="expected a readable .npy"):
        engine.generate("t2s", text=tmp_path / "objects.npy")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "states of another width": (
        "t2s",
        {"text": np.zeros((3, WIDTH + 1), np.float32)},
        f"rows of at most 100 of {WIDTH} numbers",
    ),
    "too many states": ("t2s", {"text": np.zeros((101, WIDTH), np.float32)}, "at most 100"),
    "NaN states": (
        "t2s",
        {"text": np.full((3, WIDTH), np.nan, np.float32)},
        "expected finite numbers",
    ),
    "text without an encoder": (
        "t2s",
        {"text": "rain"},
        "a text needs the encoder t5: from_pretrained(encoders={'t5': FOLDER})",
    ),
    "sound without an encoder": (
        "vc",
        {"source": "speech.wav", "prompt": tone(1.0)},
        "a sound needs the encoder hubert",
    ),
    "no prompt": (
        "tts",
        {"phones": "SIL"},
        "input prompt is missing; for example: uniaudio run tts",
    ),
    "unknown label": (
        "tts",
        {"phones": "SIL QQ_B", "prompt": tone(1.0)},
        "this model does not know 'QQ_B'; it has <unk> SIL",
    ),
    "label of no word place": (
        "tts",
        {"text": "Goodbye.", "prompt": tone(1.0)},
        "the model's phones.txt has no",
    ),
    "unit out of range": (
        "vc",
        {"source": [30], "prompt": tone(1.0)},
        "expected whole numbers from 0 to 29, 50 per second",
    ),
    "units of floats": (
        "vc",
        {"source": [0.5], "prompt": tone(1.0)},
        "expected whole numbers from 0 to 29",
    ),
    "no units": ("vc", {"source": "", "prompt": tone(1.0)}, "expected whole numbers from 0 to 29"),
    "span beyond the sound": (
        "s_edit",
        {"phones": [1], "source": tone(1.0), "span": "0.4:1.2"},
        "within the sound's 1 s, got '0.4:1.2'",
    ),
    "span of nothing": (
        "s_edit",
        {"phones": [1], "source": tone(1.0), "span": (0.4, 0.4)},
        "expected begin:end",
    ),
    "span of words": (
        "s_edit",
        {"phones": [1], "source": tone(1.0), "span": "from:to"},
        "expected begin:end",
    ),
    "span without end": (
        "s_edit",
        {"phones": [1], "source": tone(1.0), "span": "0.2:inf"},
        "expected begin:end",
    ),
    "endless label": ("i_tts", {"phones": "SIL:1e9", "instruction": STATES}, "got 'SIL:1e9'"),
    "backward label": ("i_tts", {"phones": "SIL:-1", "instruction": STATES}, "got 'SIL:-1'"),
    "option of another task": (
        "tts",
        {"phones": "SIL", "prompt": tone(1.0), "speed": 2.0},
        "unknown input speed",
    ),
    "too long": ("se", {"source": tone(8.0)}, "se: expected up to"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_one_line(case: str, engine: Engine) -> None:
    task, inputs, words = REFUSED[case]
    with pytest.raises(InputError) as e:
        engine.generate(task, **inputs)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_each_kind_of_call_has_its_tasks(engine: Engine) -> None:
    with pytest.raises(InputError, match="asr makes no sound; ask for its answer with understand"):
        engine.generate("asr", source=[1])
    with pytest.raises(InputError, match="se makes sound"):
        engine.understand("se", source=tone(0.5))


def broken(change: Any) -> str:
    data = json.loads(reference_config().to_json())
    change(data)
    return json.dumps(data)


def rename(data: dict[str, Any]) -> None:
    data["vocabulary"]["specials"][SPECIALS.index("SE_task")] = "nothing"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "task se needs SE_task, which the vocabulary does not have"),
        (lambda d: d["tasks"][0].update(length="forever"), "expected one of 'durations'"),
        (lambda d: d["tasks"][0].update(colour="red"), "unknown key 'colour'"),
        (lambda d: d["tasks"][0].update(name="x" * 99), "expected a short name"),
        (lambda d: d["tasks"][0].update(name="../x"), "expected a short name"),
        (lambda d: d["tasks"].append(d["tasks"][0]), "expected distinct names"),
        (
            lambda d: d["tasks"][0].update(temperature=99.0),
            "temperature: expected a number from 0 to 5",
        ),
        (
            lambda d: d["tasks"][10]["inputs"][2].update(segment="nowhere"),
            "expected the name of an audio input",
        ),
        (
            lambda d: d["tasks"][2]["inputs"][0].update(name="seed"),
            "expected distinct names of inputs and options",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_entries_are_checked_at_load(
    change: Any, words: str, fake: None, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for f in folder.iterdir():
        (copy / f.name).symlink_to(f)
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(broken(change))
    with pytest.raises(InputError) as e:
        Engine.from_pretrained(copy)
    assert words in str(e.value) and "\n" not in str(e.value)
