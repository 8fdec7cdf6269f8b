"""Codec quality on speech of held-out speakers, on sounds and on music: with all codebooks, and
with those that the LM uses.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from . import originals
from .engines import Subject
from .judges import estoi, listener, pesq_wb, speaker_encoder
from .metrics import codebook_use, cosine, edit_errors, error_rate, log_mel_distance, words
from .recogniser import recogniser
from .rows import Row, mean, mean_row, rate_row

PESQ_BEST = 4.644  # PESQ-wb of two equal clips


@dataclass(frozen=True)
class Plan:
    """What to evaluate.

    ``sentences`` grammar sentences and as many of WordNet, by the held-out speakers in turn;
    ``clips`` of sound and of music.
    """

    sentences: int = 100
    clips: int = 40
    seed: int = 0

    @classmethod
    def limited(cls, limit: int, seed: int = 0) -> Plan:
        """A plan for a quick check."""
        return cls(min(3 * limit, cls.sentences), min(limit, cls.clips), seed)


def judge(subject: Subject, plan: Plan, progress: bool = True) -> tuple[list[Row], list[str]]:
    """The rows of the report, and errors. A measure's number of codebooks is in its name: "@ 8"."""
    counts = sorted({subject.codebooks, subject.lm_codebooks or subject.codebooks}, reverse=True)
    rows, codes = _speech(subject, plan, counts, progress)
    for kind in ("sound", "music") if plan.clips else ():
        distances: dict[int, list[list[float]]] = defaultdict(list)
        for clip in tqdm(
            originals.clips(kind, plan.clips, plan.seed),
            desc=kind,
            unit="clip",
            disable=not progress,
        ):
            c = subject.encode(clip)
            codes.append(c)
            for k in counts:
                distances[k].append([log_mel_distance(clip, subject.decode(c[:k]), 16000)])
        for k in counts:
            rows.append(
                mean_row(
                    "codec",
                    f"log-mel distance in dB, {kind} @ {k}",
                    distances[k],
                    "clips",
                    lower_is_better=True,
                    ceiling=0.0,
                    ceiling_count=plan.clips,
                )
            )
    used, perplexity = codebook_use(codes, subject.codebook_size)
    frames = sum(c.shape[1] for c in codes)
    rows.append(
        Row(
            "codec",
            "codebook use",
            mean(used),
            frames,
            "frames",
            ceiling=1.0,
            lower_is_better=False,
            details={"by_codebook": used},
        )
    )
    rows.append(
        Row(
            "codec",
            "codebook perplexity",
            mean(perplexity),
            frames,
            "frames",
            ceiling=float(subject.codebook_size),
            lower_is_better=False,
            details={"by_codebook": perplexity},
        )
    )
    return rows, []


def _speech(
    subject: Subject, plan: Plan, counts: list[int], progress: bool
) -> tuple[list[Row], list[NDArray[np.int32]]]:
    names = [s.name for s in originals.HELD_OUT]
    prompts = {n: speaker_encoder().embed(originals.prompt(n, plan.seed)) for n in names}
    texts = [(t, True) for t in originals.grammar_sentences(plan.sentences, plan.seed)] + [
        (t, False) for t in originals.open_sentences(plan.sentences, plan.seed)
    ]
    codes: list[NDArray[np.int32]] = []
    values: dict[tuple[str, int], list[list[float]]] = defaultdict(
        list
    )  # (measure, codebooks; 0: the original)
    errors: dict[tuple[str, int], list[list]] = defaultdict(list)
    for i, (text, grammar) in enumerate(
        tqdm(texts, desc="codec on speech", unit="clip", disable=not progress)
    ):
        u = originals.original(text, names[i % len(names)])
        c = subject.encode(u.samples)
        codes.append(c)
        for k in (0, *counts):
            clip = subject.decode(c[:k]) if k else u.samples
            if grammar:
                errors["grammar WER", k].append([edit_errors(words(text), listener(True)(clip))])
            else:
                said = [s.phone.rstrip("012") for s in u.segments if s.phone != "pau"]
                errors["phone error", k].append([edit_errors(said, recogniser().hear(clip))])
                values["speaker similarity", k].append(
                    [cosine(speaker_encoder().embed(clip), prompts[u.speaker])]
                )
                if k:
                    values["PESQ-wb", k].append([pesq_wb(u.samples, clip)])
                    values["ESTOI", k].append([estoi(u.samples, clip)])
                    values["log-mel distance in dB", k].append(
                        [log_mel_distance(u.samples, clip, 16000)]
                    )
    rows = []
    for k in counts:
        for measure in ("grammar WER", "phone error"):
            best = [e for g in errors[measure, 0] for e in g]
            rows.append(
                rate_row(
                    "codec",
                    f"{measure} @ {k}",
                    errors[measure, k],
                    "clips",
                    ceiling=error_rate(best),
                    ceiling_count=len(best),
                )
            )
        ceilings = {
            "PESQ-wb": PESQ_BEST,
            "ESTOI": 1.0,
            "log-mel distance in dB": 0.0,
            "speaker similarity": mean([v for g in values["speaker similarity", 0] for v in g]),
        }
        for measure, ceiling in ceilings.items():
            group = values[measure, k]
            rows.append(
                mean_row(
                    "codec",
                    f"{measure} @ {k}",
                    group,
                    "clips",
                    lower_is_better="distance" in measure,
                    ceiling=ceiling,
                    ceiling_count=len(group),
                )
            )
    return rows, codes
