"""Phones that a user writes: our own names, CMUdict's, or the International Phonetic Alphabet."""

from __future__ import annotations

from ..errors import InputError, first_few, shown
from .phones import PHONES

# Longest first where one begins another. Vowels get their stress from the marks before them.
_IPA = {
    "tʃ": "ch",
    "dʒ": "jh",
    "aɪ": "ay",
    "aʊ": "aw",
    "eɪ": "ey",
    "oʊ": "ow",
    "əʊ": "ow",
    "ɔɪ": "oy",
    "ɪə": "ih r",
    "ɜɹ": "er",
    "ɜr": "er",
    "əɹ": "er",
    "ər": "er",
    "ʧ": "ch",
    "ʤ": "jh",
    "ɝ": "er",
    "ɚ": "er",
    "ɜ": "er",
    "ɑ": "aa",
    "a": "aa",
    "ɒ": "aa",
    "æ": "ae",
    "ʌ": "ah",
    "ɐ": "ah",
    "ɔ": "ao",
    "ə": "ax",
    "ᵊ": "ax",
    "ɛ": "eh",
    "e": "eh",
    "ɪ": "ih",
    "ɨ": "ih",
    "ᵻ": "ih",
    "i": "iy",
    "ʊ": "uh",
    "u": "uw",
    "o": "ow",
    "b": "b",
    "d": "d",
    "ð": "dh",
    "f": "f",
    "ɡ": "g",
    "g": "g",
    "h": "hh",
    "k": "k",
    "l": "l",
    "ɫ": "l",
    "m": "m",
    "n": "n",
    "ŋ": "ng",
    "p": "p",
    "r": "r",
    "ɹ": "r",
    "s": "s",
    "ʃ": "sh",
    "t": "t",
    "ɾ": "d",
    "θ": "th",
    "v": "v",
    "w": "w",
    "j": "y",
    "z": "z",
    "ʒ": "zh",
    "x": "k",
    "ʔ": "",
    # One letter each for the diphthongs, as some phonemizers write them.
    "A": "ey",
    "I": "ay",
    "O": "ow",
    "W": "aw",
    "Y": "oy",
}
_IPA_MARKS = frozenset(" .ː͡‿̩̯̃ʰˑ|-")
_VOWELS = frozenset(p[:-1] for p in PHONES if p[-1] == "1") | {"ax"}


def _stressed(vowel: str, stress: str) -> str:
    return "ax0" if vowel == "ax" else vowel + stress


def _one(name: str) -> str | None:
    """A phone by our name or CMUdict's; secondary stress counts as none."""
    lower = name.lower()
    if lower in PHONES:
        return lower
    bare, digit = (lower[:-1], lower[-1]) if lower[-1:].isdecimal() else (lower, "0")
    return _stressed(bare, "1" if digit == "1" else "0") if bare in _VOWELS else None


def from_ipa(text: str, what: str) -> tuple[str, ...]:
    """Phones of a word in IPA. Raises :class:`InputError` for a sign that is none of English's."""
    phones: list[str] = []
    stress, place = "0", 0
    symbols = sorted(_IPA, key=len, reverse=True)
    while place < len(text):
        c = text[place]
        if c in "ˈ'ˌ":
            stress = "1" if c != "ˌ" else "0"
            place += 1
            continue
        if c in _IPA_MARKS:
            place += 1
            continue
        symbol = next((s for s in symbols if text.startswith(s, place)), None)
        if symbol is None:
            raise InputError(
                f"{what}: expected IPA of English, got {shown(c)} in {shown(text)}; write for "
                "example həlˈoʊ"
            )
        for phone in _IPA[symbol].split():
            if phone in _VOWELS:
                phones.append(_stressed(phone, stress))
                stress = "0"
            else:
                phones.append(phone)
        place += len(symbol)
    if not phones:
        raise InputError(f"{what}: expected phones, got none; write for example həlˈoʊ")
    return tuple(phones)


def read_phones(text: str, what: str) -> tuple[str, ...]:
    """Phones separated by spaces, of `PHONES` or in CMUdict's capitals, or IPA.

    Raises :class:`InputError` naming those that are unknown.
    """
    if not text.isascii():
        return from_ipa(text, what)
    found = [(name, _one(name)) for name in text.split()]
    unknown = [name for name, phone in found if phone is None]
    if unknown or not found:
        raise InputError(
            f"{what}: expected phones such as hh ax l ow1, got "
            f"{first_few(unknown) if unknown else 'none'}; the phones are {' '.join(PHONES[1:])}"
        )
    return tuple(phone for _, phone in found if phone is not None)
