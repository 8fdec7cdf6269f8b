"""Deadline mode: the sizes of chunks that follow from a latency, for this model on this machine.

A sample waits for the chunk that holds it: for the frames of that chunk, for the samples after them
that the decoder looks at, and for the time that computing it takes. The longest of these waits is
the latency of a chunk size.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from dataclasses import dataclass

from ..errors import InputError, shown
from ..model import Model
from .sampling import audio_sampling
from .stream import ChunkSizes, chunk_frames

_FRAMES = 8  # of a measurement
_ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """Seconds that one frame takes to be generated and decoded, and seconds of sound that the
    decoder looks ahead.
    """

    frame: float
    lookahead: float


def chunk_sizes(model: Model, max_latency_ms: float) -> ChunkSizes:
    """The largest chunks of which no sample waits longer than this, small ones first.

    Raises :class:`InputError` where not even chunks of one frame are as fast.
    """
    if type(max_latency_ms) not in (int, float) or not math.isfinite(max_latency_ms):
        raise InputError(
            f"max_latency_ms: expected a number of milliseconds, got {shown(max_latency_ms)}"
        )
    found = speed(model)
    each = 1 / model.frame_rate + found.frame
    frames = int((max_latency_ms / 1000 - found.lookahead) / each)
    if frames < 1:
        least = math.ceil(1000 * (each + found.lookahead))
        raise InputError(
            f"max_latency_ms: expected at least {least} ms on this machine (a frame of "
            f"{1000 / model.frame_rate:.3g} ms, {1000 * found.lookahead:.3g} ms that the codec looks "
            f"ahead and {1000 * found.frame:.3g} ms to compute), got {shown(max_latency_ms)}; ask "
            "for more"
        )
    sizes = chunk_frames(model.frame_rate)
    most = min(frames, max(sizes))
    return ChunkSizes([n for n in sizes if n < most] + [most], model.frame_rate)


def speed(model: Model) -> Speed:
    """What a model's frames take; measured once, at its first use."""
    with _lock:
        found = _speeds.get(model)
        if found is None:
            found = _speeds[model] = _measured(model)
        return found


def _measured(model: Model) -> Speed:
    layout, options = model.layout, {"temperature": 1.0}
    sampling = audio_sampling(layout, options, 0)
    aligned = layout.no_aligned(_FRAMES) if layout.aligned_slots else None
    taken = []
    for _ in range(_ROUNDS):
        session = model.lm.session(_FRAMES)
        decoder = model.codec.decoder_stream()
        begin = time.perf_counter()
        frames = session.generate(_FRAMES, sampling, aligned)
        decoder.push(layout.frames_to_codes(frames).T.copy())
        taken.append((time.perf_counter() - begin) / _FRAMES)
    # The median: the first round warms up, and one may be held up by another program.
    return Speed(sorted(taken)[_ROUNDS // 2], model.codec.decoder_lookahead / model.sample_rate)


_speeds: weakref.WeakKeyDictionary[Model, Speed] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
