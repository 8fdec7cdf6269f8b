"""What the engine does when its process exits or forks while other threads compute."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

THOROUGH = os.environ.get("THOROUGH") == "1"  # the counts of docs/reliability.md

# Each keeps a daemon thread inside compiled code while the main thread returns.
WORK = {
    "stream": "while True: list(engine.stream('tts', text='One. Two. Three. Four.', seed=1))",
    "encode": "while True: engine.encode((noise, 16000))",
    "decode": "while True: engine.decode(codes)",
    "load": "while True: Engine.from_pretrained(threads=2)",
}
EXIT = """
import sys, threading, time
import numpy as np
from uniaudio_engine import Engine
engine = Engine.from_pretrained(threads=2)
noise = np.random.default_rng(0).normal(0, 0.1, 160000).astype(np.float32)
codes = engine.encode((noise, 16000))
def work():
    {work}
threading.Thread(target=work, daemon=True).start()
time.sleep({seconds})
"""


def run(program: str, **values: object) -> subprocess.CompletedProcess[str]:
    program = program.format(**values)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def exits_cleanly(work: str, runs: int) -> None:
    for i in range(runs):
        done = run(EXIT, work=WORK[work], seconds=0.05 + 0.02 * i)
        assert (done.returncode, done.stderr) == (0, ""), (i, done.stderr)


@pytest.mark.parametrize("work", list(WORK))
def test_exit_while_a_daemon_thread_computes(work: str) -> None:
    exits_cleanly(work, 2)


@pytest.mark.slow
@pytest.mark.parametrize("work", list(WORK))
def test_exit_at_many_moments(work: str) -> None:
    exits_cleanly(work, 25 if THOROUGH else 8)


FORK = """
import os, sys, threading, time
import numpy as np
from uniaudio_engine import Engine
engine = Engine.from_pretrained(threads=2)
want = engine.tts("Hello.", seed=3).samples
going = True
def work():
    i = 0
    while going:
        i += 1
        voice = engine.voices()[i % len(engine.voices())]
        engine.tts(f"Number {{i}}.", voice=voice, seed=i)
thread = threading.Thread(target=work)
thread.start()
for i in range({children}):
    time.sleep(0.01 * (i % 7))
    child = os.fork()
    if not child:
        same = np.array_equal(engine.tts("Hello.", seed=3).samples, want)
        fresh = Engine.from_pretrained(threads=2).tts("Hello.", seed=3).samples
        del engine
        os._exit(0 if same and np.array_equal(fresh, want) else 1)
    limit = time.monotonic() + 60
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > limit:
            os.kill(child, 9)
            print("child", i, "hangs")
            break
        time.sleep(0.01)
    if done and status:
        print("child", i, "ended with", status)
going = False
thread.join()
"""


def children_work(children: int) -> None:
    done = run(textwrap.dedent(FORK), children=children)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_child_of_fork_works_while_another_thread_computes() -> None:
    children_work(5)


@pytest.mark.slow
def test_many_children_of_fork() -> None:
    children_work(200 if THOROUGH else 15)
