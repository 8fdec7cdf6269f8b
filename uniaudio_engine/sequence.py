"""Token sequences: what the trainer learns and the engine continues, made in one place from plain numbers.

Pure NumPy and no state; not responsible for text, audio or models.  K slots a frame (the LM's codebooks), T frames,
S guide slots, P phones of a sentence (as ids 0 .. len(PHONES)-1, the line numbers of the model's ``phones.txt``).

A tts sequence, one row of K ids per item::

    <start> <tts_task> <audio_prompt_start> prompt frames <audio_prompt_end>     the voice: shared by all its sentences
    <phone_start> phones <phone_end> <duration_start> durations <duration_end> <audio_start> audio frames

The part in the first line without prompt frames (start and end adjacent) is "no voice given".  Every item but an audio
frame fills all K slots with one id.  Codebook k's code c has id ``span("audio").start + k * codebook_size + c``;
phone p ``span("phone").start + p``; a duration of d frames (1 .. span size, longer is clipped)
``span("duration").start + d - 1``.

Row t of the guide rides beside the step that predicts frame t; -1 adds nothing.  Its S = 4 slots are
(phone_now, phone_next, phone_next2, frames_left), each with its own ``guide_span``:

- an audio frame inside phone i: (p[i], p[i+1], p[i+2], min(left, frames_left.size) - 1), where ``left`` counts the
  frames that remain in this phone, this one included (so the last frame of a phone has value 0);
- the duration token of phone i: (p[i], p[i+1], p[i+2], -1);
- every other item: all -1.  Phones beyond the sentence's end are -1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ConfigError, LMConfig, Span, VocabularyConfig

Ids = NDArray[np.int32]

MAX_DURATION = 64  # frames a phone: the duration span's size
FRAMES_LEFT = 32  # the frames_left guide span's size
FIRST_SPAN = 64  # spans start here, so that special tokens can be added to a trained model without moving its ids
GUIDE_SLOTS = ("phone_now", "phone_next", "phone_next2", "frames_left")
_COMMON = ("start", "local_start", "end")
_SEGMENTS = ("audio", "audio_prompt", "phone", "duration")


def make_vocabulary(
    num_codebooks: int,
    codebook_size: int,
    num_phones: int,
    tasks: tuple[str, ...] = ("tts",),
    segments: tuple[str, ...] = (),
) -> VocabularyConfig:
    """The vocabulary of a new model.  ``start`` has id 0 (``LMConfig.start_id``), ``local_start`` id 1.

    ``tasks`` become ``<task>_task`` tokens, ``segments`` (beyond audio, audio_prompt, phone, duration) become
    ``<segment>_start`` and ``<segment>_end``.
    """
    around = tuple(f"{s}_{side}" for s in _SEGMENTS + segments for side in ("start", "end"))
    specials = _COMMON + around + tuple(f"{t}_task" for t in tasks)
    if len(specials) > FIRST_SPAN:
        raise ConfigError(f"vocabulary: expected at most {FIRST_SPAN} special tokens, got {len(specials)}")
    audio = Span("audio", FIRST_SPAN, num_codebooks * codebook_size)
    phone = Span("phone", audio.start + audio.size, num_phones)
    duration = Span("duration", phone.start + phone.size, MAX_DURATION)
    guide = [Span(name, i * num_phones, num_phones) for i, name in enumerate(GUIDE_SLOTS[:3])]
    guide.append(Span(GUIDE_SLOTS[3], 3 * num_phones, FRAMES_LEFT))
    return VocabularyConfig(specials, (audio, phone, duration), tuple(guide))


def vocab_size(vocabulary: VocabularyConfig) -> int:
    """``LMConfig.vocab_size`` for this vocabulary."""
    return max([len(vocabulary.specials)] + [s.start + s.size for s in vocabulary.spans])


def guide_vocab(vocabulary: VocabularyConfig) -> int:
    """``LMConfig.guide_vocab`` for this vocabulary."""
    return max([0] + [s.start + s.size for s in vocabulary.guide_spans])


@dataclass(frozen=True)
class Layout:
    """A vocabulary seen through the shape of its frames; ``Layout(config.vocabulary, config.lm.num_codebooks)``."""

    vocabulary: VocabularyConfig
    num_codebooks: int

    def __post_init__(self) -> None:
        size = self.vocabulary.span("audio").size
        if size % self.num_codebooks:
            raise ConfigError(
                f"vocabulary span audio: expected a multiple of {self.num_codebooks} (codebooks) as size, got {size}"
            )

    @classmethod
    def of(cls, lm: LMConfig, vocabulary: VocabularyConfig) -> Layout:
        return cls(vocabulary, lm.num_codebooks)

    @property
    def codebook_size(self) -> int:
        return self.vocabulary.span("audio").size // self.num_codebooks

    @property
    def guide_slots(self) -> int:
        return len(self.vocabulary.guide_spans)

    def fill(self, ids: Any) -> Ids:
        """ids [n] -> frames [n, K], each id in all K slots."""
        column = np.asarray(ids, np.int32).reshape(-1, 1)
        return np.repeat(column, self.num_codebooks, axis=1)

    def special(self, *names: str) -> Ids:
        """Special tokens by name -> frames [n, K]."""
        return self.fill([self.vocabulary.special(n) for n in names])

    def tokens(self, span: str, values: Any) -> Ids:
        """values [n] in 0 .. size-1 of a span -> frames [n, K]."""
        s = self.vocabulary.span(span)
        return self.fill(_checked(values, s.size, f"{span} ids") + s.start)

    def codes_to_frames(self, codes: Any) -> Ids:
        """codes [T, K] in 0 .. codebook_size-1 -> audio frames [T, K] of ids."""
        c = np.asarray(codes)
        if c.ndim != 2 or c.shape[1] != self.num_codebooks:
            raise ValueError(f"codes: expected shape [T, {self.num_codebooks}], got {list(c.shape)}")
        return (_checked(c, self.codebook_size, "codes") + self._offsets()).astype(np.int32)

    def frames_to_codes(self, frames: Ids) -> Ids:
        """Audio frames [T, K] of ids -> codes [T, K]."""
        return (frames - self._offsets()).astype(np.int32)

    def no_guide(self, n: int) -> Ids:
        """[n, S] of -1."""
        return np.full((n, self.guide_slots), -1, np.int32)

    def audio_ranges(self) -> list[list[tuple[int, int]]]:
        """Per slot k the id ranges (start, size) that an audio frame may hold."""
        start, size = self.vocabulary.span("audio").start, self.codebook_size
        return [[(start + k * size, size)] for k in range(self.num_codebooks)]

    def span_ranges(self, name: str) -> list[list[tuple[int, int]]]:
        """Per slot the id range (start, size) of a span (for tokens that fill all slots)."""
        s = self.vocabulary.span(name)
        return [[(s.start, s.size)]] * self.num_codebooks

    def _offsets(self) -> Ids:
        start = self.vocabulary.span("audio").start
        return (start + np.arange(self.num_codebooks) * self.codebook_size).astype(np.int32)


@dataclass(frozen=True)
class Prefix:
    """Known frames [n, K], and the external states that stand in for some of them: name -> (values float32 [m, width],
    the m frames that they replace)."""

    frames: Ids
    continuous: dict[str, tuple[NDArray[np.float32], Ids]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frames)

    def key(self) -> bytes:
        """Equal for equal prefixes only."""
        states = [(name, v.tobytes(), where.tobytes()) for name, (v, where) in sorted(self.continuous.items())]
        return b"".join([self.frames.tobytes(), *(name.encode() + b"\0" + v + where for name, v, where in states)])


def join(parts: Iterable[Prefix]) -> Prefix:
    """One prefix after the other."""
    parts = list(parts)
    begins = np.cumsum([0, *map(len, parts)])
    states: dict[str, list[tuple[NDArray[np.float32], Ids]]] = {}
    for part, begin in zip(parts, begins[:-1], strict=True):
        for name, (values, where) in part.continuous.items():
            states.setdefault(name, []).append((values, where + np.int32(begin)))
    joined = {n: (np.concatenate([v for v, _ in s]), np.concatenate([w for _, w in s])) for n, s in states.items()}
    return Prefix(np.concatenate([p.frames for p in parts]), joined)


def segment(layout: Layout, name: str, frames: Ids) -> Ids:
    """``<name_start> frames <name_end>``: frames [n, K] -> [n + 2, K]."""
    return np.concatenate((layout.special(f"{name}_start"), frames, layout.special(f"{name}_end")))


def voice_prefix(layout: Layout, prompt: Any | None, task: str = "tts") -> Ids:
    """``<start> <TASK_task> <audio_prompt_start> prompt <audio_prompt_end>``; prompt: codes [T, K], or None for none.

    Returns [T + 4, K].  It depends on the voice alone, so its KV cache is computed once and forked for each sentence.
    """
    frames = np.zeros((0, layout.num_codebooks), np.int32) if prompt is None else layout.codes_to_frames(prompt)
    return np.concatenate((layout.special("start", f"{task}_task"), segment(layout, "audio_prompt", frames)))


def phone_segment(layout: Layout, phones: Any) -> Ids:
    """``<phone_start> phones <phone_end> <duration_start>``: what comes between the voice and the duration tokens."""
    return np.concatenate((segment(layout, "phone", layout.tokens("phone", phones)), layout.special("duration_start")))


def audio_begin(layout: Layout) -> Ids:
    """``<duration_end> <audio_start>``: what comes between the duration tokens and the audio frames."""
    return layout.special("duration_end", "audio_start")


def tts_prefix(layout: Layout, phones: Any, durations: Any | None = None, prompt: Any | None = None) -> Ids:
    """Everything known before the audio: phones [P], prompt codes [T, K].

    Without durations it ends with ``<duration_start>`` (the duration tokens come next); with durations [P] in frames
    it ends with ``<audio_start>``.
    """
    parts = [voice_prefix(layout, prompt), phone_segment(layout, phones)]
    if durations is not None:
        parts += [duration_tokens(layout, durations), audio_begin(layout)]
    return np.concatenate(parts)


def duration_tokens(layout: Layout, durations: Any) -> Ids:
    """durations [P] in frames, at least 1 each -> frames [P, K]; longer than the span is clipped."""
    d = np.asarray(durations, np.int64)
    if d.ndim != 1 or (d < 1).any():
        raise ValueError("durations: expected a list of whole frames, each at least 1")
    return layout.tokens("duration", np.minimum(d, layout.vocabulary.span("duration").size) - 1)


def token_durations(layout: Layout, frames: Ids) -> Ids:
    """Inverse of :func:`duration_tokens`: frames [P, K] -> durations [P] in frames (slot 0 counts)."""
    return (frames[:, 0] - layout.vocabulary.span("duration").start + 1).astype(np.int32)


def scale_durations(durations: Any, speed: float) -> Ids:
    """Durations [P] spoken ``speed`` times as fast; at least 1 frame each.

    Rounding errors are carried forward, so the total is right to a frame wherever no phone hits the 1-frame floor.
    """
    d = np.asarray(durations, np.int64)
    if speed == 1.0:
        return d.astype(np.int32)
    ends = np.floor(np.cumsum(d) / speed + 0.5).astype(np.int64)
    return np.maximum(np.diff(ends, prepend=0), 1).astype(np.int32)


def phone_features(layout: Layout, phones: Any) -> Ids:
    """phones [P] -> [P, S]: the guide rows of their duration tokens (fourth slot -1)."""
    spans = [layout.vocabulary.guide_span(name) for name in GUIDE_SLOTS[:3]]
    p = _checked(phones, spans[0].size, "phone ids")
    rows = layout.no_guide(len(p))
    for ahead, s in enumerate(spans):
        rows[: len(p) - ahead, ahead] = p[ahead:] + s.start
    return rows


def guide_rows(layout: Layout, phones: Any, durations: Any) -> Ids:
    """phones [P], durations [P] in frames (at least 1, not clipped) -> the audio frames' guide [sum(durations), S]."""
    d = np.asarray(durations, np.int64)
    features = phone_features(layout, phones)
    if d.shape != (len(features),) or (d < 1).any():
        raise ValueError(f"durations: expected one for each of {len(features)} phones, each at least 1 frame")
    rows = np.repeat(features, d, axis=0)
    left = np.repeat(np.cumsum(d), d) - np.arange(len(rows))
    span = layout.vocabulary.guide_span("frames_left")
    rows[:, GUIDE_SLOTS.index("frames_left")] = span.start + np.minimum(left, span.size) - 1
    return rows


@dataclass(frozen=True)
class Sequence:
    """``frames`` [T, K], ``guide`` [T, S], and where the two predicted parts lie in T."""

    frames: Ids
    guide: Ids
    durations: slice
    audio: slice


def tts_sequence(layout: Layout, phones: Any, durations: Any, codes: Any, prompt: Any | None = None) -> Sequence:
    """The whole training sequence: phones [P], durations [P] of sum T', codes [T', K], prompt codes [T, K] or None."""
    audio = layout.codes_to_frames(codes)
    guide = guide_rows(layout, phones, durations)
    if len(guide) != len(audio):
        raise ValueError(f"durations: expected a sum of {len(audio)} audio frames, got {len(guide)}")
    prefix = tts_prefix(layout, phones, None, prompt)
    middle = audio_begin(layout)
    features = phone_features(layout, phones)
    frames = np.concatenate((prefix, duration_tokens(layout, durations), middle, audio))
    rows = np.concatenate((layout.no_guide(len(prefix)), features, layout.no_guide(len(middle)), guide))
    first = len(prefix)
    begin = first + len(features) + len(middle)
    return Sequence(frames, rows, slice(first, first + len(features)), slice(begin, begin + len(audio)))


def _checked(values: Any, size: int, what: str) -> Ids:
    v = np.asarray(values)
    if v.size and (v.dtype.kind not in "iu" or v.min() < 0 or v.max() >= size):
        raise ValueError(f"{what}: expected whole numbers in 0 .. {size - 1}, got {v.min()} .. {v.max()} ({v.dtype})")
    return v.astype(np.int32)
