"""Sound as bytes while it is being made: the formats that an answer may have."""

from __future__ import annotations

import base64
import io
import json
from typing import Any, BinaryIO, cast

import numpy as np

from ..audio.sound import FORMATS, Samples, SoundWriter, to_pcm16, wav_header
from .errors import ApiError

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


def check_format(name: str) -> str:
    """A response format. Raises :class:`ApiError` for one that cannot be written."""
    if name not in MEDIA_TYPES:
        raise ApiError(
            400,
            f"response_format: expected one of {', '.join(MEDIA_TYPES)}, got {name[:20]}",
            param="response_format",
        )
    return name


class Encoder:
    """Samples float32 [n] at ``source_rate`` -> bytes of a file at ``sample_rate`` (0: the same).

    ``push`` returns what can be sent now; ``finish`` the rest.
    """

    def __init__(self, kind: str, source_rate: int, sample_rate: int = 0) -> None:
        self.kind, self.sample_rate = kind, sample_rate or source_rate
        self._resampler: Any = None
        if self.sample_rate != source_rate:
            import soxr

            self._resampler = soxr.ResampleStream(source_rate, self.sample_rate, 1, dtype="float32")
        self._tape = _Tape()
        self._writer: SoundWriter | None = None
        if kind == "wav":
            self._tape.write(wav_header(self.sample_rate, None))
        elif kind != "pcm":
            self._writer = SoundWriter(
                cast(BinaryIO, self._tape), self.sample_rate, 1, FORMATS[f".{kind}"]
            )

    def push(self, samples: Samples) -> bytes:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples))
        self._write(samples)
        return self._tape.taken()

    def finish(self) -> bytes:
        if self._resampler is not None:
            self._write(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        if self._writer is not None:
            self._writer.finish()
            self._writer.close()
        return self._tape.taken()

    def close(self) -> None:
        """Free the encoder of a sound that is not finished."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, samples: Samples) -> None:
        if not len(samples):
            return
        if self._writer is not None:
            self._writer.write(samples)
        else:
            self._tape.write(to_pcm16(samples))


class _Tape:
    """A file that is written, and taken away from the front as it comes.

    An encoder that goes back at its end, to write a length into its header, changes what is gone:
    a stream's length is unknown to those who read it as it comes.
    """

    def __init__(self) -> None:
        self._kept, self._begin, self._at = bytearray(), 0, 0  # _begin: where the kept bytes begin

    def write(self, data: bytes) -> int:
        gone = min(len(data), max(0, self._begin - self._at))
        at = self._at + gone - self._begin
        self._kept[at : at + len(data) - gone] = bytes(data[gone:])
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}.get(whence, self._begin + len(self._kept))
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        return b""

    def readinto(self, buffer: Any) -> int:
        return 0

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        data = bytes(self._kept)
        self._begin += len(data)
        self._kept.clear()
        return data


def server_sent_event(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


def audio_event(data: bytes, words: list[dict[str, Any]]) -> dict[str, Any]:
    """A piece of sound as OpenAI's event; ``words`` begin in it, or soon after it."""
    audio = base64.b64encode(data).decode("ascii")
    event: dict[str, Any] = {"type": "speech.audio.delta", "audio": audio}
    return {**event, "words": words} if words else event
