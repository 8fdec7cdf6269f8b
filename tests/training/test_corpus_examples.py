"""The shipped examples equal the output of the corpus code."""

import numpy as np
import pytest
import soundfile

pytest.importorskip("scipy", reason="the corpus needs the train extra")

from uniaudio_training.corpus import examples
from uniaudio_training.corpus.flite import flite
from uniaudio_training.corpus.sentences import WORDNET

from uniaudio_engine.cli.examples import example_files
from uniaudio_engine.request.task_table import TASKS

SHIPPED = {p.name: p for p in example_files()}


def _need_speech():
    try:
        flite()
    except RuntimeError:
        pytest.skip("flite is not installed")
    if not WORDNET.is_dir():
        pytest.skip("WordNet is not installed")


def test_every_file_has_a_maker():
    made = {*examples.CLIPS, *examples.SCRIPTS, "song.txt", "song.musicxml", "README.md"}
    assert made == SHIPPED.keys()


@pytest.mark.parametrize(
    "name", ["rain.flac", "speech.flac", "voice.flac", "sentence.flac"]
)  # the other shards take seconds each
def test_a_file_is_what_is_drawn(name):
    clip = examples.CLIPS[name]
    if clip.task != "a_edit":
        _need_speech()
    pcm, label = examples.draw(clip)
    shipped, rate = soundfile.read(SHIPPED[name], dtype="int16")
    assert rate == 16000 and len(shipped) == len(pcm)
    assert (
        np.abs(shipped.astype(int) - pcm).max() <= 2
    )  # equal; 2 for other versions of SciPy and soxr
    assert clip.what(label) in SHIPPED["README.md"].read_text(encoding="utf-8")
    if name == "rain.flac":
        assert f'"{label.caption}"' in TASKS["a_edit"].example
    if name == "sentence.flac":
        words = TASKS["s_edit"].example.split()
        begin, end = (float(t) for t in words[words.index("--span") + 1].split(":"))
        (word,) = [w for w in label.tracks["source"].words if w.word == label.edit.removed]
        assert (
            words[2] == label.edit.added
            and begin <= word.start < begin + 0.02
            and end - 0.02 < word.end <= end
        )
