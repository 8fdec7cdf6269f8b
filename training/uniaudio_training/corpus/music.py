"""Music of the corpus: random-walk melodies, chords and drums, rendered with the FluidR3_GM
SoundFont (MIT) through tinysoundfont.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE_RATE = 16000
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")  # Debian: fluid-soundfont-gm

INSTRUMENTS = {
    "piano": 0,
    "vibraphone": 11,
    "organ": 19,
    "accordion": 21,
    "guitar": 24,
    "electric guitar": 27,
    "violin": 40,
    "cello": 42,
    "strings": 48,
    "trumpet": 56,
    "saxophone": 65,
    "clarinet": 71,
    "flute": 73,
    "harp": 46,
    "synth": 80,
    "marimba": 12,
}
KEYS = ("C", "D flat", "D", "E flat", "E", "F", "G flat", "G", "A flat", "A", "B flat", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS = ((0, 3, 4, 0), (0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 0, 3, 4))


@dataclass(frozen=True)
class Music:
    """float32 samples [N] at 16 kHz mono, and the parameters that a caption names
    (``wordings.music``).
    """

    samples: np.ndarray
    parameters: dict[str, Any]


def require_tinysoundfont() -> None:
    """Raises RuntimeError unless tinysoundfont is installed."""
    if importlib.util.find_spec("tinysoundfont") is None:
        raise RuntimeError(
            "music needs tinysoundfont; install it: pip install --no-deps tinysoundfont"
        )


def require_soundfont() -> None:
    """Raises RuntimeError unless the SoundFont is installed."""
    if not SOUNDFONT.exists():
        raise RuntimeError(
            f"music needs {SOUNDFONT.name}; install it (Debian: apt-get install fluid-soundfont-gm)"
        )


@lru_cache(maxsize=1)
def _synth() -> Any:
    require_tinysoundfont()
    require_soundfont()
    import tinysoundfont

    synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE)
    return synth, synth.sfload(str(SOUNDFONT))


def make(rng: np.random.Generator, seconds: float | None = None) -> Music:
    """One piece of 4 to 8 s, or of ``seconds``."""
    seconds = seconds or float(rng.uniform(4, 8))
    names = list(INSTRUMENTS)
    lead = names[int(rng.integers(len(names)))]
    key, mode = int(rng.integers(12)), ("major", "minor")[int(rng.integers(2))]
    tempo = int(rng.choice([70, 85, 100, 115, 130, 150]))
    drums, chords = bool(rng.random() < 0.5), bool(rng.random() < 0.6)
    scale = [SCALES[mode][i % 7] + 12 * (i // 7) for i in range(21)]
    root = 48 + key
    beat = 60.0 / tempo

    events: list[tuple[float, int, int, int, bool]] = []  # time, channel, note, velocity, on

    def note(channel: int, start: float, length: float, pitch: int, velocity: int) -> None:
        if start < seconds:
            events.append((start, channel, pitch, velocity, True))
            events.append((min(start + length, seconds), channel, pitch, 0, False))

    degree, t = int(rng.integers(7, 14)), 0.0
    while t < seconds:
        length = beat * float(rng.choice([0.5, 1.0, 1.0, 2.0]))
        if rng.random() < 0.9:
            note(0, t, length * 0.95, root + scale[degree], int(rng.integers(80, 115)))
        degree = int(np.clip(degree + rng.choice([-2, -1, -1, 0, 1, 1, 2]), 4, 18))
        t += length
    if chords:
        steps = _PROGRESSIONS[int(rng.integers(len(_PROGRESSIONS)))]
        for bar in range(int(seconds / (4 * beat)) + 1):
            for third in (0, 2, 4):
                note(
                    1,
                    bar * 4 * beat,
                    4 * beat * 0.98,
                    root - 12 + scale[steps[bar % 4] + third],
                    65,
                )
    if drums:
        for i in range(int(seconds / (beat / 2)) + 1):
            hits = [42] + ([36] if i % 4 == 0 else []) + ([38] if i % 4 == 2 else [])
            for h in hits:
                note(9, i * beat / 2, beat / 4, h, 90)

    synth, font = _synth()
    synth.program_select(0, font, 0, INSTRUMENTS[lead])
    backing = ("piano", "strings", "organ")[int(rng.integers(3))]
    synth.program_select(1, font, 0, INSTRUMENTS[backing])
    synth.program_select(9, font, 128, 0, True)
    out, now = [], 0
    for when, channel, pitch, velocity, on in sorted(events, key=lambda e: (e[0], e[4])):
        target = int(when * SAMPLE_RATE)
        if target > now:
            out.append(
                np.frombuffer(bytes(synth.generate(target - now)), dtype=np.float32)
                .reshape(-1, 2)
                .mean(1)
            )
            now = target
        if on:
            synth.noteon(channel, pitch, velocity)
        else:
            synth.noteoff(channel, pitch)
    tail = int(seconds * SAMPLE_RATE) - now
    if tail > 0:
        out.append(
            np.frombuffer(bytes(synth.generate(tail)), dtype=np.float32).reshape(-1, 2).mean(1)
        )
    x = np.concatenate(out) if out else np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    synth.sounds_off()
    # Let all notes decay: the next clip must not depend on this one.
    synth.generate(SAMPLE_RATE * 3)
    level = 10 ** (rng.uniform(-26, -16) / 20)
    x = x * min(
        level / (float(np.sqrt((x**2).mean())) + 1e-9), 0.95 / (float(np.abs(x).max()) + 1e-9)
    )
    return Music(
        x.astype(np.float32),
        {
            "instrument": lead,
            "key": key,
            "mode": mode,
            "tempo": tempo,
            "chords": backing if chords else "",
            "drums": drums,
            "seconds": round(seconds, 3),
        },
    )
