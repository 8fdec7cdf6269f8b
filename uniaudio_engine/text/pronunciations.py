"""A user's own pronunciations: ``WORD PHONE PHONE …`` on each line of a file, or a mapping."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError, shown
from ..storage.opening import read_regular
from .decode import decode
from .ipa import read_phones

_MAX_BYTES = 64 << 20
_COMMENTS = (";;;", "# ")


def read_pronunciations(
    source: str | os.PathLike[str] | Mapping[str, str | Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """Lower-case words -> phones of ``PHONES``, as :func:`iter_sentences` takes them for its
    ``lexicon``.

    A file has a word and its phones on each line, in our names, CMUdict's or IPA, as in
    ``kokoro k ax k ao1 r ow0``; lines that begin with ``;;;`` or ``# `` are comments; of several
    lines for a word the last counts. A mapping has them as a string or a sequence.

    Raises :class:`InputError`, with file and line, for a line that is not so.
    """
    if isinstance(source, Mapping):
        return {
            _word(word, "lexicon"): read_phones(_joined(phones, word), f"lexicon: {word}")
            for word, phones in source.items()
        }
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            f"lexicon: expected a file, or a mapping of words to phones, got {shown(source)}"
        )
    path = Path(source)
    try:
        data = read_regular(path, _MAX_BYTES, where=f"lexicon: {path}")
    except OSError as e:
        raise InputError(
            f"lexicon: expected a file of words and phones, got {path}: {e.strerror}"
        ) from None
    return parse_pronunciations(decode(data, str(path)), str(path))


def parse_pronunciations(text: str, name: str = "lexicon") -> dict[str, tuple[str, ...]]:
    """The text of such a file -> the same; ``name`` is what an error calls it."""
    words = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(_COMMENTS):
            continue
        where = f"{name} line {number}"
        word, _, phones = line.strip().replace("\t", " ").partition(" ")
        if not phones.strip():
            raise InputError(
                f"{where}: expected WORD PHONE PHONE …, as in kokoro k ax k ao1 r ow0, got "
                f"{shown(line.strip())}"
            )
        words[_word(word, where)] = read_phones(phones.strip(), where)
    return words


def _joined(phones: str | Sequence[str], word: str) -> str:
    if isinstance(phones, str):
        return phones
    if not isinstance(phones, Sequence) or not all(isinstance(p, str) for p in phones):
        raise InputError(f"lexicon: {word}: expected a string of phones, got {shown(phones)}")
    return " ".join(phones)


def _word(word: str, where: str) -> str:
    if not isinstance(word, str) or not word or len(word.split()) != 1:
        raise InputError(f"{where}: expected a single word, got {shown(word)}")
    return word.lower()
