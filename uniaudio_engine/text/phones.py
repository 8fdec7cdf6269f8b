"""The phone inventory of the bundled model: flite's US English phones, vowels with a stress digit."""

from __future__ import annotations

PAUSE = "pau"

_CONSONANTS = "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh".split()
_VOWELS = "aa ae ah ao aw ay eh er ey ih iy ow oy uh uw".split()

PHONES: tuple[str, ...] = (
    PAUSE, *_CONSONANTS, "ax0", *(vowel + stress for vowel in _VOWELS for stress in "01"))
"""Every phone in a fixed order (a phone's place is its id in `phones.txt`): the pause, 24 consonants, the
schwa (never stressed) and 15 vowels with stress 0 or 1. 56 in all. Source: flite 2.2's lexicon and rules."""

_KNOWN = frozenset(PHONES)


def is_vowel(phone: str) -> bool:
    """True for vowels, with or without their stress digit."""
    return phone[0] in "aeiou"


def parse_phones(text: str) -> list[str]:
    """Phones that a user wrote out, separated by whitespace: `"hh ax0 l ow1"`.

    Returns them as given (no pauses are added). Raises ValueError, in one line, when there are none or when
    one is not in :data:`PHONES`.
    """
    phones = text.split()
    if not phones:
        raise ValueError("expected phones separated by spaces, got none; write for example 'hh ax0 l ow1'")
    for phone in phones:
        if phone not in _KNOWN:
            raise ValueError(f"expected phones, got {phone[:20]!r}; use only: {' '.join(PHONES)}")
    return phones
