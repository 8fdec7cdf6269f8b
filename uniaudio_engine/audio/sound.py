"""Sound in and out: one float32 type, checked reading of anything, writing that is whole or absent.

Not responsible for codes or models. Heavy readers (soundfile, soxr) are imported when first needed.
"""

from __future__ import annotations

import io
import math
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
    import soundfile

Samples = NDArray[np.float32]
AudioSource = Any  # a path, the bytes of a file, (samples [N] or [N, C], rate in Hz), or an Audio

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
MIN_RATE, MAX_RATE = 1000, 768000  # Hz
MAX_CHANNELS = 256
_UNKNOWN_SIZES = 0x7FFF0000  # WAV data sizes from here on are what writers to a pipe put there
_BLOCK = 1 << 16  # samples a read


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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write .wav (16 bit), .flac or .ogg by the name's ending; the file is whole or absent."""
        check_output(path)
        with atomic_write(path) as f:
            write_audio(f, self, FORMATS[Path(path).suffix.lower()])


@dataclass
class AudioChunk:
    """A piece of a stream: ``samples`` float32 [n] (or [C, n]) in [-1, 1] that begin at sample
    ``start``, at ``sample_rate`` Hz.

    ``codes`` int32 [t, K] are the frames that were decoded for it (the decoder's look-ahead makes
    samples lag behind); ``last`` is true for the stream's final chunk only.
    """

    samples: Samples
    sample_rate: int
    start: int
    codes: NDArray[np.int32]
    last: bool = False


def read_audio(
    source: AudioSource,
    sample_rate: int,
    max_seconds: float | None = None,
    what: str = "audio",
    min_seconds: float = 0.0,
    channels: int = 1,
) -> Audio:
    """Any sound file or array at ``sample_rate`` Hz: mono [N], or with ``channels`` above 1 that
    many, [C, N].

    A source of as many channels is taken as it is; any other is averaged to mono, which every
    channel then gets. Other rates are resampled, peaks above 1 scaled to 1, and anything after
    ``max_seconds`` is not even read; ``meta["notes"]`` says so. Raises one :class:`InputError` line
    for a source that is missing, empty, truncated, no sound, shorter than ``min_seconds``, or holds
    NaN or infinity.
    """
    if isinstance(source, Audio):
        x, rate, notes, name = _from_array(
            np.asarray(source.samples).T, source.sample_rate, max_seconds, what
        )
    elif isinstance(source, tuple) and len(source) == 2:
        x, rate, notes, name = _from_array(*source, max_seconds, what)
    elif isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        x, rate, notes, name = _from_file(source, max_seconds, what)
    else:
        raise InputError(
            f"{what}: expected a path, the bytes of a sound file, or (samples, rate in Hz), got "
            f"{type(source).__name__}"
        )
    if not np.isfinite(x).all():
        raise InputError(
            f"{name}: expected finite samples, got NaN or infinity; repair or re-record the sound"
        )
    given = x.shape[1]
    if given != channels:
        if given > 1:
            notes.append(f"{given} channels mixed down to mono")
        x = x.mean(axis=1, keepdims=True, dtype=np.float32)
    peak = float(np.abs(x).max(initial=0.0))
    if peak > 1.0:
        notes.append(f"peak {peak:.3g} scaled to 1")
        x = x / np.float32(peak)
    if len(x) < max(1, min_seconds * rate):
        least = f"{max(min_seconds, 1 / rate):.3g} s"
        raise InputError(
            f"{name}: expected at least {least} of sound, got {len(x) / rate:.3g} s; record more"
        )
    if rate != sample_rate:
        import soxr

        notes.append(f"resampled from {rate} Hz to {sample_rate} Hz")
        x = soxr.resample(x, rate, sample_rate)
    if given != channels and channels > 1:
        notes.append(f"mono duplicated to {channels} channels")
        x = np.repeat(x, channels, axis=1)
    x = np.clip(x, -1, 1).astype(np.float32)
    return Audio(
        x[:, 0] if channels == 1 else np.ascontiguousarray(x.T), sample_rate, {"notes": notes}
    )


def _from_array(
    samples: Any, rate: Any, max_seconds: float | None, what: str
) -> tuple[NDArray[np.float32], int, list[str], str]:
    rate = _checked_rate(rate, what)
    x = np.asarray(samples)
    if (
        x.ndim not in (1, 2)
        or x.dtype.kind not in "iuf"
        or (x.ndim == 2 and not 1 <= x.shape[1] <= MAX_CHANNELS)
    ):
        raise InputError(
            f"{what}: expected samples [N] or [N, channels] as numbers, got {x.dtype} "
            f"{list(x.shape)}"
        )
    notes: list[str] = []
    limit = len(x) if max_seconds is None else min(len(x), math.ceil(max_seconds * rate))
    if limit < len(x):
        notes.append(_cut_note(limit, len(x), rate))
    x = x[:limit]
    if x.dtype.kind == "u":
        raise InputError(
            f"{what}: expected float or signed integer samples, got {x.dtype}; subtract its "
            "middle first"
        )
    if x.dtype.kind == "i":
        x = x.astype(np.float64) / -float(np.iinfo(x.dtype).min)
    return (x if x.ndim == 2 else x[:, None]).astype(np.float32), rate, notes, what


def _from_file(
    source: Any, max_seconds: float | None, what: str
) -> tuple[NDArray[np.float32], int, list[str], str]:
    import soundfile

    name = (
        f"{what} {os.fspath(source)}"
        if isinstance(source, (str, os.PathLike))
        else f"{what} ({len(source)} bytes)"
    )
    try:
        is_path = isinstance(source, (str, os.PathLike))
        f: BinaryIO = Path(source).open("rb") if is_path else io.BytesIO(source)  # noqa: SIM115 (closed below)
    except OSError as e:
        raise InputError(
            f"{name}: expected a readable sound file, got: {e.strerror or e}"
        ) from None
    with f:
        if not f.seekable():
            f = io.BytesIO(f.read())
        if f.seek(0, io.SEEK_END) == 0:
            raise InputError(f"{name}: expected a sound file, got 0 bytes; record or copy it again")
        _check_wav_size(f, name)
        f.seek(0)
        try:
            with soundfile.SoundFile(f) as sound:
                return (*_read_sound(sound, max_seconds, name), name)
        except soundfile.SoundFileError as e:
            reason = " ".join(getattr(e, "error_string", str(e)).split()).rstrip(".")
            raise InputError(
                f"{name}: expected WAV, FLAC, OGG, MP3 or AIFF, got: {reason}; convert or copy "
                "the file again"
            ) from None


def _read_sound(
    sound: soundfile.SoundFile, max_seconds: float | None, name: str
) -> tuple[NDArray[np.float32], int, list[str]]:
    rate = _checked_rate(sound.samplerate, name)
    notes: list[str] = []
    if sound.subtype in ("PCM_U8", "PCM_S8", "ULAW", "ALAW"):
        notes.append("8-bit sound: expect noise")
    limit = (
        sound.frames if max_seconds is None else min(sound.frames, math.ceil(max_seconds * rate))
    )
    if limit < sound.frames:
        notes.append(_cut_note(limit, sound.frames, rate))
    blocks, got = [], 0
    while (
        got < limit
    ):  # in blocks: the length that a header claims is not believed before the samples are there
        block = sound.read(min(_BLOCK, limit - got), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        got += len(block)
    if got < limit:
        raise InputError(
            f"{name}: expected {limit} samples, got {got}; the file is truncated, copy it again"
        )
    if not blocks:
        raise InputError(
            f"{name}: expected sound, got a file without samples; record or copy it again"
        )
    return np.concatenate(blocks), rate, notes


def _check_wav_size(f: BinaryIO, name: str) -> None:
    """A RIFF/WAVE file must hold the bytes that its data chunk announces (libsndfile shortens
    silently).
    """
    size = f.seek(0, io.SEEK_END)
    f.seek(0)
    riff = f.read(12)
    if len(riff) < 12:
        raise InputError(
            f"{name}: expected a sound file, got only {size} bytes; it is truncated, copy it again"
        )
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        return
    while len(head := f.read(8)) == 8:
        chunk, length = struct.unpack("<4sI", head)
        if chunk == b"data":
            there = size - f.tell()
            if length < _UNKNOWN_SIZES and there < length:
                raise InputError(
                    f"{name}: expected {length} bytes of samples, got {there}: truncated, copy it "
                    "again"
                )
            return
        f.seek(length + length % 2, io.SEEK_CUR)


def _checked_rate(rate: Any, what: str) -> int:
    if (
        isinstance(rate, bool)
        or not isinstance(rate, (int, np.integer))
        or not MIN_RATE <= rate <= MAX_RATE
    ):
        raise InputError(
            f"{what}: expected a sample rate of {MIN_RATE} to {MAX_RATE} Hz, got {shown(rate)}"
        )
    return int(rate)


def _cut_note(limit: int, total: int, rate: int) -> str:
    return f"only the first {limit / rate:.3g} s of {total / rate:.4g} s used"


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
    import soundfile

    buffer = io.BytesIO()
    samples = (
        to_int16(audio.samples) if kind == "FLAC" else audio.samples.T
    )  # libsndfile's own rounding is one off here and there
    soundfile.write(buffer, samples, audio.sample_rate, format=kind)
    f.write(buffer.getvalue())


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
