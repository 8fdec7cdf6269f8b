"""The option ``best_of``: the alignment of phones with units, what is chosen, and the file it needs."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint import make_joint_model, unit_phones

from uniaudio_engine import Engine
from uniaudio_engine.errors import InputError
from uniaudio_engine.storage.config import SemanticConfig
from uniaudio_engine.storage.folder import UNIT_PHONES, load_folder
from uniaudio_engine.storage.folder_writing import add_semantic, add_unit_phones
from uniaudio_engine.storage.tensors import save_tensors
from uniaudio_engine.text import PAUSE, PHONES
from uniaudio_engine.tokenizers.alignment import best_path
from uniaudio_engine.tokenizers.phone_hearing import NOTHING, PhoneHearing

TEXT = "Hello there. This is a second sentence."


# Alignment


def ways(frames: int, optional: np.ndarray) -> list[np.ndarray]:
    """All paths: states in order, none left out but optional ones, one at a time."""
    found = []
    for path in itertools.product(range(len(optional)), repeat=frames):
        steps = np.diff([-1, *path, len(optional)])
        inner = [s for s in steps[1:-1] if s != 0]
        ends = [steps[0], steps[-1]]
        if all(s in (1, 2) for s in (*inner, *ends)) and all(
            optional[q] for q in set(range(len(optional))) - set(path)
        ):
            found.append(np.array(path))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_the_path_is_the_best_of_all(frames: int, optional: list[bool], seed: int) -> None:
    may = np.array(optional)
    scores = np.random.default_rng(seed).normal(size=(frames, len(may))).astype(np.float32)
    possible = ways(frames, may)
    begins = best_path(scores, range(len(may)), may)
    if not possible:
        assert begins is None
        return
    assert begins is not None
    path = np.repeat(np.arange(len(may)), np.diff(begins))
    assert any(np.array_equal(path, p) for p in possible)
    total = [scores[np.arange(frames), p].sum() for p in possible]
    assert scores[np.arange(frames), path].sum() == pytest.approx(max(total), abs=1e-5)


def test_no_frames_have_no_path() -> None:
    assert best_path(np.zeros((0, 3), np.float32), [0, 1, 2], [False] * 3) is None


class Units:
    """Stands in for the tokenizer: the samples are the units."""

    def encode(self, samples: np.ndarray) -> np.ndarray:
        return samples.astype(np.int32)


def test_missed_phones_are_counted_and_pauses_are_not() -> None:
    table = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]], np.float32)
    hearing = PhoneHearing(Units(), table, [0])  # type: ignore[arg-type]
    said = lambda *units: hearing(np.array(units, np.float32), [0, 1, 2, 0, 1])  # noqa: E731
    clear = said(0, 0, 1, 1, 2, 2, 0, 1)
    assert clear.missed == 0 and clear.log_likelihood == pytest.approx(np.log(0.8))
    assert said(1, 2, 1).missed == 0  # pauses may be left out
    assert said(0, 1, 1, 1, 1, 0, 0, 1).missed == pytest.approx(1 / 3)  # the 2 is not there
    assert said(0, 0, 0, 0, 0).missed == 1
    assert said(1) == NOTHING
    assert sorted([NOTHING.key, said(0, 1, 1, 1, 0, 1).key, clear.key])[0] == clear.key
    assert hearing(np.zeros(3, np.float32), [0, 0]).missed == 0  # only pauses


# In a model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.from_pretrained(folder, dtype="float32", threads=1)


def missed(engine: Engine, text: str, seed: int) -> tuple[float, float]:
    """How a single try sounds."""
    with engine.stream("tts", text=text, seed=seed) as stream:
        codes = np.concatenate([c.codes for c in stream])
        phones = [p["phone"] for w in stream.meta["words"] for p in w["phones"]] or None
    assert phones is not None
    samples = engine.codec.decode(np.ascontiguousarray(codes.T))
    return engine.model.hearing(samples, [PHONES.index(p) for p in phones]).key


@pytest.mark.parametrize("seed", [3, 40, (1 << 63) - 2])
def test_the_clearest_try_is_kept(engine: Engine, seed: int) -> None:
    tries = [(seed + k) % (1 << 63) for k in range(5)]
    keys = [missed(engine, "Hello there.", s) for s in tries]
    made = engine.tts("Hello there.", seed=seed, best_of=5)
    best = min(range(5), key=keys.__getitem__)
    assert made.meta["chosen"] == [best] and made.meta["best_of"] == 5
    alone = engine.tts("Hello there.", seed=tries[best])
    assert np.array_equal(made.samples, alone.samples) and "chosen" not in alone.meta
    assert made.meta["words"] == alone.meta["words"]


def test_streams_and_batches_choose_alike(engine: Engine) -> None:
    how = {"text": TEXT, "seed": 11, "best_of": 3}
    whole = engine.tts(**how)
    assert len(whole.meta["chosen"]) == 2 and set(whole.meta["chosen"]) <= {0, 1, 2}
    for sizes in ([1], [7, 30]):
        with engine.stream("tts", chunk_frames=sizes, **how) as stream:
            chunks = list(stream)
        assert np.array_equal(np.concatenate([c.samples for c in chunks]), whole.samples)
        assert stream.meta["chosen"] == whole.meta["chosen"]
        assert [w for c in chunks for w in c.words] == whole.meta["words"]
    arriving = engine.generate(
        "tts", **{**how, "text": iter(["Hello there. This is a ", "second sentence."])}
    )
    assert np.array_equal(arriving.samples, whole.samples)
    for made in engine.generate_batch([how, {"text": "Another.", "seed": 2}, how])[::2]:
        assert np.array_equal(made.samples, whole.samples)
        assert made.meta["chosen"] == whole.meta["chosen"]
        assert made.meta["words"] == whole.meta["words"]


def test_edits_and_instructions_too(engine: Engine) -> None:
    x = np.random.default_rng(0).normal(size=48000).astype(np.float32) * 0.1
    inputs = {"source": (x, 16000), "span": (1.0, 1.6), "text": "yes", "seed": 4}
    made = engine.speech_edit(**inputs, best_of=4)
    (chosen,) = made.meta["chosen"]
    assert np.array_equal(
        made.samples, engine.speech_edit(**{**inputs, "seed": 4 + chosen}).samples
    )
    assert np.array_equal(made.samples[:16000], x[:16000])
    said = engine.instruct("a low voice, slowly", "Yes.", seed=4, best_of=2)
    assert said.meta["chosen"] in ([0], [1])


def test_a_sentence_that_is_made_in_parts(folder: Path) -> None:
    """Too long for the KV cache at this speed, so that it is split while it runs."""
    engine = Engine.from_pretrained(folder, dtype="float32", threads=1, max_seconds=4.0)
    how = {"text": "one two three four five six seven eight nine ten", "seed": 6, "speed": 0.3}
    plan = engine.plan("tts", **how, best_of=3)
    (made,) = engine.run_plans([plan])
    (chosen,) = made.meta["chosen"]
    assert len(plan.spoken) > 1
    alone = engine.tts(**{**how, "seed": 6 + chosen})
    assert np.array_equal(alone.samples, made.samples)
    assert [w["word"] for w in made.meta["words"] if w["word"]] == how["text"].split()


def test_other_tasks_have_no_such_option(engine: Engine) -> None:
    have = {t["name"] for t in engine.tasks() if any(o["name"] == "best_of" for o in t["options"])}
    assert have == {"tts", "i_tts", "s_edit"}
    with pytest.raises(InputError, match="unknown input best_of"):
        engine.sound("three knocks on wood", best_of=2)


@pytest.mark.parametrize("value", [0, 17, 2.0, "3", True])
def test_the_number_is_checked(engine: Engine, value: object) -> None:
    with pytest.raises(InputError, match="best_of: expected a whole number from 1 to 16"):
        engine.tts("Hello.", best_of=value)


# The file


def test_models_without_the_table_say_so(tmp_path: Path) -> None:
    bare = make_joint_model(tmp_path / "bare")
    (bare / UNIT_PHONES).unlink()
    engine = Engine.from_pretrained(bare, threads=1)
    assert len(engine.tts("Hello.", seed=1, best_of=1).samples)
    with pytest.raises(InputError, match="does not hear which phones are spoken"):
        engine.stream("tts", text="Hello.", best_of=2)


def test_the_table_is_stored_and_checked(folder: Path, tmp_path: Path) -> None:
    assert load_folder(folder).unit_phones == pytest.approx(unit_phones(), rel=1e-2)
    with pytest.raises(InputError, match="wrong shape: probability"):
        add_unit_phones(folder, unit_phones()[:-1])
    copy = tmp_path / "copy"
    make_joint_model(copy)
    for wrong, message in (
        ({"probability": -unit_phones()}, "expected probabilities from 0 up"),
        ({"probability": unit_phones() * np.float32(np.nan)}, "NaN or infinity"),
        ({"probability": unit_phones()[:, 1:]}, "wrong shape"),
        ({"other": unit_phones()}, "missing"),
    ):
        save_tensors(copy / UNIT_PHONES, wrong)
        with pytest.raises(InputError, match=message):
            load_folder(copy)


def test_another_tokenizer_takes_the_table_away(tmp_path: Path) -> None:
    folder = make_joint_model(tmp_path / "joint")
    loaded = load_folder(folder)
    semantic = loaded.config.semantic
    assert isinstance(semantic, SemanticConfig) and len(loaded.unit_phones)
    add_semantic(folder, semantic, loaded.semantic, "float32")
    assert not (folder / UNIT_PHONES).exists() and not len(load_folder(folder).unit_phones)


def test_a_table_without_a_tokenizer_is_left_over(folder: Path, tmp_path: Path) -> None:
    from uniaudio_engine.storage.folder import _load_unit_phones

    config = dataclasses.replace(load_folder(folder).config, semantic=None)
    with pytest.raises(InputError, match="left over"):
        _load_unit_phones(folder / UNIT_PHONES, config, PHONES)
    assert PAUSE in PHONES
