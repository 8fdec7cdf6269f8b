"""Text in the engine and on the command line: pauses, rates, user pronunciations, word times, and
text from standard input.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import make_tiny_model

from uniaudio_engine import Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.request.timing import subtitles

TEXT = "Hello there. [pause 0.6] <b>Read</b> 42 lines."


def spoken(meta: dict[str, Any]) -> list[str]:
    return [w["word"] for w in meta["words"] if w["word"]]


def length(word: dict[str, Any]) -> float:
    return round(word["end"] - word["start"], 6)


def test_times_of_words_and_phones(engine: Engine) -> None:
    audio = engine.tts(TEXT, seed=3)
    words = audio.meta["words"]
    assert spoken(audio.meta) == ["hello", "there", "read", "forty", "two", "lines"]
    assert words[0]["start"] == 0 and words[-1]["end"] == pytest.approx(audio.seconds)
    for one, two in zip(words, words[1:], strict=False):
        assert one["end"] == two["start"]
    for word in words:
        assert word["phones"][0]["start"] == word["start"]
        assert word["phones"][-1]["end"] == word["end"]
    parts = [TEXT[slice(*w["characters"])] for w in words if w["word"]]
    assert parts == ["Hello", "there", "Read", "42", "42", "lines"]
    assert [w["sentence"] for w in words if w["word"]] == [0, 0, 1, 1, 1, 1]
    json.dumps(audio.meta["words"])


def test_pauses_are_as_long_as_asked(engine: Engine) -> None:
    words = engine.tts(TEXT, seed=3).meta["words"]
    (last,) = [
        w for w, after in zip(words, words[1:], strict=False) if after["sentence"] != w["sentence"]
    ]
    assert not last["word"] and length(last) == 0.6
    first = engine.tts("[pause 1.5]Hello", seed=3).meta["words"][0]
    assert not first["word"] and length(first) == 1.5
    words = engine.tts("One.\n\nTwo.\n\nThree.", seed=3, paragraph_pause=0.9).meta["words"]
    ends = [
        w
        for w, after in zip(words, [*words[1:], None], strict=True)
        if after is None or after["sentence"] != w["sentence"]
    ]
    assert [length(w) for w in ends] == [0.9] * 3


def test_pauses_and_rates_stream_and_batch_as_alone(engine: Engine) -> None:
    text = '<speak>One<break time="300ms"/><prosody rate="200%">two three</prosody></speak>'
    audio = engine.tts(text, seed=3)
    for sizes in ([1], [7], [1000]):
        with engine.stream("tts", text=text, seed=3, chunk_frames=sizes) as stream:
            chunks = list(stream)
        assert np.array_equal(np.concatenate([c.samples for c in chunks]), audio.samples)
        assert stream.meta["words"] == audio.meta["words"]
    batch = engine.generate_batch([{"text": text, "seed": 3}, {"text": "Other words.", "seed": 4}])
    assert np.array_equal(batch[0].samples, audio.samples)
    assert batch[0].meta["words"] == audio.meta["words"]
    assert spoken(batch[1].meta) == ["other", "words"]


def test_a_rate_scales_the_planned_durations(engine: Engine) -> None:
    slow, fast = (
        engine.tts(f'<speak><prosody rate="{rate}">two three four</prosody></speak>', seed=3)
        for rate in (1, 2)
    )
    assert slow.meta["words"][-1]["end"] == pytest.approx(
        2 * fast.meta["words"][-1]["end"], abs=0.1
    )
    both = engine.tts(
        '<speak><prosody rate="2">two three four</prosody></speak>', seed=3, speed=0.5
    )
    assert both.meta["words"] == slow.meta["words"]


def test_a_sentence_that_is_split_keeps_its_pause_and_words(engine: Engine) -> None:
    text = "word " * 40 + "[pause 0.5] end"
    engine.model.capacity = 400
    words = engine.tts(text, seed=3).meta["words"]
    assert [w["word"] for w in words if w["word"]] == ["word"] * 40 + ["end"]
    assert [length(w) for w in words if not w["word"] and length(w) == 0.5] == [0.5]


def test_phones_have_times_too(engine: Engine) -> None:
    words = engine.generate("tts", phones="pau hh ax0 pau l ow1 pau", seed=3).meta["words"]
    assert [w["word"] for w in words] == ["", "hh ax0", "", "l ow1", ""]


def test_own_pronunciations(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("kokoro k ax k ao1 r ow0\n")
    by_file = engine.tts("Kokoro", seed=3, lexicon=path)
    by_table = engine.tts("Kokoro", seed=3, lexicon={"kokoro": "k ax k ao1 r ow0"})
    inline = engine.tts("[Kokoro](/k ax k ao1 r ow0/)", seed=3)
    phones = engine.generate("tts", phones="pau k ax0 k ao1 r ow0 pau", seed=3)
    for audio in (by_table, inline, phones):
        assert np.array_equal(audio.samples, by_file.samples)
    with pytest.raises(
        InputError, match="lexicon: expected a file of words and phones, got nowhere"
    ):
        engine.tts("Kokoro", lexicon="nowhere")


def test_markup_is_chosen(engine: Engine) -> None:
    assert spoken(engine.tts("*a*", seed=1, markup="plain").meta) == ["asterisk", "a", "asterisk"]
    assert spoken(engine.tts("*ab*", seed=1).meta) == ["ab"]
    with pytest.raises(InputError, match="markup: expected auto, plain"):
        engine.tts("a", markup="xml")


def test_what_is_left_out_is_noted(engine: Engine) -> None:
    notes = engine.tts("Hello 你好. More 😀 here.", seed=1).meta["notes"]
    assert notes == ["text: left out '你好😀', which has no English reading"]


def test_subtitles() -> None:
    words = [
        {
            "word": "" if i % 7 == 0 else f"word{i}",
            "start": 3600 + i,
            "end": 3600.5 + i,
            "sentence": i // 20,
        }
        for i in range(25)
    ]
    entries = subtitles(words).split("\n\n")
    assert entries[0].startswith("1\n01:00:01,000 --> 01:00:15,500\nword1 word2")
    assert all(len(line) <= 42 for entry in entries for line in entry.splitlines()[2:])
    assert all(len(entry.strip().splitlines()) <= 4 for entry in entries)
    assert entries[-1].splitlines()[1:] == [
        "01:00:20,000 --> 01:00:24,500",
        "word20 word22 word23 word24",
    ]


# On the command line


@pytest.fixture
def place(fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_tiny_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return Path(folder)


@pytest.mark.parametrize("command", ["tts", "stream"])
def test_times_files(place: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    say = [command, "Hello there.", "-m", str(place), "--seed", "3", "-o", "a.wav", "--times"]
    assert main([*say, "a.srt"]) == 0
    assert Path("a.srt").read_text().startswith("1\n00:00:00,")
    assert Path("a.srt").read_text().endswith("\nhello there\n")
    assert main([*say, "a.json"]) == 0
    words = json.loads(Path("a.json").read_text())
    assert [w["word"] for w in words if w["word"]] == ["hello", "there"]
    assert main([*say, "a.txt"]) == 2
    assert "a.txt: expected a name that ends in .srt or .json" in capsys.readouterr().err


def test_say_as(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["say-as", "Dr. Lee, $5. 你 [pause 1] Go"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "doctor lee, five dollars",
        "  d aa1 k t er0 | l iy1 | pau | f ay1 v | d aa1 l er0 z",
        "  left out: 你, pause 1 s",
        "go",
        "  g ow1",
    ]
    (tmp_path / "words.txt").write_text("lee l ey1\n")
    assert main(["say-as", "Lee", "--json", "--lexicon", str(tmp_path / "words.txt")]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)
    assert sentence["words"][1] == {"word": "lee", "characters": [0, 3], "phones": ["l", "ey1"]}
    assert main(["say-as", "<speak><x/></speak>"]) == 2
    assert main(["say-as", "你"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_standard_input_is_decoded(
    encoding: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = io.BytesIO("Grüße, café".encode(encoding))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, "ascii"))
    assert main(["say-as", "-"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "grusse, cafe"


def test_standard_input_in_no_known_encoding(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = io.BytesIO("café".encode("latin-1"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, "latin-1"))
    assert main(["tts", "-", "-m", str(place), "-o", "a.wav"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "standard input: expected text in UTF-8 or UTF-16, got byte 0xe9 at 3" in line
    assert not Path("a.wav").exists()
