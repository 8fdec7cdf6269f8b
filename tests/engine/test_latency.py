"""Deadline mode: chunks as large as a latency allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from uniaudio_engine import Engine, InputError
from uniaudio_engine.request import latency
from uniaudio_engine.request.latency import Speed, chunk_sizes, speed


@pytest.mark.parametrize(
    ("frame", "lookahead", "asked", "sizes"),
    [
        (0.0, 0.0, 20, (1,)),
        (0.0, 0.0, 39, (1,)),
        (0.0, 0.0, 100, (4, 5)),
        (0.005, 0.0, 100, (4,)),
        (0.005, 0.04, 165, (4, 5)),
        (0.0, 0.04, 10_000, (4, 8, 16, 32, 50)),
    ],
)
def test_sizes(
    real: Engine,
    frame: float,
    lookahead: float,
    asked: float,
    sizes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latency, "speed", lambda model: Speed(frame, lookahead))
    assert chunk_sizes(real.model, asked).sizes == sizes


def test_it_is_measured(real: Engine) -> None:
    found = speed(real.model)
    assert found.frame > 0 and found.lookahead == real.codec.decoder_lookahead / 16000
    assert speed(real.model) is found


def test_the_stream_is_the_same(real: Engine) -> None:
    given: dict[str, Any] = {"text": "Hello there.", "seed": 3}
    each = 1000 * (1 / real.frame_rate + speed(real.model).frame)
    asked = 3.5 * each + 1000 * speed(real.model).lookahead
    chunks = list(real.stream("tts", max_latency_ms=asked, **given))
    assert {len(c.codes) for c in chunks[:-2]} == {3}
    whole = np.concatenate([c.codes for c in real.stream("tts", **given)])
    assert np.array_equal(np.concatenate([c.codes for c in chunks]), whole)


def test_what_cannot_be_kept(real: Engine) -> None:
    with pytest.raises(InputError, match=r"at least \d+ ms on this machine \(a frame of 20 ms"):
        real.stream("tts", text="a", max_latency_ms=10)
    for bad in ("soon", float("nan"), True):
        with pytest.raises(InputError, match="max_latency_ms: expected a number"):
            real.stream("tts", text="a", max_latency_ms=bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="either chunk_frames or max_latency_ms"):
        real.stream("tts", text="a", max_latency_ms=100, chunk_frames=[4])
