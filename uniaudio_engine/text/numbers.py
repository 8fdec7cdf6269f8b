"""Numbers as US English words, lower case, separated by spaces."""

from __future__ import annotations

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ["", "thousand", "million", "billion", "trillion"]
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
LONGEST = 15  # digits of the longest number read as a number; longer ones are read digit by digit


def digits(text: str) -> str:
    """Digit by digit: "107" is "one zero seven". Other characters are skipped."""
    return " ".join(_ONES[int(c)] for c in text if c in "0123456789")


def cardinal(text: str) -> str:
    """A string of ASCII digits as a number: "1250" is "one thousand two hundred fifty".

    More than LONGEST digits, or a leading zero ("007"), are read digit by digit.
    """
    if len(text) > LONGEST or (len(text) > 1 and text[0] == "0"):
        return digits(text)
    value, words = int(text), []
    if value == 0:
        return "zero"
    for scale in range(len(_SCALES) - 1, -1, -1):
        group = value // 1000**scale % 1000
        if not group:
            continue
        hundreds, rest = divmod(group, 100)
        if hundreds:
            words += [_ONES[hundreds], "hundred"]
        if rest >= 20:
            words += [_TENS[rest // 10], *([_ONES[rest % 10]] if rest % 10 else [])]
        elif rest:
            words.append(_ONES[rest])
        if scale:
            words.append(_SCALES[scale])
    return " ".join(words)


def to_ordinal(words: str) -> str:
    """The ordinal of a cardinal in words: "twenty one" is "twenty first"."""
    head, _, last = words.rpartition(" ")
    last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return f"{head} {last}".strip()


def ordinal(text: str) -> str:
    """A string of digits as an ordinal: "23" is "twenty third"."""
    return to_ordinal(cardinal(text.lstrip("0") or "0"))


def plural(words: str) -> str:
    """The plural of the last word: "nineteen eighty" is "nineteen eighties", "six" is "sixes"."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith(("s", "x", "ch", "sh")) else "s")


def pairs(text: str) -> str:
    """Digits two by two, as years and flight or model numbers are read: "1984", "747", "2005",
    "1900".
    """
    if len(text) == 4 and text[1:3] == "00":  # 2005: two thousand five
        return cardinal(text)
    if len(text) < 3:
        if len(text) == 2 and text[0] == "0" != text[1]:
            return "oh " + digits(text[1])
        return cardinal(text)
    if text[-2:] == "00":
        return pairs(text[:-2]) + " hundred"
    return f"{pairs(text[:-2])} {pairs(text[-2:])}"


def decimal(text: str) -> str:
    """Digits, with or without a fraction: "3.14" is "three point one four", ".5" is "point five"."""
    whole, point, fraction = text.partition(".")
    words = cardinal(whole) if whole else ""
    return f"{words} point {digits(fraction)}".strip() if point else words


def roman(text: str) -> int:
    """The value of a roman numeral of I, V, X, L."""
    values = [{"I": 1, "V": 5, "X": 10, "L": 50}[c] for c in text]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))
