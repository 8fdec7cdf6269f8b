"""The language model for those who work on tokens: teacher-forced logits and plain continuation."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..request.options import MAX_SEED, Option, sampling_options
from ..request.sequence import Ids, Layout
from ..storage.config import LMConfig
from .core import core

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
    """``engine.lm``.

    Ids are the model's own (``engine.layout`` makes and reads them); T frames of K slots, V ids.
    """

    def __init__(self, lm: Any, config: LMConfig, layout: Layout | None) -> None:
        self.core = lm  # the compiled model
        self.config = config
        self._layout = layout

    def logits(
        self,
        frames: Any,
        aligned: Any | None = None,
        continuous: Mapping[str, tuple[NDArray[np.float32], Ids]] | None = None,
    ) -> NDArray[np.float32]:
        """Teacher-forced: frames [T, K] -> [T, K, V], the logits of each slot given all slots
        before it.

        ``aligned`` [T, S] (-1: nothing); ``continuous``: name -> (values [n, width], the n frames
        that they replace).
        """
        f = self._frames(frames, "frames")
        return self.core.logits(
            f, self._aligned(aligned, len(f)), dict(continuous) if continuous else None
        )

    def generate(
        self,
        prefix: Any,
        max_frames: int,
        sampling: Sampling | None = None,
        seed: int | None = None,
        aligned: Any | None = None,
        allowed: Ranges | None = None,
        end_id: int = -1,
    ) -> Ids:
        """Continue prefix [T, K] by up to ``max_frames`` frames; returns ids [m, K].

        ``aligned`` [T + max_frames, S] covers prefix and continuation. ``allowed``: for each slot
        the (start, size) ranges of ids that may come; by default the audio codes of that slot where
        the vocabulary has them, else all. With ``end_id`` it stops before a frame that begins with
        that id.
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
        rows = self._aligned(aligned, len(f) + max_frames)
        session = self.session(len(f) + max_frames)
        session.prefill(f, None if rows is None else rows[: len(f)])
        if allowed is None:
            allowed = self._audio_ranges()
        drawn = self.sampling(
            seed=seed, allowed=[list(r) for r in allowed], end_id=end_id, **values
        )
        return session.generate(max_frames, drawn, None if rows is None else rows[len(f) :])

    def session(self, max_frames: int | None = None) -> Any:
        """A new session of the compiled core: prefill, generate, fork, save, restore, cancel,
        reset.
        """
        return self.core.session(max_frames or self.config.max_frames)

    def generate_batch(
        self, sessions: Sequence[Any], n: int, samplings: Sequence[Any], aligned_rows: Sequence[Any]
    ) -> list[Ids]:
        """Up to ``n`` frames of each session, stepped together; each one's are the same as alone."""
        step = (
            getattr(self.core, "generate_batch", None) or core().generate_batch
        )  # other backends bring their own
        return list(step(list(sessions), n, list(samplings), list(aligned_rows)))

    @staticmethod
    def sampling(temperature: float = 1.0, **values: Any) -> Any:
        """The core's own sampling object, for use with :meth:`session`; temperature 0 is greedy."""
        return core().Sampling(temperature=temperature or 1.0, greedy=temperature == 0, **values)

    def _audio_ranges(self) -> Ranges:
        if self._layout is not None and any(
            s.name == "audio" for s in self._layout.vocabulary.spans
        ):
            return self._layout.audio_ranges()
        return [[(0, self.config.vocab_size)]] * self.config.num_codebooks

    def _frames(self, frames: Any, what: str) -> Ids:
        f = np.asarray(frames)
        k, v = self.config.num_codebooks, self.config.vocab_size
        if f.ndim != 2 or f.shape[1] != k or not len(f) or f.dtype.kind not in "iu":
            raise InputError(
                f"{what}: expected whole numbers [T, {k}], T at least 1, got {f.dtype} "
                f"{list(f.shape)}"
            )
        if f.min() < 0 or f.max() >= v:
            raise InputError(f"{what}: expected ids from 0 to {v - 1}, got {f.min()} to {f.max()}")
        if len(f) > self.config.max_frames:
            raise InputError(
                f"{what}: expected at most {self.config.max_frames} frames, got {len(f)}"
            )
        return np.ascontiguousarray(f, np.int32)

    def _aligned(self, aligned: Any | None, frames: int) -> Ids | None:
        if aligned is None:
            return None
        g = np.asarray(aligned)
        s, v = self.config.aligned_slots, self.config.aligned_vocab
        if (
            g.shape != (frames, s)
            or g.dtype.kind not in "iu"
            or (g.size and (g.min() < -1 or g.max() >= v))
        ):
            raise InputError(
                f"aligned: expected ids from -1 to {v - 1} of shape [{frames}, {s}], got "
                f"{list(g.shape)}"
            )
        return np.ascontiguousarray(g, np.int32)
