"""One utterance of a WebSocket: what comes in for it, and how much of it was sent and heard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ..audio.reading import MAX_RATE, MIN_RATE, read_audio
from ..audio.sound import Audio
from ..errors import InputError, shown
from ..request.live import Live
from ..request.tasks import Input, Task
from .pieces import SoundPieces, TextPieces
from .service import Service, Sound

_SOUNDS = ("audio", "context", "units")
_FIELDS = {"type", "id", "task", "inputs", "window", "sample_rate", "live"}


class Utterance:
    """Made from a ``start`` message.

    A text or a sound that the message does not have comes later, piece by piece. ``window``: how
    many seconds may be sent beyond what the client has played. ``live``: the sound is answered while
    it comes.
    """

    def __init__(
        self,
        identity: str,
        task: Task,
        inputs: Mapping[str, Any],
        service: Service,
        window: float | None = None,
        rate: int = 0,
        live: bool = False,
    ) -> None:
        self.id, self.task, self.window, self.live = identity, task, window, live
        self.given, settings = dict(inputs), service.settings
        self._max_text, self._model_rate = settings.max_text, service.engine.sample_rate
        patience = settings.idle_seconds
        spec = task.text_input
        comes = spec is not None and not {spec.name, "phones"} & set(inputs)
        self.text = TextPieces(patience) if comes else None
        sounds = [i for i in task.inputs if i.modality in _SOUNDS and i.name not in inputs]
        self._source: Input | None = next((i for i in sounds if i.required), None)
        self.sound: SoundPieces | None = None
        self.sample_rate = self._model_rate
        if self._source is not None:
            rate = rate or self._model_rate
            most = min(settings.max_body, round(2 * rate * settings.max_input_seconds))
            self.sound = SoundPieces(rate, None if live else most, patience)
            self.sample_rate = self.sound.rate if live else self._model_rate
        elif live:
            raise InputError(f"live: task {task.name} with these inputs takes no sound as it comes")
        self.cancelled, self.samples = False, 0
        self._running: Sound | Live | None = None
        self._played, self._changed = 0.0, asyncio.Event()

    @classmethod
    def of(cls, message: Mapping[str, Any], service: Service) -> Utterance:
        """Raises :class:`InputError` for a message that starts nothing."""
        if set(message) - _FIELDS:
            got = shown(sorted(set(message) - _FIELDS))
            raise InputError(f"start: expected {', '.join(sorted(_FIELDS))}, got {got}")
        identity, inputs = message.get("id", ""), message.get("inputs", {})
        if not isinstance(identity, str) or len(identity) > 64:
            raise InputError(f"id: expected at most 64 characters, got {shown(identity)}")
        if not isinstance(inputs, dict):
            raise InputError(f"inputs: expected an object, got {shown(inputs)}")
        window, rate = message.get("window"), message.get("sample_rate", 0)
        live = message.get("live", False)
        if window is not None and not (is_number(window) and 0.1 <= window <= 60):
            raise InputError(f"window: expected 0.1 to 60 seconds, got {shown(window)}")
        if type(rate) is not int or (rate and not MIN_RATE <= rate <= MAX_RATE):
            raise InputError(f"sample_rate: expected {MIN_RATE} to {MAX_RATE}, got {shown(rate)}")
        if not isinstance(live, bool):
            raise InputError(f"live: expected true or false, got {shown(live)}")
        name = message.get("task", "tts")
        task = service.task(name if isinstance(name, str) else shown(name))
        if task.target != "audio":
            raise InputError(f"task: {task.name} makes no sound; use POST /v1/tasks/{task.name}")
        return cls(identity, task, inputs, service, window, rate, live)

    # In

    @property
    def complete(self) -> bool:
        """Whether nothing more can come for it."""
        parts = [part for part in (self.text, self.sound) if part is not None]
        return self.cancelled or all(part.ended for part in parts)

    def add_text(self, piece: Any) -> None:
        if self.text is None or self.text.ended:
            raise InputError(f"text: utterance {shown(self.id)} takes no more text")
        if not isinstance(piece, str):
            raise InputError(f"text: expected a string, got {type(piece).__name__}")
        if self.text.characters + len(piece) > self._max_text:
            raise InputError(f"text: expected at most {self._max_text} characters in all")
        try:
            piece.encode()
        except UnicodeEncodeError:
            raise InputError("text: expected Unicode, got half of a surrogate pair") from None
        self.text.put(piece)

    def add_sound(self, data: bytes) -> None:
        if self.sound is None or self.sound.ended:
            raise InputError(f"sound: utterance {shown(self.id)} takes no more sound")
        self.sound.put(data)

    def flush(self) -> None:
        if self.text is not None and not self.text.ended:
            if self.text.characters >= self._max_text:
                raise InputError(f"flush: expected at most {self._max_text} characters in all")
            self.text.flush()

    def end(self) -> None:
        if self.text is not None:
            self.text.end()
        if self.sound is not None:
            self.sound.end()

    async def inputs(self) -> dict[str, Any]:
        """The inputs of its request. Waits for the first piece of a text, and for all of a sound."""
        inputs = dict(self.given)
        if self.sound is not None and not self.live:
            assert self._source is not None
            name, samples = self._source.name, await self.sound.whole()
            inputs[name] = read_audio(Audio(samples, self.sound.rate), self._model_rate, what=name)
        if self.text is not None:
            assert self.task.text_input is not None
            await self.text.wait()
            inputs[self.task.text_input.name] = self.text
        return inputs

    # Out

    @property
    def seconds(self) -> float:
        """Seconds of sound that were sent."""
        return self.samples / self.sample_rate

    def running(self, sound: Sound | Live) -> None:
        self._running = sound
        if self.cancelled:
            sound.cancel()

    def cancel(self) -> None:
        """Nothing more of it is spoken."""
        self.cancelled = True
        self.end()
        self._changed.set()
        if self._running is not None:
            self._running.cancel()

    def heard(self, played: float | None) -> dict[str, Any]:
        """What was played until an interruption: seconds, and the text and words that had begun."""
        if not isinstance(self._running, Sound):
            return {"played": 0.0, "text": "", "words": []}
        heard = self._running.interrupt(played)
        return {
            "played": round(heard.seconds, 4),
            "text": heard.text,
            "words": plain_words(heard.words),
        }

    def acknowledge(self, played: Any) -> None:
        """``played``: seconds of the utterance that the client has played."""
        if not is_number(played) or not 0 <= played <= self.seconds + 1:
            raise InputError(f"ack: expected played seconds, got {shown(played)}")
        self._played = max(self._played, float(played))
        self._changed.set()

    def may_send(self) -> bool:
        self._changed.clear()
        return self.window is None or self.cancelled or self.seconds - self._played < self.window

    async def wait(self) -> None:
        """Until the client acknowledged something, or the utterance is cancelled."""
        await self._changed.wait()


def plain_words(words: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Words with their times, without pauses and phones."""
    names = ("word", "start", "end", "characters")
    return [{k: word[k] for k in names} for word in words if word["word"]]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
