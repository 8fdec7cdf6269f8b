"""Phones of words and sentences: agreement with flite's labels, unknown words, errors, any unicode."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from uniaudio_engine.text import MAX_PHONES, PAUSE, PHONES, iter_sentences, phonemize
from uniaudio_engine.text.lexicon import lexicon

GOLDEN = Path(__file__).with_name("text_golden.tsv")


def phones(text: str) -> str:
    """The phones between the outer pauses."""
    (sentence,) = phonemize(text)
    assert sentence.phones[0] == sentence.phones[-1] == PAUSE
    return " ".join(sentence.phones[1:-1])


def edit_distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        diagonal, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            diagonal, row[j + 1] = row[j + 1], min(diagonal + (x != y), row[j] + 1, row[j + 1] + 1)
    return row[-1]


def test_inventory_is_complete_and_stable() -> None:
    assert len(PHONES) == len(set(PHONES)) == 56
    assert PHONES[:3] == (PAUSE, "b", "ch")
    assert PHONES[25:28] == ("ax0", "aa0", "aa1")
    assert PHONES[-1] == "uw1"


def test_agrees_with_flite_on_running_text() -> None:
    errors = total = 0
    for line in GOLDEN.read_text("utf-8").splitlines():
        text, labels = line.split("\t")
        ours = [PAUSE]
        for sentence in phonemize(text):
            ours += sentence.phones[1:]
        errors += edit_distance(ours, labels.split())
        total += len(labels.split())
    assert total > 1500
    assert errors / total < 0.005  # 0.001 over all WordNet examples


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", "hh ax0 l ow1"),
        ("the cat, the apple", "dh ax0 k ae1 t pau dh iy0 ae1 p ax0 l"),
        ("they record a record", "dh ey1 r ax0 k ao1 r d ax0 r eh1 k er0 d"),
        ("Jess's cat's dog's", "jh eh1 s ax0 z k ae1 t s d ao1 g z"),
        ("it'll, we'll, I'd", "ih1 t ax0 l pau w iy1 l pau ay1 d"),
        ("don't we're", "d ow1 n t w iy1 r"),
        ("to read, I have read", "t ax0 r iy1 d pau ay1 hh ae1 v r eh1 d"),
        ("the dogs' tails", "dh ax0 d aa1 g z t ey1 l z"),
        ("the USA", "dh ax0 y uw1 eh1 s ey0"),
        (
            '"yes" (no) well; so: go - on',
            "y eh1 s pau n ow1 pau w eh1 l pau s ow1 pau g ow1 pau aa1 n",
        ),
    ],
)
def test_known_pronunciations(text: str, expected: str) -> None:
    assert phones(text) == expected


def test_unknown_words_are_spoken_from_their_letters() -> None:
    for word in ("blorfing", "zanthorp", "quimbly"):
        assert word not in lexicon()
    assert phones("blorfing") == "b l ao1 r f ih0 ng"
    assert phones("zanthorp")[:4] == "z ae"
    assert phones("quimbly").startswith("k w ih1 m b l")


def test_lexicon_finds_its_first_and_last_word_and_no_prefix() -> None:
    assert "a" in lexicon() and "aaa" in lexicon() and "zygote" in lexicon()
    assert "" not in lexicon() and "helloo" not in lexicon() and "hell\t" not in lexicon()


@pytest.mark.parametrize("text", ["", "   \n", "?!... --", "你好", "😀", "\x00"])
def test_text_without_words_is_one_clear_error(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^expected text with letters or digits, got [^\n]*; write [^\n]*$"
    ):
        phonemize(text)


def test_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="expected text as str, got bytes"):
        phonemize(b"hello")  # type: ignore[arg-type]


def test_long_sentences_are_cut_at_clauses_then_at_words() -> None:
    clauses = phonemize("the old man walked to the river and sat down, " * 20)
    assert len(clauses) > 2
    assert all(len(s.phones) <= MAX_PHONES for s in clauses)
    assert all(s.text.endswith("down,") for s in clauses)
    words = phonemize("word " * 300 + "x" * 1000)
    assert all(len(s.phones) <= MAX_PHONES for s in words)
    assert sum(s.phones.count("w") for s in words) == 300


def test_first_sentence_comes_before_the_rest_is_read() -> None:
    first = next(iter_sentences("One. " + "Two words here. " * 10_000))
    assert first.text == "One."


def test_any_unicode_is_spoken_or_refused() -> None:
    rng = random.Random(3)
    known = set(PHONES)
    pool = "abAB019.,;:!?'\"-–—()[]/\\@#$€£%&+=*^~|<>_ \n°²½éß你😀\u200b\u202e\x00مℌⅣ①ﬁ…’“"
    for i in range(1500):
        length = rng.randint(0, 60)
        text = "".join(
            rng.choice(pool) if i % 2 else chr(rng.randrange(rng.choice((0x110000, 0x3000))))
            for _ in range(length)
        )
        try:
            sentences = phonemize(text)
        except ValueError as error:
            assert str(error).startswith("expected text") and "\n" not in str(error)
            continue
        for sentence in sentences:
            assert sentence.phones[0] == sentence.phones[-1] == PAUSE
            assert 2 < len(sentence.phones) <= MAX_PHONES and set(sentence.phones) <= known
            assert (PAUSE, PAUSE) not in zip(sentence.phones, sentence.phones[1:], strict=False)


@pytest.mark.parametrize(
    "text",
    ["1" * 900, "$1" * 500, "1/" * 500, "a." * 500, "A" * 900, "www." * 300, "'" * 900 + "a"],
)
def test_repetition_is_handled(text: str) -> None:
    assert all(len(s.phones) <= MAX_PHONES for s in phonemize(text))


def test_import_reads_no_data() -> None:
    code = (
        "import uniaudio_engine.text, uniaudio_engine.text.lexicon as l; "
        "assert l.lexicon.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
