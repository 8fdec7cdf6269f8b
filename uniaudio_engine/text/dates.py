"""Rules for dates and times of day."""

from __future__ import annotations

import re

from . import tables
from .numbers import cardinal, digits, ordinal, pairs, plural
from .scan import Match, Rule, after, before

# "may" and "march" are months only with a capital.
MONTH = (
    "(?:May|MAY|March|MARCH|Mar|(?i:"
    + "|".join(sorted(set(tables.MONTH_NAMES) - {"may", "march", "mar"}, key=len, reverse=True))
    + r"))\b\.?"
)
_DAY = "(?:" + "|".join(sorted(tables.DAY_NAMES, key=len, reverse=True)) + r")\b\.?"
_OF_YEAR = r"(?:,?\s+(?P<year>[12]\d{3})\b(?![:.,]\d))?"
_TO = r"\s?[-–—]\s?"
# The stop of "p.m." is its own where the sentence goes on.
_STOP = r"(?:\.(?=\s+(?:[^A-Z\s]|" + "|".join([*tables.DAY_NAMES, *map(str.capitalize, tables.MONTHS)]) + r")))?"
_HALF = rf"\s?(?P<half>[aApP])(?:m|M|\.\s?[mM])\b{_STOP}"
_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:]|\.\d)"


def year(text: str) -> str:
    """"1984", "2005", "2026" as years."""
    if text.startswith("20") and text[2] == "0":
        return cardinal(text)
    return pairs(text)


def _month(text: str) -> str:
    return tables.MONTH_NAMES[text.rstrip(".").lower()]


def _day_month(day: str, month: str, of: str | None, last: str | None = None) -> str | None:
    if not 1 <= int(day) <= 31 or (last is not None and not 1 <= int(last) <= 31):
        return None
    words = f"{month} {ordinal(day)}" + (f" to {ordinal(last)}" if last else "")
    return f"{words}, {year(of)}" if of else words


def _iso(m: Match) -> str | None:
    of, month, day = m.groups()
    if not 1 <= int(month) <= 12:
        return None
    words = _day_month(day, tables.MONTHS[int(month) - 1], of)
    return words and words + (", " if re.match(r"T\d", after(m)) else "")


def _numeric(day: str, month: str, of: str) -> str | None:
    if int(month) > 12:
        month, day = day, month
    if not 1 <= int(month) <= 12:
        return None
    of = of if len(of) == 4 else ("19" if int(of) > 60 else "20") + of
    return _day_month(day, tables.MONTHS[int(month) - 1], of)


def _slashed(m: Match) -> str | None:
    """US order, unless only the other one is a date."""
    month, day, of = m.groups()
    return _numeric(day, month, of)


def _stopped(m: Match) -> str | None:
    """Days come first where stops are written."""
    day, month, of = m.groups()
    return _numeric(day, month, of)


def _month_day(m: Match) -> str | None:
    return _day_month(m["day"], _month(m["month"]), m["year"], m["last"])


def _day_of_month(m: Match) -> str | None:
    if re.search(r"(?i)\b(?:the|this)\s$", before(m)) or m["of"]:
        if not 1 <= int(m["day"]) <= 31 or m["last"]:
            return None
        words = f"{ordinal(m['day'])} of {_month(m['month'])}"
        return f"{words}, {year(m['year'])}" if m["year"] else words
    return _month_day(m)


def _month_year(m: Match) -> str:
    return f"{_month(m['month'])} {year(m['of'])}"


def _names(m: Match) -> str:
    """"Oct-Dec", "Mon–Fri"."""
    return " to ".join(
        tables.MONTH_NAMES.get(name.lower()) or tables.DAY_NAMES[name]
        for name in re.findall("[A-Za-z]+", m.group())
    )


def clock(hour: str, minute: str | None, second: str | None, half: str | None) -> str | None:
    """A time of day: "three thirty P M"."""
    if int(hour) > 24:
        return None
    words = cardinal(str(int(hour)))
    if minute and minute != "00":
        words += " " + pairs(minute)
    elif not half and not second:
        words += " o'clock" if 0 < int(hour) <= 12 else " hundred"
    if second:
        words += f" and {cardinal(str(int(second)))} second" + ("" if int(second) == 1 else "s")
    return words + (f" {half.upper()} M" if half else "")


_RATIO = re.compile(r"(?i)\b(?:ratios?|odds|scale|mix(?:ed|ture)?|proportions?|aspect)\b")


def _time(m: Match) -> str | None:
    if not m["half"] and not m["second"] and _RATIO.search(before(m)):
        return None
    return clock(m["hour"], m["minute"], m["second"], m["half"])


def _times(m: Match) -> str | None:
    ends = []
    for part in (m["one"], m["two"]):
        found = re.match(rf"(?P<h>\d{{1,2}})(?::(?P<m>\d\d))?(?:{_HALF})?", part)
        if found is None or int(found["h"]) > 24:
            return None
        half = found["half"]
        if not half and not found["m"]:
            ends.append(cardinal(str(int(found["h"]))))
        else:
            ends.append(clock(found["h"], found["m"], None, half) or "")
    return " to ".join(ends)


def _years(m: Match) -> str | None:
    one, two = m.groups()
    if len(two) == 2 and int(two) <= int(one[2:]):
        return None
    if len(two) == 4 and not "1100" <= two <= "2099":
        return None
    return f"{year(one)} to {year(two) if len(two) == 4 else pairs(two)}"


def _decade(m: Match) -> str:
    return plural(pairs(m.group(1)))


def _half_day(m: Match) -> str:
    return f"{m.group(1).upper()} M"


DATES: list[Rule] = [
    ("0", r"(\d{4})-(\d{1,2})-(\d{1,2})(?!\d|-)(?=\b|T)", _iso),
    ("a", r"(?<=\d)T(?=\d\d:\d\d)", lambda m: " "),
    ("0", r"(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})\b(?!/)", _slashed),
    ("0", r"(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})\b(?!\.\d)", _stopped),
    (
        "a",
        rf"(?<!\w)(?P<month>{MONTH})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?![:.,]\d|-\d{{3}}|/|%)"
        rf"(?:{_TO}(?P<last>\d{{1,2}})(?:st|nd|rd|th)?\b(?![-:/]\d))?{_OF_YEAR}",
        _month_day,
    ),
    (
        "0",
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:{_TO}(?P<last>\d{{1,2}})(?:st|nd|rd|th)?)?"
        rf"\s+(?P<of>of\s+)?(?P<month>{MONTH}){_OF_YEAR}",
        _day_of_month,
    ),
    ("a", rf"(?<!\w)(?P<month>{MONTH})\s+(?P<of>(?:1[1-9]|20)\d\d)\b(?![,.:-]\d)", _month_year),
    ("a", rf"(?<!\w){MONTH}{_TO}{MONTH}(?!\w)", _names),
    ("a", rf"(?<!\w){_DAY}{_TO}{_DAY}(?!\w)", _names),
]
TIMES: list[Rule] = [
    (
        "0",
        rf"(?P<one>\d{{1,2}}:[0-5]\d(?:\s?[aApP]\.?[mM]\b\.?)?){_TO}"
        r"(?P<two>\d{1,2}:[0-5]\d(?:\s?[aApP]\.?[mM]\b)?)(?!:?\d)",
        _times,
    ),
    (
        "0",
        rf"(?P<one>\d{{1,2}}(?::[0-5]\d)?(?:\s?[aApP]\.?[mM]\b\.?)?){_TO}"
        rf"(?P<two>\d{{1,2}}(?::[0-5]\d)?\s?[aApP](?:m|M|\.[mM])\b){_STOP}",
        _times,
    ),
    ("0", rf"{_CLOCK}(?:{_HALF})?", _time),
    ("0", rf"(?P<hour>\d{{1,2}})(?P<minute>)(?P<second>){_HALF}", _time),
    ("0", r"((?:1[1-9]|20)\d\d)\s?[-–—]\s?(\d\d(?:\d\d)?)\b(?!-?\d|\s?[=%])", _years),
    ("0'", r"(?<![\w'])'?(\d+0)'?s\b", _decade),
    ("'", r"(?<!\w)'(\d\d)\b(?!'|\w)", lambda m: pairs(m.group(1))),
    ("a", rf"(?<![\w.])([aApP])\.\s?[mM]\b{_STOP}", _half_day),
    ("0", r"(\d+)'s\b", lambda m: (pairs(m.group(1)) if len(m.group(1)) < 5 else digits(m[1])) + "'s"),
]
