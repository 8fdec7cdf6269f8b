"""Exports the current state of runs as small files, to copy them from a rented GPU machine.

    python training/gpu/export.py --codec runs/codec --lm runs/lm --out $OUT

The weights of each run (averaged where it keeps an average) are stored by ``packed.py`` in files of
at most ``--most`` bytes, with the JSON that describes them in the metadata. ``curves.json`` has the
logged values. A run without a checkpoint is skipped. Files are replaced atomically.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from uniaudio_training import packed, run_checkpoint


def export(run: Path, out: Path, name: str, most: int) -> list[Path]:
    """Writes the run's weights as ``<name>.safetensors``, or ``<name>-0`` and so on.

    Returns the files; [] where there is no checkpoint yet.
    """
    if run_checkpoint.newest(run) is None:
        return []
    state = run_checkpoint.read_run(run, ("model", "average"))
    parts = state["parts"]
    about = {"steps": str(state["step"])}
    for described in ("codec", "lm"):
        if (run / f"{described}.json").is_file():
            about[described] = (run / f"{described}.json").read_text(encoding="utf-8")
    return packed.save(
        parts.get("average", parts["model"]), out / f"{name}.safetensors", most, about
    )


def curves(runs: list[Path]) -> dict[str, dict[str, list[list[float]]]]:
    """The logged values of the runs: [step, value] pairs by run and name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[str, list[list[float]]]] = {}
    for run in runs:
        events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 400})
        events.Reload()
        found[run.name] = {
            tag: [[e.step, round(e.value, 5)] for e in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Export the weights of runs as small files.")
    parser.add_argument("--codec", type=Path)
    parser.add_argument("--lm", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--most", type=int, default=15_900_000, help="maximum bytes per file")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    runs = [(n, r) for n, r in (("codec", args.codec), ("lm", args.lm)) if r is not None]
    for name, run in runs:
        for path in export(run, args.out, name, args.most):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    seen = [r for _, r in runs if (r / "tensorboard").is_dir()]
    if seen:
        part = args.out / ".curves.json"
        part.write_text(json.dumps(curves(seen)) + "\n", encoding="utf-8")
        part.replace(args.out / "curves.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
