"""From a request to a plan: pieces of work, each a sequence and how much to generate after it.

A long text becomes one piece per sentence. All pieces of a plan share the beginning of their
sequence (the voice), whose KV cache is computed once. Not responsible for running the pieces: that
is ``steps.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..audio.sound import AudioChunk
from ..errors import InputError, first_few, shown
from ..model import Model
from ..text import NothingToSpeak, Sentence, read_pronunciations
from .inputs import RequestInputs, SourceSound, read_inputs, window_values
from .live_text import FLUSH_AFTER, LiveText, Playback, is_live, read_flush_after
from .options import MAX_SEED
from .sequence import Ids
from .sequence_builder import Guided, Spoken, Values, build
from .tasks import Input, Task
from .timing import Label, WordClock, phone_labels
from .windows import SourceWindows, Window
from .work import Wait

# Before a sentence's durations are known, each phone is assumed to take this many frames (0.2 s at
# 50 Hz); a sentence that would not fit is split.
_FRAMES_PER_PHONE = 10
_MORE_FRAMES = 24  # that a sentence may take beyond those of its tokens, where the model ends it
_MOST_UNREAD = 20  # characters that a note names


@dataclass(frozen=True)
class Piece:
    """One run of the model.

    ``sequence``: what the model reads before it answers; None of a piece that a filter alone makes.
    A sequence with spoken phones is followed by a duration for each, then by the audio. Any other
    is followed by a target of exactly ``frames`` frames; or, with ``min_frames``, by one of
    ``min_frames`` to ``frames``, which the model ends.

    Of spoken phones, ``labels`` has each phone's word and name; ``rate`` is that of the speech, 1
    the voice's own; ``pause`` the length in seconds of the last phone, which is a pause, where that
    is given. ``order`` sorts the pieces of a plan.
    """

    sequence: Guided | None
    seed: int
    frames: int = 0
    min_frames: int | None = None
    window: Window | None = None  # the part of a long source that it is about
    labels: tuple[Label, ...] = ()
    rate: float = 1.0
    pause: float | None = None
    order: tuple[int, ...] = ()

    @property
    def asked(self) -> Guided:
        """The sequence of a piece that the language model answers."""
        assert self.sequence is not None
        return self.sequence

    def part(self, i: int, begin: int, phones: Ids, is_last: bool) -> Piece:
        """The piece of the phones from ``begin`` on; ``i`` counts the parts."""
        return replace(
            self,
            sequence=self.asked.with_phones(phones),
            seed=piece_seed(self.seed, i),
            labels=self.labels[begin : begin + len(phones)],
            pause=self.pause if is_last else None,
            order=(*self.order, i),
        )


@dataclass
class Plan:
    """``pieces`` in order. Iterate over them once: a long text is turned into phones while its
    beginning is spoken. Of a text that arrives while it is spoken, iterating over ``pieces`` waits
    for the text; ``arriving`` yields :class:`Wait` instead.

    ``options``: all options of the task with their values. ``meta``: what the result says about its
    inputs. ``source`` and ``span``: for tasks whose result is fitted to a source, the sound and the
    frames [begin, end) of it that are replaced. ``voice``: codes [T, K] of the voice whose speech in
    the source is kept. ``answered``: whether the language model answers; else a filter makes the
    result of the source alone. ``spoken``: filled while the plan is run, by the order of its pieces,
    with the phones and their durations in frames.
    """

    task: Task
    options: dict[str, Any]
    pieces: Iterable[Piece]
    meta: dict[str, Any] = field(default_factory=dict)
    source: SourceSound | None = None
    span: tuple[int, int] | None = None
    windows: SourceWindows | None = None  # of a source that is too long to be heard at once
    voice: Ids | None = None
    answered: bool = True
    spoken: dict[tuple[int, ...], tuple[tuple[Label, ...], Ids]] = field(default_factory=dict)
    arriving: Iterable[Piece | Wait] = ()
    live: LiveText | None = None  # the text, where it arrives while it is spoken
    playback: Playback = field(default_factory=Playback)  # of what was made so far

    def __post_init__(self) -> None:
        self.arriving = self.arriving or self.pieces

    @property
    def text(self) -> str:
        """The text to be spoken, as far as it is known; empty where there is none."""
        return self.meta.get("text", "") if self.live is None else self.live.text

    def close(self) -> None:
        """Take no more from the source of the text. Any thread."""
        if self.live is not None:
            self.live.close()

    def word_times(self, frame_rate: float) -> list[dict[str, Any]]:
        """When each word of a plan that was run is spoken; see :func:`timing.word_times`."""
        clock = self._word_clock(frame_rate)
        for order in sorted(self.spoken):
            clock.add(*self.spoken[order])
        return clock.words

    def _word_clock(self, frame_rate: float) -> WordClock:
        return WordClock(frame_rate, self.span[0] / frame_rate if self.span is not None else 0.0)

    def timed(
        self, work: Generator[Any, None, None], frame_rate: float
    ) -> Generator[Any, None, None]:
        """The plan's work and chunks, run in order; with the words of each chunk."""
        clock, added = self._word_clock(frame_rate), 0
        try:
            for item in work:
                if isinstance(item, AudioChunk):
                    new = itertools.islice(reversed(self.spoken.values()), len(self.spoken) - added)
                    for labels, durations in reversed(list(new)):
                        clock.add(labels, durations)
                    added = len(self.spoken)
                    end = (item.start + item.samples.shape[-1]) / item.sample_rate
                    item.words = clock.take(math.inf if item.last else end)
                    self.playback.add(item.samples.shape[-1] / item.sample_rate)
                yield item
        finally:
            work.close()
            self.close()

    def describe(self, model: Model) -> dict[str, Any]:
        """What a result says about how it was made."""
        about = {"task": self.task.name, "model": model.config.name}
        return {**about, **self.options, **self.meta, **model.running()}


def piece_seed(seed: int, index: int) -> int:
    """The seed of sentence ``index``.

    The first keeps ``seed``. The others are scrambled (splitmix64), so that sentences do not share
    their random numbers.
    """
    if index == 0:
        return seed
    mask = (1 << 64) - 1
    z = (seed + index * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & MAX_SEED


def make_plan(model: Model, task_name: str, request: Mapping[str, Any]) -> Plan:
    """Check a request (inputs and options by name) and lay out its work.

    Raises :class:`InputError` for anything wrong with it, before the language model has run.
    """
    task = model.task(task_name)
    names = {o.name for o in task.options}
    given = {k: v for k, v in request.items() if k not in names and v is not None}
    task.check_inputs(given)
    options: dict[str, Any] = dict(
        task.check_options({k: v for k, v in request.items() if k in names})
    )
    meta: dict[str, Any] = {"notes": []}
    flush_after = read_flush_after(given.pop("flush_after", FLUSH_AFTER))
    answered = not options.get("postfilter")
    inputs = read_inputs(model, task, given, meta, answered)
    pieces: Iterable[Piece]
    if not answered:
        pieces = _filtered_pieces(model, options, inputs)
    elif task.text_input is None:
        sequence = _sequence(model, task, options, inputs.values)
        if inputs.windows is None:
            pieces = [_piece(model, options, sequence, int(options["seed"]))]
        else:
            windowed = _window_pieces(model, options, sequence, inputs.windows)
            pieces = itertools.chain([next(windowed)], windowed)
    else:
        return _spoken_plan(model, task, options, inputs, given, flush_after)
    voice: Any = None
    if task.filter == "voice_filter" and task.shared_prompt is not None:
        voice = inputs.values[task.shared_prompt.name]
    return Plan(
        task, options, pieces, meta, inputs.source, inputs.span, inputs.windows, voice, answered
    )


def _sequence(model: Model, task: Task, options: Mapping[str, Any], values: Values) -> Guided:
    sequence = build(model.layout, task, values)
    guided = task.guided_by == "prompt" and options["guidance"] != 1.0
    return Guided(sequence, sequence.unconditional() if guided else None)


def _piece(model: Model, options: Mapping[str, Any], sequence: Guided, seed: int) -> Piece:
    """A piece without planned durations: the task's length rule gives its frames."""
    known, task = sequence.conditional, sequence.conditional.task
    room = model.capacity - len(known)
    min_frames: int | None = None
    if task.length == "one":
        frames = 1
    elif task.length == "source":
        frames = known.source_frames
    elif task.length == "text" and options["seconds"] is None:
        slot = model.layout.text_slot
        assert slot is not None
        longest = _MORE_FRAMES + math.ceil(slot.max_frames_per_token * known.tokens)
        frames, min_frames = max(1, min(room, longest)), 0
    elif options["seconds"] is not None:
        frames = max(1, round(options["seconds"] * model.frame_rate))
    else:  # of the known frames all but the target's start token count, as in UniAudio's inference
        frames = min(room, int((len(known) - 1) * options["max_ratio"]))
        min_frames = max(0, min(frames, int((len(known) - 1) * options["min_ratio"]) - 1))
    if not 1 <= frames <= room:
        most = max(0, room) / model.frame_rate
        raise InputError(
            f"{task.name}: expected up to {most:.3g} s with this input, got "
            f"{frames / model.frame_rate:.3g} s"
        )
    return Piece(sequence, seed, frames, min_frames)


def _window_pieces(
    model: Model, options: Mapping[str, Any], sequence: Guided, windows: SourceWindows
) -> Iterator[Piece]:
    """A piece for each window of a long source."""
    spec = sequence.conditional.task.aligned_input
    assert spec is not None
    for index, window in enumerate(windows):
        if index:
            sequence = sequence.changed(window_values(model, spec, window))
        piece = _piece(model, options, sequence, piece_seed(int(options["seed"]), index))
        yield replace(piece, window=window)


def _filtered_pieces(
    model: Model, options: Mapping[str, Any], inputs: RequestInputs
) -> Iterator[Piece]:
    """A piece of the source, or of each of its windows, that the language model does not answer."""
    assert inputs.source is not None
    size, seed = model.config.codec.frame_size, int(options["seed"])
    if inputs.windows is None:
        yield Piece(None, seed, math.ceil(len(inputs.source.samples) / size))
        return
    for window in inputs.windows:
        yield Piece(None, seed, math.ceil(len(window.samples) / size), window=window)


# Spoken text


def _spoken_plan(
    model: Model,
    task: Task,
    options: dict[str, Any],
    inputs: RequestInputs,
    given: dict[str, Any],
    flush_after: float,
) -> Plan:
    spec = task.text_input
    assert spec is not None
    if options.get("best_of", 1) > 1:
        _ = model.hearing  # raises where the model cannot choose
    plan = Plan(task, options, (), inputs.meta, inputs.source, inputs.span, inputs.windows)
    text: Any = given.get(spec.name)
    if is_live(text):
        if task.finish or task.target != "audio":
            raise InputError(
                f"{task.name}: {spec.name}: expected a string, got {type(text).__name__}; this task "
                "needs the whole text at once"
            )
        plan.live = given[spec.name] = LiveText(text, spec.name, flush_after)
    try:
        spoken = _spoken_pieces(model, plan, inputs, given, spec)
        # The first at once: it shows bad input.
        plan.arriving = itertools.chain([next(spoken)], spoken)
    except BaseException:
        plan.close()
        raise
    plan.pieces = _blocking(plan)
    return plan


def _blocking(plan: Plan) -> Iterator[Piece]:
    try:
        for piece in plan.arriving:
            if isinstance(piece, Wait):
                piece.block()
            else:
                yield piece
    finally:
        plan.close()


def _spoken_pieces(
    model: Model, plan: Plan, inputs: RequestInputs, given: Mapping[str, Any], spec: Input
) -> Iterator[Piece | Wait]:
    """A piece for each sentence of the text; several where a sentence is too long for the KV cache."""
    task, options = plan.task, plan.options
    inputs.meta["sentences"] = 0
    no_phones = Spoken(np.zeros(0, np.int32))
    sequence = _sequence(model, task, options, {**inputs.values, spec.name: no_phones})
    room = model.capacity - len(sequence.conditional) - 2
    most = room // (1 + 1 + _FRAMES_PER_PHONE)  # a phone, its duration, its frames
    if task.length == "text":  # the whole sentence, where there is room for its frames
        most = room // 2
    seed, index = int(options["seed"]), itertools.count()
    for sentence in _sentences(model, plan, given, spec):
        if isinstance(sentence, Wait):
            yield sentence
            continue
        # An edit speaks words in the middle of a sentence, without pauses around them.
        is_edit = inputs.span is not None and given.get("phones") is None
        labels = phone_labels(sentence, inputs.meta["sentences"])
        labels = _without_pauses(labels) if is_edit else labels
        inputs.meta["sentences"] += 1
        runs = split_phones(
            _phone_ids(model, spec, [p for _, p, _ in labels]), most, model.pause_id
        )
        begin = 0
        for i, run in enumerate(runs):
            order = next(index)
            one = piece_seed(seed, order)
            if task.length == "durations":
                yield Piece(
                    sequence.with_phones(run),
                    one,
                    labels=tuple(labels[begin : begin + len(run)]),
                    rate=sentence.rate,
                    pause=sentence.pause if i == len(runs) - 1 and not is_edit else None,
                    order=(order,),
                )
                begin += len(run)
                continue
            if spec.collapse:
                run = run[np.concatenate(([True], run[1:] != run[:-1]))]
            yield _piece(model, options, sequence.with_phones(run), one)


def split_phones(phones: Ids, most: int, pause: int) -> list[Ids]:
    """Runs of at most ``most`` phones, split after the pause nearest to the middle, or in the
    middle where there is none near it.
    """
    if len(phones) <= max(1, most):
        return [phones]
    middle = len(phones) / 2
    cuts = [i + 1 for i in range(len(phones) - 1) if phones[i] == pause]
    cut = min(cuts, key=lambda c: abs(c - middle), default=0)
    if not len(phones) / 8 <= cut <= len(phones) * 7 / 8:
        cut = int(middle)
    return split_phones(phones[:cut], most, pause) + split_phones(phones[cut:], most, pause)


def _sentences(
    model: Model, plan: Plan, given: Mapping[str, Any], spec: Input
) -> Iterator[Sentence | Wait]:
    """The sentences of the text, or of ``phones``: a string with one sentence per line, or a list."""
    phones = given.get("phones")
    if phones is not None:
        if not isinstance(phones, (str, list, tuple)) or not all(
            isinstance(p, str) for p in phones
        ):
            raise InputError(f"phones: expected phones separated by spaces, got {shown(phones)}")
        lines = (
            [line.split() for line in phones.splitlines()]
            if isinstance(phones, str)
            else [list(phones)]
        )
        if not any(lines):
            raise InputError(
                "phones: expected phones separated by spaces, got none; write for example 'hh "
                "ax0 l ow1'"
            )
        return iter([model.spelled(line) for line in lines if line])
    text, meta = given[spec.name], plan.meta
    if plan.live is None:
        if not isinstance(text, str):
            raise InputError(f"{spec.name}: expected a string, got {type(text).__name__}")
        if not text.strip():
            raise InputError(f"{spec.name}: expected words to speak, got an empty text; write some")
        meta["text"] = text
    how: dict[str, Any] = {
        "markup": given.get("markup", "auto"),
        "lexicon": read_pronunciations(given["lexicon"]) if "lexicon" in given else None,
        "paragraph_pause": plan.options.get("paragraph_pause"),
    }
    if plan.live is None:
        return _checked(model.sentences(text, **how), spec.name, plan)
    sentences = plan.live.sentences(plan.playback, model.live_sentences(**how))
    return _checked(sentences, spec.name, plan)


def _without_pauses(labels: list[Label]) -> list[Label]:
    """Without a pause at the beginning or at the end."""
    begin = 1 if len(labels) > 1 and not labels[0][0].text else 0
    end = len(labels) - (1 if len(labels) > begin + 1 and not labels[-1][0].text else 0)
    return labels[begin:end]


def _checked(
    sentences: Iterable[Sentence | Wait], name: str, plan: Plan
) -> Iterator[Sentence | Wait]:
    """The sentences; notes what was left out of them."""
    unread, at = "", 0
    try:
        for sentence in sentences:
            if not isinstance(sentence, Wait) and sentence.unread and len(unread) < _MOST_UNREAD:
                notes: list[str] = plan.meta["notes"]
                at = len(notes) if not unread else at
                unread += sentence.unread[: _MOST_UNREAD - len(unread)]
                note = f"{name}: left out {shown(unread)}, which has no English reading"
                notes[at : at + 1] = [note]
            yield sentence
    except ValueError as e:
        if isinstance(e, InputError) or not (plan.live is None or isinstance(e, NothingToSpeak)):
            raise  # as it is, if it is the source's own
        raise InputError(f"{name}: {e}") from None
    if plan.live is not None:
        plan.meta["text"] = plan.live.text


def _phone_ids(model: Model, spec: Input, phones: Iterable[str]) -> Ids:
    """Ids of phones by label; whole numbers stand for themselves."""
    index, phones = model.label_ids(spec.segment), list(phones)
    size = model.layout.vocabulary.span(spec.segment).size
    numbers = [index.get(p, int(p) if p.isdecimal() and len(p) < 9 else -1) for p in phones]
    unknown = sorted({shown(p) for p, n in zip(phones, numbers, strict=True) if not 0 <= n < size})
    if not unknown:
        return np.array(numbers, np.int32)
    known = f"numbers up to {size - 1}"
    if index:
        known = " ".join(index) if len(index) < 100 else f"its {len(index)} labels"
    raise InputError(f"phones: this model does not know {first_few(unknown)}; it has {known}")
