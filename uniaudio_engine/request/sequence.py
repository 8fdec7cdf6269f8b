"""Vocabularies, and token ids by frames: the numbers that sequences are made of.

Pure NumPy, no state; not responsible for text, audio or models. T frames, K slots per frame (the
LM's codebooks), S aligned slots, P phones as ids 0 .. len(PHONES)-1, the line numbers of the
model's ``phones.txt``.

A sequence has one row of K ids per item; the task decides which parts it has::

    <start> <TASK_task>
    <audio_prompt_start> prompt frames <audio_prompt_end>     the voice, shared by all sentences
    <caption_start> pieces <caption_end>                      a caption, or any other input
    <phone_start> phones <phone_end>                          spoken text
    <duration_start> durations <duration_end>                 predicted, one for each phone
    <audio_start> audio frames

An empty part (start and end adjacent) means "not given". Every item but an audio frame fills all K
slots with one id. Code c of codebook k has id ``span("audio").start + k * codebook_size + c``;
phone p has ``span("phone").start + p``; a duration of d frames, clipped to 1 .. span size, has
``span("duration").start + d - 1``. Sources that are aligned with the target in time are not part of
the sequence: see ``aligned.py``. ``sequence_builder.py`` puts the parts together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.config import ConfigError, LMConfig, Span, TextSlotConfig, VocabularyConfig

Ids = NDArray[np.int32]

MAX_DURATION = 64  # frames per phone: the duration span's size
FRAMES_LEFT = 32  # the frames_left aligned span's size
# Spans start here, so that special tokens can be added to a trained model without moving its ids.
FIRST_SPAN = 64
ALIGNED_SLOTS = ("phone_now", "phone_next", "phone_next2", "frames_left")
_COMMON = ("start", "local_start", "end")
_SEGMENTS = ("audio", "audio_prompt", "phone", "duration")


def make_vocabulary(
    num_codebooks: int,
    codebook_size: int,
    num_phones: int,
    tasks: tuple[str, ...] = ("tts",),
    segments: tuple[str, ...] = (),
    captions: int = 0,
    aligned_rows: Callable[[int], tuple[Span, ...]] = lambda start: (),
) -> VocabularyConfig:
    """The vocabulary of a new model. ``start`` has id 0 (``LMConfig.start_id``), ``local_start`` 1.

    ``tasks`` become ``<task>_task`` tokens; ``segments``, in addition to audio, audio_prompt, phone
    and duration, become ``<segment>_start`` and ``<segment>_end``. ``captions``: number of pieces
    of the caption tokenizer. ``aligned_rows``: given a first id, the aligned spans in addition to
    those of phones.
    """
    around = tuple(f"{s}_{side}" for s in _SEGMENTS + segments for side in ("start", "end"))
    specials = _COMMON + around + tuple(f"{t}_task" for t in tasks)
    if len(specials) > FIRST_SPAN:
        raise ConfigError(
            f"vocabulary: expected at most {FIRST_SPAN} special tokens, got {len(specials)}"
        )
    audio = Span("audio", FIRST_SPAN, num_codebooks * codebook_size)
    phone = Span("phone", audio.start + audio.size, num_phones)
    duration = Span("duration", phone.start + phone.size, MAX_DURATION)
    aligned = [Span(name, i * num_phones, num_phones) for i, name in enumerate(ALIGNED_SLOTS[:3])]
    aligned.append(Span(ALIGNED_SLOTS[3], 3 * num_phones, FRAMES_LEFT))
    spans = [audio, phone, duration]
    if captions:
        spans.append(Span("caption", duration.start + duration.size, captions))
    return VocabularyConfig(
        specials, tuple(spans), (*aligned, *aligned_rows(3 * num_phones + FRAMES_LEFT))
    )


def vocab_size(vocabulary: VocabularyConfig) -> int:
    """``LMConfig.vocab_size`` for this vocabulary."""
    return max([len(vocabulary.specials)] + [s.start + s.size for s in vocabulary.spans])


def extend_vocabulary(
    vocabulary: VocabularyConfig,
    specials: Iterable[str],
    spans: Mapping[str, int],
    aligned_spans: Mapping[str, int],
) -> VocabularyConfig:
    """A trained model's vocabulary with additions; its own ids stay.

    ``specials`` take free ids before the first span; ``spans`` and ``aligned_spans`` (name -> size)
    come after the last. Raises :class:`ConfigError` where too few ids are free.
    """
    names = (*vocabulary.specials, *specials)
    room = min(s.start for s in vocabulary.spans)
    if len(names) > room:
        raise ConfigError(
            f"vocabulary: expected at most {room} special tokens, got {len(names)}; give the new "
            "task fewer segments of its own"
        )
    added = (
        _consecutive(vocab_size(vocabulary), spans),
        _consecutive(aligned_vocab(vocabulary), aligned_spans),
    )
    return VocabularyConfig(
        names, (*vocabulary.spans, *added[0]), (*vocabulary.aligned_spans, *added[1])
    )


def _consecutive(start: int, sizes: Mapping[str, int]) -> list[Span]:
    """Consecutive spans of these sizes."""
    ends = itertools.accumulate(sizes.values(), initial=start)
    return [
        Span(name, begin, size) for begin, (name, size) in zip(ends, sizes.items(), strict=False)
    ]


def aligned_vocab(vocabulary: VocabularyConfig) -> int:
    """``LMConfig.aligned_vocab`` for this vocabulary."""
    return max([0] + [s.start + s.size for s in vocabulary.aligned_spans])


@dataclass(frozen=True)
class Layout:
    """A vocabulary together with the shape of its frames; see :meth:`of`.

    A frame has K slots: ``num_codebooks`` codes and, with a ``text_slot``, a text id.
    """

    vocabulary: VocabularyConfig
    num_codebooks: int
    text_slot: TextSlotConfig | None = None
    given_slots: int = 0  # after the slot of text
    text_head: int = 0  # text ids that are predicted; 0: all

    def __post_init__(self) -> None:
        size = self.vocabulary.span("audio").size
        if size % self.num_codebooks:
            raise ConfigError(
                f"vocabulary span audio: expected a multiple of {self.num_codebooks} (codebooks) "
                f"as size, got {size}"
            )

    @classmethod
    def of(
        cls, lm: LMConfig, vocabulary: VocabularyConfig, text_slot: TextSlotConfig | None = None
    ) -> Layout:
        codebooks = lm.num_codebooks - (text_slot is not None) - lm.given_slots
        return cls(vocabulary, codebooks, text_slot, lm.given_slots, lm.global_head_size)

    @property
    def slots(self) -> int:
        """K."""
        return self.num_codebooks + (self.text_slot is not None) + self.given_slots

    @property
    def codebook_size(self) -> int:
        return self.vocabulary.span("audio").size // self.num_codebooks

    @property
    def aligned_slots(self) -> int:
        return len(self.vocabulary.aligned_spans)

    def fill(self, ids: ArrayLike) -> Ids:
        """ids [n] -> frames [n, K], each id in all K slots."""
        column = np.asarray(ids, np.int32).reshape(-1, 1)
        return np.repeat(column, self.slots, axis=1)

    def special(self, *names: str) -> Ids:
        """Special tokens by name -> frames [n, K]."""
        return self.fill([self.vocabulary.special(n) for n in names])

    def tokens(self, span: str, values: ArrayLike) -> Ids:
        """values [n] in 0 .. size-1 of a span -> frames [n, K]."""
        s = self.vocabulary.span(span)
        return self.fill(checked(values, s.size, f"{span} ids") + s.start)

    def codes_to_frames(self, codes: ArrayLike, text: int = -1) -> Ids:
        """codes [T, codebooks] in 0 .. codebook_size-1 -> audio frames [T, K] of ids.

        ``text``: the text id of all of them where there is a slot of text; -1: none.
        """
        c = np.asarray(codes)
        if c.ndim != 2 or c.shape[1] != self.num_codebooks:
            raise ValueError(
                f"codes: expected shape [T, {self.num_codebooks}], got {list(c.shape)}"
            )
        ids = (checked(c, self.codebook_size, "codes") + self._offsets()).astype(np.int32)
        if self.text_slot is None:
            return ids
        return self._beside(np.full((len(ids), 1), self.text_id(text), np.int32), ids)

    @property
    def no_codes(self) -> Ids:
        """[0, codebooks]."""
        return np.zeros((0, self.num_codebooks), np.int32)

    def text_frames(self, ids: ArrayLike) -> Ids:
        """Text ids [n] -> frames [n, K] without codes."""
        return self.slot_frames("text", ids)

    def slot_frames(self, span: str, ids: ArrayLike) -> Ids:
        """Ids [n] of a span -> frames [n, K] with them in the slot of the text, without codes."""
        s = self.vocabulary.span(span)
        text = checked(np.asarray(ids, np.int64), s.size, f"{span} ids") + s.start
        codes = np.full((len(text), self.num_codebooks), self.text_id(-1))
        return self._beside(text[:, None], codes).astype(np.int32)

    def end_frame(self) -> list[int]:
        """Per slot the id of the frame that ends the sound by its codes, or -1 for any."""
        assert self.text_slot is not None
        row = self.codes_to_frames(np.full((1, self.num_codebooks), self.text_slot.end_code))[0]
        last = self.num_codebooks - (self.text_slot.position == "last")
        row[[last, -1 if self.text_slot.position == "last" else 0]] = -1
        return [int(i) for i in row]

    def text_id(self, text: int) -> int:
        """The id of a text id; of -1, that of a slot without any."""
        if text < 0:
            return self.vocabulary.special("pad")
        return self.vocabulary.span("text").start + text

    def _beside(self, text: Ids, codes: Ids) -> Ids:
        first = self.text_slot is None or self.text_slot.position == "first"
        if self.given_slots:
            given = np.full((len(text), self.given_slots), self.text_id(-1), np.int32)
            text = np.concatenate((text, given), axis=1)
        return np.concatenate((text, codes) if first else (codes, text), axis=1)

    def frames_to_codes(self, frames: Ids) -> Ids:
        """Audio frames [T, K] of ids -> codes [T, codebooks]."""
        if self.text_slot is not None:
            first = self.text_slot.position == "first"
            frames = frames[:, 1 + self.given_slots :] if first else frames[:, :-1]
        return (frames - self._offsets()).astype(np.int32)

    def aligned_column(self, name: str) -> int:
        """The column of an aligned span."""
        self.vocabulary.aligned_span(name)
        return [s.name for s in self.vocabulary.aligned_spans].index(name)

    def no_aligned(self, n: int) -> Ids:
        """Empty aligned rows: [n, S] of -1."""
        return np.full((n, self.aligned_slots), -1, np.int32)

    def audio_ranges(self) -> list[list[tuple[int, int]]]:
        """For each slot the id ranges (start, size) that an audio frame may hold."""
        start, size = self.vocabulary.span("audio").start, self.codebook_size
        codes = [[(start + k * size, size)] for k in range(self.num_codebooks)]
        if self.text_slot is None:
            return codes
        if self.text_slot.words is not None:
            span = self.vocabulary.span("text")
            given = [[(self.text_id(-1), 1)]] * self.given_slots
            return [[(span.start, self.text_head or span.size)], *given, *codes]
        text = [[(self.text_id(self.text_slot.speaking), 1)]]
        return text + codes if self.text_slot.position == "first" else codes + text

    def span_ranges(self, name: str) -> list[list[tuple[int, int]]]:
        """For each slot the id range (start, size) of a span, for tokens that fill all slots."""
        s = self.vocabulary.span(name)
        return [[(s.start, s.size)]] * self.slots

    def _offsets(self) -> Ids:
        start = self.vocabulary.span("audio").start
        return (start + np.arange(self.num_codebooks) * self.codebook_size).astype(np.int32)


@dataclass(frozen=True)
class Prefix:
    """Known frames [n, K], and the external states that replace some of them.

    ``continuous``: name -> (values float32 [m, width], the indices of the m frames). ``condition``:
    the row [D] that is added to every input from the first frame on, or None.
    """

    frames: Ids
    continuous: dict[str, tuple[NDArray[np.float32], Ids]] = field(default_factory=dict)
    condition: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def key(self) -> bytes:
        """Bytes that are equal exactly for equal prefixes."""
        states = [
            (name, v.tobytes(), where.tobytes())
            for name, (v, where) in sorted(self.continuous.items())
        ]
        return b"".join(
            [
                self.frames.tobytes(),
                b"" if self.condition is None else b"condition\0" + self.condition.tobytes(),
                *(name.encode() + b"\0" + v + where for name, v, where in states),
            ]
        )


def join(parts: Iterable[Prefix]) -> Prefix:
    """One prefix after the other."""
    parts = list(parts)
    begins = np.cumsum([0, *map(len, parts)])
    states: dict[str, list[tuple[NDArray[np.float32], Ids]]] = {}
    for part, begin in zip(parts, begins[:-1], strict=True):
        for name, (values, where) in part.continuous.items():
            states.setdefault(name, []).append((values, where + np.int32(begin)))
    joined = {
        n: (np.concatenate([v for v, _ in s]), np.concatenate([w for _, w in s]))
        for n, s in states.items()
    }
    return Prefix(np.concatenate([p.frames for p in parts]), joined)


def segment(layout: Layout, name: str, tokens: Prefix) -> Prefix:
    """``<name_start> tokens <name_end>``."""
    begin, end = (Prefix(layout.special(f"{name}_{side}")) for side in ("start", "end"))
    return join([begin, tokens, end])


def duration_tokens(layout: Layout, durations: ArrayLike) -> Ids:
    """durations [P] in frames, at least 1 each, clipped to the span -> frames [P, K]."""
    d = np.asarray(durations, np.int64)
    if d.ndim != 1 or (d < 1).any():
        raise ValueError("durations: expected a list of whole frames, each at least 1")
    return layout.tokens("duration", np.minimum(d, layout.vocabulary.span("duration").size) - 1)


def token_durations(layout: Layout, frames: Ids) -> Ids:
    """Inverse of :func:`duration_tokens`: frames [P, K] -> durations [P], read from slot 0."""
    return (frames[:, 0] - layout.vocabulary.span("duration").start + 1).astype(np.int32)


def scale_durations(durations: ArrayLike, speed: float) -> Ids:
    """Durations [P] at ``speed`` times the rate, at least 1 frame each.

    Rounding errors are carried forward, so the total is right to a frame unless a phone is raised
    to 1 frame.
    """
    d = np.asarray(durations, np.int64)
    if speed == 1.0:
        return d.astype(np.int32)
    ends = np.floor(np.cumsum(d) / speed + 0.5).astype(np.int64)
    return np.maximum(np.diff(ends, prepend=0), 1).astype(np.int32)


def checked(values: ArrayLike, size: int, what: str) -> Ids:
    """The values as int32. Raises ValueError unless all are whole numbers in 0 .. size - 1."""
    v = np.asarray(values)
    if v.size and (v.dtype.kind not in "iu" or v.min() < 0 or v.max() >= size):
        raise ValueError(
            f"{what}: expected whole numbers in 0 .. {size - 1}, got {v.min()} .. {v.max()} "
            f"({v.dtype})"
        )
    return v.astype(np.int32)
