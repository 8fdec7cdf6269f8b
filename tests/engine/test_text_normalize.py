"""How numbers, dates, money, abbreviations and symbols are spoken, and where sentences end."""

import pytest

from uniaudio_engine.text import normalize, split_sentences

SPOKEN = {
    # numbers
    "1,234 and 17": "one thousand two hundred thirty four and seventeen",
    "0.5, 3.14": "zero point five, three point one four",
    "-5 degrees": "minus five degrees",
    "1st 2nd 23rd 1,000th": "first second twenty third one thousandth",
    "1/2, 3/4, 2 1/2 and 2½": "one half, three quarters, two and a half and two and a half",
    "7/8": "seven eighths",
    "open 24/7": "open twenty four seven",
    "10%": "ten per cent",
    "5-10 men": "five to ten men",
    "007": "zero zero seven",
    "1234567890123456": "one two three four five six seven eight nine zero one two three four five six",
    "1,000,000": "one million",
    # years and decades
    "in 1984": "in nineteen eighty four",
    "in 1905": "in nineteen oh five",
    "2005, 2000, 2026": "two thousand five, two thousand, twenty twenty six",
    "the 1980s": "the nineteen eighties",
    # dates and times
    "2026-11-21": "november twenty first, twenty twenty six",
    "Nov 21, 2026": "november twenty first, twenty twenty six",
    "3/4/2025": "march fourth, twenty twenty five",
    "Dec. 18": "december eighteenth",
    "at 3:30 pm": "at three thirty P M",
    "only 5 may enter on May 5": "only five may enter on may fifth",
    "12:05": "twelve oh five",
    "3:00": "three o'clock",
    "3 p.m. today": "three P M today",
    # money and units
    "$5.20": "five dollars and twenty cents",
    "$1": "one dollar",
    "€3m": "three million euros",
    "£1,000": "one thousand pounds",
    "$3.5 million": "three point five million dollars",
    "5 km": "five kilometers",
    "1 kg": "one kilogram",
    "20°C": "twenty degrees celsius",
    "5km²": "five square kilometers",
    # telephone numbers
    "555-1234": "five five five, one two three four",
    "(555) 123-4567": "five five five, one two three, four five six seven",
    # abbreviations, roman numerals, acronyms
    "Dr. Smith and Mrs. Jones": "doctor smith and missus jones",
    "St. Paul on Main St.": "saint paul on main street.",
    "cats vs. dogs, e.g. mine, etc.": "cats versus dogs, for example mine, et cetera.",
    "No. 5, but no.": "number five, but no.",
    "Henry VIII": "henry the eighth",
    "World War II": "world war two",
    "the USA and NASA": "the U S A and nasa",
    "the U.S. Army": "the U S army",
    "IBM's DVDs": "I B M's D V D's",
    "THIS IS NOT A DRILL": "this is not a drill",
    "vitamin A for a man": "vitamin A for a man",
    "B747, mp3, H2O": "B seven forty seven, M P three, H two O",
    "v1.2.3": "version one point two point three",
    # symbols and addresses
    "a & b + c = d": "a and b plus c equals d",
    "#5 and/or #tag": "number five and slash or hashtag tag",
    "me@test.org": "me at test dot org",
    "www.example.com/ab": "W W W dot example dot com slash ab",
    # punctuation and other scripts
    "so - he -- or she — left": "so, he, or she, left",
    "naïve “café” 😀 你好": 'naive "cafe"',
    "wait…": "wait...",
}


@pytest.mark.parametrize("text", SPOKEN)
def test_normalize(text: str) -> None:
    assert normalize(text) == SPOKEN[text]


@pytest.mark.parametrize("text", ["", " \n\t", "你好", "😀😀", "\x00\x1b"])
def test_unspeakable_text_is_empty(text: str) -> None:
    assert normalize(text) == ""


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith met J. K. Rowling at 5 p.m.", "They talked."],
        ["It costs 3.14 dollars.", "Really?!", "Yes!"],
        ['He said "Stop!" and ran.', "(So did she.)", "“Why?”", "Nobody knew."],
        ["Wait... what?", "Well…", "Then he left."],
        ["See No. 5, e.g. this one.", "I said no.", "The U.S. Army left the U.S.", "The end"],
        ["Use cats, dogs, etc.", "Then stop."],
        ["Visit example.com now.", "Version 1.2 is out."],
        ["中文句子。", "第二句。"],
    ],
)
def test_split_sentences(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


def test_blank_lines_end_sentences_and_nothing_is_lost() -> None:
    text = "A title\n\nThe text goes on\nfor two lines"
    assert split_sentences(text) == ["A title", "The text goes on\nfor two lines"]
    assert split_sentences(" \n ") == []
