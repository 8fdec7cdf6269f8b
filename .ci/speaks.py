"""Checks an installed wheel: the bundled model speaks, through the API and through the command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import soundfile

import uniaudio_engine
from uniaudio_engine import Engine

package = Path(uniaudio_engine.__file__).parent
if package.parent == Path(__file__).resolve().parents[1]:
    sys.exit(f"expected the installed package, got the sources: {package}")
for part in ("py.typed", "models/base/config.json", "examples/speech.flac"):
    if not (package / part).is_file():
        sys.exit(f"{package}: expected {part}, found none")
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "hello.wav"
    audio = Engine.from_pretrained().tts("This wheel speaks.", seed=1)
    command = [sys.executable, "-m", "uniaudio_engine", "tts", "This wheel speaks."]
    subprocess.run([*command, "--seed", "1", "-o", str(path)], check=True, cwd=folder)
    samples, rate = soundfile.read(path)
    if rate != audio.sample_rate or len(samples) != len(audio.samples) or len(samples) < rate / 2:
        sys.exit(f"expected one sentence, got {len(samples) / rate:.2f} s")
    print(f"{package}: {len(samples) / rate:.2f} s of speech")
