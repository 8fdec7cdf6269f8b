"""Listeners and the soak: what they count, and that the commands run. Never times."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import listeners

serve = pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in ("fastapi", "uvicorn", "wyoming")),
    reason="needs the extra serve",
)


def ok(command: str, *options: object, where: Path) -> str:
    argv = [sys.executable, str(BENCHMARKS / command), *map(str, options)]
    done = subprocess.run(argv, cwd=where, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def heard(
    monkeypatch: pytest.MonkeyPatch, pieces: list[tuple[float, float]], until: float
) -> listeners.Heard:
    """What one listener hears of pieces (seconds before it, seconds of sound), on a clock of ours."""
    clock = [100.0]

    async def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def speak(text: str, seed: int) -> AsyncGenerator[float, None]:
        for before, seconds in pieces:
            clock[0] += before
            yield seconds

    found = listeners.Heard()
    asyncio.run(listeners.listen(speak, 0, 100.0 + until, 0, found))
    return found


def test_a_stutter_is_a_piece_after_all_sound_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [(0.2, 0.08), (0.05, 0.1), (0.5, 1.0), (0.9, 0.0), (0.05, 0.5)]
    found = heard(monkeypatch, pieces, 0.1)
    assert found.first == pytest.approx([200])
    assert found.late == pytest.approx([370])  # 0.55 after 0.18 s of sound
    assert (found.chunks, found.sentences, found.stuttered) == (4, 1, 1)
    assert found.sound == pytest.approx(1.68)


def test_the_next_sentence_waits_for_the_end_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    found = heard(monkeypatch, [(0.1, 0.9)], 2.5)
    assert found.sentences == 3 and not found.late
    assert found.first == pytest.approx([100, 100, 100])


def test_sentences_differ() -> None:
    made = [listeners.sentence(client, turn) for client in range(8) for turn in range(20)]
    assert len(set(made)) > 0.95 * len(made)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nc;x=1\r\n" + b"a" * 12, [5, 12]),
        (b"Content-Length: 7\r\n\r\nabcdefg", [7]),
    ],
)
def test_bodies_are_read_as_they_come(answer: bytes, parts: list[int]) -> None:
    async def main() -> list[int]:
        reader = asyncio.StreamReader()
        reader.feed_data(b"HTTP/1.1 200 OK\r\n" + answer + b"\r\n0\r\n\r\n")
        status, headers = await listeners.read_head(reader)
        assert status == 200
        return [size async for size in listeners.read_body(reader, headers)]

    assert asyncio.run(main()) == parts


@serve
def test_serving(tmp_path: Path) -> None:
    results, docs = tmp_path / "serving.json", tmp_path / "page.md"
    where = ["--results", results, "--docs", docs]
    load = ["--clients", "1,3", "--seconds", "1", "--most-stutters", "1", "--threads", "1"]
    patience = ["--patience", "60000"]
    ok("serving.py", "--ways", "engine", *load, *patience, *where, where=tmp_path)
    assert "Many listeners" in ok(
        "serving.py", "--ways", "http,websocket", *load, *patience, *where, where=tmp_path
    )
    ways = json.loads(results.read_text())["ways"]
    assert list(ways) == ["engine", "http", "websocket"]
    for way in ways.values():
        assert [r["clients"] for r in way["rows"]] == [1, 3]
        assert all(r["sentences"] >= r["clients"] and r["chunks"] > 0 for r in way["rows"])
    ok("serving.py", *where, "--write", where=tmp_path)
    page = docs.read_text()
    assert "<!-- begin serving" in page and "| WebSocket | 3 |" in page


@serve
@pytest.mark.slow
def test_soak(tmp_path: Path) -> None:
    results = tmp_path / "soak.json"
    ok("soak.py", "--disconnects", 60, "--minutes", 0.1, "--results", results, where=tmp_path)
    found = json.loads(results.read_text())
    assert found["disconnects"]["clients"] == 60 and found["load"]["sentences"] > 0
    assert found["kill"]["seconds_to_speech"] > 0


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    argv = [sys.executable, str(BENCHMARKS / "serving.py"), "--ways", "piper"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--peer-python" in done.stderr
