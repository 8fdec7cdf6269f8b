"""Derives paired data for other tasks from recordings. The target is always the real recording.

    uniaudio-train corpus derive data/aligned --sounds data/noises --tasks
    se=2,tse=1,sd=1,vc=2,i_tts=1,s_edit=1 --out data/derived

=======  =========================================================================================
task     how the example is made
=======  =========================================================================================
vc       the source is the recording, pitch-shifted and formant-shifted, with the same timing
se       noise is added: recorded sounds, babble, or synthetic noise
tse      another speaker is added; another clip of the target speaker is the enrolment
sd       a simulated room impulse response is applied
i_tts    the instruction states the measured pitch, pace and level
s_edit   one or two words of the source are replaced with other speech of the same speaker
=======  =========================================================================================

As in ``shards.py``, a shard is a function of its name and the seed alone.
An example belongs to the split of its recording.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from ..places import make_folder, place, write_whole
from ..workers import ONE, Workers, add_arguments
from . import degrade, wordings
from .degrade import to_pcm
from .reading import CorpusError, Example, Examples, open_corpus
from .recipes import F0_BINS, LEVEL_BINS, RATE_BINS, Draft, Take, bin_of, median_f0, phone_rate
from .schema import (
    FORMAT,
    SAMPLE_RATE,
    SPLITS,
    Edit,
    Instruction,
    Interferer,
    Label,
    Noise,
    Span,
    Track,
)
from .shards import MANIFEST, write_shard
from .speech import loud_level, set_level

SHARD_SECONDS = 300.0
WOMAN_HZ = 155.0  # a median F0 above this is described as a woman's voice
_LEAST, _MOST = 1.5, 16.0  # s, lengths of the recordings that are used
_FADE = 80  # samples of the cross-fade between spliced pieces
Rng = np.random.Generator
Floats = NDArray[np.floating]


@dataclass
class Material:
    """The recordings of one split by speaker, and the sounds used as noise."""

    speech: Examples
    sounds: Sequence[Examples]
    by: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for i in range(len(self.speech)):
            track = self.speech[i].track()
            if _LEAST <= track.seconds <= _MOST:
                self.by.setdefault(track.speaker, []).append(i)
        if not self.by:
            raise CorpusError(f"no recordings of {_LEAST:g} to {_MOST:g} s")

    def draw(self, rng: Rng, speaker: str | None = None, not_this: str | None = None) -> Example:
        """A random recording: speakers are drawn uniformly, then a clip of the speaker.

        ``speaker`` fixes the speaker; ``not_this`` excludes one.
        Raises CorpusError where there is no other speaker.
        """
        if speaker is None:
            names = sorted(set(self.by) - {not_this})
            if not names:
                raise CorpusError("this task needs recordings of two speakers")
            speaker = names[int(rng.integers(len(names)))]
        mine = self.by[speaker]
        return self.speech[mine[int(rng.integers(len(mine)))]]

    def other_clip(self, rng: Rng, example: Example) -> Example:
        """Another recording of the same speaker; the same one where there is no other."""
        mine = [i for i in self.by[example.track().speaker] if self.speech[i].id != example.id]
        return self.speech[mine[int(rng.integers(len(mine)))]] if mine else example

    def noise(self, rng: Rng, count: int, not_this: str) -> tuple[Floats, str, str]:
        """``count`` samples of noise, with its kind and caption."""
        kinds = ["sound"] * 4 * bool(self.sounds) + ["white", "pink", "hum"]
        kinds += ["babble"] * 2 * (len(self.by) > 1)
        kind = kinds[int(rng.integers(len(kinds)))]
        if kind == "sound":
            group = self.sounds[int(rng.integers(len(self.sounds)))]
            example = group[int(rng.integers(len(group)))]
            return degrade.loop(rng, count, example.audio()), kind, example.label.caption
        if kind == "babble":
            voices = [
                self.draw(rng, not_this=not_this).audio() for _ in range(int(rng.integers(3, 7)))
            ]
            return degrade.babble(rng, count, list(voices)), kind, ""
        plain: dict[str, Callable[[Rng, int], Floats]] = {
            "white": degrade.white,
            "pink": degrade.pink,
            "hum": degrade.hum,
        }
        return plain[kind](rng, count), kind, ""


def as_take(example: Example, pcm: NDArray[np.int16] | None = None) -> Take:
    """The recording as a stored track, its samples replaced with ``pcm`` where given."""
    track = example.track()
    pcm = example.pcm() if pcm is None else pcm
    return Take(np.asarray(pcm, np.int16), track.text, track.speaker, track.phones, track.words)


def shifted_voice(samples: Floats, factor: float) -> NDArray[np.float32]:
    """Multiplies pitch and formants by ``factor``; keeps timing and length.

    The clip is resampled, then time-stretched by waveform-similarity overlap-add (WSOLA).
    """
    fast = soxr.resample(np.asarray(samples, np.float64), SAMPLE_RATE * factor, SAMPLE_RATE)
    window, hop, reach = 640, 320, 160
    hann = np.hanning(window + 1)[:window]
    out = np.zeros(len(samples) + window)
    x = np.pad(fast, (window, 2 * window + reach))
    natural = window
    for start in range(0, len(samples), hop):
        at = window + round(start / factor) - window // 2
        if start:
            want = x[natural : natural + window]
            region = x[at - reach : at + reach + window]
            score = np.correlate(region, want * hann, "valid")
            energy = np.convolve(region**2, np.ones(window), "valid")
            at += int((score / np.sqrt(energy + 1e-6)).argmax()) - reach
        out[start : start + window] += x[at : at + window] * hann
        natural = at + hop
    out = out[window // 2 : window // 2 + len(samples)]
    return np.pad(out, (0, len(samples) - len(out))).astype(np.float32)


def vc(rng: Rng, material: Material) -> Draft:
    example = material.draw(rng)
    factor = float(rng.uniform(1.1, 1.3)) ** (1 if rng.random() < 0.5 else -1)
    level = loud_level(example.audio())
    source = to_pcm(set_level(shifted_voice(example.audio(), factor), level))
    said = replace(as_take(example, source), speaker="")
    return Draft(
        {
            "target": as_take(example),
            "source": said,
            "prompt": as_take(material.other_clip(rng, example)),
        }
    )


def se(rng: Rng, material: Material) -> Draft:
    example = material.draw(rng)
    samples = set_level(example.audio(), float(rng.uniform(-32, -18)))
    other, kind, caption = material.noise(rng, len(samples), example.track().speaker)
    clean, noisy = degrade.mix_at(samples, other, float(rng.uniform(-5, 20)))
    label = Noise(kind, round(degrade.snr_db(clean, noisy), 3), caption)
    return Draft(
        {"target": as_take(example, clean), "source": as_take(example, noisy)}, {"noise": label}
    )


def tse(rng: Rng, material: Material) -> Draft:
    example = material.draw(rng)
    who = example.track().speaker
    other = material.draw(rng, not_this=who)
    over = degrade.loop(rng, len(example.pcm()), other.audio())
    samples = set_level(example.audio(), float(rng.uniform(-32, -18)))
    clean, mixed = degrade.mix_at(samples, over, float(rng.uniform(-5, 5)))
    label = Interferer(other.track().speaker, round(degrade.snr_db(clean, mixed), 3))
    takes = {
        "target": as_take(example, clean),
        "source": as_take(example, mixed),
        "prompt": as_take(material.other_clip(rng, example)),
    }
    return Draft(takes, {"interferer": label})


def sd(rng: Rng, material: Material) -> Draft:
    example = material.draw(rng)
    response = degrade.room(rng)
    samples = set_level(example.audio(), float(rng.uniform(-32, -18)))
    dry, wet = degrade.reverberate(samples, response)
    takes = {"target": as_take(example, dry), "source": as_take(example, wet)}
    return Draft(takes, {"room": response.room})


def i_tts(rng: Rng, material: Material) -> Draft:
    """Raises CorpusError after 100 draws that lie between the bins or have no phones."""
    for _ in range(100):
        example = material.draw(rng)
        if not example.track().phones:
            continue
        samples = set_level(
            example.audio(), float(rng.choice([-36, -25, -16])) + float(rng.uniform(-2, 2))
        )
        f0_hz, pace = median_f0(samples), phone_rate(example.track().phones)
        loud = loud_level(samples)
        voice = "woman" if f0_hz > WOMAN_HZ else "man"
        f0 = bin_of(f0_hz, F0_BINS[voice], ("low", "medium", "high"))
        speed = bin_of(pace, RATE_BINS, ("slow", "medium", "fast"))
        gain = bin_of(loud, LEVEL_BINS, ("quiet", "medium", "loud"))
        if f0 and speed and gain:
            label = Instruction(
                voice, f0, speed, gain, round(f0_hz, 2), round(pace, 3), round(loud, 2)
            )
            caption = wordings.instruction(rng, voice, f0, speed, gain)
            return Draft(
                {"target": as_take(example, to_pcm(samples))},
                {"caption": caption, "instruction": label},
            )
    raise CorpusError(
        "i_tts needs recordings with phone times; align them: uniaudio-train corpus align"
    )


def s_edit(rng: Rng, material: Material) -> Draft:
    """Raises CorpusError after 100 draws without word times."""
    for _ in range(100):
        example = material.draw(rng)
        words = example.track().words
        donor = material.other_clip(rng, example)
        theirs = donor.track().words
        if len(words) < 4 or len(theirs) < 4 or donor.id == example.id:
            continue
        count = 1 + int(rng.random() < 0.35)
        i = int(rng.integers(1, len(words) - count))
        k = int(rng.integers(1, len(theirs) - count))
        begin, end = (
            round(words[i].start * SAMPLE_RATE),
            round(words[i + count - 1].end * SAMPLE_RATE),
        )
        a, b = round(theirs[k].start * SAMPLE_RATE), round(theirs[k + count - 1].end * SAMPLE_RATE)
        if not (
            0.15 * SAMPLE_RATE < end - begin and 0.15 * SAMPLE_RATE < b - a < 1.6 * SAMPLE_RATE
        ):
            continue
        pcm, piece = example.pcm(), donor.pcm()[a:b].astype(np.float64)
        here = pcm[begin:end].astype(np.float64)
        piece *= math.sqrt((here**2).mean() / max(float((piece**2).mean()), 1.0))
        ramp = np.linspace(0, 1, _FADE)
        piece[:_FADE] = piece[:_FADE] * ramp + here[:_FADE] * (1 - ramp)
        piece[-_FADE:] = piece[-_FADE:] * (1 - ramp) + here[-_FADE:] * ramp
        inner = np.clip(np.round(piece), -32767, 32767).astype(np.int16)
        source = np.concatenate((pcm[:begin], inner, pcm[end:]))
        removed = " ".join(w.word for w in theirs[k : k + count])
        added = " ".join(w.word for w in words[i : i + count])
        edit = Edit("replace", Span(begin, begin + len(inner)), Span(begin, end), removed, added)
        said = Take(source, "", example.track().speaker)
        return Draft({"target": as_take(example), "source": said}, {"edit": edit})
    raise CorpusError(
        "s_edit needs recordings with word times; align them: uniaudio-train corpus align"
    )


TASKS: dict[str, Callable[[Rng, Material], Draft]] = {
    "vc": vc,
    "se": se,
    "tse": tse,
    "sd": sd,
    "i_tts": i_tts,
    "s_edit": s_edit,
}


def draw_shard(
    material: Material, task: str, split: str, index: int, seed: int
) -> tuple[NDArray[np.int16], list[Label]]:
    """A shard with ``SHARD_SECONDS`` of target audio, as a function of its index and the seed."""
    key = (seed, zlib.crc32(task.encode()), SPLITS.index(split), index)
    rng = np.random.default_rng(np.random.SeedSequence(key))
    name = f"{task}-{split}-{index:04d}"
    stored: list[NDArray[np.int16]] = []
    labels: list[Label] = []
    total, wanted = 0, 0
    while wanted < SHARD_SECONDS * SAMPLE_RATE:
        draft = TASKS[task](rng, material)
        tracks = {}
        for role, take in draft.takes.items():
            tracks[role] = Track(
                total, len(take.pcm), take.text, take.speaker, take.phones, take.words
            )
            stored.append(take.pcm)
            total += len(take.pcm)
        labels.append(Label(f"{name}-{len(labels):04d}", task, split, tracks, **draft.labels))
        wanted += len(draft.takes["target"].pcm)
    return np.concatenate(stored), labels


@dataclass(frozen=True)
class Deriving:
    """What the workers need to derive shards: folders or manifests, and the seed."""

    speech: str
    sounds: tuple[str, ...]
    out: str
    seed: int

    def __call__(self) -> Callable[[tuple[str, str, int]], str]:
        """What makes the shard of a task, split and index, unless it is there; returns its name."""
        speech, sounds = open_corpus(self.speech), [open_corpus(s) for s in self.sounds]
        out = place(self.out)

        @lru_cache
        def material(split: str) -> Material:
            groups = [c["t2s", split] for c in sounds if ("t2s", split) in list(c)]
            return Material(speech["tts", split], groups)

        def work(shard: tuple[str, str, int]) -> str:
            task, split, index = shard
            path = out / f"{task}-{split}-{index:04d}.jsonl"
            if not path.exists():
                write_shard(path, *draw_shard(material(split), task, split, index, self.seed))
            return path.stem

        return work


def derive(
    how: Deriving, hours: dict[str, float], splits: Sequence[str], workers: Workers = ONE
) -> None:
    """Makes the missing shards: ``hours`` of train per task, and a twentieth of that per other
    split.

    Every split gets at least one shard.
    """
    corpora = [open_corpus(folder) for folder in (how.speech, *how.sounds)]
    out = place(how.out)
    make_folder(out)
    todo = [
        (task, split, index)
        for split in splits
        if ("tts", split) in list(corpora[0])
        for task, wanted in hours.items()
        for index in range(_count(wanted if split == "train" else wanted / 20))
    ]
    for _ in workers.each(how, todo):
        pass
    sources: dict[str, Any] = {}
    for corpus in corpora:
        described = corpus.folder / MANIFEST
        if described.exists():
            sources |= json.loads(described.read_bytes()).get("sources", {})
    text = json.dumps(
        {"format": FORMAT, "seed": how.seed, "sample_rate": SAMPLE_RATE, "sources": sources},
        indent=1,
    )
    write_whole(out / MANIFEST, lambda f: f.write(f"{text}\n".encode()))


def _count(hours: float) -> int:
    """The number of shards for so many hours."""
    return max(1, math.ceil(hours * 3600 / SHARD_SECONDS - 1e-9))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train corpus derive",
        description="Derive paired data for other tasks from recordings.",
        epilog="example: uniaudio-train corpus derive data/real --tasks se=10,vc=10 --out data/derived "
        "--ray",
    )
    parser.add_argument(
        "speech", help="tts shards of recordings; i_tts and s_edit need them aligned"
    )
    parser.add_argument(
        "--sounds",
        action="extend",
        nargs="*",
        default=[],
        help="corpora with t2s examples, used as noise",
    )
    parser.add_argument("--tasks", default="se=1", help="TASK=HOURS, comma-separated")
    parser.add_argument("--splits", default=",".join(SPLITS))
    parser.add_argument("--out", required=True, help="folder of the shards; a path or a URL")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        hours = {}
        for text in args.tasks.split(","):
            task, _, value = text.partition("=")
            if task not in TASKS:
                raise CorpusError(
                    f"--tasks: expected some of {', '.join(TASKS)}, got {task[:40]!r}"
                )
            hours[task] = float(value or 1)
        how = Deriving(args.speech, tuple(args.sounds), args.out, args.seed)
        derive(how, hours, args.splits.split(","), Workers.of(args))
    except (ValueError, RuntimeError, OSError) as e:
        print(f"uniaudio-train corpus: error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
