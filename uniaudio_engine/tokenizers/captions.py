"""Captions and instructions -> pieces: sentencepiece with byte fallback, so that any text has some.

The model (``text.model`` in the model folder) was trained on the corpus' captions
(``uniaudio_training.lm.captions``).
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown

MAX_PIECES = 96  # of a caption


class CaptionTokenizer:
    """Pieces of a caption; ``size`` of them exist.

    Raises :class:`InputError` for a model that is none.
    """

    def __init__(self, model: bytes, where: str = "text.model") -> None:
        import sentencepiece

        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError, TypeError):
            raise InputError(
                f"{where}: expected a sentencepiece model, got {len(model)} bytes of something else"
            ) from None
        self.size = int(self._model.get_piece_size())

    def encode(self, text: Any, name: str = "text") -> NDArray[np.int32]:
        """Ids [n], 1 <= n <= :data:`MAX_PIECES`; letter case and repeated spaces do not matter."""
        if not isinstance(text, str):
            raise InputError(f"{name}: expected a string, got {type(text).__name__}")
        plain = plain_caption(text)
        if not plain:
            raise InputError(f"{name}: expected words that describe the sound, got {shown(text)}")
        ids = self._model.encode(plain)
        if len(ids) > MAX_PIECES:
            raise InputError(
                f"{name}: expected at most {MAX_PIECES} pieces of text, got {len(ids)}; say it in "
                "fewer words"
            )
        return np.array(ids, np.int32)

    def decode(self, ids: Any) -> str:
        """The text of pieces, as :func:`plain_caption` left it."""
        return str(self._model.decode([int(i) for i in ids]))


def plain_caption(text: str) -> str:
    """Lower case, one space between words, no full stop at the end: what the pieces are made from."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).rstrip(" .")
