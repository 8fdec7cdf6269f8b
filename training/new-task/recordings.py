"""Recordings for the walk-through of docs/new-task.md: clean speech of a corpus, what bad equipment made of it, and their manifest.

    python training/new-task/recordings.py --corpus data/old --out data/mine

In place of a user's own recordings: with those, only mine.jsonl has to be written.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile as sf
from uniaudio_training.corpus.reading import open_corpus
from uniaudio_training.corpus.schema import SAMPLE_RATE

TASK = "restore"


def buzz(x: np.ndarray) -> np.ndarray:
    """As loud as the speech: the buzz of a bad ground, a square wave of 100 Hz."""
    wave = np.sign(np.sin(2 * np.pi * 100 * np.arange(len(x)) / SAMPLE_RATE))
    return 0.7 * (x + np.sqrt(np.mean(x**2)) * wave)


def overdriven(x: np.ndarray) -> np.ndarray:
    """Far too loud for the microphone: what is above a fiftieth of the peak is cut off; then as loud as it was."""
    y = np.clip(x, -0.02 * np.abs(x).max(), 0.02 * np.abs(x).max())
    return y * np.sqrt(np.mean(x**2) / max(1e-12, np.mean(y**2)))


FAULTS = {"buzz": buzz, "overdriven": overdriven}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="a folder of uniaudio-corpus make with tts")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--clips", default="200,20,20", help="of train, valid and test (%(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(args.corpus)
    lines = []
    for split, count in zip(("train", "valid", "test"), map(int, args.clips.split(",")), strict=True):
        examples = corpus["tts", split]
        for n in range(min(count, len(examples))):
            fault = list(FAULTS)[n % 2]
            clean = examples[n].audio("target")
            names = [f"{split}-{n:04d}-{what}.wav" for what in ("clean", fault)]
            for name, samples in zip(names, (clean, FAULTS[fault](clean)), strict=True):
                sf.write(args.out / name, np.clip(samples, -1, 1), SAMPLE_RATE)
            lines.append({"audio": names[0], "task": TASK, "fault": fault, "source": names[1], "split": split})
    (args.out / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{args.out / 'mine.jsonl'}: {len(lines)} recordings")


if __name__ == "__main__":
    main()
