"""A user's own recordings as a corpus: a manifest with one JSON object per line.

=============  ====================================================================================
key            meaning
=============  ====================================================================================
``audio``      recording (required): a path relative to the manifest, or a URL; at most 10 minutes
``task``       task name; default: svs with ``score``, tts with ``text``, t2s with ``caption``
``split``      train (default), valid or test
``text``       what is said or sung (tts, vc, svs, i_tts, s_edit)
``speaker``    name of the speaker; recordings of one speaker are each other's voice prompts
``caption``    description of a t2s or t2m recording, or the instruction of i_tts and a_edit
``score``      notes of svs: a list of [MIDI pitch, start s, duration s, syllable]
``phones``     list of [phone, end s], for example from a forced aligner; default: text only
``source``     path of the input of vc, se, tse, a_edit, sd, s_edit
``prompt``     path of a voice prompt; default: another recording of the speaker
``spans``      s_edit, a_edit: edited spans, [[start s, end s] in source, [start s, end s] in audio]
=============  ====================================================================================

A user-defined task (``user_tasks.py``) takes ``audio``, ``task``, ``split``, ``speaker`` and
``phones``, and its inputs by name:

- voice, audio and units: a path (a missing voice is another recording of the speaker)
- text and caption: a string
- tokens: labels or numbers
- score: a list of notes as above
- span: [start s, end s] in ``audio``
- context: nothing, it is ``audio`` itself

Opening a manifest checks that its files exist, can be read and are not too long. Audio is read on
access.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from uniaudio_engine.request.inputs import token_ids
from uniaudio_engine.request.tasks import Input
from uniaudio_engine.text.phones import PHONES

from ..places import is_url, place
from ..user_tasks import UserTask
from .reading import Corpus, CorpusError, Example, Examples, Joined
from .schema import SAMPLE_RATE, SPLITS, TASK_ROLES, TASKS, Edit, Label, Note, Phone, Span, Track
from .sound_files import decoded, resampled_length

MAX_SECONDS = 600.0
MAX_LINE = 1 << 20  # bytes
MAX_FILE = 1 << 30
MAX_TEXT = 4000  # characters
_FRAME = 320  # samples; length differences below one frame are ignored
SHARD_SECONDS = 600.0  # per shard, as in the procedural corpus
_KEYS = (
    "audio",
    "task",
    "split",
    "text",
    "speaker",
    "caption",
    "score",
    "phones",
    "source",
    "prompt",
    "spans",
)
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
    """A manifest line is wrong; the message says how."""


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise _Bad(f"{key}: expected a text of at most {MAX_TEXT} characters, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return " ".join(repr(value)[:60].split())


def _number(value: Any, what: str, low: float, high: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise _Bad(f"{what}: expected a number from {low:g} to {high:g}, got {_shown(value)}")
    return float(value)


def _rows(value: Any, key: str, width: int, what: str) -> list[list[Any]]:
    if not isinstance(value, list) or not all(
        isinstance(r, list) and len(r) == width for r in value
    ):
        raise _Bad(f"{key}: expected a list of {what}, got {_shown(value)}")
    return value


class _Files:
    """The audio files of a manifest: checked once, read on access.

    A track's ``offset`` is the number of its file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: dict[int, Path] = {}
        self._checked: dict[str, tuple[int, int]] = {}

    def __call__(self, track: Track) -> NDArray[np.int16]:
        return _read(self.paths[track.offset])

    def track(
        self, name: Any, key: str, text: str = "", speaker: str = "", phones: tuple[Phone, ...] = ()
    ) -> Track:
        """The file as a track, with its length in samples at 16 kHz."""
        name = _text(name, key)
        if name not in self._checked:
            path = place(name) if is_url(name) else self.folder / name
            try:
                regular = path.is_file()  # neither a device nor a pipe
            except OSError:
                regular = False
            if not regular:
                raise _Bad(f"{key}: no file {_shown(name)}")
            try:
                with path.open("rb") as f:
                    info = sf.info(f)
            except (sf.LibsndfileError, RuntimeError, TypeError) as e:
                raise _Bad(
                    f"{key}: no sound that can be read in {_shown(name)} "
                    f"({' '.join(str(e).split())[-60:]})"
                ) from None
            seconds = info.frames / info.samplerate if info.samplerate > 0 else 0.0
            if not 0.02 <= seconds <= MAX_SECONDS:
                raise _Bad(
                    f"{key}: expected a sound of 0.02 to {MAX_SECONDS:g} s, got {seconds:.6g} s "
                    f"in {_shown(name)}"
                )
            self._checked[name] = len(self.paths), resampled_length(info.frames, info.samplerate)
            self.paths[len(self.paths)] = path
        return Track(*self._checked[name], text, speaker, phones)


@lru_cache(maxsize=16)
def _read(path: Path) -> NDArray[np.int16]:
    try:
        with path.open("rb") as f:
            return decoded(f)
    except (sf.LibsndfileError, RuntimeError, OSError) as e:
        raise CorpusError(
            f"{path}: can no longer be read ({' '.join(str(e).split())[:80]})"
        ) from None


class Recordings(Examples):
    """Recordings of one task and split, with the interface of a shard."""

    def __init__(self, name: str, labels: list[Label], files: _Files) -> None:
        self.name, self.labels, self.files = name, labels, files

    def __reduce__(self) -> tuple[type[Recordings], tuple[str, list[Label], _Files]]:
        """A worker gets the names of this shard's files, not of the whole manifest's."""
        files = _Files(self.files.folder)
        used = {track.offset for label in self.labels for track in label.tracks.values()}
        files.paths = {n: self.files.paths[n] for n in used}
        return Recordings, (self.name, self.labels, files)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, i: int) -> Example:
        return Example(self.labels[i], self.files)

    @property
    def lines(self) -> list[bytes]:
        return [label.line().encode() for label in self.labels]


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise _Bad(f"expected at most {MAX_LINE} bytes a line, got {len(line)}")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise _Bad(
            f'expected a JSON object such as {{"audio": "a.wav", "text": "hello"}}, got '
            f"{line[:40]!r}"
        ) from None
    if not isinstance(row, dict):
        raise _Bad(f"expected a JSON object, got {type(row).__name__}")
    return row


def _known(row: dict[str, Any], keys: tuple[str, ...]) -> None:
    unknown = sorted(set(row) - set(keys))
    if unknown:
        raise _Bad(f"unknown key {_shown(unknown[0])}; expected {', '.join(keys)}")
    if "audio" not in row:
        raise _Bad("audio is missing")


def _split(row: dict[str, Any]) -> str:
    split = row.get("split", "train")
    if split not in SPLITS:
        raise _Bad(f"split: expected one of {', '.join(SPLITS)}, got {_shown(split)}")
    return str(split)


def _phones(row: dict[str, Any], seconds: float) -> tuple[Phone, ...]:
    phones: list[Phone] = []
    for phone, end in _rows(row.get("phones", []), "phones", 2, "[phone, end]"):
        if not isinstance(phone, str) or phone not in _PHONES:
            raise _Bad(f"phones: expected the engine's phones, got {_shown(phone)}")
        phones.append(
            Phone(phone, _number(end, "phones", phones[-1].end if phones else 0.0, seconds + 0.05))
        )
    return tuple(phones)


def _notes(value: Any, key: str, seconds: float) -> tuple[Note, ...]:
    notes: list[Note] = []
    for pitch, start, duration, lyric in _rows(value, key, 4, "[pitch, start, duration, syllable]"):
        begin = _number(start, f"{key} start", notes[-1].start if notes else 0.0, seconds)
        length = _number(duration, f"{key} duration", 0.01, MAX_SECONDS)
        notes.append(
            Note(
                int(_number(pitch, f"{key} pitch", 0, 127)),
                begin,
                length,
                _text(lyric, f"{key} syllable"),
            )
        )
    return tuple(notes)


def _span(start: Any, end: Any, key: str, seconds: float) -> Span:
    first = _number(start, key, 0.0, seconds)
    return Span(round(first * SAMPLE_RATE), round(_number(end, key, first, seconds) * SAMPLE_RATE))


def _built_in(row: dict[str, Any], files: _Files, id: str, users: Mapping[str, UserTask]) -> Label:
    """The label of a line for a built-in task."""
    task = row.get("task") or (
        "svs" if "score" in row else "tts" if "text" in row else "t2s" if "caption" in row else None
    )
    if task not in TASKS:
        own = f"{', '.join(users)} (from the task files) or " if users else ""
        more = "" if users else "; a user-defined task needs its task file"
        raise _Bad(
            f"task: expected {own}one of {', '.join(TASKS)}, got {_shown(task)}{more}"
            if "task" in row
            else "expected text, caption, score or task besides audio"
        )
    _known(row, _KEYS)
    split = _split(row)
    for key in _NEEDS.get(task, ()):
        if key not in row:
            raise _Bad(f"{task} needs {key}")
    if "source" in TASK_ROLES[task] and "source" not in row:
        raise _Bad(f"{task} needs source: the path of its input")
    seconds = files.track(row["audio"], "audio").seconds
    phones, notes = _phones(row, seconds), _notes(row.get("score", []), "score", seconds)
    speaker, text = _text(row.get("speaker", ""), "speaker"), _text(row.get("text", ""), "text")
    tracks = {"target": files.track(row["audio"], "audio", text, speaker, phones)}
    for role in ("source", "prompt"):
        if role in row and role in TASK_ROLES[task]:
            tracks[role] = files.track(row[role], role, speaker=speaker if role == "prompt" else "")
    if task in ("se", "tse", "sd") and tracks["source"].samples != tracks["target"].samples:
        raise _Bad(
            f"{task}: expected source and audio of one length, got {tracks['source'].seconds:.3f} "
            f"s and {seconds:.3f} s"
        )
    edit = None
    if "spans" in row:
        both = []
        for (start, end), role in zip(
            _rows(row["spans"], "spans", 2, "[start, end]"), ("source", "target"), strict=False
        ):
            if role not in tracks:
                raise _Bad(f"spans: {task} has no {role}")
            both.append(_span(start, end, "spans", tracks[role].seconds))
        if len(both) != 2 or len(row["spans"]) != 2:
            raise _Bad("spans: expected two spans, in source and in audio")
        edit = Edit("replace", both[0], both[1])
    return Label(
        id, task, split, tracks, _text(row.get("caption", ""), "caption"), notes=notes, edit=edit
    )


def _own(row: dict[str, Any], files: _Files, id: str, user: UserTask) -> Label:
    """The label of a line for a user-defined task, with its inputs by name."""
    task = user.task
    inputs = {i.name: i for i in task.inputs if i.modality != "context"}
    _known(row, tuple(dict.fromkeys(("audio", "task", "split", "speaker", "phones", *inputs))))
    target = files.track(row["audio"], "audio")
    seconds = target.seconds
    phones, speaker = _phones(row, seconds), _text(row.get("speaker", ""), "speaker")
    text, tracks, rest = "", {}, {}
    more: dict[str, Any] = {}
    for name, spec in inputs.items():
        value = row.get(name)
        if value is None:
            aligned = spec.modality == "text" and phones
            if spec.required and not aligned and not (spec.modality == "voice" and speaker):
                raise _Bad(f"{task.name} needs {name}: {_FORMS[spec.modality]}")
        elif spec.modality in ("voice", "audio", "units"):
            tracks[name] = files.track(
                value, name, speaker=speaker if spec.modality == "voice" else ""
            )
            if spec.place == "aligned" and -(-tracks[name].samples // _FRAME) != -(
                -target.samples // _FRAME
            ):
                raise _Bad(
                    f"{name}: expected the length of audio, {seconds:.3f} s, as it is "
                    f"frame-aligned with it, got {tracks[name].seconds:.3f} s"
                )
        elif spec.modality == "text":
            text = _text(value, name)
        elif spec.modality == "caption":
            rest[name] = _text(value, name)
            if not rest[name].strip():
                raise _Bad(f"{name}: expected words, got {_shown(value)}")
        elif spec.modality == "tokens":
            rest[name] = _tokens(spec, value, user)
        elif spec.modality == "score":
            more["notes"] = _notes(value, name, seconds)
        elif spec.modality == "span":
            if not isinstance(value, list) or len(value) != 2:
                raise _Bad(f"{name}: expected {_FORMS['span']}, got {_shown(value)}")
            span = _span(value[0], value[1], name, seconds)
            more["edit"] = Edit("replace", span, span)
    if not phones and (
        task.length == "durations" or any(i.modality == "score" for i in task.inputs)
    ):
        raise _Bad(
            f"{task.name} needs phones, a list of [phone, end s], because it predicts durations; "
            "a forced aligner finds them"
        )
    spoken = dataclasses.replace(target, text=text, speaker=speaker, phones=phones)
    return Label(id, task.name, _split(row), {"target": spoken, **tracks}, inputs=rest, **more)


_FORMS = {
    "voice": "the path of a sound file, or a speaker with other recordings",
    "audio": "the path of a sound file",
    "units": "the path of a sound file",
    "text": "what is said",
    "caption": "a text",
    "tokens": "labels or numbers",
    "score": "a list of [pitch, start, duration, syllable]",
    "span": "[start s, end s] in audio",
}


def _tokens(spec: Input, value: Any, user: UserTask) -> Any:
    """Validates token labels or numbers against the task's range; returns them unchanged."""
    labels = user.labels.get(spec.segment, tuple(PHONES))
    if isinstance(value, str):
        value = _text(value, spec.name).split()
    if not isinstance(value, list):
        raise _Bad(f"{spec.name}: expected labels or numbers, got {_shown(value)}")
    try:
        token_ids(spec, value, len(labels), {label: n for n, label in enumerate(labels)})
    except ValueError as e:
        raise _Bad(str(e)) from None
    return value


def open_recordings(path: Path, users: Mapping[str, UserTask] | None = None) -> Corpus:
    """Reads and checks a manifest; ``users`` are the user-defined tasks by name.

    Raises CorpusError, in one line, with the number of the wrong line.
    """
    if path.suffix != ".jsonl" or path.stat().st_size > MAX_FILE:
        raise CorpusError(
            f"{path}: expected a manifest of recordings, a .jsonl file of at most "
            f"{MAX_FILE >> 20} MB"
        )
    files, users = _Files(path.parent), users or {}
    found: list[Label] = []
    # fsspec's files have no limit of a line
    with path.open("rb") as raw, io.BufferedReader(cast(io.RawIOBase, raw)) as f:
        for number, line in enumerate(iter(_lines(f), b""), 1):
            if not line.strip():
                continue
            try:
                row, id = _object(line), f"{path.stem}-{number:06d}"
                user = users.get(str(row.get("task")))
                found.append(
                    _built_in(row, files, id, users) if user is None else _own(row, files, id, user)
                )
            except _Bad as e:
                raise CorpusError(f"{path}, line {number}: {e}") from None
    if not found:
        raise CorpusError(
            f'{path}: no recordings; expected one line for each, such as {{"audio": "a.wav", '
            f'"text": "hello", "speaker": "me"}}'
        )
    by_speaker: dict[tuple[str, str, str], list[int]] = {}
    for i, label in enumerate(found):
        if label.tracks[
            "target"
        ].speaker:  # a user-defined task does not share a speaker's recordings with other tasks
            group = label.task if label.task in users else ""
            by_speaker.setdefault((group, label.split, label.tracks["target"].speaker), []).append(
                i
            )
    following = {
        i: same[(k + 1) % len(same)]
        for same in by_speaker.values()
        for k, i in enumerate(same)
        if len(same) > 1
    }
    groups: dict[tuple[str, str], list[Label]] = {}
    for i, label in enumerate(found):
        voices = (
            [s for s in users[label.task].task.inputs if s.modality == "voice"]
            if label.task in users
            else []
        )
        wanted = (
            [s.name for s in voices]
            if label.task in users
            else [r for r in TASK_ROLES[label.task] if r == "prompt"]
        )
        tracks = dict(label.tracks)
        for role in wanted:
            if role not in tracks and i in following:
                tracks[role] = found[following[i]].tracks["target"]
            elif role not in tracks and any(s.name == role and s.required for s in voices):
                raise CorpusError(
                    f"{path}, {label.id}: {label.task} needs {role}, and {label.split} has no "
                    "other recording of its speaker; give the path of a sound file"
                )
        groups.setdefault((label.task, label.split), []).append(
            dataclasses.replace(label, tracks=tracks)
        )
    return Corpus(
        path, {key: Joined(_shards(*key, labels, files)) for key, labels in groups.items()}
    )


def _shards(task: str, split: str, labels: list[Label], files: _Files) -> list[Recordings]:
    """Splits labels into shards of about SHARD_SECONDS, named as in the procedural corpus."""
    total, parts = 0.0, [[labels[0]]]
    for label in labels[1:]:
        total += label.tracks["target"].seconds
        if total > SHARD_SECONDS:
            total, parts = 0.0, [*parts, []]
        parts[-1].append(label)
    return [Recordings(f"{task}-{split}-{n:04d}", part, files) for n, part in enumerate(parts)]


def _lines(f: Any) -> Callable[[], bytes]:
    """A line reader that stops one byte past the limit, so that a file without newlines is not read
    whole.
    """
    return lambda: f.readline(MAX_LINE + 1)
