"""The phone inventory of the bundled model: flite's US English phones, vowels with a stress digit."""

from __future__ import annotations

PAUSE = "pau"

_CONSONANTS = "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh".split()
_VOWELS = "aa ae ah ao aw ay eh er ey ih iy ow oy uh uw".split()

PHONES: tuple[str, ...] = (
    PAUSE,
    *_CONSONANTS,
    "ax0",
    *(vowel + stress for vowel in _VOWELS for stress in "01"),
)
"""Every phone in a fixed order (a phone's place is its id in `phones.txt`): the pause, 24 consonants, the
schwa (never stressed) and 15 vowels with stress 0 or 1. 56 in all. Source: flite 2.2's lexicon and rules."""


def is_vowel(phone: str) -> bool:
    """True for vowels, with or without their stress digit."""
    return phone[0] in "aeiou"
