"""Rules for what is read sign by sign: web addresses, file names and paths, telephone and card
numbers, codes.
"""

from __future__ import annotations

import re

from . import tables
from .lexicon import lexicon
from .numbers import cardinal, digits, pairs
from .scan import Match, Rule, before

_SIGNS = {
    ".": "dot",
    "/": "slash",
    "\\": "backslash",
    "@": "at",
    "-": "dash",
    "_": "underscore",
    ":": "colon",
    "#": "hash",
    "?": "question mark",
    "=": "equals",
    "&": "and",
    "%": "percent",
    "+": "plus",
    "~": "tilde",
    "*": "star",
}


def spell(text: str) -> str:
    """Letter names and digits: "mp3" is "M P three"."""
    return " ".join(digits(c) if c.isdecimal() else c.upper() for c in text if c.isalnum())


def sign_by_sign(text: str) -> str:
    """An address's parts as words; parts that cannot be pronounced are spelled."""
    words = []
    for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|.", text):
        lower = part.lower()
        if part.isalpha():
            spelled = (
                len(part) == 1
                or lower in tables.SPELLED_PARTS
                or not (
                    lower in tables.SPOKEN_PARTS
                    or (part.isupper() and len(part) < 4 and lower in tables.ACRONYM_WORDS)
                    or (not (part.isupper() and len(part) < 4) and lexicon().pronounceable(lower))
                )
            )
            words.append(spell(part) if spelled else lower)
        elif part.isdecimal():
            words.append(pairs(part) if len(part) < 5 and part[0] != "0" else digits(part))
        else:
            words.append(_SIGNS.get(part, ""))
    return " ".join(filter(None, words))


def _address(m: Match) -> str:
    return sign_by_sign(re.sub(r"^https?://", "", m.group()).rstrip("/"))


def _dotted(m: Match) -> str | None:
    """ "config.toml", "Node.js": a stop inside a word that is no abbreviation's."""
    *_, last = m.group().split(".")
    if all(len(part) == 1 for part in m.group().split(".")):
        return None
    if m.group().split(".")[0] in tables.DOTTED and not last.islower():
        return None
    if last[0].isupper() and last.lower() not in tables.CAPITAL_ENDINGS:
        return None
    return sign_by_sign(m.group())


def _internet_number(m: Match) -> str | None:
    parts = m.group().split(".")
    if any(int(part) > 255 for part in parts):
        return None
    return " dot ".join(cardinal(part) for part in parts)


def _groups(m: Match) -> str:
    """Groups of digits with a pause between."""
    plus = "plus " if m.group().startswith("+") else ""
    groups = re.findall(r"\d+", m.group())
    words = [digits(group) for group in groups]
    for i, group in enumerate(groups[:2]):
        toll_free = group in ("800", "900") and len(groups) > 2
        if toll_free and (i == 0 or groups[0] == "1"):
            words[i] = cardinal(group)
    return plus + ", ".join(words)


def _vanity(m: Match) -> str | None:
    parts = m.group().split("-")
    if not any(part.isalpha() for part in parts):
        return None
    words = []
    for part in parts:
        if part in ("800", "900"):
            words.append(cardinal(part))
        elif part.isdecimal() or len(part) == 1 or not part.isalpha():
            words.append(spell(part))
        else:
            words.append(part.lower() if lexicon().pronounceable(part.lower()) else spell(part))
    return ", ".join(words)


def _account(m: Match) -> str:
    """ "DE89 3704 0044": letters and digits in groups."""
    return ", ".join(spell(group) for group in m.group().split())


_CODE = re.compile(
    r"(?i)\b(?:code|pin|password|passcode|combination|i\.?d|serial|account|zip|postcode|extension|"
    r"ext\.?|card|ssn|isbn|dial|dialed|call|text)"
    r"(?:\s+(?:is|was|number|no\.?|of|code|ending|in|to))*\s*[:#=]?\s*[\"'`(]*$"
)
_ROOM = re.compile(
    r"(?i)\b(?:room|flight|route|highway|interstate|bus|suite|apartment|apt\.?)\s+[A-Z#]*$"
)
_STATE = re.compile(r"\b(?:[A-Z]{2}|[A-Z]\.[A-Z]\.)\s$")


def _code(m: Match) -> str | None:
    """Digits after a word such as "code" or "room"."""
    text, said = m.group(), before(m)
    if _CODE.search(said) and (len(text) > 2 or not re.search(r"(?i)(call|text)\W*$", said)):
        return digits(text)
    if len(text) == 3 and _ROOM.search(said):
        return pairs(text)
    if len(text) == 5 and _STATE.search(said):
        return digits(text)
    return None


NUMBERS: list[Rule] = [
    ("0", r"\d{4}([ -])\d{4}\1\d{4}\1\d{4}\b", _groups),
    ("0", r"3\d{3}([ -])\d{6}\1\d{5}\b", _groups),
    ("0", r"\d{3}-\d{2}-\d{4}\b", _groups),
    ("+", r"\+\d{1,3}(?:[ .-]?(?:\(\d{1,4}\)|\d{1,5})){2,6}(?<=[\d)])(?!\w)", _groups),
    ("+", r"\+\d{7,15}\b", _groups),
    ("0", r"(?:1-)?[89]\d\d(?:-[A-Z0-9]+)+(?![\w-])", _vanity),
    (
        "0(",
        r"(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}\b(?![-.]?\d)",
        _groups,
    ),
    ("0", r"0\d{2,4}[ -]\d{3,4}[ -]\d{3,4}\b", _groups),
    ("0", r"0\d{3,4}[ -]\d{5,6}\b", _groups),
    ("0", r"\d{3}-\d{4}\b(?!-)", _groups),
    ("0", r"97[89]-\d{1,5}-\d+-\d+-\d\b", _groups),
    ("0", r"\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)", _internet_number),
    ("0", r"\d+\b(?![.,:/%°-]\d|\.\w)", _code),
]
ADDRESSES: list[Rule] = [
    ("a", r"(?:https?://|www\.)[^\s<>\"()]*[A-Za-z0-9/]", _address),
    ("a0", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b", _address),
    (
        "a0",
        r"(?<![\w.])[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|io|ai|dev|co\.uk|de|fr|eu|app)\b"
        r"(?::\d+)?(?:/[\w./?=&%~#-]*[\w/])?",
        _address,
    ),
    ("a", r"[A-Za-z]:\\[\w.\\-]*[\w\\]", _address),
    ("/~", r"(?<![\w/])~?(?:/[\w.-]*\w){2,}/?|~/[\w./-]*\w", _address),
    (".", r"(?<![\w.])\.{1,2}/[\w./-]*\w", _address),
    ("a", r"[\w.-]+(?:/[\w.-]+)+\.[a-z]\w{0,4}\b", _address),
    (
        "a0",
        r"(?:(?<![\w.])|(?<=_))(?!\d+\.\d)\w[\w-]*(?:\.[\w-]+)*\.[A-Za-z]\w*\b(?!\.\w)",
        _dotted,
    ),
    ("a", r"(?<!\w)[A-Z]{2}\d{2}(?: [A-Z\d]{4}){3,}(?: [A-Z\d]{1,4})?\b", _account),
]
