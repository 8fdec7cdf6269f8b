"""A corpus of written lines with what a reader says: words, letters' names in capitals, a comma for
a pause, a stroke where a sentence ends.

In the files ``\n`` is a new line and ``\\`` a backslash. ``heteronyms.tsv`` has a word of the line
and its phones.
"""

from pathlib import Path

import pytest

from uniaudio_engine.text import iter_sentences

FOLDER = Path(__file__).with_name("text_corpus")
KINDS = sorted(path.stem for path in FOLDER.glob("*.tsv"))


def lines(kind: str) -> list[list[str]]:
    text = (FOLDER / f"{kind}.tsv").read_text("utf-8")
    return [line.split("\t") for line in text.splitlines()]


def written(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\\\", "\\")


def said(text: str) -> str:
    sentences = []
    for sentence in iter_sentences(text):
        words = "".join(f" {word.text}" if word.text else "," for word in sentence.words[1:-1])
        sentences.append(words.strip())
    return " | ".join(sentences)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "heteronyms"])
def test_lines_are_read_as_a_reader_would(kind: str) -> None:
    wrong = [
        f"{text!r}: expected {expected!r}, got {found!r}"
        for text, expected in lines(kind)
        if (found := said(written(text))) != expected
    ]
    assert not wrong, "\n".join(wrong)


def test_heteronyms() -> None:
    wrong = []
    for text, word, phones in lines("heteronyms"):
        found = [
            " ".join(w.phones)
            for sentence in iter_sentences(text)
            for w in sentence.words
            if w.text.lower() == word
        ]
        if found != [phones]:
            wrong.append(f"{text!r}: expected {phones}, got {found}")
    assert not wrong, "\n".join(wrong)


def test_the_corpus_is_large_and_has_no_line_twice() -> None:
    texts = [line[0] for kind in KINDS for line in lines(kind) if kind != "heteronyms"]
    assert len(texts) >= 400
    assert len({*texts}) == len(texts)
