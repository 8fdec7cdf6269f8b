"""Tasks are data: what goes in, in which order, what comes out, how long it is, and how it is sampled.

A new task is an entry in :data:`TASKS` (and a model trained for it); the engine, the CLI and the schema follow from
the entry.  Not responsible for turning inputs into tokens: that is ``plan.py``.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .errors import InputError, first_few, shown

Number = int | float | None
MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class Input:
    """One input.  ``segment`` names its tokens: ``<segment_start> … <segment_end>``.

    Modalities: ``voice`` (a voice's name or file, or a sound to take the voice from), ``audio`` (a sound), ``text``
    (English text; ``phones=`` may be given in its place).
    """

    name: str
    modality: Literal["voice", "audio", "text"]
    segment: str
    help: str
    required: bool = True
    min_seconds: float = 0.0
    max_seconds: float = 0.0  # audio and voice: what is beyond is not used; 0 for no limit


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
        low, high = (f"{limit:g}" if isinstance(limit, float) else limit for limit in (self.low, self.high))
        wanted = f"{self.name}: expected {what} from {low} to {high}"
        if isinstance(value, bool) or not hasattr(value, "__index__" if self.kind == "int" else "__float__"):
            raise InputError(f"{wanted}, got {shown(value)}")
        number = int(value) if self.kind == "int" else float(value)
        if not math.isfinite(number) or not self.low <= number <= self.high:
            raise InputError(f"{wanted}, got {shown(value)}")
        return number


@dataclass(frozen=True)
class Task:
    """``length`` says how many frames are made: ``durations`` (a planned duration for each phone, then exactly their
    sum), ``source`` (as many as the input named source has), ``seconds`` (the option of that name)."""

    name: str
    help: str
    inputs: tuple[Input, ...]
    length: Literal["durations", "source", "seconds"]
    options: tuple[Option, ...]
    example: str
    target: Literal["audio"] = "audio"

    def option(self, name: str) -> Option:
        return next(o for o in self.options if o.name == name)

    def check_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values; defaults filled in, a random seed drawn where none is given."""
        known = {o.name for o in self.options}
        unknown = sorted(set(given) - known)
        if unknown:
            raise InputError(f"{self.name}: unknown option {first_few(unknown)}; it has {', '.join(sorted(known))}")
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
                raise InputError(f"{self.name}: expected either {self.text_input.name} or phones, got both")
            if phones is not None and self.text_input.name in missing:
                missing.remove(self.text_input.name)
        unknown = sorted(set(given) - names)
        if unknown:
            raise InputError(f"{self.name}: unknown input {first_few(unknown)}; it takes {', '.join(sorted(names))}")
        if missing:
            raise InputError(f"{self.name}: input {first_few(missing)} is missing; for example: {self.example}")

    @property
    def text_input(self) -> Input | None:
        return next((i for i in self.inputs if i.modality == "text"), None)

    def schema(self) -> dict[str, Any]:
        """Plain JSON values that describe the task to a program."""
        inputs = []
        for i in self.inputs:
            entry: dict[str, Any] = {"name": i.name, "modality": i.modality, "required": i.required, "help": i.help}
            if i.max_seconds:
                entry.update(min_seconds=i.min_seconds, max_seconds=i.max_seconds)
            inputs.append(entry)
            if i.modality == "text":
                instead = f"phones separated by spaces, instead of {i.name}"
                inputs.append({"name": "phones", "modality": "phones", "required": False, "help": instead})
        options = [
            {"name": o.name, "type": o.kind, "default": o.default, "min": o.low, "max": o.high, "help": o.help}
            for o in self.options
        ]
        return {
            "name": self.name, "help": self.help, "inputs": inputs, "options": options, "target": self.target,
            "length": self.length, "example": self.example,
        }  # fmt: skip


SEED = Option("seed", "int", None, 0, MAX_SEED, "same seed, same sound; random when left out, and reported")
REPETITION = (
    Option("repetition_window", "int", 0, 0, 4096, "frames back in which a repeated code is made less likely"),
    Option("repetition_penalty", "float", 1.0, 1.0, 10.0, "how much less likely; 1 is off"),
)


def sampling_options(temperature: float, top_k: int, top_p: float) -> tuple[Option, ...]:
    """The options that every sampled task has, with this task's defaults."""
    return (
        SEED,
        Option("temperature", "float", temperature, 0.0, 5.0, "0 takes the most probable code, higher is more varied"),
        Option("top_k", "int", top_k, 0, 1 << 20, "sample from the k most probable codes only; 0 is all"),
        Option("top_p", "float", top_p, 0.001, 1.0, "sample from the most probable codes of this total probability"),
        *REPETITION,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="tts",
            help="speak a text in a given voice",
            inputs=(
                Input("prompt", "voice", "audio_prompt", "a voice's name or file, or a sound to take the voice from",
                      required=False, min_seconds=0.5, max_seconds=3.0),
                Input("text", "text", "phone", "English text"),
            ),
            length="durations",
            options=(
                *sampling_options(temperature=0.3, top_k=64, top_p=0.95),
                Option("duration_temperature", "float", 0.3, 0.0, 5.0, "the same for the rhythm; 0 is the likeliest"),
                Option("speed", "float", 1.0, 0.25, 4.0, "2 speaks twice as fast"),
            ),
            example='uniaudio tts "Hello there." -o hello.wav',
        ),
    )
}  # fmt: skip


def find_task(name: str) -> Task:
    if name not in TASKS:
        raise InputError(f"unknown task {shown(name)}; there is {', '.join(sorted(TASKS))}")
    return TASKS[name]
