"""What the listener of a stream has heard."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

from ..audio.sound import AudioChunk
from ..errors import InputError, shown
from .plan import Plan


@dataclass(frozen=True)
class Interrupted:
    """What was spoken of a stream that was interrupted.

    ``text``: the text as it was given, up to the end of the last word that counts. ``words``: those
    that count, as in ``meta["words"]`` without the pauses. ``seconds``: of sound until then.

    A word counts if all of it was given out in chunks; or, where the playback position is known, if
    it began before that.
    """

    text: str
    words: list[dict[str, Any]]
    seconds: float


class Heard:
    """What was given out of a stream: its words and its seconds. Any thread."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan
        self._lock = threading.RLock()
        self._words: list[dict[str, Any]] = []
        self._seconds = 0.0

    def add(self, chunk: AudioChunk) -> None:
        """A chunk is given out."""
        with self._lock:
            self._words += (word for word in chunk.words if word["word"])
            self._seconds = (chunk.start + chunk.samples.shape[-1]) / chunk.sample_rate

    def close(self) -> None:
        """Take no more from the source of the text."""
        if self.plan is not None:
            self.plan.close()

    def until(self, played: float | None) -> Interrupted:
        """What was heard after ``played`` seconds; None: all that was given out."""
        is_number = isinstance(played, (int, float)) and not isinstance(played, bool)
        if played is not None and not (is_number and 0 <= played < math.inf):
            raise InputError(f"played: expected seconds from 0 up, got {shown(played)}")
        with self._lock:
            seconds = self._seconds if played is None else min(played, self._seconds)
            words = [
                word
                for word in self._words
                if (word["end"] <= seconds if played is None else word["start"] < seconds)
            ]
        text = "" if self.plan is None else self.plan.text
        if text:
            text = text[: words[-1]["characters"][1]] if words else ""
        else:  # phones were given
            text = " ".join(word["word"] for word in words)
        return Interrupted(text, words, seconds)
