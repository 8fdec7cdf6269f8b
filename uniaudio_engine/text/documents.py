"""A text as blocks, whatever its markup: plain, Markdown or SSML."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import InputError, shown
from .markup import Block, markdown_blocks, plain_blocks
from .ssml import ssml_blocks

MARKUPS = ("auto", "plain", "markdown", "ssml")


def blocks(text: str, markup: str = "auto") -> Iterator[Block]:
    """The blocks of a document, each as soon as its lines are read.

    ``markup``: "plain" takes every sign as it stands; "markdown" reads Markdown, HTML tags and
    entities, ``[pause 0.5]`` and ``[word](/phones/)``; "ssml" an SSML document; "auto" is "ssml"
    where the text begins with ``<speak``, else "markdown".

    Raises :class:`InputError` for a command that cannot be followed.
    """
    check_markup(markup)
    if markup == "ssml" or (markup == "auto" and is_ssml(text)):
        return ssml_blocks(text)
    return plain_blocks(text) if markup == "plain" else markdown_blocks(text)


def check_markup(markup: str) -> None:
    """Raise :class:`InputError` unless ``markup`` is one of `MARKUPS`."""
    if markup not in MARKUPS:
        raise InputError(f"markup: expected {', '.join(MARKUPS)}, got {shown(markup)}")


def is_ssml(text: str) -> bool:
    """Whether the text is an SSML document."""
    return bool(re.match(r"\ufeff?\s*(?:<\?xml[^>]*>\s*)?<speak[\s>/]", text))
