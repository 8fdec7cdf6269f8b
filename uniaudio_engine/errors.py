"""What the engine raises for anything that a caller can put right; each message says expected, got
and remedy.
"""

from __future__ import annotations


class InputError(ValueError):
    """An input, option, file or model folder that cannot be used.

    One line; nothing has been changed or written.
    """


def shown(value: object, limit: int = 60) -> str:
    """A value for an error message: on one line, and short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first_few(items: list[str], limit: int = 3) -> str:
    """``a, b, c and 5 more``."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
