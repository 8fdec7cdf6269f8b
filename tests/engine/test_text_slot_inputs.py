"""What models with a slot of text are given: sentences of any language, voices with vectors, and the
features of speakers.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniaudio_engine import InputError
from uniaudio_engine.audio.fbank import fbank
from uniaudio_engine.audio.voice import Voice
from uniaudio_engine.text import NothingToSpeak
from uniaudio_engine.text.plain import PlainSentences, halves, plain_sentences
from uniaudio_engine.text.vietnamese import SeaPhones

SENTENCES = [
    (
        "Xin chào tất cả các bạn. Hôm nay trời đẹp quá! Bạn có khỏe không?",
        ["Xin chào tất cả các bạn.", "Hôm nay trời đẹp quá!", "Bạn có khỏe không?"],
    ),
    ("Ok. This one is joined to it. Bye.", ["Ok. This one is joined to it.", "Bye."]),
    ("Dr. Smith met J. Jones at the station. He left.",
     ["Dr. Smith met J. Jones at the station.", "He left."]),
    ("Tôi sống ở TP. Hồ Chí Minh đã lâu. Còn bạn?",
     ["Tôi sống ở TP. Hồ Chí Minh đã lâu.", "Còn bạn?"]),
    ("今天的天气非常好，我们一起去公园。你想不想来？", ["今天的天气非常好，我们一起去公园。", "你想不想来？"]),
    ("A title\n\nAnd the text of it", ["A title", "And the text of it"]),
    ('He said "Stop there right now!" and ran. Then nothing.',
     ['He said "Stop there right now!" and ran.', "Then nothing."]),
    ("Pi is 3.14159 and so on...  what else?", ["Pi is 3.14159 and so on...  what else?"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentences"), SENTENCES)
def test_sentences(text: str, sentences: list[str]) -> None:
    found = list(plain_sentences(text))
    assert [s.text for s in found] == sentences
    assert all(text[s.begin : s.end] == s.text for s in found)


_TEXT = st.lists(
    st.sampled_from(["a", "Bc", " ", "  ", ".", "...", "?", "!", "。", "\n", "\r\n", ",", '"', "你好"]
                    + ["Hello there my friend", "3.5", "Dr"]), max_size=30
).map("".join)  # fmt: skip


@given(text=_TEXT, cuts=st.lists(st.integers(0, 200), max_size=6))
def test_any_cut_gives_the_sentences_of_the_whole(text: str, cuts: list[int]) -> None:
    try:
        whole = list(plain_sentences(text))
    except NothingToSpeak:
        assert not any(c.isalnum() for c in text)
        return
    places = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    reader, found = PlainSentences(), []
    for begin, end in itertools.pairwise(places):
        reader.push(text[begin:end])
        found += reader.ready()
    assert found + list(reader.end()) == whole
    assert not reader.pending
    said = "".join(c for s in whole for c in s.text if c.isalnum())
    assert said == "".join(c for c in text if c.isalnum())
    assert all(text[s.begin : s.end] == s.text for s in whole)


def test_text_that_waits_is_spoken_by_clauses() -> None:
    reader = PlainSentences()
    reader.push("When the rain had stopped at last, we went")
    assert not list(reader.ready())
    assert [s.text for s in reader.clause()] == ["When the rain had stopped at last,"]
    assert not list(reader.clause()) and reader.pending
    assert [s.text for s in reader.flush()] == ["we went"]
    reader.push(" on. And then home.")
    assert [s.text for s in reader.end()] == ["on. And then home."]


@given(st.text("ab ,。你好.", max_size=60))
def test_halves_keep_every_word(text: str) -> None:
    cut = halves(text)
    if cut is None:
        assert len(text.split()) < 2
        return
    left, right = cut
    assert left and right and left in text and right in text
    assert "".join((left + right).split()) == "".join(text.split())


def test_halves_are_cut_at_clauses() -> None:
    assert halves("one two three, four five six seven") == ("one two three,", "four five six seven")
    assert halves("one two three four") == ("one two", "three four")
    assert halves("今天天气好，我们去公园") == ("今天天气好，", "我们去公园")
    assert halves("word") is None


def test_the_real_phones_of_vietnamese() -> None:
    pytest.importorskip("sea_g2p")
    reader = SeaPhones()
    assert reader.phones("Xin chào các bạn") == "sˈin tʃˈaː2w kˌaːɜc bˈaː6n."
    with_cue = reader.phones("Xin chào các bạn [cười], tôi tên là Mai.")
    assert " <|emotion_1|> " in with_cue and with_cue.endswith(".")


def test_features_are_kaldis() -> None:
    """A tone and a sweep; values of kaldi-native-fbank 1.22, without dither."""
    t = np.arange(4000) / 16000
    x = 0.3 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 3000 * t * t * 4)
    found = fbank(x.astype(np.float32))
    assert found.shape == (23, 80) and found.dtype == np.float32
    third = [-12.095025, -9.65184, -1.1565804, 0.0086989, -1.6664503, -13.323902]
    last = [-11.610479, -9.435683, -1.1699691, -12.303865]
    np.testing.assert_allclose(found[3, :48:8], third, atol=2e-3)
    np.testing.assert_allclose(found[-1, :32:8], last, atol=2e-3)
    np.testing.assert_allclose(found[3, 56::8], np.log(np.finfo(np.float32).eps), atol=1e-5)
    assert abs(float(found.mean()) + 10.619678) < 1e-4
    with pytest.raises(ValueError, match="at least 400, got 399"):
        fbank(np.zeros(399, np.float32))


def voice(**change: Any) -> Voice:
    values = {"codes": np.ones((2, 3), np.int32), "vector": np.ones(4, np.float32)} | change
    return Voice("a", values["codes"], "0" * 16, 12.5, vector=values["vector"])


def test_voices_keep_their_vectors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for one in (voice(), voice(vector=None), voice(codes=np.zeros((2, 0), np.int32))):
        one.save(path)
        again = Voice.load(path)
        np.testing.assert_array_equal(again.codes, one.codes)
        assert (again.vector is None) == (one.vector is None)
        if one.vector is not None:
            np.testing.assert_array_equal(again.vector, one.vector)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector": np.full(4, np.nan, np.float32)}, "expected a vector of finite float32"),
        ({"vector": np.ones((2, 2), np.float32)}, "expected a vector of finite float32"),
        ({"vector": None, "codes": np.zeros((2, 0), np.int32)}, "expected codes int32"),
        ({"codes": np.zeros((0, 3), np.int32)}, "expected codes int32"),
    ],
)
def test_wrong_voices_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.safetensors"
    voice(**change).save(path)
    with pytest.raises(InputError, match=message) as e:
        Voice.load(path)
    assert "\n" not in str(e.value)
