"""From a request to a plan: pieces of work, each a sequence and how much to generate after it.

A long text becomes one piece per sentence. All pieces of a plan share the beginning of their
sequence (the voice), whose KV cache is computed once. Not responsible for running the pieces: that
is ``steps.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError, first_few, shown
from ..model import Model
from ..text import PAUSE, Sentence
from .inputs import RequestInputs, SourceSound, read_inputs
from .options import MAX_SEED
from .sequence import Ids
from .sequence_builder import Guided, Spoken, Values, build
from .tasks import Input, Task

# Before a sentence's durations are known, each phone is assumed to take this many frames (0.2 s at
# 50 Hz); a sentence that would not fit is split.
_FRAMES_PER_PHONE = 10


@dataclass(frozen=True)
class Piece:
    """One run of the model.

    A sequence with spoken phones is followed by a duration for each, then by the audio. Any other
    is followed by a target of exactly ``frames`` frames; or, with ``min_frames``, by one of
    ``min_frames`` to ``frames``, which the model ends.
    """

    sequence: Guided
    seed: int
    frames: int = 0
    min_frames: int | None = None


@dataclass
class Plan:
    """``pieces`` in order. Iterate over them once: a long text is turned into phones while its
    beginning is spoken.

    ``options``: all options of the task with their values. ``meta``: what the result says about its
    inputs. ``source`` and ``span``: for tasks whose result is fitted to a source, the sound and the
    frames [begin, end) of it that are replaced.
    """

    task: Task
    options: dict[str, Any]
    pieces: Iterable[Piece]
    meta: dict[str, Any] = field(default_factory=dict)
    source: SourceSound | None = None
    span: tuple[int, int] | None = None

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
    inputs = read_inputs(model, task, given, meta)
    pieces: Iterable[Piece]
    if task.text_input is None:
        sequence = _sequence(model, task, options, inputs.values)
        pieces = [_piece(model, options, sequence, int(options["seed"]))]
    else:
        spoken = _spoken_pieces(model, task, options, inputs, given, task.text_input)
        pieces = itertools.chain([next(spoken)], spoken)  # the first at once: it shows bad input
    return Plan(task, options, pieces, meta, inputs.source, inputs.span)


def _sequence(model: Model, task: Task, options: Mapping[str, Any], values: Values) -> Guided:
    sequence = build(model.layout, task, values)
    guided = options.get("guidance", 1.0) != 1.0
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


# Spoken text


def _spoken_pieces(
    model: Model,
    task: Task,
    options: Mapping[str, Any],
    inputs: RequestInputs,
    given: Mapping[str, Any],
    spec: Input,
) -> Iterator[Piece]:
    """A piece for each sentence of the text; several where a sentence is too long for the KV cache."""
    inputs.meta["sentences"] = 0
    no_phones = Spoken(np.zeros(0, np.int32))
    sequence = _sequence(model, task, options, {**inputs.values, spec.name: no_phones})
    room = model.capacity - len(sequence.conditional) - 2
    most = room // (1 + 1 + _FRAMES_PER_PHONE)  # a phone, its duration, its frames
    seed, index = int(options["seed"]), itertools.count()
    for sentence in _sentences(model, given, spec, inputs.meta):
        # An edit speaks words in the middle of a sentence, without pauses around them.
        is_edit = inputs.span is not None and given.get("phones") is None
        phones = _without_pauses(sentence) if is_edit else sentence
        inputs.meta["sentences"] += 1
        for run in split_phones(_phone_ids(model, phones), most, model.pause_id):
            one = piece_seed(seed, next(index))
            if task.length == "durations":
                yield Piece(sequence.with_phones(run), one)
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
    model: Model, given: Mapping[str, Any], spec: Input, meta: dict[str, Any]
) -> Iterator[list[str]]:
    """The phones of each sentence, from the text or from ``phones``: a string with one sentence per
    line, or a list.
    """
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
        return iter([line for line in lines if line])
    text = given[spec.name]
    if not isinstance(text, str):
        raise InputError(f"{spec.name}: expected a string, got {type(text).__name__}")
    if not text.strip():
        raise InputError(f"{spec.name}: expected words to speak, got an empty text; write some")
    meta["text"] = text
    return _phones_of(model.sentences(text), spec.name)


def _without_pauses(phones: list[str]) -> list[str]:
    """Without a pause at the beginning or at the end."""
    begin = 1 if len(phones) > 1 and phones[0] == PAUSE else 0
    end = len(phones) - (1 if len(phones) > begin + 1 and phones[-1] == PAUSE else 0)
    return phones[begin:end]


def _phones_of(sentences: Iterable[Sentence], name: str) -> Iterator[list[str]]:
    try:
        for sentence in sentences:
            yield sentence.phones
    except InputError:
        raise
    except ValueError as e:  # nothing in it can be spoken
        raise InputError(f"{name}: {e}") from None


def _phone_ids(model: Model, phones: Iterable[str]) -> Ids:
    """Ids of phones by label; whole numbers stand for themselves."""
    index, phones = model.label_ids("phone"), list(phones)
    size = model.layout.vocabulary.span("phone").size
    numbers = [index.get(p, int(p) if p.isdecimal() and len(p) < 9 else -1) for p in phones]
    unknown = sorted({shown(p) for p, n in zip(phones, numbers, strict=True) if not 0 <= n < size})
    if not unknown:
        return np.array(numbers, np.int32)
    known = f"numbers up to {size - 1}"
    if index:
        known = " ".join(index) if len(index) < 100 else f"its {len(index)} labels"
    raise InputError(f"phones: this model does not know {first_few(unknown)}; it has {known}")
