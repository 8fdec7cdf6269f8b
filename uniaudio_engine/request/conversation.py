"""Conversations: speakers who hear each other, in models that take turns (``text_slot.first``).

What was said so far stays in one session, so that a turn costs its own text and sound only.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..audio.reading import AudioSource
from ..audio.sound import Audio, AudioChunk
from ..errors import InputError, shown
from ..model import Model
from .sampling import target_sampling
from .sequence import Ids
from .stream import ChunkSizes

MAX_SPEAKERS = 10


class Conversation:
    """A conversation with one model; from :meth:`Engine.conversation`. For one thread at a time."""

    def __init__(self, model: Model) -> None:
        """Raises :class:`InputError` for a model that takes no turns."""
        slot = model.config.text_slot
        task = next((t for t in model.tasks.values() if t.length == "text"), None)
        if slot is None or slot.first < 0 or task is None:
            raise InputError(f"model {model.config.name} takes no turns; expected one that does")
        self._model, self._layout, self._slot, self._task = model, model.layout, slot, task
        self._session = model.lm.session(model.capacity)
        self._lock = threading.Lock()

    @property
    def seconds_left(self) -> float:
        """Of text and sound together, at one frame a token."""
        return (self._model.capacity - self._session.frames) / self._model.frame_rate

    def hear(self, text: str, sound: AudioSource, speaker: int = 0) -> None:
        """What somebody said: the words and the recording, which is resampled and mixed down.

        Raises :class:`InputError`, and changes nothing, for a text or sound that cannot be read, a
        speaker that is not 0 to 9, and where there is no more room.
        """
        words = self._words(text, speaker)
        codes = self._model.audio.encode(sound, self._layout.num_codebooks)
        frames = np.concatenate((words, self._layout.codes_to_frames(codes.T), self._end()))
        with self._held():
            self._check_room(len(frames))
            self._session.prefill(frames)

    def say(self, text: str, speaker: int = 0, **options: Any) -> Audio:
        """:meth:`stream`, as a whole. ``meta["seed"]`` is the seed that was used."""
        checked = self._task.check_options(options)
        chunks = [c.samples for c in self._turn(self._words(text, speaker), checked)]
        meta = {"seed": checked["seed"], "text": text, "speaker": speaker}
        return Audio(np.concatenate(chunks, axis=-1), self._model.sample_rate, meta)

    def stream(self, text: str, speaker: int = 0, **options: Any) -> Iterator[AudioChunk]:
        """The sound of ``text``, chunk by chunk; it becomes part of the conversation.

        ``options``: those of the model's task, such as seed and temperature. Where the iterator is
        closed early, what was generated so far is what was said. Raises as :meth:`hear`.
        """
        return self._turn(self._words(text, speaker), self._task.check_options(options))

    def _turn(self, words: Ids, options: Mapping[str, Any]) -> Iterator[AudioChunk]:
        seconds, least = options["seconds"], None  # None: the model does not decide the end
        if seconds is None:
            frames, least = 1, 0
        else:
            frames = max(1, round(seconds * self._model.frame_rate))
        seed = int(options["seed"])
        sampling = target_sampling(self._layout, self._task, options, seed, least)
        with self._held():
            # The end of its own sound is a frame too.
            room = self._check_room(len(words) + frames + 1) + frames
            if seconds is None:
                frames = min(room, math.ceil(self._slot.max_frames_per_token * len(words)))
            self._session.prefill(words)
            try:
                yield from self._generated(sampling, frames)
            finally:
                self._session.prefill(self._end())

    def _generated(self, sampling: Any, most: int) -> Iterator[AudioChunk]:
        decoder, sizes, start = (
            self._model.codec.decoder_stream(),
            ChunkSizes(None, self._model.frame_rate),
            0,
        )
        session, rate = self._session, self._model.sample_rate
        while most > 0 and not session.finished:
            wanted = min(most, sizes.next())
            codes = self._layout.frames_to_codes(session.generate(wanted, sampling))
            most -= len(codes)
            samples = decoder.push(np.ascontiguousarray(codes.T))
            last = most <= 0 or session.finished or len(codes) < wanted
            if last:
                samples = np.concatenate((samples, decoder.flush()), axis=-1)
            yield AudioChunk(samples.clip(-1, 1), rate, start, codes, last)
            start += samples.shape[-1]
            if last:
                return

    def _words(self, text: str, speaker: int) -> Ids:
        if type(speaker) is not int or not 0 <= speaker < MAX_SPEAKERS:
            raise InputError(f"speaker: expected 0 to {MAX_SPEAKERS - 1}, got {shown(speaker)}")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"text: expected words, got {shown(text)}")
        rows = []
        for part in self._slot.prompt:
            if part.kind != "voice" and part.when != "voice":
                said = part.kind == "text"
                ids = self._model.text.said(text.strip(), speaker) if said else part.ids
                rows.append(self._layout.text_frames(ids))
        if self._session.frames:  # the start frame stands for the first turn's
            rows.insert(0, self._layout.text_frames([self._slot.first]))
        return np.concatenate(rows)

    def _end(self) -> Ids:
        codes = np.full((1, self._layout.num_codebooks), self._slot.end_code)
        return self._layout.codes_to_frames(codes)

    def _check_room(self, frames: int) -> int:
        """Frames that are left after so many. Raises :class:`InputError` where there are none."""
        left = self._model.capacity - self._session.frames - frames
        if left < 0:
            raise InputError(
                f"conversation: expected up to {self._model.capacity - self._session.frames} "
                f"frames, which is the room left, got {frames}; begin another one"
            )
        return left

    def _held(self) -> threading.Lock:
        if self._lock.locked():
            raise InputError("conversation: somebody is speaking; finish or close that first")
        return self._lock
