"""Joins several corpora into one folder of shards.

    uniaudio-train corpus join data/aligned data/derived data/kokoro data/procedural --out data/all

Audio is hard-linked, not copied. Shards and examples are renumbered.
The manifest lists all sources with their licences.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .reading import CorpusError
from .schema import FORMAT, SAMPLE_RATE, SPLITS, TASKS, Label
from .shards import MANIFEST, parse_name


def join(folders: Sequence[Path], out: Path) -> dict[str, int]:
    """Joins ``folders`` into ``out``; returns the number of shards per task.

    Raises CorpusError where ``out`` already has shards or a folder has none.
    """
    if out.is_dir() and list(out.glob("*-*.jsonl")):
        raise CorpusError(f"{out}: already has shards; use another folder")
    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[tuple[str, str]] = Counter()
    sources: dict[str, Any] = {}
    for folder in folders:
        shards = sorted(p for p in folder.glob("*.jsonl") if not p.name.startswith("."))
        if not shards:
            raise CorpusError(f"{folder}: no shards")
        for path in shards:
            task, split, _ = parse_name(path.stem)
            name = f"{task}-{split}-{counts[task, split]:04d}"
            counts[task, split] += 1
            audio = path.with_suffix(".npy")
            try:
                os.link(audio, out / f"{name}.npy")
            except OSError:  # another file system
                (out / f"{name}.npy").write_bytes(audio.read_bytes())
            labels = [Label.parse(line) for line in path.read_bytes().splitlines()]
            lines = [replace(x, id=f"{name}-{i:04d}").line() for i, x in enumerate(labels)]
            (out / f"{name}.jsonl").write_text("\n".join(lines) + "\n" * bool(lines), "utf-8")
        described = folder / MANIFEST
        if described.exists():
            sources |= json.loads(described.read_text(encoding="utf-8")).get("sources", {})
    text = json.dumps({"format": FORMAT, "sample_rate": SAMPLE_RATE, "sources": sources}, indent=1)
    (out / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return {
        t: sum(counts[t, s] for s in SPLITS) for t in TASKS if any(counts[t, s] for s in SPLITS)
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train corpus join",
        description="Join several corpora into one folder of shards.",
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(argv)
    try:
        for task, count in join(args.folders, args.out).items():
            print(f"{task}: {count} shards")
    except (CorpusError, ValueError, OSError) as e:
        print(f"uniaudio-train corpus: error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
