"""Random items and token shards of every task, without audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from uniaudio_training.corpus.schema import TASKS, Edit, Label, Note, Phone, Span, Track
from uniaudio_training.lm.items import Given, Item, make_item

from uniaudio_engine.request.task_table import TASKS as ENTRIES
from uniaudio_engine.text.phones import PHONES
from uniaudio_engine.tokenizers.captions import CaptionTokenizer

CODEBOOKS, SIZE = 8, 16
CAPTIONS = [
    "add a bell",
    "a low voice, slowly",
    "three knocks on wood",
    "slow piano in c major",
    "drop the siren",
] * 20


def tokenizer() -> CaptionTokenizer:
    from uniaudio_training.lm.caption_tokenizer import train_captions

    return CaptionTokenizer(train_captions(CAPTIONS, 300))


def random_label(rng: np.random.Generator, task: str, index: int) -> tuple[Label, list[int]]:
    """A label, and the frames of each of its tracks."""
    frames = int(rng.integers(40, 70))
    roles = {
        "tts": ["target", "prompt"],
        "vc": ["target", "source", "prompt"],
        "tse": ["target", "source", "prompt"],
        "svs": ["target", "prompt"],
    }.get(task, ["target", "source"] if task in ("se", "sd", "a_edit", "s_edit") else ["target"])
    count = int(rng.integers(6, 10))
    ends = np.sort(rng.choice(np.arange(1, frames), count - 1, replace=False)).tolist() + [frames]
    phones = tuple(Phone(PHONES[int(rng.integers(len(PHONES)))], e / 50) for e in ends)
    tracks = {
        r: Track(0, frames * 320, speaker="ab"[index % 2], phones=phones if r == "target" else ())
        for r in roles
    }
    more = {}
    if task in ("t2s", "t2m", "a_edit", "i_tts"):
        more["caption"] = CAPTIONS[int(rng.integers(5))]
    if task in ("a_edit", "s_edit"):
        span = Span(20 * 320 + 7, 33 * 320 + 100)
        more["edit"] = Edit("replace", span, span)
    if task == "svs":
        more["notes"] = (Note(60, 0.1, 0.3, "la"), Note(64, 0.4, 0.2, "-"))
    return Label(f"{task}-train-0000-{index}", task, "train", tracks, **more), [frames] * len(roles)


def given(
    label: Label, codes: dict, units: dict | None = None, captions: CaptionTokenizer | None = None
) -> Given:
    return Given(ENTRIES[label.task], label, codes, units or {}, captions, {})


def random_items(task: str, captions: CaptionTokenizer, count: int = 8) -> list[Item]:
    rng = np.random.default_rng(TASKS.index(task))
    items = []
    for i in range(count):
        label, frames = random_label(rng, task, i)
        tracks = {
            r: rng.integers(0, SIZE, (n, CODEBOOKS))
            for r, n in zip(label.tracks, frames, strict=True)
        }
        items.append(
            make_item(given(label, tracks, {"source": rng.integers(0, 32, frames[0])}, captions))
        )
    return [i for i in items if i is not None]


def write_shards(folder: Path, tasks: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for task in tasks:
        for split in ("train", "valid"):
            labels, frames = zip(*(random_label(rng, task, i) for i in range(12)), strict=True)
            total = sum(map(sum, frames))
            arrays = {
                "codes": rng.integers(0, SIZE, (total, CODEBOOKS)).astype(np.uint16),
                "frames": np.concatenate(frames),
            }
            np.savez(
                folder / f"{task}-{split}-0000.npz",
                units=rng.integers(0, 32, total).astype(np.int16),
                **arrays,
            )
            (folder / f"{task}-{split}-0000.jsonl").write_text(
                "".join(label.line() + "\n" for label in labels)
            )
