"""Sound in and out: one float32 type, checked reading of anything, writing that is whole or absent.

Not responsible for codes or models. Heavy readers (soundfile, soxr) are imported when first needed.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.files import atomic_write

if TYPE_CHECKING:
    pass

Samples = NDArray[np.float32]

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OPUS", ".mp3": "MP3"}
_RATES = {  # Hz that a format can hold, where that is not any
    "MP3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "OPUS": (8000, 12000, 16000, 24000, 48000),
}
_BLOCK = 1 << 16  # samples a read or write


@dataclass
class Audio:
    """Sound.

    ``samples`` float32 [N] (mono), or [C, N] of several channels, in [-1, 1]; ``sample_rate`` in
    Hz; ``meta``: what is known about it (``notes``: what was changed on reading; ``seed`` and
    timings where it was generated).
    """

    samples: Samples
    sample_rate: int
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.samples.shape[-1] / self.sample_rate

    @property
    def channels(self) -> int:
        return 1 if self.samples.ndim == 1 else len(self.samples)

    def save(self, path: str | os.PathLike[str] | BinaryIO, kind: str | None = None) -> None:
        """Write .wav (16 bit), .flac, .ogg (Vorbis), .opus or .mp3.

        ``kind``: one of those endings; that of the name where it is not given. A file at a path is
        whole or absent. A file object opened for binary writing needs a ``kind``.
        """
        if kind is not None and f".{kind.lower().lstrip('.')}" not in FORMATS:
            raise InputError(f"kind: expected one of {', '.join(FORMATS)}, got {shown(kind)}")
        if not isinstance(path, (str, os.PathLike)):
            if kind is None:
                raise InputError("kind: expected the format of a file object, such as wav")
            write_audio(path, self, FORMATS[f".{kind.lower().lstrip('.')}"])
            return
        check_output(path)
        with atomic_write(path) as f:
            write_audio(f, self, FORMATS[Path(path).suffix.lower()])


@dataclass
class AudioChunk:
    """A piece of a stream: ``samples`` float32 [n] (or [C, n]) in [-1, 1] that begin at sample
    ``start``, at ``sample_rate`` Hz.

    ``codes`` int32 [t, K] are the frames that were decoded for it (the decoder's look-ahead makes
    samples lag behind), none where a filter alone made it; ``last`` is true for the stream's final
    chunk only. ``words``: those whose speech begins in it, as in ``meta["words"]`` of the whole; their
    times are those of the stream.
    """

    samples: Samples
    sample_rate: int
    start: int
    codes: NDArray[np.int32]
    last: bool = False
    words: list[dict[str, Any]] = field(default_factory=list)


def trim_silence(audio: Audio, floor_db: float = -50.0) -> Audio:
    """Without leading and trailing parts whose 10 ms means stay ``floor_db`` below the loudest one."""
    hop = max(1, audio.sample_rate // 100)
    x = audio.samples
    power = (np.atleast_2d(x).astype(np.float64) ** 2).sum(0)
    energy = np.add.reduceat(power, np.arange(0, len(power), hop)) if len(power) else np.zeros(0)
    loud = np.flatnonzero(energy > energy.max(initial=0.0) * 10 ** (floor_db / 10))
    if not len(loud):
        return Audio(x[..., :0], audio.sample_rate, audio.meta)
    return Audio(x[..., loud[0] * hop : (loud[-1] + 1) * hop], audio.sample_rate, audio.meta)


def to_int16(samples: NDArray[Any]) -> NDArray[np.int16]:
    """float [N] or [C, N] in [-1, 1] -> int16 [N] or [N, C]; samples that were read from 16 bits
    are what they were.
    """
    return np.clip(np.rint(samples.T * 32768.0), -32768, 32767).astype(np.int16)


def to_pcm16(samples: NDArray[Any]) -> bytes:
    """float [N] or [C, N] in [-1, 1] -> little-endian 16-bit PCM, the channels of a sample side by
    side.
    """
    return to_int16(samples).astype("<i2").tobytes()


def wav_header(sample_rate: int, samples: int | None, channels: int = 1) -> bytes:
    """44 bytes for 16-bit PCM; ``samples`` (of each channel) None: a stream whose length is not
    known yet.
    """
    width = 2 * channels
    size = 0xFFFFFFFF - 36 if samples is None else min(width * samples, 0xFFFFFFFF - 36)
    parts = (
        b"RIFF",
        size + 36,
        b"WAVE",
        b"fmt ",
        16,
        1,
        channels,
        sample_rate,
        width * sample_rate,
        width,
        16,
        b"data",
        size,
    )
    return struct.pack("<4sI4s4sIHHIIHH4sI", *parts)


def write_audio(f: BinaryIO, audio: Audio, kind: str = "WAV") -> None:
    """Write the whole file of a format in :data:`FORMATS` values."""
    if kind == "WAV":
        f.write(
            wav_header(audio.sample_rate, audio.samples.shape[-1], audio.channels)
            + to_pcm16(audio.samples)
        )
        return
    buffer = io.BytesIO()
    x = audio.samples
    # Encoders take the stack for a whole write.
    blocks = (x[..., i : i + _BLOCK] for i in range(0, x.shape[-1], _BLOCK))
    _encode(buffer, blocks, audio.sample_rate, audio.channels, kind)
    f.write(buffer.getvalue())


def write_audio_stream(
    f: BinaryIO,
    chunks: Iterable[AudioChunk],
    sample_rate: int,
    kind: str = "WAV",
    channels: int = 1,
) -> None:
    """Write chunks as they come, in a format of :data:`FORMATS` values."""
    if kind == "WAV":
        write_wav_stream(f, chunks, sample_rate, channels=channels)
    else:
        _encode(f, (c.samples for c in chunks), sample_rate, channels, kind)


class SoundWriter:
    """Encodes blocks of samples [n] or [C, n] into ``f``, at a rate that the format can hold.

    ``kind``: a format of :data:`FORMATS` values. Close it after the last block.
    """

    def __init__(self, f: BinaryIO, sample_rate: int, channels: int, kind: str) -> None:
        import soundfile
        import soxr

        rate = sample_rate
        if rate not in _RATES.get(kind, (rate,)):
            rate = next((r for r in _RATES[kind] if r > rate), _RATES[kind][-1])
        self._resampler = (
            soxr.ResampleStream(sample_rate, rate, channels, dtype="float32")
            if rate != sample_rate
            else None
        )
        self._kind, self._channels = kind, channels
        container, subtype = ("OGG", "OPUS") if kind == "OPUS" else (kind, None)
        try:
            self._sound = soundfile.SoundFile(
                f, "w", rate, channels, format=container, subtype=subtype
            )
        except soundfile.SoundFileError:
            raise InputError(
                f"expected a sound that {kind} can hold, got {channels} channels at {sample_rate} "
                "Hz; choose .wav or .flac"
            ) from None

    def write(self, x: Samples) -> None:
        if self._resampler is not None:
            self._sound.write(self._resampler.resample_chunk(np.ascontiguousarray(x.T)))
        else:  # libsndfile's own rounding to 16 bits is one off here and there
            self._sound.write(to_int16(x) if self._kind == "FLAC" else x.T)

    def finish(self) -> None:
        """Write what the resampler still holds."""
        if self._resampler is not None:
            end = np.zeros((0, self._channels) if self._channels > 1 else 0, np.float32)
            self._sound.write(self._resampler.resample_chunk(end, last=True))

    def close(self) -> None:
        self._sound.close()


def _encode(
    f: BinaryIO, blocks: Iterable[Samples], sample_rate: int, channels: int, kind: str
) -> None:
    with contextlib.closing(SoundWriter(f, sample_rate, channels, kind)) as writer:
        for x in blocks:
            writer.write(x)
        writer.finish()


def write_wav_stream(
    f: BinaryIO,
    chunks: Iterable[AudioChunk],
    sample_rate: int,
    header: bool = True,
    channels: int = 1,
) -> int:
    """Write chunks as they come (flushed one by one); returns the number of samples (of each
    channel).

    Where ``f`` can seek, the header gets the true length at the end.
    """
    if header:
        f.write(wav_header(sample_rate, None, channels))
    total = 0
    for chunk in chunks:
        f.write(to_pcm16(chunk.samples))
        f.flush()
        total += chunk.samples.shape[-1]
    if header and f.seekable():
        f.seek(0)
        f.write(wav_header(sample_rate, total, channels))
        f.seek(0, io.SEEK_END)
    return total


def check_output(path: str | os.PathLike[str]) -> None:
    """Refuse a name whose ending says no format; what can't be written is refused by
    :func:`atomic_write`.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(
            f"{path}: expected a name that ends in {', '.join(FORMATS)} (or - for WAV to standard "
            "output)"
        )


def concatenate(chunks: Iterable[AudioChunk], sample_rate: int) -> Samples:
    """The samples of all chunks, one after the other."""
    parts = [c.samples for c in chunks]
    return np.concatenate(parts, axis=-1) if parts else np.zeros(0, np.float32)
