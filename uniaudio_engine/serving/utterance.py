"""One utterance of a WebSocket: what comes in for it, and how much of it was sent and heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np

from ..audio.reading import MAX_RATE, MIN_RATE, read_audio
from ..audio.sound import Audio, AudioChunk
from ..errors import InputError, shown
from ..request.tasks import Input, Task
from .live_text import LiveText
from .service import Service, Sound

_SOUNDS = ("audio", "context", "units")


class Utterance:
    """Made from a ``start`` message.

    A text or a sound that the message does not have comes later, piece by piece. ``window``: how
    many seconds may be sent beyond what the client has played.
    """

    def __init__(
        self,
        identity: str,
        task: Task,
        inputs: Mapping[str, Any],
        service: Service,
        window: float | None = None,
        rate: int = 0,
    ) -> None:
        self.id, self.task, self.window = identity, task, window
        self._inputs, self._settings = dict(inputs), service.settings
        self._model_rate = service.engine.sample_rate
        self._rate = rate or self._model_rate
        spec = task.text_input
        given = spec is not None and ({spec.name, "phones"} & set(inputs))
        self._text = LiveText() if spec is not None and not given else None
        sounds = [i for i in task.inputs if i.modality in _SOUNDS and i.name not in inputs]
        self._sound: Input | None = next((i for i in sounds if i.required), None)
        self._samples = bytearray()
        self._sound_ended = asyncio.Event()
        self.cancelled = self.interrupted = False
        self.samples, self.words = 0, list[dict[str, Any]]()
        self._before = 0.0  # seconds of the sentences before the one that runs
        self._running: Sound | None = None
        self._played, self._sample_rate = 0.0, self._model_rate
        self._changed = asyncio.Event()

    @classmethod
    def of(cls, message: Mapping[str, Any], service: Service) -> Utterance:
        """Raises :class:`InputError` for a message that starts nothing."""
        known = {"type", "id", "task", "inputs", "window", "sample_rate"}
        if set(message) - known:
            raise InputError(
                f"start: expected {', '.join(sorted(known))}, got {shown(set(message) - known)}"
            )
        identity, inputs = message.get("id", ""), message.get("inputs", {})
        if not isinstance(identity, str) or len(identity) > 64:
            raise InputError(f"id: expected at most 64 characters, got {shown(identity)}")
        if not isinstance(inputs, dict):
            raise InputError(f"inputs: expected an object, got {shown(inputs)}")
        window, rate = message.get("window"), message.get("sample_rate", 0)
        if window is not None and not (_is_number(window) and 0.1 <= window <= 60):
            raise InputError(f"window: expected 0.1 to 60 seconds, got {shown(window)}")
        if type(rate) is not int or (rate and not MIN_RATE <= rate <= MAX_RATE):
            raise InputError(f"sample_rate: expected {MIN_RATE} to {MAX_RATE}, got {shown(rate)}")
        name = message.get("task", "tts")
        task = service.task(name if isinstance(name, str) else shown(name))
        if task.target != "audio":
            raise InputError(f"task: {task.name} makes no sound; use POST /v1/tasks/{task.name}")
        return cls(identity, task, inputs, service, window, rate)

    # In

    @property
    def complete(self) -> bool:
        """Whether nothing more can come for it."""
        return self.cancelled or (
            (self._text is None or self._text.ended)
            and (self._sound is None or self._sound_ended.is_set())
        )

    def add_text(self, piece: Any) -> None:
        if self._text is None or self._text.ended:
            raise InputError(f"text: utterance {shown(self.id)} takes no more text")
        if not isinstance(piece, str):
            raise InputError(f"text: expected a string, got {type(piece).__name__}")
        if self._text.characters + len(piece) > self._settings.max_text:
            raise InputError(f"text: expected at most {self._settings.max_text} characters in all")
        self._text.put(piece)

    def add_sound(self, data: bytes) -> None:
        """16-bit little-endian mono samples."""
        if self._sound is None or self._sound_ended.is_set():
            raise InputError(f"sound: utterance {shown(self.id)} takes no more sound")
        if len(data) % 2:
            raise InputError(f"sound: expected whole 16-bit samples, got {len(data)} bytes")
        most = self._settings.max_input_seconds
        if len(self._samples) + len(data) > 2 * self._rate * most:
            raise InputError(f"sound: expected at most {most:g} s of sound, got more")
        self._samples += data

    def flush(self) -> None:
        if self._text is not None and not self._text.ended:
            self._text.flush()

    def end(self) -> None:
        if self._text is not None:
            self._text.end()
        self._sound_ended.set()

    async def requests(self) -> AsyncIterator[dict[str, Any]]:
        """The inputs of each request that the utterance becomes: one for each sentence that comes."""
        patience = self._settings.idle_seconds
        inputs = dict(self._inputs)
        if self._sound is not None:
            await self._patiently(self._sound_ended.wait(), patience)
            pcm = np.frombuffer(bytes(self._samples), "<i2").astype(np.float32)
            sound = Audio(pcm / np.float32(32768), self._rate)
            inputs[self._sound.name] = read_audio(sound, self._model_rate, what=self._sound.name)
        if self._text is None:
            if not self.cancelled:
                yield inputs
            return
        assert self.task.text_input is not None
        sentences = aiter(self._text.sentences())
        while not self.cancelled:
            sentence = await self._patiently(anext(sentences, None), patience)
            if sentence is None or self.cancelled:
                return
            yield {**inputs, self.task.text_input.name: sentence}

    async def _patiently(self, what: Any, seconds: float) -> Any:
        try:
            return await asyncio.wait_for(what, seconds)
        except asyncio.TimeoutError:
            raise InputError(
                f"expected text, sound or end within {seconds:g} s, got none"
            ) from None

    # Out

    @property
    def seconds(self) -> float:
        """Seconds of sound that were sent."""
        return self.samples / self._sample_rate

    def running(self, sound: Sound) -> None:
        self._running, self._sample_rate = sound, sound.sample_rate
        self._before = self.seconds
        if self.cancelled:
            sound.cancel()

    def sent(self, chunk: AudioChunk, sample_rate: int) -> None:
        self.samples += len(chunk.samples)

    def finished(self, sound: Sound) -> dict[str, Any]:
        """What is known of the sentence that was spoken; its words' times begin at the utterance."""
        self._running = None
        for word in sound.meta.get("words", ()):
            self.words.append(
                {
                    "word": word["word"],
                    "start": round(word["start"] + self._before, 4),
                    "end": round(word["end"] + self._before, 4),
                }
            )
        return sound.meta

    def cancel(self) -> None:
        """Nothing more of it is spoken."""
        self.cancelled = True
        self.end()
        self._changed.set()
        if self._running is not None:
            self._running.cancel()

    def interrupt(self, played: float | None) -> None:
        if played is not None:
            self._played = float(played)
        self.interrupted = True
        self.cancel()

    def heard(self) -> dict[str, Any]:
        """What was played before the interruption: seconds, and the words that had begun."""
        played = min(self._played, self.seconds)
        words = [w for w in self.words if w["start"] < played]
        return {"played": round(played, 4), "spoken": words}

    def acknowledge(self, played: Any) -> None:
        """``played``: seconds of the utterance that the client has played."""
        if not _is_number(played) or not 0 <= played <= self.seconds + 1:
            raise InputError(f"ack: expected played seconds, got {shown(played)}")
        self._played = max(self._played, float(played))
        self._changed.set()

    def may_send(self) -> bool:
        self._changed.clear()
        assert self.window is not None
        return self.cancelled or self.seconds - self._played < self.window

    async def wait(self) -> None:
        """Until the client acknowledged something, or the utterance is cancelled."""
        await self._changed.wait()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
