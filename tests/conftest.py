"""Shared by all tests: one thread per process, checks for optional packages, and a list of slow
tests.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

# Two workers of pytest-xdist with two threads each would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU, Triton's kernels run in its interpreter. Triton reads this when it is imported, which
# torch may do long before the tests of the kernels.
if not glob.glob("/dev/nvidia[0-9]*"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

LONG = 10.0  # seconds of computing, on all cores together
_computing = pytest.StashKey[float]()
_long: list[tuple[float, str]] = []


def pytest_configure(config: pytest.Config) -> None:
    missing = [
        name
        for name in ("hypothesis", "onnx", "torch", "uniaudio_training")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise pytest.UsageError(
            f"the tests need {', '.join(missing)}, not installed here: "
            'pip install ".[test]" "./training[export]"'
        )


def computing() -> float:
    """Processor seconds of this process and of its children that have ended."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    item.stash[_computing] = computing()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        spent = computing() - item.stash[_computing]
        item.user_properties.append(("computing", spent))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    spent = dict(report.user_properties).get("computing", 0.0)
    if report.when == "teardown" and isinstance(spent, float) and spent > LONG:
        marked = "slow" in report.keywords
        _long.append((spent, report.nodeid + (" (slow)" if marked else "")))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _long:
        terminalreporter.section(f"more than {LONG:g} s of computing")
        for spent, name in sorted(_long, reverse=True):
            terminalreporter.write_line(f"{spent:7.1f} s  {name}")
