"""Rules for words: abbreviations, acronyms, capitals, roman numerals, contractions, interjections,
and for the signs that are left.
"""

from __future__ import annotations

import re

from . import spoken_forms, tables, units
from .addresses import spell
from .lexicon import lexicon
from .numbers import cardinal, digits, ordinal, pairs, roman
from .scan import Match, Rule, after, before

_DOTTED = "|".join(sorted(map(re.escape, tables.DOTTED), key=len, reverse=True))
_STREET = r"(?:\s+[A-Z]\w*)*\s+(?:St|Ave|Rd|Blvd|Dr|Hwy|Ln|Street|Avenue|Road|Boulevard|Drive)\b"


# A word of capitals that is no part of a code or an abbreviation.
_CAPITALS = re.compile(r"(?<![\w.@/&'-])[A-Z](?:[A-Z']*[A-Z])?(?![\w@/&]|[.-]\w)")


def is_acronym_word(token: str) -> bool:
    """Whether a run of capitals inside ordinary text is read as a word."""
    lower = token.lower()
    if lower in tables.ACRONYM_WORDS:
        return True
    if lower in tables.SPELLED or len(token) < 4:
        return False
    return lexicon().pronounceable(lower)


def lower_shouting(text: str) -> str:
    """A sentence in capitals only is read as words, where they are words; of the same length."""
    if re.search("[a-z]", text):
        return text
    words = _CAPITALS.findall(text)
    long = [w for w in words if len(w) > 1]
    plain = [w for w in long if _is_plain(w)]
    if len(words) < 2 or not long or len(plain) < 0.6 * len(long):
        return text
    if len(plain) < 3 and not any(w.lower() in spoken_forms.COMMON or len(w) > 4 for w in plain):
        return text
    spoken = {w for w in long if _is_plain(w) or _can_be_word(w)} | {"A"}
    return _CAPITALS.sub(lambda w: w[0].lower() if w[0] in spoken else w[0], text)


def _can_be_word(token: str) -> bool:
    lower = token.lower()
    return lower not in tables.SPELLED and lexicon().pronounceable(lower.replace("'", ""))


def _is_plain(token: str) -> bool:
    lower = token.lower()
    if len(token) < 4 or lower in spoken_forms.COMMON:
        return lower in spoken_forms.COMMON or lower in tables.ACRONYM_WORDS
    return _can_be_word(token)


def _abbreviation(m: Match) -> str | None:
    name, follows = m.group(1), after(m)
    if name in tables.BEFORE_DIGIT and not tables.is_counted(name, follows):
        return None
    word = tables.DOTTED[name]
    # "Main St." but "St. Paul": a saint is followed by a capital and does not follow one.
    capital_before = re.search(r"(?:\b[A-Z]\w*|\d(?:st|nd|rd|th))\s+$", before(m))
    capital_after = re.match(r"\s*[A-Z\"']", follows)
    if name == "St" and (capital_before or not capital_after):
        word = "street"
    if name == "Dr" and capital_before and not capital_after:
        word = "drive"
    ends = name in tables.MAY_END and not follows.strip()
    return word + ("." if ends else "")


def _address_part(m: Match) -> str | None:
    """ "123 Main St", "Sunset Blvd": without a stop, after a name with a capital."""
    name, said, follows = m.group(), before(m), after(m)
    if name == "St" and not re.search(r"[A-Z\d]\w*\s$", said) and re.match(r"\s[A-Z]", follows):
        return "saint"
    if not re.search(r"(?:[A-Z]\w*|\d(?:st|nd|rd|th))\s$", said):
        return None
    if name in ("St", "Dr", "Ave", "Ct", "Pl", "Ln") and not re.search(r"\d", said):
        return None
    return tables.STREETS[name]


def _direction(m: Match) -> str | None:
    """The N of "12 N. Main St."."""
    if not re.search(r"\d\s$", before(m)):
        return None
    return tables.DIRECTIONS[m.group(1)]


def _numbered(m: Match) -> str:
    """ "Apt. 4B", "Ch. 5"."""
    return tables.NUMBERED[m.group(1)]


def _stopped_letters(m: Match) -> str:
    ends = not after(m).strip() or re.match(r"\s+[A-Z]", after(m)) and len(m.group()) > 4
    owner = "'s" if m.group().endswith("'s") else ""
    return (
        spell(m.group().removesuffix("'s")) + owner + ("." if ends and not after(m).strip() else "")
    )


def _section(m: Match) -> str:
    letter, figures = m.groups()
    return f"{letter.upper()} point {cardinal(figures)}"


def _roman(m: Match) -> str | None:
    found = re.search(r"([A-Za-z]+)\.?\s+$", before(m))
    if not found or after(m)[:1] == "'":
        return None
    name, value = found[1].lower(), str(roman(m.group()))
    if name in tables.COUNTED:
        return cardinal(value)
    if name in tables.REGNAL:
        return f"the {ordinal(value)}"
    # After any other name only what can hardly be letters: "Rocky II", but "Malcolm X", "Vitamin
    # C".
    return cardinal(value) if len(m.group()) > 1 and found[1][0].isupper() else None


def _capitals(m: Match) -> str:
    token, suffix = m.groups()
    joined = after(m)[:1] == "&" or before(m)[-1:] == "&"
    if is_acronym_word(token) and not joined:
        return token.lower() + (suffix or "")
    return spell(token) + ("'s" if suffix else "")


def _letters_digits(m: Match) -> str:
    """Model names and the like: "Cox2", "B747", "mp3", "4K"."""
    words = []
    for part in re.findall(r"[A-Za-z]+|\d+", m.group()):
        if part.isdecimal():
            words.append(pairs(part) if len(part) <= 4 and part[0] != "0" else digits(part))
        elif len(part) > 2 and not part.isupper() and lexicon().pronounceable(part.lower()):
            words.append(part.lower())
        else:
            words.append(spell(part))
    return " ".join(words)


def _interjection(m: Match) -> str | None:
    word = m.group().lower()
    if m.group().isupper() and len(word) < 4:
        return None
    for pattern, said in spoken_forms.INTERJECTIONS:
        if re.fullmatch(pattern, word):
            return said
    return None


def _drawn_out(m: Match) -> str | None:
    """ "Sooo", "yesss": a letter held on."""
    word = m.group().lower()
    twice = re.sub(r"(.)\1{2,}", r"\1\1", word)
    once = re.sub(r"(.)\1{2,}", r"\1", word)
    for candidate in (once, twice):
        if candidate in spoken_forms.COMMON or candidate in lexicon():
            return candidate
    return once


def _word(m: Match) -> str:
    """Words in lower case; what has no vowel and is not listed ("nth") is spelled."""
    word = m.group()
    if len(word) == 1:
        return word
    lower = word.lower()
    bare = lower.replace("'", "")
    if (
        not re.search("[aeiouy]", lower)
        and bare not in lexicon()
        and lower not in spoken_forms.SAID
    ):
        return units.UNITS[word][1] if word in units.UNITS else spell(word)
    # Joined words: "YouTube"; not names like "McDonald", nor listed ones.
    name = re.match(r"(?:Ma?c|D[eiu]|L[ae]|Fitz|Van|O')[A-Z]", word)
    if not word[1:].islower() and lower not in lexicon() and not name:
        parts = re.sub(
            r"(?<=[a-z]{2})(?=[A-Z])|(?<=^[ie])(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", word
        )
        if " " not in parts and not lexicon().pronounceable(lower):
            return spell(word)  # "NaCl"
        return " ".join(
            spell(p) if (p.isupper() and len(p) > 1) or p in ("i", "e") else p.lower()
            for p in parts.split()
        )
    return lower


def _article(m: Match) -> str:
    """A capital A is the article unless a word like "vitamin" comes before it or it ends a phrase."""
    found = re.search(r"([A-Za-z]+)[\s\"']*$", before(m))
    if not found:
        return "a"
    ends = not re.match(r"[\s\"'(]+[\w$€£]", after(m))
    return "A" if ends or found[1].lower() in tables.LETTER_CONTEXT else "a"


_FUNCTIONS = {
    "sin": "sine",
    "cos": "cosine",
    "tan": "tangent",
    "log": "log",
    "ln": "L N",
    "exp": "exponential",
}


def _function(m: Match) -> str:
    """The f of "f(x)"."""
    return f"{_FUNCTIONS.get(m.group(), m.group().upper())} of "


def _of_brackets(m: Match) -> str | None:
    """The bracket after a function's name adds nothing to its "of"."""
    if re.search(rf"(?<!\w)(?:[A-Za-z]|{'|'.join(_FUNCTIONS)})$", before(m)):
        return " "
    return None


def _star(m: Match) -> str:
    said, follows = before(m).rstrip(), after(m).lstrip()
    if len(m.group()) > 1:
        return ", " if not said[-1:].isalnum() or not follows[:1].isalnum() else " "
    if re.search(r"(?:\d|(?<![A-Za-z])[A-Za-z]|\))$", said) and re.match(
        r"\d|[A-Za-z](?![A-Za-z])|\(", follows
    ):
        return " times "
    return " asterisk "


def _compare(m: Match) -> str:
    name = {"<": "less than", ">": "greater than"}[m.group()]
    follows, said = after(m), before(m)
    spaced = re.match(r"\s", follows) and re.search(r"\s$", said)
    if spaced or re.match(r"\s?[-.$€£]?\d", follows):
        return f" {name} "
    return ", "


_OPERATORS = {
    "<=": " at most ",
    ">=": " at least ",
    "!=": " is not equal to ",
    "==": " equals ",
    "->": ", ",
    "=>": ", ",
    "<-": ", ",
    "&&": " and ",
    "||": " or ",
}

EARLY: list[Rule] = [
    ("a", r"(?<![\w.&/+-])A\b(?!\.\w|['’]s|[&@/+-])", _article),
    ("a", r"(?<!\w)(?i:w/o)(?!\w)", lambda m: "without"),
    ("a", r"(?<!\w)(?i:c/o)(?!\w)", lambda m: "care of"),
    ("a", r"(?<!\w)(?i:b/c)(?!\w)", lambda m: "because"),
    ("a", r"(?<!\w)(?i:n/a)(?!\w)", lambda m: "not applicable"),
    ("a", r"(?<!\w)w/(?=\s?\w)", lambda m: "with "),
    ("a", r"(?<!\w)([NSEW])\.?(?=" + _STREET + ")", _direction),
    (
        "a",
        r"(?<!\w)(" + "|".join(tables.NUMBERED) + r")\.?(?=\s?#?\s?(?:\d|[A-Z]\b))",
        _numbered,
    ),
    ("a", r"(?<!\w)(?:" + "|".join(tables.STREETS) + r")\b(?!\.)", _address_part),
    ("a", rf"(?<![\w.])({_DOTTED})\.(?=[^a-z0-9_]|$)", _abbreviation),
    (
        "a",
        r"(?<!\w)(?:" + "|".join(tables.UNDOTTED) + r")\b(?!')",
        lambda m: tables.UNDOTTED[m.group()],
    ),
    ("a", r"(?<!\w)(?:[A-Za-z]\.){2,}(?:[A-Z](?![\w.]))?(?:'s\b)?", _stopped_letters),
    ("a", r"(?<!\w)([B-HJ-Z])\.(?=\s+[A-Z])", lambda m: m.group(1)),
    ("a", r"(?<!\w)([A-Za-z])\.(\d{1,4})(?![\w.])", _section),
    ("a", r"(?<!\w)(?:[A-Z]|sin|cos|tan|log|ln|exp|[f-h])(?=\([^()\s]{1,12}\))", _function),
    ("(", r"\(", _of_brackets),
]
WORDS: list[Rule] = [
    ("a", r"(?<![\w'])(?:X{0,3}(?:IX|IV|V?I{1,3}|V)|X{1,3})\b(?![&@/+-]|\.\w)", _roman),
    ("a", r"(?<!\w)([CF])#(?!\w)", lambda m: f"{m.group(1)} sharp"),
    (
        "a'",
        r"(?<!\w)(?:"
        + "|".join(sorted(map(re.escape, spoken_forms.SAID_APART), key=len, reverse=True))
        + r")(?!\w)",
        lambda m: m.group().lower(),
    ),
    ("a0", r"(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9]+(?![A-Za-z])", _letters_digits),
    ("0", r"\d+", lambda m: f" {cardinal(m.group())} "),
    ("a", r"[A-Za-z]+\b(?!')", _interjection),
    ("a", r"(?<![A-Za-z])([A-Z]{2,})('?s)?(?![A-Za-z])", _capitals),
    ("a", r"(?i)(?=[a-z]*([a-z])\1\1)[a-z]{4,}\b", _drawn_out),
    ("a", r"[A-Za-z]+(?:'[A-Za-z]+)*(?:(?<=in|th|ol)')?", _word),
]

SIGNS: list[Rule] = [
    ("-", r"(?<![\w.)])-(?=[.]?\d|[$€£¥₹]\s?\d)", lambda m: " minus "),
    ("-", r"(?:(?<=[=(+*/^])|(?<=[=(+*/^] ))-(?=[a-z]\b)", lambda m: " minus "),
    ("-", r"(?<=[A-Za-z])-(?=[A-Za-z])", lambda m: "-"),
    ("/", r"(?<=\d )/(?= \d)", lambda m: " divided by "),
    ("-", r"(?<=(?<!\w)[A-FO])-(?=[\s.,;:!?)]|$)(?!\s(?:and|or|to)\b)", lambda m: " minus "),
    ("-", r"(?<!\S)-(?=[A-Za-z](?!\w))", lambda m: " dash "),
    ("<>!=-&|", "|".join(map(re.escape, _OPERATORS)), lambda m: _OPERATORS[m.group()]),
    ("#", r"(?<!\w)#(?=\d)", lambda m: "number "),
    ("#", r"(?<!\w)#(?=[A-Za-z])", lambda m: "hashtag "),
    ("~", r"(?<!\w)~\s?(?=[$€£.]?\d)", lambda m: "about "),
    ("*", r"\*+", _star),
    ("<>", r"[<>]", _compare),
    (
        "_",
        r"_{2,}",
        lambda m: " " if before(m)[-1:].isalnum() or after(m)[:1].isalnum() else " blank ",
    ),
    ("_", r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])", lambda m: " underscore "),
    ("&@#+=%/$€£¥¢₹₿₩₽₺₪₫₦₱฿°²³μΩ_^~|\\", r".", lambda m: tables.SYMBOLS[m.group()]),
    # A spaced hyphen and every dash is a phrase break, written as a comma.
    ("—–-", r"(?:—|–|--+)+(?=\s*\S)|-(?=\s+\S)(?<=\s-)", lambda m: ", "),
    ("—–-", r"[—–]+|-+", lambda m: " "),
    (".", r"\.{2,}(?=\w)", lambda m: "... "),
]
