"""Text to sentences.

Responsible for where one sentence ends and the next begins, and for cutting what is too long at the
best place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import tables

# An end: stops, then closing quotes or brackets, then space. CJK stops need no space.
_END = re.compile(r"""[.?!…]+["'”’»)\]]*(?=\s)|[。！？]+["'”’»)\]」』]*""")
_BLANK_LINE = re.compile(r"\s*\n\s*\n\s*")
_DOTTED = frozenset(tables.DOTTED) | {"Mon", "Sun"}
_OPENERS = "\"'“‘«([¿¡"
_CLAUSE = re.compile(r"[,;:—–)\]][\"'”’]*\s+|\s[-–—]\s|—|--")
_FIRST_WORD = re.compile(r"(?:The|This|That|It|He|She|We|They|I|In|But|And|There)\b")
_NEXT = re.compile(r"\s*(\S.{0,20})")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘«]*$")
_LONGEST_ABBREVIATION = 20  # characters looked at before a stop
_SPACE = re.compile(r"\s+")


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether the stop found is a sentence's end rather than an abbreviation's, an initial's or a
    pause.
    """
    stop, after = match.group(), _NEXT.match(text, match.end())
    if after is None:
        return True
    following = after.group(1).lstrip(_OPENERS)
    first = following[:1]
    if stop[0] in "。！？":
        return True
    if stop.rstrip("\"'”’»)]") != ".":
        # "Wait... what?" and 'he cried "Stop!" and ran' go on in lower case.
        return not first.islower()
    word = _LAST_WORD.search(text, max(0, match.start() - _LONGEST_ABBREVIATION), match.start())
    before = word.group() if word else ""
    if first.islower():
        return False
    if before in _DOTTED or before.lower() in ("e.g", "i.e", "a.k.a"):
        return (
            before in tables.MAY_END
            and before not in ("St", "Ave", "Jr", "Sr")
            or (before in tables.BEFORE_DIGIT and not first.isdigit())
        )
    # An initial ("J. Smith") or letters with stops ("the U.S. Senate"), unless a usual first word
    # follows.
    if len(before) > 1 and _FIRST_WORD.match(following):
        return True
    return not re.fullmatch(r"[B-HJ-Z]|(?:[A-Za-z]\.)+[A-Za-z]", before) or before.lower() in (
        "a.m",
        "p.m",
    )


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, trimmed, in order; together they hold all of it but surrounding
    whitespace.

    A sentence ends at `. ? ! …` followed by space and no lower-case letter, unless the stop belongs
    to an abbreviation, an initial or a number; and at blank lines. Any string is accepted; blank
    text gives [].
    """
    sentences: list[str] = []
    for paragraph in _BLANK_LINE.split(text):
        start = 0
        for match in _END.finditer(paragraph):
            if _is_end(paragraph, match):
                sentences.append(paragraph[start : match.end()].strip())
                start = match.end()
        sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if sentence]


def halve(text: str) -> Iterator[str]:
    """Two parts of `text`, cut at the clause punctuation nearest the middle, else the space, else
    anywhere."""
    middle = len(text) // 2
    for pattern, least in ((_CLAUSE, len(text) // 5), (_SPACE, 1)):
        cuts = [m.end() for m in pattern.finditer(text) if least <= m.end() <= len(text) - least]
        if cuts:
            middle = min(cuts, key=lambda cut: abs(cut - middle))
            break
    yield text[:middle].strip()
    yield text[middle:].strip()
