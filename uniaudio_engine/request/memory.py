"""What sessions cost in memory, before any of them runs.

A session keeps the keys and values of its frames, its history and the state of its decoder. The
compiled core's sessions on the CPU grow with their frames; other backends allocate all that fits at
once. Working memory is lent for one call and not counted: there is as much of it as there are calls
at the same time, one for a scheduler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, shown
from ..model import CACHED_PREFIXES, Model
from ..storage.config import CodecConfig, PostFilterConfig
from ..storage.quantize import weight_format
from ..storage.weight_shapes import Shapes, codec_shapes, lm_shapes, matrix_part, quantized_shapes
from .plan import Plan

MAX_SESSIONS = 1_000_000
# Bytes of a session that do not depend on the model: its plan, the chunk in hand, the allocator's
# rounding (measured).
_OVERHEAD = 1 << 19
# Frames that the compiled codec decodes at once, however large the chunk.
DECODED_TOGETHER = 32
# Frames that a filter hears at once (csrc/postfilter.cc).
_FILTERED_TOGETHER = 128


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes. ``weights``: of the language model, the codec and the semantic tokenizer, as they are
    run. ``voices``: of the voices that are kept. ``session``: of each session. ``total``: of all
    ``sessions`` together with the weights and the voices.
    """

    sessions: int
    weights: int
    voices: int
    session: int

    @property
    def total(self) -> int:
        return self.weights + self.voices + self.sessions * self.session


def plan_memory(
    model: Model, sessions: int = 1, seconds: float | None = None, guided: bool | None = None
) -> MemoryPlan:
    """What ``sessions`` sessions cost at the same time, each in a sentence of ``seconds`` seconds.

    ``seconds`` None: the longest that fits, which is the most that a session can cost. ``guided``:
    with classifier-free guidance, which takes two sequences (None: if any task has it by default).

    Raises :class:`InputError` for a number that is out of range.
    """
    if type(sessions) is not int or not 0 <= sessions <= MAX_SESSIONS:
        raise InputError(
            f"sessions: expected a whole number from 0 to {MAX_SESSIONS}, got {shown(sessions)}"
        )
    frames = model.capacity
    if seconds is not None:
        if type(seconds) not in (int, float) or not (math.isfinite(seconds) and seconds > 0):
            raise InputError(f"seconds: expected a number above 0, got {shown(seconds)}")
        frames = min(frames, model.frames_for(seconds))
    if guided is None:
        guided = any(t.guided_by and t.guidance != 1 for t in model.tasks.values())
    weights, voices = base_bytes(model)
    return MemoryPlan(sessions, weights, voices, session_bytes(model, frames, guided))


def run_bytes(model: Model, plan: Plan) -> int:
    """The most that a plan's session can come to: that of the longest sentence that fits; where the
    language model does not answer, none.
    """
    if not plan.answered:
        return filter_bytes(model.config.filters[plan.task.filter]) + _OVERHEAD
    return session_bytes(model, model.capacity, plan.options.get("guidance", 1.0) != 1.0)


def base_bytes(model: Model) -> tuple[int, int]:
    """Bytes of weights, and the most that kept voices come to."""
    config = model.config
    weights = _bytes(codec_shapes(config.codec))
    if config.semantic is not None:
        weights += _bytes(codec_shapes(config.semantic.encoder))
    if config.lm is None:
        return weights, 0
    dtypes = {} if model.backend != "native" else weight_format(model.dtype, model.folder)[1]
    weights += _bytes(lm_shapes(config.lm), dtypes)
    prompt = max((i.max_seconds for t in model.tasks.values() for i in t.inputs), default=0.0)
    frames = min(model.capacity, math.ceil(prompt * model.frame_rate) + 16)
    return weights, CACHED_PREFIXES * held_bytes(model, frames)


def session_bytes(model: Model, frames: int, guided: bool) -> int:
    """Bytes of a session of ``frames`` frames, with its decoder."""
    decoder = decoder_bytes(model.config.codec)
    return (2 if guided else 1) * held_bytes(model, frames) + decoder + _OVERHEAD


def filter_bytes(c: PostFilterConfig) -> int:
    """Bytes of a stream of a filter: its state, and its working memory once it has heard a large
    chunk.
    """
    row = c.hop + 2 * c.window + 7 * c.bins + c.hidden + 4 * c.width
    held = c.blocks * (c.kernel_size - 1) * c.width + 4 * c.window + 2 * c.lookahead * c.bins
    return 4 * (_FILTERED_TOGETHER * row + held)


def decoder_bytes(config: CodecConfig) -> int:
    """Bytes of a stream of the codec's decoder: its state, and its working memory once it has
    decoded a large chunk.
    """
    n, size = DECODED_TOGETHER, config.frame_size
    if config.cat is not None and config.family == "cat":
        rows, floats = n, 2 * n * (size * config.channels + config.latent_dim)
        for patch, stage in zip(
            config.cat.decoder.patches, config.cat.decoder.stages, strict=False
        ):
            rows *= patch
            floats += stage.transformer.stream_floats(rows) + 2 * rows * stage.output
    elif config.seanet is not None and config.family == "seanet":
        s = config.seanet
        if s.decoder is not None:
            return 4 * s.decoder.stream_floats(n)
        # Rows of a layer times its channels, for the widest one; a few such buffers each.
        rows, channels, widest = n, s.filters << len(s.ratios), config.latent_dim * n
        held = 0
        if s.bottleneck is not None:
            rows *= s.bottleneck.stride
            held = s.bottleneck.transformer.stream_floats(rows)
        for ratio in s.ratios:
            rows, channels = rows * ratio, channels // 2
            widest = max(widest, rows * channels)
        floats = held + 4 * widest + sum(3 * s.kernel_size * (s.filters << i) for i in range(6))
    else:
        assert config.spectral is not None
        p = config.spectral
        bins, segments = p.decoder_window // 2 + 1, n * p.decoder_subframes
        floats = segments * (5 * bins + 3 * p.decoder_window)  # spectra, windows, transforms
        floats += n * (2 * p.decoder_width + p.decoder_hidden + config.codebook_dim + 2 * size)
        floats += p.decoder_blocks * p.kernel_size * p.decoder_width + 2 * p.decoder_window
    return 4 * floats


def held_bytes(model: Model, frames: int) -> int:
    """Bytes of keys, values and history of a session that has ``frames`` frames."""
    lm: Any = model.lm.core
    if hasattr(lm, "held_bytes"):  # its sessions grow
        return int(lm.held_bytes(frames, model.capacity))
    return int(lm.memory_bytes(model.capacity))


def _bytes(shapes: Shapes, dtypes: dict[str, str] | None = None) -> int:
    """Bytes of tensors as they run: matrices of the language model by the type of their part, all
    others in float32.
    """
    total = 0
    for name, shape in shapes.items():
        dtype = (dtypes or {}).get(matrix_part(name) or "", "float32")
        size = math.prod(shape)
        if dtype in ("int8", "int4"):
            stored, scales = quantized_shapes((shape[0], shape[1]), dtype)
            total += math.prod(stored) + 4 * math.prod(scales)
        else:
            total += size * (2 if dtype == "bfloat16" else 4)
    return total
