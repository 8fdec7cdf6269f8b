"""The memory planner says what sessions take; measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from uniaudio_engine import Engine, InputError
from uniaudio_engine.request.memory import base_bytes
from uniaudio_engine.storage.weight_shapes import lm_shapes, matrix_part

MEASURE = """
import json, os
from uniaudio_engine import Engine

def resident():
    pages = open("/proc/self/statm").read().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

engine = Engine.from_pretrained(threads=1)
text = "It goes on for a while, so that there is something to measure here, and then on."
engine.tts(text, seed=0)  # the voice's prefix, the buffers of a call
before = resident()
streams = [engine.stream("tts", text=text, seed=i) for i in range(24)]
for stream in streams:
    for _ in range(6):
        chunk = next(stream, None)
        if chunk is None or chunk.last:
            raise SystemExit("it ended too soon")
seconds = (chunk.start + len(chunk.samples)) / chunk.sample_rate
plan = engine.memory(24, seconds)
print(json.dumps([plan.sessions * plan.session, resident() - before, seconds]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it reads /proc")
def test_the_plan_is_what_is_measured() -> None:
    """Within 40%, and not below: the plan counts phones and pauses for the whole length."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    planned, measured, seconds = json.loads(done.stdout)
    assert seconds > 2
    assert 0.6 * planned <= measured <= 1.05 * planned, (planned, measured)


def test_weights_are_counted_as_they_run(real: Engine) -> None:
    """Against the core's own count: what a frame reads, and the local stack and head K times."""
    config = real.config.lm
    assert config is not None
    shapes = lm_shapes(config)
    parts = {"global": 0, "local": 0, "head": 0, "none": 0}
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        parts[matrix_part(name) or "none"] += size
    weights, voices = base_bytes(real.model)
    read = real.lm.core.weight_bytes()
    k = config.num_codebooks
    once = parts["global"] + parts["local"] + parts["head"]
    assert once <= weights and voices > 0
    assert read <= k * sum(parts.values())
    assert weights >= sum(parts.values())


def test_a_session_grows_with_its_sentence(real: Engine) -> None:
    short, long, longest = (real.memory(1, s).session for s in (0.5, 4.0, None))
    assert short < long <= longest
    assert real.memory(1, 2.0, guided=True).session > real.memory(1, 2.0, guided=False).session
    core = real.lm.core
    assert core.held_bytes(real.capacity, real.capacity) == core.memory_bytes(real.capacity)
    held = [core.held_bytes(n, real.capacity) for n in range(0, real.capacity + 1, 16)]
    assert held == sorted(held)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sessions": -1}, "sessions: expected a whole number from 0"),
        ({"sessions": 1.5}, "sessions: expected"),
        ({"seconds": 0}, "seconds: expected a number above 0, got 0"),
        ({"seconds": float("inf")}, "seconds: expected"),
    ],
)
def test_bad_numbers(engine: Engine, given: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        engine.memory(**given)  # type: ignore[arg-type]
