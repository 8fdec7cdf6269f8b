"""The sources of the corpus (programs, data, packages), their licences, and whether they are
installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import music, sentences
from .flite import flite
from .schema import TASKS

SOURCES: dict[str, dict[str, Any]] = {
    "flite": {
        "what": "base voices slt, rms, awb, kal16 and CMU's lexicon, spoken by virtual speakers",
        "version": "2.2",
        "licence": "BSD-like (Carnegie Mellon University: free to use and distribute)",
        "tasks": [t for t in TASKS if t not in ("t2s", "t2m", "a_edit")],
    },
    "wordnet": {
        "what": "example sentences",
        "version": "3.0",
        "licence": "WordNet licence (Princeton University: free to use, copy, modify and distribute)",
        "tasks": [t for t in TASKS if t not in ("t2s", "t2m", "a_edit")],
    },
    "FluidR3_GM": {
        "what": "instrument samples of music",
        "version": "3.1",
        "licence": "MIT (Frank Wen)",
        "tasks": ["t2m", "se"],
    },
    "tinysoundfont": {
        "what": "plays the instrument samples",
        "licence": "MIT",
        "tasks": ["t2m", "se"],
    },
    "uniaudio_training": {
        "what": "grammar, sounds, noises, rooms, melodies, singing, captions",
        "licence": "that of this repository",
        "tasks": list(TASKS),
    },
}

# For sources that must be installed: a function that raises RuntimeError where one is missing.
_REQUIRE: dict[str, Callable[[], Any]] = {
    "flite": flite,
    "wordnet": sentences.require_wordnet,
    "FluidR3_GM": music.require_soundfont,
    "tinysoundfont": music.require_tinysoundfont,
}


def require(tasks: Iterable[str]) -> None:
    """Raises RuntimeError, in one line, naming everything that these tasks need and that is
    missing.
    """
    missing = []
    for name, check in _REQUIRE.items():
        if set(tasks) & set(SOURCES[name]["tasks"]):
            try:
                check()
            except RuntimeError as e:
                missing.append(str(e))
    if missing:
        raise RuntimeError("; ".join(missing))
