"""Accuracy of each weight format (and format of the key-value cache) against native float32;
nothing is timed.

The bundled model is measured on its own float32 speech at default settings and, with ``--tokens``,
on validation speech that was tokenized for training. The v1 shape has random weights, and is
measured on its own samples. Only audio frames count, and only logits of ids that a slot may emit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import say
from models import NAMES, Model, bundled, find_model
from numpy.typing import NDArray
from peers.base import Spec
from peers.native import make_lm

from uniaudio_engine import Engine
from uniaudio_engine.backends.core import core
from uniaudio_engine.errors import InputError
from uniaudio_engine.request.steps import piece_steps

FORMATS = (
    "bfloat16",
    "int8",
    "int4",
    "int8+local=int4",
    "int8+head=float32",
    "float32+kv=bfloat16",
    "float32+kv=int8",
    "int8+kv=float32",
)
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "She had your dark suit in greasy wash water all year.",
    "A cold front moves in from the north tonight, and rain turns to snow before morning.",
    "Please read the first three pages aloud, then close the book.",
    "Seven small boats left the harbour at dawn and came home empty.",
    "It is never easy to say what the answer would have been.",
    "He paid forty dollars for the lamp, and then he broke it on the stairs.",
    "Where were you when the lights went out?",
)
EPILOG = """examples:
  python benchmarks/accuracy.py                   the bundled model and the v1 shape, all formats
  python benchmarks/accuracy.py --models base --formats int8,int4 --tokens data/tokens
  python benchmarks/accuracy.py --write           write the tables to docs/benchmarks.md
a format is the engine's dtype with + for each comma; kv= is the cache's: int8+local=int4+kv=int8
"""


@dataclass(frozen=True)
class Item:
    """One sequence: frames [T, K], aligned rows [T, S] or None, and the position of its audio."""

    frames: NDArray[np.int32]
    aligned: NDArray[np.int32] | None
    audio: slice


def own_speech(seed: int, sentences: int) -> Iterator[Item]:
    """Sentences spoken by the bundled model in float32 at its default settings, with its voices in
    turn.
    """
    engine = Engine.from_pretrained(bundled(), dtype="float32")
    layout = engine.layout
    voices = engine.voices()
    for i in range(sentences):
        voice = voices[i % len(voices)] if voices else None
        plan = engine.plan("tts", text=TEXTS[i % len(TEXTS)], seed=seed + i, voice=voice)
        for piece in plan.pieces:
            known = piece.sequence.conditional
            frames = [known.shared.frames, known.body.frames]
            aligned_rows = [layout.no_aligned(len(known))]
            steps = piece_steps(engine.model, plan, piece)
            step = next(steps)
            while True:
                step.add(step.session.generate(step.n, step.sampling, step.aligned))
                made = step.result()
                frames.append(made)
                aligned_rows.append(
                    layout.no_aligned(len(made)) if step.aligned is None else step.aligned
                )
                if step.is_target:
                    break
                frames.append(known.after_durations())
                aligned_rows.append(layout.no_aligned(len(frames[-1])))
                step = steps.send(made)
            steps.close()
            total = sum(map(len, frames))
            yield Item(
                np.concatenate(frames),
                np.concatenate(aligned_rows),
                slice(total - len(made), total),
            )


def validation_speech(folder: Path, clips: int) -> Iterator[Item]:
    """Validation speech tokenized by ``uniaudio-train tokenize``; each clip is prompted with
    another clip of its speaker.
    """
    from uniaudio_training.lm.items import read_items

    layout = Engine.from_pretrained(bundled(), dtype="float32").layout
    try:
        clip_list = list(read_items(folder, "tts", "valid", None))
    except FileNotFoundError:
        raise InputError(
            f"--tokens: expected tts-valid-*.npz in {folder}, found none; leave the option out"
        ) from None
    left = clips
    for item in clip_list:
        others = [o for o in clip_list if o.speaker == item.speaker and o is not item]
        if left == 0 or not others or len(item.codes) > 800:
            continue
        s = item.sequence(layout, others[0].codes[:150]).complete(item.codes)
        left -= 1
        yield Item(s.frames, s.aligned, s.audio)


def own_samples(model: Model, lm: Any, seed: int, count: int, length: int) -> Iterator[Item]:
    """Sequences sampled by the model itself (temperature 1), after a few random frames."""
    for i in range(count):
        known = model.frames(8, seed + i)
        session = lm.session(len(known) + length)
        session.prefill(known)
        sampling = core().Sampling(seed=seed + i, allowed=[list(r) for r in model.allowed])
        made = session.generate(length, sampling)
        yield Item(np.concatenate((known, made)), None, slice(len(known), len(known) + len(made)))


def audio_logits(model: Model, lm: Any, item: Item) -> NDArray[np.float64]:
    """Logits [n, K, R] of the audio frames, for the ids that each slot may emit."""
    logits = lm.logits(item.frames, item.aligned)[item.audio]
    return np.stack([logits[:, k, model.rows(k)] for k in range(logits.shape[1])], axis=1).astype(
        np.float64
    )


def log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def compare(
    model: Model, items: Sequence[Item], truth: Sequence[NDArray], lm: Any
) -> dict[str, float]:
    """Error of the logits relative to their standard deviation, agreement of the best id, and
    cross-entropy in nats.
    """
    squares, largest, same, ids = 0.0, 0.0, 0, 0
    nats, change, divergence, weight = [], [], [], []
    variance = float(np.mean([t.var() for t in truth]))
    for item, t in zip(items, truth, strict=True):
        got = audio_logits(model, lm, item)
        error = got - t
        # a constant added to the logits of a slot does not change the samples
        error -= error.mean(-1, keepdims=True)
        squares += float(np.sum(error**2)) / error.shape[-1]
        largest = max(largest, float(np.abs(error).max()))
        same += int((got.argmax(-1) == t.argmax(-1)).sum())
        ids += got.shape[0] * got.shape[1]
        audio = item.frames[item.audio]
        where = np.stack(
            [np.searchsorted(model.rows(k), audio[:, k]) for k in range(audio.shape[1])], axis=1
        )
        p, q = log_softmax(t), log_softmax(got)
        exact, rounded = (-np.take_along_axis(x, where[..., None], -1) for x in (p, q))
        nats.append(float(exact.mean()))
        change.append(float((rounded - exact).mean()))
        divergence.append(float((np.exp(p) * (p - q)).sum(-1).mean()))
        weight.append(where.size)
    w = np.array(weight) / sum(weight)
    spread = float(
        np.sqrt(
            np.sum(w**2 * (np.array(change) - np.dot(w, change)) ** 2) * len(w) / max(1, len(w) - 1)
        )
    )
    return {
        "rms": (squares / ids / variance) ** 0.5,
        "max": largest / variance**0.5,
        "top1": same / ids,
        "ids": ids,
        "nats": float(np.dot(w, nats)),
        "change": float(np.dot(w, change)),
        "change_error": spread,
        "divergence": float(np.dot(w, divergence)),
        "weight_bytes": int(lm.weight_bytes(len(model.rows(0)))),
    }


def measure(args: argparse.Namespace, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind of sequences, format -> figures) of a model."""
    model = find_model(name)

    def make(dtype: str) -> Any:
        return make_lm(Spec("native", dtype, name, args.seed, args.threads, args.cache))

    exact = make("float32")
    sets: dict[str, Iterator[Item]] = {}
    if name == "base":
        sets["speech that the model made itself"] = own_speech(args.seed, args.sequences)
        if args.tokens is not None:
            sets["validation speech"] = validation_speech(args.tokens, args.sequences)
    else:
        sets["what the model samples"] = own_samples(
            model, exact, args.seed, args.sequences, args.frames
        )
    items = {k: list(v) for k, v in sets.items()}
    truth = {k: [audio_logits(model, exact, i) for i in v] for k, v in items.items()}
    found: dict[str, dict[str, Any]] = {k: {} for k in items}
    for dtype in args.formats.split(","):
        try:
            lm = make(dtype)
        except (TypeError, ValueError) as e:
            raise InputError(
                f"--formats: this engine does not take {dtype!r}: {str(e).splitlines()[0]}"
            ) from None
        for k in items:
            found[k][dtype] = f = compare(model, items[k], truth[k], lm)
            say(
                f"  {name}, {k}: {dtype}: rms {f['rms']:.3g}, best id {f['top1']:.4f}, nats "
                f"{f['change']:+.5f}"
            )
    yield from found.items()


def section(results: dict[str, Any]) -> str:
    titles = {
        "base": "bundled model",
        "v1": "UniAudio-v1 shape, random weights",
        "tiny": "tiny model (a test of the benchmark)",
    }
    parts = [
        "### Accuracy of the formats",
        f"{results['date']}, {results['machine']['isa']}, seed {results['seed']}; against native "
        "float32, over audio frames and the ids that a slot "
        "may emit. Errors of the logits in units of their standard deviation; nats are the "
        "cross-entropy per id of the sequences "
        "(change ± its standard error over sequences), divergence the mean Kullback-Leibler "
        "distance of the distributions in nats.",
    ]
    head = [
        "weights",
        "MB / frame",
        "rms error",
        "max error",
        "best id agrees",
        "nats",
        "change",
        "divergence",
    ]
    for name, sets in results["models"].items():
        for what, formats in sets.items():
            count = next(iter(formats.values()))["ids"]
            parts.append(f"{titles[name][0].upper() + titles[name][1:]}, on {what} ({count} ids):")
            rows = []
            for dtype, f in formats.items():
                change = f"{f['change']:+.4f} ± {f['change_error']:.4f}"
                rows.append(
                    [
                        dtype.replace("+", ", "),
                        f"{f['weight_bytes'] / 1e6:.1f}",
                        f"{f['rms']:.4f}",
                        f"{f['max']:.2f}",
                        f"{f['top1']:.4f}",
                        f"{f['nats']:.3f}",
                        change,
                        f"{f['divergence']:.5f}",
                    ]
                )
            parts.append(common.table(head, rows))
    parts.append("Command: `python benchmarks/accuracy.py`, then the same with `--write`.")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="accuracy.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_common(parser, "accuracy.json")
    parser.add_argument("--models", default="base,v1", help="comma-separated selection")
    parser.add_argument("--formats", default=",".join(FORMATS), help="comma-separated selection")
    parser.add_argument(
        "--sequences", type=int, default=16, help="number of sequences of each kind (16)"
    )
    parser.add_argument(
        "--frames", type=int, default=200, help="length of the v1 shape's sequences (200)"
    )
    parser.add_argument(
        "--tokens", type=Path, help="folder of tts-valid-*.npz, made by uniaudio-train tokenize"
    )
    parser.add_argument(
        "--cache", type=Path, default=common.HERE / "cache", help="folder for random weights"
    )
    args = parser.parse_args(argv)
    results = common.load_results(args.results)
    if not args.write:
        names = args.models.split(",")
        unknown = [n for n in names if n not in NAMES]
        if unknown or args.sequences < 1 or args.frames < 1:
            raise InputError(
                f"expected --models of {', '.join(NAMES)}, --sequences and --frames of 1 or more, "
                f"got {json.dumps(args.models)}"
            )
        for name, (what, formats) in itertools.chain.from_iterable(
            ((n, m) for m in measure(args, n)) for n in names
        ):
            results.setdefault("models", {}).setdefault(name, {}).setdefault(what, {}).update(
                formats
            )
            results.update(date=common.today(), machine=common.machine(), seed=args.seed)
            common.save_results(args.results, results)
        return 0
    if not results:
        raise InputError(f"{args.results}: no results yet; run the command without --write first")
    common.write_section(args.docs, "accuracy", section(results))
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
