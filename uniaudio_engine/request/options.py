"""Numeric options of a request: what may be set, within which limits, and the defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, SupportsFloat, SupportsIndex

from ..errors import InputError, shown

Number = int | float | None
MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class Option:
    """A number that a caller may set; ``low`` <= value <= ``high``."""

    name: str
    kind: Literal["int", "float"]
    default: Number
    low: float
    high: float
    help: str

    def check(self, value: object) -> Number:
        """The value as a number, the default for None.

        Raises :class:`InputError` for anything else, and outside of the limits.
        """
        if value is None:
            return self.default
        what = "a whole number" if self.kind == "int" else "a number"
        low, high = (
            f"{limit:g}" if isinstance(limit, float) else limit for limit in (self.low, self.high)
        )
        wanted = f"{self.name}: expected {what} from {low} to {high}"
        number: int | float
        try:
            if isinstance(value, bool):
                raise TypeError
            if self.kind == "int" and isinstance(value, SupportsIndex):
                number = int(value)
            elif self.kind == "float" and isinstance(value, SupportsFloat):
                number = float(value)
            else:
                raise TypeError
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{wanted}, got {shown(value)}") from None
        if not self.low <= number <= self.high:  # nor is NaN
            raise InputError(f"{wanted}, got {shown(value)}")
        return number

    def schema(self) -> dict[str, str | Number]:
        """JSON values that describe the option to a program."""
        return {
            "name": self.name,
            "type": self.kind,
            "default": self.default,
            "min": self.low,
            "max": self.high,
            "help": self.help,
        }


SEED = Option(
    "seed", "int", None, 0, MAX_SEED, "same seed, same sound; random by default, and reported"
)
_SECONDS = Option(
    "seconds", "float", None, 0.02, 3600.0, "exact length, instead of letting the model decide"
)
# What a caller may set, by the task's length rule.
LENGTH_OPTIONS: dict[str, tuple[Option, ...]] = {
    "durations": (
        Option(
            "best_of",
            "int",
            1,
            1,
            16,
            "make each sentence so many times, with successive seeds, and keep the clearest",
        ),
        Option(
            "duration_temperature",
            "float",
            0.3,
            0.0,
            5.0,
            "temperature of the phone durations; 0 takes the most probable ones",
        ),
        Option("speed", "float", 1.0, 0.25, 4.0, "2 speaks twice as fast"),
        Option(
            "paragraph_pause",
            "float",
            None,
            0.0,
            10.0,
            "seconds of silence after each paragraph; by default as the model has it",
        ),
    ),
    "source": (),
    "seconds": (Option("seconds", "float", 4.0, 0.02, 3600.0, "length of the result in seconds"),),
    "end": (
        Option(
            "min_ratio",
            "float",
            0.5,
            0.0,
            1000.0,
            "shortest result, in frames per frame of input",
        ),
        Option(
            "max_ratio",
            "float",
            7.0,
            0.0,
            1000.0,
            "longest result, in frames per frame of input",
        ),
        _SECONDS,
    ),
    "one": (),
    "text": (
        replace(_SECONDS, help="exact length of each sentence; by default the model decides"),
    ),
}


def guidance_option(default: float) -> Option:
    """The model must have been trained with caption dropout, or dropout of aligned rows."""
    return Option(
        "guidance",
        "float",
        default,
        0.0,
        20.0,
        "scale of classifier-free guidance by the caption, text, score or source; 1 is off",
    )


def postfilter_options(attenuation_limit: float) -> tuple[Option, ...]:
    return (
        Option(
            "postfilter",
            "int",
            1,
            0,
            1,
            "1 filters the source, which keeps its words; 0 returns what the language model makes "
            "of it",
        ),
        Option(
            "attenuation_limit",
            "float",
            attenuation_limit,
            0.0,
            100.0,
            "the most, in dB, by which the filter turns a part of the spectrum down; less leaves "
            "some of what was to be taken away, and more of the words in it; 100 is no limit",
        ),
    )


def sampling_options(
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_window: int = 0,
    repetition_penalty: float = 1.0,
) -> tuple[Option, ...]:
    """The options of every task, with this task's defaults."""
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
        Option(
            "repetition_window",
            "int",
            repetition_window,
            0,
            4096,
            "number of past frames whose codes are made less likely",
        ),
        Option(
            "repetition_penalty",
            "float",
            repetition_penalty,
            1.0,
            10.0,
            "how much less likely a repeated code is; 1 is off",
        ),
    )
