"""Text of any language to sentences, as it arrives, for models that read text as it is written.

Nothing is normalised. A sentence ends at a stop before a space, at a CJK stop, or at the end of a
line. A short one is joined to what follows it in its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from .frontend import NothingToSpeak, Sentence

_CLOSERS = r"[\"'”’»)\]」』]*"
_STOP = re.compile(rf"[.?!…]+{_CLOSERS}(?=\s)|[。！？]+{_CLOSERS}|\s*[\r\n]+\s*")
_LAST = re.compile(rf"(?:[.?!…]|[。！？]+){_CLOSERS}\s*\Z")
_FEWEST = 20  # characters of a sentence that is not joined to the next one
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")  # counts as two
# Before a stop that ends no sentence, as before a number or a name.
_ABBREVIATIONS = frozenset("Mr Mrs Ms Dr Prof St vs No Nr TP Tp Th ThS TS GS PGS BS KS Q P".split())
_WORD = re.compile(r"[^\s(\[\"'“‘«]*\Z")
_LOOK = 20  # characters before a stop
_CLAUSE = re.compile(r"[,;:，；：、](?:\s+|(?<=[，；：、]))")


class TextSentences(Protocol):
    """What gives out the sentences of a text that arrives."""

    @property
    def pending(self) -> bool: ...
    def push(self, text: str) -> None: ...
    def ready(self) -> Iterable[Sentence]: ...
    def clause(self) -> Iterable[Sentence]: ...
    def flush(self) -> Iterable[Sentence]: ...
    def end(self) -> Iterable[Sentence]: ...


class PlainSentences:
    """``push`` text, then take the sentences that are certain from ``ready``.

    They are those of the whole text, however it is cut. ``clause`` and ``flush`` give out text
    before it is certain. ``begin`` and ``end`` of a sentence are its characters.
    """

    def __init__(self, read: Callable[[Sentence], Iterable[Sentence]] = lambda s: [s]) -> None:
        """``read``: makes what is given out of each sentence."""
        self._read = read
        self._text = ""  # from the next sentence on
        self._at = 0  # where it begins in the whole
        self._found = False
        self._shown = ""

    def push(self, text: str) -> None:
        """More text, cut anywhere."""
        self._shown = (self._shown + text).lstrip()[:20]
        self._text += text

    @property
    def pending(self) -> bool:
        """Whether there is text that was not given out."""
        return bool(self._text.strip())

    def ready(self) -> Iterator[Sentence]:
        """The sentences that became certain."""
        while (end := self._next(False)) is not None:
            yield from self._take(end)

    def clause(self) -> Iterator[Sentence]:
        """What can be spoken without cutting a clause in two, if there is anything."""
        yield from self.ready()
        ends = [m.end() for m in _CLAUSE.finditer(self._text)]
        if _LAST.search(self._text):
            ends.append(len(self._text))
        end = next((e for e in ends if _length(self._text[:e]) >= _FEWEST), None)
        if end is not None:
            yield from self._take(end)

    def flush(self) -> Iterator[Sentence]:
        """All that is there, as if the text ended here."""
        while (end := self._next(True)) is not None:
            yield from self._take(end)

    def end(self) -> Iterator[Sentence]:
        """All that is left. Raises :class:`NothingToSpeak` if no sentence came of it."""
        yield from self.flush()
        if not self._found:
            raise NothingToSpeak(self._shown)

    def _next(self, is_end: bool) -> int | None:
        """Where the next sentence ends; None where that is not certain."""
        text = self._text
        if not text.strip():
            return None
        begin = len(text) - len(text.lstrip())
        for m in _STOP.finditer(text, begin):
            if m.end() == len(text) and not is_end:  # more of the stop may come
                return None
            if "\n" in m.group() or "\r" in m.group():
                return m.end()
            after = text[m.end() :].lstrip(" \t")[:1]
            if not after:
                if is_end:
                    continue
                return None
            if _ends(text, m.start(), m.group(), after) and (
                _length(text[begin : m.end()]) >= _FEWEST
            ):
                return m.end()
        return len(text) if is_end else None

    def _take(self, end: int) -> Iterator[Sentence]:
        raw, self._text = self._text[:end], self._text[end:]
        begin = self._at + len(raw) - len(raw.lstrip())
        self._at += end
        said = raw.strip()
        if any(c.isalnum() for c in said):
            self._found = True
            yield from self._read(Sentence(said, [], begin=begin, end=begin + len(said)))


def plain_sentences(
    text: str, read: Callable[[Sentence], Iterable[Sentence]] = lambda s: [s]
) -> Iterator[Sentence]:
    """The sentences of a text. Raises :class:`NothingToSpeak` at the end if there is none."""
    sentences = PlainSentences(read)
    sentences.push(text)
    return sentences.end()


def halves(text: str) -> tuple[str, str] | None:
    """A text cut at the clause's end that is nearest to its middle, or else at the space; None
    where there is neither.
    """
    text = text.strip()
    middle = len(text) / 2
    clauses = [m.end() for m in _CLAUSE.finditer(text) if m.end() < len(text)]
    near = [c for c in clauses if len(text) / 5 <= c <= 4 * len(text) / 5]
    cuts = near or [m.end() for m in re.finditer(r"\s+", text)] or _between_wide(text)
    cut = min(cuts, key=lambda c: abs(c - middle), default=0)
    left, right = text[:cut].strip(), text[cut:].strip()
    return (left, right) if left and right else None


def _between_wide(text: str) -> list[int]:
    """Places after characters of scripts without spaces."""
    return [m.end() for m in _WIDE.finditer(text) if m.end() < len(text)]


def _length(text: str) -> int:
    return len(text.strip()) + len(_WIDE.findall(text))


def _ends(text: str, at: int, stop: str, after: str) -> bool:
    """Whether a stop is a sentence's end; ``after``: the character that follows."""
    if stop[0] in "。！？":
        return True
    if after.islower():
        return False
    if not stop.startswith(".") or stop.startswith(".."):
        return True
    found = _WORD.search(text[max(0, at - _LOOK) : at])
    before = found.group() if found else ""
    initial = len(before) == 1 and before.isupper()
    return not initial and before not in _ABBREVIATIONS
