"""The commands of docs/new-task.md, exactly as on the page, run in a checkout."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sf = pytest.importorskip("soundfile")
pytest.importorskip("torch", reason="the trainers need torch")

from uniaudio_training.corpus import sources
from uniaudio_training.corpus.schema import TASKS

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "uniaudio": [sys.executable, "-m", "uniaudio_engine"],
    "uniaudio-train": [sys.executable, "-m", "uniaudio_training.train"],
    "python": [sys.executable],
}
# what makes a command of the page small enough for a test: all else is as on the page
SMALL = {
    "uniaudio-train lm": [
        *(
            "--device",
            "cpu",
            "--threads",
            "1",
            "--set",
            "steps=2",
            "items=300",
            "validation_batches=1",
        ),
        *("validate_every=2", "bound=0"),
    ],
    "make_recordings.py": ["--clips", "12,4,2"],
}


def commands():
    """The page's shell commands in order, but for the installation."""
    text = (ROOT / "docs" / "new-task.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith("pip install")]


def small(line):
    """Arguments of a command, with a hundredth of the corpus and a run of two steps."""
    line = re.sub(r"=0\.(\d+)(?=[, ])", r"=0.00\1", line) if "corpus make" in line else line
    program, *rest = shlex.split(line)
    extra = next((more for part, more in SMALL.items() if part in line), [])
    return [*PROGRAMS[program], *rest, *extra]


def test_the_page_has_the_whole_way():
    found = " ".join(commands())
    ordered = ["corpus make", "make_recordings", "tokenize", "train lm", "bundle", "run effect"]
    assert [found.index(part) for part in ordered] == sorted(map(found.index, ordered))


@pytest.mark.slow
def test_the_pages_commands_run(tmp_path):
    try:
        sources.require(TASKS)
    except RuntimeError as e:
        pytest.skip(str(e))
    for name in ("training", "uniaudio_engine"):  # what the commands name of a checkout
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join((str(ROOT), str(ROOT / "training")))
    for line in commands():
        done = subprocess.run(
            small(line),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    made, _ = sf.read(tmp_path / "robot.wav")
    source, _ = sf.read(tmp_path / "data" / "mine" / "test-0000-speech.wav")
    # how loud it is, two steps do not decide
    assert len(made) == len(source) and np.isfinite(made).all() and made.any()
