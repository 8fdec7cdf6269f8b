"""Text to phones: sentences, words, and what words do to each other's phones.

Responsible for agreeing with flite's labels on running text: flite's speech and labels train the
bundled model, so what flite does between words (weak forms, possessives, pauses) is done here in
the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .lexicon import lexicon
from .normalize import normalize
from .phones import PAUSE, is_vowel
from .sentences import halve, split_sentences
from .tables import CONTRACTIONS, INFINITIVE_BEFORE, NOUN_BEFORE

MAX_PHONES = 200  # of a sentence, pauses included: about 17 seconds of speech
_MAX_CHARACTERS = (
    600  # longer text is cut before it is normalised, so that the first sentence comes soon
)
_BEFORE, _AFTER = "\"'`({[", "\"'`.,:;!?(){}[]-"
_SIBILANTS = frozenset("s z sh zh ch jh".split())
_VOICELESS = frozenset("p t k f th hh".split())
_SUFFIXES = {"'s": "z", "'ll": "l", "'ve": "v", "'d": "d"}


@dataclass(frozen=True)
class Sentence:
    """A stretch of text to be spoken in one go.

    text    as given, trimmed
    phones  of `PHONES`, at most MAX_PHONES, the first and the last of them `pau`
    """

    text: str
    phones: list[str]


def split_apostrophes(token: str) -> list[str]:
    """A token as flite's words: "o'brien's" is ["obrien", "'s"], "don't" is ["dont"]."""
    if token.lower() in CONTRACTIONS:
        return [token.lower()]
    stem, apostrophe, last = token.rpartition("'")
    if not apostrophe:
        return [token]
    suffix = "'" + last.lower()
    if stem and suffix in _SUFFIXES:
        return [*split_apostrophes(stem), suffix]
    return split_apostrophes(stem + last)


def _words(normalized: str) -> Iterator[tuple[list[str], bool]]:
    """The words of each token of normalised text, and whether a pause follows the token."""
    quoted = False
    for token in normalized.split():
        opened = token.lstrip(_BEFORE)
        quoted |= (
            "'" in token[: len(token) - len(opened)] or "`" in token[: len(token) - len(opened)]
        )
        core = opened.rstrip(_AFTER)
        after = opened[len(core) :].replace("-", "")
        # An apostrophe that closes no quotation belongs to the word ("the dogs' tails"): no pause.
        pause = bool(after) and (after != "'" or quoted)
        if "'" in after:
            quoted = False
        parts = core.split("-")
        if "a" in parts and (
            len(parts) > 1 or after
        ):  # "vis-a-vis" and "a, b": the letter, not the article
            parts = ["A" if part == "a" else part for part in parts]
        words = [word for part in parts for word in split_apostrophes(part) if word]
        yield words, pause


def _word_phones(words: list[str], i: int, before: str) -> list[str]:
    """Phones of `words[i]` after the phone `before`."""
    word = words[i]
    if word in CONTRACTIONS:
        return CONTRACTIONS[word].split()
    if word == "A":
        return ["ey0"]  # as flite says the letter
    if word in _SUFFIXES:
        phone = _SUFFIXES[word]
        if word == "'s":
            if before in _SIBILANTS:
                return ["ax0", "z"]
            return ["s"] if before in _VOICELESS else ["z"]
        return [phone] if is_vowel(before) else ["ax0", phone]
    if word in ("read", "lead") and (
        i == 0
        or words[i - 1] in INFINITIVE_BEFORE
        or word == "lead"
        and words[i - 1] in NOUN_BEFORE
    ):
        return lexicon().pronounce(["reed" if word == "read" else "leed"], 0)
    if word == "lead":
        return lexicon().pronounce(["led"], 0)
    return lexicon().pronounce(words, i)


def sentence_words(text: str, own: Mapping[str, list[str]] | None = None) -> list[list[str]]:
    """Phones of one sentence of any length, word by word; a pause is a word of its own, one is
    first and one last.

    ``own``: pronunciations that go before ours.  [] when nothing in it can be spoken.
    """
    tokens = list(_words(normalize(text)))
    words = [word if word == "A" else word.lower() for group, _ in tokens for word in group]
    spoken: list[list[str]] = [[PAUSE]]
    i = 0
    the = -1  # which word is a "the" whose vowel waits for the next phone
    for group, pause in tokens:
        for _ in group:
            given = own.get(words[i]) if own else None
            phones = given or _word_phones(words, i, spoken[-1][-1])
            if phones:
                if the == len(spoken) - 1 and is_vowel(phones[0]):
                    spoken[the][-1] = "iy0"
                if words[i] in _SUFFIXES and spoken[-1] != [PAUSE]:
                    spoken[-1] += phones  # "Anna's" is one word
                else:
                    spoken.append(list(phones))
                the = len(spoken) - 1 if words[i] == "the" and not given else -1
            i += 1
        if pause and spoken[-1] != [PAUSE]:
            spoken.append([PAUSE])
    if len(spoken) == 1:
        return []
    return spoken if spoken[-1] == [PAUSE] else [*spoken, [PAUSE]]


def sentence_phones(text: str) -> list[str]:
    """Phones of one sentence with its pauses, of any length; [] when nothing in it can be spoken."""
    return [phone for word in sentence_words(text) for phone in word]


def _speakable(text: str) -> Iterator[Sentence]:
    """`text` as one sentence, or halved until no part is too long."""
    phones = sentence_phones(text) if len(text) <= _MAX_CHARACTERS else None
    if phones is None or len(phones) > MAX_PHONES:
        for part in halve(text):
            if part:
                yield from _speakable(part)
    elif phones:
        yield Sentence(text, phones)


def iter_sentences(text: str) -> Iterator[Sentence]:
    """The sentences of `text`, each as soon as it is ready, so that speech can start before all is
    read.

    Any unicode is accepted: accents are folded and what cannot be spoken is left out. Raises
    ValueError, in one line, at the end when nothing at all could be spoken; TypeError when `text`
    is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected text as str, got {type(text).__name__}; decode bytes first")
    found = False
    for part in split_sentences(text):
        for sentence in _speakable(part):
            found = True
            yield sentence
    if not found:
        shown = "empty text" if not text.strip() else ascii(text.strip()[:20])
        raise ValueError(
            f"expected text with letters or digits, got {shown}; write the words to be spoken"
        )


def phonemize(text: str) -> list[Sentence]:
    """All sentences of `text` with their phones; see :func:`iter_sentences` for what is accepted
    and raised.
    """
    return list(iter_sentences(text))
