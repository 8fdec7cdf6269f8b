"""Judges of real speech: what needs no weights of theirs."""

import numpy as np
import pytest
from uniaudio_training.corpus.reading import CorpusError
from uniaudio_training.corpus.schema import Label, Track
from uniaudio_training.evaluate import mos, real
from uniaudio_training.evaluate.judges import JudgeMissing

RATE = 16000


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    lines, pcm = [], []
    for i in range(8):
        n = 4 * RATE if i != 7 else RATE  # the last is too short to be judged
        pcm.append((2000 * rng.standard_normal(n)).astype(np.int16))
        track = Track(4 * RATE * i, n, f"Number {i}.", "ab"[i % 2])
        lines.append(Label(f"tts-test-0000-{i:04d}", "tts", "test", {"target": track}).line())
    np.save(tmp_path / "tts-test-0000.npy", np.concatenate(pcm))
    (tmp_path / "tts-test-0000.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_readings_are_of_all_speakers_and_the_same_ones(corpus):
    first, again = real.readings(corpus, 4), real.readings(corpus, 4)
    assert [c.id for c in first] == [c.id for c in again]
    assert [c.speaker for c in first] == ["a", "b", "a", "b"]
    assert len(real.readings(corpus, 100)) == 7


def test_judging_a_copy(corpus):
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    clips = real.readings(corpus, 2)
    heard = iter([["number"], ["number", "four"]])
    row = real.judge(clips, lambda x: 0.5 * x, lambda x: next(heard), mos=False)
    assert row["ESTOI"] > 0.99 and row["clips"] == 2 and 0 < row["WER"] < 1
    text = real.table({"half": row, "original": {"WER": 0.0, "clips": 2}})
    assert text.splitlines()[0].startswith("| | PESQ-wb") and text.count("\n") == 3


def test_a_copy_that_is_late_is_moved_back():
    x = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    late = np.concatenate((np.zeros(312, np.float32), x))
    assert np.abs(real.aligned(x, late) - x).max() < 1e-6
    early = real.aligned(x, x[100:])
    assert len(early) == len(x) and np.abs(early[100:-100] - x[100:-100]).max() < 1e-6


def test_words_that_recognisers_and_scripts_share():
    assert mos.heard_words("Mr. Smith’s 2 well-known cats") == [
        "mister",
        "smith's",
        "two",
        "well",
        "known",
        "cats",
    ]


def test_slaney_filters():
    f = mos.slaney_filters(161, 120, 16000)
    assert f.shape == (120, 161) and (f >= 0).all()
    hz = np.linspace(0, 8000, 161)
    centres = (f * hz).sum(1) / np.maximum(f.sum(1), 1e-12)
    assert (np.diff(centres[f.sum(1) > 0]) > -1e-9).all()
    wide = f[100]  # unit area over hertz
    assert np.trapezoid(wide, hz) == pytest.approx(1, abs=0.05)


def test_opus_is_aligned_and_as_large_as_asked():
    pytest.importorskip("av")
    t = np.arange(3 * RATE) / RATE
    x = (0.3 * np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 3 * t)) / 2).astype(np.float32)
    copy, rate = real.opus(x, 24)
    assert len(copy) == len(x) and 2 < rate < 30
    assert np.corrcoef(x, copy)[0, 1] > 0.95


def test_what_is_missing_is_said(tmp_path, capsys):
    with pytest.raises(JudgeMissing, match="model.bin"):
        mos.Whisper(tmp_path)
    with pytest.raises(CorpusError):
        real.readings(tmp_path, 4)
    assert real.main(["--corpus", str(tmp_path / "none")]) == 2
    assert "error" in capsys.readouterr().err
