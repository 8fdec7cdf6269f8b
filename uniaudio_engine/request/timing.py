"""When each word and phone is spoken: from planned durations to seconds, and to a file.

The durations are what the audio was generated from, so the times are exact to a frame.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..storage.files import atomic_write
from ..text import PAUSE, Sentence, Word
from ..text.positions import SILENCE

FORMATS = (".srt", ".json")
_LINE = 42  # characters of a subtitle's line, at most
_LINES = 2

Label = tuple[Word, str, int]
"""A phone in the making: its word, its label, and the number of its sentence."""


def phone_labels(sentence: Sentence, number: int) -> list[Label]:
    """The phones of a sentence, each with its word. Phones given without words are words of their
    own, from one pause to the next.
    """
    words: Sequence[Word] = sentence.words
    if not words:
        runs = itertools.groupby(sentence.phones, lambda p: p in (PAUSE, SILENCE))
        groups = [(pause, tuple(phones)) for pause, phones in runs]
        words = [Word("" if pause else " ".join(phones), phones) for pause, phones in groups]
    return [(word, phone, number) for word in words for phone in word.phones]


def word_times(
    labels: Sequence[Label], durations: ArrayLike, frame_rate: float, begin: float = 0.0
) -> list[dict[str, Any]]:
    """Words with times in seconds, as JSON values; a pause is a word without letters.

    ``durations`` [P] in frames of the phones ``labels``; ``begin``: seconds before the first.
    """
    clock = WordClock(frame_rate, begin)
    clock.add(labels, durations)
    return clock.words


class WordClock:
    """:func:`word_times` as the durations become known.

    ``words``: all of them. ``begin``: seconds before the first phone.
    """

    def __init__(self, frame_rate: float, begin: float = 0.0) -> None:
        self.words: list[dict[str, Any]] = []
        self._rate = frame_rate
        self._begin = begin
        self._frames = 0
        self._word: Word | None = None  # that of the last phone
        self._taken = 0

    def add(self, labels: Sequence[Label], durations: ArrayLike) -> None:
        """More phones, and their durations [P] in frames."""
        for (word, phone, number), length in zip(
            labels, np.asarray(durations).tolist(), strict=True
        ):
            start = self._seconds()
            self._frames += length
            end = self._seconds()
            if word is not self._word:
                self._word = word
                self.words.append(
                    {
                        "word": word.text,
                        "start": start,
                        "end": end,
                        "characters": [word.begin, word.end],
                        "sentence": number,
                        "phones": [],
                    }
                )
            self.words[-1]["end"] = end
            self.words[-1]["phones"].append({"phone": phone, "start": start, "end": end})

    def _seconds(self) -> float:
        return round(self._begin + self._frames / self._rate, 6)

    def take(self, until: float) -> list[dict[str, Any]]:
        """The next words that begin before ``until`` seconds; without one whose end is not known
        yet, because the model's memory ends in the middle of it.
        """
        begin, words = self._taken, self.words
        while self._taken < len(words) and words[self._taken]["start"] < until:
            is_last = self._taken == len(words) - 1
            if is_last and self._word and len(words[-1]["phones"]) < len(self._word.phones):
                break
            self._taken += 1
        return words[begin : self._taken]


def check_times_file(path: str | os.PathLike[str]) -> None:
    """Raise :class:`InputError` unless the name says which format it is."""
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a name that ends in .srt or .json for the times")


def write_times(path: str | os.PathLike[str], words: Sequence[Mapping[str, Any]]) -> None:
    """Write words as :func:`word_times` gives them: all of it as .json, subtitles as .srt."""
    check_times_file(path)
    is_json = Path(path).suffix.lower() == ".json"
    text = json.dumps(list(words), indent=1) + "\n" if is_json else subtitles(words)
    with atomic_write(path) as f:
        f.write(text.encode())


def subtitles(words: Sequence[Mapping[str, Any]]) -> str:
    """SubRip text: a sentence, or as much of one as two lines hold, at a time."""
    entries: list[list[Mapping[str, Any]]] = []
    for word in words:
        if not word["word"]:
            continue
        last = entries[-1] if entries else None
        if (
            last is None
            or last[0]["sentence"] != word["sentence"]
            or sum(len(w["word"]) + 1 for w in last) + len(word["word"]) > _LINES * _LINE
        ):
            entries.append([word])
        else:
            last.append(word)
    parts = []
    for number, entry in enumerate(entries, 1):
        times = f"{_clock(entry[0]['start'])} --> {_clock(entry[-1]['end'])}"
        parts.append(f"{number}\n{times}\n{_folded([w['word'] for w in entry])}\n")
    return "\n".join(parts)


def _folded(words: Sequence[str]) -> str:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _LINE:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    """Hours, minutes, seconds and milliseconds as SubRip has them."""
    whole = round(seconds * 1000)
    minutes, rest = divmod(whole, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"
