"""Sound to codes and back, and voices made of codes.

This adds to a bare codec what every caller needs: resampling, range checks and readable errors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.encoded import EncodedAudio
from ..audio.level import gain_to, scaled
from ..audio.reading import AudioSource, read_audio
from ..audio.sound import Audio, trim_silence
from ..audio.voice import Voice
from ..backends.protocols import Codec
from ..errors import InputError, shown
from ..storage.config import ConfigError, ModelConfig
from .speaker import Speaker

# Seconds read beyond the longest prompt, so that leading silence can be cut off.
_PROMPT_SLACK = 4.0


class AudioTokenizer:
    """The codec of one model. Immutable; safe to share between threads."""

    def __init__(
        self, config: ModelConfig, codec: Codec, fingerprint: str, speaker: Speaker | None = None
    ) -> None:
        """``speaker``: makes the vectors of voices, where the model speaks with one."""
        self._speaker = speaker
        self.config, self.codec, self.fingerprint = config.codec, codec, fingerprint
        self._model, self._level = config.name, config.level
        self._lm_codebooks = max(1, config.lm_codebooks)

    def encode(
        self, audio: AudioSource, num_codebooks: int = 0, bandwidth: float | None = None
    ) -> NDArray[np.int32]:
        """Sound -> codes int32 [K', T]. See :meth:`Engine.encode`."""
        if self.config.normalizes:
            raise InputError(
                f"the codec of {self._model} normalises loudness, so codes alone are half of "
                "the sound; use encode_audio"
            )
        return self.encode_audio(audio, num_codebooks, bandwidth).codes

    def encode_audio(
        self, audio: AudioSource, num_codebooks: int = 0, bandwidth: float | None = None
    ) -> EncodedAudio:
        """Sound -> codes, loudness and length. See :meth:`Engine.encode_audio`."""
        count = self.num_codebooks(num_codebooks, bandwidth)
        config = self.config
        sound = read_audio(audio, config.sample_rate, channels=config.channels)
        scales = None
        if config.normalizes:
            codes, scales = self.codec.encode_scaled(sound.samples, count)
        else:
            codes = self.codec.encode(sound.samples, count)
        return EncodedAudio(
            codes,
            config.sample_rate,
            sound.samples.shape[-1],
            self.fingerprint,
            scales,
            tuple(sound.meta["notes"]),
        )

    def num_codebooks(self, num_codebooks: int = 0, bandwidth: float | None = None) -> int:
        """The number of codebooks that either argument selects; 0 and None select all.

        Raises :class:`InputError` where the codec does not offer it.
        """
        if bandwidth is None:
            most = self.config.num_codebooks
            if type(num_codebooks) is not int or not 0 <= num_codebooks <= most:
                raise InputError(
                    f"num_codebooks: expected 0 (all) to {most}, got {shown(num_codebooks)}"
                )
            return num_codebooks or most
        if num_codebooks:
            raise InputError("expected either num_codebooks or bandwidth, got both")
        try:
            return self.config.codebooks_for(bandwidth)
        except ConfigError as e:
            raise InputError(str(e)) from None

    def decode(self, codes: EncodedAudio | NDArray[Any]) -> Audio:
        """Codes -> sound. See :meth:`Engine.decode`."""
        config = self.config
        encoded = codes if isinstance(codes, EncodedAudio) else None
        if encoded is not None:
            encoded.check(config, self.fingerprint)
        elif config.normalizes:
            raise InputError(
                f"the codec of {self._model} normalises loudness: expected what encode_audio "
                "gave, got codes without scales"
            )
        c = np.asarray(codes if encoded is None else encoded.codes)
        most, size = config.num_codebooks, config.codebook_size
        if c.ndim != 2 or not 1 <= c.shape[0] <= most or c.dtype.kind not in "iu":
            raise InputError(
                f"codes: expected whole numbers [1 to {most}, T], got {c.dtype} {list(c.shape)}"
            )
        if c.size and (c.min() < 0 or c.max() >= size):
            raise InputError(f"codes: expected 0 to {size - 1}, got {c.min()} to {c.max()}")
        c = np.ascontiguousarray(c, np.int32)
        try:
            samples = (
                self.codec.decode(c)
                if encoded is None or encoded.scales is None
                else self.codec.decode(c, encoded.scales)
            )
        except ValueError as e:  # scales that do not fit the codes
            raise InputError(str(e)) from None
        if encoded is not None:
            samples = samples[..., : encoded.samples]
        return Audio(np.clip(samples, -1.0, 1.0), config.sample_rate)

    def encode_voice(
        self,
        audio: AudioSource,
        name: str = "",
        *,
        max_seconds: float = 3.0,
        min_seconds: float = 0.5,
        licence: str = "",
        text: str = "",
    ) -> Voice:
        """A voice from the beginning of a sound. See :meth:`Engine.encode_voice`."""
        config = self.config
        if config.normalizes:
            raise InputError(
                f"model {self._model} is a codec without a language model, so voices are of no "
                "use to it; choose another model"
            )
        rate = config.sample_rate
        most = max_seconds + _PROMPT_SLACK
        sound = read_audio(audio, rate, most, "prompt", min_seconds, channels=config.channels)
        notes = list(sound.meta["notes"])
        trimmed = trim_silence(sound).samples[..., : round(max_seconds * rate)]
        count = trimmed.shape[-1]
        if count < min_seconds * rate:
            raise InputError(
                f"prompt: expected at least {min_seconds:g} s of sound, got "
                f"{count / rate:.3g} s that is not silent"
            )
        if count < sound.samples.shape[-1] and not notes:
            notes.append(f"{count / rate:.3g} s of the prompt used")
        source = os.path.basename(os.fspath(audio)) if isinstance(audio, (str, os.PathLike)) else ""
        codes = self.codec.encode(scaled(trimmed, gain_to(trimmed, rate, self._level)), 0)
        vector = None if self._speaker is None else self._speaker.vector(trimmed, rate)
        name = name or Path(source).stem or "prompt"
        return Voice(
            name,
            codes,
            self.fingerprint,
            config.frame_rate,
            licence,
            source,
            tuple(notes),
            vector,
            text,
        )

    def check_voice(self, voice: Voice) -> None:
        """Raise :class:`InputError` unless the voice consists of this codec's codes, and has the
        vector that the model speaks with.
        """
        voice.check(self.config, self.fingerprint, self._lm_codebooks)
        if self._speaker is not None and (
            voice.vector is None or voice.vector.shape != (self._speaker.width,)
        ):
            got = "none" if voice.vector is None else f"one of {len(voice.vector)}"
            raise InputError(
                f"voice {shown(voice.name)}: expected a vector of {self._speaker.width} numbers, "
                f"got {got}; make the voice again with this model"
            )
