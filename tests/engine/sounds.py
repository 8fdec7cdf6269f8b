"""Sounds for the tests, and what is compared of answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from uniaudio_engine import Audio, Engine


def codes_of(engine: Engine, **inputs: Any) -> np.ndarray:
    return np.concatenate([c.codes for c in engine.stream("tts", **inputs)])


def tone(seconds: float = 1.0, rate: int = 16000, hertz: float = 220.0) -> Audio:
    """A tone that swells a little, so that no two of its frames are the same."""
    t = np.arange(round(seconds * rate)) / rate
    x = 0.3 * np.sin(2 * np.pi * hertz * t) * (1 + 0.3 * np.sin(2 * np.pi * 1.7 * t))
    return Audio(x.astype(np.float32), rate)
