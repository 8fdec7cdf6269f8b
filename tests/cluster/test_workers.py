"""Items on workers that die: each result exactly once, and errors in one line."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import Nodes
from jobs import make_deadly, make_failing, make_slow, make_waiting
from uniaudio_training.workers import Workers

ITEMS = list(range(16))


def begun(folder: Path) -> list[tuple[int, int]]:
    """(item, process) of all attempts."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(item), int(process)) for item, process in map(str.split, lines)]


def wait(condition, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_node_lose_nothing(nodes: Nodes, tmp_path: Path) -> None:
    killed = []

    def kill() -> None:
        wait(lambda: len(begun(tmp_path)) >= 4)
        process = begun(tmp_path)[-1][1]
        os.kill(process, signal.SIGKILL)
        wait(lambda: len(begun(tmp_path)) >= 8)
        nodes.kill()
        killed.extend((process, len(list(tmp_path.glob("*.out")))))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        make = partial(make_slow, str(tmp_path), 0.5)
        results = list(Workers(0, nodes.address).each(make, ITEMS))
    finally:
        killer.join()
        nodes.refill()
    assert sorted(results) == [n**2 for n in ITEMS]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["log", *(f"{n}.out" for n in ITEMS)]
    )
    assert all(int((tmp_path / f"{n}.out").read_bytes()) == n**2 for n in ITEMS)
    process, done = killed
    attempts = begun(tmp_path)
    assert done < len(ITEMS), "the node was killed after the end"
    assert len(attempts) > len(ITEMS), "no item was lost"
    assert {p for _, p in attempts} > {process}, "nothing was done after the kill"


@pytest.mark.slow
def test_an_item_that_always_kills_its_worker_ends_the_run(nodes: Nodes) -> None:
    with pytest.raises(RuntimeError, match="the workers of an item died again and again") as e:
        list(Workers(1, nodes.address).each(partial(make_deadly, 1), [0, 1]))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("where", ["here", "processes", "ray"])
def test_the_error_of_an_item_is_raised_as_it_is(nodes: Nodes, where: str) -> None:
    workers = {"here": Workers(), "processes": Workers(2), "ray": Workers(1, nodes.address)}
    with pytest.raises(ValueError, match=r"^expected no work, got \d$"):
        list(workers[where].each(make_failing, [1, 2]))


def test_results_come_while_other_items_are_done(nodes: Nodes, tmp_path: Path) -> None:
    had = []
    for n in Workers(1, nodes.address).each(partial(make_waiting, str(tmp_path)), ITEMS):
        (tmp_path / f"{n}.had").touch()
        had.append(n)
    assert had == ITEMS


def test_a_killed_process_ends_a_run_without_ray() -> None:
    with pytest.raises(RuntimeError, match="a worker process died; run the command again"):
        list(Workers(2).each(partial(make_deadly, 1), [0, 1]))


def test_no_items_need_no_worker() -> None:
    assert list(Workers().each(make_failing, [])) == []
