"""Tasks are data: what goes in, in which order, what comes out, how long it is, and how it is
sampled.

A new task is an entry (and a model trained for it); the engine, the CLI and the schema follow from
the entry. A model's ``config.json`` lists its tasks: by name those of :data:`TASKS`, and whole
entries for those of its own, so that a folder says by itself how its model is to be asked. Not
responsible for turning inputs into tokens: that is ``inputs.py``.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import InputError, first_few, shown

Number = int | float | None
MAX_SEED = (1 << 63) - 1
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


@dataclass(frozen=True)
class Input:
    """One input.  ``segment`` names its tokens: ``<segment_start> … <segment_end>``.

    Modalities:

    - ``voice``: a voice's name or file, or a sound to take the voice from.
    - ``audio``: a sound, as codes.
    - ``text``: English text, as phones; ``phones=`` may be given in its place. ``collapse`` makes
      one token of a run.
    - ``tokens``: ids of the vocabulary span ``segment``, or its labels where the folder has them;
      ``rate`` a second.
    - ``states``: float32 [n, width] of an external encoder, one a frame, through the LM's
      continuous input ``segment``.
    - ``caption``: English text, as pieces of the caption tokenizer.
    - ``units``: a sound, as semantic units; ``score``: notes and words (``score.py``). Both go
      beside the target.
    - ``context``: a sound of which a ``span`` is to be spoken anew; what is around it is the voice
      prompt.
    - ``span``: begin and end in seconds of the part of input ``segment`` that is hidden from the
      model, and how long the hidden part is to be, where that differs.

    ``place``: in the sequence, or beside the target frame by frame (``aligned.py``). ``encoder``
    names the optional encoder (``encoders.py``) that makes ``tokens`` of a sound or ``states`` of a
    text.
    """

    name: str
    modality: Literal[
        "voice", "audio", "text", "caption", "tokens", "states", "units", "score", "context", "span"
    ]
    segment: str
    help: str
    required: bool = True
    min_seconds: float = 0.0
    max_seconds: float = 0.0  # audio and voice: what is beyond is not used; 0 for no limit
    collapse: bool = False
    rate: float = 0.0  # tokens: how many a second; 0 where they are not in time
    max_count: int = 0  # tokens and states: at most so many; 0 for no limit
    encoder: str = ""
    place: Literal["sequence", "aligned"] = "sequence"
    units: bool = (
        False  # audio beside the target: its semantic units as well, which say what is spoken in it
    )


@dataclass(frozen=True)
class Option:
    """A number that may be set; ``low`` <= value <= ``high``."""

    name: str
    kind: Literal["int", "float"]
    default: Number
    low: float
    high: float
    help: str

    def check(self, value: Any) -> Number:
        if value is None:
            return self.default
        what = "a whole number" if self.kind == "int" else "a number"
        low, high = (
            f"{limit:g}" if isinstance(limit, float) else limit for limit in (self.low, self.high)
        )
        wanted = f"{self.name}: expected {what} from {low} to {high}"
        if isinstance(value, bool) or not hasattr(
            value, "__index__" if self.kind == "int" else "__float__"
        ):
            raise InputError(f"{wanted}, got {shown(value)}")
        number = int(value) if self.kind == "int" else float(value)
        if not math.isfinite(number) or not self.low <= number <= self.high:
            raise InputError(f"{wanted}, got {shown(value)}")
        return number


SEED = Option(
    "seed", "int", None, 0, MAX_SEED, "same seed, same sound; random when left out, and reported"
)
REPETITION = (
    Option(
        "repetition_window",
        "int",
        0,
        0,
        4096,
        "frames back in which a repeated code is made less likely",
    ),
    Option("repetition_penalty", "float", 1.0, 1.0, 10.0, "how much less likely; 1 is off"),
)
_SECONDS = Option(
    "seconds", "float", None, 0.02, 3600.0, "exactly this long, instead of where the model ends"
)
# What each length rule lets a caller set.
LENGTH_OPTIONS: dict[str, tuple[Option, ...]] = {
    "durations": (
        Option(
            "duration_temperature",
            "float",
            0.3,
            0.0,
            5.0,
            "the same for the rhythm; 0 is the likeliest",
        ),
        Option("speed", "float", 1.0, 0.25, 4.0, "2 speaks twice as fast"),
    ),
    "source": (),
    "seconds": (Option("seconds", "float", 4.0, 0.02, 3600.0, "how much sound to make"),),
    "end": (
        Option(
            "min_ratio",
            "float",
            0.5,
            0.0,
            1000.0,
            "no end before so many frames for each frame of input",
        ),
        Option(
            "max_ratio",
            "float",
            7.0,
            0.0,
            1000.0,
            "an end at the latest after so many frames for each of input",
        ),
        _SECONDS,
    ),
    "one": (),
}


def guidance_option(default: float) -> Option:
    """Of tasks that have a caption; a model must have been trained with some captions left out."""
    return Option(
        "guidance",
        "float",
        default,
        0.0,
        20.0,
        "how much what the caption changes is exaggerated; 1 is the model as it is",
    )


def sampling_options(temperature: float, top_k: int, top_p: float) -> tuple[Option, ...]:
    """The options that every sampled task has, with this task's defaults."""
    return (
        SEED,
        Option(
            "temperature",
            "float",
            temperature,
            0.0,
            5.0,
            "0 takes the most probable code, higher is more varied",
        ),
        Option(
            "top_k",
            "int",
            top_k,
            0,
            1 << 20,
            "sample from the k most probable codes only; 0 is all",
        ),
        Option(
            "top_p",
            "float",
            top_p,
            0.001,
            1.0,
            "sample from the most probable codes of this total probability",
        ),
        *REPETITION,
    )


@dataclass(frozen=True)
class Task:
    """``length`` says how many frames are made:

    - ``durations``: a planned duration for each phone, then exactly their sum;
    - ``source``: as many as the input named source has, or the one that goes beside the target;
    - ``seconds``: the option of that name;
    - ``end``: until the model says so, between ``min_ratio`` and ``max_ratio`` times the input's
      frames;
    - ``one``: a single token.

    ``target``: ``audio``, or the vocabulary span whose tokens are the answer
    (``Engine.understand``). ``token`` is the task's special token, by default ``NAME_task``.
    ``temperature``, ``top_k``, ``top_p``: the defaults, and ``guidance`` (classifier-free, arXiv
    2207.12598) that of tasks with a caption; other than 1 it costs a second pass. ``finish``:
    ``length`` gives exactly as many samples as the source has; ``span`` puts what was made into the
    source's span, and every sample outside of it stays as it was. ``verb``: its name on the command
    line and in Python.
    """

    name: str
    help: str
    inputs: tuple[Input, ...]
    length: Literal["durations", "source", "seconds", "end", "one"]
    example: str
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    target: str = "audio"
    token: str = ""
    finish: Literal["", "length", "span"] = ""
    verb: str = ""
    guidance: float = 1.0

    @property
    def special(self) -> str:
        return self.token or f"{self.name}_task"

    @property
    def options(self) -> tuple[Option, ...]:
        guidance = (
            (guidance_option(self.guidance),)
            if any(i.modality == "caption" for i in self.inputs)
            else ()
        )
        return (
            *sampling_options(self.temperature, self.top_k, self.top_p),
            *guidance,
            *LENGTH_OPTIONS[self.length],
        )

    def option(self, name: str) -> Option:
        return next(o for o in self.options if o.name == name)

    def check(self) -> None:
        """That the entry makes sense by itself; entries come from files, too."""
        inputs = {i.name: i for i in self.inputs}
        for what, name in [
            ("name", self.name),
            ("target", self.target),
            ("token", self.special),
            *(("input", i.name) for i in self.inputs),
            *(("segment", i.segment) for i in self.inputs),
        ]:
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"task {shown(self.name)}: {what}: expected a short name of letters, digits "
                    f"and _, got {shown(name)}"
                )
        clash = set(inputs) & {
            "task",
            "voice",
            "chunk_frames",
            *(o.name for o in self.options),
            *(("phones",) if self.text_input else ()),
        }
        if (
            len(inputs) != len(self.inputs)
            or clash
            or len([i for i in self.inputs if i.modality == "text"]) > 1
        ):
            raise InputError(
                f"task {self.name}: expected distinct names of inputs and options, none of task, "
                "voice and chunk_frames, and at most one text"
            )
        for i in self.inputs:
            if i.modality == "span" and (
                i.segment not in inputs or inputs[i.segment].modality not in ("audio", "context")
            ):
                raise InputError(
                    f"task {self.name}: input {i.name}: expected the name of an audio input as "
                    f"segment, got {shown(i.segment)}"
                )
            if i.units and (i.place != "aligned" or i.modality != "audio"):
                raise InputError(
                    f"task {self.name}: input {i.name}: units: expected a sound (modality audio) "
                    "beside the target (place aligned) to take them of"
                )
            if (i.place == "aligned") != (
                i.modality in ("units", "score")
            ) and i.modality != "audio":
                raise InputError(
                    f"task {self.name}: input {i.name}: {i.modality} cannot be in place {i.place}"
                )
            if not (
                0 <= i.min_seconds <= 3600
                and 0 <= i.max_seconds <= 3600
                and 0 <= i.rate <= 1e5
                and 0 <= i.max_count <= 1 << 20
            ):
                raise InputError(
                    f"task {self.name}: input {i.name}: expected limits from 0 up, got {i}"
                )
        beside = [i for i in self.inputs if i.place == "aligned"]
        if (self.length == "source" and "source" not in inputs and not beside) or (
            self.length == "durations" and not self.text_input
        ):
            raise InputError(
                f"task {self.name}: length {self.length}: expected an input named source, or for "
                "durations a text"
            )
        if len(beside) > 1 or (beside and (self.length != "source" or not beside[0].required)):
            raise InputError(
                f"task {self.name}: expected one input beside the target, required, its length "
                "source"
            )
        if self.length == "source" and self.text_input:
            raise InputError(
                f"task {self.name}: a text and length source: its sentences are as long as they "
                "are spoken; choose durations, end or seconds"
            )
        kept = next(
            (
                i
                for i in self.inputs
                if i.name == "source" and (i.place == "aligned" or i.modality == "context")
            ),
            None,
        )
        spanned = any(i.modality == "span" and i.segment == "source" for i in self.inputs)
        if self.finish and (
            kept is None
            or kept.modality == "score"
            or (self.finish == "span" and (kept.modality == "units" or not spanned))
        ):
            raise InputError(
                f"task {self.name}: finish {self.finish}: expected a sound named source that is "
                "beside the target or a context, and for span an input of its span"
            )
        for o in self.options:
            o.check(o.default)

    def check_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values; defaults filled in, a random seed drawn where none is
        given.
        """
        known = {o.name for o in self.options}
        unknown = sorted(set(given) - known)
        if unknown:
            raise InputError(
                f"{self.name}: unknown option {first_few(unknown)}; it has "
                f"{', '.join(sorted(known))}"
            )
        values = {o.name: o.check(given.get(o.name)) for o in self.options}
        if values.get("seed") is None:
            values["seed"] = secrets.randbits(32)
        return values

    def check_inputs(self, given: Mapping[str, Any]) -> None:
        """Names only: nothing missing, nothing unknown."""
        names = {i.name for i in self.inputs}
        missing = [i.name for i in self.inputs if i.required and given.get(i.name) is None]
        if self.text_input is not None:
            names |= {"phones"}
            text, phones = given.get(self.text_input.name), given.get("phones")
            if text is not None and phones is not None:
                raise InputError(
                    f"{self.name}: expected either {self.text_input.name} or phones, got both"
                )
            if phones is not None and self.text_input.name in missing:
                missing.remove(self.text_input.name)
        unknown = sorted(set(given) - names)
        if unknown:
            raise InputError(
                f"{self.name}: unknown input {first_few(unknown)}; it takes "
                f"{', '.join(sorted(names))}"
            )
        if missing:
            raise InputError(
                f"{self.name}: input {first_few(missing)} is missing; for example: {self.example}"
            )

    @property
    def needs(self) -> set[str]:
        """Names of the special tokens, vocabulary spans, aligned spans and continuous inputs that
        its sequence is made of.
        """
        names = {"start", self.special, self.target, f"{self.target}_start", f"{self.target}_end"}
        for i in self.inputs:
            if i.place == "aligned":
                names |= {
                    "audio": {"source0", "ahead0"},
                    "units": {"unit"},
                    "score": {"note", "phone_now"},
                }[i.modality]
                names |= {"unit"} if i.units else set()
            elif i.modality == "span":
                place = next(
                    (o.place for o in self.inputs if o.name == i.segment and o.modality == "audio"),
                    "",
                )
                names |= {"aligned": {"edit"}, "sequence": {"audio_mask"}}.get(place, set())
            else:
                names |= {
                    f"{i.segment}_start",
                    f"{i.segment}_end",
                    "audio" if i.modality in ("voice", "audio", "context") else i.segment,
                }
                names |= {"continuous_token"} if i.modality == "states" else set()
        return names | (
            {"duration", "duration_start", "duration_end"} if self.length == "durations" else set()
        )

    @property
    def lead(self) -> Input | None:
        """The voice, or what is around an edit, where the sequence begins with it: sentences share
        it.
        """
        return next((i for i in self.inputs[:1] if i.modality in ("voice", "context")), None)

    @property
    def sound_beside(self) -> Input | None:
        """The sound that rides beside the target frame by frame, where there is one."""
        return next(
            (i for i in self.inputs if i.place == "aligned" and i.modality == "audio"), None
        )

    @property
    def text_input(self) -> Input | None:
        return next((i for i in self.inputs if i.modality == "text"), None)

    def schema(self) -> dict[str, Any]:
        """Plain JSON values that describe the task to a program."""
        inputs = []
        for i in self.inputs:
            entry: dict[str, Any] = {
                "name": i.name,
                "modality": i.modality,
                "required": i.required,
                "help": i.help,
            }
            if i.max_seconds:
                entry.update(min_seconds=i.min_seconds, max_seconds=i.max_seconds)
            entry.update({k: v for k in ("rate", "max_count", "encoder") if (v := getattr(i, k))})
            inputs.append(entry)
            if i.modality == "text":
                instead = f"phones separated by spaces, instead of {i.name}"
                inputs.append(
                    {"name": "phones", "modality": "phones", "required": False, "help": instead}
                )
        options = [
            {
                "name": o.name,
                "type": o.kind,
                "default": o.default,
                "min": o.low,
                "max": o.high,
                "help": o.help,
            }
            for o in self.options
        ]
        return {
            "name": self.name,
            "help": self.help,
            "inputs": inputs,
            "options": options,
            "target": self.target,
            "length": self.length,
            "example": self.example,
        }


_VOICE = Input(
    "prompt",
    "voice",
    "audio_prompt",
    "a voice's name or file, or a sound to take the voice from",
    required=False,
    min_seconds=0.5,
    max_seconds=3.0,
)
_THIS_VOICE = replace(_VOICE, required=True)
_TEXT = Input("text", "text", "phone", "English text")
_CAPTION = Input("text", "caption", "caption", "what it is to sound like, in English")
_INSTRUCTION = Input("instruction", "caption", "caption", "what to do, in English")
_BESIDE = Input("source", "audio", "source", "the sound", place="aligned")
_SPEECH = replace(_BESIDE, units=True)
_SPAN = Input("span", "span", "source", "the part to change, as begin:end in seconds")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "tts",
            "speak a text in a given voice",
            (_VOICE, _TEXT),
            "durations",
            'uniaudio tts "Hello there." -o hello.wav',
            0.3,
            64,
            0.95,
            verb="tts",
        ),
        Task(
            "vc",
            "say the same in another voice",
            (
                _THIS_VOICE,
                Input("source", "units", "unit", "the speech", place="aligned"),
            ),
            "source",
            "uniaudio convert --source examples/speech.flac --voice examples/voice.flac -o "
            "converted.wav",
            0.3,
            64,
            0.95,
            finish="length",
            verb="convert",
        ),
        Task(
            "se",
            "take the noise out of speech",
            (_SPEECH,),
            "source",
            "uniaudio enhance --source examples/noisy.flac -o clean.wav",
            0.3,
            64,
            0.95,
            finish="length",
            verb="enhance",
        ),
        Task(
            "tse",
            "pull one speaker out of a mixture",
            (_THIS_VOICE, _SPEECH),
            "source",
            "uniaudio extract --source examples/mixture.flac --voice examples/wanted.flac -o "
            "alone.wav",
            0.3,
            64,
            0.95,
            finish="length",
            verb="extract",
        ),
        Task(
            "svs",
            "sing a score",
            (
                _VOICE,
                Input(
                    "score",
                    "score",
                    "note",
                    "notes and words: .txt, .mid or .musicxml",
                    place="aligned",
                ),
            ),
            "source",
            "uniaudio sing --score examples/song.txt --voice examples/singer.flac -o song.wav",
            0.5,
            64,
            0.95,
            verb="sing",
        ),
        Task(
            "t2s",
            "make the sound of a caption",
            (_CAPTION,),
            "seconds",
            'uniaudio sound "three knocks on wood" -o knocks.wav',
            0.8,
            128,
            0.98,
            verb="sound",
            guidance=3.0,
        ),
        Task(
            "t2m",
            "make the music of a caption",
            (_CAPTION,),
            "seconds",
            'uniaudio music "a slow tune on piano, in C major, 70 bpm" -o music.wav',
            0.9,
            128,
            0.98,
            verb="music",
            guidance=5.0,
        ),
        Task(
            "a_edit",
            "change a sound as an instruction says",
            (_INSTRUCTION, _BESIDE, replace(_SPAN, required=False)),
            "source",
            'uniaudio edit "around the middle, add birdsong, 2 falling chirps" --source '
            "examples/rain.flac --span 1.14:2.84 -o birds.wav",
            0.5,
            64,
            0.95,
            finish="span",
            verb="edit",
            guidance=4.0,
        ),
        Task(
            "sd",
            "take the room out of speech",
            (_SPEECH,),
            "source",
            "uniaudio dereverb --source examples/hall.flac -o dry.wav",
            0.3,
            64,
            0.95,
            finish="length",
            verb="dereverb",
        ),
        Task(
            "i_tts",
            "speak a text as an instruction says",
            (_INSTRUCTION, _TEXT),
            "durations",
            'uniaudio instruct "a low-pitched man, speaking slowly" --text "Hello there." -o '
            "low.wav",
            0.3,
            64,
            0.95,
            verb="instruct",
            guidance=2.0,
        ),
        Task(
            "s_edit",
            "speak a part of a recording anew",
            (
                Input("source", "context", "audio_prompt", "the recording", min_seconds=0.5),
                _SPAN,
                replace(_TEXT, help="the words for that part"),
            ),
            "durations",
            "uniaudio speech-edit mountain --source examples/sentence.flac --span 1.88:2.34 -o "
            "mountain.wav",
            0.3,
            64,
            0.95,
            finish="span",
            verb="speech-edit",
        ),
    )
}


def task_table(entries: tuple[str | Task, ...]) -> dict[str, Task]:
    """The tasks of a model's configuration by name; names that this version does not know are left
    out.
    """
    known = [TASKS.get(e) if isinstance(e, str) else e for e in entries]
    return {t.name: t for t in known if t is not None}
