"""The core's sampling settings for each kind of token: audio, durations, or another target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..backends.core import core
from .sequence import Layout
from .tasks import Task

if TYPE_CHECKING:
    from .._C import Sampling

Ranges = list[list[tuple[int, int]]]
_COLDEST = 1e-6
Options = Mapping[str, Any]  # checked options of a request: whole numbers, floats, None


def audio_sampling(layout: Layout, options: Options, seed: int) -> Sampling:
    """For audio frames of a known number."""
    if layout.text_slot is not None:
        return _text_slot_sampling(layout, options, seed, None)
    return make_sampling(options, seed, options["temperature"], layout.audio_ranges())


def target_sampling(
    layout: Layout, task: Task, options: Options, seed: int, min_frames: int | None
) -> Sampling:
    """For the frames of a task's target.

    With ``min_frames`` the model may end the target after that many: the end token is then allowed
    in every slot, and the frame that holds it is not part of the result, as in UniAudio's own
    inference.
    """
    if layout.text_slot is not None:
        return _text_slot_sampling(layout, options, seed, min_frames)
    target = task.target
    ranges = layout.audio_ranges() if target == "audio" else layout.span_ranges(target)
    if min_frames is None:
        return make_sampling(options, seed, options["temperature"], ranges)
    return make_sampling(
        options,
        seed,
        options["temperature"],
        ranges,
        end_id=layout.vocabulary.special(f"{target}_end"),
        end_slots="any",
        min_frames=min_frames,
    )


def duration_sampling(layout: Layout, options: Options, seed: int) -> Sampling:
    """For duration tokens: one id in all slots."""
    return make_sampling(
        {"top_k": 0, "top_p": options["top_p"]},
        seed,
        options["duration_temperature"],
        layout.span_ranges("duration"),
        tie_slots=True,
    )


def make_sampling(
    options: Options, seed: int, temperature: float, allowed: Ranges, **more: Any
) -> Sampling:
    """``_C.Sampling`` from checked options.

    Temperature 0 is greedy. So is one so close to it that logits divided by it would overflow.

    ``allowed``: per slot the id ranges (start, size) that may be drawn.
    """
    return core().Sampling(seed=seed, allowed=allowed, **_drawing(options, temperature), **more)


def _drawing(options: Options, temperature: float) -> dict[str, Any]:
    """How an id is drawn from its logits."""
    greedy = temperature < _COLDEST
    return {
        "temperature": 1.0 if greedy else temperature,
        "greedy": greedy,
        "top_k": options.get("top_k", 0),
        "top_p": options.get("top_p", 1.0),
        "repetition_window": options.get("repetition_window", 0),
        "repetition_penalty": options.get("repetition_penalty", 1.0),
    }


def _text_slot_sampling(
    layout: Layout, options: Options, seed: int, min_frames: int | None
) -> Sampling:
    """For frames with a slot of text; see ``TextSlotConfig``."""
    slot = layout.text_slot
    assert slot is not None
    ranges, at = layout.audio_ranges(), 0 if slot.position == "first" else layout.num_codebooks
    forced, more = [-1] * layout.slots, dict[str, Any]()
    text = _drawing({"top_k": slot.top_k, "top_p": slot.top_p}, slot.temperature)
    if min_frames is not None and slot.end >= 0:
        more = {"end_id": layout.text_id(slot.end), "min_frames": min_frames}
        if slot.forced:
            span = layout.vocabulary.span("text")
            text, ranges[at] = {"greedy": True}, [(span.start, span.size)]
            forced[at] = layout.text_id(slot.speaking)
    if slot.end < 0 and slot.words is None:
        forced[at] = layout.text_id(slot.speaking)
    if min_frames is not None and slot.end_code >= 0:
        more |= {"end_frame": layout.end_frame(), "min_frames": min_frames}
    if min_frames is not None and slot.end_token:
        least = max(min_frames, slot.least_frames)
        more |= {"end_id": layout.vocabulary.special("end"), "min_frames": least}
    audio = core().Sampling(**_drawing(options, options["temperature"]))
    slots = [audio] * layout.num_codebooks
    if slot.guard == "first":
        free = {**options, "repetition_window": 0, "repetition_penalty": 1.0}
        slots[1:] = [core().Sampling(**_drawing(free, options["temperature"]))] * (len(slots) - 1)
    slots[at:at] = [core().Sampling(**text)] * (1 + layout.given_slots)
    return core().Sampling(
        seed=seed,
        allowed=ranges,
        keep_end_frame=slot.keep_end_frame,
        forced=forced,
        slots=slots,
        **more,
    )
