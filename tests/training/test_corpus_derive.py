"""Pairs derived from recordings have correct labels."""

import numpy as np
import pytest
from uniaudio_training.corpus import degrade, derive
from uniaudio_training.corpus.pitch import f0_track
from uniaudio_training.corpus.reading import CorpusError, open_corpus
from uniaudio_training.corpus.schema import Label, Phone, Track, Word

RATE = 16000


def voice(hz: float, seconds: float = 3.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    x = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 12))
    return (0.1 * x * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    words = tuple(
        Word(w, 0.3 + 0.6 * i, 0.8 + 0.6 * i) for i, w in enumerate("come here my friend".split())
    )
    phones = [Phone("pau", 0.3)]
    for i in range(30):
        phones.append(Phone("m", 0.3 + 0.08 * (i + 1)))
    phones.append(Phone("pau", 3.0))
    pcm, lines = [], []
    for i in range(6):
        pcm.append(degrade.to_pcm(voice((120, 190)[i % 2] + i)))
        track = Track(
            3 * RATE * i, 3 * RATE, "come here my friend", "ab"[i % 2], tuple(phones), words
        )
        lines.append(Label(f"tts-train-0000-{i:04d}", "tts", "train", {"target": track}).line())
    np.save(folder / "tts-train-0000.npy", np.concatenate(pcm))
    (folder / "tts-train-0000.jsonl").write_text("\n".join(lines) + "\n")
    sounds = tmp_path_factory.mktemp("sounds")
    np.save(
        sounds / "t2s-train-0000.npy",
        np.random.default_rng(0).integers(-3000, 3000, RATE).astype(np.int16),
    )
    label = Label("t2s-train-0000-0000", "t2s", "train", {"target": Track(0, RATE)}, caption="rain")
    (sounds / "t2s-train-0000.jsonl").write_text(label.line() + "\n")
    return folder, sounds


@pytest.fixture(scope="module")
def derived(corpora, tmp_path_factory):
    out = tmp_path_factory.mktemp("derived")
    speech, sounds = map(str, corpora)
    how = derive.Deriving(speech, (sounds,), str(out), 0)
    seconds, derive.SHARD_SECONDS = derive.SHARD_SECONDS, 20.0
    try:
        derive.derive(how, dict.fromkeys(derive.TASKS, 0.001), ["train"])
    finally:
        derive.SHARD_SECONDS = seconds
    return open_corpus(out)


def test_all_tasks_have_the_roles_of_the_schema(derived):
    assert set(derived.tasks) == set(derive.TASKS)
    for task in derived.tasks:
        for example in derived[task, "train"]:
            assert example.track().speaker in ("a", "b")
            for role in example.roles:
                assert len(example.pcm(role)) == example.track(role).samples


def test_clean_up_pairs_are_exact(derived):
    kinds = set()
    for task in ("se", "tse"):
        for example in derived[task, "train"]:
            label = example.label.noise or example.label.interferer
            kinds.add(getattr(label, "kind", ""))
            assert len(example.pcm("source")) == len(example.pcm())
            assert degrade.snr_db(example.pcm(), example.pcm("source")) == pytest.approx(
                label.snr_db, abs=0.01
            )
    assert "sound" in kinds
    for example in derived["tse", "train"]:
        assert (
            example.label.interferer.speaker
            != example.track().speaker
            == example.track("prompt").speaker
        )


def test_another_throat_moves_pitch_and_keeps_timing():
    x = voice(150)
    y = derive.shifted_voice(x, 1.25)
    assert len(y) == len(x)
    f0, _ = f0_track(y, 60.0, 400.0)
    assert np.median(f0[f0 > 0]) == pytest.approx(150 * 1.25, rel=0.02)
    a, b = ((v[: len(v) // 800 * 800].reshape(-1, 800) ** 2).mean(1) for v in (x, y))
    assert np.corrcoef(a[2:-2], b[2:-2])[0, 1] > 0.9


def test_speech_edits_are_equal_outside_their_spans(derived):
    for example in derived["s_edit", "train"]:
        edit = example.label.edit
        source, target = example.pcm("source"), example.pcm()
        assert np.array_equal(source[: edit.source.start], target[: edit.target.start])
        assert np.array_equal(source[edit.source.end :], target[edit.target.end :])
        assert edit.added in ("here", "my", "here my") and edit.removed


def test_instructions_say_what_is_measured(derived):
    for example in derived["i_tts", "train"]:
        label = example.label.instruction
        assert label.voice == ("woman" if label.f0_hz > derive.WOMAN_HZ else "man")
        assert example.label.caption and label.gain in ("quiet", "medium", "loud")


def test_what_cannot_be_derived(tmp_path, capsys):
    assert derive.main([str(tmp_path), "--tasks", "svs=1", "--out", str(tmp_path / "o")]) == 2
    assert "some of vc, se" in capsys.readouterr().err
    np.save(tmp_path / "tts-train-0000.npy", degrade.to_pcm(voice(120)))
    line = Label(
        "tts-train-0000-0000", "tts", "train", {"target": Track(0, 3 * RATE, "x", "a")}
    ).line()
    (tmp_path / "tts-train-0000.jsonl").write_text(line + "\n")
    material = derive.Material(open_corpus(tmp_path)["tts", "train"], [])
    for task, text in (("tse", "two speakers"), ("i_tts", "align"), ("s_edit", "align")):
        with pytest.raises(CorpusError, match=text):
            derive.TASKS[task](np.random.default_rng(0), material)
