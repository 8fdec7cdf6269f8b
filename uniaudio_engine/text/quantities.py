"""Rules for money, measures, ranges, ratios, fractions and plain numbers."""

from __future__ import annotations

import re

from . import tables, units
from .dates import year
from .numbers import cardinal, decimal, digits, ordinal, pairs
from .scan import Match, Rule, adjective, after, before

AMOUNT = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!,?\d)|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}(?![\d.])"
    r"|\d+\.\d+|\d+|\.\d+)"
)
# Beside a currency or a percent sign "29,99" has a decimal comma.
_PRICE = rf"(?:\d+,\d{{1,2}}(?!\d|,\d)|{AMOUNT})"


def _names(table: dict[str, object] | dict[str, str] | dict[str, tuple[str, str]]) -> str:
    return "|".join(sorted(map(re.escape, table), key=len, reverse=True))


_UNIT = _names(units.UNITS)
_STOPPED_UNIT = "|".join(
    sorted(
        (re.escape(u).replace(r"\ ", r"\s?") for u in units.STOPPED_UNITS), key=len, reverse=True
    )
)
_SYMBOL = _names(dict.fromkeys(units.CURRENCIES, ""))
_TRAILING = _names({s: "" for s in units.CURRENCIES if len(s) == 1})
_CODE = _names(dict.fromkeys(units.CURRENCY_CODES, ""))
_MAGNITUDE = (
    rf"(?:\s?(?P<magnitude>{_names(units.MAGNITUDES)}|(?i:hundred|thousand|[mbtr]+illion))(?!\w))?"
)
_DASH = r"\s?[-–—]\s?"


def plain_number(text: str) -> str:
    """Digits with one point at most: "1,234.5" and "1.234,5" are "1234.5"."""
    if "," in text and "." in text and text.rindex(".") < text.index(","):
        return text.replace(".", "").replace(",", ".")
    if text.count(".") > 1:
        return text.replace(".", "")
    if re.fullmatch(r"\d+,\d{1,2}", text):
        return text.replace(",", ".")
    return text.replace(",", "")


def number(text: str) -> str:
    """A quantity in words; zeros in front are not read."""
    text = plain_number(text)
    whole, point, part = text.partition(".")
    if not point and len(whole) > 1 and whole[0] == "0":
        return digits(whole)
    return decimal(text)


def integer(text: str) -> str:
    """A bare number: a year where it can be one."""
    if "," in text:
        return number(text)
    if len(text) == 4 and "1100" <= text <= "2099":
        return year(text)
    return digits(text) if len(text) >= 10 else cardinal(text)


# Money


def _money(amount: str, magnitude: str | None, symbol: str, single: bool = False) -> str:
    one, many, cent, cents = units.CURRENCIES[units.CURRENCY_CODES.get(symbol, symbol)]
    amount = plain_number(amount)
    many = one if single else many
    if magnitude:
        return f"{decimal(amount)} {units.MAGNITUDES.get(magnitude, magnitude.lower())} {many}"
    whole, _, part = amount.partition(".")
    if len(part) != 2 or not cent:
        return f"{decimal(amount)} {one if amount == '1' else many}"
    pieces = []
    if int(whole or 0) or not int(part):
        pieces.append(f"{cardinal(whole or '0')} {one if whole == '1' else many}")
    if int(part):
        pieces.append(f"{cardinal(str(int(part)))} {cent if part == '01' else cents}")
    return " and ".join(pieces)


def _price(m: Match) -> str:
    return _money(m["amount"], m["magnitude"], m["symbol"], adjective(m))


def _prices(m: Match) -> str:
    """ "$5-10" has one name of the currency, "$5-$10" two."""
    last = _money(m["amount"], m["magnitude"], m["symbol"])
    if m["again"]:
        return f"{_money(m['low'], m['lowmagnitude'], m['symbol'])} to {last}"
    scale = m["lowmagnitude"]
    low = number(m["low"]) + (f" {units.MAGNITUDES.get(scale, scale)}" if scale else "")
    return f"{low} to {last}"


_MONEY_FIRSTS = "a" + "".join({s[0] for s in units.CURRENCIES if not s[0].isalpha()})
MONEY: list[Rule] = [
    (
        _MONEY_FIRSTS,
        rf"(?<!\w)(?P<symbol>{_SYMBOL})\s?(?P<low>{_PRICE})(?:(?P<lowmagnitude>{_names(units.MAGNITUDES)})"
        rf"(?!\w))?{_DASH}(?P<again>(?P=symbol))?\s?(?P<amount>{_PRICE}){_MAGNITUDE}(?![\w]|-\d)",
        _prices,
    ),
    (_MONEY_FIRSTS, rf"(?<!\w)(?P<symbol>{_SYMBOL})\s?(?P<amount>{_PRICE}){_MAGNITUDE}", _price),
    ("a", rf"(?<!\w)(?P<symbol>{_CODE})\s?(?P<amount>{_PRICE}){_MAGNITUDE}", _price),
]
TRAILING_MONEY: list[Rule] = [
    (
        "0",
        rf"(?P<low>{_PRICE})(?P<lowmagnitude>){_DASH}(?P<again>)(?P<amount>{_PRICE}){_MAGNITUDE}\s?"
        rf"(?P<symbol>{_TRAILING}|(?:{_CODE})\b)(?!\s?\d|\w)",
        lambda m: f"{number(m['low'])} to {_price(m)}",
    ),
    (
        "0.",
        rf"(?<![\w.,])(?P<amount>{_PRICE}){_MAGNITUDE}\s?(?P<symbol>{_TRAILING}|(?:{_CODE})\b)(?!\s?\d|\w)",
        _price,
    ),
]

# Measures

_POWERS = {"²": "square ", "2": "square ", "³": "cubic ", "3": "cubic "}


def unit_name(unit: str, power: str | None, single: bool) -> str:
    """A unit in words, such as "square kilometers"."""
    one, many = units.UNITS.get(unit) or units.STOPPED_UNITS[" ".join(unit.rstrip(".").split())]
    name = one if single else many
    if not power:
        return name
    if "/" in unit:
        return f"{name} {'squared' if power in '²2' else 'cubed'}"
    return _POWERS[power] + name


def _measure(m: Match) -> str:
    text, low = m["number"], m["low"]
    joined = m["joint"] == "-" and bool(re.match(r"\s+[a-z]|-", after(m)))
    single = plain_number(text) == "1" and not low or joined or adjective(m)
    words = f"{number(text)} {unit_name(m['unit'], m['power'], single)}"
    if not low:
        return words
    first = number(low)
    if m["lowunit"]:
        first += " " + unit_name(m["lowunit"], None, plain_number(low) == "1")
    return f"{first} to {words}"


def _feet_inches(m: Match) -> str:
    feet, inches = m.groups()
    return f"{number(feet)} {'foot' if inches else 'feet'}" + (
        f" {number(inches)}" if inches else ""
    )


def _feet(m: Match) -> str | None:
    """5' is a length unless a quotation is open."""
    if re.search(r"(?:^|[\s(])'[^']*$", m.string[: m.start()]):
        return None
    return f"{number(m[1])} {'foot' if m[1] == '1' or adjective(m) else 'feet'}"


def _inches(m: Match) -> str | None:
    """12" is a length unless a quotation is open."""
    if m.string[: m.start()].count('"') % 2:
        return None
    return f"{number(m.group(1))} inch" + ("" if re.match(r"\s[a-z]", after(m)) else "es")


_OVER = _names({u: "" for u in units.UNITS if u not in ("%", "°")} | dict.fromkeys(units.PER, ""))


def _per(m: Match) -> str | None:
    """The stroke of "litres/day", "$20/hr"."""
    said = before(m)
    unit = rf"(?:\d|[.,]\d|[²³%°]|\b\d*(?:{_UNIT})|[a-z]{{2,}}s|[$€£¥]\s?[\d.,]+\w?)\s?$"
    if not re.search(unit, said):
        return None
    name = m["unit"]
    if name in units.UNITS:
        return " per " + unit_name(name, m["power"], True)
    return f" per {units.PER[name]}"


def _bare_unit(m: Match) -> str | None:
    """A unit with a power but without a number."""
    return unit_name(m["unit"], m["power"], False)


MEASURES: list[Rule] = [
    ("0", r"(\d+)['′]\s?(\d{1,2})(?:\"|'')", _feet_inches),
    ("0", r"(\d+(?:\.\d+)?)\"(?!\w)", _inches),
    ("0", r"(\d+(?:\.\d+)?)'(?![\w'])", _feet),
    (
        "0.",
        rf"(?<![\w.])(?:(?P<low>{AMOUNT})(?P<lowunit>)(?:{_DASH}))?(?P<number>{AMOUNT})"
        rf"(?P<joint>[ -]?)(?P<unit>{_STOPPED_UNIT})(?P<power>)\.(?=\s*[^A-Z\s])(?!\w)",
        _measure,
    ),
    (
        "0.",
        rf"(?<![\w.])(?:(?P<low>{_PRICE})\s?(?P<lowunit>{_UNIT})?(?:{_DASH}|\s+to\s+))?"
        rf"(?P<number>{_PRICE})(?P<joint>[ -]?)(?P<unit>{_UNIT})(?P<power>[²³]|(?<=m)[23])?(?![\w°])",
        _measure,
    ),
    (
        "0.",
        rf"(?<![\w.])(?P<low>)(?P<lowunit>)(?P<number>{AMOUNT})(?P<joint>[ -]?)"
        rf"(?P<unit>{_STOPPED_UNIT})(?P<power>)(?=\.)(?!\.\w)",
        _measure,
    ),
    ("/", rf"/\s?(?P<unit>{_OVER})(?P<power>[²³])?(?![\w/])", _per),
    ("aμ", rf"(?<![\w])(?P<unit>{_UNIT})(?P<power>[²³])(?!\w)", _bare_unit),
]

# Numbers


def _range(m: Match) -> str | None:
    low, high, dash = m["low"], m["high"], m["dash"]
    first, second = (integer(n) if n.isdecimal() else number(n) for n in (low, high))
    if re.match(r"\s?=", after(m)) or (dash.strip() == "-" and re.search(r"[=+*/]\s?$", before(m))):
        return f"{first} minus {second}"
    if low.isdecimal() and high.isdecimal() and len(low) > 2 and int(high) < int(low):
        return f"{pairs(low)} {pairs(high)}"
    return f"{first} to {second}"


_SINCE = re.compile(r"(?i)\b(?:in|since|until|year|from|by|after|before|around|circa)\s$")


def _early_year(m: Match) -> str | None:
    return pairs(m.group()) if _SINCE.search(before(m)) else None


def _season(m: Match) -> str | None:
    """ "2020/21"."""
    if (int(m[1]) + 1) % 100 != int(m[2]):
        return None
    return f"{year(m[1])} {pairs(m[2])}"


def _hyphened(m: Match) -> str:
    """ "4-3-3"; long groups are codes."""
    groups = m.group().split("-")
    if max(map(len, groups)) > 2:
        return ", ".join(map(digits, groups))
    return " ".join(map(cardinal, groups))


def _fraction(m: Match) -> str:
    whole, top, bottom = m["whole"], m["top"], m["bottom"]
    if not whole and f"{top}/{bottom}" in ("24/7", "50/50", "9/11"):
        return f"{cardinal(top)} {cardinal(bottom)}"
    if not whole and top == bottom and top[0] != "0":
        return f"{cardinal(top)} out of {cardinal(bottom)}"
    if "0" in (top[0], bottom[0]) or not int(top) < int(bottom) <= 100:
        return f"{number(whole) + ' ' if whole else ''}{number(top)} slash {number(bottom)}"
    part = tables.FRACTIONS.get(int(bottom)) or ordinal(bottom)
    if int(top) > 1:
        part = "halves" if part == "half" else part + "s"
    words = f"{number(whole)} and " if whole else ""
    return words + (
        "a half" if whole and (top, bottom) == ("1", "2") else f"{cardinal(top)} {part}"
    )


def _part_of_unit(m: Match) -> str | None:
    """ "3/4 tsp" is "three quarters of a teaspoon"."""
    words = _fraction(m)
    if "slash" in words:
        return None
    if m["whole"]:
        return f"{words} {unit_name(m['unit'], None, False)}"
    one = unit_name(m["unit"], None, True)
    article = "an" if one[0] in "aeiou" else "a"
    return f"{'half' if words == 'one half' else words + ' of'} {article} {one}"


def _feet_and_inches(m: Match) -> str:
    feet = "foot" if m[1] == "1" else "feet"
    return f"{number(m[1])} {feet} {number(m[2])} inch" + ("" if m[2] == "1" else "es")


def _power(m: Match) -> str:
    exponent = m["exponent"]
    words = {"2": "squared", "3": "cubed"}.get(exponent)
    if words is None:
        sign = "minus " if exponent[0] == "-" else ""
        name = exponent.lstrip("-")
        words = f"to the power of {sign}{cardinal(name) if name.isdecimal() else name.upper()}"
    # After a word it is a note's number.
    if re.search(r"[A-Za-z]{3}$", before(m)) and exponent.isdecimal():
        return ", " + cardinal(exponent)
    return " " + words


def _scientific(m: Match) -> str:
    sign = "minus " if m[2][0] == "-" else ""
    return f"{number(m[1])} times ten to the power of {sign}{cardinal(m[2].lstrip('+-'))}"


def _scaled(m: Match) -> str | None:
    amount, scale = m.groups()
    if scale in "kK" and amount.isdecimal():
        return f"{cardinal(amount)} K"
    if scale in ("m", "b", "T") or (amount.isdecimal() and scale != "bn"):
        return None
    return f"{number(amount)} {units.MAGNITUDES[scale]}"


def _mixed(m: Match) -> str:
    sign = " times " if re.match(r"\s?=", after(m)) else " by "
    return sign.join(map(number, re.findall(AMOUNT, m.group())))


def _version(m: Match) -> str:
    lead = "version " if m.group()[0] in "vV" else ""
    return lead + " point ".join(map(cardinal, re.findall(r"\d+", m.group())))


def _ratio(m: Match) -> str:
    return " to ".join(map(number, m.group().split(":")))


def _percent_list(m: Match) -> str:
    return ", ".join(map(integer, m.group().split(",")))


_RATIO_PART = r"(?:(?P<whole>\d+)[ -])?(?<![\d/.])(?P<top>\d+)/(?P<bottom>\d+)"
PARTS: list[Rule] = [
    ("0", rf"{_RATIO_PART}\s?(?P<unit>{_UNIT})(?![\w/°])", _part_of_unit),
    (
        "0",
        rf"{_RATIO_PART}\s?(?P<unit>{_STOPPED_UNIT})\.(?=\s*[^A-Z\s])(?!\w)",
        _part_of_unit,
    ),
    ("0", r"(\d+)\s?ft\.?\s(\d{1,2}(?:\.\d)?)\s?in\b(?:\.(?=\s*[^A-Z\s]))?", _feet_and_inches),
]
NUMBERS: list[Rule] = [
    ("0", r"((?:19|20)\d\d)/(\d\d)\b(?!/)", _season),
    ("0", r"10[1-9]\d\b(?![.,:/%-]\d)", _early_year),
    (
        "0",
        r"\d+,\d{1,2}(?=\s(?:thousand|million|billion|trillion)\b)",
        lambda m: number(m.group()),
    ),
    (
        "0",
        r"(?:(?P<whole>\d+)[ -])?(?<![\d/.])(?P<top>\d+)/(?P<bottom>\d+)\b(?!/|\.\d)",
        _fraction,
    ),
    (
        "0",
        r"(\d+(?:,\d{3})*)(?:st|nd|rd|th|ST|ND|RD|TH)\b",
        lambda m: ordinal(m[1].replace(",", "")),
    ),
    ("0", r"\d+(?:\.\d+)?(?::\d+(?:\.\d+)?)+(?!\w)", _ratio),
    ("0", r"\d+(?:-\d+){2,}(?!\w)", _hyphened),
    (
        "0.",
        rf"(?<![\w.])(?P<low>{AMOUNT})(?P<dash>{_DASH})(?P<high>{AMOUNT})(?!\d|[A-Za-z_](?<![xkK])|[xkK]\w|-\d)",
        _range,
    ),
    ("0", r"\d{1,3}(?:\.\d{3})+,\d+(?!\w)|\d{1,3}(?:\.\d{3}){2,}(?![\w.])", lambda m: number(m[0])),
    (
        "0",
        r"(?<![\d ] )[1-9]\d{0,2}(?: \d{3})*?(?: 000)(?: \d{3})*\b(?! ?\d)",
        lambda m: number(m[0].replace(" ", "")),
    ),
    ("0", rf"{AMOUNT}(?:\s?[xX×]\s?{AMOUNT})+(?!\w)", _mixed),
    ("a0", r"(?<!\w)(?:[vV](?=\d+\.\d)\d+(?:\.\d+)+|\d+(?:\.\d+){2,})(?!\w)", _version),
    ("0", rf"({AMOUNT})[eE]([-+]?\d+)(?!\w)", _scientific),
    ("^", r"\^[{(]?(?P<exponent>-?\d+|[A-Za-z])(?:[})]|(?!\w))", _power),
    ("0.", rf"(?<![\w.])({AMOUNT})\s?(k|K|M|m|bn|B|b|T|tn|mn)(?![\w])", _scaled),
    ("0.", r"(?<![\w.])(?:\d{1,3}(?:,\d{3})*|\d+)?\.\d+(?!\w)", lambda m: number(m.group())),
    ("0", r"(?:\d{1,3}(?:,\d{3})+|\d+)\b", lambda m: integer(m.group())),
]
