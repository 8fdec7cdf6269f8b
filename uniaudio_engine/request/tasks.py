"""What a task is: its inputs and their order, its target, its length rule and its sampling.

A new task is a new :class:`Task` value, and a model trained for it; the engine, the command line
and the schema follow from it. A model's ``config.json`` lists its tasks: built-in ones
(``task_table.py``) by name, its own as whole definitions. Not responsible for turning inputs into
tokens: that is ``inputs.py``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError, first_few, shown
from .options import (
    LENGTH_OPTIONS,
    Number,
    Option,
    guidance_option,
    postfilter_options,
    sampling_options,
)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")

Modality = Literal[
    "voice", "audio", "text", "caption", "tokens", "states", "units", "score", "context", "span"
]


HEARD = ("audio", "units", "context")  # modalities of sounds that tasks hear in one channel

# What every task with a text also takes.
TEXT_INPUTS = {
    "phones": "phones separated by spaces, instead of the text",
    "markup": "how the text is written: auto, plain, markdown or ssml",
    "lexicon": "your own pronunciations: a file with WORD PHONE PHONE … on each line",
    "flush_after": "of a text that arrives while it is spoken: seconds without more of it after "
    "which what is there is spoken (default 0.4); inf speaks whole sentences only",
}


@dataclass(frozen=True)
class Input:
    """One input. ``segment`` names its tokens: ``<segment_start> … <segment_end>``.

    Modalities:

    - ``voice``: a voice's name or file, or a sound to take the voice from.
    - ``audio``: a sound, as codes.
    - ``text``: English text, as phones; a caller may give ``phones=`` instead. ``collapse`` merges
      runs of one phone.
    - ``tokens``: ids of the vocabulary span ``segment``, or its labels where the folder has them;
      ``rate`` per second.
    - ``states``: float32 [n, width] of an external encoder, through the LM's continuous input
      ``segment``, one row per frame.
    - ``caption``: English text, as pieces of the caption tokenizer.
    - ``units``: a sound, as semantic units; always aligned.
    - ``score``: notes and words; always aligned.
    - ``context``: a sound of which a ``span`` is spoken anew; what surrounds the span is the voice
      prompt.
    - ``span``: begin and end in seconds of a part of the input named ``segment``, which is hidden
      from the model; optionally a new length.

    ``place``: a segment of the sequence, or aligned with the target frame by frame (``aligned.py``).
    ``encoder`` names the optional encoder that makes ``tokens`` of a sound or ``states`` of a text.
    """

    name: str
    modality: Modality
    segment: str
    help: str
    required: bool = True
    min_seconds: float = 0.0
    max_seconds: float = 0.0  # audio and voice: the rest is ignored; 0 for no limit
    collapse: bool = False
    rate: float = 0.0  # tokens per second; 0 where they are not timed
    max_count: int = 0  # tokens and states; 0 for no limit
    encoder: str = ""
    place: Literal["sequence", "aligned"] = "sequence"
    units: bool = False  # aligned audio: also align its semantic units, which say what is spoken


# What a task's sequence needs of the vocabulary for phones with durations, and for aligned inputs.
_PHONE_NEEDS = {"phone_now", "phone_next", "phone_next2", "frames_left"}
_UNIT_NEEDS = {"unit", "unit_next"}
# How many of the codec's codebooks a row holds of an aligned sound: of its own frame, and of the
# frame that it looks ahead to.
ALIGNED_CODEBOOKS = {"source": 8, "ahead": 4}
_ALIGNED_NEEDS = {
    "audio": {f"{span}{k}" for span, most in ALIGNED_CODEBOOKS.items() for k in range(most)},
    "units": _UNIT_NEEDS,
    "score": {"note", "note_left", *_PHONE_NEEDS},
}


@dataclass(frozen=True)
class Task:
    """``length`` is the rule for the number of frames:

    - ``durations``: one planned duration per phone, then exactly their sum;
    - ``source``: as many as the aligned input, or the input named source, has;
    - ``seconds``: the option of that name;
    - ``text``: the model decides, up to a number of frames for each token of the text; of models
      with a slot of text;
    - ``end``: the model decides, between ``min_ratio`` and ``max_ratio`` times the input's frames;
    - ``one``: a single token.

    ``target``: ``audio``, or the vocabulary span of the answer's tokens (``Engine.understand``).
    ``token``: the task's special token, by default ``NAME_task``. ``temperature``, ``top_k``,
    ``top_p``, ``repetition_window`` and ``repetition_penalty``: defaults of the sampling.
    ``guidance``: default scale of classifier-free guidance (arXiv 2207.12598), where it has
    something to follow (:attr:`guided_by`); any value but 1 costs a second pass. ``finish``:
    ``length`` returns exactly as many samples as the source; ``span`` puts the result into the
    source's span and leaves every other sample as it was. ``postfilter``: what comes back is by
    default the source, filtered, where the model has such a filter; tasks that keep one voice have a
    filter of their own (:attr:`filter`). ``attenuation_limit``: the default, in dB, of the option
    of such tasks.
    ``verb``: the task's name on the command line and in Python.
    """

    name: str
    help: str
    inputs: tuple[Input, ...]
    length: Literal["durations", "source", "seconds", "end", "one", "text"]
    example: str
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    target: str = "audio"
    token: str = ""
    finish: Literal["", "length", "span"] = ""
    postfilter: bool = False
    attenuation_limit: float = 20.0
    verb: str = ""
    guidance: float = 1.0
    repetition_window: int = 0
    repetition_penalty: float = 1.0

    @property
    def special(self) -> str:
        """The name of the task's special token."""
        return self.token or f"{self.name}_task"

    @property
    def options(self) -> tuple[Option, ...]:
        return (
            sampling_options(
                self.temperature,
                self.top_k,
                self.top_p,
                self.repetition_window,
                self.repetition_penalty,
            )
            + ((guidance_option(self.guidance),) if self.guided_by else ())
            + (postfilter_options(self.attenuation_limit) if self.postfilter else ())
            + LENGTH_OPTIONS[self.length]
        )

    def option(self, name: str) -> Option:
        return next(o for o in self.options if o.name == name)

    # Inputs by role

    @property
    def guided_by(self) -> Literal["", "prompt", "rows"]:
        """What classifier-free guidance follows: the caption, or text and voice of models that are fed
        words (prompt); else what is aligned with the target: phones, score or source (rows).
        """
        words = self.length == "text" and self.guidance != 1.0
        if words or any(i.modality == "caption" for i in self.inputs):
            return "prompt"
        return "rows" if self.length == "durations" or self.aligned_input is not None else ""

    @property
    def text_input(self) -> Input | None:
        return next((i for i in self.inputs if i.modality == "text"), None)

    @property
    def aligned_input(self) -> Input | None:
        """The input that is aligned with the target frame by frame."""
        return next((i for i in self.inputs if i.place == "aligned"), None)

    @property
    def aligned_sound(self) -> Input | None:
        """The aligned input, where it is a sound that the model hears as codes."""
        spec = self.aligned_input
        return spec if spec is not None and spec.modality == "audio" else None

    @property
    def filter(self) -> str:
        """The model's filter for the results: ``voice_filter`` where they are what one voice says in
        a sound, else ``postfilter``.
        """
        prompt = self.shared_prompt
        keeps_voice = prompt is not None and prompt.modality == "voice" and prompt.required
        return "voice_filter" if keeps_voice else "postfilter"

    @property
    def shared_prompt(self) -> Input | None:
        """The voice prompt or context that the sequence begins with; all sentences share it."""
        return next((i for i in self.inputs[:1] if i.modality in ("voice", "context")), None)

    def span_of(self, spec: Input) -> Input | None:
        """The input that gives a span of the input ``spec``."""
        return next(
            (i for i in self.inputs if i.modality == "span" and i.segment == spec.name), None
        )

    def hides_aligned(self, span: Input) -> bool:
        """Whether ``span`` is a part of the aligned input."""
        return any(i.name == span.segment and i.place == "aligned" for i in self.inputs)

    def needs(self, codebooks: int | None = None) -> set[str]:
        """Names of the special tokens, spans, aligned spans and continuous inputs that a model
        needs for this task. ``codebooks``: those of its codec; None stands for enough.
        """
        if self.length == "text":
            tokens = {i.segment for i in self.inputs if i.modality == "tokens"}
            return {"pad", "text", self.target} | tokens
        names = {"start", self.special, self.target, f"{self.target}_start", f"{self.target}_end"}
        for i in self.inputs:
            if i.place == "aligned":
                names |= _ALIGNED_NEEDS[i.modality] | (_UNIT_NEEDS if i.units else set())
            elif i.modality == "span":
                hidden = next((o for o in self.inputs if o.name == i.segment), None)
                if hidden is not None and hidden.modality == "audio":
                    names.add("edit" if hidden.place == "aligned" else "audio_mask")
            else:
                is_codes = i.modality in ("voice", "audio", "context")
                names |= {f"{i.segment}_start", f"{i.segment}_end"}
                names.add("audio" if is_codes else i.segment)
                if i.modality == "states":
                    names.add("continuous_token")
        if self.length == "durations":
            names |= {"duration", "duration_start", "duration_end", *_PHONE_NEEDS}
        if codebooks is None:
            return names
        return names - {
            f"{span}{k}" for span, most in ALIGNED_CODEBOOKS.items() for k in range(codebooks, most)
        }

    # Checks

    def check(self) -> None:
        """Raise :class:`InputError` unless the definition is consistent; it may come from a file."""
        name = self.name if _NAME.fullmatch(self.name) else shown(self.name)
        for problem in self._problems():
            raise InputError(f"task {name}: {problem}")
        for o in self.options:
            o.check(o.default)

    def _problems(self) -> Iterator[str]:
        names = [("name", self.name), ("target", self.target), ("token", self.special)]
        names += [("input", i.name) for i in self.inputs]
        names += [("segment", i.segment) for i in self.inputs]
        for what, name in names:
            if not _NAME.fullmatch(name):
                yield (f"{what}: expected a short name of letters, digits and _, got {shown(name)}")
        inputs = {i.name: i for i in self.inputs}
        taken = {"task", "voice", "chunk_frames", *(o.name for o in self.options)}
        if self.text_input is not None:
            taken |= set(TEXT_INPUTS)
        texts = [i for i in self.inputs if i.modality == "text"]
        if len(inputs) != len(self.inputs) or set(inputs) & taken or len(texts) > 1:
            yield (
                "expected distinct names of inputs and options, none of task, voice and "
                "chunk_frames, and at most one text"
            )
        for i in self.inputs:
            yield from self._input_problems(i, inputs.get(i.segment))
        yield from self._length_problems("source" in inputs)
        yield from self._finish_problems(inputs.get("source"))

    @staticmethod
    def _input_problems(i: Input, hidden: Input | None) -> Iterator[str]:
        """``hidden``: the input that a span is a part of."""
        where = f"input {i.name}:"
        hides = hidden is not None and hidden.modality in ("audio", "context")
        if i.modality == "span" and not hides:
            yield f"{where} expected the name of an audio input as segment, got {shown(i.segment)}"
        if i.units and (i.place != "aligned" or i.modality != "audio"):
            yield f"{where} units: expected an aligned sound (modality audio, place aligned)"
        must_align = i.modality in ("units", "score")
        if (i.place == "aligned") != must_align and i.modality != "audio":
            yield f"{where} {i.modality} cannot be in place {i.place}"
        if not (
            0 <= i.min_seconds <= 3600
            and 0 <= i.max_seconds <= 3600
            and 0 <= i.rate <= 1e5
            and 0 <= i.max_count <= 1 << 20
        ):
            yield f"{where} expected limits from 0 up, got {i}"

    def _length_problems(self, has_source: bool) -> Iterator[str]:
        aligned = [i for i in self.inputs if i.place == "aligned"]
        if (self.length == "source" and not has_source and not aligned) or (
            self.length in ("durations", "text") and not self.text_input
        ):
            yield (
                f"length {self.length}: expected an input named source, or for durations and text "
                "a text"
            )
        others = [i for i in self.inputs if i.modality not in ("voice", "text", "tokens")]
        if self.length == "text" and (others or self.target != "audio"):
            yield "length text: expected no inputs but a voice, tokens and a text, and target audio"
        if len(aligned) > 1 or (aligned and (self.length != "source" or not aligned[0].required)):
            yield "expected at most one aligned input, required, and length source with it"
        if self.length == "source" and self.text_input:
            yield (
                "a text cannot have length source, because speech is as long as its words; choose "
                "durations, end or seconds"
            )

    def _finish_problems(self, source: Input | None) -> Iterator[str]:
        if self.postfilter and (self.finish != "length" or self.aligned_sound is None):
            yield "postfilter: expected finish length and an aligned sound"
        if not self.finish:
            return
        good = source is not None and (source.place == "aligned" or source.modality == "context")
        if good and source is not None:
            has_span = source.modality != "units" and self.span_of(source) is not None
            good = source.modality != "score" and (self.finish == "length" or has_span)
        if not good:
            yield (
                f"finish {self.finish}: expected a sound named source that is aligned or a "
                "context, and for span an input with its span"
            )

    def check_options(self, given: Mapping[str, Any]) -> dict[str, Number]:
        """All options with their values: defaults filled in, and a random seed if none is given.

        Raises :class:`InputError` for unknown options and values out of range.
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
        """Raise :class:`InputError` for missing and unknown names; values are not looked at."""
        names = {i.name for i in self.inputs}
        missing = [i.name for i in self.inputs if i.required and given.get(i.name) is None]
        if self.text_input is not None:
            names |= set(TEXT_INPUTS)
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

    def schema(self) -> dict[str, Any]:
        """JSON values that describe the task to a program."""
        inputs: list[dict[str, Any]] = []
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
                inputs += [
                    {"name": name, "modality": name, "required": False, "help": help}
                    for name, help in TEXT_INPUTS.items()
                ]
        return {
            "name": self.name,
            "help": self.help,
            "inputs": inputs,
            "options": [o.schema() for o in self.options],
            "target": self.target,
            "length": self.length,
            "example": self.example,
        }
