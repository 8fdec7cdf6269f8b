"""A picture of what was done: waveform and spectrogram, before and after, as PNG.  Needs matplotlib (``[plot]``)."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio import Audio
from .errors import InputError
from .files import atomic_write

_WINDOW, _HOP = 512, 128
_FLOOR = -80.0  # dB of the loudest


def spectrogram_db(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """samples [N] -> dB below the loudest [bins, frames], never under -80."""
    x = np.pad(np.asarray(samples, np.float32), (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[::_HOP] * np.hanning(_WINDOW).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, axis=1)).T ** 2
    db = 10 * np.log10(np.maximum(power, 1e-12) / max(float(power.max(initial=0.0)), 1e-9))
    return np.maximum(db, _FLOOR).astype(np.float32)


def write_plot(path: str | os.PathLike[str], sounds: dict[str, Audio]) -> None:
    """One column a sound, by title; whole or absent."""
    if not str(path).lower().endswith(".png"):
        raise InputError(f"{path}: expected a name that ends in .png for the picture")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise InputError(f"a picture needs matplotlib ({e}): pip install 'uniaudio-engine[plot]'") from None
    figure: Any = Figure(figsize=(1 + 6 * len(sounds), 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(sounds), squeeze=False, height_ratios=(1, 2))
    for column, (title, sound) in enumerate(sounds.items()):
        mono = sound.samples if sound.samples.ndim == 1 else sound.samples.mean(axis=0)
        seconds = len(mono) / sound.sample_rate
        wave, picture = axes[:, column]
        wave.plot(np.arange(len(mono)) / sound.sample_rate, mono, linewidth=0.5)
        wave.set(title=title, xlim=(0, max(seconds, 1e-3)), ylim=(-1, 1))
        picture.imshow(spectrogram_db(mono), origin="lower", aspect="auto", extent=(0, max(seconds, 1e-3), 0, sound.sample_rate / 2000), vmin=_FLOOR, vmax=0)
        picture.set(xlabel="s", ylabel="kHz")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    with atomic_write(path) as f:
        f.write(buffer.getvalue())
