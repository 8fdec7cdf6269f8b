"""Text to sentences.

Responsible for where one sentence ends and the next begins, and for cutting what is too long at the
best place. Lines and paragraphs are `markup.py`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import tables, units

# An end: stops, then closing quotes or brackets, then space or a capital. CJK stops need neither.
_CLOSERS = r"[\"'”’»)\]]*"
_END = re.compile(
    rf"(?<![.?!…])[.?!…]+{_CLOSERS}(?=\s)|(?<=[a-z0-9)\]\"”][.?!])(?=[\"“]?[A-Z])"
    r"|[。！？]+[\"'”’»)\]」』]*"
)
_LAST_STOP = re.compile(rf"(?<![.?!…])(?:[.?!]|[。！？]+){_CLOSERS}\Z")
_BLANK_LINE = re.compile(r"\s*\n\s*\n\s*")
_DOTTED = frozenset(tables.DOTTED) | {"Mon", "Sun"}
_OPENERS = "\"'“‘«([¿¡"
_CLAUSE = re.compile(r"[,;:—–)\]][\"'”’]*\s+|\s[-–—]\s|—|--")
_FIRST_WORD = re.compile(
    r"(?:The|This|That|These|Those|There|Then|It|He|She|We|They|I|You|My|Your|His|Her|Its|Our|Their|"
    r"In|On|At|But|And|So|If|When|While|What|Why|Who|How|Where|After|Before|Now|Here|Please|Yes|"
    r"However|Also|Some|Many|Most|All|No|Not|As|For|From|Let|Do|Did|Is|Are|Was|Were)\b"
)
_WINDOW = 21  # characters looked at after a stop
_NEXT = re.compile(rf"\s*(\S.{{0,{_WINDOW - 1}}})")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘«]*$")
_TOKEN = 80  # characters looked at after a stop without space
_TOKEN_END = re.compile(rf"\S{{0,{_TOKEN}}}")
_LOWER_NEXT = ("e.g", "i.e", "a.k.a")  # abbreviations in the middle of a sentence
_TIMES = ("a.m", "p.m")
_INITIALS = re.compile(r"[B-HJ-Z]|(?:[A-Za-z]\.)+[A-Za-z]")
_STOPS = frozenset(".?!…。！？\"'“”’»)]」』")
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
    before = _word_before(text, match.start())
    if not stop:
        return _ends_without_space(text, match.end(), before, following)
    if stop.rstrip("\"'”’»)]") != ".":
        # "Wait... what?" and 'he cried "Stop!" and ran' go on in lower case.
        return not first.islower()
    if first.islower():
        return False
    if before in _DOTTED or before.lower() in _LOWER_NEXT:
        return (
            before in tables.MAY_END
            and before not in ("St", "Ave", "Jr", "Sr")
            and not first.isdecimal()
            or (before in tables.BEFORE_DIGIT and not tables.is_counted(before, following))
        )
    if before in tables.NUMBERED or (before in units.STOPPED_UNITS and first.isdecimal()):
        return False
    if before.lower() in _TIMES:
        return re.split(r"\W", following)[0] not in _DATE_NAMES
    # An initial ("J. Smith") or letters with stops ("the U.S. Senate"), unless a usual first word
    # follows.
    if _FIRST_WORD.match(following):
        return True
    return not _INITIALS.fullmatch(before)


def _ends_without_space(text: str, place: int, before: str, following: str) -> bool:
    """ "the end.Next we": a stop between a word and a capital."""
    token = before + text[place - 1] + _TOKEN_END.match(text, place).group()  # type: ignore[union-attr]
    if _NO_TEXT.search(token):
        return False
    stop = text[place - 1]
    if stop == '"' or stop in "”)]":
        return False
    before = before.rstrip(".?!")
    if stop != ".":
        return True
    if (
        before in _DOTTED
        or before in tables.NUMBERED
        or len(before) < 2
        or not before[-1].islower()
    ):
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


def certain_spans(text: str, begin: int, scan: int) -> tuple[list[tuple[int, int]], int, int]:
    """The spans of :func:`sentence_spans` in a text that goes on, as far as they are certain.

    ``begin``: where the next sentence begins. ``scan``: where to look for ends from. Returns the
    spans, and both places for the next time.
    """
    spans: list[tuple[int, int]] = []
    for match in _END.finditer(text, scan):
        if match.end() <= begin:
            continue
        if not _is_decided(text, match):
            return spans, begin, match.start()
        if _is_end(text, match):
            spans += _trimmed(text, begin, match.end())
            begin = match.end()
    tail = len(text)  # stops at the very end are not all there yet
    while tail > scan and text[tail - 1] in _STOPS:
        tail -= 1
    return spans, begin, max(begin, tail)


def _is_decided(text: str, match: re.Match[str]) -> bool:
    """Whether :func:`_is_end` says the same whatever follows the text."""
    after = _NEXT.match(text, match.end())
    if after is None:
        return False
    stop, following = match.group(), after.group(1).lstrip(_OPENERS)
    if not stop:
        token = _TOKEN_END.match(text, match.end())
        return token is not None and (token.end() < len(text) or len(token.group()) == _TOKEN)
    if len(after.group(1)) == _WINDOW or after.end() < len(text) or stop[0] in "。！？":
        return True
    if not following:
        return False
    if stop.rstrip("\"'”’»)]") != "." or following[0].islower():
        return True
    # What follows an abbreviation or an initial is looked at as a word, else only how it begins.
    return _is_word(_word_before(text, match.start())) or not re.fullmatch(r"\w*", following)


def stops(text: str, begin: int) -> bool:
    """Whether ``text[begin:]`` ends with a stop that is hardly anything but a sentence's end."""
    match = _LAST_STOP.search(text, max(begin, len(text) - _LONGEST_ABBREVIATION))
    if match is None:
        return False
    before = _word_before(text, match.start())
    is_word = before[-1:].isalpha() and _is_word(before)
    return is_word and before not in tables.NUMBERED


def _is_word(before: str) -> bool:
    """Whether what stands before a stop is no abbreviation or initial."""
    return not (
        before in _DOTTED
        or before.lower() in (*_LOWER_NEXT, *_TIMES)
        or _INITIALS.fullmatch(before)
    )


def _word_before(text: str, place: int) -> str:
    """The word that a stop at ``place`` belongs to."""
    word = _LAST_WORD.search(text, max(0, place - _LONGEST_ABBREVIATION), place)
    return re.split("[–—/-]", word.group())[-1] if word else ""


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
