"""Text to sentences.

Responsible for where one sentence ends and the next begins, and for cutting what is too long at the
best place. Lines and paragraphs are `markup.py`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import tables

# An end: stops, then closing quotes or brackets, then space or a capital. CJK stops need neither.
_CLOSERS = r"[\"'”’»)\]]*"
_END = re.compile(
    rf"(?<![.?!…])[.?!…]+{_CLOSERS}(?=\s)|(?<=[a-z0-9)\]\"”][.?!])(?=[\"“]?[A-Z])|[。！？]+[\"'”’»)\]」』]*"
)
_BLANK_LINE = re.compile(r"\s*\n\s*\n\s*")
_DOTTED = frozenset(tables.DOTTED) | {"Mon", "Sun"}
_OPENERS = "\"'“‘«([¿¡"
_CLAUSE = re.compile(r"[,;:—–)\]][\"'”’]*\s+|\s[-–—]\s|—|--")
_FIRST_WORD = re.compile(
    r"(?:The|This|That|These|Those|There|Then|It|He|She|We|They|I|You|My|Your|His|Her|Its|Our|Their|"
    r"In|On|At|But|And|So|If|When|While|What|Why|Who|How|Where|After|Before|Now|Here|Please|Yes|"
    r"However|Also|Some|Many|Most|All|No|Not|As|For|From|Let|Do|Did|Is|Are|Was|Were)\b"
)
_NEXT = re.compile(r"\s*(\S.{0,20})")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘«]*$")
_TOKEN_END = re.compile(r"\S{0,80}")
_NO_TEXT = re.compile(r"://|www\.|@|\\|/")
_LONGEST_ABBREVIATION = 20  # characters looked at before a stop
_SPACE = re.compile(r"\s+")
_DATE_NAMES = frozenset(tables.DAY_NAMES) | {m.capitalize() for m in tables.MONTHS}


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether the stop found is a sentence's end rather than an abbreviation's, an initial's or a
    pause.
    """
    stop, after = match.group(), _NEXT.match(text, match.end())
    if after is None:
        return True
    following = after.group(1).lstrip(_OPENERS)
    first = following[:1]
    if stop[:1] and stop[0] in "。！？":
        return True
    word = _LAST_WORD.search(text, max(0, match.start() - _LONGEST_ABBREVIATION), match.start())
    before = word.group() if word else ""
    if not stop:
        return _ends_without_space(text, match.end(), before, following)
    if stop.rstrip("\"'”’»)]") != ".":
        # "Wait... what?" and 'he cried "Stop!" and ran' go on in lower case.
        return not first.islower()
    if first.islower():
        return False
    if before in _DOTTED or before.lower() in ("e.g", "i.e", "a.k.a"):
        return (
            before in tables.MAY_END
            and before not in ("St", "Ave", "Jr", "Sr")
            and not first.isdigit()
            or (before in tables.BEFORE_DIGIT and not first.isdigit())
        )
    if before in tables.NUMBERED or (before in tables.STOPPED_UNITS and first.isdigit()):
        return False
    if before.lower() in ("a.m", "p.m"):
        return re.split(r"\W", following)[0] not in _DATE_NAMES
    # An initial ("J. Smith") or letters with stops ("the U.S. Senate"), unless a usual first word
    # follows.
    if _FIRST_WORD.match(following):
        return True
    return not re.fullmatch(r"[B-HJ-Z]|(?:[A-Za-z]\.)+[A-Za-z]", before)


def _ends_without_space(text: str, place: int, before: str, following: str) -> bool:
    """"the end.Next we": a stop between a word and a capital."""
    token = before + text[place - 1] + _TOKEN_END.match(text, place).group()  # type: ignore[union-attr]
    if _NO_TEXT.search(token):
        return False
    stop = text[place - 1]
    if stop == '"' or stop in "”)]":
        return False
    before = before.rstrip(".?!")
    if stop != ".":
        return True
    if before in _DOTTED or before in tables.NUMBERED or len(before) < 2 or not before[-1].islower():
        return False
    ending = re.match(r"\w*", following)
    if ending and ending.group().lower() in tables.CAPITAL_ENDINGS:
        return False
    return bool(re.match(r"[A-Z](?:[a-z']|\s)", following)) and "." not in before


def sentence_spans(text: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """[begin, end) of each sentence in `text[begin:end]`, without the spaces around it."""
    end = len(text) if end is None else end
    start = begin
    for match in _END.finditer(text, begin, end):
        if match.end() > start and _is_end(text, match):
            yield from _trimmed(text, start, match.end())
            start = match.end()
    yield from _trimmed(text, start, end)


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, trimmed, in order; together they hold all of it but surrounding
    whitespace.

    A sentence ends at `. ? ! …` followed by space and no lower-case letter, unless the stop belongs
    to an abbreviation, an initial or a number; and at blank lines. Any string is accepted; blank
    text gives [].
    """
    return [
        paragraph[a:b]
        for paragraph in _BLANK_LINE.split(text)
        for a, b in sentence_spans(paragraph)
    ]


def cut_near_middle(text: str, begin: int, end: int) -> int:
    """Where to cut `text[begin:end]` in two: at the clause punctuation nearest the middle, else the
    space, else anywhere."""
    size = end - begin
    for pattern, least in ((_CLAUSE, size // 5), (_SPACE, 1)):
        cuts = [
            m.end()
            for m in pattern.finditer(text, begin, end)
            if least <= m.end() - begin <= size - least
        ]
        if cuts:
            return min(cuts, key=lambda cut: abs(cut - begin - size // 2))
    return begin + size // 2
