"""``python -m uniaudio_training.evaluate.semantic``: what the semantic units say of the phone, and
what of the speaker.

Beside each number stands the same number for the first codebook of the model's codec, which is what
the units have to be better than. Phones are those of the corpus' generator, frame by frame. Maps
and classifiers are fitted on training clips and judged on clips of the test split, whose sentences
no training has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import Errors, edit_errors, error_rate, interval, plain_phones

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Tokenize = Callable[[Floats], Ids]  # samples [N] at 16 kHz -> one id a frame [T]
WINDOW = 150  # frames: the 3 s of a voice prompt
BEGIN, END = "<!-- semantic -->", "<!-- /semantic -->"


@dataclass
class Clip:
    """A clip with its tokens and the phone id (of PHONES) of each frame."""

    samples: Floats
    speaker: str
    said: list[str]  # phones without stress and pauses
    now: Ids
    ids: Ids = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass
class Line:
    """A row of the table; ``codec`` is the value of the codec's first codebook, ``about`` what to
    compare with.
    """

    measure: str
    value: float
    count: str
    low: float = float("nan")
    high: float = float("nan")
    codec: float = float("nan")
    about: str = ""


def read_clips(
    folder: str | Path, split: str, limit: int, speakers: Sequence[str] | None = None
) -> list[Clip]:
    """Up to ``limit`` clips, evenly from all of them, of some speakers or all."""
    from ..semantic.data import frame_labels
    from ..semantic.reader import open_speech

    found = [c for c in open_speech(folder, split) if speakers is None or c.speaker in speakers]
    step = max(1, len(found) / max(1, limit))
    clips = []
    for at in np.arange(0, len(found), step)[:limit].astype(int):
        spoken = found[at]
        now = frame_labels(spoken.phones, -(-len(spoken.pcm) // 320)).now
        clips.append(
            Clip(spoken.samples(), spoken.speaker, plain_phones([p for p, _ in spoken.phones]), now)
        )
    return clips


def tokenized(clips: Sequence[Clip], tokenize: Tokenize) -> list[Clip]:
    return [Clip(c.samples, c.speaker, c.said, c.now, tokenize(c.samples)) for c in clips]


class Map:
    """What an id says of the phone, counted on training clips."""

    def __init__(self, clips: Sequence[Clip], size: int) -> None:
        from uniaudio_engine.text.phones import PHONES

        self.phones = PHONES
        plain = sorted({p.rstrip("012") for p in PHONES})
        self.plain_id = np.array([plain.index(p.rstrip("012")) for p in PHONES])
        self.plain, self.size = plain, size
        self.table = np.zeros((size, len(PHONES)))
        for c in clips:
            np.add.at(self.table, (c.ids, c.now), 1)
        plain_table = np.zeros((size, len(plain)))
        np.add.at(plain_table.T, self.plain_id, self.table.T)
        self.best, self.best_plain = self.table.argmax(1), plain_table.argmax(1)

    def right(self, c: Clip, stress: bool) -> tuple[int, int]:
        """(frames right, frames)."""
        hit = (
            self.best[c.ids] == c.now if stress else self.best_plain[c.ids] == self.plain_id[c.now]
        )
        return int(hit.sum()), len(hit)

    def heard(self, ids: Ids) -> list[str]:
        """The phones that a sequence of ids spells: the best phone of each frame, single odd frames
        voted away, runs once.
        """
        x = self.best_plain[ids].copy()
        middle = x[1:-1]
        middle[(x[:-2] == x[2:]) & (middle != x[2:])] = x[2:][(x[:-2] == x[2:]) & (middle != x[2:])]
        runs = x[np.concatenate(([True], x[1:] != x[:-1]))] if len(x) else x
        return [self.plain[i] for i in runs if self.plain[i] != "pau"]

    def bits(self, clips: Sequence[Clip]) -> tuple[float, float]:
        """(bits of the phone that an id tells, entropy of the phone in bits).

        A lower bound of the mutual information: entropy less the cross-entropy of what training
        clips say of each id, so that a large codebook is not flattered by small counts.
        """
        now, ids = np.concatenate([c.now for c in clips]), np.concatenate([c.ids for c in clips])
        share = np.bincount(now, minlength=len(self.phones)) / len(now)
        entropy = float(-(share[share > 0] * np.log2(share[share > 0])).sum())
        prior = self.table.sum(0) / self.table.sum()
        p = (self.table + 2 * prior) / (self.table.sum(1, keepdims=True) + 2)
        return entropy + float(np.log2(p[ids, now]).mean()), entropy


# The speaker


def histograms(clips: Sequence[Clip], size: int, seed: int = 0) -> tuple[Floats, NDArray[np.str_]]:
    """Roots of the shares of each id in windows of 3 s [n, size], and the windows' speakers [n];
    clips of one speaker are joined.
    """
    rows, names = [], []
    for who in sorted({c.speaker for c in clips}):
        ids = np.concatenate([c.ids for c in clips if c.speaker == who])
        for start in range(0, len(ids) - WINDOW + 1, WINDOW):
            rows.append(np.sqrt(np.bincount(ids[start : start + WINDOW], minlength=size) / WINDOW))
            names.append(who)
    return np.array(rows, np.float32), np.array(names)


def attack(train: Sequence[Clip], test: Sequence[Clip], size: int) -> tuple[float, int]:
    """(share of windows whose speaker a classifier of histograms names, windows).

    The best, on the test windows, of logistic regressions of several strengths and naive Bayes: an
    upper end, to be safe.
    """
    x, names = histograms(train, size)
    y, asked = histograms(test, size)
    known = sorted(set(names))
    t, u = np.searchsorted(known, names), np.searchsorted(known, asked)
    counts = np.stack([(x[t == k] ** 2).sum(0) for k in range(len(known))]) * WINDOW + 0.5
    bayes = (y**2) @ np.log(counts / counts.sum(1, keepdims=True)).T
    scores = [float((bayes.argmax(1) == u).mean())]
    scores += [
        float((logistic(x, t, len(known), decay)(y).argmax(1) == u).mean())
        for decay in (1e-2, 1e-3, 1e-4)
    ]
    return max(scores), len(y)


def logistic(x: Floats, t: Ids, classes: int, decay: float) -> Callable[[Floats], Floats]:
    """Multinomial logistic regression of rows [n, D] with an L2 penalty -> its scores of other
    rows.
    """
    import torch

    mean = torch.from_numpy(x.mean(0))
    a, target = torch.from_numpy(x) - mean, torch.from_numpy(t)
    w = torch.zeros(x.shape[1], classes, requires_grad=True)
    b = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(a @ w + b, target) + decay * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda y: ((torch.from_numpy(y) - mean) @ w + b).detach().numpy()


# The same sentence by two speakers


def aligned(
    a: Sequence[tuple[str, float]], b: Sequence[tuple[str, float]], frames: int, other_frames: int
) -> Ids | None:
    """Frame of b that says what frame t of a says [frames], by the times (ends, s) of their phones;
    None if they differ.
    """
    if [p for p, _ in a] != [p for p, _ in b]:
        return None
    ends_a, ends_b = (np.array([0.0, *(e for _, e in x)]) for x in (a, b))
    middle = (np.arange(frames) + 0.5) * 0.02
    return np.clip(np.interp(middle, ends_a, ends_b) / 0.02, 0, other_frames - 1).astype(np.int64)


def two_speakers(
    tokenizers: Sequence[Tokenize], sentences: int
) -> dict[str, list[tuple[float, int]]]:
    """Kind of pair -> per tokenizer (share of aligned frames with the same id, frames), without
    pauses.
    """
    from ..corpus.sentences import draw_sentence
    from ..corpus.speech import SPEAKERS, speak

    unseen = [s for s in SPEAKERS if s.split == "test"]
    rng = np.random.default_rng(np.random.SeedSequence((55, 1)))
    kinds = ("of one base voice", "of two base voices", "one, half a frame later")
    same = {k: np.zeros((len(tokenizers), 2), np.int64) for k in kinds}
    for _ in range(sentences):
        text = draw_sentence(rng, "test")
        spoken = [speak(text, s) for s in unseen]
        phones = [[(s.phone, s.end) for s in u.segments] for u in spoken]
        ids = [[f(u.samples) for f in tokenizers] for u in spoken]
        sounding = [_sounding(p, len(i[0])) for p, i in zip(phones, ids, strict=True)]
        for a in range(len(unseen)):
            for b in range(a + 1, len(unseen)):
                kind = kinds[0] if unseen[a].base == unseen[b].base else kinds[1]
                to = aligned(phones[a], phones[b], len(ids[a][0]), len(ids[b][0]))
                if to is not None:
                    for k in range(len(tokenizers)):
                        hit = (ids[a][k] == ids[b][k][to])[sounding[a]]
                        same[kind][k] += (int(hit.sum()), len(hit))
            later = [
                f(np.concatenate((np.zeros(160, np.float32), spoken[a].samples)))
                for f in tokenizers
            ]
            for k in range(len(tokenizers)):
                hit = (ids[a][k] == later[k][: len(ids[a][k])])[sounding[a]]
                same[kinds[2]][k] += (int(hit.sum()), len(hit))
    return {kind: [(hits / max(1, n), int(n)) for hits, n in rows] for kind, rows in same.items()}


def _sounding(phones: Sequence[tuple[str, float]], frames: int) -> NDArray[np.bool_]:
    ends = np.array([e for _, e in phones])
    at = np.searchsorted(ends, (np.arange(frames) + 0.5) * 0.02)
    return np.array([i < len(phones) and phones[i][0] != "pau" for i in at])


# Rooms and noise


def disturbed(x: Floats, kind: str, seed: int) -> Floats:
    """A clip with white noise ("20 dB", "10 dB") or in a room ("room": RT60 0.4 s, as loud as the
    direct path), at its own level.
    """
    rng = np.random.default_rng((99, seed))
    if kind == "room":
        n = int(0.4 * 16000)
        tail = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
        tail[:80] = 0
        tail /= np.sqrt((tail**2).sum())
        tail[0] = 1.0
        from scipy.signal import fftconvolve

        y = fftconvolve(x, tail)[: len(x)]
        return (y / max(1.0, np.abs(y).max())).astype(np.float32)
    from ..semantic.augment import add_at

    return add_at(x, rng.standard_normal(len(x)).astype(np.float32), float(kind.split()[0]))


# All of it


@dataclass(frozen=True)
class Sizes:
    """How many clips and sentences are used."""

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
    """All rows.  ``codec``: the first codebook."""
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
        # what the generator's own phones tell: pace, pauses, reduced vowels; a tokenizer that keeps
        # just them tells as much
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
    """Markdown."""

    def number(x: float) -> str:
        return "–" if np.isnan(x) else f"{x:.3f}" if abs(x) < 10 else f"{x:.0f}"

    out = [
        "| measure | units | 95 % interval | codec's first codebook | count | beside it |",
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
    """Puts ``text`` between the marks in a document, or at its end where it has none."""
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
    """(units, first codebook, their sizes) of a model folder, with the units of a training run
    instead where one is named.
    """
    from uniaudio_engine import Engine
    from uniaudio_engine.tokenizers.semantic import SemanticEncoder

    engine = Engine.from_pretrained(None if model in (None, "bundled") else model, threads=threads)
    if run is not None:
        from ..semantic.checkpoint import load_semantic

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
    """Exit code 0 with a table, 2 with one line that says what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m uniaudio_training.evaluate.semantic",
        description="Judge semantic units: what they say of the phone, and what of the speaker.",
        epilog=(
            "example: python -m uniaudio_training.evaluate.semantic --model bundled --corpus "
            "data/corpus --docs docs/quality.md"
        ),
    )
    parser.add_argument(
        "--model", default="bundled", help="a model folder or 'bundled' (default: %(default)s)"
    )
    parser.add_argument(
        "--run", help="a training run whose tokenizer is judged instead of the model's"
    )
    parser.add_argument(
        "--corpus", required=True, help="folder of corpus shards (speech: train, test)"
    )
    parser.add_argument(
        "--docs", type=Path, help="write the table into this document's own section"
    )
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--quick", action="store_true", help="a tenth of the clips")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(args.threads))  # before numpy computes
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
        print(f"evaluate.semantic: error: {e}", file=sys.stderr)
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

Measured with `python -m uniaudio_training.evaluate.semantic --model bundled --corpus data/corpus --docs docs/quality.md`, on test sentences that no training
has seen and, where nothing else is said, by six voices that it has not heard.

{table}

- The map from unit to phone is counted on training clips. Phones spelt out: the best phone of each frame, single odd frames voted away, runs once; a phone
  said twice in a row counts as an error. Bits: a lower bound (see `Map.bits`), the same for both columns.
- Speaker named: the best of naive Bayes and three logistic regressions on histograms of 3 s of units, fitted on half of the clips. Part of what they find is
  what voices do differently (pace, pauses, reduced vowels): the generator's own phones name the speaker as often as stands beside it.
- Same unit: frames laid on one another by the generator's phone times, without pauses. The row of one speaker half a frame later shows what the
  grid of frames alone costs."""


if __name__ == "__main__":
    sys.exit(main())
