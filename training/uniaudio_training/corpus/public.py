"""Converts public corpora to shards.

    uniaudio-train corpus public librispeech LibriSpeech --out data/real

A recipe knows the file layout, licence and speakers of one corpus. It yields clips: an audio file,
its text and its speaker. :func:`convert` writes them as shards in the corpus format
(``shards.py``): levels are normalised, silence at the ends is trimmed to ``EDGE_SECONDS``, and
dropped clips are counted by reason.

The splits are disjoint by speaker. Only a corpus with a single speaker is split by clip.
The text stays as it is in the corpus. ``align.py`` adds the phone times.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from .degrade import to_pcm
from .reading import CorpusError
from .schema import FORMAT, SAMPLE_RATE, SPLITS, Label, Track
from .shards import MANIFEST, SHARD_SECONDS, parse_name, write_shard
from .speech import loud_level, set_level

LEVEL_DB = -23.0  # dBFS, RMS of the loud parts of a clip
EDGE_SECONDS = 0.25  # silence kept at either end
QUIET_DB = -40.0  # relative to the loud parts; below this is silence
_HOP = 160  # samples per level frame
SECONDS = (0.4, 35.0)  # allowed length of a trimmed clip
CLIPPED_SHARE = 5e-4  # a recording with a larger share of samples at full scale is clipped


@dataclass(frozen=True)
class Clip:
    """One recording of a corpus.

    ``path`` is any file that soundfile reads. An empty ``split`` means: by the speaker.
    ``task`` is t2s for sounds, whose ``text`` is a caption.
    """

    id: str
    path: Path
    text: str
    speaker: str
    split: str = ""
    task: str = "tts"


@dataclass(frozen=True)
class Recipe:
    """How to read one corpus: its clips, its licence and its attribution."""

    read: Callable[[Path], Iterable[Clip]]
    licence: str
    attribution: str
    language: str = "en"
    held_out: frozenset[str] = frozenset()  # speakers of the test split


def _sentence(text: str) -> str:
    """Turns upper-case text without punctuation into a sentence."""
    text = " ".join(text.split())
    return text.capitalize() if text.isupper() else text


def _need(paths: list[Path], folder: Path, what: str) -> list[Path]:
    if not paths:
        raise CorpusError(f"{folder}: expected {what}, found none")
    return sorted(paths)


def librispeech(folder: Path) -> Iterator[Clip]:
    """``<set>/<reader>/<chapter>/<reader>-<chapter>-<n>.flac`` and ``*.trans.txt`` in the same
    folder.
    """
    for script in _need(list(folder.rglob("*.trans.txt")), folder, "*.trans.txt beside *.flac"):
        for line in script.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            yield Clip(
                name, script.parent / f"{name}.flac", _sentence(text), f"ls{name.split('-')[0]}"
            )


def libritts(folder: Path) -> Iterator[Clip]:
    """``<set>/<reader>/<chapter>/*.wav``, each with a ``*.normalized.txt``."""
    for text in _need(list(folder.rglob("*.normalized.txt")), folder, "*.normalized.txt"):
        name = text.name.removesuffix(".normalized.txt")
        yield Clip(
            name,
            text.with_name(f"{name}.wav"),
            text.read_text(encoding="utf-8").strip(),
            f"lt{name.split('_')[0]}",
        )


def vctk(folder: Path) -> Iterator[Clip]:
    """``txt/<speaker>/<speaker>_<n>.txt``, ``wav48_silence_trimmed/<speaker>/*_mic1.flac`` (0.92)
    or ``wav48/<speaker>/*.wav`` (0.80)."""
    for text in _need(list((folder / "txt").glob("*/*.txt")), folder, "txt/<speaker>/*.txt"):
        speaker, name = text.parent.name, text.stem
        new = folder / "wav48_silence_trimmed" / speaker / f"{name}_mic1.flac"
        old = folder / "wav48" / speaker / f"{name}.wav"
        path = new if new.is_file() or not old.is_file() else old
        yield Clip(name, path, text.read_text(encoding="utf-8").strip(), f"vctk-{speaker}")


def ljspeech(folder: Path) -> Iterator[Clip]:
    """``metadata.csv`` (id|text|normalised text) and ``wavs/<id>.wav``; one speaker."""
    yield from _metadata(folder, "wavs", ".wav", "ljspeech")


def _metadata(folder: Path, audio: str, ending: str, speaker: str) -> Iterator[Clip]:
    path = folder / "metadata.csv"
    if not path.is_file():
        raise CorpusError(f"{folder}: expected metadata.csv, found none")
    for line in path.read_text(encoding="utf-8").splitlines():
        name, *texts = line.split("|")
        if texts:
            yield Clip(name, folder / audio / f"{name}{ending}", texts[-1].strip(), speaker)


def kerstin(folder: Path) -> Iterator[Clip]:
    """``metadata.csv`` (id|text) and ``<id>.flac`` in the same folder: one German woman."""
    yield from _metadata(folder, ".", ".flac", "kerstin")


def kathleen(folder: Path) -> Iterator[Clip]:
    """``<prompt>_<time>.wav`` and ``.txt``: takes of Arctic prompts by one American woman.

    The last take of each prompt is used. The last 50 ``arctic_b`` prompts are the test split.
    """
    takes: dict[str, Path] = {}
    for path in _need(list(folder.glob("*.wav")), folder, "<prompt>_<time>.wav"):
        takes[path.stem.rpartition("_")[0]] = path  # sorted by time
    held = set(sorted(p for p in takes if p.startswith("arctic_b"))[-50:])
    for prompt, path in takes.items():
        text = path.with_suffix(".txt")
        if prompt == "arctic_a0252" or not text.is_file():  # this take is cut off
            continue
        yield Clip(
            path.stem,
            path,
            text.read_text(encoding="utf-8").strip(),
            "kathleen",
            "test" if prompt in held else "",
        )


def festvox(folder: Path) -> Iterator[Clip]:
    """A festvox voice: ``etc/txt.done.data`` (``( id "text" )`` lines) and ``wav/<id>.wav``."""
    script = folder / "etc" / "txt.done.data"
    if not script.is_file():
        raise CorpusError(f"{folder}: expected etc/txt.done.data, found none")
    for name, text in re.findall(
        r'\(\s*(\S+)\s+"(.*?)"\s*\)', script.read_text(encoding="utf-8", errors="replace")
    ):
        yield Clip(name, folder / "wav" / f"{name}.wav", text, f"festvox-{name.split('_')[0]}")


def common_voice(folder: Path) -> Iterator[Clip]:
    """``validated.tsv`` (client_id, path, sentence) and ``clips/``."""
    table = folder / "validated.tsv"
    if not table.is_file():
        raise CorpusError(f"{folder}: expected validated.tsv, found none")
    with table.open(encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE):
            name = row["path"]
            yield Clip(
                Path(name).stem, folder / "clips" / name, row["sentence"], row["client_id"][:16]
            )


def words(folder: Path) -> Iterator[Clip]:
    """One folder per word, many anonymous speakers: ``<word>/*.flac`` or ``*.wav``."""
    found = [p for e in ("flac", "wav") for p in folder.glob(f"*/*.{e}")]
    for path in _need(found, folder, "<word>/*.flac"):
        yield Clip(f"{path.parent.name}-{path.stem}", path, path.parent.name, "")


def unlabelled(folder: Path) -> Iterator[Clip]:
    """A folder of speech without text or speakers: every sound file in it."""
    found = [p for e in ("flac", "wav", "ogg", "opus", "mp3") for p in folder.rglob(f"*.{e}")]
    for path in _need(found, folder, "sound files"):
        yield Clip(str(path.relative_to(folder).with_suffix("")).replace("/", "-"), path, "", "")


_ESC10 = {
    "Dog bark": "a dog barking",
    "Rain": "rain",
    "Sea waves": "waves of the sea",
    "Baby cry": "a baby crying",
    "Clock tick": "a ticking clock",
    "Person sneeze": "a person sneezing",
    "Helicopter": "a helicopter",
    "Chainsaw": "a chainsaw",
    "Rooster": "a rooster crowing",
    "Fire crackling": "a crackling fire",
}


def esc10(folder: Path) -> Iterator[Clip]:
    """``<n> - <class>/<fold>-<clip>.ogg``; fold 5 is the test split, the last clips of fold 4 the
    valid split.
    """
    for path in _need(list(folder.glob("* - */*.ogg")), folder, "<n> - <class>/*.ogg"):
        name = path.parent.name.partition(" - ")[2]
        split = "test" if path.stem.startswith("5-") else "train"
        yield Clip(
            f"{name}-{path.stem}".replace(" ", "_"),
            path,
            _ESC10.get(name, name.lower()),
            "",
            split,
            "t2s",
        )


def manifest(folder: Path) -> Iterator[Clip]:
    """``manifest.jsonl``: one object per line with audio, text, speaker and optionally split."""
    path = folder / "manifest.jsonl"
    if not path.is_file():
        raise CorpusError(f"{folder}: expected manifest.jsonl, found none")
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        yield Clip(
            str(row.get("id", n)),
            folder / row["audio"],
            row.get("text", ""),
            row.get("speaker", ""),
            row.get("split", ""),
        )


RECIPES: dict[str, Recipe] = {
    "librispeech": Recipe(
        librispeech,
        "CC BY 4.0",
        "LibriSpeech (c) 2014 by Vassil Panayotov, from LibriVox readings",
        held_out=frozenset(f"ls{n}" for n in (61, 2094, 2830, 4507, 7729, 8555)),
    ),
    "libritts": Recipe(
        libritts, "CC BY 4.0", "LibriTTS by Heiga Zen et al., from LibriVox readings"
    ),
    "vctk": Recipe(vctk, "CC BY 4.0", "CSTR VCTK Corpus, University of Edinburgh"),
    "ljspeech": Recipe(ljspeech, "public domain", "The LJ Speech Dataset by Keith Ito"),
    "common-voice": Recipe(common_voice, "CC0-1.0", "Mozilla Common Voice"),
    "kathleen": Recipe(kathleen, "CC0-1.0", "Kathleen, recorded for Rhasspy"),
    "kerstin": Recipe(kerstin, "CC0-1.0", "Kerstin, recorded for Rhasspy", "de"),
    "festvox-ru": Recipe(
        festvox, "BSD-like", "msu_ru_nsh_clunits, Moscow State University (festvox)", "ru"
    ),
    "wake-words": Recipe(words, "Apache-2.0", "Picovoice wake word benchmark"),
    "unlabelled": Recipe(unlabelled, "as given", ""),
    "esc10": Recipe(esc10, "CC BY 3.0", "ESC-10 by Karol J. Piczak, from freesound.org"),
    "manifest": Recipe(manifest, "as given", ""),
}


def frame_power(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean square of each 10 ms frame, [N // 160], at least one."""
    n = max(1, len(samples) // _HOP)
    return np.square(np.resize(samples, max(len(samples), _HOP))[: n * _HOP]).reshape(n, -1).mean(1)


def trimmed(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Trims silence at either end to ``EDGE_SECONDS``."""
    power = frame_power(samples)
    loud = np.flatnonzero(power > np.percentile(power, 90) * 10 ** (QUIET_DB / 10))
    if not len(loud):
        return samples
    edge = round(EDGE_SECONDS * SAMPLE_RATE)
    return samples[max(0, loud[0] * _HOP - edge) : (loud[-1] + 1) * _HOP + edge]


class Dropped(Exception):
    """The reason why a clip is not used."""


def prepare(path: Path, speech: bool = True) -> NDArray[np.int16]:
    """Reads a recording: int16 [N] at 16 kHz, mono, normalised to ``LEVEL_DB``, trimmed.

    Raises Dropped, with the reason, where it cannot be used.
    """
    if not path.is_file():
        raise Dropped("no file")
    try:
        samples, rate = sf.read(str(path), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, RuntimeError):
        raise Dropped("unreadable") from None
    mono = samples.mean(1)
    if not len(mono) or not np.isfinite(mono).all():
        raise Dropped("unreadable")
    if (np.abs(mono) > 0.999).mean() > CLIPPED_SHARE:
        raise Dropped("clipped")
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    mono = (mono - mono.mean()).astype(np.float32)
    if speech:
        mono = trimmed(mono)
    if len(mono) < SECONDS[0] * SAMPLE_RATE:
        raise Dropped("too short")
    if len(mono) > SECONDS[1] * SAMPLE_RATE:
        raise Dropped("too long")
    level = loud_level(mono)
    if level < -65:
        raise Dropped("silent")
    return to_pcm(set_level(mono, LEVEL_DB))


def split_of(key: str, valid_percent: int = 3) -> str:
    """ "train" or "valid", by a hash of the speaker or clip."""
    import hashlib

    h = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little") % 100
    return "valid" if h < valid_percent else "train"


@dataclass
class _Writer:
    """Writes the shards of one task and split. Within a shard, clips of a speaker are each other's
    prompts.
    """

    folder: Path
    task: str
    split: str
    source: str
    index: int
    rows: list[tuple[Clip, NDArray[np.int16]]] = field(default_factory=list)
    total: int = 0

    def add(self, clip: Clip, pcm: NDArray[np.int16]) -> None:
        self.rows.append((clip, pcm))
        self.total += len(pcm)
        if self.total >= SHARD_SECONDS["train"] * SAMPLE_RATE:
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        name = f"{self.task}-{self.split}-{self.index:04d}"
        tracks, offset = [], 0
        for clip, pcm in self.rows:
            said = clip.text if self.task == "tts" else ""
            tracks.append(Track(offset, len(pcm), said, clip.speaker))
            offset += len(pcm)
        by: dict[str, list[int]] = {}
        for i, (clip, _) in enumerate(self.rows):
            by.setdefault(clip.speaker, []).append(i)
        labels = []
        for i, (clip, _) in enumerate(self.rows):
            mates = by[clip.speaker]
            roles = {"target": tracks[i]}
            if clip.speaker and len(mates) > 1:
                roles["prompt"] = tracks[mates[(mates.index(i) + 1) % len(mates)]]
            labels.append(
                Label(
                    f"{name}-{i:04d}",
                    self.task,
                    self.split,
                    roles,
                    clip.text if self.task == "t2s" else "",
                    parameters={"source": self.source, "clip": clip.id},
                )
            )
        whole = np.concatenate([pcm for _, pcm in self.rows])
        write_shard(self.folder / f"{name}.jsonl", whole, labels)
        self.rows, self.total, self.index = [], 0, self.index + 1


def _next_index(folder: Path, task: str, split: str) -> int:
    found = [parse_name(p.stem)[2] for p in folder.glob(f"{task}-{split}-*.jsonl")]
    return max(found, default=-1) + 1


def convert(
    name: str,
    source: Path,
    out: Path,
    held_out: frozenset[str] | None = None,
    limit: int = 0,
) -> dict[str, Any]:
    """Adds a corpus to the shards in ``out`` and updates ``manifest.json``.

    Returns a report: hours by split, speakers, and dropped clips by reason.
    Raises CorpusError where the files are not laid out as expected or ``out`` already has this
    corpus.
    """
    recipe = RECIPES[name]
    held = recipe.held_out if held_out is None else held_out
    out.mkdir(parents=True, exist_ok=True)
    path = out / MANIFEST
    described: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    sources = described.setdefault("sources", {})
    key = name if name not in ("unlabelled", "manifest") else f"{name}:{source.name}"
    if key in sources:
        raise CorpusError(f"{out}: already has {key}; use another folder")
    clips = list(recipe.read(source))
    speakers = {c.speaker for c in clips}
    dropped: Counter[str] = Counter()
    seconds: dict[str, float] = dict.fromkeys(SPLITS, 0.0)
    writers: dict[tuple[str, str], _Writer] = {}
    for n, clip in enumerate(sorted(clips, key=lambda c: (c.speaker, c.id))):
        if limit and n >= limit:
            break
        by_clip = len(speakers) <= 2
        split = clip.split or (
            "test" if clip.speaker in held else split_of(clip.id if by_clip else clip.speaker)
        )
        try:
            pcm = prepare(clip.path, clip.task == "tts")
        except Dropped as e:
            dropped[str(e)] += 1
            continue
        place = (clip.task, split)
        if place not in writers:
            writers[place] = _Writer(out, *place, key, _next_index(out, *place))
        writers[place].add(clip, pcm)
        seconds[split] += len(pcm) / SAMPLE_RATE
    for writer in writers.values():
        writer.flush()
    sources[key] = {
        "licence": recipe.licence,
        "attribution": recipe.attribution,
        "language": recipe.language,
        "speakers": len(speakers - {""}),
        "held_out": sorted(held & speakers),
        "hours": {s: round(v / 3600, 4) for s, v in seconds.items()},
        "dropped": dict(dropped),
    }
    described.update(format=FORMAT, sample_rate=SAMPLE_RATE)
    part = out / f".{MANIFEST}.{os.getpid()}"
    part.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
    return dict(sources[key])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train corpus public",
        description="Convert public corpora to shards and report which clips were dropped and why.",
        epilog="example: uniaudio-train corpus public librispeech LibriSpeech --out data/real",
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("source", type=Path, help="folder of the corpus")
    parser.add_argument("--out", required=True, type=Path, help="folder of the shards")
    parser.add_argument(
        "--test-speakers",
        help="speakers of the test split, comma-separated (default: the recipe's)",
    )
    args = parser.parse_args(argv)
    held = None if args.test_speakers is None else frozenset(args.test_speakers.split(","))
    try:
        report = convert(args.recipe, args.source, args.out, held)
    except (CorpusError, ValueError, OSError) as e:
        print(f"uniaudio-train corpus: error: {e}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
