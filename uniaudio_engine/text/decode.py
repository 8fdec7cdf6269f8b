"""Bytes to text: UTF-8, or UTF-16 and UTF-32 where they say so or cannot be anything else."""

from __future__ import annotations

import codecs

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
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None:
        encoding = _without_mark(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as e:
        got = f"byte 0x{data[e.start]:02x} at {e.start}" if e.start < len(data) else "a part of it"
        raise InputError(
            f"{what}: expected text in UTF-8 or UTF-16, got {got} that is not {encoding}; convert "
            "it first, for example with iconv -f LATIN1 -t UTF-8"
        ) from None


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
