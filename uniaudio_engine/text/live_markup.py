"""Plain text and Markdown read as they arrive: the blocks of ``markup.py``, part by part.

What is read is certain: no text that may follow changes it. The rest waits. The blocks equal those
of the whole document, whatever the pieces in which it came. Every character is read a bounded
number of times.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from .characters import OVERRIDE
from .markup import (
    FENCE,
    ITEM,
    NUMBERED,
    PIECE,
    SILENT_START,
    Builder,
    Inline,
    Override,
    closing,
    goes_on,
    own_line,
)

_HISTORY = 16  # characters before the next unread one that patterns look back at
_PATIENCE = 400  # unread characters from which on they are looked at again only after some growth

# What may still become one of ``markup.PIECE`` when more of the line is there.
_OPEN = re.compile(
    r"\\\Z|`|!\Z"
    r"|!?\[(?:[^\[\]]|\[[^\[\]]*\]?){0,300}\Z"
    r"|!?\[(?:[^\[\]]|\[[^\[\]]*\]){0,300}\](?:\([^\n]{0,2500}|\[[^\[\]\n]{0,80})?\Z"
    r"|<(?:[!/A-Za-z][^<>\n]{0,2100})?\Z"
    r"|&[#A-Za-z0-9]{0,24}\Z"
    r"|(?<![\w*])\*{1,3}(?:[^\s*][^\n]{0,520})?\Z"
    r"|(?<![\w/])_{1,3}(?:[^\s_][^\n]{0,520})?\Z"
    r"|~(?:~(?:\S[^~]{0,510}~?)?)?\Z"
)
_AFTER_PIECE = 2  # characters after a piece that decide about it
_OPENERS = re.compile(r"[\\`!\[<&*_~]")
_RULE_ONLY = re.compile(r"[-*_=\s|:]*\Z")
_NUMBER_ONLY = re.compile(r"\d{1,3}[.)]?\Z")
_LABEL = re.compile(r"\[[^\]\n]{0,400}\][^:]")


@dataclass
class Part:
    """More text of the open block; ``closed``: the block ends with it.

    The other fields are those of :class:`markup.Block`. ``origin`` has one place for each character
    and one for the end. A part without text may close a block, ask for a pause or end a paragraph.
    """

    text: str
    origin: list[int]
    overrides: dict[int, Override] = field(default_factory=dict)
    closed: bool = False
    pause: float | None = None
    paragraph: bool = False


class _Draining(Builder):
    """A builder whose content is taken out before the block ends."""

    def __init__(self) -> None:
        super().__init__()
        self.drained = False  # whether the open block had content that was taken

    def __bool__(self) -> bool:
        return self.drained or super().__bool__()

    def drain(self, base: int) -> Part | None:
        if not self.chars:
            return None
        self.drained = bool(self)
        part = Part("".join(self.chars), [at + base for at in (*self.origin, self.end)])
        part.overrides = self.overrides
        self.chars, self.origin, self.overrides = [], [], {}
        return part


class LiveBlocks:
    """``push`` text, then ``read`` what is certain; see :class:`Part`."""

    def __init__(self, plain: bool) -> None:
        self._plain = plain
        self._waiting: list[str] = []  # pushed, but not yet in the window
        self._size = 0  # their characters
        self._enough = 1  # unread characters that are worth a look
        self._text = ""  # the window: some history, then what is unread from ``_at`` on
        self._at = 0
        self._base = 0  # where the window begins in the document
        self._inside = False  # whether ``_at`` is inside a line
        self._line: tuple[int, int] | None = None  # of the open run the last line, or this one
        self._alone = False  # whether that is a heading or a row of a table
        self._cut = (0, 0)  # characters and spaces of that line before the window
        self._begun = False  # whether the open run has made any block
        self._fenced = False
        self._inline = Inline("")
        self._inline.builder = self._builder = _Draining()

    def push(self, text: str) -> None:
        self._waiting.append(text.replace(OVERRIDE, "\x00"))
        self._size += len(text)

    @property
    def pending(self) -> bool:
        """Whether there is text that was not read."""
        return len(self._text) - self._at + self._size > 0

    @property
    def at_space(self) -> bool:
        """Whether all was read but the space at the end."""
        unread = self._size or self._text[self._at :].strip()
        return not unread and self._text[-1:].isspace()

    def read(self, flush: bool = False, end: bool = False) -> Iterator[Part]:
        """The parts that are certain now. ``flush``: all that is there, whose block is closed.

        ``end``: the document is over, too.
        """
        flush |= end
        if not flush and len(self._text) - self._at + self._size < self._enough:
            return
        self._window()
        yield from self._lines(flush, end)
        if flush:
            yield from self._close(end)
        unread = len(self._text) - self._at
        self._enough = unread + 1 if unread < _PATIENCE else unread + unread // 4

    def _window(self) -> None:
        """Move the window on, so that it has all that was pushed."""
        keep = self._at if self._line is None or self._inside else min(self._at, self._line[1])
        start = max(0, keep - _HISTORY)
        if self._line is not None:
            a, b = self._line
            b = self._at if self._inside else b
            gone = max(0, min(start, b) - a)
            self._cut = (
                self._cut[0] + gone,
                self._cut[1] + self._text.count(" ", a, a + gone),
            )
            self._line = (a + gone - start, b - start)
        self._text = "".join((self._text[start:], *self._waiting))
        self._waiting, self._size = [], 0
        self._at -= start
        self._base += start
        self._builder.end -= start
        self._inline.text = self._text
        self._inline.silent_to = max(0, self._inline.silent_to - start)
        self._inline.unclosed = set()

    def _lines(self, flush: bool, end: bool) -> Iterator[Part]:
        """Read line by line, as far as is certain."""
        while True:
            stop = self._text.find("\n", self._at)
            whole = stop >= 0 or end
            stop = stop if stop >= 0 else len(self._text)
            if not self._inside:
                begun = yield from self._begin(stop, whole, flush)
                if not begun:
                    return
                continue
            read = self._rest(self._stripped(self._at, stop), whole, flush)
            yield from self._parts()
            if not read or not whole:
                if flush:
                    self._at = stop
                return
            assert self._line is not None
            self._line = (self._line[0], max(self._line[0], self._stripped(self._line[0], stop)))
            self._inside = False
            self._at = min(stop + 1, len(self._text))
            if stop == len(self._text):
                return

    def _stripped(self, begin: int, end: int) -> int:
        while end > begin and self._text[end - 1].isspace():
            end -= 1
        return end

    def _begin(self, stop: int, whole: bool, flush: bool) -> Generator[Part, None, bool]:
        """Read the beginning of a line, if that is certain; returns whether there is more to do."""
        text, a, b = self._text, self._at, self._stripped(self._at, stop)
        while a < b and text[a].isspace():
            a += 1
        if a >= b:
            if not whole or stop == len(text):
                if flush:
                    self._at = stop
                return False
            yield from self._close(True)
            self._at = stop + 1
            return True
        certain = whole or flush
        kind = self._kind(a, b, certain)
        joined: bool | None = self._line is not None
        if self._line is not None:
            if self._alone or kind:
                joined = False
            elif kind is None:
                return False
            else:
                joined = goes_on(text, self._line, (a, b), self._cut, certain)
                if joined is None:
                    return False
            if not joined:
                yield from self._close(False)
        if kind is None or not self._plain and not certain and not self._may_begin(a, b):
            return False
        yield from self._first(a, b, stop, bool(joined), bool(kind))
        return True

    def _first(self, a: int, b: int, stop: int, joined: bool, kind: bool) -> Iterator[Part]:
        """Begin a line, whose marks are certain."""
        text, line = self._text, self._line
        self._line, self._cut = (a, b), (0, 0)
        self._alone = kind and text[a] in "#|"
        self._at, self._inside = a, True
        if self._plain:
            if joined and line is not None:  # the space between lines is part of the block
                self._builder.put(text[line[1] : a], line[1])
            return
        if FENCE.match(text, a, b) or self._fenced:
            is_fence = FENCE.match(text, a, b) is not None
            self._fenced ^= is_fence
            self._begun |= not is_fence
            self._at, self._inside = min(stop + 1, len(text)), False
            if not is_fence:
                origin = range(a + self._base, b + self._base + 1)
                yield Part(text[a:b], list(origin), closed=True)
            return
        rest = self._inline.marks(a, b, not joined)
        self._at = b if rest is None else rest[0]
        if rest is not None and rest[1] < b:  # the mark at the end of a heading or a row
            self._inline.inline(*rest)
            self._at = b
        yield from self._parts()

    def _kind(self, a: int, b: int, certain: bool) -> bool | None:
        """Whether a line stands alone: an item, a heading, a row, a rule or a fence."""
        text = self._text
        if self._plain:
            return False
        if certain or FENCE.match(text, a, b):
            return own_line(text, a, b) or bool(FENCE.match(text, a, b))
        if text[a] in "#>`~[=_:":
            return None if not self._may_begin(a, b) else False
        mark = ITEM.match(text, a, b) or NUMBERED.match(text, a, b)
        if text[a] == "|" or (mark and mark.end() < b):
            return True
        return False if self._may_begin(a, b) else None

    def _may_begin(self, a: int, b: int) -> bool:
        """Whether the marks of a line are certain before its end is there."""
        text, first = self._text, self._text[a]
        if self._fenced or self._inline.silent_to > a or first in ">|#":
            return False
        item = ITEM.match(text, a, b)
        if item:
            rest = text[item.end() : b]
            return rest[:1] not in ("", "[") and not _RULE_ONLY.match(rest)
        if first in "-*_=:":
            return not _RULE_ONLY.match(text, a, b)
        if first in "+•‣▪●○":
            return b - a > 1
        if first == "[":
            return bool(_LABEL.match(text, a, b))
        if first in "`~":
            return b - a > 2 and not FENCE.match(text, a, b)
        return not _NUMBER_ONLY.match(text, a, b)

    def _rest(self, end: int, whole: bool, flush: bool) -> bool:
        """Read the text of a line up to ``end``, where that is certain; returns whether it is."""
        text, at = self._text, self._at
        if self._plain:
            self._builder.put(text[at:end], at)
            self._at = max(at, end)
            return True
        at = max(at, min(self._inline.silent_to, end))
        pieces, safe = [], end
        if not flush:  # a comment is silent once its end is there
            starts = list(SILENT_START.finditer(text, at, end))
            if any(text.find(closing(m), m.end()) < 0 for m in starts):
                safe = starts[0].start()
        place = at
        for m in PIECE.finditer(text, at, end):
            opened = None if whole or flush else self._opened(place, m.start(), end)
            if opened is None and not (whole or flush) and m.end() + _AFTER_PIECE > end:
                opened = m.start()
            if opened is not None or m.end() > safe:
                safe = min(safe, m.start() if opened is None else opened)
                break
            pieces.append(m)
            place = m.end()
        else:
            opened = None if whole or flush else self._opened(place, end, end)
            safe = min(safe, end if opened is None else opened)
        safe = at + len(text[at:safe].rstrip()) if safe < end else safe
        pieces = [m for m in pieces if m.end() <= safe]
        if at < safe:
            self._inline.inline(at, safe, pieces)
        self._at = max(at, safe)
        return safe == end

    def _opened(self, begin: int, end: int, line_end: int) -> int | None:
        """The first place in [begin, end) from which on the line may become a piece of markup."""
        for m in _OPENERS.finditer(self._text, begin, end):
            if _OPEN.match(self._text, m.start(), line_end):
                return m.start()
        return None

    def _parts(self) -> Iterator[Part]:
        """What was read: closed blocks, then what there is of the open one."""
        for block in self._inline.made:
            self._begun = True
            origin = [at + self._base for at in block.origin]
            yield Part(block.text, origin, block.overrides, True, block.pause)
        self._inline.made = []
        part = self._builder.drain(self._base)
        if part is not None:
            self._begun |= self._builder.drained
            yield part

    def _close(self, paragraph: bool) -> Iterator[Part]:
        """End the open block; and the run of lines, unless the place is inside one."""
        self._inline.finish()
        parts = list(self._parts())
        closed = [part for part in parts if part.closed]
        if closed:
            closed[-1].paragraph = paragraph
        elif paragraph and self._begun:
            parts.append(Part("", [self._base + self._at], closed=True, paragraph=True))
        yield from parts
        if not self._inside:
            self._line, self._begun, self._alone = None, False, False
