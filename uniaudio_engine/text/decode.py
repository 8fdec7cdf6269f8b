"""Bytes to text: UTF-8, or UTF-16 and UTF-32 where they say so or cannot be anything else."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable, Iterator

from ..errors import InputError

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode(data: bytes, what: str) -> str:
    """The text of ``data``; ``what`` names it in the message.

    Raises :class:`InputError` where it is in no encoding that can be told.
    """
    return "".join(decode_pieces([data], what))


def decode_pieces(pieces: Iterable[bytes], what: str) -> Iterator[str]:
    """The text of bytes that arrive in pieces, each as soon as its characters are whole.

    The encoding follows from the first of them. Raises :class:`InputError` as :func:`decode` does.
    """
    begin, head = 0, b""
    decoder: codecs.IncrementalDecoder | None = None
    for piece in itertools.chain(pieces, [None]):
        head += piece or b""
        if decoder is None:
            if piece is not None and any(m.startswith(head) and m != head for m, _ in _MARKS):
                continue  # too few to tell
            decoder = codecs.getincrementaldecoder(_encoding(head))()
        try:
            text = decoder.decode(head, piece is None)
        except UnicodeDecodeError as e:
            got = "a part of it"
            if e.start < len(e.object):
                place = begin + len(head) - len(e.object) + e.start
                got = f"byte 0x{e.object[e.start]:02x} at {place}"
            raise InputError(
                f"{what}: expected text in UTF-8 or UTF-16, got {got} that is not {e.encoding}; "
                "convert it first, for example with iconv -f LATIN1 -t UTF-8"
            ) from None
        begin, head = begin + len(head), b""
        if text:
            yield text


def _encoding(data: bytes) -> str:
    found = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    return found or _without_mark(data)


def _without_mark(data: bytes) -> str:
    """UTF-16 shows by a zero in every second byte of Latin text."""
    head = data[:4096]
    pairs = len(head) // 2
    if pairs and not len(data) % 2:
        for name, first in (("utf-16-be", 0), ("utf-16-le", 1)):
            zeros = head[first::2].count(0)
            if zeros > 0.6 * pairs and not head[1 - first :: 2].count(0):
                return name
    return "utf-8"
