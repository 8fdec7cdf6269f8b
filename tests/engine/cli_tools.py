"""Files and helpers for the tests of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile

import uniaudio_engine
from uniaudio_engine.storage.tensors import save_tensors

# The folder of the package under test, installed or in the tree.
ROOT = Path(uniaudio_engine.__file__).parents[1]
SAY = ["tts", "Hello.", "-o", "a.wav"]


def bad_files() -> None:
    os.makedirs("bad")
    os.mkdir("bad.wav")
    os.mkdir("out")
    Path("bad/zero.wav").write_bytes(b"")
    Path("bad/truncated.wav").write_bytes(Path("voice.wav").read_bytes()[:9999])
    soundfile.write(
        "bad/nan.wav", np.array([0.1, np.nan] * 9999, np.float32), 16000, subtype="FLOAT"
    )
    Path("bad/text.wav").write_text("Once upon a time there was no sound.")
    Path("bad/ok.jsonl").write_text('{"text": "Hello."}\n')
    Path("bad/broken.jsonl").write_text('{"text": "Hello."}\n{"text": \n')
    Path("bad/list.jsonl").write_text("[1]\n")
    Path("bad/empty.jsonl").write_text("\n")
    Path("bad/value.jsonl").write_text('{"text": "Hello."}\n{"text": "Hello.", "speed": 99}\n')
    Path("bad/path.jsonl").write_text('{"text": "Hello.", "output": "../a.wav"}\n')
    Path("bad/twice.jsonl").write_text('{"text": "Hello.", "output": "a.wav"}\n' * 2)
    save_tensors("bad/other.safetensors", {"codes": np.zeros((2, 5), np.int32)}, {"codec": "0000"})
    save_tensors("bad/range.safetensors", {"codes": np.full((2, 5), 16, np.int32)})


def everything() -> set[str]:
    return {str(p) for p in Path(".").rglob("*")}
