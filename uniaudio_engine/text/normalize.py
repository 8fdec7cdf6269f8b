"""Written English to spoken English: numbers, dates, money, units, abbreviations, acronyms,
symbols.

Responsible for the words and for keeping the punctuation that makes pauses. Not responsible for
pronunciation. A single capital letter in the result is the name of that letter ("U S A"); everything
else is lower case.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from . import addresses, dates, quantities, words
from .characters import OVERRIDE, fold
from .scan import Normalized, Rules, scan


@cache
def _rules() -> Rules:
    """All rules, in the order in which they are tried."""
    return Rules(
        [
            (OVERRIDE, OVERRIDE, lambda m: OVERRIDE),
            *quantities.MONEY,
            *addresses.ADDRESSES,
            *dates.DATES,
            *dates.TIMES,
            *words.EARLY,
            *addresses.NUMBERS,
            *quantities.TRAILING_MONEY,
            *quantities.MEASURES,
            *quantities.NUMBERS,
            *words.WORDS,
            *words.SIGNS,
        ]
    )


def spoken(text: str, given: Mapping[str, str] | None = None) -> tuple[Normalized, str]:
    """One sentence as it is spoken, its places those in `text`; and what could not be read.

    ``given``: lower-case spellings -> the words that stand for them, left alone.
    """
    folded = fold(text)
    found = scan(words.lower_shouting(folded.text), _rules(), given)
    at = folded.at
    return (
        Normalized(found.text, [at[i] for i in found.begin], [at[i] for i in found.end]),
        folded.unread,
    )


def normalize(text: str) -> str:
    """`text` as it is spoken: lower-case words, single capitals for letter names, and pausing
    punctuation.

    Any string is accepted; what cannot be spoken is left out, so the result may be empty.
    """
    return spoken(text)[0].text
