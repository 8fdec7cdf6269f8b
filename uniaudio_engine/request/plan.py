"""From a task and its inputs to pieces of work: token prefixes, and how much is to be generated
after each.

A long text becomes one piece a sentence. All pieces of a plan share ``shared`` (the voice), whose
KV cache is made once and forked. Not responsible for running the pieces: that is ``stream.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, first_few, shown
from ..text import PAUSE
from . import aligned as aligned_rows
from .inputs import Beside, hide_span, read_beside, read_context, read_segment, read_span
from .sequence import Ids, Layout, Prefix, join, phone_segment, segment
from .tasks import MAX_SEED, Input, Task

if TYPE_CHECKING:
    from ..engine import Engine

# A sentence is cut before its durations are known when even this many frames a phone (0.2 s at 50
# Hz) would not fit.
_FRAMES_A_PHONE = 10
_Part = tuple[Prefix, Prefix]  # of the sequence, and the same with its caption left empty
Sides = tuple[
    list[Prefix], "list[Prefix] | None"
]  # successive parts, and under guidance the same without captions


@dataclass(frozen=True)
class Piece:
    """One run of the model: feed ``shared`` and ``body``, then generate.

    With ``phones`` [P]: a duration for each, then the audio. Without: exactly ``frames`` frames, or
    where ``least`` is not None between ``least`` and ``frames``, until the model ends it;
    ``aligned`` [frames, S] rides beside them.

    ``lead``: frames [n, K] of the target that are known, and their aligned rows [n, S]; they come
    before those that are generated. ``plain``, under guidance: ``body`` without what is in its
    captions. ``rest``, of a piece with phones: what stands between ``shared`` and them, in ``body``
    and in ``plain``.
    """

    shared: Prefix
    body: Prefix
    seed: int
    phones: Ids | None = None
    frames: int = 0
    least: int | None = None
    aligned: Ids | None = None
    plain: Prefix | None = None
    lead: tuple[Ids, Ids] | None = None
    rest: Sides = ([], None)


@dataclass
class Plan:
    """``pieces`` in order, to be iterated once: a long text is turned into phones while its
    beginning is spoken.

    ``meta`` is what the result will say about its inputs. For tasks that finish on their source:
    its samples [N], its codes [T, K'], and the frames [begin, end) that are replaced.
    """

    task: Task
    options: dict[str, Any]
    pieces: Iterable[Piece]
    meta: dict[str, Any] = field(default_factory=dict)
    source: Beside | None = None
    span: tuple[int, int] | None = None


def piece_seed(seed: int, index: int) -> int:
    """The seed of sentence ``index``: the first keeps ``seed``; the others are scrambled
    (splitmix64), so that sentences do not share their random numbers.
    """
    if index == 0:
        return seed
    mask = (1 << 64) - 1
    z = (seed + index * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & MAX_SEED


def make_plan(
    engine: Engine, task: Task, inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> Plan:
    """Check everything and lay out the work; the model has not run yet when this raises
    :class:`InputError`.
    """
    given = {k: v for k, v in inputs.items() if v is not None}
    task.check_inputs(given)
    values = task.check_options(options)
    layout = engine.layout
    meta: dict[str, Any] = {"notes": []}
    # What all pieces have in common is heard once: the task, and the voice where it comes first.
    # `before` and `after` are the rest, around the text where there is one.
    start = Prefix(layout.special("start", task.special))
    shared: list[_Part] = [(start, start)]
    before: list[_Part] = []
    after: list[_Part] = []
    part = shared
    text: Input | None = None
    beside: Beside | None = None
    span: tuple[int, int] | None = None
    source_frames = 0
    for spec in task.inputs:
        value = given.get(spec.name)
        if spec.modality == "span":
            continue
        if spec.modality == "text":
            text, part = spec, after
            continue
        hides = next(
            (i for i in task.inputs if i.modality == "span" and i.segment == spec.name), None
        )
        if spec.place == "aligned":
            beside = read_beside(engine, spec, value, meta)
            source_frames = len(beside.rows)
            if hides is not None:
                span = (0, source_frames)
                if given.get(hides.name) is not None:
                    span = read_span(engine, hides, given[hides.name], source_frames, meta)
                aligned_rows.put_edit(layout, beside.rows, *span)
            continue
        if spec.modality == "context":
            beside = read_context(engine, spec, value, meta)
            assert hides is not None and beside.codes is not None
            span = read_span(engine, hides, given[hides.name], len(beside.codes), meta)
            around = aligned_rows.edit_context(beside.codes, *span)[:, : layout.num_codebooks]
            part.append(
                _segment(
                    layout, spec.segment, Prefix(layout.codes_to_frames(around)), spec.modality
                )
            )
            continue
        if spec.modality != "voice" and part is shared:
            part = before
        if value is None and spec.modality != "voice":
            tokens = Prefix(layout.fill([]))
        else:
            tokens = read_segment(engine, spec, value, meta)
        if hides is not None and given.get(hides.name) is not None:
            tokens = hide_span(engine, hides, given[hides.name], tokens, meta)
        if spec.name == "source":
            source_frames = len(tokens)
        part.append(_segment(layout, spec.segment, tokens, spec.modality))
    if task.length != "durations":
        target = Prefix(layout.special(f"{task.target}_start"))
        after.append((target, target))
    prefix = join(p for p, _ in shared)
    guided = values.get("guidance", 1.0) != 1.0
    seed = int(values["seed"])
    if text is None:
        piece = _piece(
            engine, task, values, prefix, _sides(before + after, guided), seed, source_frames
        )
        if beside is not None:
            begin, end = (
                span if span is not None and task.finish == "span" else (0, len(beside.rows))
            )
            piece = replace(piece, frames=end - begin, aligned=beside.rows[begin:end])
            if begin:  # an edit goes on from the source as it is
                assert beside.codes is not None
                piece = replace(
                    piece,
                    lead=(
                        layout.codes_to_frames(beside.codes[:begin, : layout.num_codebooks]),
                        beside.rows[:begin],
                    ),
                )
        return Plan(task, values, [piece], meta, beside, span)
    meta["sentences"] = 0
    sentences = _sentences(engine, given, text, meta)
    if (
        span is not None and given.get("phones") is None
    ):  # words in the middle of a sentence: no pauses around them
        sentences = (_without_pauses(s) for s in sentences)
    spoken = _spoken(engine, task, text, values, sentences, prefix, before, after, guided, meta)
    pieces = itertools.chain([next(spoken)], spoken)  # the first at once: it shows bad input
    return Plan(task, values, pieces, meta, beside, span)


def _segment(layout: Layout, name: str, tokens: Prefix, modality: str) -> _Part:
    """``<name_start> tokens <name_end>``."""
    begin, end = (Prefix(layout.special(f"{name}_{side}")) for side in ("start", "end"))
    whole = join([begin, tokens, end])
    return whole, join([begin, end]) if modality == "caption" else whole


def _sides(parts: list[_Part], guided: bool) -> Sides:
    return [p for p, _ in parts], [p for _, p in parts] if guided else None


def _joined(sides: Sides) -> tuple[Prefix, Prefix | None]:
    told, untold = sides
    return join(told), None if untold is None else join(untold)


def _piece(
    engine: Engine,
    task: Task,
    values: Mapping[str, Any],
    shared: Prefix,
    sides: Sides,
    seed: int,
    source: int,
) -> Piece:
    """A piece without planned durations: how many frames it makes follows from the task's length
    rule.
    """
    body, plain = _joined(sides)
    known = len(shared) + len(body)
    room = engine.capacity - known
    least: int | None = None
    if task.length == "one":
        frames = 1
    elif task.length == "source":
        frames = source
    elif values["seconds"] is not None:
        frames = max(1, round(values["seconds"] * engine.frame_rate))
    else:  # the frames before the target's start token count, as in UniAudio's inference
        frames = min(room, int((known - 1) * values["max_ratio"]))
        least = max(0, min(frames, int((known - 1) * values["min_ratio"]) - 1))
    if not 1 <= frames <= room:
        most = max(0, room) / engine.frame_rate
        raise InputError(
            f"{task.name}: expected up to {most:.3g} s beside this input, got "
            f"{frames / engine.frame_rate:.3g} s"
        )
    aligned = None
    if task.length == "seconds" and any(
        s.name == "time_left" for s in engine.layout.vocabulary.aligned_spans
    ):
        aligned = engine.layout.no_aligned(frames)
        aligned_rows.put_time_left(engine.layout, aligned)
    return Piece(shared, body, seed, None, frames, least, aligned, plain)


def _spoken(
    engine: Engine,
    task: Task,
    spec: Input,
    values: Mapping[str, Any],
    sentences: Iterator[list[str]],
    shared: Prefix,
    before: list[_Part],
    after: list[_Part],
    guided: bool,
    meta: dict[str, Any],
) -> Iterator[Piece]:
    """A piece for each sentence; more where one is too long for the KV cache."""
    layout, seed = engine.layout, int(values["seed"])
    rest = _sides(before + after, guided)
    most = (engine.capacity - len(shared) - sum(map(len, rest[0])) - 5) // (2 + _FRAMES_A_PHONE)
    index = itertools.count()
    for sentence in sentences:
        meta["sentences"] += 1
        for run in split_phones(_phone_ids(engine, sentence), most, engine.pause_id):
            one = piece_seed(seed, next(index))
            if task.length == "durations":
                yield phone_piece(layout, shared, run, one, rest)
                continue
            if spec.collapse:
                run = run[np.concatenate(([True], run[1:] != run[:-1]))]
            phones = Prefix(segment(layout, spec.segment, layout.tokens(spec.segment, run)))
            yield _piece(
                engine,
                task,
                values,
                shared,
                _sides([*before, (phones, phones), *after], guided),
                one,
                0,
            )


def phone_piece(layout: Layout, shared: Prefix, phones: Ids, seed: int, rest: Sides) -> Piece:
    """A sentence whose durations are to be planned; ``rest``: what comes between the voice and the
    phones.
    """
    spoken = Prefix(phone_segment(layout, phones))
    told, untold = rest
    body, plain = _joined(([*told, spoken], None if untold is None else [*untold, spoken]))
    return Piece(shared, body, seed, phones, plain=plain, rest=rest)


def split_phones(phones: Ids, most: int, pause: int) -> list[Ids]:
    """Runs of at most ``most`` phones: cut after the pause nearest to the middle, or where there is
    none, there.
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
    engine: Engine, given: Mapping[str, Any], spec: Input, meta: dict[str, Any]
) -> Iterator[list[str]]:
    """Phones, sentence by sentence, from ``text`` or from ``phones`` (a string, one line a
    sentence, or a list).
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
    return _phones_of(engine.sentences(text), spec.name)


def _without_pauses(phones: list[str]) -> list[str]:
    """Without the pause that a sentence begins with, and the one that it ends with."""
    begin = 1 if len(phones) > 1 and phones[0] == PAUSE else 0
    end = len(phones) - (1 if len(phones) > begin + 1 and phones[-1] == PAUSE else 0)
    return phones[begin:end]


def _phones_of(sentences: Iterable[Any], name: str) -> Iterator[list[str]]:
    try:
        for sentence in sentences:
            yield sentence.phones
    except InputError:
        raise
    except ValueError as e:  # nothing in it can be spoken
        raise InputError(f"{name}: {e}") from None


def _phone_ids(engine: Engine, phones: Iterable[str]) -> Ids:
    """Ids of phones by label; whole numbers stand for themselves."""
    index, phones = engine.label_ids("phone"), list(phones)
    size = engine.layout.vocabulary.span("phone").size
    numbers = [index.get(p, int(p) if p.isdecimal() and len(p) < 9 else -1) for p in phones]
    unknown = sorted({shown(p) for p, n in zip(phones, numbers, strict=True) if not 0 <= n < size})
    if unknown:
        known = (
            " ".join(index)
            if len(index) < 100
            else f"its {len(index)} labels"
            if index
            else f"numbers up to {size - 1}"
        )
        raise InputError(f"phones: this model does not know {first_few(unknown)}; it has {known}")
    return np.array(numbers, np.int32)
