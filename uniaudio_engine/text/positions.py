"""English text in phone labels that tell a phone's place in its word, as alignments made with Kaldi
have them.

``HH_B AH0_I L_I OW1_E``: begin, inside, end; ``_S`` for a word of a single phone; ``SIL`` for a
pause. Models that were trained on such alignments bring their labels in ``phones.txt``, and may
bring their words in ``lexicon.txt`` (``WORD PHONE PHONE …`` a line, as CMUdict and Kaldi write
them); words that it lacks are spoken by our own lexicon, whose phones are the same ones in other
letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import InputError, first_few
from .frontend import Sentence
from .phones import PAUSE

SILENCE = "SIL"


def uses_positions(labels: Mapping[str, int]) -> bool:
    """Whether a model's labels are of this kind."""
    return SILENCE in labels and any(label.endswith("_B") for label in labels)


def parse_lexicon(text: str, where: str) -> dict[str, list[str]]:
    """``WORD PHONE PHONE …`` lines -> lower-case word -> phones; of several pronunciations the
    first.

    Accepts CMUdict's ``;;;`` comments and ``WORD(2)``, and Kaldi's probabilities between word and
    phones.
    """
    words: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or line.startswith(";;;"):
            continue
        word = re.sub(r"\(\d+\)$", "", parts[0]).lower()
        phones = [p for p in parts[1:] if not re.fullmatch(r"\d*\.\d+", p)]
        if not phones:
            raise InputError(
                f"{where} line {number}: expected WORD PHONE PHONE …, got {line[:40]!r}"
            )
        words.setdefault(word, phones)
    return words


def positioned(phones: list[str], labels: Mapping[str, int]) -> list[str]:
    """A word's phones with their places; phones that have them already stay as they are."""
    places = ["_S"] if len(phones) == 1 else ["_B", *["_I"] * (len(phones) - 2), "_E"]
    return [p if p in labels else p + place for p, place in zip(phones, places, strict=True)]


def _cmu(phone: str) -> str:
    """Our phone in CMUdict's letters: the schwa is an unstressed AH."""
    return "AH0" if phone == "ax0" else phone.upper()


def positioned_sentence(sentence: Sentence, labels: Mapping[str, int]) -> Sentence:
    """A sentence of our phones in a model's labels.

    Raises :class:`InputError` for a label that the model lacks.
    """
    words = tuple(
        replace(word, phones=tuple(_labels(word.phones, labels))) for word in sentence.words
    )
    phones = [phone for word in words for phone in word.phones]
    unknown = sorted({p for p in phones if p not in labels})
    if unknown:
        raise InputError(
            f"text: the model's phones.txt has no {first_few(unknown)}; give phones= instead"
        )
    return replace(sentence, phones=phones, words=words)


def _labels(phones: Sequence[str], labels: Mapping[str, int]) -> list[str]:
    if tuple(phones) == (PAUSE,):
        return [SILENCE]
    return positioned([_cmu(p) for p in phones], labels)
