"""Labels survive the round trip through JSON, and manifests are read strictly."""

import json

import numpy as np
import pytest

sf = pytest.importorskip("soundfile")
pytest.importorskip("scipy", reason="the corpus needs the train extra")

from uniaudio_training.corpus.pitch import cents, f0_track
from uniaudio_training.corpus.reading import CorpusError, open_corpus
from uniaudio_training.corpus.schema import (
    TASK_ROLES,
    TASKS,
    Edit,
    Instruction,
    Interferer,
    Label,
    Noise,
    Note,
    Phone,
    Room,
    SchemaError,
    Span,
    Track,
    Vibrato,
    Word,
)

FULL = Label(
    "svs-train-0000-0000",
    "svs",
    "train",
    {
        "target": Track(
            0,
            16000,
            "hello",
            "slt",
            (Phone("hh", 0.1), Phone("ow1", 1.0)),
            (Word("hello", 0.0, 1.0),),
        ),
        "prompt": Track(16000, 8000),
    },
    "a caption, é",
    {"count": 2, "hz": 440.5, "drums": True, "chords": ""},
    (Note(60, 0.0, 1.0, "hello"),),
    Vibrato(30.0, 5.5),
    Noise("sound", -2.5, "rain"),
    Interferer("awb", 1.0),
    Room(0.5, -3.0, 1.2, (3.0, 4.0, 2.5)),
    Edit("replace", Span(1, 2), Span(3, 5), "a", "b"),
    Instruction("man", "low", "fast", "quiet", 90.0, 15.0, -36.0),
)


def test_labels_survive_the_round_trip():
    line = FULL.line()
    assert "\n" not in line and Label.parse(line) == FULL == Label.parse(line.encode())
    small = Label("t2s-train-0000-0000", "t2s", "train", {"target": Track(0, 10)})
    assert Label.parse(small.line()) == small
    assert "noise" not in small.line() and "notes" not in small.line()
    with pytest.raises(ValueError):
        Label("x", "t2s", "train", {"target": Track(0, 1)}, parameters={"hz": float("nan")}).line()
    assert set(TASK_ROLES) == set(TASKS)


def _changed(**changes):
    data = json.loads(FULL.line())
    data.update(changes)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[" * 100000, "JSON"),
        ("[]", "expected an object"),
        ("{}", "id is missing"),
        (_changed(id=3), "label.id: expected str"),
        (_changed(wrong=1), "unknown key 'wrong'"),
        (_changed(tracks={"target": {"offset": 0}}), "label.tracks.target: samples is missing"),
        (_changed(tracks={"target": {"offset": True, "samples": 1}}), "expected int"),
        (_changed(notes=[[60, 0.0, 1.0]]), "expected [pitch, start, duration, lyric]"),
        (_changed(notes=[["C", 0.0, 1.0, "a"]]), "expected int"),
        (_changed(notes={}), "expected a list"),
    ],
)
def test_other_labels_are_refused(line, message):
    with pytest.raises(SchemaError) as e:
        Label.parse(line)
    assert message in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("hz", [75.0, 147.3, 262.0, 440.0])
def test_f0_of_a_harmonic_sound(hz):
    t = np.arange(16000) / 16000
    f0, strength = f0_track(
        0.1 * sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 12)), 60, 500
    )
    assert np.abs(cents(f0[20:-20], hz)).max() < 5 and strength[20:-20].min() > 0.95
    assert not f0_track(0.1 * np.random.default_rng(0).standard_normal(16000))[0][20:-20].any()
    assert not f0_track(np.zeros(8000))[0].any()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    sf.write(tmp_path / "a.wav", 0.1 * rng.standard_normal(16000), 16000)
    sf.write(tmp_path / "b.flac", 0.1 * rng.standard_normal((22050, 2)), 44100)
    sf.write(tmp_path / "c.wav", 0.1 * rng.standard_normal(16000), 16000)
    return tmp_path


def _manifest(folder, *rows):
    path = folder / "mine.jsonl"
    path.write_bytes(
        b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows) + b"\n"
    )
    return path


def test_recordings_give_the_same_examples(folder):
    path = _manifest(
        folder,
        {
            "audio": "a.wav",
            "text": "hello there",
            "speaker": "me",
            "phones": [["pau", 0.1], ["hh", 0.2]],
        },
        b"",
        {"audio": "b.flac", "text": "good bye", "speaker": "me"},
        {"audio": "c.wav", "text": "alone", "speaker": "you", "split": "test"},
        {"audio": "a.wav", "caption": "noise"},
        {"audio": "b.flac", "caption": "a tune", "task": "t2m"},
        {"audio": "a.wav", "score": [[60, 0.1, 0.5, "la"]], "text": "la"},
        {"audio": "a.wav", "source": "c.wav", "task": "se"},
        {
            "audio": "a.wav",
            "source": "b.flac",
            "task": "s_edit",
            "text": "new",
            "spans": [[0.1, 0.2], [0.1, 0.3]],
        },
    )
    corpus = open_corpus(path)
    assert corpus.tasks == ("tts", "se", "svs", "t2s", "t2m", "s_edit") and corpus.splits(
        "tts"
    ) == ("train", "test")
    first, second = corpus["tts", "train"]
    assert first.track().text == "hello there" and first.track().phones == (
        Phone("pau", 0.1),
        Phone("hh", 0.2),
    )
    assert first.track("prompt").text == "good bye" and second.track("prompt").text == "hello there"
    assert (
        np.array_equal(first.pcm("prompt"), second.pcm())
        and len(second.pcm()) == second.track().samples == 8000
    )
    assert corpus["tts", "test"][0].roles == ("target",)
    assert corpus["svs", "train"][0].label.notes == (Note(60, 0.1, 0.5, "la"),)
    assert corpus["se", "train"][0].audio("source").dtype == np.float32
    assert corpus["s_edit", "train"][0].label.edit.target == Span(1600, 4800)
    assert Label.parse(first.label.line()) == first.label


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"{", "expected a JSON object"),
        (b"[1]", "expected a JSON object"),
        (b"[" * 100000, "expected a JSON object"),
        (b"\xff\xfe", "expected a JSON object"),
        (b'{"audio": "' + b"a" * (1 << 20) + b'"}', "bytes a line"),
        ({"text": "x"}, "audio is missing"),
        ({"audio": "a.wav"}, "expected text, caption, score or task"),
        ({"audio": "none.wav", "text": "x"}, "no file"),
        ({"audio": "/dev/zero", "text": "x"}, "no file"),
        ({"audio": ".", "text": "x"}, "no file"),
        ({"audio": "a\0.wav", "text": "x"}, "expected a text"),
        ({"audio": "x" * 3000, "text": "x"}, "no file"),
        ({"audio": 3, "text": "x"}, "expected a text"),
        ({"audio": "mine.jsonl", "text": "x"}, "no sound that can be read"),
        ({"audio": "a.wav", "text": ["x"]}, "text: expected"),
        ({"audio": "a.wav", "text": "x", "extra": 1}, "unknown key"),
        ({"audio": "a.wav", "text": "x", "task": "opera"}, "task: expected one of"),
        ({"audio": "a.wav", "text": "x", "task": ["tts"]}, "task: expected one of"),
        ({"audio": "a.wav", "text": "x", "split": "dev"}, "split: expected one of"),
        ({"audio": "a.wav", "task": "se"}, "se needs source"),
        ({"audio": "a.wav", "source": "b.flac", "task": "se"}, "of one length"),
        ({"audio": "a.wav", "task": "i_tts", "text": "x"}, "i_tts needs caption"),
        ({"audio": "a.wav", "score": [[60, 0, 1]]}, "score: expected a list"),
        (b'{"audio": "a.wav", "score": [[60, NaN, 1, "a"]]}', "score start: expected a number"),
        ({"audio": "a.wav", "score": [[600, 0, 1, "a"]]}, "score pitch"),
        ({"audio": "a.wav", "score": [[60, 0.5, 0.1, "a"], [60, 0.2, 0.1, "b"]]}, "score start"),
        ({"audio": "a.wav", "text": "x", "phones": [["qq", 0.1]]}, "engine's phones"),
        ({"audio": "a.wav", "text": "x", "phones": [["hh", 7.0]]}, "phones: expected a number"),
        ({"audio": "a.wav", "text": "x", "phones": [[[], 0.1]]}, "engine's phones"),
        (
            {"audio": "a.wav", "source": "c.wav", "task": "s_edit", "text": "x", "spans": [[0, 1]]},
            "spans: expected two",
        ),
        (
            {
                "audio": "a.wav",
                "source": "c.wav",
                "task": "s_edit",
                "text": "x",
                "spans": [[0.5, 0.2], [0, 1]],
            },
            "spans: expected a number",
        ),
    ],
)
def test_hostile_manifests_get_one_line(folder, row, message):
    path = _manifest(folder, {"audio": "a.wav", "text": "fine"}, row)
    with pytest.raises(CorpusError) as e:
        open_corpus(path)
    assert (
        message in str(e.value)
        and "line 2" in str(e.value)
        and "\n" not in str(e.value)
        and len(str(e.value)) < 500
    )


def test_what_is_no_corpus_gets_one_line(tmp_path):
    for name, content in (("empty.jsonl", ""), ("other.txt", "x")):
        (tmp_path / name).write_text(content)
        with pytest.raises(CorpusError):
            open_corpus(tmp_path / name)
    with pytest.raises(CorpusError, match="no shards"):
        open_corpus(tmp_path / "sub") if (tmp_path / "sub").mkdir() else open_corpus(
            tmp_path / "sub"
        )
    with pytest.raises(CorpusError, match="nothing"):
        open_corpus(tmp_path / "none")


def test_long_and_broken_sounds_are_refused(folder):
    sf.write(folder / "long.wav", np.zeros(8000 * 601, np.int16), 8000)
    with pytest.raises(CorpusError, match="0.02 to 600 s"):
        open_corpus(_manifest(folder, {"audio": "long.wav", "text": "x"}))
    (folder / "half.wav").write_bytes((folder / "a.wav").read_bytes()[:30])
    with pytest.raises(CorpusError, match="no sound"):
        open_corpus(_manifest(folder, {"audio": "half.wav", "text": "x"}))
    nan = np.full(8000, np.nan, np.float32)
    sf.write(folder / "nan.wav", nan, 16000, subtype="FLOAT")
    assert (
        not open_corpus(_manifest(folder, {"audio": "nan.wav", "text": "x"}))["tts", "train"][0]
        .pcm()
        .any()
    )
