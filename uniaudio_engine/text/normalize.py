"""Written English to spoken English: numbers, dates, money, units, abbreviations, acronyms,
symbols.

Responsible for the words and for keeping the punctuation that makes pauses. Not responsible for
pronunciation. The steps run in the order of `_STEPS`; each is a pattern and what to put in its
place. A single capital letter in the result is the name of that letter ("U S A"); everything else
is lower case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from . import tables
from .lexicon import lexicon
from .numbers import cardinal, decimal, digits, ordinal, pairs, plural, roman

_Match = re.Match[str]
_NEAR = 40  # characters of neighbouring text that a decision looks at


def fold(text: str) -> str:
    """ASCII (and the signs of `tables.KEPT`) only: accents dropped, look-alikes mapped, the rest
    left out.
    """
    text = "".join(tables.CHARACTERS.get(c, c) for c in text)
    out: list[str] = []
    for c in text:
        if c.isascii():
            out.append(c if c.isprintable() else " ")
        elif c in tables.KEPT:
            out.append(c)
        else:
            # A vulgar fraction needs a space: 2½ is "2 1/2".
            piece = unicodedata.normalize("NFKD", c).replace("⁄", "/")
            kept = "".join(
                p for p in piece if (p.isascii() and p.isprintable()) or p in tables.KEPT
            )
            if kept:
                out.append(" " + kept if "/" in kept else kept)
            elif unicodedata.category(c) not in ("Mn", "Me", "Cf"):
                out.append(
                    " "
                )  # unspeakable; marks and invisible joiners vanish without parting a word
    return "".join(out)


def spell(text: str) -> str:
    """Letter names and digits: "mp3" is "M P three"."""
    return " ".join(digits(c) if c.isdigit() else c.upper() for c in text if c.isalnum())


def _number(text: str) -> str:
    """Digits with optional sign, thousands commas and fraction."""
    text = text.replace(",", "")
    sign = "minus " if text[0] in "-−" else ""
    return sign + decimal(text.lstrip("-−+"))


def _url(m: _Match) -> str:
    """Address parts as words; unpronounceable parts are spelled."""
    names = {
        ".": "dot",
        "/": "slash",
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
    }
    text = re.sub(r"^https?://", "", m.group()).rstrip("/")
    words = []
    for part in re.findall(r"[A-Za-z]+|\d+|.", text):
        if part.isalpha():
            lower = part.lower()
            spelled = lower in tables.SPELLED_DOMAINS or not lexicon().pronounceable(lower)
            words.append(spell(part) if spelled else lower)
        else:
            words.append(
                pairs(part) if part.isdigit() and len(part) < 5 else names.get(part) or digits(part)
            )
    return " " + " ".join(words) + " "


def _abbreviation(m: _Match) -> str:
    name, after = m.group(1), m.string[m.end() : m.end() + _NEAR]
    if name in tables.BEFORE_DIGIT and not re.match(r"\s*\d", after):
        return m.group()
    word = tables.DOTTED[name]
    # "Main St." but "St. Paul": a saint is followed by a capital and does not follow one.
    capital_before = re.search(r"[A-Z0-9]\w*\s+$", m.string[max(0, m.start() - _NEAR) : m.start()])
    capital_after = re.match(r"\s+[A-Z\"']", after)
    if name == "St" and (capital_before or not capital_after):
        word = "street"
    if name == "Dr" and capital_before and not capital_after:
        word = "drive"
    ends = name in tables.MAY_END and not after.strip()
    return word + ("." if ends else "")


def _day_month(day: str, month: str, year: str | None) -> str:
    words = f"{month} {ordinal(day)}"
    return f"{words}, {_year(year)}" if year else words


def _year(text: str) -> str:
    return cardinal(text) if text.startswith("20") and text[2] == "0" else pairs(text)


def _iso_date(m: _Match) -> str:
    year, month, day = m.groups()
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return m.group()
    return _day_month(day, tables.MONTHS[int(month) - 1], year)


def _slash_date(m: _Match) -> str:
    """US order, unless only the other one is a date."""
    month, day, year = m.groups()
    if int(month) > 12:
        month, day = day, month
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return m.group()
    year = year if len(year) == 4 else ("19" if int(year) > 60 else "20") + year
    return _day_month(day, tables.MONTHS[int(month) - 1], year)


def _month_day(m: _Match) -> str:
    name, day, year = m.group("month", "day", "year")
    if not 1 <= int(day) <= 31:
        return m.group()
    return _day_month(day, tables.MONTH_NAMES[name.lower()], year)


def _time(m: _Match) -> str:
    hour, minute, second, half = m.group("hour", "minute", "second", "half")
    if int(hour) > 24:
        return m.group()
    words = cardinal(str(int(hour)))
    if minute and minute != "00":
        words += " " + pairs(minute)
    elif not half and not second:
        words += " o'clock" if 0 < int(hour) <= 12 else " hundred"
    if second:
        words += f" and {cardinal(str(int(second)))} second" + ("" if int(second) == 1 else "s")
    return words + (f" {half[0].upper()} M" if half else "")


def _money(m: _Match) -> str:
    sign, symbol, amount, magnitude = m.group("sign", "symbol", "amount", "magnitude")
    one, many, cent, cents = tables.CURRENCIES[symbol]
    amount, words = amount.replace(",", ""), "minus " if sign else ""
    if magnitude:
        return words + f"{decimal(amount)} {tables.MAGNITUDES.get(magnitude, magnitude)} {many}"
    whole, _, part = amount.partition(".")
    if len(part) != 2:
        return words + f"{decimal(amount)} {one if amount == '1' else many}"
    pieces = []
    if int(whole or 0) or not int(part):
        pieces.append(f"{cardinal(whole or '0')} {one if whole == '1' else many}")
    if int(part):
        pieces.append(f"{cardinal(str(int(part)))} {cent if part == '01' else cents}")
    return words + " and ".join(pieces)


def _measure(m: _Match) -> str:
    number, unit, power = m.group("number", "unit", "power")
    one, many = tables.UNITS[unit]
    square = {"²": "square ", "2": "square ", "³": "cubic ", "3": "cubic "}.get(power or "", "")
    return f"{_number(number)} {square}{one if number in ('1', '-1') else many}"


def _fraction(m: _Match) -> str:
    whole, top, bottom = m.group("whole", "top", "bottom")
    if not whole and f"{top}/{bottom}" in ("24/7", "50/50", "9/11"):
        return f"{cardinal(top)} {cardinal(bottom)}"
    if "0" in (top[0], bottom[0]) or not int(top) < int(bottom) <= 100:
        return f"{_number(whole) + ' ' if whole else ''}{_number(top)} slash {_number(bottom)}"
    part = tables.FRACTIONS.get(int(bottom)) or ordinal(bottom)
    if int(top) > 1:
        part = "halves" if part == "half" else part + "s"
    words = f"{_number(whole)} and " if whole else ""
    return words + (
        "a half" if whole and (top, bottom) == ("1", "2") else f"{cardinal(top)} {part}"
    )


def _phone(m: _Match) -> str:
    """A telephone number: groups of digits with a pause between."""
    plus = "plus " if m.group().lstrip().startswith("+") else ""
    return plus + ", ".join(digits(group) for group in re.findall(r"\d+", m.group()))


def _integer(m: _Match) -> str:
    text = m.group()
    if "," in text:
        return _number(text)
    if len(text) == 4 and "1100" <= text <= "2099":
        return _year(text)
    return digits(text) if len(text) >= 10 else cardinal(text)


def _roman(m: _Match) -> str:
    before, space, numeral = m.groups()
    name, value = before.lower(), str(roman(numeral))
    if name in tables.COUNTED:
        return before + space + cardinal(value)
    if name in tables.REGNAL:
        return f"{before}{space}the {ordinal(value)}"
    # After any other name only what can hardly be letters: "Rocky II", but "Malcolm X", "Vitamin
    # C".
    return (
        before + space + cardinal(value) if len(numeral) > 1 and before[0].isupper() else m.group()
    )


def _is_word(token: str) -> bool:
    """Whether a run of capitals inside ordinary text is read as a word."""
    lower = token.lower()
    if lower in tables.ACRONYM_WORDS:
        return True
    if lower in tables.SPELLED or len(token) < 4:
        return False
    return lexicon().pronounceable(lower)


def _capitals(m: _Match) -> str:
    token, suffix = m.groups()
    if _is_word(token):
        return token.lower() + (suffix or "")
    return spell(token) + ("'s" if suffix else "")


def _shouting(m: _Match) -> str:
    """A sentence in capitals only is read as words, where they can be pronounced."""
    words = re.findall(r"[A-Z]{2,}", m.group())
    spoken = [w for w in words if w.lower() in lexicon() or lexicon().pronounceable(w.lower())]
    if len(words) < 3 or len(spoken) < 0.7 * len(words):
        return m.group()
    return re.sub(r"[A-Z]{2,}", lambda w: w[0].lower() if w[0] in spoken else w[0], m.group())


def _letters_digits(m: _Match) -> str:
    """Model names and the like: "Cox2", "B747", "mp3", "4K"."""
    words = []
    for part in re.findall(r"[A-Za-z]+|\d+", m.group()):
        if part.isdigit():
            words.append(pairs(part) if len(part) <= 4 and part[0] != "0" else digits(part))
        elif len(part) > 2 and not part.isupper() and lexicon().pronounceable(part.lower()):
            words.append(part.lower())
        else:
            words.append(spell(part))
    return " ".join(words)


def _lower_word(m: _Match) -> str:
    """Words in lower case; what has no vowel and is not listed ("tsk", "nth") is spelled."""
    word = m.group()
    if len(word) == 1:
        return word
    lower = word.lower()
    if not re.search("[aeiouy]", lower) and lower not in lexicon():
        return tables.UNITS[word][1] if word in tables.UNITS else spell(word)
    # Joined words: "YouTube"; not names like "McDonald", nor listed ones.
    name = re.match(r"(?:Ma?c|D[eiu]|L[ae]|Fitz|Van)[A-Z]", word)
    if not word[1:].islower() and lower not in lexicon() and not name:
        return re.sub(r"(?<=[a-z]{2})(?=[A-Z])", " ", word).lower()
    return lower


def _article(m: _Match) -> str:
    """A capital A is the article unless a word like "vitamin" comes before it or it ends a phrase."""
    before = re.search(r"([A-Za-z]+)[\s\"']*$", m.string[max(0, m.start() - _NEAR) : m.start()])
    after = m.string[m.end() : m.end() + _NEAR]
    if not before:
        return "a"
    ends = not re.match(r"[\s\"'(]+[\w$€£]", after)
    return "A" if ends or before.group(1).lower() in tables.LETTER_CONTEXT else "a"


_AMOUNT = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
# "may" and "march" are months only with a capital.
_MONTH = (
    "(?:May|MAY|March|MARCH|Mar|(?i:"
    + "|".join(sorted(set(tables.MONTH_NAMES) - {"may", "march", "mar"}, key=len, reverse=True))
    + "))"
)
_OF_YEAR = r"(?:,?\s+(?P<year>[12]\d{3})\b)?"
_UNIT = "|".join(sorted(map(re.escape, tables.UNITS), key=len, reverse=True))
_MAGNITUDE = "|".join(sorted(tables.MAGNITUDES, key=len, reverse=True))
_DOTTED = "|".join(sorted(map(re.escape, tables.DOTTED), key=len, reverse=True))

_RULES: list[tuple[str, str | Callable[[_Match], str]]] = [
    (
        r"(?:https?://|www\.)[^\s<>\"()]*[A-Za-z0-9/]|"
        r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b|"
        r"\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|io|ai|dev|co\.uk|de|fr|eu)\b"
        r"(?:/[\w./?=&%~-]*[\w/])?",
        _url,
    ),
    (r"\bA\b(?!\.\w|['’]s|[&@/+-])", _article),
    (r"^[^a-z]*[A-Z][^a-z]*$", _shouting),
    (rf"\b({_DOTTED})\.(?=\W|$)", _abbreviation),
    (r"\b(?:" + "|".join(tables.UNDOTTED) + r")\b", lambda m: tables.UNDOTTED[m.group()]),
    (r"(?<=\d)\s*([aApP])\.?[mM]\b\.?", lambda m: f" {m.group(1).lower()}m"),
    (
        r"\b(?:[A-Za-z]\.){2,}(?=(\s*$)?)",
        lambda m: spell(m.group()) + ("" if m.group(1) is None else "."),
    ),
    (r"\b([B-HJ-Z])\.(?=\s+[A-Z])", r"\1"),
    (r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b", _iso_date),
    (r"\b(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})\b", _slash_date),
    (
        rf"\b(?P<month>{_MONTH})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?![:.]\d){_OF_YEAR}",
        _month_day,
    ),
    (
        rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH})\b{_OF_YEAR}",
        _month_day,
    ),
    (
        r"\b(?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?\b"
        r"(?:\s?(?P<half>[ap]m)\b)?",
        _time,
    ),
    (r"\b(?P<hour>\d{1,2})(?P<minute>)(?P<second>)\s?(?P<half>[ap]m)\b", _time),
    (
        rf"(?P<sign>-)?(?P<symbol>[$€£¥])\s?(?P<amount>{_AMOUNT})"
        rf"(?:\s?(?P<magnitude>{_MAGNITUDE}|(?:hundred|thousand|[mbtr]+illion))\b)?",
        _money,
    ),
    (
        r"(?<!\w)(?:\+\d{1,3}[ -])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}\b|\b\d{3}-\d{4}\b|"
        r"\+\d{7,15}\b",
        _phone,
    ),
    (r"(?:(?P<whole>\b\d+)[ -])?(?<![\d/.])(?P<top>\d+)/(?P<bottom>\d+)\b(?!/)", _fraction),
    (
        r"\b(\d+(?:,\d{3})*)(?:st|nd|rd|th|ST|ND|RD|TH)\b",
        lambda m: ordinal(m.group(1).replace(",", "")),
    ),
    (r"(?<!\w)'?(\d+0)'?s\b", lambda m: plural(pairs(m.group(1)))),
    (r"\b(\d+)'s\b", lambda m: pairs(m.group(1)) + "'s"),
    (
        rf"(?<![\w.])(?P<number>-?(?:{_AMOUNT}))[ -]?(?P<unit>{_UNIT})(?P<power>[²³]|(?<=m)[23])?(?![\w/°])",
        _measure,
    ),
    (r"(?<=\d)\s?[-–—]\s?(?=\d)", " to "),
    (r"(?<=\d)\s?[xX×]\s?(?=\d)", " by "),
    (r"\b[vV](?=\d+\.\d)", "version "),
    (
        r"\b\d+(?:\.\d+){2,}\b",
        lambda m: " point ".join(cardinal(part) for part in m.group().split(".")),
    ),
    (r"(?<![\w.)])[-−](?=\.?\d)", "minus "),
    (r"(?<!\w)#(?=\d)", "number "),
    (r"(?<!\w)#(?=[A-Za-z])", "hashtag "),
    (r"(?<![\w.])(?:\d{1,3}(?:,\d{3})*|\d+)?\.\d+(?!\w)", lambda m: _number(m.group())),
    (r"\b([A-Za-z]+)(\s+)(X{0,3}(?:IX|IV|V?I{1,3}|V)|X{1,3})\b(?!')", _roman),
    (r"\b(?:\d{1,3}(?:,\d{3})+|\d+)\b", _integer),
    (r"\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9]+\b", _letters_digits),
    (r"\d+", lambda m: " " + cardinal(m.group()) + " "),
    (r"\b([A-Z]{2,})('?s)?(?![A-Za-z])", _capitals),
    (r"[&@#+=%/$€£¥°²³μΩ_*^~|\\<>]", lambda m: tables.SYMBOLS[m.group()]),
    # A spaced hyphen and every dash is a phrase break, written as a comma.
    (r"\s*(?:—|–|--+|\s-)\s*(?=\S)(?<![,;:(])", ", "),
    (r"\.{2,}(?=\w)", "... "),
    (r"[—–]|--+|(?<!\w)-|-(?!\w)", " "),
    (r"(?<!')[A-Za-z]+(?!\w)", _lower_word),
]
_STEPS = [(re.compile(pattern), action) for pattern, action in _RULES]


def normalize(text: str) -> str:
    """`text` as it is spoken: lower-case words, single capitals for letter names, and pausing
    punctuation.

    Any string is accepted; what cannot be spoken is left out, so the result may be empty.
    """
    text = fold(text)
    for pattern, action in _STEPS:
        text = pattern.sub(action, text)
    text = re.sub(r"[^A-Za-z'\s.,;:?!\"()\[\]{}`-]", " ", text)
    text = re.sub(r"\s+([.,;:?!])", r"\1", text)
    return " ".join(text.split())
