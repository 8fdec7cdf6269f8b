"""A teacher: an open text-to-speech model that speaks our phones, its own durations as labels.

    uniaudio-train corpus teach kokoro --model FOLDER --hours 2 --out data/kokoro

Kokoro-82M (Apache-2.0) is the one that is known here.  ``FOLDER`` holds ``kokoro.onnx`` (v1.0),
``config.json`` (its vocabulary) and ``voices/*.bin`` (float32 [510, 256]: a style for each number
of tokens).  The model's durations are an inner tensor that becomes an output when it is loaded.

Its clock, measured: a duration's unit is 600 samples at 24 kHz; sound comes ``LEAD`` before the
borders that durations give; a space belongs to the word after it, the first unit of a stress mark
to the consonant before it, and the silence of a pause to the phone before it.  So pauses are found
by their level; one that the model makes where the phones have none is added to the labels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from uniaudio_engine.text import sentence_words

from ..precision import time_products
from . import sentences
from .kokoro_generator import Generator, prune
from .public import LEVEL_DB
from .reading import CorpusError
from .schema import FORMAT, SAMPLE_RATE, SPLITS, Label, Phone, Track, Word
from .shards import MANIFEST
from .speech import set_level

# named by the exporter: the clipped, summed durations of the tokens
_DURATIONS = "/encoder/Clip_output_0"
FRAME = 600 / 24000  # s, a unit of duration
# s by which sound is ahead of the borders of the durations: the median of 121 vowel-fricative
# borders, six voices
LEAD = 0.063
QUIET_DB = -35.0  # under the loud parts: a pause
LEAST_PAUSE = 0.08  # s
_HOP = 80  # samples of a level's frame
BEFORE, AFTER = 0.25, 0.3  # s of silence kept around a sentence
LEAST_PHONE = 0.01  # s
SHARD_SECONDS = 240.0
GROUP = 5  # sentences in a row by one voice, which prompt one another
PAUSE = "pau"

VOICES = ("af_heart", "af_bella", "am_michael", "am_fenrir", "bf_emma", "bm_george")
# Halves of two voices each: speakers of their own.
MIXTURES = (
    "af_heart+bf_emma",
    "am_michael+bm_george",
    "af_bella+am_fenrir",
    "af_nicole+bf_isabella",
    "am_adam+bm_lewis",
    "af_sky+bf_lily",
)

_SYMBOL = dict(
    zip(
        (
            "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh "
            "ax aa ae ah ao aw ay eh er ey ih iy ow oy uh uw"
        ).split(),
        "b ʧ d ð f ɡ h ʤ k l m n ŋ p ɹ s ʃ t θ v w j z ʒ ə ɑ æ ʌ ɔ W I ɛ ɜɹ A ɪ i O Y ʊ u".split(),
        strict=True,
    )
)
_STRESS = "ˈ"
# Words, stress left out, that a sentence does not stress though the lexicon may.
_WEAK = frozenset(
    tuple(w.split())
    for w in (
        "dh ax|dh iy|ax|ae n|ax n|ae n d|ax n d|ah v|ax v|t uw|t ax|ih n|ih z|ih t|ae t|f ao r|f "
        "er|w ax z|w aa z|w ah z|w er|hh iy|sh iy|"
        "w iy|y uw|dh ey|hh ih z|hh er|hh ih m|m ay|m iy|ay|ih t s|aa r|b iy|ae z|ao r|b ah t|f "
        "r ah m|w ih dh|w ih th|hh ae d|hh ae z|"
        "hh ae v|dh ae t|dh eh m|dh eh r|k ae n|w ih l|w uh d|ah s|ih f|b ay|aa n|ao n|ae m|y ao "
        "r|aw er|b ih n|b iy n"
    ).split("|")
)


def spelt(phones: Sequence[str]) -> list[tuple[str, int]]:
    """One word's phones -> [(symbol of the teacher's, index of the phone)]; a stress mark goes
    before its vowel."""
    weak = tuple(p.rstrip("012") for p in phones) in _WEAK
    out: list[tuple[str, int]] = []
    for i, p in enumerate(phones):
        if p[-1] == "1" and not weak:
            out.append((_STRESS, i))
        out += [(c, i) for c in ("əɹ" if p == "er0" else _SYMBOL[p.rstrip("012")])]
    return out


@dataclass(frozen=True)
class Script:
    """A sentence for the teacher: its symbols, the phone that each belongs to, all phones, and the
    places of the words' last phones among them."""

    symbols: list[str]
    owner: list[int]
    phones: list[str]
    finals: list[int]


def script(words: Sequence[Sequence[str]], end: str = ".") -> Script:
    """``words``: as ``sentence_words`` gives them, lists of phones, a pause a word of its own;
    ``end``: the mark that the sentence ends in."""
    phones: list[str] = []
    symbols: list[str] = []
    owner: list[int] = []
    finals: list[int] = []
    for n, word in enumerate(words):
        if list(word) != [PAUSE]:
            if symbols:
                owner.append(len(phones) - (phones[-1] == PAUSE))
                symbols.append(" ")
            marks = spelt(word)
            symbols += [symbol for symbol, _ in marks]
            owner += [len(phones) + i for _, i in marks]
            finals.append(len(phones) + len(word) - 1)
        elif phones:  # the first pause is the begin token alone
            symbols.append(end if n == len(words) - 1 else ",")
            owner.append(len(phones))
        phones += word
    return Script(symbols, owner, phones, finals)


def phone_ends(s: Script, units: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ends in s [P] of the script's phones by the durations of its tokens (begin and end token
    included), before pauses are looked for."""
    units = units.copy()
    for k, symbol in enumerate(s.symbols):  # units[k + 1] is that of symbols[k]
        if symbol == _STRESS and k and s.symbols[k - 1] != " " and units[k + 1] > 1:
            units[k] += 1
            units[k + 1] -= 1
    length = np.zeros(len(s.phones))
    np.add.at(length, [0, *s.owner, len(s.phones) - 1], units)
    return np.cumsum(length) * FRAME - LEAD


def silences(samples: NDArray[np.float32]) -> list[tuple[float, float]]:
    """(begin, end) in s of what is quiet for at least ``LEAST_PAUSE``; samples [N] at 16 kHz."""
    frames = np.square(samples[: len(samples) // _HOP * _HOP]).reshape(-1, _HOP).mean(1)
    level = 10 * np.log10(frames + 1e-12)
    level = np.convolve(np.pad(level, 1, "edge"), np.ones(3) / 3, "valid")
    quiet = np.concatenate([[0], level < np.percentile(level, 90) + QUIET_DB, [0]]).astype(int)
    edges = np.flatnonzero(np.diff(quiet)).reshape(-1, 2) * _HOP / SAMPLE_RATE
    return [(a, b) for a, b in edges.tolist() if b - a >= LEAST_PAUSE]


def place(
    seconds: float,
    quiet: Sequence[tuple[float, float]],
    phones: Sequence[str],
    finals: Sequence[int],
    ends: Sequence[float],
) -> list[tuple[str, float]]:
    """[(phone, end in s)] with pauses where it is quiet, those of the teacher's own included.

    ``finals``: places of the words' last phones, after which a pause may be; ``ends``: of the
    phones by the teacher's durations.  Quiet far from all of them is a stop's closure.
    """
    last = max(finals)
    pauses: dict[int, tuple[float, float]] = {}
    for a, b in quiet:
        if a < 0.03:
            pauses[0] = (a, b)
            continue
        if b > seconds - 0.1:
            far, k = 0.0, last
        else:
            far, k = min(
                (max(a - ends[k + (phones[k + 1] == PAUSE)], ends[k] - b, 0.0), k) for k in finals
            )
        if far < 0.08 and (k not in pauses or b - a > pauses[k][1] - pauses[k][0]):
            pauses[k] = (a, b)
    out: list[tuple[str, float, bool]] = []  # phone, end, whether the end is certain
    for k, phone in enumerate(phones):
        if k == 0:
            out.append((phone, pauses.get(0, (0.0, ends[0]))[1], True))
        elif k == len(phones) - 1:
            out.append((phone, seconds, True))
        elif k in pauses:
            out.append((phone, pauses[k][0], True))
            if k != last:
                out.append((PAUSE, pauses[k][1], True))
        elif phone != PAUSE or k - 1 not in pauses:
            out.append((phone, float(ends[k]), False))
    times = [end for _, end, _ in out]
    for i in range(len(out) - 2, 0, -1):  # room for every phone, certain ends first
        if not out[i][2]:
            times[i] = min(times[i], times[i + 1] - LEAST_PHONE)
    for i in range(1, len(out) - 1):
        times[i] = max(times[i], times[i - 1] + LEAST_PHONE)
    return [(phone, float(t)) for (phone, _, _), t in zip(out, times, strict=True)]


class Kokoro:
    """Kokoro-82M by onnxruntime, its generator by torch.  Raises CorpusError where ``folder`` has not its files."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import onnx
        import onnxruntime as ort
        import torch

        for name in ("kokoro.onnx", "config.json", "voices"):
            if not (folder / name).exists():
                raise CorpusError(
                    f"{folder}: expected kokoro.onnx, config.json and voices/*.bin of Kokoro-82M, "
                    f"{name} is missing"
                )
        model = onnx.load(str(folder / "kokoro.onnx"))
        torch.set_num_threads(threads)
        times = time_products(torch.device("cpu"))
        self._generator = Generator(model.graph, min(times, key=lambda dtype: times[dtype]))
        del model.graph.output[:]
        for name in (_DURATIONS, *self._generator.inputs):
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
        prune(model.graph)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._vocab = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab"]
        self._folder = folder / "voices"

    def style(self, voice: str) -> NDArray[np.float32]:
        """[510, 256] of a voice, or of voices joined by "+", mixed in equal parts."""
        found = []
        for name in voice.split("+"):
            path = self._folder / f"{name}.bin"
            if not path.is_file():
                raise CorpusError(f"{self._folder}: no voice {name!r}")
            found.append(np.fromfile(path, np.float32).reshape(-1, 256))
        return np.mean(found, axis=0, dtype=np.float32)

    def speak(
        self, s: Script, voice: str, speed: float = 1.0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """float32 [N] at 16 kHz and the units of each token, begin and end included."""
        tokens = [self._vocab[c] for c in s.symbols]
        names = [_DURATIONS, *self._generator.inputs]
        found = self._session.run(
            names,
            {
                "tokens": np.array([[0, *tokens, 0]], np.int64),
                "style": self.style(voice)[len(tokens)][None],
                "speed": np.array([speed], np.float32),
            },
        )
        samples = self._generator(dict(zip(names, found, strict=True)))
        pcm = soxr.resample(samples, 24000, SAMPLE_RATE).astype(np.float32)
        return pcm, np.rint(found[0].ravel()).astype(np.int64)


@dataclass(frozen=True)
class Spoken:
    """A sentence by the teacher: float32 [N] at 16 kHz at the corpus' level, its labels."""

    samples: NDArray[np.float32]
    text: str
    phones: tuple[Phone, ...]
    words: tuple[Word, ...]


def speak(teacher: Kokoro, text: str, voice: str, speed: float = 1.0) -> Spoken:
    """``text`` in a voice, silence around it cut to ``BEFORE`` and ``AFTER``.  Raises ValueError
    where nothing in it can be spoken."""
    words = sentence_words(text)
    if len(words) < 3:
        raise ValueError(f"nothing to speak in {text[:40]!r}")
    mark = text.rstrip("\"') ")[-1:]
    s = script(words, mark if mark and mark in "?!" else ".")
    samples, units = teacher.speak(s, voice, speed)
    labels = place(
        len(samples) / SAMPLE_RATE,
        silences(samples),
        s.phones,
        s.finals,
        list(phone_ends(s, units)),
    )
    begin = max(0.0, labels[0][1] - BEFORE)
    stop = min(len(samples) / SAMPLE_RATE, labels[-2][1] + AFTER)
    cut = samples[round(begin * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
    seconds = len(cut) / SAMPLE_RATE
    phones = tuple(Phone(p, min(max(t - begin, 0.0), seconds)) for p, t in labels)
    phones = (*phones[:-1], Phone(phones[-1].phone, seconds))
    return Spoken(set_level(cut, LEVEL_DB), text, phones, word_times(text, words, phones))


def word_times(
    text: str, words: Sequence[Sequence[str]], phones: Sequence[Phone]
) -> tuple[Word, ...]:
    """The text's words with their times; none where text and phones count their words differently."""
    written = [
        w for w in ("".join(c for c in t if c.isalnum() or c == "'") for t in text.split()) if w
    ]
    said = [list(w) for w in words if list(w) != [PAUSE]]
    if len(written) != len(said):
        return ()
    found, i = [], 0
    for word, its in zip(written, said, strict=True):
        while phones[i].phone == PAUSE:
            i += 1
        start = phones[i - 1].end if i else 0.0
        i += len(its)
        found.append(Word(word.lower(), start, phones[i - 1].end))
    return tuple(found)


def draw_shard(
    teacher: Kokoro, split: str, index: int, seed: int, voices: Sequence[str]
) -> tuple[NDArray[np.int16], list[Label]]:
    """A shard from its place and seed alone: groups of sentences by one voice each."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, SPLITS.index(split), index)))
    name = f"tts-{split}-{index:04d}"
    stored: list[NDArray[np.int16]] = []
    labels: list[Label] = []
    total = 0
    while total < SHARD_SECONDS * SAMPLE_RATE:
        voice = voices[int(rng.integers(len(voices)))]
        group: list[Track] = []
        while len(group) < GROUP:
            text = sentences.draw_sentence(rng, split)
            speed = float(np.clip(1 + 0.08 * rng.standard_normal(), 0.8, 1.25))
            spoken = speak(teacher, text[:1].upper() + text[1:], voice, speed)
            pcm = np.round(spoken.samples * 32767).astype(np.int16)
            group.append(
                Track(total, len(pcm), spoken.text, f"kokoro-{voice}", spoken.phones, spoken.words)
            )
            stored.append(pcm)
            total += len(pcm)
        for target, prompt in zip(group, group[1:] + group[:1], strict=True):
            labels.append(
                Label(
                    f"{name}-{len(labels):04d}", "tts", split, {"target": target, "prompt": prompt}
                )
            )
    return np.concatenate(stored), labels


def make(
    teacher: Kokoro, out: Path, split: str, hours: float, seed: int, voices: Sequence[str]
) -> None:
    """Shards of ``SHARD_SECONDS`` until there are ``hours``; those that are there are kept."""
    out.mkdir(parents=True, exist_ok=True)
    described = {
        "format": FORMAT,
        "seed": seed,
        "sample_rate": SAMPLE_RATE,
        "sources": {
            "kokoro": {
                "what": "Kokoro-82M v1.0, a text-to-speech model, speaking the engine's phones",
                "licence": "Apache-2.0",
                "voices": list(voices),
            },
            "wordnet": {"what": "sentences", "licence": "WordNet licence"},
        },
    }
    (out / MANIFEST).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    for index in range(int(np.ceil(hours * 3600 / SHARD_SECONDS))):
        path = out / f"tts-{split}-{index:04d}.jsonl"
        if path.exists():
            continue
        pcm, labels = draw_shard(teacher, split, index, seed, voices)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        with part.open("wb") as f:
            np.save(f, pcm)
        part.replace(path.with_suffix(".npy"))
        part.write_text("\n".join(label.line() for label in labels) + "\n", encoding="utf-8")
        part.replace(path)
        print(f"{path.name}: {len(labels)} sentences, {len(pcm) / SAMPLE_RATE:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train corpus teach",
        description="Speech by a text-to-speech model, with the times of its phones.",
        epilog=(
            "example: uniaudio-train corpus teach kokoro --model kokoro --hours 2 --out data/kokoro"
        ),
    )
    parser.add_argument("teacher", choices=("kokoro",))
    parser.add_argument("--model", required=True, type=Path, help="folder of the model's files")
    parser.add_argument("--out", required=True, type=Path, help="folder of the shards")
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--voices",
        default=",".join(VOICES),
        help='separated by commas, "a+b" is a mixture (default: %(default)s)',
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    try:
        teacher: Any = Kokoro(args.model, args.threads)
        voices = args.voices.split(",")
        for voice in voices:
            teacher.style(voice)
        make(teacher, args.out, args.split, args.hours, args.seed, voices)
    except (CorpusError, ValueError, RuntimeError, OSError) as e:
        print(f"uniaudio-train corpus: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("uniaudio-train corpus: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
