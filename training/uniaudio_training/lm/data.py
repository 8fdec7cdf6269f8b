"""Training batches of the joint LM.

A batch has one task and one length bucket. The sentences of a row share one voice prompt, where the
task has one. A sentence attends to the prompt and itself, and its positions continue from the
prompt: a row is several independent sequences whose prompt is computed once. The engine likewise
forks the cache of a prompt for each sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uniaudio_engine.request.sequence import Layout
from uniaudio_engine.request.tasks import Task
from uniaudio_engine.tokenizers.captions import CaptionTokenizer

from .items import Item, read_items

PAD, AUDIO, DURATION = 0, 1, 2
BUCKETS = (
    32,
    56,
    80,
    112,
    144,
    176,
    208,
    240,
    288,
    352,
    448,
    560,
    720,
    900,
)  # sentence lengths in items; longer sentences are dropped
PROMPT = 150  # frames of a voice prompt


class TaskData:
    """The items of a task in memory, by length bucket, and the clips of its speakers for prompts.

    ``voiced``: its sequences begin with a voice prompt. ``shared``: any clip of the speaker may be
    the prompt.
    """

    def __init__(self, task: Task, items: list[Item]) -> None:
        self.task = task
        self.voiced = task.shared_prompt is not None
        self.shared = any(
            task.shared_prompt is not None and i.inputs[task.shared_prompt.name] is None
            for i in items
        )
        self.buckets: list[list[Item]] = [[] for _ in BUCKETS]
        self.speakers: dict[str, list[np.ndarray]] = {}
        for item in items:
            b = int(np.searchsorted(BUCKETS, item.length))
            if b < len(BUCKETS):
                self.buckets[b].append(item)
            if self.shared:
                self.speakers.setdefault(item.speaker, []).append(item.codes)
        mass = np.array([sum(len(i.codes) for i in b) for b in self.buckets], float)
        if not mass.sum():
            raise ValueError(
                f"{task.name}: expected examples of up to {BUCKETS[-1]} items, got none of "
                f"{len(items)}"
            )
        self.share = mass / mass.sum()
        self.hours = mass.sum() / 50 / 3600
        self.too_long = len(items) - sum(map(len, self.buckets))

    def __str__(self) -> str:
        return f"{self.task.name} {self.hours:.2g} h" + (
            f" ({self.too_long} dropped: too long)" if self.too_long else ""
        )

    def own_prompt(self, item: Item) -> np.ndarray:
        """The item's own voice or context: codes [T', K'], may be empty."""
        assert self.task.shared_prompt is not None
        own: np.ndarray = item.inputs[self.task.shared_prompt.name]
        return own

    def prompt(self, rng: np.random.Generator, speaker: str, frames: int) -> np.ndarray:
        """``frames`` consecutive frames from one or more clips of a speaker, [frames, K']."""
        clips, parts, have = self.speakers[speaker], [], 0
        while have < frames:
            parts.append(clips[int(rng.integers(len(clips)))])
            have += len(parts[-1])
        joined = np.concatenate(parts)
        start = int(rng.integers(len(joined) - frames + 1))
        return joined[start : start + frames]


def load_tasks(
    folders: str | Sequence[str],
    split: str,
    tasks: Iterable[Task],
    captions: CaptionTokenizer | None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, TaskData]:
    """The data of each task, by name."""
    return {
        task.name: TaskData(task, list(read_items(folders, task, split, captions, labels)))
        for task in tasks
    }


@dataclass
class Batch:
    """B rows with a prompt of P items and n sentences of at most L items.

    prompt [B, P, K] and inputs [B, n, L, K]: the input of each step, which is the previous item of
    the same sequence. frames [B, n, L, K]: the targets. aligned [B, n, L, S]: the aligned rows.
    kind [B, n, L]: AUDIO, DURATION, or PAD where nothing is predicted.
    """

    prompt: Tensor
    inputs: Tensor
    frames: Tensor
    aligned: Tensor
    kind: Tensor
    task: str

    def to(self, device: torch.device) -> Batch:
        def moved(t: Tensor) -> Tensor:
            return t.to(device, non_blocking=True)

        return Batch(
            moved(self.prompt),
            moved(self.inputs),
            moved(self.frames),
            moved(self.aligned),
            moved(self.kind),
            self.task,
        )

    @property
    def seconds(self) -> float:
        return float((self.kind == AUDIO).sum()) / 50


@dataclass(frozen=True)
class Noise:
    """Maximum share of input frames that are corrupted.

    A model trained on correct frames only trusts its own past and ignores a source that contradicts
    it. Where a sound is aligned with the target (se, tse, sd, a_edit), the source says more than
    the past.
    """

    aligned: float = 0.0  # tasks with a sound aligned with the target
    others: float = 0.0

    def of(self, task: Task) -> float:
        return self.others if task.aligned_sound is None else self.aligned


def make_batch(
    layout: Layout,
    data: Mapping[str, TaskData],
    weights: Mapping[str, float],
    rng: np.random.Generator,
    rows: int,
    items: int,
    noise: Noise,
    caption_dropout: float = 0.0,
    aligned_dropout: float = 0.0,
) -> Batch:
    """One batch of a random task: sentences of one length bucket, about ``items`` items in total,
    in ``rows`` rows where sentences share voices.
    """
    names = sorted(data)
    share = np.array([weights[n] for n in names], float)
    task = names[int(rng.choice(len(names), p=share / share.sum()))]
    return with_noise(
        task_batch(layout, data[task], rng, rows, items, caption_dropout, aligned_dropout),
        rng,
        noise.of(data[task].task),
    )


def with_noise(batch: Batch, rng: np.random.Generator, most: float) -> Batch:
    """Replaces, in place, some of the audio frames among ``inputs`` by others of the same sentence,
    which are plausible but wrong.
    """
    inputs, frames = batch.inputs.numpy(), batch.frames.numpy()
    for at in np.ndindex(*inputs.shape[:2]) if most else ():
        audio = np.flatnonzero(batch.kind.numpy()[at] == AUDIO)
        fed = audio[1:]  # the first is predicted from what precedes the sound
        wrong = fed[rng.random(len(fed)) < most * rng.random()]
        inputs[at][wrong] = frames[at][rng.choice(audio, len(wrong))]
    return batch


def task_batch(
    layout: Layout,
    data: TaskData,
    rng: np.random.Generator,
    rows: int,
    items: int,
    caption_dropout: float = 0.0,
    aligned_dropout: float = 0.0,
) -> Batch:
    """A batch of one task. ``caption_dropout``: the share of its examples with empty captions;
    ``aligned_dropout``, of tasks without captions: whose target has no aligned rows.
    """
    bucket = int(rng.choice(len(BUCKETS), p=data.share))
    pool, length = data.buckets[bucket], BUCKETS[bucket]
    frames = _prompt_frames(rng, data)
    if data.shared:
        by_speaker: dict[str, list[Item]] = {}
        for item in pool:
            by_speaker.setdefault(item.speaker, []).append(item)
        n = max(1, round(items / (rows * length)))
        chosen = []
        for _ in range(rows):
            # speakers by the number of their clips
            speaker = pool[int(rng.integers(len(pool)))].speaker
            prompt = data.prompt(rng, speaker, frames) if frames else None
            chosen.append(
                (
                    prompt,
                    [
                        by_speaker[speaker][int(rng.integers(len(by_speaker[speaker])))]
                        for _ in range(n)
                    ],
                )
            )
    else:
        rows = max(1, round(items / (length + frames)))
        picked = [pool[int(rng.integers(len(pool)))]]
        if data.voiced:  # all rows with a voice, or all without
            pool = [
                i
                for i in pool
                if (len(data.own_prompt(i)) > 0) == (len(data.own_prompt(picked[0])) > 0)
            ]
        picked += [pool[int(rng.integers(len(pool)))] for _ in range(rows - 1)]
        if data.voiced:
            frames = min([frames, *(len(data.own_prompt(i)) for i in picked)])
        # a context ends at the edit; an enrolment may begin anywhere
        chosen = [
            (data.own_prompt(i)[len(data.own_prompt(i)) - frames :] if data.voiced else None, [i])
            for i in picked
        ]
    if caption_dropout:
        chosen = [
            (voice, [i.without_captions() if rng.random() < caption_dropout else i for i in picked])
            for voice, picked in chosen
        ]
    batch = _fill(layout, data, chosen, length, frames)
    if aligned_dropout and data.task.guided_by == "rows":
        dropped = torch.from_numpy(rng.random(batch.kind.shape[:2]) < aligned_dropout)
        batch.aligned[dropped[..., None] & (batch.kind == AUDIO)] = -1
    return batch


def _prompt_frames(rng: np.random.Generator, data: TaskData) -> int:
    if not data.voiced:
        return 0
    if not data.shared or any(i.modality == "score" for i in data.task.inputs):
        return PROMPT
    u = rng.random()
    return 0 if u < 0.08 else PROMPT if u < 0.7 else int(rng.integers(50, PROMPT))


def _fill(
    layout: Layout,
    data: TaskData,
    chosen: list[tuple[np.ndarray | None, list[Item]]],
    length: int,
    prompt_frames: int,
) -> Batch:
    k, s = layout.num_codebooks, layout.aligned_slots
    rows, n = len(chosen), len(chosen[0][1])
    skip = 4 + prompt_frames if data.voiced else 2
    prompt = np.zeros((rows, skip, k), np.int64)
    inputs, frames = (
        np.zeros((rows, n, length, k), np.int64),
        np.zeros((rows, n, length, k), np.int64),
    )
    aligned = np.full((rows, n, length, s), -1, np.int64)
    kind = np.full((rows, n, length), PAD, np.int64)
    for row, (voice, items) in enumerate(chosen):
        for i, item in enumerate(items):
            sequence = item.sequence(layout, voice)
            whole = sequence.complete(item.codes)
            t = len(whole.frames) - skip
            if i == 0:
                prompt[row, 0], prompt[row, 1:] = (
                    layout.vocabulary.special("start"),
                    whole.frames[: skip - 1],
                )
            inputs[row, i, :t] = whole.frames[skip - 1 : -1]
            frames[row, i, :t], aligned[row, i, :t] = whole.frames[skip:], whole.aligned[skip:]
            planned, audio = whole.durations, whole.audio
            kind[row, i, planned.start - skip : planned.stop - skip] = DURATION
            # the known part of an edited target is input only; the end token is predicted
            begin, end = sequence.predicted(len(item.codes))
            last = audio.stop if end == len(item.codes) else audio.start + end
            kind[row, i, audio.start + begin - skip : last - skip] = AUDIO
    tensor = torch.from_numpy
    return Batch(
        tensor(prompt),
        tensor(inputs),
        tensor(frames),
        tensor(aligned),
        tensor(kind),
        data.task.name,
    )
