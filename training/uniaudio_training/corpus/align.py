"""Forced alignment of recordings with their text.

A small network scores the phones of every 10 ms frame. The Viterbi path through the text's phones
then gives the time of each.

    uniaudio-train corpus align train --exact data/kokoro data/corpus --out runs/aligner
    uniaudio-train corpus align run data/real --aligner runs/aligner --out data/aligned

``train`` learns from corpora with exact phone times (synthetic speech), augmented with noise, room
reverberation, and pitch and formant shifts. It can continue on corpora that it aligned itself: add
them to ``--exact`` and raise ``--steps``. ``run`` writes a copy of the corpus with phones and words
in its labels, without the clips whose speech does not match their text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from uniaudio_engine.text import sentence_words
from uniaudio_engine.text.phones import PAUSE, PHONES
from uniaudio_engine.tokenizers.alignment import best_path

from ..evaluate.recogniser import BANDS, HOP, mel_power
from ..evaluate.train_recogniser import augment
from ..loop import Stateful, Trainer, fit, pick_device
from ..packed import write_tensors
from ..precision import Arithmetic, choose
from ..schedules import cosine, decay_groups
from ..settings import RunSettings
from .reading import CorpusError, Example, open_corpus
from .schema import SAMPLE_RATE, Phone, Track
from .shards import MANIFEST
from .teacher import word_times

PLAIN = tuple(sorted({p.rstrip("012") for p in PHONES}))  # the classes: phones without stress
_ID = {p: i for i, p in enumerate(PLAIN)}
STEP = HOP / SAMPLE_RATE  # s
LEAST_STEPS = 2  # minimum length of a phone; pauses between words are optional
# Minimum mean log-probability of a clip, and of its worst word; below it the speech is taken not to
# match the text.
LEAST_SCORE, LEAST_WORD_SCORE = -2.6, -8.0
MOST_SECONDS = 40.0
_WIDTH, _HIDDEN, _BLOCKS, _KERNEL = 160, 384, 6, 9
_FLOOR = 1e-5  # relative to the loudest band of the clip

Floats = NDArray[np.float32]


def features(power: Floats) -> Floats:
    """Mel powers [T, 64] at 100 Hz -> log powers [T, 64] without level and average spectrum."""
    x = np.log(power / max(float(power.max()), 1e-12) + _FLOOR)
    energy = power.sum(1)
    x -= x[energy >= energy.max() * 1e-3].mean(0)
    return (x / 3.0).astype(np.float32)


class _Block(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        reach = dilation * (_KERNEL // 2)
        self.depthwise = nn.Conv1d(
            _WIDTH, _WIDTH, _KERNEL, padding=reach, dilation=dilation, groups=_WIDTH
        )
        self.norm = nn.LayerNorm(_WIDTH)
        self.up = nn.Linear(_WIDTH, _HIDDEN)
        self.down = nn.Linear(_HIDDEN, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norm(y))))


class Aligner(nn.Module):
    """Phone classifier: features [B, T, 64] at 100 Hz -> log-probabilities [B, T, 41], without
    stress.
    """

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(BANDS, _WIDTH)
        self.input_norm = nn.LayerNorm(_WIDTH)
        blocks = [_Block(1 + i % 3) for i in range(_BLOCKS)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, len(PLAIN))
        for block in blocks:
            nn.init.trunc_normal_(block.down.weight, std=0.02)
            nn.init.zeros_(block.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_norm(self.input(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).float().log_softmax(-1)

    @torch.no_grad()
    def scores(self, samples: NDArray[Any]) -> Floats:
        """float32 samples [N] at 16 kHz -> log-probabilities [T, 41], one row per 10 ms."""
        return self(torch.from_numpy(features(mel_power(samples)))[None])[0].numpy()

    @classmethod
    def load(cls, folder: str | Path) -> Aligner:
        """Loads the aligner of a run folder. Raises CorpusError where there is none."""
        from safetensors.torch import load_file

        path = Path(folder) / "aligner.safetensors" if Path(folder).is_dir() else Path(folder)
        if not path.is_file():
            raise CorpusError(f"{folder}: no aligner; train one: uniaudio-train corpus align train")
        model = cls()
        model.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
        return model.eval()

    def save(self, path: Path) -> None:
        """Writes the weights as float16."""
        state = {k: v.detach().half().contiguous() for k, v in self.state_dict().items()}
        write_tensors(path, state, {})


@dataclass(frozen=True)
class Aligned:
    """Phones with their end times in seconds, and the mean log-probability of all speech and of the
    worst word.
    """

    phones: tuple[Phone, ...]
    score: float
    worst_word: float


def align(scores: Floats, words: Sequence[Sequence[str]], seconds: float) -> Aligned | None:
    """Times of the words' phones, given log-probabilities [T, 41] and ``sentence_words`` of the
    text.

    Pauses are placed where they occur, whether or not the text has them.
    None where the clip is too short.
    """
    said = [list(w) for w in words if list(w) != [PAUSE]]
    if not said:
        return None
    phones: list[str] = [PAUSE]
    optional = [True]
    owner = [-1]
    for n, word in enumerate(said):
        phones += [*word, PAUSE]
        optional += [False] * len(word) + [True]
        owner += [n] * len(word) + [-1]
    classes = [_ID[p.rstrip("012")] for p in phones]
    path = best_path(scores, classes, optional, LEAST_STEPS)
    if path is None:
        return None
    out: list[Phone] = []
    by_word: dict[int, list[float]] = {}
    for i, phone in enumerate(phones):
        a, b = int(path[i]), int(path[i + 1])
        if a == b:
            continue
        out.append(Phone(phone, b * STEP))
        if owner[i] >= 0:
            by_word.setdefault(owner[i], []).append(float(scores[a:b, classes[i]].mean()))
    out[-1] = out[-1]._replace(end=seconds)
    out = _with_ends(out, seconds)
    every = [v for values in by_word.values() for v in values]
    return Aligned(
        tuple(out), float(np.mean(every)), min(float(np.mean(v)) for v in by_word.values())
    )


def _with_ends(phones: list[Phone], seconds: float) -> list[Phone]:
    """Adds a 10 ms pause at either end that has none: every label begins and ends with one."""
    if phones[0].phone != PAUSE:
        phones = [Phone(PAUSE, STEP), *phones]
    if phones[-1].phone != PAUSE:
        phones = [*phones[:-1], phones[-1]._replace(end=seconds - STEP), Phone(PAUSE, seconds)]
    return phones


# Training


class _Data:
    """Clips from several corpora, with exact or aligned phones."""

    def __init__(self, folders: Sequence[str | Path], split: str) -> None:
        self.parts = [
            open_corpus(f)["tts", split] for f in folders if ("tts", split) in list(open_corpus(f))
        ]
        if not self.parts:
            raise CorpusError(f"no tts examples for {split} in {', '.join(map(str, folders))}")

    def pick(self, rng: np.random.Generator) -> Example:
        part = self.parts[int(rng.integers(len(self.parts)))]
        return part[int(rng.integers(len(part)))]

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Features [B, T, 64] and classes [B, T]; classes are -1 past the end of a clip."""
        rows: list[tuple[Floats, NDArray[np.int64]]] = []
        while len(rows) < size:
            example = self.pick(rng)
            track = example.track()
            if not track.phones:
                continue
            power, stretch = augment(mel_power(example.audio()), rng)
            rows.append((features(power), classes_of(track.phones, len(power), stretch)))
        t = min(max(len(x) for x, _ in rows), 800)
        x = torch.zeros(size, t, BANDS)
        y = torch.full((size, t), -1)
        for b, (a, c) in enumerate(rows):
            x[b, : len(a)], y[b, : len(a)] = torch.from_numpy(a[:t]), torch.from_numpy(c[:t])
        return x, y


def classes_of(phones: Sequence[Phone], steps: int, stretch: float = 1.0) -> NDArray[np.int64]:
    """The class at the middle of each step [steps]; -1 after the last phone."""
    ends = np.array([p.end for p in phones]) * stretch
    ids = np.array([_ID[p.phone.rstrip("012")] for p in phones] + [-1])
    return ids[np.searchsorted(ends, (np.arange(steps) + 0.5) * STEP)]


@dataclass(frozen=True)
class AlignerSettings(RunSettings):
    """``exact``: corpora with phone times."""

    exact: tuple[str, ...] = ()
    steps: int = 3000
    batch: int = 16
    lr: float = 2e-3
    warmup: int = 100
    checkpoint_minutes: float = 2.0


class AlignerTrainer(Trainer[tuple[Tensor, Tensor]]):
    """Trains with the cross-entropy of the phone of each step."""

    def __init__(self, s: AlignerSettings, arithmetic: Arithmetic) -> None:
        self.settings, self.arithmetic = s, arithmetic
        self.model = Aligner().to(arithmetic.device).train()
        self.data = _Data(s.exact, "train")
        groups = decay_groups(self.model, 0.01)
        self.optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=(0.9, 0.98))
        self.optimizers = [(self.optimizer, s.lr)]

    def parts(self) -> dict[str, Stateful]:
        return {"model": self.model, "optimizer": self.optimizer}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return self.data.batch(rng, self.settings.batch)

    def rate(self, step: int, done: float) -> float:
        return cosine(step, done, self.settings.warmup, floor=0.01)

    def loss(
        self, batch: tuple[Tensor, Tensor], step: int
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        x, y = (b.to(self.arithmetic.device, non_blocking=True) for b in batch)
        with self.arithmetic.autocast():
            logp = self.model(x)
        loss = F.nll_loss(logp.flatten(0, 1), y.flatten(), ignore_index=-1)
        return loss, {"train/phone": loss}


def train(settings: AlignerSettings, out: str | Path, device: str = "cpu") -> Aligner:
    """Trains or resumes an aligner in ``out``; writes ``aligner.safetensors`` at the end."""
    arithmetic = choose(settings.precision, pick_device(device), out)
    torch.manual_seed(settings.seed)
    trainer = AlignerTrainer(settings, arithmetic)
    fit(trainer, settings, out, arithmetic)
    trainer.model.save(Path(out) / "aligner.safetensors")
    return trainer.model.eval()


def border_errors(model: Aligner, folder: str | Path, split: str, limit: int) -> dict[str, Any]:
    """Boundary errors of the aligner on a corpus with exact phone times.

    By speaker and overall: the median and 90th percentile of the absolute error in seconds, and the
    share of boundaries within 20 ms.
    """
    by: dict[str, list[float]] = {}
    missed = 0
    examples = open_corpus(folder)["tts", split]
    step = max(1, len(examples) // limit)
    for i in range(0, len(examples), step):
        track = examples[i].track()
        exact = [p for p in track.phones if p.phone != PAUSE]
        words: list[list[str]] = [[]]
        for p in track.phones:  # pauses are dropped: the aligner has to find them itself
            if p.phone == PAUSE:
                words.append([])
            else:
                words[-1].append(p.phone)
        found = align(model.scores(examples[i].audio()), [w for w in words if w], track.seconds)
        heard = [p for p in found.phones if p.phone != PAUSE] if found else []
        if len(heard) != len(exact):
            missed += 1
            continue
        by.setdefault(track.speaker, []).extend(
            abs(a.end - b.end) for a, b in zip(heard[:-1], exact[:-1], strict=True)
        )

    def row(errors: list[float]) -> dict[str, float]:
        e = np.array(errors)
        return {
            "median": round(float(np.median(e)), 4),
            "p90": round(float(np.percentile(e, 90)), 4),
            "within 20 ms": round(float((e <= 0.02).mean()), 4),
        }

    every = [e for errors in by.values() for e in errors]
    return {
        "borders": len(every),
        "missed clips": missed,
        **row(every),
        "by speaker": {k: row(v) for k, v in sorted(by.items())},
    }


def align_corpus(
    model: Aligner,
    source: Path,
    out: Path,
    splits: Sequence[str],
    least: tuple[float, float] = (LEAST_SCORE, LEAST_WORD_SCORE),
) -> dict[str, Any]:
    """Aligns the tts shards of ``source`` and writes them to ``out``; audio is hard-linked.

    Returns a report: the clips kept, and the reasons why others were dropped.
    """
    import os

    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    corpus = open_corpus(source)
    scores: list[float] = []
    for split in splits:
        if ("tts", split) not in list(corpus):
            continue
        for shard in corpus.shards("tts", split):
            path = out / f"{shard.name}.jsonl"  # type: ignore[attr-defined]
            if path.exists():
                continue
            done: dict[int, Track | None] = {}
            lines = []
            for example in shard:
                target = _aligned(model, example, "target", done, counts, scores, least)
                if target is None:
                    continue
                tracks = {"target": target}
                if "prompt" in example.roles:
                    prompt = _aligned(model, example, "prompt", done, counts, scores, least)
                    if prompt is not None:
                        tracks["prompt"] = prompt
                lines.append(replace(example.label, tracks=tracks).line())
            audio = path.with_suffix(".npy")
            if not audio.exists():
                os.link(source / audio.name, audio)
            part = path.with_name(f".{path.name}.{os.getpid()}")
            part.write_text("\n".join(lines) + "\n" * bool(lines), encoding="utf-8")
            part.replace(path)
    described = source / MANIFEST
    if described.exists():
        (out / MANIFEST).write_bytes(described.read_bytes())
    return {**counts, "mean score": round(float(np.mean(scores)), 3) if scores else None}


def _aligned(
    model: Aligner,
    example: Example,
    role: str,
    done: dict[int, Track | None],
    counts: Counter[str],
    scores: list[float],
    least: tuple[float, float],
) -> Track | None:
    """The track with its phones, None where it was dropped. Each track is aligned once."""
    track = example.track(role)
    if track.offset not in done:
        done[track.offset] = found = _one(model, example, role, counts, scores, least)
        counts["kept"] += found is not None
    return done[track.offset]


def _one(
    model: Aligner,
    example: Example,
    role: str,
    counts: Counter[str],
    scores: list[float],
    least: tuple[float, float],
) -> Track | None:
    track = example.track(role)
    if not track.text or track.seconds > MOST_SECONDS:
        counts["no text" if not track.text else "too long"] += 1
        return None
    words = sentence_words(track.text)
    found = align(model.scores(example.audio(role)), words, track.seconds)
    if found is None:
        counts["too short for its text"] += 1
        return None
    scores.append(found.score)
    if found.score < least[0] or found.worst_word < least[1]:
        counts["says something else"] += 1
        return None
    return replace(track, phones=found.phones, words=word_times(track.text, words, found.phones))
