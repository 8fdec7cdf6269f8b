"""The error for anything a caller can correct: what was expected, what came, what to do."""

from __future__ import annotations


class InputError(ValueError):
    """An input, option, file or model folder that cannot be used.

    The message is one line. Nothing has been changed or written.
    """


def shown(value: object, limit: int = 60) -> str:
    """A value for an error message, short and on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first_few(items: list[str], limit: int = 3) -> str:
    """``a, b, c and 5 more``."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
