"""Metrics on inputs with a known result, and the simple parts of a report."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="the training package needs torch (the train extra)")

from uniaudio_training.evaluate import metrics as m
from uniaudio_training.evaluate.command import main
from uniaudio_training.evaluate.rows import Row, mean_row, rate_row, table


@pytest.mark.parametrize(
    ("said", "heard", "expected"),
    [
        ("a b c", "a b c", (0, 0, 0, 3)),
        ("a b c", "a x c", (1, 0, 0, 3)),
        ("a b c", "a c", (0, 1, 0, 3)),
        ("a b c", "a b b c", (0, 0, 1, 3)),
        ("a b c", "", (0, 3, 0, 3)),
        ("", "a b", (0, 0, 2, 0)),
        ("k ih t ax n", "s ih t ih ng g", (3, 0, 1, 5)),
    ],
)
def test_edit_errors(said, heard, expected):
    e = m.edit_errors(said.split(), heard.split())
    assert (e.substitutions, e.deletions, e.insertions, e.reference) == expected


def test_edits_are_a_distance():
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b, c = ([str(x) for x in rng.integers(4, size=rng.integers(8))] for _ in range(3))
        ab, ba = m.edit_errors(a, b), m.edit_errors(b, a)
        assert ab.edits == ba.edits
        assert (ab.insertions - ab.deletions) == len(b) - len(a)
        assert m.edit_errors(a, c).edits <= ab.edits + m.edit_errors(b, c).edits


def test_error_rate_weighs_by_length():
    rows = [m.edit_errors("a b c d".split(), "a b c d".split()), m.edit_errors(["a"], ["b"])]
    assert m.error_rate(rows) == pytest.approx(1 / 5)
    assert m.error_rate([m.edit_errors(["a"], ["b", "c", "d"])]) == 3.0
    assert math.isnan(m.error_rate([]))


def test_words_and_phones():
    assert m.words("Don't go, Dr. O'Brien's; 'yes'!") == ["don't", "go", "dr", "o'brien's", "yes"]
    assert m.plain_phones(["pau", "hh", "ax0", "l", "ow1", "pau"]) == ["hh", "ax", "l", "ow"]


def test_cosine():
    a = np.array([1.0, 2.0, 0.0])
    assert m.cosine(a, 3 * a) == pytest.approx(1.0)
    assert m.cosine(a, -a) == pytest.approx(-1.0)
    assert m.cosine(a, np.array([0.0, 0.0, 5.0])) == 0.0
    assert m.cosine(a, np.zeros(3)) == 0.0


def test_log_mel_distance_is_zero_on_equal_and_grows_with_noise():
    rng = np.random.default_rng(0)
    t = np.arange(16000) / 16000
    x = (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t)).astype(np.float32)
    noise = rng.standard_normal(len(x)).astype(np.float32)
    assert m.log_mel_distance(x, x, 16000) == 0.0
    distances = [m.log_mel_distance(x, x + g * noise, 16000) for g in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert all(a < b for a, b in zip([0.0, *distances], distances, strict=False))
    assert m.log_mel_distance(x, x[:8000], 16000) > 2.0  # a missing half is not forgiven


def test_log_mel_is_in_decibels_of_full_scale():
    x = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert m.log_mel(x, 16000)[10:-10].max() == pytest.approx(0.0, abs=1.5)
    steady = m.log_mel(0.01 * x, 16000)[30].max() - m.log_mel(0.1 * x, 16000)[30].max()
    assert steady == pytest.approx(-20.0, abs=0.1)
    assert m.log_mel(0 * x, 16000) == pytest.approx(-80.0)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_filters_have_unit_area_and_rising_centres(scale):
    f = m.mel_filters(16000, 4096, 40, 50.0, 7600.0, scale)
    assert f.sum(1) * 16000 / 4096 == pytest.approx(np.ones(40), abs=0.05)
    assert (np.diff(f.argmax(1)) > 0).all()


def test_codebook_use():
    even = np.stack([np.arange(1000) % 8, np.zeros(1000, int)])
    used, perplexity = m.codebook_use([even[:, :400], even[:, 400:]], 16)
    assert used == [0.5, 1 / 16]
    assert perplexity == pytest.approx([8.0, 1.0])


def test_interval_holds_the_mean_and_narrows():
    rng = np.random.default_rng(0)

    def mean(rows):
        return float(np.mean(rows))

    wide = m.interval([[float(x)] for x in rng.normal(3, 1, 20)], mean)
    narrow = m.interval([[float(x)] for x in rng.normal(3, 1, 2000)], mean)
    assert wide[0] < 3 < wide[1] and narrow[0] < 3 < narrow[1]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 3
    assert m.interval([[1.0], [2.0]], mean) == m.interval([[1.0], [2.0]], mean)


def test_rows_know_their_goal():
    errors = m.edit_errors("a b c d e f g h i j".split(), "a b c d e f g h i x".split())
    row = rate_row(
        "tts", "grammar WER", [[errors], [errors]], "clips", ceiling=0.01, ceiling_count=2
    )
    assert (row.value, row.count, row.verdict) == (pytest.approx(0.1), 2, "floor")
    assert mean_row("codec", "PESQ-wb @ 8", [[2.7]], "clips").verdict == "goal"
    assert mean_row("codec", "PESQ-wb @ 4", [[1.2]], "clips").verdict == "below"
    assert Row("codec", "ESTOI @ 8", 0.9, 1, "clips").verdict == ""
    loaded = json.loads(json.dumps(row.as_json(), allow_nan=False))
    assert (
        loaded["goal"] == 0.05
        and loaded["codec_ceiling"] is None
        and loaded["details"]["said"] == 20
    )
    text = table([row])
    assert "grammar WER" in text and "0.100" in text and "2 clips" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "x", "--task", "sing"], "--task: expected some of tts, codec, got 'sing'"),
        (["--model", "x", "--limit", "0"], "--limit: expected 1 or more, got 0"),
    ],
)
def test_wrong_arguments_give_one_line(arguments, says, capsys):
    assert main(arguments) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err == f"uniaudio-train evaluate: error: {says}\n"


def test_missing_judges_are_named_at_once(monkeypatch, capsys):
    from uniaudio_training.evaluate import judges

    monkeypatch.setitem(judges.PACKAGES, "no_such_module_a", "package-a")
    monkeypatch.setitem(judges.PACKAGES, "no_such_module_b", "package-b")
    assert main(["--model", "no/such/folder", "--task", "tts"]) == 2
    error = capsys.readouterr().err
    assert "package-a, package-b" in error and error.count("\n") == 1
