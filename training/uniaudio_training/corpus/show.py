"""Writes examples for inspection: a WAV file per track and a PNG with spectrograms and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf

from .pitch import hz
from .reading import CorpusError, Example, Examples
from .schema import SAMPLE_RATE


def _title(example: Example) -> str:
    label = example.label
    facts = [
        label.id,
        label.caption,
        *(
            str(f)
            for f in (label.noise, label.interferer, label.room, label.edit, label.instruction)
            if f is not None
        ),
    ]
    return "\n".join(f for f in facts if f)[:400]


def picture(example: Example, path: Path) -> None:
    """Spectrograms of all tracks with their phones, words, notes and edited spans."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise CorpusError("pictures need matplotlib: pip install matplotlib") from None
    fig, axes = plt.subplots(
        len(example.roles), 1, figsize=(14, 3.2 * len(example.roles) + 0.6), squeeze=False
    )
    for ax, role in zip(axes[:, 0], example.roles, strict=True):
        track, x = example.track(role), example.audio(role)
        with np.errstate(divide="ignore"):
            ax.specgram(
                np.pad(x, (0, max(0, 512 - len(x)))),
                NFFT=512,
                Fs=SAMPLE_RATE,
                noverlap=384,
                vmin=-140,
                vmax=-40,
                cmap="magma",
            )
        start = 0.0
        for p in track.phones:
            ax.axvline(p.end, color="w", lw=0.3)
            ax.text((start + p.end) / 2, 7400, p.phone, color="w", fontsize=6, ha="center")
            start = p.end
        for w in track.words:
            ax.text((w.start + w.end) / 2, 6800, w.word, color="cyan", fontsize=7, ha="center")
        if role == "target":
            for n in example.label.notes:
                ax.plot(
                    [n.start, n.start + n.duration], [float(hz(n.pitch))] * 2, color="lime", lw=1.5
                )
        if example.label.edit is not None and role in ("source", "target"):
            span = getattr(example.label.edit, role)
            ax.axvspan(span.start / SAMPLE_RATE, span.end / SAMPLE_RATE, color="cyan", alpha=0.15)
        ax.set_ylabel(f"{role} {track.speaker}", fontsize=7)
        ax.set_title(track.text, fontsize=8)
    fig.suptitle(_title(example), fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=70)
    plt.close(fig)


def show(examples: Examples, count: int, folder: Path) -> list[Path]:
    """Writes ``count`` evenly spaced examples; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i in np.unique(np.linspace(0, len(examples) - 1, max(1, count)).astype(int)):
        example = examples[int(i)]
        for role in example.roles:
            made.append(folder / f"{example.id}-{role}.wav")
            sf.write(made[-1], example.pcm(role), SAMPLE_RATE)
        made.append(folder / f"{example.id}.png")
        picture(example, made[-1])
    return made
