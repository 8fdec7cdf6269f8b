"""Language models whose frames begin with a slot of text: one text id, then a code per codebook.

Their rows of text have no codes, and their sequences have no start. In this engine a row is K ids
of one vocabulary and every sequence begins with a start frame, so that these models' ids become

    0 pad     a row of zeros: a slot without a code
    1 start   1/K of the first text row, so that a frame of K of them is that row
    2 ...     text, then the codes, codebook by codebook

and the first row of a prompt is left out, since it is the start frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..storage.config import ConfigError, LMConfig, Span, VocabularyConfig

PAD, START, TEXT = 0, 1, 2
Frames = NDArray[np.int32]


@dataclass(frozen=True)
class TextSlot:
    """``text_size`` text ids and ``codebooks`` codebooks of ``codebook_size`` codes."""

    text_size: int
    codebooks: int
    codebook_size: int

    @property
    def slots(self) -> int:
        return 1 + self.codebooks

    @property
    def audio_start(self) -> int:
        return TEXT + self.text_size

    @property
    def size(self) -> int:
        return self.audio_start + self.codebooks * self.codebook_size

    def vocabulary(self) -> VocabularyConfig:
        audio = Span("audio", self.audio_start, self.codebooks * self.codebook_size)
        return VocabularyConfig(("pad", "start"), (Span("text", TEXT, self.text_size), audio))

    def table(
        self, text: NDArray[np.float32], codes: list[NDArray[np.float32]], first: int
    ) -> NDArray[np.float32]:
        """The embeddings [size, D] of this vocabulary; ``first``: the text id that every prompt
        begins with.
        """
        if not 0 <= first < len(text):
            raise InputError(f"first text id: expected 0 to {len(text) - 1}, got {first}")
        special = np.stack((np.zeros_like(text[0]), text[first] / np.float32(self.slots)))
        return np.concatenate((special, text, *codes))

    def text_frames(self, ids: ArrayLike) -> Frames:
        """Rows of text [T, K] without codes."""
        frames = np.full((np.size(ids), self.slots), PAD, np.int32)
        frames[:, 0] = self._checked(ids, self.text_size, "text ids") + TEXT
        return frames

    def audio_frames(self, codes: ArrayLike, text_id: int) -> Frames:
        """Rows [T, K] of codes [T, codebooks] after the same text id."""
        found = self._checked(codes, self.codebook_size, "codes")
        if found.ndim != 2 or found.shape[1] != self.codebooks:
            raise InputError(f"codes: expected [T, {self.codebooks}], got {list(found.shape)}")
        offsets = self.audio_start + np.arange(self.codebooks) * self.codebook_size
        frames = np.empty((len(found), self.slots), np.int32)
        frames[:, :1], frames[:, 1:] = TEXT + text_id, found + offsets
        return frames

    def codes(self, frames: ArrayLike) -> NDArray[np.int32]:
        """The codes [T, codebooks] of generated frames [T, K]."""
        offsets = self.audio_start + np.arange(self.codebooks) * self.codebook_size
        return (np.asarray(frames)[:, 1:] - offsets).astype(np.int32)

    def allowed(self, text: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """Ranges (start, size) for each slot: ``text``, of text ids, and each codebook's codes."""
        codebooks = range(self.audio_start, self.size, self.codebook_size)
        first = [(TEXT + start, size) for start, size in text]
        return [first, *([(start, self.codebook_size)] for start in codebooks)]

    @staticmethod
    def _checked(ids: ArrayLike, size: int, what: str) -> NDArray[np.int64]:
        found = np.asarray(ids, np.int64)
        if found.size and not 0 <= found.min() <= found.max() < size:
            wrong = found.min() if found.min() < 0 else found.max()
            raise InputError(f"{what}: expected 0 to {size - 1}, got {wrong}")
        return found


def checked(config: LMConfig, where: str) -> LMConfig:
    """The configuration. Raises :class:`InputError` for one that the engine does not take."""
    try:
        config.check()
    except ConfigError as e:
        raise InputError(f"{where}: {e}") from None
    return config


def halves_first(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows [heads * dim, ...] of queries or keys whose pairs of rope are neighbours -> the same with
    pairs (i, i + dim / 2), as the engine turns them.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(np.moveaxis(pairs, 2, 1).reshape(rows.shape))
