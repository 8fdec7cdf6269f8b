"""``uniaudio-train corpus``: small corpora, wrong arguments, and missing programs."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the corpus needs the train extra")
pytest.importorskip("tqdm", reason="the corpus needs the train extra")

from uniaudio_training.corpus import (
    make,
    music,
    sentences,
)
from uniaudio_training.corpus.shards import (
    read_manifest,
)


def test_a_small_corpus_is_the_beginning_of_a_larger_one(tmp_path, capsys):
    """Hours below one shard make a part of it, which grows when more is wanted."""

    def made(hours, folder):
        out = tmp_path / folder
        arguments = ["--tasks", f"t2s={hours}", "--workers", "1", "--out", str(out)]
        assert make.main(["make", *arguments]) == 0
        return out, read_manifest(out)

    folder, first = made(0.004, "grown")
    beginning = np.load(folder / "t2s-train-0000.npy")
    assert 14.4 <= first["shards"]["t2s-train-0000"]["seconds"] < 25
    assert 2.88 <= first["shards"]["t2s-valid-0000"]["seconds"] < 12
    assert make.main(["check", str(folder), "--examples", "1", "--remake", "3"]) == 0
    _, same = made(0.003, "grown")  # what is there is enough
    assert same["shards"] == first["shards"]
    _, grown = made(0.01, "grown")
    assert grown["shards"]["t2s-train-0000"]["seconds"] >= 36
    after = np.load(folder / "t2s-train-0000.npy")
    assert np.array_equal(after[: len(beginning)], beginning)
    assert made(0.01, "at once")[1]["shards"] == grown["shards"]


def test_what_is_not_installed_is_said_before_work_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(music, "SOUNDFONT", tmp_path / "absent.sf2")
    monkeypatch.setattr(sentences, "WORDNET", tmp_path / "absent")
    wanted = ["make", "--tasks", "t2s=0.001,se=0.001", "--out", str(tmp_path / "out")]
    assert make.main(wanted) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "fluid-soundfont-gm" in error and "wordnet-base" in error
    assert not list((tmp_path / "out").glob("*.npy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "opera"], "expected TASK or TASK=HOURS"),
        (["--tasks", "t2s=x"], "expected TASK or TASK=HOURS"),
        (["--tasks", "t2s=-1"], "expected TASK or TASK=HOURS"),
        (["--tasks", "t2s", "--hours", "nan"], "expected TASK or TASK=HOURS"),
        (["--tasks", "t2s", "--splits", "dev"], "--splits"),
        (["--tasks", "t2s", "--workers", "0"], "--workers"),
    ],
)
def test_wrong_arguments_get_one_line(arguments, message, tmp_path, capsys):
    assert make.main(["make", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("extra", [[], ["make"], ["check"], ["show"]])
def test_help_has_an_example(extra, capsys):
    with pytest.raises(SystemExit) as stopped:
        make.main([*extra, "--help"])
    assert stopped.value.code == 0 and "example: uniaudio-train corpus" in capsys.readouterr().out
