"""Synthesises speech with an open text-to-speech model; its predicted durations become labels.

    uniaudio-train corpus teach kokoro --model FOLDER --hours 2 --out data/kokoro

The supported model is Kokoro-82M (Apache-2.0). ``FOLDER`` holds ``kokoro.onnx`` (v1.0),
``config.json`` (the vocabulary) and ``voices/*.bin`` (float32 [510, 256], a style per token count).
The durations are an internal tensor of the graph; loading adds it to the outputs.

Measured timing: a unit of duration is 600 samples at 24 kHz. Sound is ``LEAD`` ahead of the
boundaries that the durations give. The duration of a space belongs to the following word, the first
unit of a stress mark to the preceding consonant, and the silence of a pause to the preceding phone.
Pauses are therefore found by their level. A pause that the model adds on its own is added to the
labels.
"""

from __future__ import annotations

import argparse
import json
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
from .shards import MANIFEST, write_shard
from .speech import set_level

# named by the exporter: the summed and clipped durations of the tokens
_DURATIONS = "/encoder/Clip_output_0"
FRAME = 600 / 24000  # s per unit of duration
# s by which sound is ahead of the boundaries given by the durations: the median over 121
# vowel-fricative boundaries of six voices
LEAD = 0.063
QUIET_DB = -35.0  # relative to the loud parts; below this is a pause
LEAST_PAUSE = 0.08  # s
_HOP = 80  # samples per level frame
BEFORE, AFTER = 0.25, 0.3  # s of silence kept around a sentence
LEAST_PHONE = 0.01  # s
SHARD_SECONDS = 240.0
GROUP = 5  # consecutive sentences by one voice; they are each other's prompts
PAUSE = "pau"

MODEL = "kokoro.onnx"
LICENCE = "Apache-2.0"  # of the model and of its voices
VOICES = ("af_heart", "af_bella", "am_michael", "am_fenrir", "bf_emma", "bm_george")
# Equal mixtures of two voices, used as further speakers.
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
# Function words without stress digits: unstressed in a sentence, whatever the lexicon says.
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
    """The phones of a word -> [(symbol of the teacher, index of the phone)].

    A stress mark goes before its vowel.
    """
    weak = tuple(p.rstrip("012") for p in phones) in _WEAK
    out: list[tuple[str, int]] = []
    for i, p in enumerate(phones):
        if p[-1] == "1" and not weak:
            out.append((_STRESS, i))
        out += [(c, i) for c in ("əɹ" if p == "er0" else _SYMBOL[p.rstrip("012")])]
    return out


@dataclass(frozen=True)
class Script:
    """A sentence for the teacher: its symbols, the phone index of each, all phones, and the indices
    of the words' last phones.
    """

    symbols: list[str]
    owner: list[int]
    phones: list[str]
    finals: list[int]


def script(words: Sequence[Sequence[str]], end: str = ".") -> Script:
    """``words`` are lists of phones from ``sentence_words``, a pause being its own word.

    ``end`` is the final punctuation mark.
    """
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
        elif phones:  # the begin token stands for the first pause
            symbols.append(end if n == len(words) - 1 else ",")
            owner.append(len(phones))
        phones += word
    return Script(symbols, owner, phones, finals)


def phone_ends(s: Script, units: NDArray[np.int64]) -> NDArray[np.float64]:
    """End times in s [P] of the script's phones, from the durations of its tokens.

    ``units`` include the begin and end tokens. Pauses are not located yet.
    """
    units = units.copy()
    for k, symbol in enumerate(s.symbols):  # units[k + 1] belongs to symbols[k]
        if symbol == _STRESS and k and s.symbols[k - 1] != " " and units[k + 1] > 1:
            units[k] += 1
            units[k + 1] -= 1
    length = np.zeros(len(s.phones))
    np.add.at(length, [0, *s.owner, len(s.phones) - 1], units)
    return np.cumsum(length) * FRAME - LEAD


def silences(samples: NDArray[np.float32]) -> list[tuple[float, float]]:
    """(begin, end) in s of quiet stretches of at least ``LEAST_PAUSE``; samples [N] at 16 kHz."""
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
    """[(phone, end in s)], with pauses where the audio is quiet, including those the teacher added.

    ``finals`` are the indices of the words' last phones, after which a pause may follow. ``ends``
    are the phone ends from the teacher's durations. A quiet stretch far from all of them is the
    closure of a stop.
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
    out: list[tuple[str, float, bool]] = []  # phone, end, whether the end is known exactly
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
    for i in range(len(out) - 2, 0, -1):  # gives every phone its minimum length; exact ends stay
        if not out[i][2]:
            times[i] = min(times[i], times[i + 1] - LEAST_PHONE)
    for i in range(1, len(out) - 1):
        times[i] = max(times[i], times[i - 1] + LEAST_PHONE)
    return [(phone, float(t)) for (phone, _, _), t in zip(out, times, strict=True)]


def english_voices(folder: Path) -> list[str]:
    """The names of the voices of American and British English in Kokoro's folder. Raises CorpusError
    where there is none.
    """
    found = sorted(p.stem for p in (folder / "voices").glob("[ab][fm]_*.bin"))
    if not found:
        raise CorpusError(
            f"{folder}: expected English voices such as voices/af_heart.bin, found none"
        )
    return found


class Kokoro:
    """Kokoro-82M through onnxruntime, its generator through torch.

    Raises CorpusError where ``folder`` lacks its files.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import onnx
        import onnxruntime as ort
        import torch

        for name in (MODEL, "config.json", "voices"):
            if not (folder / name).exists():
                raise CorpusError(
                    f"{folder}: expected kokoro.onnx, config.json and voices/*.bin of Kokoro-82M, "
                    f"{name} is missing"
                )
        model = onnx.load(str(folder / MODEL))
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
        """The style [510, 256] of a voice; "a+b" is the mean of several."""
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
        """float32 [N] at 16 kHz, and each token's duration in units (begin and end included)."""
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
    """A synthesised sentence: float32 [N] at 16 kHz at the corpus level, and its labels."""

    samples: NDArray[np.float32]
    text: str
    phones: tuple[Phone, ...]
    words: tuple[Word, ...]


def speak(teacher: Kokoro, text: str, voice: str, speed: float = 1.0) -> Spoken:
    """Synthesises ``text``; trims the silence around it to ``BEFORE`` and ``AFTER``.

    Raises ValueError where nothing in it can be spoken.
    """
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
    """The words of the text with their times; empty where the word counts of text and phones
    differ.
    """
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
    """A shard as a function of its index and seed: groups of sentences, each by one voice."""
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
    """Writes shards of ``SHARD_SECONDS`` until there are ``hours``; existing shards are kept."""
    out.mkdir(parents=True, exist_ok=True)
    described = {
        "format": FORMAT,
        "seed": seed,
        "sample_rate": SAMPLE_RATE,
        "sources": {
            "kokoro": {
                "what": "speech synthesised by Kokoro-82M v1.0 from the engine's phones",
                "licence": LICENCE,
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
        write_shard(path, pcm, labels)
        print(f"{path.name}: {len(labels)} sentences, {len(pcm) / SAMPLE_RATE:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train corpus teach",
        description="Synthesise speech with a text-to-speech model, with phone times.",
        epilog=(
            "example: uniaudio-train corpus teach kokoro --model kokoro --hours 2 --out data/kokoro"
        ),
    )
    parser.add_argument("teacher", choices=("kokoro",))
    parser.add_argument("--model", required=True, type=Path, help="folder of the model files")
    parser.add_argument("--out", required=True, type=Path, help="folder of the shards")
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--voices",
        default=",".join(VOICES),
        help='comma-separated voices; "a+b" is a mixture (default: %(default)s)',
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
        print("uniaudio-train corpus: stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
