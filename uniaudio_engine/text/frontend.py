"""Text to phones: sentences, words, and what words do to each other's phones.

Responsible for agreeing with flite's labels on running text: flite's speech and labels train the
bundled model, so what flite does between words (weak forms, possessives, pauses) is done here in
the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .characters import OVERRIDE
from .documents import blocks
from .heteronyms import heteronym
from .lexicon import lexicon
from .markup import MAX_PAUSE, Block, Override
from .normalize import spoken
from .phones import PAUSE, is_vowel
from .scan import Normalized
from .sentences import cut_near_middle, sentence_spans
from .spoken_forms import CONTRACTIONS, SAID, SAID_APART

MAX_PHONES = 200  # of a sentence, pauses included: about 17 seconds of speech
_MAX_CHARACTERS = (
    600  # longer text is cut before it is normalised, so that the first sentence comes soon
)
_BEFORE, _AFTER = "\"'`({[", "\"'`.,:;!?(){}[]-"
_SIBILANTS = frozenset("s z sh zh ch jh".split())
_VOICELESS = frozenset("p t k f th hh".split())
_SUFFIXES = {"'s": "z", "'ll": "l", "'ve": "v", "'d": "d"}
_TOKEN = re.compile(r"\S+")
_PLAIN = re.compile(r"[a-z]+(?:'[a-z]+)*")


@dataclass(frozen=True)
class Word:
    """A spoken word with its phones, or a pause (no ``text``, one phone).

    ``begin``, ``end``: the characters [begin, end) of the input that it comes from.
    """

    text: str
    phones: tuple[str, ...]
    begin: int = 0
    end: int = 0


@dataclass(frozen=True)
class Sentence:
    """A stretch of text to be spoken in one go.

    text    as given, trimmed, without its markup
    phones  of `PHONES`, at most MAX_PHONES, the first and the last of them `pau`; one `pau` alone
            where the text begins with a pause
    words   whose phones, joined, are ``phones``; the pauses are words, too
    begin, end  the characters [begin, end) of the input
    pause   seconds of silence that are to follow; None where nothing is asked for
    rate    of speech: 1 is the voice's own, 2 twice as fast
    unread  the characters that have no English reading and were left out
    """

    text: str
    phones: list[str]
    words: tuple[Word, ...] = ()
    begin: int = 0
    end: int = 0
    pause: float | None = None
    rate: float = 1.0
    unread: str = ""


def split_apostrophes(token: str) -> list[str]:
    """A token as flite's words: "o'brien's" is ["obrien", "'s"], "don't" is ["dont"]."""
    lower = token.lower()
    if lower in CONTRACTIONS or lower in SAID or lower.endswith("in'"):
        return [lower]
    stem, apostrophe, last = token.rpartition("'")
    if not apostrophe:
        return [token]
    suffix = "'" + last.lower()
    if stem and suffix in _SUFFIXES:
        return [*split_apostrophes(stem), suffix]
    return split_apostrophes(stem + last)


class _Piece(NamedTuple):
    """A word of normalised text and the input's characters [begin, end) that it comes from."""

    text: str
    begin: int
    end: int
    shown: str
    phones: tuple[str, ...] | None = None


def _pieces(
    said: Normalized, overrides: Mapping[int, Override]
) -> Iterator[tuple[list[_Piece], bool]]:
    """The words of each token of normalised text, and whether a pause follows the token."""
    quoted = False
    for m in _TOKEN.finditer(said.text):
        token, start = m.group(), m.start()
        if OVERRIDE in token:
            yield from _overridden(said, token, start, overrides)
            continue
        opened = token.lstrip(_BEFORE)
        core = opened.rstrip(_AFTER)
        begin = start + len(token) - len(opened)
        # An apostrophe that belongs to the word: "'em", "goin'".
        for first, last in ((-1, 1), (-1, 0), (0, 1)):
            lead, whole = begin + first, begin + len(core) + last
            apart = said.text[max(start, lead) : whole]
            if apart in SAID_APART or ((first, last) == (0, 1) and not quoted and _drops_g(apart)):
                begin, core = max(start, lead), apart
                break
        before = token[: begin - start]
        quoted |= "'" in before or "`" in before
        after = token[begin - start + len(core) :].replace("-", "")
        # An apostrophe that closes no quotation belongs to the word ("the dogs' tails"): no pause.
        pause = bool(after) and (after != "'" or quoted)
        if "'" in after:
            quoted = False
        yield list(_parts(said, core, begin, bool(after))), pause


def _parts(said: Normalized, core: str, begin: int, closed: bool) -> Iterator[_Piece]:
    parts = core.split("-")
    # "vis-a-vis" and "a, b": the letter, not the article.
    letter = "a" in parts and (len(parts) > 1 or closed)
    for part in parts:
        last = begin + max(len(part) - 1, 0)
        words = split_apostrophes("A" if letter and part == "a" else part)
        for word in words:
            if word:
                shown = part if len(words) == 1 and word != "A" else word
                yield _Piece(word, said.begin[begin], said.end[min(last, len(said.end) - 1)], shown)
        begin += len(part) + 1


def _overridden(
    said: Normalized, token: str, start: int, overrides: Mapping[int, Override]
) -> Iterator[tuple[list[_Piece], bool]]:
    """A word whose reading is given, in words or in phones."""
    place = start + token.index(OVERRIDE)
    begin, end = said.begin[place], said.end[place]
    after = said.text[place + 1 : start + len(token)]
    override = overrides.get(begin)
    if override is None:
        return
    owner = after.startswith("'s")
    pause = bool(after[2 * owner :].strip("-"))
    suffix = [_Piece("'s", end, end + 2, "'s")] if owner else []
    if override.phones is not None:
        yield [_Piece(override.said, begin, end, override.said, override.phones), *suffix], pause
        return
    inner = override.said
    groups = list(_pieces(Normalized(inner, [begin] * len(inner), [end] * len(inner)), {}))
    for i, (pieces, stop) in enumerate(groups):
        yield pieces, stop or (pause and i == len(groups) - 1)


def _drops_g(word: str) -> bool:
    """Whether "goin'" rather than a closing quotation mark after "begin"."""
    if not word.endswith("in'") or len(word) < 5:
        return False
    return word[:-1] + "g" in lexicon() or word[:-1] not in lexicon()


def _word_phones(words: Sequence[str], i: int, before: str) -> Sequence[str]:
    """Phones of `words[i]` after the phone `before`."""
    word = words[i]
    if word in CONTRACTIONS:
        return CONTRACTIONS[word].split()
    if word in SAID:
        return SAID[word].split()
    if word == "A":
        return ["ey0"]  # as flite says the letter
    if word in _SUFFIXES:
        phone = _SUFFIXES[word]
        if word == "'s":
            if before in _SIBILANTS:
                return ["ax0", "z"]
            return ["s"] if before in _VOICELESS else ["z"]
        return [phone] if is_vowel(before) else ["ax0", phone]
    if word.endswith("in'"):
        return [*lexicon().pronounce([word[:-1] + "g"], 0)[:-1], "n"]
    return heteronym(words, i) or lexicon().pronounce(words, i)


def _speak(
    groups: Sequence[tuple[list[_Piece], bool]], own: Mapping[str, Sequence[str]]
) -> list[Word]:
    """Words with phones and pauses, one pause first and one last; [] when there are no words."""
    words = [
        p.text if p.text == "A" or p.phones is not None else p.text.lower()
        for pieces, _ in groups
        for p in pieces
    ]
    place = groups[0][0][0].begin if groups and groups[0][0] else 0
    said = [Word("", (PAUSE,), place, place)]
    i = 0
    the = -1  # which word is a "the" whose vowel waits for the next phone
    for pieces, pause in groups:
        for piece in pieces:
            given = piece.phones or own.get(piece.shown.lower()) or own.get(words[i])
            phones = tuple(given or _word_phones(words, i, said[-1].phones[-1]))
            if phones:
                last = said[-1]
                if the == len(said) - 1 and is_vowel(phones[0]):
                    said[-1] = last = replace(last, phones=(*last.phones[:-1], "iy0"))
                if words[i] in _SUFFIXES and not given and last.text:  # "Anna's" is one word
                    said[-1] = Word(
                        last.text + words[i], (*last.phones, *phones), last.begin, piece.end
                    )
                else:
                    said.append(Word(piece.shown, phones, piece.begin, piece.end))
                the = len(said) - 1 if words[i] == "the" and not given else -1
            i += 1
        if pause and said[-1].text:
            said.append(Word("", (PAUSE,), said[-1].end, said[-1].end))
    if len(said) == 1:
        return []
    if said[-1].text:
        said.append(Word("", (PAUSE,), said[-1].end, said[-1].end))
    return said


def _read(
    text: str, overrides: Mapping[int, Override], own: Mapping[str, Sequence[str]]
) -> tuple[list[Word], str]:
    """The words of one sentence, with their places in it, and what was left out."""
    # A word with signs in it ("c++") goes through the rules as one character.
    given = {word: word if _PLAIN.fullmatch(word) else OVERRIDE for word in own} if own else None
    said, unread = spoken(text, given)
    if own and OVERRIDE in said.text:
        signs = dict(overrides)
        for i, c in enumerate(said.text):
            written = text[said.begin[i] : said.end[i]]
            if c == OVERRIDE and said.begin[i] not in signs and written.lower() in own:
                signs[said.begin[i]] = Override(written, written, tuple(own[written.lower()]))
        overrides = signs
    return _speak(list(_pieces(said, overrides)), own), unread


def sentence_words(text: str, own: Mapping[str, Sequence[str]] | None = None) -> list[list[str]]:
    """Phones of one sentence of any length, word by word; a pause is a word of its own, one is
    first and one last.

    ``own``: pronunciations that go before ours.  [] when nothing in it can be spoken.
    """
    return [list(word.phones) for word in _read(text, {}, own or {})[0]]


def sentence_phones(text: str) -> list[str]:
    """Phones of one sentence with its pauses, of any length; [] when nothing in it can be spoken."""
    return [phone for word in sentence_words(text) for phone in word]


def speakable(
    block: Block, begin: int, end: int, own: Mapping[str, Sequence[str]]
) -> Iterator[Sentence]:
    """`block.text[begin:end]` as one sentence, or halved until no part is too long."""
    while begin < end and block.text[begin].isspace():
        begin += 1
    while end > begin and block.text[end - 1].isspace():
        end -= 1
    if begin == end:
        return
    text = block.text[begin:end]
    if len(text) <= _MAX_CHARACTERS:
        overrides = {at - begin: o for at, o in block.overrides.items() if begin <= at < end}
        words, unread = _read(text, overrides, own)
        phones = [phone for word in words for phone in word.phones]
        if len(phones) <= MAX_PHONES:
            if words or unread:
                written = "".join(
                    overrides[i].written if i in overrides else c for i, c in enumerate(text)
                )
                yield Sentence(
                    " ".join(written.split()) if overrides else written,
                    phones,
                    tuple(
                        replace(
                            w,
                            begin=block.origin[begin + w.begin],
                            end=_end(block, begin + w.begin, begin + w.end),
                        )
                        for w in words
                    ),
                    block.origin[begin],
                    _end(block, begin, end),
                    None,
                    block.rate,
                    unread,
                )
            return
    cut = cut_near_middle(block.text, begin, end)
    yield from speakable(block, begin, cut, own)
    yield from speakable(block, cut, end, own)


def _end(block: Block, begin: int, end: int) -> int:
    """Where the characters [begin, end) of a block end in the input."""
    if end <= begin:
        return block.origin[begin]
    return block.origin[end] if block.text[end - 1] == OVERRIDE else block.origin[end - 1] + 1


def iter_sentences(
    text: str,
    *,
    markup: str = "auto",
    lexicon: Mapping[str, Sequence[str]] | None = None,
    paragraph_pause: float | None = None,
) -> Iterator[Sentence]:
    """The sentences of `text`, each as soon as it is ready, so that speech can start before all is
    read.

    ``markup``: "auto", "plain", "markdown" or "ssml", as :func:`markup.blocks` says. ``lexicon``:
    lower-case words -> phones that go before ours. ``paragraph_pause``: seconds of silence after
    each paragraph but where the text itself says otherwise.

    Any unicode is accepted: accents are folded, and what has no English reading is left out and
    named in ``unread``. Raises :class:`NothingToSpeak`, a ValueError, at the end when nothing at all could be
    spoken; :class:`InputError` for markup that cannot be followed; TypeError when `text` is not a
    string.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected text as str, got {type(text).__name__}; decode bytes first")
    found, held = False, Held(paragraph_pause)
    for block in blocks(text, markup):
        for begin, end in sentence_spans(block.text):
            for sentence in speakable(block, begin, end, lexicon or {}):
                for one in held.add(sentence):
                    found = True
                    yield one
        held.end(block.pause, block.paragraph, block.origin[0])
    for one in held.take():
        found = True
        yield one
    if not found:
        raise NothingToSpeak(text)


class NothingToSpeak(ValueError):
    """A text without anything that can be spoken."""

    def __init__(self, text: str) -> None:
        shown = "empty text" if not text.strip() else ascii(text.strip()[:20])
        super().__init__(
            f"expected text with letters or digits, got {shown}; write the words to be spoken"
        )


class Held:
    """Holds a sentence back until it is known whether a pause follows it."""

    def __init__(self, paragraph_pause: float | None) -> None:
        self.paragraph_pause = paragraph_pause
        self.sentence: Sentence | None = None
        self._asked: float | None = None  # seconds of silence after it
        self._early = False  # whether the last one was taken before that was known

    def add(self, sentence: Sentence) -> Iterator[Sentence]:
        """The next sentence; yields the one before it."""
        if not sentence.words:  # nothing in it can be said: noted beside its neighbour
            if self.sentence is not None:
                unread = self.sentence.unread + sentence.unread
                self.sentence = replace(self.sentence, unread=unread)
            return
        yield from self.take()
        self.sentence, self._early = sentence, False

    def end(self, pause: float | None, paragraph: bool, place: int) -> None:
        """A block that begins at ``place`` ends."""
        if pause is not None:
            self._asked = min(MAX_PAUSE, (self._asked or 0.0) + pause)
        elif paragraph and self._asked is None and (self.sentence or self._early):
            pause = self.paragraph_pause
        if pause is None:
            return
        if self.sentence is None:  # silence on its own, as before the first word
            silence = Word("", (PAUSE,), place, place)
            self.sentence = Sentence("", [PAUSE], (silence,), place, place)
        self.sentence = replace(self.sentence, pause=pause if self._asked is None else self._asked)

    def take(self, early: bool = False) -> Iterator[Sentence]:
        """Yields the sentence that is held; ``early``: a pause may still follow."""
        sentence, self.sentence, self._asked, self._early = self.sentence, None, None, early
        if sentence is not None:
            yield sentence


def phonemize(text: str) -> list[Sentence]:
    """All sentences of `text` with their phones; see :func:`iter_sentences` for what is accepted
    and raised.
    """
    return list(iter_sentences(text))
