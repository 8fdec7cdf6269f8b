"""Properties of any text: tokens are not joined, nothing meaningful is dropped, every word knows
its origin, and work grows linearly with the length.
"""

from __future__ import annotations

import re
import string
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from uniaudio_engine.errors import InputError
from uniaudio_engine.text import PAUSE, PHONES, Sentence, iter_sentences, normalize
from uniaudio_engine.text.numbers import cardinal
from uniaudio_engine.text.tables import SYMBOLS

CALM = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = {
    word: 10 * i
    for i, word in enumerate("- - twenty thirty forty fifty sixty seventy eighty ninety".split())
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SIGNS = " \t\n.,;:!?()[]{}<>/\\|@#$%^&*-_=+~`'\"–—…•€£°²→"
LETTERS = r"(?:[^\W\d_]|[\u0300-\u036f])+"  # with accents, also those of their own
WORDS = st.sampled_from(
    "alpha Beta GAMMA don't x A I 7 42 3.5 1,000 9:30 kg Dr e.g. in' U.S.A.".split()
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Words and numbers with signs between them, many of them without spaces."""
    parts = draw(st.lists(st.tuples(WORDS, st.text(SIGNS, max_size=4)), min_size=1, max_size=12))
    return "".join(word + signs for word, signs in parts)


def read(text: str, markup: str) -> list[Sentence]:
    try:
        return list(iter_sentences(text, markup=markup))
    except InputError:
        return []
    except ValueError as error:
        assert str(error).startswith("expected text")
        return []


def check(text: str, sentences: list[Sentence]) -> None:
    place = 0
    for sentence in sentences:
        assert 0 <= sentence.begin <= sentence.end <= len(text)
        assert [p for word in sentence.words for p in word.phones] == sentence.phones
        assert sentence.words[0].phones == sentence.words[-1].phones == (PAUSE,)
        assert set(sentence.phones) <= set(PHONES)
        for word in sentence.words:
            assert 0 <= word.begin <= word.end <= len(text)
            if not word.text:
                continue
            assert word.begin < word.end
            assert word.begin >= place  # in the order of the input
            place = word.begin
            # A word of two of the input's letter runs would be a join over what is between them.
            runs = re.findall(LETTERS, text[word.begin : word.end])
            for one, two in zip(runs, runs[1:], strict=False):
                assert (one + two).lower() not in word.text.lower()


@CALM
@given(documents(), st.sampled_from(["plain", "auto"]))
@example("myapp.app the end.Next Yes,he Dr.Smith", "auto")
@example("1,000'[U.S.A. He said 'ten'(see below)", "plain")
@example("a_b*c#d\\e|f", "plain")
def test_no_word_spans_two_tokens(text: str, markup: str) -> None:
    check(text, read(text, markup))


@CALM
@given(st.text(max_size=60), st.sampled_from(["plain", "auto", "markdown", "ssml"]))
@example("A\u00c0a0", "plain")
@example("AA\u0300a0", "plain")
def test_any_text_is_read_or_refused_in_one_line(text: str, markup: str) -> None:
    check(text, read(text, markup))


@CALM
@given(documents())
def test_every_digit_and_letter_is_accounted_for(text: str) -> None:
    sentences = read(text, "plain")
    covered = {i for s in sentences for w in s.words if w.text for i in range(w.begin, w.end)}
    for m in re.finditer(r"[0-9]|[A-Za-z]+", text):
        assert any(i in covered for i in range(*m.span())), (text, m)


@CALM
@given(st.integers(0, 10**15 - 1))
def test_numbers_say_their_value(n: int) -> None:
    total = group = 0
    for word in cardinal(str(n)).split():
        if word in SCALES:
            total, group = total + group * SCALES[word], 0
        elif word == "hundred":
            group *= 100
        else:
            group += ONES.index(word) if word in ONES else TENS[word]
    assert total + group == n


@CALM
@given(
    st.text("0123456789", min_size=1, max_size=30), st.sampled_from(["code ", "PIN: ", 'code "'])
)
def test_codes_are_read_digit_by_digit(figures: str, lead: str) -> None:
    if len(figures) < 3:
        return
    words = re.findall("[a-z]+", normalize(lead + figures))
    assert words[-len(figures) :] == [ONES[int(c)] for c in figures]


@pytest.mark.parametrize("sign", sorted(set(SYMBOLS) - set("_|")))
def test_signs_are_named(sign: str) -> None:
    apart = normalize(f"the alpha {sign} beta end").split()
    assert apart[:2] == ["the", "alpha"] and apart[-2:] == ["beta", "end"] and len(apart) > 4
    joined = normalize(f"the alpha{sign}beta end")
    assert "alphabeta" not in joined.replace(" ", "") and joined.endswith("beta end")


@CALM
@given(st.characters(categories=["Sm", "Sc", "So", "No", "Nd"], max_codepoint=0x1EFFF))
def test_other_signs_are_named_or_reported(sign: str) -> None:
    (sentence, *_) = iter_sentences(f"the alpha {sign} beta end", markup="plain")
    words = [w.text for w in sentence.words if w.text]
    decoration = 0x2500 <= ord(sign) < 0x25D0 or sign in "◦◢◣◤◥◆◇◉◎◯❖➢➤➔➜→"
    paused = any(not w.text for w in sentence.words[1:-1])
    assert len(words) > 4 or paused or sign in sentence.unread or decoration


def test_what_cannot_be_read_is_reported() -> None:
    (sentence,) = iter_sentences("hello 你好 there 😀")
    assert [w.text for w in sentence.words if w.text] == ["hello", "there"]
    assert sentence.unread == "你好😀"
    one, two = iter_sentences("Hello. 你好。 Bye.")
    assert one.unread == "你好" and two.unread == ""


UNITS = [
    "The old man walked to the river. ",
    *("1 ", "1,", "$1", "*a ", "**a", "_a ", "[a](", "<b ", "a.", "A.b", "a@", "/a", "((", "- a\n"),
    *("1/", "1:", "!", "...", "a-", "`a", "&amp;", "x\n", "a\n\n", "I'm ", '"a ', "a_"),
]


@pytest.mark.parametrize("unit", UNITS)
def test_work_grows_with_the_length(unit: str) -> None:
    """Four times the text takes about four times the work; a quadratic step would take sixteen."""

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        best = 1e9
        for _ in range(2):
            begin = time.process_time()
            read(text, "auto")
            best = min(best, time.process_time() - begin)
        return best

    seconds(200)
    assert seconds(4000) < 10 * seconds(1000) + 0.05


def test_a_long_text_is_read_sentence_by_sentence() -> None:
    class Watched(str):
        """Counts the characters that are looked at one by one or in slices."""

        seen = 0

        def __getitem__(self, key: object) -> str:  # type: ignore[override]
            piece = super().__getitem__(key)  # type: ignore[index]
            Watched.seen += len(piece)
            return piece

        def replace(self, *args: object) -> Watched:  # type: ignore[override]
            return self

    text = Watched("One. " + "Two words here. " * 5000 + "\n\n" + "Next one. " * 100_000)
    sentences = iter_sentences(text)
    assert next(sentences).text == "One."
    assert Watched.seen < 200_000  # the first paragraph, not the next
    assert next(sentences).text == "Two words here."


def test_letters_of_the_alphabet_have_names() -> None:
    for letter in string.ascii_uppercase:
        words = [w for s in iter_sentences(f"the letter {letter}") for w in s.words if w.text]
        assert [w.text for w in words] == ["the", "letter", letter]
