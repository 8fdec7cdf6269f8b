"""Pronunciation of single words: the packed lexicon, the letter trees for all others, and parts of
speech.

Responsible for the data file and for what depends on a word and its neighbours' spelling. What
depends on neighbouring phones ("the apple", "Jess's") is `frontend`'s business.

`data/english.npz` holds (see `training/uniaudio_training/text/build_lexicon.py`): the lexicon, as
sorted lines `word TAB phones [TAB pos phones]...`, one byte a phone; the letter trees; the
part-of-speech tree; and the consonant clusters that may start or end a pronounceable spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files

import numpy as np

from .letters import LetterTrees
from .phones import PHONES

# A lexicon byte is PHONE_BASE plus the phone's place in PHONES: printable, never TAB or newline.
PHONE_BASE = 33
_VOWEL_LETTERS = frozenset("aeiouy")

# Function words in classes, as the part-of-speech tree asks for them; any other word is "content".
_CLASSES = {
    "in": "in of for on that with by at from as if against about before because under after over into while "
    "without through new between among until per up down",
    "to": "to",
    "det": "the a an no some this each another those every all any these both neither many",
    "md": "will may would can could should must ought might",
    "cc": "and but or plus yet nor",
    "wp": "who what where how when",
    "pps": "her his their its our mine",
    "aux": "is am are was were has have had be",
}
_CLASS_OF = {word: name for name, words in reversed(_CLASSES.items()) for word in words.split()}
_OFFSETS = {"": 0, "p.": -1, "n.": 1, "p.p.": -2, "n.n.": 2}


class PosTree:
    """Part of speech (`n v j r`, or `0` for function words) of a word among its neighbours."""

    def __init__(self, text: str) -> None:
        # A line is "feature value no-branch" (yes is the next line) or, at a leaf, "- value".
        self._nodes: list[tuple[int, bool, str, int]] = []
        for line in text.splitlines():
            feature, value, *branch = line.split(" ")
            prefix, _, kind = feature.rpartition(".")
            offset = _OFFSETS[prefix + "." if prefix else ""]
            self._nodes.append((offset, kind == "gpos", value, int(branch[0]) if branch else 0))

    def tag(self, words: Sequence[str], i: int) -> str:
        """The part of speech of `words[i]`."""
        node = 0
        while True:
            offset, by_class, value, no = self._nodes[node]
            if not no:
                return value
            at = i + offset
            seen = words[at] if 0 <= at < len(words) else "0"
            if by_class and seen != "0":
                seen = _CLASS_OF.get(seen, "content")
            node = node + 1 if seen == value else no


class Lexicon:
    """Immutable, so shared between threads."""

    def __init__(
        self,
        lines: bytes,
        letters: LetterTrees,
        pos: PosTree,
        onsets: frozenset[str],
        codas: frozenset[str],
    ) -> None:
        self._lines, self._letters, self._pos = lines, letters, pos
        self._onsets, self._codas = onsets, codas

    def _find(self, word: str) -> list[bytes] | None:
        """The tab-separated fields after `word`, by bisection over the sorted lines."""
        if not word.isascii():
            return None
        key, lines = word.encode("ascii") + b"\t", self._lines
        low, high = 0, len(lines)
        while low < high:
            start = lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = lines.find(b"\n", start)
            if lines.startswith(key, start):
                return lines[start + len(key) : end].split(b"\t")
            if lines[start:end] < key:
                low = end + 1
            else:
                high = start
        return None

    def __contains__(self, word: str) -> bool:
        return self._find(word) is not None

    def pronounceable(self, word: str) -> bool:
        """Whether a lower-case spelling starts and ends as words do; if not, it is spoken letter by
        letter."""
        # m and n count as one letter: the clusters are stored with n.
        letters = word.replace("m", "n")
        vowels = [i for i, letter in enumerate(letters) if letter in _VOWEL_LETTERS]
        if not vowels:
            return False
        return letters[: vowels[0]] in self._onsets and letters[vowels[-1] + 1 :] in self._codas

    def pronounce(self, words: Sequence[str], i: int) -> list[str]:
        """Phones of `words[i]`; the neighbours decide between noun and verb where the lexicon knows
        both.
        """
        fields = self._find(words[i])
        if fields is None:
            return self._letters.pronounce(words[i])
        return _of_part(fields, self._pos.tag(words, i) if len(fields) > 1 else "n")

    def as_part(self, word: str, pos: str) -> list[str]:
        """Phones of a word as the part of speech `pos` (`n v j r`)."""
        fields = self._find(word)
        return self._letters.pronounce(word) if fields is None else _of_part(fields, pos)


def _of_part(fields: list[bytes], pos: str) -> list[str]:
    code = next((field[1:] for field in fields[1:] if field[:1] == pos.encode()), fields[0])
    return [PHONES[byte - PHONE_BASE] for byte in code]


@cache
def lexicon() -> Lexicon:
    """The English lexicon: read on first use (about 50 ms), then kept. Raises FileNotFoundError if
    not installed.
    """
    with (
        as_file(files("uniaudio_engine.text") / "data" / "english.npz") as path,
        np.load(path) as arrays,
    ):
        text = {name: arrays[name].tobytes() for name in ("lexicon", "pos", "onsets", "codas")}
        letters = LetterTrees.from_arrays(arrays)
    return Lexicon(
        text["lexicon"],
        letters,
        PosTree(text["pos"].decode("ascii")),
        frozenset(text["onsets"].decode("ascii").split("\n")),
        frozenset(text["codas"].decode("ascii").split("\n")),
    )
