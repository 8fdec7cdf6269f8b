"""Makes the recordings of docs/new-task.md: speech of a corpus, and the same speech with two
effects.

    python training/new-task/make_recordings.py --corpus data/old --out data/mine

With recordings of your own, you only write mine.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import butter, sosfiltfilt
from uniaudio_training.corpus.reading import open_corpus
from uniaudio_training.corpus.schema import SAMPLE_RATE

TASK = "effect"


def megaphone(x: np.ndarray) -> np.ndarray:
    """x [N] band-limited to 500 to 3500 Hz, clipped at 3 % of its peak, at its old loudness."""
    y = sosfiltfilt(butter(2, (500, 3500), "bandpass", fs=SAMPLE_RATE, output="sos"), x)
    peak = 0.03 * np.abs(y).max()
    y = np.clip(y, -peak, peak)
    return y * np.sqrt(np.mean(x**2) / max(1e-12, np.mean(y**2)))


def robot(x: np.ndarray) -> np.ndarray:
    """x [N] times a square wave of 50 Hz: every other 10 ms is inverted."""
    return 0.9 * x * np.sign(np.sin(2 * np.pi * 50 * np.arange(len(x)) / SAMPLE_RATE))


EFFECTS = {"megaphone": megaphone, "robot": robot}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="a corpus folder with tts examples")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument(
        "--clips",
        default="300,20,20",
        help="number of train, valid and test recordings (default: %(default)s)",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(args.corpus)
    lines = []
    for split, count in zip(
        ("train", "valid", "test"), map(int, args.clips.split(",")), strict=True
    ):
        examples = corpus["tts", split]
        for n in range(min(count, len(examples))):
            kind = list(EFFECTS)[n % 2]
            speech = examples[n].audio("target")
            names = [f"{split}-{n:04d}-{what}.wav" for what in (kind, "speech")]
            for name, samples in zip(names, (EFFECTS[kind](speech), speech), strict=True):
                sf.write(args.out / name, np.clip(samples, -1, 1), SAMPLE_RATE)
            lines.append(
                {"audio": names[0], "task": TASK, "kind": kind, "source": names[1], "split": split}
            )
    (args.out / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{args.out / 'mine.jsonl'}: {len(lines)} recordings")


if __name__ == "__main__":
    main()
