"""The errors that a caller can act on: inputs to correct, and work to ask for again later."""

from __future__ import annotations


class InputError(ValueError):
    """An input, option, file or model folder that cannot be used.

    The message is one line. Nothing has been changed or written.
    """


class Busy(RuntimeError):
    """There is no room for another session now.

    Nothing has begun. ``retry_after``: seconds after which one is likely to have ended.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def shown(value: object, limit: int = 60) -> str:
    """A value for an error message, short and on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first_few(items: list[str], limit: int = 3) -> str:
    """``a, b, c and 5 more``."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
