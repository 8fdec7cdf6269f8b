"""Markdown, SSML, inline commands, user pronunciations and encodings: what is spoken, and what is
rejected.
"""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from uniaudio_engine.errors import InputError
from uniaudio_engine.text import (
    PHONES,
    Sentence,
    decode,
    iter_sentences,
    phonemize,
    read_pronunciations,
)


def words(sentence: Sentence) -> str:
    return " ".join(w.text for w in sentence.words if w.text)


def phones_of(text: str, word: str, **options: object) -> str:
    (found,) = [
        w.phones
        for s in iter_sentences(text, **options)  # type: ignore[arg-type]
        for w in s.words
        if w.text.lower() == word
    ]
    return " ".join(found)


def test_pauses_end_a_sentence_and_add_up() -> None:
    text = "One [pause 0.5] two[pause 250ms][pause 0.25] three"
    assert [(words(s), s.pause) for s in iter_sentences(text)] == [
        ("one", 0.5),
        ("two", 0.5),
        ("three", None),
    ]


@pytest.mark.parametrize("pause", ["[pause x]", "[pause 99]", "[pause -1]"])
def test_pauses_that_cannot_be_made(pause: str) -> None:
    with pytest.raises(InputError, match=r"^\[pause\]: expected seconds from 0 to 10, [^\n]*$"):
        phonemize(f"One {pause} two")


def test_pauses_after_paragraphs() -> None:
    text = "One. Two.\n\nThree\n\n[pause 2]Four"
    found = [(words(s), s.pause) for s in iter_sentences(text, paragraph_pause=0.8)]
    assert found == [("one", None), ("two", 0.8), ("three", 2.0), ("four", 0.8)]
    assert [s.pause for s in iter_sentences("One.\n\nTwo.")] == [None, None]
    first, one = iter_sentences("[pause 1] One")
    assert (first.phones, first.pause, words(one)) == (["pau"], 1.0, "one")


def test_phones_of_one_word() -> None:
    assert phones_of("[Kokoro](/k ax k ao1 r ow0/) speaks", "kokoro") == "k ax0 k ao1 r ow0"
    assert phones_of("[Kokoro](/K AH0 K AO1 R OW2/)", "kokoro") == "k ah0 k ao1 r ow0"
    assert phones_of("[Kokoro](/kəkˈɔɹoʊ/).", "kokoro") == "k ax0 k ao1 r ow0"
    (sentence,) = iter_sentences("the [apple](/ae1 p ax l/)")
    assert sentence.words[1].phones == ("dh", "iy0")  # the neighbours hear it
    assert sentence.text == "the apple"


@pytest.mark.parametrize("text", ["[a b](/path/)", "[a b](/deep/path/)", "[a b](x)"])
def test_links_are_no_phones(text: str) -> None:
    assert [words(s) for s in iter_sentences(text)] == ["a b"]


def test_phones_that_do_not_exist() -> None:
    with pytest.raises(
        InputError, match=r"expected phones such as hh ax l ow1, got qq; the phones"
    ):
        phonemize("[word](/qq ax/)")
    with pytest.raises(InputError, match="expected IPA of English, got 'ʘ'"):
        phonemize("[word](/aʘ/)")


def test_plain_takes_signs_as_they_stand() -> None:
    assert [words(s) for s in iter_sentences("*a* [x](y) &amp;", markup="plain")] == [
        "asterisk a asterisk x y and amp"
    ]
    assert [words(s) for s in iter_sentences("<speak>hi</speak>", markup="plain")] == [
        "speak hi slash speak"
    ]
    with pytest.raises(InputError, match="markup: expected auto, plain, markdown, ssml, got 'xml'"):
        phonemize_with("hi", "xml")


def phonemize_with(text: str, markup: str) -> list[Sentence]:
    return list(iter_sentences(text, markup=markup))


def test_places_of_words() -> None:
    text = "# The **big** 42\n\nTom &amp; [Ann](http://x.y/)"
    found = [
        (w.text, text[w.begin : w.end]) for s in iter_sentences(text) for w in s.words if w.text
    ]
    assert found == [
        ("the", "The"),
        ("big", "big"),
        ("forty", "42"),
        ("two", "42"),
        ("tom", "Tom"),
        ("and", "&"),
        ("ann", "Ann"),
    ]


# SSML


def test_ssml_breaks_and_rates() -> None:
    text = (
        '<speak>One<break time="1.5s"/><prosody rate="slow">two <prosody rate="200%">three'
        '</prosody></prosody>four<break/>five<break strength="none"/> six</speak>'
    )
    found = [(words(s), s.pause, s.rate) for s in iter_sentences(text)]
    assert found == [
        ("one", 1.5, 1.0),
        ("two", None, 0.75),
        ("three", None, 1.5),
        ("four", 0.35, 1.0),
        ("five six", None, 1.0),
    ]


def test_ssml_places_are_those_of_the_document() -> None:
    text = '<speak>Ünder &amp; <sub alias="doctor">Dr</sub> x</speak>'
    found = [
        (w.text, text[w.begin : w.end]) for s in iter_sentences(text) for w in s.words if w.text
    ]
    assert found == [
        ("under", "Ünder"),
        ("and", "&"),
        ("doctor", '<sub alias="doctor">Dr</sub>'),
        ("x", "x"),
    ]


def test_ssml_phonemes() -> None:
    text = '<speak><phoneme alphabet="ipa" ph="təˈmɑːtoʊ">tomato</phoneme></speak>'
    assert phones_of(text, "tomato") == "t ax0 m aa1 t ow0"


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("<voice>x</voice>", "SSML: expected speak, p, s, .* got <voice>; leave it out"),
        ("<b", "SSML: expected well-formed XML, got .* at line 1, column"),
        ("a & b", "SSML: expected well-formed XML, got .*; & and < in the text"),
        ("<break time='1h'/>", "SSML: break time: expected seconds from 0 to 10"),
        ("<break strength='huge'/>", "SSML: break strength: expected none, .*got 'huge'"),
        ("<say-as interpret-as='poem'>x</say-as>", "say-as interpret-as: expected characters, "),
        ("<prosody rate='99'>x</prosody>", "prosody rate: expected x-slow, .*got '99'"),
        ("<prosody pitch='+2st'>x</prosody>", "<prosody> takes rate here, got pitch"),
        ("<sub>x</sub>", 'expected <sub alias="words">'),
        ("<sub alias='y'><break/></sub>", "expected text only in <sub>, got <break>"),
        ("<phoneme alphabet='sampa' ph='x'>x</phoneme>", "alphabet: expected ipa or x-arpabet"),
        ("<speak>x</speak>", "expected one <speak> around everything"),
        ("<p>" * 70 + "x" + "</p>" * 70, "at most 64 elements"),
    ],
)
def test_ssml_that_is_refused(inside: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        phonemize(f"<speak>{inside}</speak>")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["One <break time='1s'/> two", "<say-as interpret-as='x'>1</say-as>"]
)
def test_ssml_tags_without_a_document(text: str) -> None:
    with pytest.raises(InputError, match="expected SSML tags only inside <speak>"):
        phonemize(text)


def test_ssml_entities_cannot_grow_or_open_files() -> None:
    for entity in ('<!ENTITY a "b">', '<!ENTITY a SYSTEM "file:///etc/passwd">'):
        with pytest.raises(InputError, match="expected no document type"):
            phonemize_with(f"<!DOCTYPE speak [{entity}]><speak>&a;</speak>", "ssml")
    with pytest.raises(InputError, match="expected one <speak>"):
        phonemize_with("<p>x</p>", "ssml")
    with pytest.raises(InputError, match="well-formed"):
        phonemize_with("no markup", "ssml")


# Own pronunciations


def test_a_pronunciation_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(
        "# mine\n;;; theirs\nKokoro k ax k ao1 r ow0\nGIF\tJH IH1 F\nc++ s iy1 p l ah1 s\n"
        "don't d ow1\nnaïf naɪˈiːf\n\n",
        "utf-8",
    )
    own = read_pronunciations(path)
    assert own["kokoro"] == ("k", "ax0", "k", "ao1", "r", "ow0")
    text = "A GIF by Kokoro's C++ team; don't ask."
    assert phones_of(text, "gif", lexicon=own) == "jh ih1 f"
    assert phones_of(text, "kokoro's", lexicon=own) == "k ax0 k ao1 r ow0 z"
    assert phones_of(text, "c++", lexicon=own) == "s iy1 p l ah1 s"
    assert phones_of(text, "don't", lexicon=own) == "d ow1"
    assert phones_of("[Kokoro](/k ax k ao1 r ow0/)'s", "kokoro's") == "k ax0 k ao1 r ow0 z"
    assert phones_of("the kokoros", "kokoros", lexicon=own) == phones_of("the kokoros", "kokoros")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("word", "words.txt line 2: expected WORD PHONE PHONE …, .* got 'word'"),
        ("word qq", "words.txt line 2: expected phones such as hh ax l ow1, got qq"),
    ],
)
def test_a_wrong_pronunciation_file(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text(f"fine f ay1 n\n{line}\n", "utf-8")
    with pytest.raises(InputError, match=message):
        read_pronunciations(path)
    with pytest.raises(InputError, match="got .*none.txt: No such file"):
        read_pronunciations(tmp_path / "none.txt")


def test_pronunciations_as_a_mapping() -> None:
    assert read_pronunciations({"Ab": "ae1 b", "cd": ["s", "iy1"]}) == {
        "ab": ("ae1", "b"),
        "cd": ("s", "iy1"),
    }
    with pytest.raises(InputError, match="lexicon: expected a single word, got 'a b'"):
        read_pronunciations({"a b": "ae1"})


def test_every_vowel_has_a_sign_in_ipa() -> None:
    from uniaudio_engine.text.ipa import _IPA

    said = {phone for phones in _IPA.values() for phone in phones.split()}
    assert said == {p.rstrip("01") for p in PHONES[1:]} - {""}


# Encodings


@pytest.mark.parametrize(
    "data",
    [
        "Grüße. Ok then".encode(),
        codecs.BOM_UTF8 + "Grüße. Ok then".encode(),
        "Grüße. Ok then".encode("utf-16"),
        codecs.BOM_UTF16_BE + "Grüße. Ok then".encode("utf-16-be"),
        "Grüße. Ok then".encode("utf-16-le"),
        "Grüße. Ok then".encode("utf-16-be"),
        "Grüße. Ok then".encode("utf-32"),
    ],
)
def test_encodings(data: bytes) -> None:
    assert decode(data, "text") == "Grüße. Ok then"


@pytest.mark.parametrize("data", ["Grüße".encode("latin-1"), b"\xff\xfea", b"\x80\x81"])
def test_unknown_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(
        InputError, match=r"^standard input: expected text in UTF-8 or UTF-16, [^\n]*$"
    ):
        decode(data, "standard input")
    assert decode(b"", "standard input") == ""
