"""From a plan's audio frames to samples: decoded as they come, cut to the source's length, put into
the source, or a filter of the source.

One decoder stream runs through all pieces of a plan, so that sentences join as smoothly as frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..audio.level import scaled
from ..model import Model
from .plan import Piece, Plan
from .postfilter import filter_stream
from .sequence import Ids
from .windows import Joiner

Samples = NDArray[np.float32]
# Frames decoded on either side of an edit, so that the decoder has settled where it begins.
_CONTEXT = 50
_FADE = 0.01  # seconds, inside the edit
_LOUD = 0.003  # RMS (-50 dBFS); speech must not break off above it


class Decoding:
    """Frames in, samples out, fitted to the source as the plan's task says.

    Call ``head`` once, ``begin`` for each piece and ``push`` for its frames, or ``filter`` where it is
    not answered, then ``flush``.
    """

    def __init__(self, model: Model, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.finish = plan.task.finish if plan.source is not None else ""
        self._decoder = model.codec.decoder_stream() if plan.answered else None
        channels = model.config.codec.channels
        self._nothing = np.zeros((0,) if channels == 1 else (channels, 0), np.float32)
        self._left = len(self._source) if self.finish == "length" else None
        self._edit: list[Ids] = []
        self._pieces = 0
        self._gain = 1.0 if plan.source is None else plan.source.gain
        self._filter = filter_stream(model, plan)
        self._unfiltered = np.zeros(0, np.float32)
        if self._filter is not None and plan.windows is None:
            self._unfiltered = scaled(self._source, self._gain)
        self._joiner: Joiner | None = None
        if plan.windows is not None:
            self._joiner = Joiner(plan.windows.overlap, model.sample_rate)

    @property
    def _source(self) -> Samples:
        assert self.plan.source is not None and self.plan.source.samples is not None
        return self.plan.source.samples

    def head(self) -> Samples:
        """Samples that exist before any frame: the source up to the edit."""
        if self.finish != "span" or self.plan.span is None:
            return self._nothing
        return self._source[: self.plan.span[0] * self.model.config.codec.frame_size]

    def begin(self, piece: Piece) -> Samples:
        """The samples that are complete now that a piece begins, perhaps none."""
        if self._joiner is None or piece.window is None:
            return self._pause()
        ended = self._nothing if piece.window.is_first else self.flush()
        self._joiner.begin(piece.window)
        self._left, self._gain = len(piece.window.samples), piece.window.gain
        if self._filter is not None:
            self._unfiltered = scaled(piece.window.samples, self._gain)
        return ended

    def _pause(self) -> Samples:
        """The silence before a sentence that is not the first."""
        slot = self.model.config.text_slot
        seconds, self._pieces = 0.0 if slot is None else slot.pause, self._pieces + 1
        if not seconds or self._pieces == 1:
            return self._nothing
        count = round(seconds * self.model.sample_rate)
        return np.zeros((*self._nothing.shape[:-1], count), np.float32)

    def push(self, codes: Ids) -> Samples:
        """codes [n, K] -> the samples that they complete, perhaps none."""
        if self.finish == "span":
            self._edit.append(codes)
            return self._nothing
        assert self._decoder is not None
        return self._fitted(self._decoder.push(np.ascontiguousarray(codes.T)))

    def filter(self, frames: int) -> Samples:
        """The samples that are complete once the filter has heard ``frames`` more of the source."""
        assert self._filter is not None
        n = frames * self.model.config.codec.frame_size
        heard, self._unfiltered = self._unfiltered[:n], self._unfiltered[n:]
        return self._levelled(self._filter.push(heard))

    def flush(self) -> Samples:
        """The remaining samples."""
        if self.finish == "span":
            return self._pasted()
        if self._filter is not None:
            return self._levelled(self._filter.flush())
        assert self._decoder is not None
        rest = self._fitted(self._decoder.flush())
        spoken = self.plan.task.length == "durations" and not self.finish
        return _ending_quietly(rest, self.model.sample_rate) if spoken else rest

    def _fitted(self, samples: Samples) -> Samples:
        """Decoded samples at the source's level, and not more than it has."""
        samples = np.clip(samples, -1.0, 1.0)
        if self._left is not None:
            samples = samples[..., : self._left]
            self._left -= samples.shape[-1]
        return self._levelled(samples)

    def _levelled(self, samples: Samples) -> Samples:
        samples = np.clip(scaled(samples, 1 / self._gain), -1.0, 1.0)
        return samples if self._joiner is None else self._joiner.push(samples)

    def _pasted(self) -> Samples:
        """The edit and the source after it.

        Fades lie inside the edit, so no sample outside of it changes.
        """
        plan, size = self.plan, self.model.config.codec.frame_size
        assert plan.span is not None and plan.source is not None and plan.source.codes is not None
        begin, end = plan.span
        new = np.concatenate(self._edit) if self._edit else self.model.layout.no_codes
        codes = plan.source.codes[:, : new.shape[1]]
        before = codes[max(0, begin - _CONTEXT) : begin]
        around = np.concatenate((before, new, codes[end : end + _CONTEXT]))
        decoded = np.clip(
            self.model.codec.decode(np.ascontiguousarray(around.T, np.int32)), -1.0, 1.0
        )
        decoded = np.clip(scaled(decoded, 1 / self._gain), -1.0, 1.0)
        edit = decoded[len(before) * size : (len(before) + len(new)) * size].copy()
        source = self._source
        rest = source[end * size :]
        if len(source) < end * size and plan.task.length == "source":
            edit = edit[: len(source) - begin * size]
        fade = min(round(_FADE * self.model.sample_rate), len(edit) // 2)
        up = np.linspace(0.0, 1.0, fade + 2, dtype=np.float32)[1:-1]
        if begin > 0:
            edit[:fade] = up * edit[:fade] + (1 - up) * source[begin * size : begin * size + fade]
        if len(rest) and fade:
            edit[-fade:] = (
                up[::-1] * edit[-fade:] + (1 - up[::-1]) * source[end * size - fade : end * size]
            )
        return np.concatenate((edit, rest)).astype(np.float32)


def _ending_quietly(samples: Samples, sample_rate: int) -> Samples:
    """The last samples of speech, faded out where they break off in a loud sound."""
    n = min(round(2 * _FADE * sample_rate), samples.shape[-1])
    if not n or np.sqrt(np.square(samples[..., -n:], dtype=np.float64).mean()) < _LOUD:
        return samples
    fade = np.linspace(1, 0, n, dtype=np.float32)
    return np.concatenate((samples[..., :-n], samples[..., -n:] * fade), axis=-1)
