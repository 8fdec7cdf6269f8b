"""The fuzzer finds what it looks for: exceptions, long messages, hangs, crashes and memory."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import changes
import run as runner
from target import Target

from uniaudio_engine.errors import InputError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def deep(value: int) -> None:
    if value:
        deep(value - 1)
    raise KeyError("x")


def lines(value: int) -> None:
    error = InputError("a")
    error.args = ("a\nb",)
    raise error


def allocate(value: int) -> object:
    return bytes(8 << 30)  # more than the limit and all that a worker of pytest may free


def compute(value: int) -> None:
    all(itertools.repeat(True))  # one line, so that every hang is at the same place


def crash(value: int) -> None:
    ctypes.string_at(0)


def refuse(value: int) -> None:
    raise InputError("no")


FAULTS: dict[str, tuple[Callable[[int], Any], str]] = {
    "exception": (deep, "KeyError: 'x' at test_runner.py"),
    "several lines": (lines, "a refusal of several lines"),
    "memory": (allocate, "asks for more than 512 MB"),
    "hang": (compute, "computes for more than"),
    "crash": (crash, "ends by SIGSEGV"),
}


def ran(
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[int], Any],
    inputs: int,
) -> Any:
    """Tries so many inputs; the time is long enough for a busy machine."""
    target = Target(lambda draw: draw.randrange(3), use)
    monkeypatch.setattr(runner, "TARGETS", {"x": lambda folder: target})
    monkeypatch.setattr(runner, "COMPUTING", 0.2)
    return runner.run("x", None, 0, 120.0, inputs)


@pytest.mark.parametrize("kind", list(FAULTS))
def test_faults_are_found(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    use, expected = FAULTS[kind]
    first = next(i for i in range(100) if Random(f"0/x/{i}").randrange(3) == 2)
    result = ran(monkeypatch, lambda value: use(value) if value == 2 else None, first + 3)
    (fault,) = result["faults"]
    assert fault.startswith(expected)
    found = result["faults"][fault]
    assert found["inputs"][0] == first
    assert result["accepted"] <= result["inputs"] - found["count"]


def test_refusals_are_no_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ran(monkeypatch, refuse, 20)
    assert result["inputs"] == 20 and result["accepted"] == 0 and not result["faults"]


def test_a_wait_without_computing_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WAITING", 0.2)
    result = ran(monkeypatch, lambda value: time.sleep(5), 2)
    (fault,) = result["faults"]
    assert fault.startswith("waits for more than")


def test_changes_follow_from_the_seed() -> None:
    data, value = bytes(range(200)), {"a": [1, 2, {"b": "c"}], "d": None}
    for change in (
        lambda draw: changes.changed(draw, data),
        lambda draw: repr(changes.changed_json(draw, value)),
        changes.text,
    ):
        once, again = ([change(Random(i)) for i in range(50)] for _ in range(2))
        assert once == again and len(set(once)) > 25
    assert value == {"a": [1, 2, {"b": "c"}], "d": None}


def test_no_more_inputs_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(monkeypatch, lambda value: None, 30)["inputs"] == 30
