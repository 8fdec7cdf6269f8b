"""Text to sentences as it arrives, in pieces of any kind.

A sentence is given out once it is certain: once no text that may follow changes it. So the
sentences equal those of the whole text, whatever the pieces. Only :meth:`LiveSentences.clause` and
:meth:`LiveSentences.flush` give out text before that. Not responsible for when to call these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from .characters import OVERRIDE
from .documents import check_markup, is_ssml
from .frontend import Held, NothingToSpeak, Sentence, iter_sentences, speakable
from .live_markup import LiveBlocks, Part
from .markup import Block, Override
from .sentences import certain_spans, sentence_spans, stops

_HISTORY = 32  # characters before a sentence that rules look back at
_PATIENCE = 400  # characters of a sentence from which on its end is looked for only now and then
_NEXT_WORD = re.compile(rf"[\s\"'“‘«(\[]*[A-Za-z0-9{OVERRIDE}]")

# A clause ends at punctuation before a space, or at a dash; not inside of numbers and dates.
_CLAUSE = re.compile(r"(?<!\d)[,;:][\"'”’)]*\s+(?=[^\W\d])|\s[-–—]+\s+(?=[^\W\d])|—(?=[^\W\d])")
_CLAUSE_LAST = re.compile(r"(?<!\d)[,;:][\"'”’)]*\Z|\s[-–—]+\Z")
_CLAUSE_WORDS = 3  # the fewest
_CLAUSE_LENGTH = 60  # characters of several short clauses that are spoken in one go
_CLAUSE_END = 0.02  # seconds of the pause at its end: the next clause begins with one
_MOST_WORDS = 14  # words without punctuation, after which a clause is cut
_FEWEST_WORDS = 6  # words of a clause that is cut without punctuation
_JOINING = (
    "and|but|or|because|so|that|which|who|where|when|while|if|as|than|with|without|for|from|into|in|on|"
    "at|by|to|of|about|after|before|until|is|are|was|were"
)
_BEFORE = re.compile(rf"\s(?=(?:{_JOINING})\s)")
_AFTER = re.compile(rf"\b(?:{_JOINING}|a|an|the)\Z")  # no end of a clause


class LiveSentences:
    """``push`` text, then take the sentences that are certain from ``ready``.

    The options are those of :func:`iter_sentences`; ``convert`` is applied to every sentence. An
    SSML document is read once it is whole.
    """

    def __init__(
        self,
        markup: str = "auto",
        lexicon: Mapping[str, Sequence[str]] | None = None,
        convert: Callable[[Sentence], Sentence] | None = None,
        paragraph_pause: float | None = None,
    ) -> None:
        check_markup(markup)
        self._markup = markup
        self._own = lexicon or {}
        self._convert = convert
        self._held = Held(paragraph_pause)
        self._blocks: LiveBlocks | None = None
        self._head = ""  # the text, until it is known how it is written, or if it is SSML
        self._document: list[str] | None = None  # of SSML
        self._shown = ""  # how the text begins, for the message
        # The open block, from shortly before the next sentence on.
        self._text, self._origin = "", [0]
        self._overrides: dict[int, Override] = {}
        self._begin = self._scan = 0  # the next sentence; where to look for its end
        self._parts: list[Part] = []  # more of that block
        self._size = 0  # their characters
        self._enough = 1  # how many are worth a look
        self._found = False

    # What comes

    def push(self, text: str) -> None:
        """More text, cut anywhere."""
        if len(self._shown) < 20:
            self._shown = (self._shown + text).lstrip()[:20]
        if self._blocks is not None:
            self._blocks.push(text)
        elif self._document is not None:
            self._document.append(text)
        else:
            self._head += text
            self._choose(False)

    def _choose(self, end: bool) -> None:
        """Find out how the text is written; it may take its first few characters."""
        if self._markup == "ssml" or (self._markup == "auto" and is_ssml(self._head)):
            self._document = [self._head]
        elif self._markup == "auto" and not end and _may_be_ssml(self._head):
            return
        else:
            self._blocks = LiveBlocks(self._markup == "plain")
            self._blocks.push(self._head)
        self._head = ""

    @property
    def pending(self) -> bool:
        """Whether there is text that was not given out."""
        return bool(
            self._head.strip()
            or (self._blocks is not None and self._blocks.pending)
            or self._size
            or self._text[self._begin :].strip()
            or self._held.sentence
        )

    # What is certain

    def ready(self) -> Iterator[Sentence]:
        """The sentences that became certain."""
        if self._blocks is not None:
            yield from self._taken(self._blocks.read())

    def flush(self) -> Iterator[Sentence]:
        """All that is there, as if the text ended here; what follows begins a sentence."""
        if self._document is not None:
            return
        if self._blocks is None:
            self._choose(True)
        if self._blocks is not None:
            yield from self._taken(self._blocks.read(flush=True), True)

    def end(self) -> Iterator[Sentence]:
        """All that is left. Raises :class:`NothingToSpeak` if no sentence came of it."""
        if self._blocks is None and self._document is None:
            self._choose(True)
        if self._document is not None:
            document = "".join(self._document)
            pause = self._held.paragraph_pause
            yield from self._given(
                iter_sentences(document, markup="ssml", lexicon=self._own, paragraph_pause=pause)
            )
            return
        assert self._blocks is not None
        yield from self._taken(self._blocks.read(end=True), True)
        if not self._found:
            raise NothingToSpeak(self._shown)

    def clause(self) -> Iterator[Sentence]:
        """What can be spoken without cutting a clause in two, if there is anything.

        Its end is no end of a sentence, so the pause after it is short.
        """
        yield from self.ready()
        if self._size:
            yield from self._sentences(False)
        if self._held.sentence is not None:
            yield from self._given(self._held.take(early=True))
            return
        at_space = self._blocks is not None and self._blocks.at_space
        is_end = at_space and stops(self._text, self._begin)
        cut = len(self._text) if is_end else self._clause_end(at_space)
        if cut is None:
            return
        made = list(self._spoken([(self._begin, cut)]))
        made += self._given(self._held.take(early=is_end))
        if made and not is_end:
            made[-1] = replace(made[-1], pause=_CLAUSE_END)
        yield from made
        self._begin, self._scan = cut, max(self._scan, cut)

    def _clause_end(self, at_space: bool) -> int | None:
        """Where the clause at the beginning of the open block ends; ``at_space``: the block's text
        is followed by space."""
        text, begin = self._text, self._begin
        found = list(_CLAUSE.finditer(text, begin, begin + _PATIENCE))
        if at_space and len(text) - begin < _PATIENCE:
            found += _CLAUSE_LAST.finditer(text, begin)
        ends = [m.end() for m in found if len(text[begin : m.start()].split()) >= _CLAUSE_WORDS]
        if ends:  # of several short clauses all: fewer seams
            return max((e for e in ends if e - begin <= _CLAUSE_LENGTH), default=ends[0])
        whole = text.rfind(" ", begin, begin + _PATIENCE)
        if whole < 0 or len(text[begin:whole].split()) < _MOST_WORDS:
            return None
        ends = [
            m.end()
            for m in _BEFORE.finditer(text, begin, whole)
            if len(text[begin : m.start()].split()) >= _FEWEST_WORDS
            and not _AFTER.search(text, max(begin, m.start() - 10), m.start())
        ]
        return max(ends, default=whole + 1)

    # Blocks to sentences

    def _taken(self, parts: Iterable[Part], flush: bool = False) -> Iterator[Sentence]:
        """The sentences that more parts make certain; on ``flush`` all."""
        for part in parts:
            self._parts.append(part)
            self._size += len(part.text)
            if part.closed:
                place = self._origin[0] if self._text else self._parts[0].origin[0]
                yield from self._sentences(True)
                self._held.end(part.pause, part.paragraph, place)
        if flush:
            yield from self._given(self._held.take(early=True))
            return
        if self._size >= self._enough:
            yield from self._sentences(False)
        if self._held.sentence is not None and _NEXT_WORD.match(self._text, self._begin):
            yield from self._given(self._held.take())

    def _sentences(self, closed: bool) -> Iterator[Sentence]:
        """Look for sentences in the open block; ``closed``: it is all there."""
        for part in self._parts:
            size = len(self._origin) - 1
            self._overrides.update({size + at: o for at, o in part.overrides.items()})
            self._origin[-1:] = part.origin
        self._text = "".join((self._text, *(part.text for part in self._parts)))
        self._parts, self._size = [], 0
        if closed:
            spans = sentence_spans(self._text, self._begin)
            yield from self._spoken(spans)
            self._text, self._origin, self._overrides = "", [0], {}
            self._begin = self._scan = 0
            self._enough = 1
            return
        found, begin, self._scan = certain_spans(self._text, self._begin, self._scan)
        yield from self._spoken(found)
        self._begin = begin
        drop = begin - _HISTORY
        if drop > 0:
            self._text, self._origin = self._text[drop:], self._origin[drop:]
            self._overrides = {at - drop: o for at, o in self._overrides.items() if at >= drop}
            self._begin, self._scan = begin - drop, self._scan - drop
        left = len(self._text) - self._begin
        self._enough = 1 if left < _PATIENCE else left // 4

    def _spoken(self, spans: Iterable[tuple[int, int]]) -> Iterator[Sentence]:
        block = Block(self._text, self._origin, self._overrides)
        for begin, end in spans:
            for sentence in speakable(block, begin, end, self._own):
                yield from self._given(self._held.add(sentence))

    def _given(self, sentences: Iterable[Sentence]) -> Iterator[Sentence]:
        for sentence in sentences:
            self._found = True
            yield sentence if self._convert is None else self._convert(sentence)


def _may_be_ssml(text: str) -> bool:
    """Whether a text that begins so may become an SSML document."""
    text = text.lstrip("\ufeff \t\r\n")
    if text.startswith("<?xml"):
        _, closed, rest = text.partition(">")
        if not closed:
            return len(text) < _PATIENCE
        text = rest.lstrip()
    return "<speak".startswith(text) or "<?xml".startswith(text)
