"""A PNG picture of a result: waveform and spectrogram, with those of the source above.

Needs matplotlib (the extra ``plot``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..audio.sound import Audio
from ..errors import InputError
from ..storage.files import atomic_write

_WINDOW, _HOP = 512, 128
_FLOOR = -80.0  # dB relative to the maximum


def spectrogram_db(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples [N] -> dB [bins, frames] relative to power 1; frame t is centred on sample 128 t."""
    x = np.pad(np.asarray(samples, np.float32), (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[
        : len(samples) + 1 : _HOP
    ] * np.hanning(_WINDOW).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, axis=1)).T ** 2
    db: NDArray[np.float32] = (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32)
    return db


@contextlib.contextmanager
def open_plot(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens the picture's file; it is complete or absent. Raises :class:`InputError` before any
    work.
    """
    if not str(path).lower().endswith(".png"):
        raise InputError(f"{path}: expected a name that ends in .png for the picture")
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise InputError(
            f"a picture needs matplotlib ({e}): pip install 'uniaudio-engine[plot]'"
        ) from None
    with atomic_write(path) as f:
        yield f


def write_plot(
    f: BinaryIO, sounds: Mapping[str, Audio], span: Sequence[float] | None = None
) -> None:
    """Draws one row per sound, titled with its key, with common scales of time and level.

    ``span`` (begin and end in seconds of the first sound) is shaded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mono = {
        title: s.samples if s.samples.ndim == 1 else s.samples.mean(axis=0)
        for title, s in sounds.items()
    }
    pictures = {title: spectrogram_db(x) for title, x in mono.items()}
    loudest = max(float(p.max()) for p in pictures.values())
    lengths = [s.seconds for s in sounds.values()]
    seconds = max(1e-3, *lengths)
    height = max(1e-3, *(float(np.abs(x).max(initial=0.0)) for x in mono.values()))
    figure: Any = Figure(figsize=(12, 4.5 * len(sounds)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * len(sounds), 1, squeeze=False, height_ratios=(1, 2) * len(sounds))[
        :, 0
    ]
    for i, (title, sound) in enumerate(sounds.items()):
        wave, picture = axes[2 * i], axes[2 * i + 1]
        wave.plot(np.arange(len(mono[title])) / sound.sample_rate, mono[title], linewidth=0.5)
        wave.set(
            title=title, xlim=(0, seconds), ylim=(-1.05 * height, 1.05 * height), xticklabels=[]
        )
        db = pictures[title]
        edges = (0, db.shape[1] * _HOP / sound.sample_rate, 0, sound.sample_rate / 2000)
        picture.imshow(
            db,
            origin="lower",
            aspect="auto",
            extent=edges,
            vmin=loudest + _FLOOR,
            vmax=loudest,
            interpolation="nearest",
        )
        picture.set(xlim=(0, seconds), xlabel="s", ylabel="kHz")
        if span is not None:
            # edited speech may be longer or shorter than the original
            end = span[1] + lengths[i] - lengths[0]
            wave.axvspan(span[0], end, color="C1", alpha=0.25, linewidth=0)
            for at in (span[0], end):
                picture.axvline(at, color="w", linestyle=":", linewidth=1)
    figure.savefig(f, format="png", dpi=80)
