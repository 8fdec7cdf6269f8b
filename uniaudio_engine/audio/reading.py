"""Reading sound: files, bytes, file objects and arrays, checked, at one rate and number of channels.

Heavy readers (soundfile, soxr) are imported when first needed.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.available import available_bytes, require_memory
from ..storage.opening import open_regular
from .containers import pieces
from .sound import Audio

if TYPE_CHECKING:
    import soundfile

_BLOCK = 1 << 16  # samples per read
# A path (- is standard input), the bytes of a file, a file object, (samples [N] or [N, C], rate in
# Hz), or an Audio.
AudioSource = Any
MIN_RATE, MAX_RATE = 1000, 768000  # Hz
MAX_CHANNELS = 256
MAX_PIPE_BYTES = 2 << 30  # a pipe is read into memory
_UNKNOWN = 1 << 62  # frames; a stream that was saved, such as a FLAC, does not say how many it has
_SILENT_DB = -50.0  # a channel this far below the loudest one carries no sound
_CANCELLED = 0.01  # of the loudest channel's power is left by channels that cancel


def read_audio(
    source: AudioSource,
    sample_rate: int,
    max_seconds: float | None = None,
    what: str = "audio",
    min_seconds: float = 0.0,
    channels: int = 1,
    max_values: int | None = None,
) -> Audio:
    """Any sound file or array at ``sample_rate`` Hz: mono [N], or with ``channels`` above 1 that
    many, [C, N].

    A source of as many channels is taken as it is; any other is averaged to mono, which every
    channel then gets. Other rates are resampled, peaks above 1 scaled to 1, and anything after
    ``max_seconds`` is not even read; ``meta["notes"]`` says so. ``max_values`` bounds the memory of
    a file from elsewhere: samples times channels that may be decoded. Raises one :class:`InputError` line
    for a source that is missing, empty, truncated, no sound, shorter than ``min_seconds``, or holds
    NaN or infinity.
    """
    if isinstance(source, Audio):
        x, rate, notes, name = _from_array(
            np.asarray(source.samples).T, source.sample_rate, max_seconds, what
        )
    elif isinstance(source, tuple) and len(source) == 2:
        x, rate, notes, name = _from_array(*source, max_seconds, what)
    elif isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(
        source, "read"
    ):
        x, rate, notes, name = _from_file(source, max_seconds, what, max_values)
    else:
        raise InputError(
            f"{what}: expected a path, the bytes of a sound file, a file object, or (samples, rate "
            f"in Hz), got {type(source).__name__}"
        )
    if not np.isfinite(x).all():
        raise InputError(
            f"{name}: expected finite samples, got NaN or infinity; repair or re-record the sound"
        )
    given = x.shape[1]
    if given != channels:
        x = _mixed_down(x, notes)
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
        y = soxr.resample(x, rate, sample_rate)
        x = y if len(y) else x[:1]  # a sound of a sample or two is still one
    if given != channels and channels > 1:
        notes.append(f"mono duplicated to {channels} channels")
        x = np.repeat(x, channels, axis=1)
    x = np.clip(x, -1, 1).astype(np.float32)
    return Audio(
        x[:, 0] if channels == 1 else np.ascontiguousarray(x.T), sample_rate, {"notes": notes}
    )


def channel_weights(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """samples [N, C] -> the share [C] of each channel when mixed down: the mean of the channels that
    carry sound, or the loudest one alone where the others cancel it.
    """
    power = np.array([np.square(c, dtype=np.float64).mean() if len(c) else 0.0 for c in x.T])
    sounding = power > power.max() * 10 ** (_SILENT_DB / 10)
    if not sounding.any():
        sounding[:] = True
    weights = (sounding / sounding.sum()).astype(np.float32)
    mean = x[:, sounding].mean(axis=1, dtype=np.float32)
    if np.square(mean, dtype=np.float64).sum() < _CANCELLED * power.max() * len(x):
        weights[:] = 0
        weights[int(power.argmax())] = 1
    return weights


def _mixed_down(x: NDArray[np.float32], notes: list[str]) -> NDArray[np.float32]:
    """samples [N, C] -> [N, 1]."""
    given = x.shape[1]
    if given == 1:
        return x
    weights = channel_weights(x)
    used = np.flatnonzero(weights)
    if len(used) == 1 and given > 1:
        loudest = int(used[0])
        others = np.square(np.delete(x, loudest, axis=1), dtype=np.float64).sum()
        if others > _CANCELLED * np.square(x[:, loudest], dtype=np.float64).sum():
            notes.append(
                f"{given} channels cancel when mixed down: only channel {loudest + 1} is used"
            )
            return x[:, loudest : loudest + 1]
    silent = f", without {given - len(used)} silent" if len(used) < given else ""
    notes.append(f"{given} channels mixed down to mono{silent}")
    return x[:, used].mean(axis=1, keepdims=True, dtype=np.float32)


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
    source: Any, max_seconds: float | None, what: str, max_values: int | None
) -> tuple[NDArray[np.float32], int, list[str], str]:
    import soundfile

    f, name = open_source(source, what)
    with f:
        if f.seek(0, io.SEEK_END) == 0:
            raise InputError(f"{name}: expected a sound file, got 0 bytes; record or copy it again")
        parts, notes = pieces(f, name)
        try:
            with _quiet(), contextlib.ExitStack() as opened:
                sounds = [opened.enter_context(soundfile.SoundFile(p)) for p in parts]
                x, rate, more = _read_sounds(sounds, max_seconds, name, max_values)
        except soundfile.SoundFileError as e:
            reason = " ".join(getattr(e, "error_string", str(e)).split()).rstrip(".")
            raise InputError(
                f"{name}: expected WAV, FLAC, OGG, MP3 or AIFF, got: {reason}; convert or copy "
                "the file again"
            ) from None
    return x, rate, notes + more, name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libmpg123 writes about a damaged frame off standard error.

    Does nothing where other threads run: the descriptor is the whole process's, and theirs would
    be lost.
    """
    if threading.active_count() > 1:
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def open_source(source: Any, what: str) -> tuple[BinaryIO, str]:
    """A source as a file that can seek, and what an error message calls it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), f"{what} ({len(source)} bytes)"
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise InputError(
                f"{what}: expected a file opened in binary mode, got {type(data).__name__} from it"
            )
        return io.BytesIO(data), f"{what} ({len(data)} bytes)"
    name = f"{what} {os.fspath(source)}"
    try:
        if os.fspath(source) == "-":
            if sys.stdin is None:
                raise InputError(f"{what}: expected a sound on standard input, which is closed")
            return _all_of(sys.stdin.buffer, what), f"{what} (standard input)"
        path = Path(source)
        if path.is_fifo():
            with path.open("rb") as pipe:
                return _all_of(pipe, name), name
        file = open_regular(path, where=name)
        if path.suffix.lower() != ".raw":
            return file, name
        with file:  # soundfile would not look into it
            return _all_of(file, name), name
    except InputError:
        raise
    except (OSError, ValueError) as e:  # ValueError: a path with a NUL
        reason = e.strerror if isinstance(e, OSError) and e.strerror else e
        raise InputError(f"{name}: expected a readable sound file, got: {reason}") from None


def _all_of(file: BinaryIO, name: str) -> io.BytesIO:
    """What a pipe or file has, up to a bound: a pipe need not end."""
    data = file.read(MAX_PIPE_BYTES + 1)
    if len(data) > MAX_PIPE_BYTES:
        raise InputError(
            f"{name}: expected at most {MAX_PIPE_BYTES} bytes, got more; save it as a file first"
        )
    return io.BytesIO(data)


def _read_sounds(
    sounds: Sequence[soundfile.SoundFile],
    max_seconds: float | None,
    name: str,
    max_values: int | None,
) -> tuple[NDArray[np.float32], int, list[str]]:
    """The sounds one after the other, up to ``max_seconds``."""
    first = sounds[0]
    rate = _checked_rate(first.samplerate, name)
    notes: list[str] = []
    if any((s.samplerate, s.channels) != (rate, first.channels) for s in sounds):
        raise InputError(
            f"{name}: expected one rate and number of channels, got a file that changes them; "
            "convert it"
        )
    if first.subtype in ("PCM_U8", "PCM_S8", "ULAW", "ALAW"):
        notes.append("8-bit sound: expect noise")
    if len(sounds) > 1:
        notes.append(f"{len(sounds)} sounds in one file, joined")
    total = sum(s.frames for s in sounds)
    limit = total if max_seconds is None else min(total, math.ceil(max_seconds * rate))
    if limit < total < _UNKNOWN:
        notes.append(_cut_note(limit, total, rate))
    # As read, joined and changed. A few bytes can stand for hours of silence.
    size = 3 * 4.0 * first.channels
    if limit < _UNKNOWN:
        remedy = "cut the sound into shorter ones"
        require_memory(size * limit if max_values is None else 0, name, remedy)
    elif max_values is None and math.isfinite(left := available_bytes()):
        max_values = int(left / size) * first.channels
    most = limit if max_values is None else max_values // first.channels
    blocks, got = [], 0
    for sound in sounds:
        end = min(limit, got + sound.frames)
        while got < end:  # in blocks: memory is not set aside for what a header claims
            block = sound.read(min(_BLOCK, end - got), dtype="float32", always_2d=True)
            if not len(block) and sound.frames >= _UNKNOWN:
                break
            if got + len(block) > most:
                raise InputError(
                    f"{name}: expected at most {max_values} samples in all channels, got more; "
                    "send a shorter sound, fewer channels or a lower rate"
                )
            if not len(block):
                raise InputError(
                    f"{name}: expected {total} samples, got {got}; the file is truncated, copy it "
                    "again"
                )
            blocks.append(block)
            got += len(block)
    if not blocks:
        raise InputError(
            f"{name}: expected sound, got a file without samples; record or copy it again"
        )
    return np.concatenate(blocks), rate, notes


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
