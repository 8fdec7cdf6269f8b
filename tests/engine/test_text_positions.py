"""English in labels with places in the word: from our lexicon, and from one that comes with a
model.
"""

from __future__ import annotations

import pytest

from uniaudio_engine import InputError
from uniaudio_engine.text import PHONES, LiveSentences, iter_sentences, sentence_words
from uniaudio_engine.text.frontend import sentence_phones
from uniaudio_engine.text.positions import (
    parse_lexicon,
    positioned,
    positioned_sentence,
    uses_positions,
)

CMU = ["AH0" if p == "ax0" else p.upper() for p in PHONES if p != "pau"]
LABELS = {
    label: i
    for i, label in enumerate(["<unk>", "SIL", *(f"{p}_{place}" for p in CMU for place in "BIES")])
}


def said(text: str, lexicon: str = "") -> list[str]:
    own = parse_lexicon(lexicon, "lexicon.txt")
    found = [positioned_sentence(s, LABELS) for s in iter_sentences(text, lexicon=own)]
    live = LiveSentences(lexicon=own, convert=lambda s: positioned_sentence(s, LABELS))
    live.push(text)
    assert [*live.ready(), *live.end()] == found
    return [" ".join(s.phones) for s in found]


def test_our_own_lexicon() -> None:
    assert said("Hello, I am here.") == [
        "SIL HH_B AH0_I L_I OW1_E SIL AY1_S AE1_B M_E HH_B IH1_I R_E SIL"
    ]
    assert len(said("One. Two.")) == 2


def test_words_are_the_phones_in_order() -> None:
    text = "The old dogs' tails, Anna's and the man's, weren't 3 feet long."
    words = sentence_words(text)
    assert [p for w in words for p in w] == sentence_phones(text)
    assert (
        words[0] == words[-1] == ["pau"] and ["ae1", "n", "ax0", "z"] in words
    )  # "Anna's" is one word


def test_a_model_s_lexicon_goes_first() -> None:
    lexicon = (
        ";;; a comment\nHELLO  0.99 HH EH1 L OW1\nHELLO(2) HH AH0 L OW1\nanna's AE1 N AH0 Z\nHere"
        " HH_B IY1_I R_E\n"
    )
    assert said("Hello, here", lexicon) == ["SIL HH_B EH1_I L_I OW1_E SIL HH_B IY1_I R_E SIL"]
    assert said("Hello you", lexicon) == [
        "SIL HH_B EH1_I L_I OW1_E Y_B UW1_E SIL"
    ]  # the second word is ours


def test_places() -> None:
    assert positioned(["AY1"], LABELS) == ["AY1_S"]
    assert positioned(["HH", "AY1"], LABELS) == ["HH_B", "AY1_E"]
    assert positioned(["SIL"], LABELS) == ["SIL"]


def test_which_models_have_such_labels() -> None:
    assert (
        uses_positions(LABELS)
        and not uses_positions({p: i for i, p in enumerate(PHONES)})
        and not uses_positions({})
    )


def test_labels_that_a_model_lacks() -> None:
    few = {k: v for k, v in LABELS.items() if not k.startswith("OW1")}
    with pytest.raises(InputError, match="phones.txt has no OW1_E; give phones= instead"):
        [positioned_sentence(s, few) for s in iter_sentences("Hello.")]


def test_a_lexicon_with_empty_words() -> None:
    with pytest.raises(InputError, match="lexicon.txt line 2: expected WORD PHONE"):
        parse_lexicon("A AH0\nB\n", "lexicon.txt")
