"""From the values of a request to an engine's inputs.

The engine takes paths; a request never gives any. Every string is a name, a text or the contents of
a file, and is turned into a value of its type here, so that no string of a client is ever opened.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from ..audio.reading import read_audio
from ..audio.sound import Audio
from ..engine import Engine
from ..errors import InputError, first_few, shown
from ..request.options import Option
from ..request.tasks import TEXT_INPUTS, Input, Task
from ..score.files import read_bytes
from ..score.notes import Note
from ..score.reading import SUFFIXES, read_score
from ..score.text_form import parse_score
from ..text.decode import decode
from ..text.pronunciations import parse_pronunciations, read_pronunciations
from .pieces import TextPieces
from .settings import Settings
from .voices import Voices

_MAX_VALUES = 64 << 20  # decoded samples of all channels of one sound: 256 MiB
_MAX_SCORE = 4 << 20  # bytes


@dataclass(frozen=True)
class Upload:
    """A file of a request. Of its name only the ending is kept, and only to tell scores apart."""

    data: bytes
    suffix: str = ""

    @classmethod
    def of(cls, data: bytes, filename: str | None) -> Upload:
        return cls(data, PurePath(filename or "").suffix.lower()[:16])


class InputReader:
    """Reads the values of requests, within the limits of the settings."""

    def __init__(self, engine: Engine, settings: Settings, voices: Voices) -> None:
        self._engine, self._settings, self._voices = engine, settings, voices

    def read(
        self, task: Task, given: Mapping[str, Any], owner: str, complete: bool = True
    ) -> dict[str, Any]:
        """Inputs and options by name, as :meth:`Engine.stream` takes them; takes long for sounds.
        ``complete``: none that is required may be missing.

        Raises :class:`InputError` for values that cannot be used and for unknown names.
        """
        given = {("prompt" if k == "voice" else k): v for k, v in given.items() if v is not None}
        inputs = {i.name: i for i in task.inputs}
        options = {o.name: o for o in task.options}
        texts = TEXT_INPUTS if task.text_input is not None else {}
        unknown = sorted(set(given) - set(inputs) - set(options) - set(texts))
        if unknown:
            known = ", ".join((*inputs, *texts, *options))
            raise InputError(f"{task.name}: unknown name {first_few(unknown)}; it takes {known}")
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name in options:
                values[name] = self._option(options[name], value)
            elif name in inputs:
                spec = inputs[name]
                if spec.modality == "voice":
                    values[name] = self._voice(spec, value, owner)
                else:
                    values[name] = _READERS[spec.modality](self, spec, value)
            else:
                values[name] = _TEXT_READERS[name](self, name, value)
        if complete:
            task.check_inputs({k: v for k, v in values.items() if k not in options})
        return values

    def _option(self, option: Option, value: Any) -> int | float | None:
        if isinstance(value, str):  # a form has strings only
            try:
                value = int(value) if option.kind == "int" else float(value)
            except ValueError:
                pass
        number = option.check(value)
        most = self._settings.max_output_seconds
        if option.name == "seconds" and number is not None and number > most:
            raise InputError(f"seconds: expected at most {most:g} on this server, got {number:g}")
        return number

    def sound(self, name: str, value: Any) -> Audio:
        """An uploaded sound, or one in base64, at the model's rate."""
        if isinstance(value, Mapping) and set(value) == {"base64"}:
            value = Upload(_from_base64(name, value["base64"]))
        if isinstance(value, Audio):  # already decoded, by a WebSocket
            return value
        if not isinstance(value, Upload):
            raise InputError(
                f'{name}: expected an uploaded sound file, or {{"base64": "…"}} in JSON, got '
                f"{type(value).__name__}"
            )
        most = self._settings.max_input_seconds
        audio = read_audio(
            value.data, self._engine.sample_rate, most + 1, name, max_values=_MAX_VALUES
        )
        if audio.seconds > most:
            raise InputError(f"{name}: expected at most {most:g} s of sound, got more")
        return audio

    def _voice(self, spec: Input, value: Any, owner: str) -> Any:
        if isinstance(value, str):
            return self._voices.find(value, owner)
        return self.sound(spec.name, value)

    def _flush_after(self, name: str, value: Any) -> Any:
        if isinstance(value, str) or _is_number(value):
            return value
        raise InputError(f"{name}: expected seconds, got {shown(value)}")

    def text(self, name: str, value: Any) -> str:
        if isinstance(value, Upload):
            value = decode(value.data, name)
        if isinstance(value, TextPieces):  # checked as they come
            return value  # type: ignore[return-value]
        if not isinstance(value, str):
            raise InputError(f"{name}: expected a string, got {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{name}: expected Unicode text, got half of a surrogate pair"
            ) from None
        most = self._settings.max_text
        if len(value) > most:
            raise InputError(f"{name}: expected at most {most} characters, got {len(value)}")
        return value

    def _span(self, spec: Input, value: Any) -> Any:
        if isinstance(value, str) and len(value) <= 100:
            return value
        if isinstance(value, list) and len(value) <= 3 and all(map(_is_number, value)):
            return value
        raise InputError(f"{spec.name}: expected begin:end in seconds, got {shown(value)}")

    def _score(self, spec: Input, value: Any) -> list[Note]:
        if isinstance(value, Upload):
            if len(value.data) > _MAX_SCORE:
                raise InputError(
                    f"{spec.name}: expected at most {_MAX_SCORE} bytes, got {len(value.data)}"
                )
            if value.suffix not in SUFFIXES:
                raise InputError(
                    f"{spec.name}: expected a file whose name ends in {', '.join(SUFFIXES)}, got "
                    f"{shown(value.suffix)}"
                )
            return read_score(read_bytes(value.data, value.suffix, spec.name), spec.name)
        if isinstance(value, str):
            return read_score(parse_score(self.text(spec.name, value), spec.name), spec.name)
        if not isinstance(value, list) or len(value) > self._settings.max_text:
            raise InputError(f"{spec.name}: expected notes or a text of them, got {shown(value)}")
        if not all(isinstance(n, list) and not any(map(_is_container, n)) for n in value):
            raise InputError(f"{spec.name}: expected notes as [pitch, seconds, word]")
        return read_score([tuple(n) for n in value], spec.name)

    def _tokens(self, spec: Input, value: Any) -> Any:
        if isinstance(value, str):  # a list, so that the engine takes it for no file name
            return self.text(spec.name, value).split()
        if isinstance(value, list) and len(value) <= self._settings.max_text:
            return value
        return self.sound(spec.name, value)

    def _states(self, spec: Input, value: Any) -> Any:
        if isinstance(value, str):
            text = self.text(spec.name, value)
            if not text.strip():
                raise InputError(f"{spec.name}: expected words, got an empty text; write some")
            encoder = self._engine.model.encoder(spec.encoder, spec.name, "a text")
            return encoder.states(text)
        try:
            return np.array(value, np.float32)
        except (TypeError, ValueError):
            raise InputError(f"{spec.name}: expected rows of numbers, got {shown(value)}") from None

    def _phones(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            if not all(isinstance(p, str) for p in value):
                raise InputError(f"{name}: expected phones, got {shown(value)}")
            self.text(name, " ".join(value))
            return value
        return self.text(name, value)

    def _lexicon(self, name: str, value: Any) -> dict[str, tuple[str, ...]]:
        if isinstance(value, Mapping):
            self.text(name, json.dumps(value))
            if not all(
                isinstance(p, str) or (isinstance(p, list) and all(isinstance(x, str) for x in p))
                for p in value.values()
            ):
                raise InputError(f"{name}: expected phones for each word, got {shown(value)}")
            return read_pronunciations(value)
        return parse_pronunciations(self.text(name, value), name)


_READERS: dict[str, Callable[[InputReader, Input, Any], Any]] = {
    "audio": lambda reader, spec, value: reader.sound(spec.name, value),
    "context": lambda reader, spec, value: reader.sound(spec.name, value),
    "units": lambda reader, spec, value: reader.sound(spec.name, value),
    "text": lambda reader, spec, value: reader.text(spec.name, value),
    "caption": lambda reader, spec, value: reader.text(spec.name, value),
    "span": InputReader._span,
    "score": InputReader._score,
    "tokens": InputReader._tokens,
    "states": InputReader._states,
}
_TEXT_READERS: dict[str, Callable[[InputReader, str, Any], Any]] = {
    "phones": InputReader._phones,
    "markup": InputReader.text,
    "lexicon": InputReader._lexicon,
    "flush_after": InputReader._flush_after,
}


def _from_base64(name: str, value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise InputError(f"{name}: expected base64, got {shown(value)}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, dict))
