"""A pytest plugin that leaves out what has passed already, in the file that CI_PASSED names.

.ci/run tests twice: as the README says, then with everything optional, which lets more tests run.
"""

import os
from pathlib import Path

import pytest

_FILE = Path(os.environ["CI_PASSED"])
_new: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    passed = set(_FILE.read_text().splitlines()) if _FILE.exists() else set()
    old = [item for item in items if item.nodeid in passed]
    if old:
        config.hook.pytest_deselected(items=old)
        items[:] = [item for item in items if item.nodeid not in passed]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _new.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A worker's reports reach the first process.
    if _new and not hasattr(session.config, "workerinput"):
        with _FILE.open("a") as file:
            file.writelines(f"{nodeid}\n" for nodeid in _new)
