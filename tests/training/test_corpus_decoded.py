"""Sound files of 16 bits at the corpus' rate keep their samples."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from uniaudio_training.corpus.sound_files import decoded


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_samples_of_16_bits_are_what_they_were(container: str) -> None:
    """All of them but the lowest, which has no positive counterpart."""
    every = np.arange(-32768, 32768).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, every, 16000, "PCM_16", format=container)
    file.seek(0)
    np.testing.assert_array_equal(decoded(file), np.maximum(every, -32767))


def test_samples_beyond_full_scale_are_clipped() -> None:
    file = io.BytesIO()
    samples = np.array([3e38, -3e38, np.inf, np.nan, 1.0, -1.0, 0.5], np.float32)
    soundfile.write(file, samples, 16000, "FLOAT", format="WAV")
    file.seek(0)
    assert decoded(file).tolist() == [32767, -32767, 0, 0, 32767, -32767, 16384]
