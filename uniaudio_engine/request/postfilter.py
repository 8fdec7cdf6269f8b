"""The filters of clean-up: the source, filtered by what the model made of it.

The language model's answer is clean, but it is speech that the model says, and may lose words. The
source has them. A small network hears both and gives each part of the source's spectrum a gain. The
one that keeps one voice also hears what that voice sounds like.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..backends.protocols import PostFilter
from ..model import Model
from .plan import Plan
from .sequence import Ids

Samples = NDArray[np.float32]


class SourceFilter:
    """One sound's filter: ``hear`` the source, ``push`` its answers, then ``flush``. All at the level
    that the model hears, and aligned: sample n of the answers is about sample n of the source.
    """

    def __init__(
        self, filter_: PostFilter, attenuation_limit: float, voice: Samples | None = None
    ) -> None:
        """``attenuation_limit``: of a part of the spectrum, in dB. ``voice`` [n]: what the voice to
        keep sounds like, for a filter that hears one.
        """
        vector = None if voice is None else filter_.voice(voice)
        self.delay = filter_.delay
        self._stream = filter_.stream(10 ** (-attenuation_limit / 20), vector)
        self._source = np.zeros(0, np.float32)  # samples without an answer yet

    def hear(self, source: Samples) -> None:
        """Samples [n] of the source that follow."""
        self._source = np.concatenate((self._source, source))

    def push(self, answer: Samples) -> Samples:
        """Answers [n] to what was heard -> filtered samples [m], as far as they are complete."""
        n = len(answer)
        source, self._source = self._source[:n], self._source[n:]
        return self._stream.push(source, answer)

    def flush(self) -> Samples:
        """The rest of the filtered samples; as many in all as answers. Then a new sound begins."""
        self._source = np.zeros(0, np.float32)
        return self._stream.flush()

    def reset(self) -> None:
        """Begin a new sound."""
        self._stream.reset()
        self._source = np.zeros(0, np.float32)


def source_filter(model: Model, plan: Plan) -> SourceFilter | None:
    """The filter of a plan that asks for one, else None."""
    if not plan.options.get("postfilter"):
        return None
    voice = None if plan.voice is None else heard_voice(model, plan.voice)
    return SourceFilter(model.filter_of(plan.task), plan.options["attenuation_limit"], voice)


def heard_voice(model: Model, codes: Ids) -> Samples:
    """What a filter hears of a voice with these codes [T, K]: its sound by the codebooks that the
    language model has. A saved voice has no other.
    """
    used = codes[:, : model.layout.num_codebooks].T
    return np.asarray(model.codec.decode(np.ascontiguousarray(used, np.int32)), np.float32)
