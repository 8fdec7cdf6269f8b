r"""Log-mel distance in dB between a model's answers and the test recordings of a manifest, for any
task.

    python training/new-task/judge.py --model runs/effect-folder --task effect \
        --manifest data/mine/mine.jsonl

Lower is better. The source (where the task has one) and the target through the codec are measured
too: an answer in the codec's codes can hardly beat the latter.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from uniaudio_training.evaluate.metrics import log_mel_distance

from uniaudio_engine import Engine
from uniaudio_engine.audio.reading import read_audio

COLUMNS = ("model", "source", "codec")


def distances(engine: Engine, name: str, row: dict[str, str], folder: Path) -> dict[str, float]:
    """Distances to the target of one line: the model's answer, the source, the target through the
    codec.
    """
    task, rate = engine.task(name), engine.sample_rate
    sounds = {i.name for i in task.inputs if i.modality in ("voice", "audio", "units", "context")}
    request = {
        i.name: folder / row[i.name] if i.name in sounds else row[i.name]
        for i in task.inputs
        if i.name in row
    }
    truth = read_audio(folder / row["audio"], rate)
    if task.length == "seconds":
        request["seconds"] = truth.seconds
    heard = {
        "model": engine.generate(name, seed=0, **request),
        "codec": engine.decode(engine.encode(truth, engine.layout.num_codebooks)),
    }
    if "source" in sounds:
        heard["source"] = read_audio(request["source"], rate)
    return {name: log_mel_distance(x.samples, truth.samples, rate) for name, x in heard.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--manifest", required=True, type=Path)
    parser.add_argument("--by", help="an input; prints one line for each of its values")
    args = parser.parse_args()
    engine = Engine.from_pretrained(args.model)
    rows = [json.loads(line) for line in args.manifest.read_text().splitlines()]
    rows = [r for r in rows if r.get("task") == args.task and r.get("split") == "test"]
    found = [
        (
            str(r.get(args.by, "")) if args.by else "",
            distances(engine, args.task, r, args.manifest.parent),
        )
        for r in rows
    ]
    for group in sorted({g for g, _ in found}):
        of_group = [d for g, d in found if g == group]
        means = (
            f"{c} {np.mean([d[c] for d in of_group]):.2f}" for c in COLUMNS if c in of_group[0]
        )
        print(f"{group or args.task}: {', '.join(means)} dB over {len(of_group)} recordings")


if __name__ == "__main__":
    main()
