"""The page of samples shows what its script runs, and its sounds are small and whole."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("samples", DOCS / "samples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes(script):
    assert (DOCS / "samples.md").read_text(encoding="utf-8") == script.page()


def test_every_verb_is_heard(script):
    from uniaudio_engine import Engine

    verbs = {t["example"].split()[1] for t in Engine.from_pretrained().tasks()}
    assert verbs <= {command.split()[0] for _, _, command in script.COMMANDS}


def test_the_sounds_are_small_and_whole(script):
    named = set(re.findall(r'src="\.\./samples/([^"]+)"', script.page()))
    files = {p.name: p for p in (DOCS / "samples").iterdir()}
    assert named == files.keys()
    assert sum(p.stat().st_size for p in files.values()) < 1_000_000
    for path in files.values():
        samples, rate = soundfile.read(path)
        assert 0.5 < len(samples) / rate < 8 and np.abs(samples).max() > 0.01, path.name
