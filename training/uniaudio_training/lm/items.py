"""Token shards -> training items: what each task's sequence is made of, in frames and ids, and the sequence itself.

The one place that says how a corpus label becomes a sequence; the engine's ``plan.py`` makes the same one from a request, and
``tests/engine/test_joint_tasks.py`` holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uniaudio_engine import guides
from uniaudio_engine.captions import CaptionTokenizer
from uniaudio_engine.sequence import Layout, Sequence, build_sequence
from uniaudio_engine.text.phones import PHONES

from ..corpus.schema import Label, Phone

VOICED = ("tts", "vc", "tse", "svs", "s_edit")  # tasks whose sequence has a voice prompt
SHARED = ("tts", "vc", "svs")  # of these, any other clip of the speaker will do as prompt
SINGING = "svs"  # singers' prompts are sung: they are a pool of their own
FRAME_RATE = 50.0
_PHONE_ID = {p: i for i, p in enumerate(PHONES)}


@dataclass(frozen=True)
class Item:
    """One example, ready to become a sequence.  ``codes`` [T, K'] of the target, K' >= the LM's K.

    ``prompt`` [T', K'] is given where only this one fits; tasks in ``SHARED`` take one of the ``speaker``.
    """

    task: str
    codes: np.ndarray
    speaker: str = ""
    prompt: np.ndarray | None = None
    source: np.ndarray | None = None  # codes [T, K'] that go along with the target
    units: np.ndarray | None = None  # semantic units [T] of the source
    caption: np.ndarray | None = None  # ids
    phones: np.ndarray | None = None
    durations: np.ndarray | None = None  # frames of each phone
    pitches: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # notes and rests in order
    note_frames: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    edit: tuple[int, int] | None = None  # frames that are made anew

    @property
    def predicts_durations(self) -> bool:
        return self.phones is not None and self.task != SINGING


def frame_durations(ends: Any, frames: int) -> np.ndarray | None:
    """End times [P] in s -> frames of each [P], at least 1, summing to ``frames``; None where they cannot fit."""
    count = len(ends)
    if count == 0 or frames < count:
        return None
    bounds = np.round(np.asarray(ends) * FRAME_RATE).astype(np.int64)
    bounds[-1] = frames
    for i in range(count):  # forwards: every phone has a frame; backwards: room for those that follow
        bounds[i] = max(bounds[i], (bounds[i - 1] if i else 0) + 1)
    bounds[-1] = frames
    for i in range(count - 2, -1, -1):
        bounds[i] = min(bounds[i], bounds[i + 1] - 1)
    return np.diff(bounds, prepend=0)


def phone_ids(phones: tuple[Phone, ...]) -> np.ndarray:
    return np.array([_PHONE_ID[p.phone] for p in phones], np.int64)


def song_notes(label: Label, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(pitches, frames each) of a song, rests between its notes as pitch 0, together ``frames`` long."""
    pitches, bounds = [], []
    for note in label.notes:
        start, end = (min(frames, round(t * FRAME_RATE)) for t in (note.start, note.start + note.duration))
        if start > (bounds[-1] if bounds else 0):
            pitches.append(0)
            bounds.append(start)
        pitches.append(note.pitch)
        bounds.append(end)
    pitches.append(0)
    bounds.append(frames)
    return np.array(pitches), np.diff(np.maximum.accumulate(np.array(bounds)), prepend=0)


def make_item(label: Label, tracks: dict[str, np.ndarray], units: np.ndarray | None, captions: CaptionTokenizer | None) -> Item | None:
    """The item of one label; ``tracks``: role -> codes [T, K'].  None where it cannot be one (no room for its phones)."""
    codes, task = tracks["target"], label.task
    target = label.tracks["target"]
    more: dict[str, Any] = {"speaker": target.speaker}
    if task in ("tts", "i_tts", "svs"):
        durations = frame_durations([p.end for p in target.phones], len(codes))
        if durations is None:
            return None
        more.update(phones=phone_ids(target.phones), durations=durations)
    if label.caption:
        if captions is None:
            raise ValueError(f"{label.id}: expected a caption tokenizer for a task with captions, got none")
        more["caption"] = captions.encode(label.caption)
    if task in ("se", "tse", "sd", "a_edit"):
        more["source"] = tracks["source"]
    if task == "tse":
        more["prompt"] = tracks["prompt"]
    if task == "svs":
        more["pitches"], more["note_frames"] = song_notes(label, len(codes))
    if task == "vc":
        if units is None:
            return None
        more["units"] = units
    if task == "a_edit" and label.edit is not None:
        begin, end = label.edit.target.start // 320, -(-label.edit.target.end // 320)
        more["edit"] = (begin, min(end, len(codes)))
    if task == "s_edit":
        return _speech_edit(label, codes, more)
    for name in ("source", "units"):
        if name in more and len(more[name]) != len(codes):
            raise ValueError(f"{label.id}: expected {name} of {len(codes)} frames, got {len(more[name])}")
    return Item(task, codes, **more)


def _speech_edit(label: Label, codes: np.ndarray, more: dict[str, Any]) -> Item | None:
    """The words of the edited span alone; what is around them is their voice prompt, what comes before last."""
    assert label.edit is not None
    span = label.edit.target
    begin, end = span.start // 320, min(len(codes), -(-span.end // 320))
    target = label.tracks["target"]
    ends = np.array([p.end for p in target.phones]) * FRAME_RATE
    starts = np.concatenate(([0.0], ends[:-1]))
    inside = np.flatnonzero((np.minimum(ends, end) - np.maximum(starts, begin)) > 0.25)
    if end - begin < 2 or not len(inside):
        return None
    durations = frame_durations((np.minimum(ends[inside], end) - begin) / FRAME_RATE, end - begin)
    if durations is None:
        return None
    prompt = guides.edit_context(codes, begin, end)
    if len(prompt) < 25:
        return None
    return Item("s_edit", codes[begin:end], prompt=prompt, phones=phone_ids(target.phones)[inside], durations=durations, **more)


def item_sequence(layout: Layout, item: Item, prompt: np.ndarray | None) -> Sequence:
    """The sequence of an item; ``prompt`` codes [T', K'] for tasks that have a voice, empty for "no voice given"."""
    k = layout.num_codebooks
    frames = len(item.codes)
    if item.phones is not None:
        rows = guides.phone_rows(layout, item.phones, item.durations)
    else:
        rows = layout.no_guide(frames)
    if len(item.pitches):
        guides.put_notes(layout, rows, item.pitches, item.note_frames)
    if item.units is not None:
        guides.put_units(layout, rows, item.units)
    if item.source is not None:
        guides.put_source(layout, rows, item.source)
    if item.edit is not None:
        guides.put_edit(layout, rows, *item.edit)
    if item.task in ("t2s", "t2m"):
        guides.put_time_left(layout, rows)
    more: dict[str, Any] = {}
    if item.predicts_durations:
        more = {"phones": item.phones, "durations": item.durations, "duration_rows": guides.phone_features(layout, item.phones)}
    if item.task in VOICED:
        more["prompt"] = np.zeros((0, k), np.int64) if prompt is None else prompt[:, :k]
    return build_sequence(layout, item.task, item.codes[:, :k], rows, caption=item.caption, **more)


def read_items(folder: str | Path, task: str, split: str, captions: CaptionTokenizer | None) -> Iterator[Item]:
    """All items of a task and split of a folder of token shards; FileNotFoundError, with the remedy, where there is none."""
    paths = sorted(Path(folder).glob(f"{task}-{split}-*.npz"))
    if not paths:
        raise FileNotFoundError(f"no {task}-{split} token shards in {folder}; make them: python -m uniaudio_training.lm.tokens")
    for path in paths:
        labels = [Label.parse(line) for line in path.with_suffix(".jsonl").read_bytes().splitlines()]
        with np.load(path) as z:
            cuts = np.cumsum(z["frames"])[:-1]
            codes = iter(np.split(z["codes"], cuts))
            units = iter(np.split(z["units"], cuts)) if "units" in z else None
        for label in labels:
            tracks = {role: next(codes) for role in label.tracks}
            spoken = {role: next(units) for role in label.tracks} if units is not None else {}
            item = make_item(label, tracks, spoken.get("source"), captions)
            if item is not None:
                yield item
