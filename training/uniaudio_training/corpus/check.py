"""Measures a corpus and compares it with its labels.

Prints one line per task and split. The exit status is 1 where a label is wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import degrade, recipes, singing, speech
from .pitch import HOP, cents, f0_track, hz
from .reading import Corpus, Example, Examples
from .schema import SAMPLE_RATE, TASK_ROLES, Label
from .sentences import split_of
from .shards import ShardSpec, describe_shard, make_shard, parse_name, read_manifest

Findings = dict[str, float]


def voiced_cents(example: Example) -> np.ndarray:
    """Deviation in cents of the measured F0 from the contour of the notes, on each voiced frame
    within a note.
    """
    x = example.audio()
    f0, _ = f0_track(x, 55.0, 600.0)
    wanted = singing.contour(example.label.notes, example.label.vibrato, len(x))  # type: ignore[arg-type]
    at = np.minimum(np.arange(len(f0)) * HOP, len(x) - 1)
    sung = np.zeros(len(f0), bool)
    for n in example.label.notes:
        sung |= (at >= n.start * SAMPLE_RATE) & (at < (n.start + n.duration) * SAMPLE_RATE)
    keep = sung & (f0 > 0)
    return np.asarray(cents(f0[keep], wanted[at][keep]))


def notes_within(example: Example, limit: float = 50.0) -> list[bool]:
    """For each note, whether the median F0 of its voiced frames is within ``limit`` cents of its
    pitch.
    """
    f0, _ = f0_track(example.audio(), 55.0, 600.0)
    found = []
    for n in example.label.notes:
        part = f0[
            int(n.start * SAMPLE_RATE / HOP) : int((n.start + n.duration) * SAMPLE_RATE / HOP)
        ]
        part = part[part > 0]
        found.append(
            bool(len(part) >= 3 and abs(float(np.median(cents(part, float(hz(n.pitch)))))) < limit)
        )
    return found


def outside_equal(example: Example) -> bool:
    """Whether source and target are bit-identical outside the edited span."""
    edit = example.label.edit
    if edit is None:
        return False
    a, b = example.pcm("source"), example.pcm("target")
    return bool(
        np.array_equal(a[: edit.source.start], b[: edit.target.start])
        and np.array_equal(a[edit.source.end :], b[edit.target.end :])
    )


def event_db(example: Example) -> float:
    """Level in dB of the change within the span of an a_edit example, against the rest of it."""
    edit = example.label.edit
    assert edit is not None
    a, b = (example.pcm(r)[slice(*edit.target)].astype(np.float64) for r in ("source", "target"))
    return float(10 * np.log10(((a - b) ** 2).mean() / max(min((a**2).mean(), (b**2).mean()), 1.0)))


def _wrong(example: Example) -> str:
    """The first error found in an example's labels; "" where there is none."""
    label: Label = example.label
    roles = TASK_ROLES[label.task]
    if set(example.roles) != set(roles):
        return f"tracks {example.roles}"
    for role in example.roles:
        track = example.track(role)
        if len(example.pcm(role)) != track.samples or not example.pcm(role).any():
            return f"{role} is empty"
        ends = [p.end for p in track.phones]
        if ends and (ends != sorted(ends) or abs(ends[-1] - track.seconds) > 0.05):
            return f"{role}: phones end at {ends[-1]:.3f} s of {track.seconds:.3f} s"
        if track.text and split_of(track.text) != label.split:
            return f"{role}: a sentence of another split"
        if track.speaker and track.speaker not in {s.name for s in speech.speakers(label.split)}:
            return f"{role}: a speaker of another split"
    if "prompt" in roles and (
        example.track("prompt").speaker != example.track().speaker
        or example.track("prompt").text == example.track().text
    ):
        return "prompt is not another sentence of the speaker"
    if label.task in ("vc", "se", "tse", "sd") and len(example.pcm("source")) != len(
        example.pcm("target")
    ):
        return "lengths differ"
    if label.task == "vc" and any(
        abs(a.end - b.end) > recipes.VC_DRIFT + 1e-5
        for a, b in zip(example.track("source").phones, example.track().phones, strict=True)
    ):
        return "source and target are not aligned"
    if label.task in ("a_edit", "s_edit") and not outside_equal(example):
        return "samples outside the span differ"
    snr = label.noise or label.interferer
    if (
        snr is not None
        and abs(degrade.snr_db(example.pcm("target"), example.pcm("source")) - snr.snr_db) > 0.01
    ):
        return "SNR is not the label's"
    if label.task in ("t2s", "t2m", "a_edit", "i_tts") and not label.caption:
        return "no caption"
    return ""


def _measure(task: str, examples: list[Example]) -> Findings:
    found: Findings = {}
    if task == "svs":
        every = np.concatenate([voiced_cents(e) for e in examples])
        found["cents_median"] = float(np.median(np.abs(every)))
        found["notes_within_50"] = float(np.mean([ok for e in examples for ok in notes_within(e)]))
    if task == "vc":
        drift = [
            abs(a.end - b.end)
            for e in examples
            for a, b in zip(e.track("source").phones, e.track().phones, strict=True)
        ]
        found["drift_ms_max"] = 1000 * max(drift)
    if task in ("se", "tse"):
        values = [(e.label.noise or e.label.interferer).snr_db for e in examples]  # type: ignore[union-attr]
        found["snr_min"], found["snr_max"] = min(values), max(values)
    if task == "sd":
        rooms = [e.label.room for e in examples if e.label.room is not None]
        found["rt60_mean"], found["drr_mean"] = (
            float(np.mean([r.rt60 for r in rooms])),
            float(np.mean([r.drr_db for r in rooms])),
        )
    if task == "a_edit":
        levels = [
            event_db(e)
            for e in examples
            if e.label.edit is not None and e.label.edit.operation in ("add", "drop")
        ]
        if levels:
            found["event_db_min"] = min(levels)
    if task == "i_tts":
        right = []
        for e in examples:
            want, x = e.label.instruction, e.audio()
            assert want is not None
            right += [
                recipes.bin_of(
                    recipes.median_f0(x), recipes.F0_BINS[want.voice], ("low", "medium", "high")
                )
                == want.f0,
                recipes.bin_of(
                    recipes.phone_rate(e.track().phones),
                    recipes.RATE_BINS,
                    ("slow", "medium", "fast"),
                )
                == want.rate,
                recipes.bin_of(
                    speech.loud_level(x), recipes.LEVEL_BINS, ("quiet", "medium", "loud")
                )
                == want.gain,
            ]
        found["bins_right"] = float(np.mean(right))
    if task in ("t2s", "t2m", "a_edit", "i_tts"):
        found["captions_distinct"] = len({e.label.caption for e in examples}) / len(examples)
    return found


def _listen(examples: list[Example]) -> float:
    """Word error rate of the targets by pocketsphinx. Only sentences of the grammar are scored,
    with the grammar as the language model.
    """
    from ..evaluate.judges import listener
    from ..evaluate.metrics import edit_errors, error_rate, words
    from .sentences import GRAMMAR_WORDS

    known = set(GRAMMAR_WORDS)
    rows = [
        edit_errors(words(e.track().text), listener(True)(e.audio()))
        for e in examples
        if set(words(e.track().text)) <= known
    ]
    return error_rate(rows)


def _remade(corpus: Corpus, name: str, entry: dict[str, Any], seed: int) -> bool:
    task, split, index = parse_name(name)
    # The manifest rounds the duration; slightly less still ends after the shard's last example.
    seconds = max(entry["seconds"] - 0.01, 0.01)
    with tempfile.TemporaryDirectory() as folder:
        make_shard(ShardSpec(task, split, index, seed, seconds), folder)
        return describe_shard(Path(folder), name) == entry


def _spread(examples: Examples, count: int) -> list[Example]:
    return [
        examples[int(i)]
        for i in np.unique(np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int))
    ]


def check(
    corpus: Corpus, count: int, remake: int, listen: bool, say: Callable[[str], None] = print
) -> int:
    """Measures ``count`` examples of each task and split; returns 0 where every label is right."""
    own = corpus.folder.is_dir()
    bad = 0
    for task, split in corpus:
        examples = _spread(corpus[task, split], count)
        if not own:
            say(
                f"{task:8s}{split:6s} {len(corpus[task, split])} recordings; the first lasts "
                f"{len(examples[0].pcm()) / SAMPLE_RATE:.2f} s"
            )
            continue
        wrong = [(e.id, why) for e in examples if (why := _wrong(e))]
        bad += len(wrong)
        found = _measure(task, examples)
        if listen and examples[0].track().text:
            found["grammar_wer"] = _listen(_spread(corpus[task, split], 4 * count))
        say(
            f"{task:8s}{split:6s} {len(corpus[task, split])} examples, {len(examples)} measured, "
            f"{len(wrong)} wrong" + "".join(f"  {k} {v:.3g}" for k, v in found.items())
        )
        for which, why in wrong[:3]:
            say(f"  {which}: {why}")
    manifest = read_manifest(corpus.folder) if own and remake else None
    if manifest is not None:
        for task in corpus.tasks:
            names = [n for n in manifest["shards"] if parse_name(n)[0] == task]
            for name in names[:: max(1, len(names) // remake)][:remake]:
                same = _remade(corpus, name, manifest["shards"][name], manifest["seed"])
                bad += not same
                say(f"{name}: made again, {'the same bits' if same else 'DIFFERENT'}")
    return 1 if bad else 0
