"""What ``uniaudio export verify`` makes of draws; the rest of it is in test_onnx_backend.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from uniaudio_engine.backends.verify import drawn_alike


class Drawn:
    """Ids that follow from all before them. ``borders``: frames, counted from the end of a prefix of
    three, that come out otherwise.
    """

    def __init__(self, *borders: int) -> None:
        self.borders = borders

    def generate(self, past: np.ndarray, n: int, sampling: Any, seed: int) -> np.ndarray:
        frames = list(past)
        while len(frames) < len(past) + n:
            other = len(frames) - 3 in self.borders
            frames.append((np.sum(frames, axis=0) + seed + other) % 1000)
        return np.array(frames[len(past) :])


@pytest.mark.parametrize(
    ("borders", "alike"), [((), 1.0), ((0,), 0.9), ((4,), 0.9), ((9,), 0.9), ((4, 7), 0.6)]
)
def test_a_draw_on_a_border_is_one_frame(borders: tuple[int, ...], alike: float) -> None:
    past = np.arange(6).reshape(3, 2)
    share = drawn_alike(Drawn(), Drawn(*borders), past, 10)  # type: ignore[arg-type]
    assert share == pytest.approx(alike)


def test_other_models_differ_from_the_first_frames_on() -> None:
    past = np.arange(6).reshape(3, 2)
    assert drawn_alike(Drawn(), Drawn(*range(500)), past, 500) < 0.01  # type: ignore[arg-type]
