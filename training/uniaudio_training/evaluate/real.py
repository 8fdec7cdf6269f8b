"""Codecs on real readers that no training heard, beside Opus and the originals.

    uniaudio-train evaluate real --corpus data/real --model uniaudio_engine/models/base \
        --run runs/codec-joint --opus 6 8 12 16 --whisper whisper-base --json real.json

Clips come from the test split of a corpus of recordings (``corpus/public.py``), as many of each
speaker; each system gives back each clip, and the judges compare and listen.  Word errors are of
open vocabulary and have a ceiling of their own, the originals'.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..corpus.reading import CorpusError, open_corpus
from .judges import SAMPLE_RATE, JudgeMissing, Samples, estoi, pesq_wb
from .metrics import edit_errors, error_rate, log_mel_distance
from .mos import distillmos, dnsmos, heard_words, whisper

Copy = Callable[[Samples], Samples]
SECONDS = (3.0, 12.0)  # clips that are judged


@dataclass(frozen=True)
class Reading:
    """A clip of a held-out reader."""

    id: str
    speaker: str
    samples: Samples
    text: str


def readings(corpus: str | Path, count: int, task: str = "tts") -> list[Reading]:
    """``count`` clips of the test split, by its speakers in turn, the same ones each time.  Raises
    CorpusError where the corpus has no test split."""
    by: dict[str, list[Reading]] = {}
    for example in open_corpus(corpus)[task, "test"]:
        track = example.track()
        if task != "tts" or SECONDS[0] <= track.seconds <= SECONDS[1]:
            by.setdefault(track.speaker, []).append(
                Reading(example.id, track.speaker, example.audio(), track.text)
            )
    rng = np.random.default_rng(0)
    queues = [[group[i] for i in rng.permutation(len(group))] for _, group in sorted(by.items())]
    found: list[Reading] = []
    while len(found) < count and any(queues):
        for queue in queues:
            if queue and len(found) < count:
                found.append(queue.pop(0))
    return found


def of_run(path: str | Path, codebooks: int) -> Copy:
    """A codec's copy of a clip through its first ``codebooks``; ``path``: a run, whose averaged
    weights are taken if it has them, or a file of weights."""
    import torch

    from ..checkpoints import read_codec
    from ..models.spectral import SpectralCodec

    config, weights = read_codec(path)
    model = SpectralCodec(config)
    model.load_state_dict(weights)
    model.eval()

    def copy(samples: Samples) -> Samples:
        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None]
            return model.decode(model.encode(x, codebooks))[0, : len(samples)].numpy()

    return copy


def of_folder(folder: str | Path | None, codebooks: int) -> Copy:
    """A model folder's copy, by the engine."""
    from uniaudio_engine import Engine

    codec = Engine.from_pretrained(folder, threads=1).codec

    def copy(samples: Samples) -> Samples:
        codes = codec.encode(np.ascontiguousarray(samples, np.float32))
        return np.asarray(codec.decode(codes[:codebooks]))[: len(samples)]

    return copy


def opus(samples: Samples, kilobits: float) -> tuple[Samples, float]:
    """Through Opus (libopus in PyAV, voice, variable rate): the copy and the kbit/s that it took."""
    try:
        import av
    except ImportError as e:
        raise JudgeMissing(f"Opus needs PyAV ({e}); install it: pip install av") from None
    pcm = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    store = io.BytesIO()
    with av.open(store, "w", format="ogg") as out:
        stream: Any = out.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = round(kilobits * 1000)
        stream.options = {"application": "voip"}
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        size = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            size += packet.size
            out.mux(packet)
    store.seek(0)
    found = []
    with av.open(store) as back:
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
        for frame in back.decode(audio=0):
            found += [f.to_ndarray()[0] for f in resampler.resample(frame)]
        found += [f.to_ndarray()[0] for f in resampler.resample(None)]
    heard = aligned(samples, (np.concatenate(found) / 32767).astype(np.float32))
    return heard, size * 8 / (len(samples) / SAMPLE_RATE) / 1000


def aligned(original: Samples, copy: Samples, most: int = 1600) -> Samples:
    """``copy`` moved by the lag (up to ``most`` samples) at which it is most like the original, cut
    to its length."""
    n = len(original) + len(copy)
    cross = np.fft.irfft(np.fft.rfft(copy, n) * np.conj(np.fft.rfft(original, n)), n)
    lags = np.concatenate((cross[:most], cross[-most:]))
    lag = int(lags.argmax())
    lag = lag if lag < most else lag - 2 * most
    moved = copy[lag:] if lag >= 0 else np.concatenate((np.zeros(-lag, copy.dtype), copy))
    return np.pad(moved[: len(original)], (0, max(0, len(original) - len(moved))))


Judgement = dict[str, float]


def judge(
    clips: Sequence[Reading],
    copy: Copy | None,
    listen: Callable[[Samples], list[str]] | None,
    mos: bool = True,
    name: str = "",
) -> Judgement:
    """Means over the clips; ``copy`` None judges the originals.  WER is of all words together."""
    values: dict[str, list[float]] = {}
    errors = []
    for clip in tqdm(clips, desc=name or "originals", unit="clip", mininterval=5):
        heard = clip.samples if copy is None else np.clip(copy(clip.samples), -1, 1)
        row: dict[str, float] = {}
        if copy is not None:
            row["PESQ-wb"] = pesq_wb(clip.samples, heard)
            row["ESTOI"] = estoi(clip.samples, heard)
            row["log-mel dB"] = log_mel_distance(clip.samples, heard, SAMPLE_RATE)
        if mos:
            d = dnsmos()(heard)
            row |= {
                "P.808": d.p808,
                "OVRL": d.ovrl,
                "SIG": d.sig,
                "distillMOS": distillmos()(heard),
            }
        for k, v in row.items():
            values.setdefault(k, []).append(v)
        if listen is not None and clip.text:
            errors.append(edit_errors(heard_words(clip.text), listen(heard)))
    out = {k: round(float(np.mean(v)), 4) for k, v in values.items()}
    if errors:
        out["WER"] = round(error_rate(errors), 4)
    return out | {"clips": len(clips)}


def _given(copies: dict[int, Samples]) -> Copy:
    """Copies that were made before, by the originals' ids."""
    return lambda samples: copies[id(samples)]


def table(rows: dict[str, Judgement]) -> str:
    """The judgements as a Markdown table."""
    columns = [c for c in dict.fromkeys(k for r in rows.values() for k in r) if c != "clips"]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{row[c]:.3f}" if c in row else "" for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train evaluate real",
        description="Codecs on held-out real readers, beside Opus.",
    )
    parser.add_argument(
        "--corpus", required=True, help="a corpus with a test split of real readers"
    )
    parser.add_argument("--task", default="tts", help="tts: speech; t2s: sounds (no MOS, no WER)")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument(
        "--model",
        action="extend",
        nargs="*",
        default=[],
        help='model folders ("bundled": the bundled one)',
    )
    parser.add_argument(
        "--run", action="extend", nargs="*", default=[], help="codec runs, or files of weights"
    )
    parser.add_argument("--codebooks", type=int, nargs="+", default=[4, 8])
    parser.add_argument(
        "--opus", type=float, action="extend", nargs="*", default=[], metavar="KBIT/S"
    )
    parser.add_argument("--whisper", type=Path, help="whisper's folder; left out: no word errors")
    parser.add_argument("--no-mos", action="store_true")
    parser.add_argument("--originals", action="store_true", help="judge them too")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    try:
        clips = readings(args.corpus, args.clips, args.task)
        speech = args.task == "tts"
        listen = whisper(args.whisper) if args.whisper and speech else None
        systems: dict[str, Copy | None] = {"original": None} if args.originals else {}
        for folder in args.model:
            for k in args.codebooks:
                systems[f"{folder} @ {k}"] = of_folder(None if folder == "bundled" else folder, k)
        for folder in args.run:
            for k in args.codebooks:
                systems[f"{folder} @ {k}"] = of_run(folder, k)
        rows = {
            name: judge(clips, copy, listen, speech and not args.no_mos, name)
            for name, copy in systems.items()
        }
        for rate in args.opus:
            made = [opus(c.samples, rate) for c in clips]
            ready = {id(c.samples): copy for c, (copy, _) in zip(clips, made, strict=True)}
            name = f"Opus at {np.mean([k for _, k in made]):.1f} kbit/s"
            rows[name] = judge(clips, _given(ready), listen, speech and not args.no_mos, name)
    except (CorpusError, JudgeMissing, ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
