"""The errors that a caller can act on: inputs to correct, and work to ask for again later."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """An input, option, file or model folder that cannot be used.

    The message is one line that a terminal can show: whatever else a foreign name or text brings
    into it is escaped. Nothing has been changed or written.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Busy(RuntimeError):
    """There is no room for another session now.

    Nothing has begun. ``retry_after``: seconds after which one is likely to have ended.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def printable(text: str) -> str:
    """``text`` with escapes in place of line breaks, control characters and the like."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object, limit: int = 60) -> str:
    """A value for an error message, short and on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that has been there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def first_few(items: list[str], limit: int = 3) -> str:
    """``a, b, c and 5 more``."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
