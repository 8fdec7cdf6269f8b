"""The durations of the text-to-speech model become phone times."""

import numpy as np
import pytest
from uniaudio_training.corpus import teacher
from uniaudio_training.corpus.reading import open_corpus

from uniaudio_engine.text import sentence_words

RATE = 16000


class Tones:
    """A teacher that says each token for five units: loud for phones, silent for marks and ends."""

    def speak(self, s, voice, speed=1.0):
        units = np.full(len(s.symbols) + 2, 5, np.int64)
        units[0] = units[-1] = 16
        loud = np.array([False, *(c not in ".,?! " for c in s.symbols), False])
        n = round(teacher.FRAME * RATE)
        x = np.repeat(loud, units * n).astype(np.float32)
        x *= 0.2 * np.sin(np.arange(len(x)) * 0.1).astype(np.float32)
        lead = round(teacher.LEAD * RATE)  # sound is ahead of the borders
        return np.concatenate((x[lead:], np.zeros(lead, np.float32))), units

    def style(self, voice):
        return np.zeros((510, 256), np.float32)


def test_spelling():
    assert teacher.spelt(["w", "ao1", "t", "er0"]) == [
        ("w", 0),
        ("ˈ", 1),
        ("ɔ", 1),
        ("t", 2),
        ("ə", 3),
        ("ɹ", 3),
    ]
    assert teacher.spelt(["dh", "ax0"]) == [("ð", 0), ("ə", 1)]
    assert ("ˈ", 0) not in teacher.spelt(["ae1", "n", "d"])  # a sentence does not stress it


def test_script_has_spaces_between_words_and_marks_at_pauses():
    s = teacher.script(sentence_words("Come here, Anna."))
    assert s.phones[0] == s.phones[-1] == "pau"
    assert s.symbols.count(",") == 1 and s.symbols[-1] == "." and s.symbols[0] == "k"
    assert len(s.symbols) == len(s.owner)
    assert [s.phones[k] for k in s.finals] == ["m", "r", "ax0"]


def test_a_sentence_has_its_phones_in_time():
    spoken = teacher.speak(Tones(), "The early light came over the water, and we walked.", "x")
    seconds = len(spoken.samples) / RATE
    ends = [p.end for p in spoken.phones]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(seconds)
    assert spoken.phones[0].phone == spoken.phones[-1].phone == "pau"
    assert [w.word for w in spoken.words][:3] == ["the", "early", "light"]
    said = [p for w in sentence_words(spoken.text) for p in w if p != "pau"]
    assert [p.phone for p in spoken.phones if p.phone != "pau"] == said
    for a, b in zip(spoken.phones[1:-2], spoken.phones[2:-1], strict=True):
        assert b.end - a.end >= teacher.LEAST_PHONE - 1e-9


def test_pauses_are_where_it_is_quiet():
    phones = ["pau", "k", "ah1", "m", "hh", "ih1", "r", "pau"]
    ends = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.3]
    quiet = [(0.0, 0.25), (0.58, 0.68), (0.92, 1.3)]
    found = teacher.place(1.3, quiet, phones, [3, 6], ends)
    assert [p for p, _ in found] == ["pau", "k", "ah1", "m", "pau", "hh", "ih1", "r", "pau"]
    assert dict(found[:1]) == {"pau": 0.25}
    assert found[3] == ("m", 0.58) and found[4] == ("pau", 0.68) and found[7] == ("r", 0.92)


def test_silences():
    x = np.concatenate((np.zeros(RATE // 2), np.sin(np.arange(RATE)), np.zeros(RATE // 2)))
    (a, b), (c, d) = teacher.silences(x.astype(np.float32))
    assert (a, d) == (0.0, 2.0) and abs(b - 0.5) < 0.02 and abs(c - 1.5) < 0.02


def test_shards_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "SHARD_SECONDS", 20.0)
    monkeypatch.setattr(
        teacher.sentences,
        "draw_sentence",
        lambda rng, split: (
            f"peter found the red {('table', 'letter', 'candle')[int(rng.integers(3))]}"
        ),
    )
    hours = 30 / 3600
    teacher.make(Tones(), tmp_path, "train", hours, 0, ("a", "b"))
    examples = open_corpus(tmp_path)["tts", "train"]
    assert len(examples) % teacher.GROUP == 0
    assert examples[0].track().speaker.startswith("kokoro-")
    assert examples[0].track("prompt").speaker == examples[0].track().speaker
    before = {p.name: p.read_bytes() for p in tmp_path.glob("tts-*")}
    (tmp_path / "tts-train-0001.jsonl").unlink()
    teacher.make(Tones(), tmp_path, "train", hours, 0, ("a", "b"))
    assert {p.name: p.read_bytes() for p in tmp_path.glob("tts-*")} == before


def test_a_folder_without_the_model(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert teacher.main(["kokoro", "--model", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "kokoro.onnx" in capsys.readouterr().err
