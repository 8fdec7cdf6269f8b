"""The label schema of the corpus: one JSON line per example, parsed into the dataclasses below.

An example has named tracks (sounds, with what is said or sung in them) and the labels of its task:

=======  =======================  =================================================================
task     tracks                   labels and guarantees
=======  =======================  =================================================================
tts      target, prompt           phone and word times; prompt: same speaker, another sentence
vc       source, target, prompt   same length and timing, two speakers; prompt: target's speaker
se       source, target           ``noise``; source - target is the noise, sample by sample
tse      source, target, prompt   ``interferer`` = source - target; prompt: target's speaker
svs      target, prompt           ``notes``, phone and word times; prompt: same singer, another song
t2s      target                   ``caption``, ``parameters`` (class, count, pitch, ...)
t2m      target                   ``caption``, ``parameters`` (instrument, key, tempo, drums, ...)
a_edit   source, target           ``caption`` (the instruction), ``edit``; equal outside its span
sd       source, target           ``room``; the direct sounds of source and target are aligned
i_tts    target                   ``caption``, ``instruction`` (bins, measurements), phones, words
s_edit   source, target           ``edit`` with both spans, equal outside them; phones and words
=======  =======================  =================================================================

An example of a user-defined task has a target track and one track per sound input, by the input's
name. Its other inputs are in ``inputs``.

Times are in seconds from the start of their track, spans in samples. All audio is 16 kHz mono
int16.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TASKS = ("tts", "vc", "se", "tse", "svs", "t2s", "t2m", "a_edit", "sd", "i_tts", "s_edit")
SPLITS = ("train", "valid", "test")
ROLES = ("target", "source", "prompt")
TASK_ROLES: dict[str, tuple[str, ...]] = {
    "tts": ("target", "prompt"),
    "vc": ("target", "source", "prompt"),
    "se": ("target", "source"),
    "tse": ("target", "source", "prompt"),
    "svs": ("target", "prompt"),
    "t2s": ("target",),
    "t2m": ("target",),
    "a_edit": ("target", "source"),
    "sd": ("target", "source"),
    "i_tts": ("target",),
    "s_edit": ("target", "source"),
}
SAMPLE_RATE = 16000
FORMAT = 1


class Phone(NamedTuple):
    """A phone of ``uniaudio_engine.text.phones.PHONES`` and its end in seconds.

    Vowels have a stress digit; silence is "pau".
    """

    phone: str
    end: float


class Word(NamedTuple):
    word: str
    start: float
    end: float


class Note(NamedTuple):
    """MIDI ``pitch`` (69 is 440 Hz), start and duration in seconds, and the lyric.

    The lyric is the word on its first note, "-" on notes that continue it.
    """

    pitch: int
    start: float
    duration: float
    lyric: str


class Span(NamedTuple):
    """A half-open range of samples: ``start`` is included, ``end`` is not."""

    start: int
    end: int


@dataclass(frozen=True)
class Track:
    """``samples`` samples at ``offset`` of the shard's audio. Tracks may overlap.

    Empty fields: unknown, or not speech.
    """

    offset: int
    samples: int
    text: str = ""
    speaker: str = ""
    phones: tuple[Phone, ...] = ()
    words: tuple[Word, ...] = ()

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True)
class Noise:
    """Added noise; ``snr_db`` is over the whole clip.

    ``kind`` is white, pink, hum, babble, sound or music; ``caption`` names the sound or music.
    """

    kind: str
    snr_db: float
    caption: str = ""


@dataclass(frozen=True)
class Interferer:
    """The interfering speaker of a mixture; ``snr_db`` is target over interferer, over the whole
    clip.
    """

    speaker: str
    snr_db: float


@dataclass(frozen=True)
class Room:
    """A room impulse response.

    ``rt60`` is its reverberation time in s, ``drr_db`` the direct-to-reverberant ratio (direct
    sound:
    the first 2.5 ms), ``distance`` from source to microphone in m, ``size`` the room in m (length,
    width, height).
    """

    rt60: float
    drr_db: float
    distance: float
    size: tuple[float, ...]


@dataclass(frozen=True)
class Edit:
    """What an edit changed.

    ``operation`` is add, drop, replace, inpaint or super_resolve for a_edit, replace for s_edit.
    ``removed`` and ``added`` name the events or words.
    The tracks are equal outside the spans ``source`` and ``target``.
    """

    operation: str
    source: Span
    target: Span
    removed: str = ""
    added: str = ""


@dataclass(frozen=True)
class Instruction:
    """What an i_tts caption asks for, and the measurements of the recording.

    The bins are low/medium/high, slow/medium/fast and quiet/medium/loud.
    """

    voice: str
    f0: str
    rate: str
    gain: str
    f0_hz: float
    phones_per_second: float
    level_db: float


@dataclass(frozen=True)
class Vibrato:
    """Vibrato of every note of at least 0.4 s: depth ``cents`` either way, rate ``hz``.

    ``singing.contour`` renders it.
    """

    cents: float
    hz: float


@dataclass(frozen=True)
class Label:
    """One example; ``id`` is ``<task>-<split>-<shard>-<example>``.

    ``inputs``: the inputs of a user-defined task that are not sounds, by name.
    """

    id: str
    task: str
    split: str
    tracks: dict[str, Track]
    caption: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    vibrato: Vibrato | None = None
    noise: Noise | None = None
    interferer: Interferer | None = None
    room: Room | None = None
    edit: Edit | None = None
    instruction: Instruction | None = None
    inputs: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The JSON line without its newline; fields with their default value are omitted."""
        return json.dumps(_plain(self), separators=(",", ":"), allow_nan=False)

    @staticmethod
    def parse(line: str | bytes) -> Label:
        """Parses a line written by ``line``. Raises SchemaError, in one line, for anything else."""
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise SchemaError(f"expected a line of JSON ({type(e).__name__})") from None
        return typing.cast(Label, _read(Label, data, "label"))


class SchemaError(ValueError):
    """A label that does not match the schema; the message is one line."""


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out = {}
        for f in dataclasses.fields(value):
            v = getattr(value, f.name)
            default = (
                f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            )
            if default is dataclasses.MISSING or v != default:
                out[f.name] = _plain(v)
        return out
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 6)
    return value


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(args[0], value, where)
    if dataclasses.is_dataclass(hint):
        hints = _hints(typing.cast(type, hint))
        if not isinstance(value, dict):
            raise SchemaError(f"{where}: expected an object, got {type(value).__name__}")
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise SchemaError(
                f"{where}: unknown key {unknown[0][:40]!r}; expected {', '.join(hints)}"
            )
        missing = [
            f.name
            for f in dataclasses.fields(hint)
            if f.name not in value
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise SchemaError(f"{where}: {missing[0]} is missing")
        return typing.cast(Any, hint)(
            **{k: _read(hints[k], v, f"{where}.{k}") for k, v in value.items()}
        )
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        fields = list(_hints(hint).values())
        if not isinstance(value, list) or len(value) != len(fields):
            raise SchemaError(
                f"{where}: expected [{', '.join(typing.cast(Any, hint)._fields)}], got "
                f"{str(value)[:40]}"
            )
        return hint(*(_read(h, v, where) for h, v in zip(fields, value, strict=True)))
    if origin is tuple:
        if not isinstance(value, list):
            raise SchemaError(f"{where}: expected a list, got {type(value).__name__}")
        return tuple(_read(args[0], v, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise SchemaError(f"{where}: expected an object, got {type(value).__name__}")
        return {k: _read(args[1], v, f"{where}.{k[:40]}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise SchemaError(f"{where}: expected {hint.__name__}, got {str(value)[:40]!r}")
    return value
