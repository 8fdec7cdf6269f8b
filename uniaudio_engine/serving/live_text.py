"""A text that comes in pieces, as sentences that can be spoken."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

# A sentence's end is sure once something follows it.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+")


class LiveText:
    """``put`` pieces, ``flush`` to speak what there is, ``end`` after the last one."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._text, self.characters, self.ended = "", 0, False

    def put(self, piece: str) -> None:
        self.characters += len(piece)
        self._text += piece
        while (match := _END.search(self._text)) is not None:
            self._speak(self._text[: match.end()])
            self._text = self._text[match.end() :]

    def flush(self) -> None:
        self._speak(self._text)
        self._text = ""

    def end(self) -> None:
        if not self.ended:
            self.flush()
            self.ended = True
            self._queue.put_nowait(None)

    def _speak(self, sentence: str) -> None:
        if any(c.isalnum() for c in sentence):
            self._queue.put_nowait(sentence)

    async def sentences(self) -> AsyncIterator[str]:
        while (sentence := await self._queue.get()) is not None:
            yield sentence
