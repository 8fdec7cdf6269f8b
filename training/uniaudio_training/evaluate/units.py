"""``uniaudio-train evaluate units``: how much semantic units reveal about the phone and the
speaker.

Each number is compared with that of the first codebook of the model's codec, which the units must
beat. The reference phones are those of the corpus generator, frame by frame. Maps and classifiers
are fitted on training clips and evaluated on clips of the test split, whose sentences are unseen in
training.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .metrics import Errors, edit_errors, error_rate, interval
from .unit_measures import (
    Clip,
    Map,
    Tokenize,
    attack,
    disturbed,
    read_clips,
    tokenized,
    two_speakers,
)

BEGIN, END = "<!-- semantic -->", "<!-- /semantic -->"


@dataclass
class Line:
    """A row of the table.

    ``codec`` is the value of the codec's first codebook, ``about`` a value for comparison.
    """

    measure: str
    value: float
    count: str
    low: float = float("nan")
    high: float = float("nan")
    codec: float = float("nan")
    about: str = ""


@dataclass(frozen=True)
class Sizes:
    """Numbers of clips and sentences."""

    fit: int = 3000
    test: int = 340
    noisy: int = 120
    speaker: int = 3000
    sentences: int = 40


def judge(
    units: Tokenize,
    codec: Tokenize,
    size: int,
    codec_size: int,
    corpus: str | Path,
    sizes: Sizes,
    say: Callable[[str], None],
) -> list[Line]:
    """All rows of the table; ``codec`` is the first codebook."""
    from ..corpus.speech import SPEAKERS

    unseen = [s.name for s in SPEAKERS if s.split == "test"]
    lines: list[Line] = []
    say("clips")
    fit = read_clips(corpus, "train", max(sizes.fit, sizes.speaker))
    known = sorted({c.speaker for c in fit})
    new, old = (read_clips(corpus, "test", sizes.test, who) for who in (unseen, known))
    sides = [(units, size), (codec, codec_size)]
    fits = [tokenized(fit, f) for f, _ in sides]
    news = [tokenized(new, f) for f, _ in sides]
    olds = [tokenized(old, f) for f, _ in sides]
    maps = [Map(c[: sizes.fit], n) for c, (_, n) in zip(fits, sides, strict=True)]

    def accuracy(m: Map, clips: Sequence[Clip], stress: bool) -> tuple[float, float, float]:
        rows = [m.right(c, stress) for c in clips]
        share = lambda r: sum(h for h, _ in r) / sum(n for _, n in r)  # noqa: E731
        return (share(rows), *interval([[r] for r in rows], share))  # type: ignore[arg-type]

    for name, stress, clips in (
        ("frame phone accuracy", False, news),
        ("the same with stress", True, news),
        ("frame phone accuracy, speakers of the training", False, olds),
    ):
        if not clips[0]:
            continue  # no speaker of this corpus is in two splits
        value, low, high = accuracy(maps[0], clips[0], stress)
        lines.append(
            Line(
                name,
                value,
                f"{sum(len(c.now) for c in clips[0])} frames",
                low,
                high,
                accuracy(maps[1], clips[1], stress)[0],
            )
        )
    errors = [
        [[edit_errors(c.said, m.heard(c.ids))] for c in clips]
        for m, clips in zip(maps, news, strict=True)
    ]
    rates: list[float] = [error_rate([e for g in side for e in g]) for side in errors]
    low, high = interval(errors[0], error_rate)  # type: ignore[arg-type]
    total = sum((g[0] for g in errors[0]), Errors())
    lines.append(
        Line(
            "phone error of the units spelt out",
            rates[0],
            f"{total.reference} phones",
            low,
            high,
            rates[1],
        )
    )
    (bits, entropy), (codec_bits, _) = (m.bits(c) for m, c in zip(maps, news, strict=True))
    lines.append(Line("bits told of the phone", bits, f"of {entropy:.2f} bits", codec=codec_bits))
    used = np.bincount(np.concatenate([c.ids for c in news[0]]), minlength=size)
    share = used[used > 0] / used.sum()
    lines.append(
        Line(
            "units in use (perplexity)", float(np.exp(-(share * np.log(share)).sum())), f"of {size}"
        )
    )

    say("speakers")
    for name, group in (
        (f"{len(known)} of the training", [f[: sizes.speaker] for f in fits]),
        (f"{len(unseen)} unseen", news),
    ):
        # The information in the generator's own phones: pace, pauses, reduced vowels. A tokenizer
        # that keeps exactly the phones reveals as much.
        truth = [Clip(c.samples, c.speaker, c.said, c.now, c.now) for c in group[0]]
        scores = [
            attack(c[::2], c[1::2], n)
            for c, n in ((group[0], size), (group[1], codec_size), (truth, len(maps[0].phones)))
        ]
        chance = 1 / len({c.speaker for c in truth})
        about = f"from the true phones {scores[2][0]:.3f}, chance {chance:.3f}"
        lines.append(
            Line(
                f"speaker named from 3 s, {name}",
                scores[0][0],
                f"{scores[0][1]} windows",
                codec=scores[1][0],
                about=about,
            )
        )

    say("pairs")
    try:
        pairs = two_speakers(
            [units, codec, lambda x: maps[0].best_plain[units(x)]], sizes.sentences
        )
    except (OSError, RuntimeError) as e:
        say(f"no pairs of speakers: {e}")
        pairs = {}
    for kind, (mine, theirs, phone) in pairs.items():
        lines.append(
            Line(
                f"same unit, two speakers {kind}"
                if "two" in kind or "base" in kind
                else f"same unit, a speaker and {kind}",
                mine[0],
                f"{mine[1]} frames",
                codec=theirs[0],
                about=f"same phone {phone[0]:.3f}",
            )
        )

    say("noise and rooms")
    for kind in ("20 dB", "10 dB", "room"):
        changed = [
            tokenized(
                [
                    Clip(disturbed(c.samples, kind, i), c.speaker, c.said, c.now)
                    for i, c in enumerate(side[: sizes.noisy])
                ],
                f,
            )
            for side, (f, _) in zip(news, sides, strict=True)
        ]
        value, low, high = accuracy(maps[0], changed[0], False)
        same = np.mean(
            np.concatenate([a.ids == b.ids for a, b in zip(changed[0], news[0], strict=False)])
        )
        name = (
            "frame phone accuracy in a room"
            if kind == "room"
            else f"frame phone accuracy at {kind} of white noise"
        )
        lines.append(
            Line(
                name,
                value,
                f"{sum(len(c.now) for c in changed[0])} frames",
                low,
                high,
                accuracy(maps[1], changed[1], False)[0],
                f"same unit as clean {same:.3f}",
            )
        )
    return lines


def table(lines: Sequence[Line]) -> str:
    """The rows as Markdown."""

    def number(x: float) -> str:
        return "–" if np.isnan(x) else f"{x:.3f}" if abs(x) < 10 else f"{x:.0f}"

    out = [
        "| measure | units | 95 % interval | codec's first codebook | count | for comparison |",
        "|---|---|---|---|---|---|",
    ]
    for x in lines:
        span = "–" if np.isnan(x.low) else f"{number(x.low)} to {number(x.high)}"
        out.append(
            f"| {x.measure} | **{number(x.value)}** | {span} | {number(x.codec)} | {x.count} | "
            f"{x.about or '–'} |"
        )
    return "\n".join(out)


def write_section(path: Path, text: str) -> None:
    """Writes ``text`` between the markers of a document; appends it where there are none."""
    old = path.read_text() if path.exists() else ""
    section = f"{BEGIN}\n{text}\n{END}"
    if BEGIN in old and END in old:
        new = old[: old.index(BEGIN)] + section + old[old.index(END) + len(END) :]
    else:
        new = old.rstrip("\n") + ("\n\n" if old else "") + section + "\n"
    path.write_text(new)


def tokenizers(
    model: str | None, run: str | None, threads: int
) -> tuple[Tokenize, Tokenize, int, int]:
    """(units, first codebook, their sizes) of a model folder.

    ``run`` names a training run whose units replace the model's.
    """
    from uniaudio_engine import Engine
    from uniaudio_engine.tokenizers.semantic import SemanticEncoder

    engine = Engine.from_pretrained(None if model in (None, "bundled") else model, threads=threads)
    if run is not None:
        from ..checkpoints import load_semantic

        config, module = load_semantic(run)
        encoder = SemanticEncoder.native(
            config,
            {k: np.ascontiguousarray(v.numpy()) for k, v in module.state_dict().items()},
            threads,
        )
    else:
        encoder = engine.semantic_encoder
    units: Tokenize = lambda x: encoder.encode(x).astype(np.int64)  # noqa: E731
    codec: Tokenize = lambda x: engine.codec.encode(x, 1)[0].astype(np.int64)  # noqa: E731
    return units, codec, encoder.num_units, engine.config.codec.codebook_size


def main(argv: list[str] | None = None) -> int:
    """Returns exit code 0 with a table, 2 with one line that states the error."""
    parser = argparse.ArgumentParser(
        prog="uniaudio-train evaluate units",
        description="Evaluate semantic units: what they reveal about the phone and the speaker.",
        epilog=(
            "example: uniaudio-train evaluate units --model bundled --corpus "
            "data/corpus --docs docs/quality.md"
        ),
    )
    parser.add_argument(
        "--model", default="bundled", help="a model folder or 'bundled' (default: %(default)s)"
    )
    parser.add_argument(
        "--run", help="a training run whose tokenizer is evaluated instead of the model's"
    )
    parser.add_argument(
        "--corpus", required=True, help="folder of corpus shards (speech: train, test)"
    )
    parser.add_argument(
        "--docs", type=Path, help="write the table into its section of this document"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--quick", action="store_true", help="use a tenth of the clips")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(args.threads))  # before numpy's threads
    import torch

    torch.set_num_threads(args.threads)
    sizes = Sizes(300, 40, 20, 600, 5) if args.quick else Sizes()
    try:
        units, codec, size, codec_size = tokenizers(args.model, args.run, args.threads)
        lines = judge(
            units,
            codec,
            size,
            codec_size,
            args.corpus,
            sizes,
            lambda s: print(f"... {s}", file=sys.stderr, flush=True),
        )
    except (OSError, RuntimeError, ValueError) as e:
        print(f"uniaudio-train evaluate units: error: {e}", file=sys.stderr)
        return 2
    print(table(lines))
    if args.json is not None:
        args.json.write_text(
            json.dumps(
                [{k: None if v != v else v for k, v in vars(x).items()} for x in lines], indent=1
            )
            + "\n"
        )
    if args.docs is not None:
        write_section(args.docs, SECTION.format(table=table(lines)))
    return 0


SECTION = """## Semantic units

Measured with `uniaudio-train evaluate units --model bundled --corpus data/corpus --docs
docs/quality.md`, on test sentences and, unless stated otherwise, six voices that are unseen in
training.

{table}

- The map from unit to phone is counted on training clips. Phone error: each frame gets the most
  likely phone of its unit, single outliers are removed, and repeats are merged, so that a phone said
  twice in a row counts as an error. Bits: a lower bound of the mutual information (see `Map.bits`).
- Speaker named from 3 s: the best of naive Bayes and three logistic regressions on histograms of
  units, fitted on half of the clips. Some of the information is in the habits of the voices (pace,
  pauses, reduced vowels): the last column has the accuracy from the true phones alone.
- Same unit: frames aligned by the generator's phone times, without pauses. The row of one speaker
  half a frame later shows the effect of the frame grid alone."""


if __name__ == "__main__":
    sys.exit(main())
