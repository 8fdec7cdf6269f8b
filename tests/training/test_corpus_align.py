"""Viterbi alignment of a text's phones, and a corpus with the aligned times."""

import itertools

import numpy as np
import pytest
import torch
from uniaudio_training.corpus import align, align_command
from uniaudio_training.corpus.reading import open_corpus
from uniaudio_training.corpus.schema import Label, Phone, Track

from uniaudio_engine.tokenizers.alignment import best_path


def scores_of(classes: list[int], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    x = np.full((len(classes), len(align.PLAIN)), -6.0, np.float32)
    x[np.arange(len(classes)), classes] = -0.1
    return x + noise * np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)


def brute(scores, states, optional, least):
    """All segmentations; the best sum."""
    best = -np.inf
    t = len(scores)
    for kept in itertools.product(*[(0, 1) if o else (1,) for o in optional]):
        chosen = [s for s, k in zip(states, kept, strict=True) if k]
        for cuts in itertools.combinations(range(1, t), len(chosen) - 1):
            bounds = (0, *cuts, t)
            if min(b - a for a, b in itertools.pairwise(bounds)) < least:
                continue
            total = sum(
                scores[a:b, s].sum()
                for s, (a, b) in zip(chosen, itertools.pairwise(bounds), strict=True)
            )
            best = max(best, total)
    return best


def test_the_path_is_the_best_one():
    rng = np.random.default_rng(3)
    for trial in range(30):
        scores = rng.standard_normal((9, 4)).astype(np.float32)
        states = [0, 1, 0, 2, 0][: 3 + 2 * (trial % 2)]
        optional = [s == 0 for s in states]
        path = best_path(scores, states, optional, least=2)
        total = sum(
            scores[a:b, s].sum() for s, (a, b) in zip(states, itertools.pairwise(path), strict=True)
        )
        assert total == pytest.approx(brute(scores, states, optional, 2), abs=1e-4)
        assert all(
            b - a >= 2 for s, (a, b) in zip(states, itertools.pairwise(path), strict=True) if s
        )


def test_no_room():
    scores = np.zeros((3, 4), np.float32)
    assert best_path(scores, [1, 2], [False, False], least=2) is None


def test_align_finds_borders_and_pauses():
    words = [["pau"], ["k", "ah1", "m"], ["hh", "ih1", "r"], ["pau"]]
    order = [
        ("pau", 10),
        ("k", 6),
        ("ah", 9),
        ("m", 7),
        ("pau", 12),
        ("hh", 5),
        ("ih", 8),
        ("r", 9),
        ("pau", 4),
    ]
    classes = [align._ID[p] for p, n in order for _ in range(n)]
    found = align.align(scores_of(classes, 0.5), words, len(classes) * align.STEP)
    assert [p.phone for p in found.phones] == [
        "pau",
        "k",
        "ah1",
        "m",
        "pau",
        "hh",
        "ih1",
        "r",
        "pau",
    ]
    ends = np.cumsum([n for _, n in order]) * align.STEP
    assert np.abs(np.array([p.end for p in found.phones]) - ends).max() < 0.011
    assert found.score > align.LEAST_SCORE
    wrong = align.align(
        scores_of(classes), [["s", "iy1", "z"], ["zh", "uw1"]], len(classes) * align.STEP
    )
    assert wrong.score < align.LEAST_SCORE


def test_a_clip_without_silence_has_pauses_all_the_same():
    classes = [align._ID[p] for p in ("k", "ah", "m") for _ in range(6)]
    found = align.align(scores_of(classes), [["k", "ah1", "m"]], 0.18)
    assert [p.phone for p in found.phones] == ["pau", "k", "ah1", "m", "pau"]
    ends = [p.end for p in found.phones]
    assert ends == sorted(ends) and ends[-1] == 0.18


def test_classes_of():
    got = align.classes_of([Phone("pau", 0.02), Phone("k", 0.05)], 7)
    assert got.tolist() == [align._ID["pau"]] * 2 + [align._ID["k"]] * 3 + [-1] * 2


def corpus(folder, count=4):
    folder.mkdir()
    rng = np.random.default_rng(0)
    phones = (Phone("pau", 0.2), Phone("s", 0.5), Phone("iy1", 0.8), Phone("pau", 1.0))
    pcm, lines = [], []
    for i in range(count):
        x = np.zeros(16000)
        x[3200:8000] = 0.2 * rng.standard_normal(4800)
        x[8000:12800] = 0.3 * np.sin(np.arange(4800) * 0.1)
        pcm.append((x * 32767).clip(-32767, 32767).astype(np.int16))
        track = Track(16000 * i, 16000, "see", "a", phones)
        prompt = Track(16000 * ((i + 1) % count), 16000, "see", "a", phones)
        lines.append(
            Label(
                f"tts-train-0000-{i:04d}", "tts", "train", {"target": track, "prompt": prompt}
            ).line()
        )
    np.save(folder / "tts-train-0000.npy", np.concatenate(pcm))
    (folder / "tts-train-0000.jsonl").write_text("\n".join(lines) + "\n")


def test_train_align_and_measure(tmp_path, capsys):
    torch.manual_seed(0)
    corpus(tmp_path / "exact")
    run = tmp_path / "run"
    arguments = [
        "train",
        "--exact",
        str(tmp_path / "exact"),
        "--out",
        str(run),
        "--batch",
        "4",
        "--steps",
    ]
    assert align_command.main([*arguments, "30"]) == 0
    model = align.Aligner.load(run)
    errors = align.border_errors(model, tmp_path / "exact", "train", 4)
    assert errors["missed clips"] == 0 and errors["median"] < 0.05
    report = align.align_corpus(model, tmp_path / "exact", tmp_path / "out", ["train"])
    assert report["kept"] == 4
    example = open_corpus(tmp_path / "out")["tts", "train"][0]
    assert [p.phone for p in example.track().phones] == ["pau", "s", "iy1", "pau"]
    assert example.track().words[0].word == "see" and example.track("prompt").phones
    assert (
        align_command.main(["test", str(tmp_path / "exact"), "--aligner", str(tmp_path / "none")])
        == 2
    )
    assert "no aligner" in capsys.readouterr().err
