"""Text read as it is told to be: letter by letter, digit by digit, as a date and so on."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import InputError, shown
from . import tables
from .addresses import sign_by_sign
from .dates import year
from .normalize import normalize
from .numbers import digits, ordinal
from .quantities import number


def _characters(text: str, _: str) -> str:
    names = [
        digits(c)
        if c.isdecimal() and c.isascii()
        else c.upper()
        if c.isalpha()
        else sign_by_sign(c)
        for c in text
    ]
    return ", ".join(" ".join(normalize(n) if not n.isascii() else n for n in names).split(","))


def _digits(text: str, _: str) -> str:
    return ", ".join(digits(group) for group in re.findall(r"\d+", text))


def _cardinal(text: str, _: str) -> str:
    m = re.fullmatch(r"\s*([-+−]?)([\d.,]*\d)\s*", text)
    if not m:
        return normalize(text)
    return ("minus " if m[1] in ("-", "−") else "") + number(m[2])


def _ordinal(text: str, _: str) -> str:
    m = re.search(r"\d[\d,]*", text)
    return ordinal(m.group().replace(",", "")) if m else normalize(text)


def _date(text: str, form: str) -> str:
    """``format`` is the order of the parts: mdy, dmy, ymd, md, dm, ym, my, y, m, d."""
    parts = re.findall(r"\d+", text)
    order = form.lower().replace("yyyy", "y").replace("mm", "m").replace("dd", "d")
    if not order or len(parts) != len(order):
        return normalize(text)
    found = dict(zip(order, parts, strict=True))
    words = []
    if "m" in found:
        if not 1 <= int(found["m"]) <= 12:
            raise InputError(f"SSML: say-as date: expected a month, got {shown(text)} as {form}")
        words.append(tables.MONTHS[int(found["m"]) - 1])
    if "d" in found:
        words.append(ordinal(found["d"]))
    said = " ".join(words)
    if "y" in found:
        said = f"{said}, {year(found['y'])}" if said else year(found["y"])
    return said


def _plain(text: str, _: str) -> str:
    return normalize(text)


KINDS: dict[str, Callable[[str, str], str]] = {
    "characters": _characters,
    "spell-out": _characters,
    "verbatim": _characters,
    "digits": _digits,
    "telephone": _digits,
    "cardinal": _cardinal,
    "number": _cardinal,
    "ordinal": _ordinal,
    "fraction": _plain,
    "unit": _plain,
    "currency": _plain,
    "time": _plain,
    "date": _date,
    "address": _plain,
    "name": _plain,
}


def say_as(text: str, kind: str, form: str = "") -> str:
    """``text`` in words, read as ``kind`` of `KINDS`; ``form`` is SSML's ``format``."""
    return KINDS[kind](text, form)
