"""A user's own recordings as a corpus: a manifest of one JSON object a line, next to or pointing at audio files.

=============  =====================================================================================================================
key            meaning
=============  =====================================================================================================================
``audio``      path of the recording, relative to the manifest (required); any format and rate that soundfile reads, <= 10 minutes
``task``       one of the eleven; without it: svs with ``score``, tts with ``text``, t2s with ``caption``
``split``      train (default), valid or test
``text``       what is said or sung (tts, vc, svs, i_tts, s_edit)
``speaker``    who; recordings of one speaker serve as each other's voice prompts
``caption``    what a t2s or t2m recording is, or the instruction of i_tts and a_edit
``score``      notes of svs: a list of [MIDI pitch, start s, duration s, syllable]
``phones``     [phone, end s] in order, where an aligner has found them; without them the example has text only
``source``     path of the input of vc, se, tse, a_edit, sd, s_edit
``prompt``     path of a voice prompt; without it another recording of the speaker
``spans``      s_edit and a_edit: [[start s, end s] in source, [start s, end s] in audio] of what was edited
=============  =====================================================================================================================

The files are checked when the manifest is opened (they exist, are sound, are not too long) and read when they are asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from uniaudio_engine.text.phones import PHONES

from .reading import Corpus, CorpusError, Example, Examples, Joined
from .schema import SAMPLE_RATE, SPLITS, TASK_ROLES, TASKS, Edit, Label, Note, Phone, Span, Track

MAX_SECONDS = 600.0
MAX_LINE = 1 << 20  # bytes
MAX_FILE = 1 << 30
MAX_TEXT = 4000  # characters
_KEYS = ("audio", "task", "split", "text", "speaker", "caption", "score", "phones", "source", "prompt", "spans")
_PHONES = frozenset(PHONES)
_NEEDS = {
    "tts": ("text",),
    "svs": ("score",),
    "t2s": ("caption",),
    "t2m": ("caption",),
    "i_tts": ("text", "caption"),
    "a_edit": ("caption",),
    "s_edit": ("text",),
}


class _Bad(ValueError):
    """What is wrong with a line."""


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise _Bad(f"{key}: expected a text of at most {MAX_TEXT} characters, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return " ".join(repr(value)[:60].split())


def _number(value: Any, what: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
        raise _Bad(f"{what}: expected a number from {low:g} to {high:g}, got {_shown(value)}")
    return float(value)


def _rows(value: Any, key: str, width: int, what: str) -> list[list[Any]]:
    if not isinstance(value, list) or not all(isinstance(r, list) and len(r) == width for r in value):
        raise _Bad(f"{key}: expected a list of {what}, got {_shown(value)}")
    return value


class _Files:
    """Audio files of a manifest: checked once, read as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checked: dict[str, tuple[Path, int]] = {}

    def check(self, name: Any, key: str) -> tuple[Path, int]:
        """Path and samples at 16 kHz."""
        name = _text(name, key)
        if name not in self._checked:
            path = self.folder / name
            try:
                regular = path.is_file()  # no devices, no pipes
            except OSError:
                regular = False
            if not regular:
                raise _Bad(f"{key}: no file {_shown(name)}")
            try:
                info = sf.info(str(path))
            except (sf.LibsndfileError, RuntimeError, TypeError) as e:
                raise _Bad(f"{key}: {_shown(name)} is no sound that can be read ({' '.join(str(e).split())[-60:]})") from None
            seconds = info.frames / info.samplerate if info.samplerate > 0 else 0.0
            if not 0.02 <= seconds <= MAX_SECONDS:
                raise _Bad(f"{key}: expected a sound of 0.02 to {MAX_SECONDS:g} s, got {seconds:.6g} s in {_shown(name)}")
            self._checked[name] = path, _resampled_length(info.frames, info.samplerate)
        return self._checked[name]


def _resampled_length(frames: int, rate: int) -> int:
    return frames if rate == SAMPLE_RATE else -(-frames * SAMPLE_RATE // rate)


@lru_cache(maxsize=16)
def _read(path: Path) -> NDArray[np.int16]:
    try:
        samples, rate = sf.read(str(path), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, RuntimeError, OSError) as e:
        raise CorpusError(f"{path}: cannot be read any more ({' '.join(str(e).split())[:80]})") from None
    mono = np.nan_to_num(samples.mean(1), nan=0.0, posinf=0.0, neginf=0.0)
    wanted = _resampled_length(len(mono), rate)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    mono = np.pad(mono[:wanted], (0, max(0, wanted - len(mono))))
    pcm = np.round(np.clip(mono, -1, 1) * 32767).astype(np.int16)
    pcm.setflags(write=False)
    return pcm


class _Recordings(Examples):
    def __init__(self, rows: list[tuple[Label, dict[int, Path]]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, i: int) -> Example:
        label, paths = self.rows[i]
        return Example(label, _Loader(paths))


class _Loader:
    """Tracks of recordings have their place among the example's files as ``offset``."""

    def __init__(self, paths: dict[int, Path]) -> None:
        self.paths = paths

    def __call__(self, track: Track) -> NDArray[np.int16]:
        return _read(self.paths[track.offset])


def _parse_line(line: bytes, number: int, files: _Files, name: str) -> tuple[Label, dict[str, Path]]:
    if len(line) > MAX_LINE:
        raise _Bad(f"expected at most {MAX_LINE} bytes a line, got {len(line)}")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise _Bad(f'expected a JSON object such as {{"audio": "a.wav", "text": "hello"}}, got {line[:40]!r}') from None
    if not isinstance(row, dict):
        raise _Bad(f"expected a JSON object, got {type(row).__name__}")
    unknown = sorted(set(row) - set(_KEYS))
    if unknown:
        raise _Bad(f"unknown key {_shown(unknown[0])}; expected {', '.join(_KEYS)}")
    if "audio" not in row:
        raise _Bad("audio is missing")
    task = row.get("task") or ("svs" if "score" in row else "tts" if "text" in row else "t2s" if "caption" in row else None)
    if task not in TASKS:
        raise _Bad(
            f"task: expected one of {', '.join(TASKS)}, got {_shown(task)}" if "task" in row else "expected text, caption, score or task beside audio"
        )
    split = row.get("split", "train")
    if split not in SPLITS:
        raise _Bad(f"split: expected one of {', '.join(SPLITS)}, got {_shown(split)}")
    for key in _NEEDS.get(task, ()):
        if key not in row:
            raise _Bad(f"{task} needs {key}")
    if "source" in TASK_ROLES[task] and "source" not in row:
        raise _Bad(f"{task} needs source: the path of its input")
    path, samples = files.check(row["audio"], "audio")
    seconds = samples / SAMPLE_RATE
    phones: list[Phone] = []
    for phone, end in _rows(row.get("phones", []), "phones", 2, "[phone, end]"):
        if not isinstance(phone, str) or phone not in _PHONES:
            raise _Bad(f"phones: expected the engine's phones, got {_shown(phone)}")
        phones.append(Phone(phone, _number(end, "phones", phones[-1].end if phones else 0.0, seconds + 0.05)))
    notes: list[Note] = []
    for pitch, start, duration, lyric in _rows(row.get("score", []), "score", 4, "[pitch, start, duration, syllable]"):
        begin = _number(start, "score start", notes[-1].start if notes else 0.0, seconds)
        notes.append(
            Note(
                int(_number(pitch, "score pitch", 0, 127)),
                begin,
                _number(duration, "score duration", 0.01, MAX_SECONDS),
                _text(lyric, "score syllable"),
            )
        )
    speaker, text = _text(row.get("speaker", ""), "speaker"), _text(row.get("text", ""), "text")
    tracks = {"target": Track(0, samples, text, speaker, tuple(phones))}
    paths = {"target": path}
    for place, role in ((1, "source"), (2, "prompt")):
        if role in row and role in TASK_ROLES[task]:
            paths[role], length = files.check(row[role], role)
            tracks[role] = Track(place, length, speaker=speaker if role == "prompt" else "")
    if task in ("se", "tse", "sd") and tracks["source"].samples != samples:
        raise _Bad(f"{task}: expected source and audio of one length, got {tracks['source'].seconds:.3f} s and {seconds:.3f} s")
    edit = None
    if "spans" in row:
        both = []
        for (start, end), role in zip(_rows(row["spans"], "spans", 2, "[start, end]"), ("source", "target"), strict=False):
            if role not in tracks:
                raise _Bad(f"spans: {task} has no {role}")
            first = _number(start, "spans", 0.0, tracks[role].seconds)
            both.append(Span(round(first * SAMPLE_RATE), round(_number(end, "spans", first, tracks[role].seconds) * SAMPLE_RATE)))
        if len(both) != 2 or len(row["spans"]) != 2:
            raise _Bad("spans: expected two, that of source and that of audio")
        edit = Edit("replace", both[0], both[1])
    label = Label(f"{name}-{number:06d}", task, split, tracks, _text(row.get("caption", ""), "caption"), notes=tuple(notes), edit=edit)
    return label, paths


def open_recordings(path: Path) -> Corpus:
    """Reads and checks a manifest.  Raises CorpusError, in one line, with the number of the line that is wrong."""
    if path.suffix != ".jsonl" or path.stat().st_size > MAX_FILE:
        raise CorpusError(f"{path}: expected a manifest of recordings, a .jsonl file of at most {MAX_FILE >> 20} MB")
    files = _Files(path.parent)
    found: list[tuple[Label, dict[str, Path]]] = []
    with path.open("rb") as f:
        for number, line in enumerate(iter(_lines(f), b""), 1):
            if not line.strip():
                continue
            try:
                found.append(_parse_line(line, number, files, path.stem))
            except _Bad as e:
                raise CorpusError(f"{path}, line {number}: {e}") from None
    if not found:
        raise CorpusError(f'{path}: no recordings; expected a line for each, such as {{"audio": "a.wav", "text": "hello", "speaker": "me"}}')
    by_speaker: dict[tuple[str, str], list[int]] = {}
    for i, (label, _) in enumerate(found):
        if label.tracks["target"].speaker:
            by_speaker.setdefault((label.split, label.tracks["target"].speaker), []).append(i)
    following = {i: same[(k + 1) % len(same)] for same in by_speaker.values() for k, i in enumerate(same) if len(same) > 1}
    groups: dict[tuple[str, str], list[tuple[Label, dict[int, Path]]]] = {}
    for i, (label, paths) in enumerate(found):
        tracks = dict(label.tracks)
        if "prompt" in TASK_ROLES[label.task] and "prompt" not in tracks and i in following:
            other, other_paths = found[following[i]]
            o = other.tracks["target"]
            tracks["prompt"] = Track(2, o.samples, o.text, o.speaker, o.phones)
            paths = {**paths, "prompt": other_paths["target"]}
        whole = Label(label.id, label.task, label.split, tracks, label.caption, notes=label.notes, edit=label.edit)
        groups.setdefault((label.task, label.split), []).append((whole, {tracks[r].offset: p for r, p in paths.items()}))
    return Corpus(path, {key: Joined([_Recordings(rows)]) for key, rows in groups.items()})


def _lines(f: Any) -> Callable[[], bytes]:
    """Lines, none longer than the limit and one byte: a file without newlines is not read whole."""
    return lambda: f.readline(MAX_LINE + 1)
