"""Text that arrives in pieces: the sentences are those of the whole text, whatever the cuts; each
comes as soon as it is certain; and no character is read again and again."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_text_corpus import KINDS, lines, written

from uniaudio_engine.errors import InputError
from uniaudio_engine.text import LiveSentences, NothingToSpeak, Sentence, iter_sentences
from uniaudio_engine.text.live_markup import LiveBlocks

CALM = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
SIGNS = " \t\n.,;:!?()[]{}<>/\\|@#$%^&*-_=+~`'\"–—…•€£°²→"
SPACES = st.sampled_from([" ", ". ", "! ", "\n", "\n\n", "  ", "\r\n"])
WORDS = st.sampled_from(
    "alpha Beta GAMMA don't x A I 7 42 3.5 1,000 9:30 kg Dr J. e.g. in' U.S.A. The etc. p.m. No. > | "
    "<b> </b> <br> [pause] [pause,1] <!-- --> <script> </script> ``` --- # ## - * + 1. 12) **bo ld** "
    "_a b_ `c` [x](y) [z](/k_ax/) ![ ](a) [^1] &amp; &am \\* ~~ 你好。 end.Next example.com".split()
).map(lambda word: word.replace("pause,1", "pause 1").replace("k_ax", "k ax"))

Outcome = list[Sentence] | str


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Words and markup with signs, spaces and new lines between them."""
    between = st.one_of(st.text(SIGNS, max_size=3), SPACES, SPACES)
    parts = draw(st.lists(st.tuples(WORDS, between), min_size=1, max_size=25))
    return "".join(word + space for word, space in parts)


def whole(text: str, **how: Any) -> Outcome:
    try:
        return list(iter_sentences(text, **how))
    except ValueError as error:
        return str(error)


def live(pieces: Iterable[str], **how: Any) -> Outcome:
    reader, found = LiveSentences(**how), []
    try:
        for piece in pieces:
            reader.push(piece)
            found += reader.ready()
        return [*found, *reader.end()]
    except ValueError as error:
        return str(error)


def cut(text: str, places: Iterable[int]) -> list[str]:
    at = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in zip(at, at[1:], strict=False)]


def said(sentences: Iterable[Sentence]) -> list[str]:
    return [sentence.text for sentence in sentences]


# What is given out equals the whole


@pytest.mark.parametrize("markup", ["auto", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_in_pieces(kind: str, markup: str) -> None:
    dice = random.Random(kind)
    texts = [written(line[0]) for line in lines(kind)]
    texts += ["\n".join(dice.sample(texts, 3)) for _ in texts[:8]]
    texts += [" ".join(dice.sample(texts, 4)) for _ in texts[:8]]
    how: dict[str, Any] = {"markup": markup, "paragraph_pause": 0.5}
    for text in texts:
        expected = whole(text, **how)
        pieces = cut(text, (dice.randrange(len(text) + 1) for _ in range(dice.choice((3, 99)))))
        assert live(pieces, **how) == expected, pieces


@CALM
@given(
    documents(), st.lists(st.integers(0, 10**4), max_size=30), st.sampled_from(["auto", "plain"])
)
@example("<!--<script>\n-->", [3], "auto")
@example("+ one\n+ two", [1, 8], "auto")
@example("He was **right. Then** he left. *So", list(range(40)), "auto")
@example("See <!-- not. This --> that. And [a. B](c) d. E", list(range(50)), "auto")
def test_any_document_in_any_pieces(text: str, places: list[int], markup: str) -> None:
    how: dict[str, Any] = {"markup": markup, "paragraph_pause": 0.5}
    expected = whole(text, **how)
    assert live(text, **how) == expected
    assert live(cut(text, places), **how) == expected


@pytest.mark.parametrize("markup", ["auto", "ssml"])
def test_ssml_is_read_once_it_is_whole(markup: str) -> None:
    text = " <?xml version='1.0'?>\n<speak>One. <break time='1s'/>Two &amp; three.</speak>"
    assert live(text, markup=markup) == whole(text, markup=markup)
    assert live("<speaker> says this. Then", markup="auto") == whole("<speaker> says this. Then")


def test_own_pronunciations_and_overrides() -> None:
    text = "It is **c++** code. [Kokoro](/k ax k ao1 r ow0/)'s here. It is Kokoro. End"
    own = {"kokoro": ("k", "ax0"), "c++": ("s", "iy1")}
    assert live(text, lexicon=own) == whole(text, lexicon=own)


def test_what_cannot_be_followed_is_refused() -> None:
    reader = LiveSentences()
    reader.push("Wait. [pause 99] Then")
    with pytest.raises(InputError, match="pause"):
        list(reader.ready())
    with pytest.raises(InputError, match="markup: expected auto"):
        LiveSentences("word")
    for text in ("", " \n", "*** !!!"):
        assert live(text) == whole(text)
        with pytest.raises(NothingToSpeak):
            list(LiveSentences().end())


# When it is given out

CERTAIN = [
    ("Hello there. ", ""),
    ("Hello there. H", "Hello there."),
    ("Hello there. h", ""),
    ("Really?! Y", "Really?!"),
    ('He said "Go." T', 'He said "Go."'),
    ("Dr. Smith ", ""),
    ("He is a Dr. S", ""),
    ("At 5 p.m. He w", "At 5 p.m."),
    ("In the U.S.A. The w", "In the U.S.A."),
    ("In the U.S.A. Th", ""),
    ("J. S", ""),
    ("It costs 3. T", "It costs 3."),
    ("It costs 3.", ""),
    ("Visit example.com now", ""),
    ("A title\n\nT", "A title"),
    ("- milk\n- e", "milk"),
    ("## A title\nText ", "A title"),
    ("He was **right. Th", ""),
    ("He was **right.** Th", "He was **right.**"),
    ("Look <!-- here. Th", ""),
    ("1. Boil it. A", "1, Boil it."),
    ("First.\n\n[pause", ""),
    ("First.\n\n[pause 1] Then", "First."),
]


@pytest.mark.parametrize(("text", "expected"), CERTAIN)
def test_a_sentence_comes_as_soon_as_it_is_certain(text: str, expected: str) -> None:
    reader = LiveSentences()
    found = []
    for character in text:
        reader.push(character)
        found += reader.ready()
    plain = expected.replace("**", "")
    assert said(found) == ([plain] if plain else [])


CLAUSES = [
    ("Well, I think that is right, but ", ["Well, I think that is right,"]),
    ("Well, I think that is right, ", ["Well, I think that is right,"]),
    ("Well, I think that is right,", []),
    ("Well, ", []),
    ("I paid him 1, 2, ", []),
    ("The time of day is 10:", []),
    ("She left – and then ", ["She left –"][:0]),
    ("She left the house – and then ", ["She left the house –"]),
    ("We go home now. ", ["We go home now."]),
    ("We go to see Dr. ", []),
    ("It was in 19", []),
    (
        "The long line of words that has no mark in it goes on and on until someone ",
        ["The long line of words that has no mark in it goes"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), CLAUSES)
def test_clauses(text: str, expected: list[str]) -> None:
    reader = LiveSentences()
    reader.push(text)
    assert said(reader.ready()) == []
    found = list(reader.clause())
    assert said(found) == expected
    if found and not found[-1].text.endswith("."):
        assert found[-1].pause is not None and found[-1].pause < 0.05
    reader.push("more words. ")
    rest = [*reader.ready(), *reader.end()]
    # No word is lost, and none is said twice.
    words = [w.text for s in (*found, *rest) for w in s.words if w.text]
    alone = [w.text for s in iter_sentences(text + "more words. ") for w in s.words if w.text]
    assert words == alone


def test_a_clause_is_given_before_a_pause_that_follows() -> None:
    reader = LiveSentences(paragraph_pause=0.7)
    reader.push("Hello there.\n")
    assert said(reader.ready()) == [] and said(reader.clause()) == ["Hello there."]
    reader.push("\nNext one. ")
    found = [*reader.ready(), *reader.end()]
    assert [(s.text, s.pause) for s in found] == [("", 0.7), ("Next one.", 0.7)]


def test_flush_says_all_that_is_there() -> None:
    reader = LiveSentences()
    reader.push("This is **not")
    assert said(reader.ready()) == [] and reader.pending
    assert said(reader.flush()) == ["This is **not"] and not reader.pending
    reader.push(" over. 1. Nor this")
    assert said([*reader.ready(), *reader.flush()]) == ["over.", "1.", "Nor this"]
    assert list(reader.flush()) == [] and list(reader.end()) == []


def test_places_are_those_of_the_whole_text() -> None:
    reader, text, found = LiveSentences(), "One, two. Three four five\n\nsix. ", []
    for piece in cut(text, (3, 12, 20)):
        reader.push(piece)
        found += [*reader.ready(), *reader.flush()]
    found += reader.end()
    for word in (w for s in found for w in s.words if w.text):
        assert text[word.begin : word.end].lower() == word.text


# How much is read

UNITS = [
    "The old man walked to the river. ",
    *(
        "word ",
        "*a ",
        "**a. B",
        "<!-- a. ",
        "[a. B ",
        "J. ",
        "Dr. ",
        "a.\n",
        "`a. ",
        "- a. B\n",
        "...",
    ),
    *(
        "|a. ",
        "# a. B",
        "1. ",
        "x\n\n",
        "&a",
        "<b ",
        '"A. ',
        "你。",
        "_a. B",
        "~~a ",
        "(a, b; ",
        "a\n",
    ),
]


@pytest.mark.parametrize("unit", UNITS)
def test_work_grows_with_the_length(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the characters of every stretch of text that is looked through."""
    seen = 0
    window, sentences = LiveBlocks._window, LiveSentences._sentences

    def counted_window(self: LiveBlocks) -> None:
        nonlocal seen
        window(self)
        seen += len(self._text)

    def counted_sentences(self: LiveSentences, closed: bool) -> Any:
        nonlocal seen
        seen += len(self._text) - self._begin + self._size
        return sentences(self, closed)

    monkeypatch.setattr(LiveBlocks, "_window", counted_window)
    monkeypatch.setattr(LiveSentences, "_sentences", counted_sentences)
    counts = []
    for size in (1500, 3000, 6000):
        seen = 0
        live(unit * (size // len(unit)))
        counts.append(seen)
    assert counts[1] < 2.6 * counts[0] and counts[2] < 2.6 * counts[1], counts
    assert counts[2] < 1000 * 6000
