"""Sound files as a corpus has them: int16 at 16 kHz, one channel."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from uniaudio_engine.audio.sound import to_int16

from .schema import SAMPLE_RATE


def resampled_length(frames: int, rate: int) -> int:
    """Samples at 16 kHz of a recording of ``frames`` at ``rate``."""
    return frames if rate == SAMPLE_RATE else -(-frames * SAMPLE_RATE // rate)


def decoded(f: BinaryIO) -> NDArray[np.int16]:
    """A sound file as int16 [N] at 16 kHz, mixed down, without infinite and undefined samples."""
    samples, rate = sf.read(f, dtype="float32", always_2d=True)
    mono = np.nan_to_num(samples.mean(1), nan=0.0, posinf=0.0, neginf=0.0)
    wanted = resampled_length(len(mono), rate)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    mono = np.pad(mono[:wanted], (0, max(0, wanted - len(mono))))
    # Samples of 16 bits stay what they are, except the lowest: corpora are symmetric.
    pcm = np.maximum(to_int16(np.clip(mono, -1, 1)), -32767)
    pcm.setflags(write=False)
    return pcm
