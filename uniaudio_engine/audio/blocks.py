"""Reading a sound in blocks, so that memory does not grow with its length."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import sound as files
from .containers import pieces

Samples = NDArray[np.float32]
_BLOCK = 1 << 16  # samples per read
_CHANNELS_FROM = 30.0  # seconds at the beginning that decide which channels carry sound


class SoundReader:
    """A mono sound at ``sample_rate`` Hz that is read on demand.

    ``notes``: what was changed on reading. ``seconds``: the length that the source states.
    """

    def __init__(self, blocks: Iterator[Samples], notes: list[str], seconds: float) -> None:
        self.notes, self.seconds = notes, seconds
        self._blocks, self._rest = blocks, np.zeros(0, np.float32)

    def read(self, count: int) -> Samples:
        """The next ``count`` samples; fewer at the end of the sound."""
        parts, have = [self._rest], len(self._rest)
        while have < count:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            have += len(block)
        samples = np.concatenate(parts)
        self._rest = samples[count:]
        return samples[:count]


def open_sound(source: Any, sample_rate: int, what: str, min_seconds: float = 0.0) -> SoundReader:
    """A reader for anything that :func:`read_audio` takes.

    A file is read and resampled block by block. Arrays are in memory already. Raises
    :class:`InputError` for a source that cannot be read, or is shorter than ``min_seconds``.
    """
    is_file = isinstance(source, (str, os.PathLike)) and os.path.isfile(source)
    if not is_file:  # in memory, or a pipe that can be read only once
        audio = files.read_audio(source, sample_rate, None, what, min_seconds)
        return SoundReader(iter([audio.samples]), audio.meta["notes"], audio.seconds)
    # The beginning is read as always: it shows bad input, and it may be all.
    audio = files.read_audio(source, sample_rate, _CHANNELS_FROM, what, min_seconds)
    if audio.seconds < _CHANNELS_FROM:
        return SoundReader(iter([audio.samples]), audio.meta["notes"], audio.seconds)
    notes = [n for n in audio.meta["notes"] if not n.startswith("only the first")]
    blocks = _file_blocks(source, sample_rate, what)
    return SoundReader(blocks, notes, float(next(blocks)[0]))  # the first block is the length


def _file_blocks(source: Any, sample_rate: int, what: str) -> Iterator[Any]:
    """The length in seconds as an array of one, then blocks of samples [n]."""
    import soundfile
    import soxr

    f, name = files.open_source(source, what)
    with f, contextlib.ExitStack() as stack:
        f.seek(0, io.SEEK_SET)
        parts, _ = pieces(f, name)
        try:
            sounds = [stack.enter_context(soundfile.SoundFile(p)) for p in parts]
            rate = sounds[0].samplerate
            yield np.array([sum(s.frames for s in sounds) / rate])
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
            weights: NDArray[np.float32] | None = None
            for number, sound in enumerate(sounds):
                while len(x := sound.read(_BLOCK, dtype="float32", always_2d=True)):
                    if not np.isfinite(x).all():
                        raise InputError(
                            f"{name}: expected finite samples, got NaN or infinity; repair or "
                            "re-record the sound"
                        )
                    if weights is None:
                        weights = _weights(source, what, rate)
                    y = (x @ weights).astype(np.float32)
                    yield y if rate == sample_rate else resampler.resample_chunk(y)
                if number == len(sounds) - 1 and rate != sample_rate:
                    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        except soundfile.SoundFileError as e:
            reason = " ".join(getattr(e, "error_string", str(e)).split()).rstrip(".")
            raise InputError(f"{name}: expected a readable sound, got: {reason}") from None


def _weights(source: Any, what: str, rate: int) -> NDArray[np.float32]:
    """The share [C] of each channel in the mono signal, decided at the beginning of the sound."""
    import soundfile

    f, name = files.open_source(source, what)
    with f:
        parts, _ = pieces(f, name)
        with soundfile.SoundFile(parts[0]) as sound:
            x = sound.read(round(_CHANNELS_FROM * rate), dtype="float32", always_2d=True)
    return files.channel_weights(x)
