"""English text front-end: text to sentences of phones with stress, needing only NumPy.

    >>> phonemize("Hello there, Dr. Jones.")[0].phones
    ['pau', 'hh', 'ax0', 'l', 'ow1', 'dh', 'eh1', 'r', 'pau', 'd', 'aa1', 'k', 't', 'er0', ...]

Nothing is loaded at import; the lexicon is read at the first call.
"""

from .decode import decode, decode_pieces
from .frontend import (
    MAX_PHONES,
    NothingToSpeak,
    Sentence,
    Word,
    iter_sentences,
    phonemize,
    sentence_words,
)
from .live import LiveSentences
from .normalize import normalize
from .phones import PAUSE, PHONES
from .pronunciations import read_pronunciations
from .sentences import split_sentences

__all__ = [
    "MAX_PHONES",
    "LiveSentences",
    "NothingToSpeak",
    "PAUSE",
    "PHONES",
    "Sentence",
    "Word",
    "decode",
    "decode_pieces",
    "iter_sentences",
    "normalize",
    "phonemize",
    "read_pronunciations",
    "sentence_words",
    "split_sentences",
]
