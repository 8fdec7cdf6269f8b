"""Random changes of valid examples: of bytes, of JSON values, and of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

_NUMBERS = (
    *(0, 1, 2, 3, 7, 16, 127, 128, 255, 256, 1000, 32767, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31)),
)
_TOKENS = (
    *(b"NaN", b"Infinity", b"null", b"-1", b"1e400", b"[]", b"{}", b'""', b"true", b"0"),
    *(b"9" * 20, b"9" * 350, b"\\ud800", b'"', b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n"),
)
_VALUES = (
    *(0, 1, -1, 2, 3, 16, 17, 64, 1000, 1 << 20, 1 << 31, 1 << 40, 10**30, 10**330, 0.5),
    *(1e-320, 1e308, float("nan"), float("inf"), -0.0, True, False, None, "", "a", "tts", "\ud800"),
    *("x" * 300, "\x1b[31m", "a\nb", [], {}, [1], [[]], {"a": 1}, "audio", "spectral", "seanet"),
    *("rope", "learned", "gelu", "sum", "concat", "add", "zero", "reflect", "group"),
)
_MOST = 1 << 18  # bytes of a changed example


def changed(draw: Random, data: bytes, times: int | None = None) -> bytes:
    """``data`` after a few changes of single bits, bytes, numbers and runs."""
    out = bytearray(data or b"x")
    for _ in range(times or draw.choice((1, 1, 1, 2, 3, 6, 15))):
        out = out or bytearray(b"x")
        draw.choice(_CHANGES)(draw, out, draw.randrange(len(out)))
    return bytes(out[:_MOST])


def _flip(draw: Random, out: bytearray, at: int) -> None:
    out[at] ^= 1 << draw.randrange(8)


def _set(draw: Random, out: bytearray, at: int) -> None:
    out[at] = draw.randrange(256)


def _cut(draw: Random, out: bytearray, at: int) -> None:
    del out[at : at + draw.choice((1, 2, 4, 8, 50, 500))]


def _end(draw: Random, out: bytearray, at: int) -> None:
    if draw.random() < 0.3:
        del out[at:]


def _insert(draw: Random, out: bytearray, at: int) -> None:
    out[at:at] = draw.randbytes(draw.choice((1, 2, 4, 8, 40)))


def _repeat(draw: Random, out: bytearray, at: int) -> None:
    out[at:at] = out[at : at + draw.choice((1, 2, 4, 8, 30, 200))] * draw.choice((1, 1, 2, 5, 60))


def _number(draw: Random, out: bytearray, at: int) -> None:
    size = draw.choice((1, 2, 4, 8))
    value = draw.choice(_NUMBERS) % (1 << 8 * size)
    out[at : at + size] = value.to_bytes(size, draw.choice(("little", "big")))


def _move(draw: Random, out: bytearray, at: int) -> None:
    size, source = draw.choice((1, 4, 16)), draw.randrange(len(out))
    out[at : at + size] = out[source : source + size]


def _token(draw: Random, out: bytearray, at: int) -> None:
    token = draw.choice(_TOKENS)
    out[at : at + draw.choice((0, 1, len(token)))] = token


_CHANGES: tuple[Callable[[Random, bytearray, int], None], ...] = (
    *(_flip, _set, _cut, _end, _insert, _repeat, _number, _move, _token),
)


def changed_json(draw: Random, value: Any, times: int | None = None) -> Any:
    """A JSON value with a few parts replaced, removed or repeated; ``value`` stays as it is."""
    for _ in range(times or draw.choice((1, 1, 2, 4))):
        value = _changed_part(draw, value)
    return value


def _changed_part(draw: Random, value: Any) -> Any:
    inside = draw.random() < 0.85
    if isinstance(value, dict) and value and inside:
        value, key, what = dict(value), draw.choice(list(value)), draw.random()
        if what < 0.08:
            del value[key]
        elif what < 0.12:
            value[f"{key}x"] = value[key]
        else:
            value[key] = _changed_part(draw, value[key])
        return value
    if isinstance(value, list) and value and inside:
        value, at, what = list(value), draw.randrange(len(value)), draw.random()
        if what < 0.1:
            del value[at]
        elif what < 0.2:
            value.insert(at, value[at])
        else:
            value[at] = _changed_part(draw, value[at])
        return value
    return draw.choice(_VALUES)


_PIECES = (
    *("hello", "Dr.", "3.14", "$5", "1/2", "12:30", "2026-11-27", "IV", "U.S.A.", "e.g.", "100%"),
    *("1st", "-7", "007", "—", "“quote”", "http://a.b/c", "a@b.c", "#1", "&", "C++", "3,000,000"),
    *("1e10", "½", "²", "é", "日本", "🎵", "\u202e", "\0", "\ud800", "\x1b", "\n", "\n\n", "\t"),
    *(
        "(",
        ")",
        "[",
        "]",
        ";",
        "?!",
        "...",
        "1990s",
        "5kg",
        "+1 555",
        "x" * 60,
        "McDonald",
        "don't",
    ),
    *(
        "rock'n'roll",
        "0x1F",
        "№",
        "€3",
        "£",
        "°C",
        "≤",
        "٣",
        "ß",
        "ﬁ",
        "\u0301",
        "\ufeff",
        "\u2028",
    ),
    *("9" * 30, ".", "!", "?", ",", " ", " ", " ", "XIV", "Mr.", "read", "lead", "10am", "1,2,3"),
)


def text(draw: Random, pieces: Sequence[str] = _PIECES) -> str:
    """Words, numbers and marks that a reader of text treats specially, or any characters."""
    kind = draw.random()
    if kind < 0.7:
        count = draw.randrange(1, 25)
        return draw.choice(("", " ")).join(draw.choice(pieces) for _ in range(count))
    count = draw.randrange(1, 60)
    if kind < 0.85:
        return "".join(draw.choice("0123456789.,:/-$%#()stndrhI VXe+*") for _ in range(count))
    ranges = (128, 0x3000, 0x110000)
    return "".join(chr(draw.randrange(draw.choice(ranges))) for _ in range(count))
