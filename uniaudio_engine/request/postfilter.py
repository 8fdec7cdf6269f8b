"""The filters of clean-up: the source itself, without what does not belong to it.

The language model's answer to a noisy source is clean, but it is speech that the model says, and may
lose words. The source has them. A small network gives each part of its spectrum a gain; the one that
keeps one voice also hears what that voice sounds like. The language model does not run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..backends.protocols import PostFilterStream
from ..model import Model
from .plan import Plan
from .sequence import Ids

Samples = NDArray[np.float32]


def filter_stream(model: Model, plan: Plan) -> PostFilterStream | None:
    """The filter of a plan that asks for one, else None: samples in and out at the level that the
    model hears.
    """
    if plan.answered:
        return None
    found = model.filter_of(plan.task)
    vector = None if plan.voice is None else found.voice(heard_voice(model, plan.voice))
    return found.stream(10 ** (-plan.options["attenuation_limit"] / 20), vector)


def heard_voice(model: Model, codes: Ids) -> Samples:
    """What a filter hears of a voice with these codes [T, K]: its sound by the codebooks that the
    language model has. A saved voice has no other.
    """
    used = codes[:, : model.layout.num_codebooks].T
    return np.asarray(model.codec.decode(np.ascontiguousarray(used, np.int32)), np.float32)
