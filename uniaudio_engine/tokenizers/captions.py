"""Captions and instructions -> pieces: sentencepiece with byte fallback, so any text can be encoded.

The tokenizer's model (``text.model`` in the model folder) was trained on the corpus' captions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown

MAX_PIECES = 96  # per caption


class CaptionTokenizer:
    """The tokenizer of captions; ``size``: number of pieces that exist."""

    def __init__(self, model: bytes, where: str = "text.model") -> None:
        """Raises :class:`InputError` unless ``model`` is a sentencepiece model."""
        import sentencepiece

        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
            self._model.encode("a")  # some damage only shows at use
        except (RuntimeError, ValueError, TypeError):
            raise InputError(
                f"{where}: expected a sentencepiece model, got {len(model)} bytes of something else"
            ) from None
        self.size = int(self._model.get_piece_size())

    def encode(self, text: object, name: str = "text") -> NDArray[np.int32]:
        """Ids [n], 1 <= n <= :data:`MAX_PIECES`; letter case and repeated spaces do not matter.

        Raises :class:`InputError`, with ``name`` as the input's name, for no words or too many.
        """
        if not isinstance(text, str):
            raise InputError(f"{name}: expected a string, got {type(text).__name__}")
        plain = plain_caption(text)
        if not plain:
            raise InputError(f"{name}: expected words that describe the sound, got {shown(text)}")
        try:
            ids = self._model.encode(plain.encode())
        except UnicodeEncodeError:  # half a surrogate pair
            raise InputError(f"{name}: expected text, got {shown(text)}, which is cut") from None
        if len(ids) > MAX_PIECES:
            raise InputError(
                f"{name}: expected at most {MAX_PIECES} pieces of text, got {len(ids)}; use "
                "fewer words"
            )
        return np.array(ids, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of pieces; see :func:`plain_caption`."""
        return str(self._model.decode([int(i) for i in ids]))


def plain_caption(text: str) -> str:
    """A normalised caption: lower case, one space between words, no full stop at the end."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).rstrip(" .")
