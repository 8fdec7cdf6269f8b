"""``engine.lm``: the language model for work on tokens, teacher-forced logits and continuation."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..request.options import MAX_SEED, Option, sampling_options
from ..request.sequence import Layout
from ..storage.config import LMConfig
from .core import core
from .protocols import Continuous, Ids, LanguageModel, Session
from .session_rules import aligned_matrix, frame_matrix

if TYPE_CHECKING:
    from .. import _C

Ranges = Sequence[Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the defaults draw from the model's own distribution.

    ``temperature`` 0 is greedy.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_window: int = 0
    repetition_penalty: float = 1.0

    def checked(self) -> dict[str, Any]:
        """The values, or :class:`InputError` for the first that is out of range."""
        return {
            o.name: o.check(getattr(self, o.name))
            for o in sampling_options(1.0, 0, 1.0)
            if o.name != "seed"
        }


class TokenLM:
    """A :class:`~.protocols.LanguageModel` with checked arguments and the engine's defaults.

    Ids are the model's own (``engine.layout`` makes and reads them). Shapes: T frames of K slots,
    V ids, S aligned slots.
    """

    def __init__(self, lm: LanguageModel, config: LMConfig, layout: Layout | None) -> None:
        self.core = lm
        self.config = config
        self._layout = layout

    def logits(
        self,
        frames: ArrayLike,
        aligned: ArrayLike | None = None,
        continuous: Continuous | None = None,
    ) -> NDArray[np.float32]:
        """Teacher-forced logits [T, K, V] of frames [T, K]: each slot given all slots before it.

        ``aligned`` [T, S] (-1: nothing); ``continuous``: name -> (values [n, width], the n frames
        that they replace). Raises :class:`InputError` for other shapes and ids.
        """
        f = self._frames(frames, "frames")
        return self.core.logits(
            f,
            aligned_matrix(aligned, self.config, len(f)),
            dict(continuous) if continuous else None,
        )

    def generate(
        self,
        prefix: ArrayLike,
        max_frames: int,
        sampling: Sampling | None = None,
        seed: int | None = None,
        aligned: ArrayLike | None = None,
        allowed: Ranges | None = None,
        end_id: int = -1,
    ) -> Ids:
        """Continue prefix [T, K] by up to ``max_frames`` frames; returns ids [m, K].

        ``aligned`` [T + max_frames, S] covers prefix and continuation. ``allowed``: for each slot
        the (start, size) ranges of ids that may come; by default the audio codes of that slot where
        the vocabulary has them, else all. With ``end_id`` it stops before a frame that begins with
        that id. Raises :class:`InputError` for anything out of range.
        """
        values = (sampling or Sampling()).checked()
        seed = (
            secrets.randbits(32)
            if seed is None
            else int(Option("seed", "int", 0, 0, MAX_SEED, "").check(seed) or 0)
        )
        f = self._frames(prefix, "prefix")
        max_frames = int(
            Option("max_frames", "int", 0, 1, self.config.max_frames, "").check(max_frames) or 0
        )
        if len(f) + max_frames > self.config.max_frames:
            most = self.config.max_frames
            raise InputError(
                f"prefix and max_frames: expected at most {most} frames, got {len(f)} + "
                f"{max_frames}"
            )
        rows = aligned_matrix(aligned, self.config, len(f) + max_frames)
        session = self.session(len(f) + max_frames)
        session.prefill(f, None if rows is None else rows[: len(f)])
        if allowed is None:
            allowed = self._audio_ranges()
        drawn = self.sampling(
            seed=seed, allowed=[list(r) for r in allowed], end_id=end_id, **values
        )
        return session.generate(max_frames, drawn, None if rows is None else rows[len(f) :])

    def session(self, max_frames: int | None = None) -> Session:
        """A new session; by default as long as the model allows."""
        return self.core.session(max_frames or self.config.max_frames)

    def generate_batch(
        self,
        sessions: Sequence[Session],
        n: int,
        samplings: Sequence[_C.Sampling],
        aligned_rows: Sequence[ArrayLike | None],
    ) -> list[Ids]:
        """Up to ``n`` frames of each session, stepped together; each one's are the same as alone."""
        return list(
            self.core.generate_batch(list(sessions), n, list(samplings), list(aligned_rows))
        )

    @staticmethod
    def sampling(temperature: float = 1.0, **values: Any) -> _C.Sampling:
        """The core's own sampling object, for use with :meth:`session`; temperature 0 is greedy."""
        return core().Sampling(temperature=temperature or 1.0, greedy=temperature == 0, **values)

    def _audio_ranges(self) -> Ranges:
        if self._layout is not None and any(
            s.name == "audio" for s in self._layout.vocabulary.spans
        ):
            return self._layout.audio_ranges()
        return [[(0, self.config.vocab_size)]] * self.config.num_codebooks

    def _frames(self, frames: ArrayLike, what: str) -> Ids:
        f = frame_matrix(frames, self.config, what)
        if not 1 <= len(f) <= self.config.max_frames:
            raise InputError(f"{what}: expected 1 to {self.config.max_frames} frames, got {len(f)}")
        return f
