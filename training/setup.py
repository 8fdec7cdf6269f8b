"""One version for both distributions: the trainer is released with the engine that it trains for."""

from __future__ import annotations

import re
from email import message_from_string
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """The engine's in a checkout, the recorded one in a source distribution."""
    recorded, engine = HERE / "PKG-INFO", HERE.parent / "uniaudio_engine" / "__init__.py"
    if recorded.is_file():
        return str(message_from_string(recorded.read_text(encoding="utf-8"))["Version"])
    found = re.search(r'^__version__ = "(.+)"$', engine.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f'{engine}: expected a line __version__ = "...", found none')
    return found[1]


setup(
    version=version(),
    install_requires=[
        f"uniaudio-engine=={version()}",
        "numpy>=1.23",
        "pyyaml>=6",
        "safetensors",
        "scipy",
        "soundfile>=0.12",
        "soxr>=0.3",
        "tensorboard",
        "torch>=2.9",  # torch.optim.Muon
        "tqdm",
    ],
)
