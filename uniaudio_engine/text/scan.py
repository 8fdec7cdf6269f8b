"""A left-to-right scan of written text: at each place the first rule that fits says what is spoken.

Responsible for keeping tokens apart and for where each spoken character comes from. What is spoken
is the rules' business (`normalize.py` lists them in order).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

Match = re.Match[str]
Action = Callable[[Match], "str | None"]
Rule = tuple[str, str, Action]
"""The first characters that it may begin with (``a`` any letter, ``0`` any digit, others as they
are), its pattern, and its action: the words, or None where the rule does not apply after all."""

NEAR = 60  # characters of neighbouring text that a decision looks at
_ATTACHED = frozenset(".,;:?!)]}")
_OPENING = frozenset("([{")
_QUOTES = frozenset("\"'`")
_DIGITS = frozenset("0123456789")


class Normalized(NamedTuple):
    """``text`` as it is spoken; ``begin`` and ``end``: for each of its characters, the place [begin,
    end) in the input that it comes from."""

    text: str
    begin: list[int]
    end: list[int]


def before(m: Match, size: int = NEAR) -> str:
    """The text before a match."""
    return m.string[max(0, m.start() - size) : m.start()]


# Words after which "a $5 …" or "a 5 km …" has come to its end.
_NO_NOUN = frozenset(
    "is was are were and or but in on at to of for from with by per each a an the that than more "
    "less i you he she it we they who which will would can could has had have as if so when while "
    "after before away apart long high deep wide tall old".split()
)


def adjective(m: Match) -> bool:
    """Whether an amount stands before its noun, as in "a $5 bill": its unit is singular."""
    if not re.search(r"(?i)\b(?:an?|the|this|that|each|every|another|one|first|new)\s$", before(m)):
        return False
    noun = re.match(r"\s([a-z]+)", after(m))
    return noun is not None and noun[1] not in _NO_NOUN


def after(m: Match, size: int = NEAR) -> str:
    """The text after a match."""
    return m.string[m.end() : m.end() + size]


class Rules:
    """Rules, tried in order. They are compiled when a text first has a character that they begin
    with: all together take as long as a short sentence takes to be spoken.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._by_first: dict[str, list[tuple[str, Action]]] = {}
        self._compiled: dict[str, list[tuple[re.Pattern[str], Action]]] = {}
        for firsts, pattern, action in rules:
            for first in firsts:
                self._by_first.setdefault(first, []).append((pattern, action))

    def _of(self, first: str) -> list[tuple[re.Pattern[str], Action]]:
        rules = self._compiled.get(first)
        if rules is None:
            uncompiled = self._by_first.get(first, ())
            rules = [(re.compile(pattern), action) for pattern, action in uncompiled]
            if uncompiled:  # any other character may come, and is not kept
                self._compiled[first] = rules
        return rules

    def apply(self, text: str, place: int) -> tuple[str, int] | None:
        """The words of what stands at `place`, and where it ends."""
        c = text[place]
        for pattern, action in self._of(
            "a" if c.isascii() and c.isalpha() else "0" if c in _DIGITS else c
        ):
            m = pattern.match(text, place)
            if m and m.end() > place:
                words = action(m)
                if words is not None:
                    return words, m.end()
        return None


class _Output:
    def __init__(self) -> None:
        self.chars: list[str] = []
        self.begin: list[int] = []
        self.end: list[int] = []

    @property
    def last(self) -> str:
        return self.chars[-1] if self.chars else ""

    def put(self, text: str, begin: int, end: int, exact: bool = False) -> None:
        """`text` for the input's [begin, end); `exact`: character by character."""
        for i, c in enumerate(text):
            self.chars.append(c)
            self.begin.append(begin + i if exact else begin)
            self.end.append(begin + i + 1 if exact else end)

    def space(self, place: int) -> None:
        if self.chars and self.chars[-1] != " ":
            self.put(" ", place, place)

    def drop_space(self) -> None:
        while self.last == " ":
            for parts in (self.chars, self.begin, self.end):
                parts.pop()


def scan(text: str, rules: Rules, given: Mapping[str, str] | None = None) -> Normalized:
    """`text` as spoken: every piece that a rule reads, and every punctuation mark.

    ``given``: lower-case spellings that are words as they stand.
    """
    out, place, size = _Output(), 0, len(text)
    opened = True  # whether the next word follows a space or an opening mark
    while place < size:
        c = text[place]
        if c.isspace():
            out.space(place)
            opened = True
            place += 1
            continue
        found = _given(text, place, given) if given and c not in _QUOTES else None
        found = found or rules.apply(text, place)
        if found is not None:
            _speak(out, *found, place, text)
            place = found[1]
            opened = False
            continue
        adjoining = place > 0 and text[place - 1].isalnum()
        if c in _OPENING or (c in _QUOTES and (opened and not adjoining)):
            if adjoining:
                _pause(out, ",", place)
            if out.last not in "([{\"'`" or _closed(out):
                out.space(place)
            out.put(c, place, place + 1)
            opened = True
        elif c in _ATTACHED or c in _QUOTES:
            _pause(out, c, place)
            opened = False
            if place + 1 < size and text[place + 1].isalnum():
                out.space(place + 1)
        elif out.last not in "([{\"'`" or adjoining:
            out.space(place)
        place += 1
    out.drop_space()
    return Normalized("".join(out.chars), out.begin, out.end)


def _given(text: str, place: int, given: Mapping[str, str]) -> tuple[str, int] | None:
    """A word of the user's own, and where it ends."""
    if place and (text[place - 1].isalnum() or text[place - 1] == "'"):
        return None
    m = re.compile(r"[^\s\"()\[\]{},;:!?]+").match(text, place)
    if not m:
        return None
    word = m.group()
    while word:
        if word.lower() in given:
            end = place + len(word)
            owner = re.compile(r"'[sS](?!\w)").match(text, end)
            return given[word.lower()] + ("'s" if owner else ""), owner.end() if owner else end
        shorter = word[:-1].rstrip(".'-") if word[-1] in ".'-" else re.sub(r"('s?|-.*)$", "", word)
        if shorter == word:
            return None
        word = shorter
    return None


def _speak(out: _Output, words: str, end: int, place: int, text: str) -> None:
    exact = len(words) == end - place and words.lower() == text[place:end].lower()
    head = words.lstrip(" ,;:.?!")
    lead = words[: len(words) - len(head)].strip()
    for mark in lead:
        _pause(out, mark, place)
    if not head.strip():
        out.space(place)
        return
    if head == "-":  # the hyphen of a compound makes no pause
        out.put("-", place, place + 1)
        return
    if out.last and (out.last not in " ([{\"'`-" or _closed(out)):
        out.space(place)
    out.put(head.rstrip(), place, end, exact)
    if head[-1] == " ":
        out.space(end)


def _closed(out: _Output) -> bool:
    """Whether a quotation mark was just put out that ends a word rather than begins one."""
    return len(out.chars) > 1 and out.last in "\"'`" and out.chars[-2] not in " ([{\"'`"


def _pause(out: _Output, mark: str, place: int) -> None:
    """A mark after the word before it; a comma only where no mark stands yet."""
    out.drop_space()
    if not out.chars or (mark == "," and out.last in ",;:.?!("):
        if out.chars:
            out.space(place)
        return
    out.put(mark, place, place + 1)
    if mark == ",":
        out.space(place + 1)
