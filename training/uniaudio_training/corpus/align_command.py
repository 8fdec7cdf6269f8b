"""``uniaudio-train corpus align``: train an aligner, test it, run it over a corpus."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from .align import (
    LEAST_SCORE,
    LEAST_WORD_SCORE,
    Aligner,
    AlignerSettings,
    align_corpus,
    border_errors,
    train,
)
from .reading import CorpusError
from .schema import SPLITS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train corpus align",
        description="Forced alignment of recordings with their text.",
    )
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser("train", help="train the aligner on corpora with exact phone times")
    p.add_argument(
        "--exact", action="extend", nargs="+", required=True, help="corpora with phone times"
    )
    p.add_argument("--out", required=True, type=Path)
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--batch", type=int, default=16)
    p = sub.add_parser("test", help="measure boundary errors on a corpus with exact times")
    p.add_argument("corpus")
    p.add_argument("--aligner", required=True)
    p.add_argument("--split", default="test", choices=SPLITS)
    p.add_argument("--clips", type=int, default=100)
    p = sub.add_parser("run", help="align a corpus")
    p.add_argument("corpus", type=Path)
    p.add_argument("--aligner", required=True)
    p.add_argument("--out", required=True, type=Path)
    p.add_argument("--splits", default=",".join(SPLITS))
    p.add_argument(
        "--least",
        nargs=2,
        type=float,
        default=(LEAST_SCORE, LEAST_WORD_SCORE),
        metavar=("CLIP", "WORD"),
        help="minimum log-probability of a clip's phones, and of its worst word; clips below are "
        "dropped; lower it for an aligner not trained on real voices (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        if args.command == "train":
            settings = AlignerSettings(exact=tuple(args.exact), steps=args.steps, batch=args.batch)
            settings.check()
            train(settings, args.out)
            return 0
        model = Aligner.load(args.aligner)
        if args.command == "test":
            print(json.dumps(border_errors(model, args.corpus, args.split, args.clips), indent=1))
        else:
            least = (args.least[0], args.least[1])
            report = align_corpus(model, args.corpus, args.out, args.splits.split(","), least)
            print(json.dumps(report, indent=1))
    except (CorpusError, ValueError, OSError) as e:
        print(f"uniaudio-train corpus: error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
