"""``uniaudio run --jsonl --ray``: the same files as on one machine, and the same errors."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import Nodes
from server_tools import tone

from uniaudio_engine.cli.main import main

REQUESTS = 48
TEXTS = ["Yes.", "No. Perhaps.", "One, two, three.", "Four five six.", "Seven."]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # paths in a request are relative to it, on the workers too
    tone(1.0).save("voice.wav")
    for name in ("one", "many"):
        Path(name).mkdir()
    return tmp_path


def write(requests: list[dict[str, object]]) -> None:
    Path("lines.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in requests))


def run(model: Path, out: str, *more: str) -> int:
    given = ["run", "tts", "--jsonl", "lines.jsonl", "-m", str(model), "-o", out]
    return main([*given, "--threads", "1", "--batch", "2", "--seed", "5", "--json", *more])


def test_the_same_sounds_as_on_one_machine(
    nodes: Nodes, model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write([{"text": t, "prompt": "voice.wav", "seed": 3 + i} for i, t in enumerate(TEXTS[:3])])
    with Path("lines.jsonl").open("a") as f:
        f.writelines(f"{json.dumps({'text': t, 'output': f'{t[:3]}.flac'})}\n" for t in TEXTS[3:])
    assert run(model, "one") == 0
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (here / "many" / "00001.wav").write_bytes(b"made before")
    assert run(model, "many", "--ray", nodes.address, "--resume") == 0
    spread = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    made = {p.name: p.read_bytes() for p in (here / "many").iterdir()}
    assert made.pop("00001.wav") == b"made before"
    whole = {p.name: p.read_bytes() for p in (here / "one").iterdir()}
    assert made == {n: b for n, b in whole.items() if n != "00001.wav"} and len(made) == 4
    seeds = {Path(m["output"]).name: m["seed"] for m in alone}
    assert {Path(m["output"]).name: m["seed"] for m in spread} == {n: seeds[n] for n in made}
    assert sorted(seeds.values()) == [3, 4, 5, 5, 5]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_killed_worker_loses_nothing(
    nodes: Nodes, model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its requests are done again elsewhere: each sound is there, and reported, once."""
    write([{"text": " ".join(TEXTS), "seed": i} for i in range(REQUESTS)])
    assert run(model, "one") == 0
    capsys.readouterr()
    made_before = []

    def kill() -> None:
        limit = time.monotonic() + 120
        while time.monotonic() < limit and not made_before:
            done = len(list((here / "many").glob("*.wav")))
            for process in nodes.busy()[:1] if done else ():
                os.kill(process, signal.SIGKILL)
                made_before.append(done)
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert run(model, "many", "--ray", nodes.address) == 0
    finally:
        killer.join()
    assert made_before and made_before[0] < REQUESTS - 4, "killed at the end, or not at all"
    reported = [json.loads(line)["output"] for line in capsys.readouterr().out.splitlines()]
    names = sorted(f"{i:05d}.wav" for i in range(1, REQUESTS + 1))
    assert sorted(Path(path).name for path in reported) == names
    one, many = ({p.name: p.read_bytes() for p in (here / n).iterdir()} for n in ("one", "many"))
    assert sorted(many) == names and many == one


@pytest.mark.parametrize("bad", [{"text": "Yes.", "prompt": "none.wav"}, {"text": "Yes.", "x": 1}])
def test_a_wrong_request_is_found_before_any_is_done(
    nodes: Nodes,
    model: Path,
    here: Path,
    bad: dict[str, object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write([*({"text": t} for t in TEXTS), bad, {"text": "Yes.", "y": 1}])
    assert run(model, "one") == 2
    alone = capsys.readouterr()
    assert run(model, "many", "--ray", nodes.address) == 2
    assert capsys.readouterr() == alone and "lines.jsonl line 6: " in alone.err
    assert not list((here / "many").iterdir())


@pytest.mark.parametrize("flag", ["--ray", "--resume", "--workers=2"])
def test_flags_of_files_need_a_file(
    flag: str, model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run", "tts", "text=Yes.", "-m", str(model), "-o", "a.wav", flag]
    assert main(given) == 2
    assert "expected --jsonl with it" in capsys.readouterr().err
    assert not Path("a.wav").exists()
