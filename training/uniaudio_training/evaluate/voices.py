"""A model's voices, cloning, conversion and clean-up by judges of real speech, beside its peers.

    uniaudio-train evaluate voices --readers data/real --noises data/noises \
        --whisper whisper-base --peers flite espeak rnnoise --json voices.json

Readers' own clips are judged too: what a perfect system would have.

============  =====================================================================================================
task          judged
============  =====================================================================================================
tts           sentences that no training had, by every bundled voice: distillMOS, P.808, OVRL, whisper's WER, and the
              spread of pitch in semitones (a voice that drones has little)
clone         the same by held-out readers, from 3 s of each: cosine to another clip of the reader, and that over the
              reader's own ceiling (two clips of the reader)
vc            a reader's sentence in another's voice: WER, cosine to the target's voice less that to the source's
se            real noise over readers at 5 and 0 dB: OVRL and ESTOI gained, WER beside the input's; RNNoise as a peer
sd            readers in simulated rooms: OVRL and ESTOI gained, WER beside the input's
tse           two readers at once, equally loud, and 3 s of one of them: ESTOI gained, WER beside the input's
============  =====================================================================================================
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr
from tqdm import tqdm

from ..corpus import degrade
from ..corpus.pitch import f0_track
from ..corpus.reading import CorpusError, open_corpus
from . import originals
from .judges import SAMPLE_RATE, JudgeMissing, Samples, at_16k, estoi, speaker_encoder
from .metrics import Errors, cosine, edit_errors, error_rate
from .mos import distillmos, dnsmos, heard_words, whisper
from .real import Judgement, Reading, readings, table

PROMPT_SECONDS = 3.0
NOISE_DB = (5.0, 0.0)
TASKS = ("tts", "clone", "vc", "se", "sd", "tse")
Say = Callable[[str, int], Samples]
Listen = Callable[[Samples], list[str]]


def pitch_spread(samples: Samples) -> float:
    """Standard deviation in semitones of the voiced F0, octave jumps of the tracker left out."""
    f0, _ = f0_track(samples, 60.0, 400.0)
    voiced = f0[f0 > 0]
    if len(voiced) < 20:
        return 0.0
    semitones = 12 * np.log2(voiced / np.median(voiced))
    return float(semitones[np.abs(semitones) < 10].std())


def judge_speech(clips: Sequence[tuple[str, Samples]], listen: Listen | None) -> Judgement:
    """Means over (what should be said, what was made)."""
    values: dict[str, list[float]] = {}
    errors: list[Errors] = []
    for text, samples in clips:
        d = dnsmos()(samples)
        row = {
            "distillMOS": distillmos()(samples),
            "P.808": d.p808,
            "OVRL": d.ovrl,
            "pitch spread": pitch_spread(samples),
        }
        for k, v in row.items():
            values.setdefault(k, []).append(v)
        if listen is not None:
            errors.append(edit_errors(heard_words(text), listen(samples)))
    out = {k: round(float(np.mean(v)), 4) for k, v in values.items()}
    if errors:
        out["WER"] = round(error_rate(errors), 4)
    return out | {"clips": len(clips)}


# Peers


def flite_voice(name: str) -> Say:
    """A voice of flite, the corpus' first teacher."""
    from ..corpus.flite import flite

    return lambda text, seed: np.asarray(flite().say(text, name, None, 1.0, seed)[0], np.float32)


def espeak(text: str, seed: int) -> Samples:
    """espeak-ng, a program of its own."""
    if shutil.which("espeak-ng") is None:
        raise JudgeMissing(
            "this peer needs espeak-ng; install it (Debian: apt-get install espeak-ng)"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        subprocess.run(["espeak-ng", "-v", "en-us", "-w", str(path), "--", text], check=True)
        samples, rate = sf.read(str(path), dtype="float32")
    return at_16k(samples, rate)


def piper(model: Path) -> Say:
    """A voice of piper, an ``.onnx`` file with its ``.onnx.json`` beside it."""
    try:
        from piper import PiperVoice
    except ImportError as e:
        raise JudgeMissing(
            f"this peer needs piper-tts ({e}); install it: pip install --no-deps piper-tts"
        ) from None
    voice = PiperVoice.load(str(model))

    def say(text: str, seed: int) -> Samples:
        chunks = list(voice.synthesize(text))
        samples = np.concatenate([np.asarray(c.audio_float_array, np.float32) for c in chunks])
        return at_16k(samples, chunks[0].sample_rate)

    return say


def kokoro(folder: Path) -> Say:
    """Kokoro-82M fed with our phones (``corpus/teacher.py``), its six voices in turn."""
    from ..corpus.teacher import VOICES, Kokoro, speak

    teacher = Kokoro(folder)
    return lambda text, seed: speak(teacher, text, VOICES[seed % len(VOICES)]).samples


def through_codec(engine: Any, say: Say) -> Say:
    """What ``say`` would be if the language model made no mistake: the codec with its codebooks."""

    def coded(text: str, seed: int) -> Samples:
        codes = engine.encode((say(text, seed), SAMPLE_RATE), engine.config.lm.num_codebooks)
        return np.asarray(engine.decode(codes).samples, np.float32)

    return coded


class RNNoise:
    """RNNoise from pyrnnoise's library (BSD): float32 [N] at 16 kHz in and out."""

    def __init__(self) -> None:
        from .mos import _package

        path = _package("pyrnnoise", "--no-deps pyrnnoise") / "librnnoise.so"
        self._lib = ctypes.CDLL(str(path))
        self._lib.rnnoise_create.restype = ctypes.c_void_p
        self._lib.rnnoise_create.argtypes = [ctypes.c_void_p]
        self._lib.rnnoise_destroy.argtypes = [ctypes.c_void_p]
        pointer = ctypes.POINTER(ctypes.c_float)
        self._lib.rnnoise_process_frame.argtypes = [ctypes.c_void_p, pointer, pointer]

    def __call__(self, samples: Samples) -> Samples:
        size = 480
        x = soxr.resample(samples, SAMPLE_RATE, 48000).astype(np.float32) * 32768
        x = np.pad(x, (0, -len(x) % size + 2 * size))
        out = np.zeros_like(x)
        state = self._lib.rnnoise_create(None)
        pointer = ctypes.POINTER(ctypes.c_float)
        for i in range(0, len(x), size):
            frame = np.ascontiguousarray(x[i : i + size])
            made = np.zeros(size, np.float32)
            self._lib.rnnoise_process_frame(
                state, made.ctypes.data_as(pointer), frame.ctypes.data_as(pointer)
            )
            out[i : i + size] = made
        self._lib.rnnoise_destroy(state)
        y = soxr.resample(out[size:] / 32768, 48000, SAMPLE_RATE)  # it is a frame late
        return np.asarray(y[: len(samples)], np.float32)


# Tasks


def speak_all(say: Say, texts: Sequence[str], name: str) -> list[tuple[str, Samples]]:
    return [
        (t, np.asarray(say(t, i), np.float32))
        for i, t in enumerate(tqdm(texts, desc=name, mininterval=5))
    ]


def bundled(engine: Any, names: Sequence[str], **options: Any) -> Say:
    """The model's own voices in turn."""

    def say(text: str, seed: int) -> Samples:
        made = engine.tts(text, voice=names[seed % len(names)], seed=seed, **options)
        return np.asarray(made.samples, np.float32)

    return say


def tts(
    texts: Sequence[str], listen: Listen | None, systems: dict[str, Say]
) -> dict[str, Judgement]:
    """Each system says all of ``texts``."""
    rows = {}
    for name, say in systems.items():
        rows[name] = judge_speech(speak_all(say, texts, name), listen)
    return rows


def by_reader(clips: Sequence[Reading]) -> dict[str, list[Reading]]:
    found: dict[str, list[Reading]] = {}
    for clip in clips:
        found.setdefault(clip.speaker, []).append(clip)
    return {k: v for k, v in sorted(found.items()) if len(v) > 1}


def clone(
    engine: Any,
    clips: Sequence[Reading],
    texts: Sequence[str],
    listen: Listen | None,
    **options: Any,
) -> Judgement:
    """Every reader says its share of ``texts`` in the voice of the first 3 s of a clip."""
    encoder = speaker_encoder()
    readers = by_reader(clips)
    made, likeness, ceilings = [], [], []
    for i, text in enumerate(tqdm(texts, desc="clone", mininterval=5)):
        mine = list(readers.values())[i % len(readers)]
        prompt = mine[0].samples[: int(PROMPT_SECONDS * SAMPLE_RATE)]
        samples = engine.tts(text, prompt=(prompt, SAMPLE_RATE), seed=i, **options).samples
        made.append((text, np.asarray(samples, np.float32)))
        other = encoder.embed(mine[1].samples)
        likeness.append(cosine(encoder.embed(made[-1][1]), other))
        ceilings.append(cosine(encoder.embed(mine[0].samples), other))
    row = judge_speech(made, listen)
    row["cosine"] = round(float(np.mean(likeness)), 4)
    row["over ceiling"] = round(float(np.mean(likeness) / np.mean(ceilings)), 4)
    return row


def vc(
    engine: Any, clips: Sequence[Reading], count: int, listen: Listen | None
) -> dict[str, Judgement]:
    """A clip of each reader in turn in the voice of another reader."""
    encoder = speaker_encoder()
    readers = list(by_reader(clips).values())
    made, gains = [], []
    for i in tqdm(range(count), desc="vc", mininterval=5):
        source = readers[i % len(readers)]
        target = readers[(i + 1 + i // len(readers)) % len(readers)]
        if source is target:
            target = readers[(i + 1) % len(readers)]
        clip = source[i // len(readers) % len(source)]
        prompt = target[0].samples[: int(PROMPT_SECONDS * SAMPLE_RATE)]
        audio = engine.convert((clip.samples, SAMPLE_RATE), (prompt, SAMPLE_RATE), seed=i)
        samples = np.asarray(audio.samples, np.float32)
        voice = encoder.embed(samples)
        gains.append(
            cosine(voice, encoder.embed(target[1].samples))
            - cosine(voice, encoder.embed(source[0].samples))
        )
        made.append((clip.text, samples))
    row = judge_speech(made, listen)
    row["cosine gain"] = round(float(np.mean(gains)), 4)
    return {"vc, held-out readers": row}


@dataclass(frozen=True)
class Pair:
    """A reader's clip, what is heard of it in ``mixed`` [N], and 3 s of another clip of the reader."""

    clip: Reading
    mixed: Samples
    prompt: Samples


def noisy(clips: Sequence[Reading], noises: str | Path, snr: float, seed: int = 0) -> list[Pair]:
    """Each clip with a noise of the test split over it at ``snr`` dB."""
    sounds = open_corpus(noises)["t2s", "test"]
    rng = np.random.default_rng(seed)
    out = []
    for clip in clips:
        noise = degrade.loop(rng, len(clip.samples), sounds[int(rng.integers(len(sounds)))].audio())
        clean, mixed = (x / np.float32(32767) for x in degrade.mix_at(clip.samples, noise, snr))
        out.append(Pair(replace(clip, samples=clean), mixed, np.zeros(0, np.float32)))
    return out


def reverberant(clips: Sequence[Reading], seed: int = 0) -> list[Pair]:
    """Each clip in a simulated room."""
    rng = np.random.default_rng(seed)
    out = []
    for clip in clips:
        made = degrade.reverberate(clip.samples, degrade.room(rng))
        clean, mixed = (x / np.float32(32767) for x in made)
        out.append(Pair(replace(clip, samples=clean), mixed, np.zeros(0, np.float32)))
    return out


def overlapped(clips: Sequence[Reading], seed: int = 0) -> list[Pair]:
    """Each clip with one of another reader over it, equally loud."""
    rng = np.random.default_rng(seed)
    readers = by_reader(clips)
    out = []
    for clip in clips:
        others = [c for c in clips if c.speaker != clip.speaker]
        mine = [c for c in readers.get(clip.speaker, []) if c.id != clip.id]
        if not others or not mine:
            continue
        other = others[int(rng.integers(len(others)))].samples
        over = degrade.loop(rng, len(clip.samples), other)
        clean, mixed = (x / np.float32(32767) for x in degrade.mix_at(clip.samples, over, 0.0))
        prompt = mine[0].samples[: int(PROMPT_SECONDS * SAMPLE_RATE)]
        out.append(Pair(replace(clip, samples=clean), mixed, prompt))
    return out


def answers_of(
    engine: Any, task: str, limits: Sequence[float] = ()
) -> dict[str, Callable[[Pair], Samples]]:
    """The model, and where it has a post-filter: what it is with each of the attenuation ``limits``
    in dB, and without its post-filter.
    """

    def answer(pair: Pair, **more: Any) -> Samples:
        heard = {"source": (pair.mixed, SAMPLE_RATE), "seed": 0, **more}
        if len(pair.prompt):
            heard["prompt"] = (pair.prompt, SAMPLE_RATE)
        return np.asarray(engine.generate(task, **heard).samples, np.float32)

    systems: dict[str, Callable[[Pair], Samples]] = {"model": answer}
    if engine.task(task).postfilter:
        for limit in limits:
            systems[f"model, at most {limit:g} dB"] = partial(answer, attenuation_limit=limit)
        systems["model without its post-filter"] = lambda pair: answer(pair, postfilter=0)
    return systems


def clean_up(
    what: str,
    systems: dict[str, Callable[[Pair], Samples]],
    pairs: Sequence[Pair],
    listen: Listen | None,
) -> dict[str, Judgement]:
    """The input, and what each system makes of it, with the OVRL and ESTOI gained over the input."""

    def judged(made: Sequence[Samples]) -> Judgement:
        row = judge_speech([(p.clip.text, x) for p, x in zip(pairs, made, strict=True)], listen)
        likeness = [estoi(p.clip.samples, x) for p, x in zip(pairs, made, strict=True)]
        return row | {"ESTOI": round(float(np.mean(likeness)), 4)}

    before = judged([p.mixed for p in pairs])
    rows = {f"{what}, input": before}
    for name, f in systems.items():
        made = [np.asarray(f(p), np.float32) for p in tqdm(pairs, desc=name, mininterval=5)]
        row = judged([_of_length(x, len(p.mixed)) for x, p in zip(made, pairs, strict=True)])
        gains = {f"{k} gain": round(row[k] - before[k], 4) for k in ("OVRL", "ESTOI")}
        rows[f"{what}, {name}"] = row | gains
    return rows


def _of_length(samples: Samples, count: int) -> Samples:
    return np.pad(samples[:count], (0, max(0, count - len(samples))))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train evaluate voices",
        description="A model's speech by judges of real speech, beside its peers.",
    )
    parser.add_argument("--model", help="a model folder (the bundled one)")
    parser.add_argument("--task", default=",".join(TASKS), help="some of %(default)s")
    parser.add_argument("--readers", type=Path, help="corpus whose test split has real readers")
    parser.add_argument("--noises", type=Path, help="corpus whose t2s test split has real noises")
    parser.add_argument("--whisper", type=Path, help="whisper's folder; left out: no word errors")
    parser.add_argument("--count", type=int, default=24, help="sentences or clips of a task")
    parser.add_argument(
        "--peers",
        action="extend",
        nargs="*",
        default=[],
        help="some of flite, espeak, piper, kokoro, kokoro-codec (its speech through the model's "
        "codec), rnnoise",
    )
    parser.add_argument("--piper", type=Path, help="a voice of piper, an .onnx file")
    parser.add_argument("--kokoro", type=Path, help="Kokoro's folder")
    parser.add_argument(
        "--voices", action="extend", nargs="+", help="some of the model's voices, for tts (all)"
    )
    parser.add_argument(
        "--best-of",
        type=int,
        default=1,
        metavar="N",
        help="also tts and clone with the engine's option best_of",
    )
    parser.add_argument(
        "--attenuation-limit",
        type=float,
        nargs="+",
        default=[],
        metavar="DB",
        help="also se, sd and tse with these values of the engine's option attenuation_limit",
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    tasks = args.task.split(",")
    try:
        if unknown := set(tasks) - set(TASKS):
            raise ValueError(
                f"--task: expected some of {', '.join(TASKS)}, got {sorted(unknown)[0]!r}"
            )
        if args.readers is None and set(tasks) - {"tts"}:
            raise ValueError("clone, vc, se, sd and tse need --readers")
        for peer, where in (
            ("piper", args.piper),
            ("kokoro", args.kokoro),
            ("kokoro-codec", args.kokoro),
        ):
            if peer in args.peers and where is None:
                raise ValueError(f"the peer {peer} needs --{peer.partition('-')[0]}")
        from uniaudio_engine import Engine

        engine = Engine.from_pretrained(args.model)
        listen = whisper(args.whisper) if args.whisper else None
        texts = [t[:1].upper() + t[1:] for t in originals.open_sentences(args.count, 0)]
        clips = readings(args.readers, args.count) if args.readers else []
        if set(tasks) & {"clone", "vc", "tse"} and not by_reader(clips):
            raise ValueError(
                f"clone, vc and tse need two clips of a reader, --count {args.count} gives one of each"
            )
        ways: dict[str, dict[str, int]] = {"": {}}
        if args.best_of > 1:
            ways[f", clearest of {args.best_of}"] = {"best_of": args.best_of}
        rows: dict[str, Judgement] = {}
        if clips:
            rows["readers' own clips"] = judge_speech([(c.text, c.samples) for c in clips], listen)
        if "tts" in tasks:
            names = args.voices or engine.voices()
            if unknown := set(names) - set(engine.voices()):
                raise ValueError(
                    f"--voices: expected some of {', '.join(engine.voices())}, got {sorted(unknown)[0]!r}"
                )
            said = {
                f"tts, bundled voices{name}": bundled(engine, names, **options)
                for name, options in ways.items()
            }
            if "flite" in args.peers:
                said |= {f"flite {v}": flite_voice(v) for v in ("slt", "rms")}
            if "espeak" in args.peers:
                said["espeak-ng"] = espeak
            if "piper" in args.peers:
                said[f"piper {args.piper.stem}"] = piper(args.piper)
            if "kokoro" in args.peers:
                said["Kokoro"] = kokoro(args.kokoro)
            if "kokoro-codec" in args.peers:
                said["Kokoro, through the codec"] = through_codec(engine, kokoro(args.kokoro))
            rows |= tts(texts, listen, said)
        if "clone" in tasks:
            for name, options in ways.items():
                rows[f"clone, held-out readers{name}"] = clone(
                    engine, clips, texts, listen, **options
                )
        if "vc" in tasks:
            rows |= vc(engine, clips, args.count, listen)
        if "se" in tasks:
            if args.noises is None:
                raise ValueError("se needs --noises")
            systems = answers_of(engine, "se", args.attenuation_limit)
            if "rnnoise" in args.peers:
                denoise = RNNoise()
                systems["RNNoise"] = lambda p: denoise(p.mixed)
            for snr in NOISE_DB:
                pairs = noisy(clips, args.noises, snr)
                rows |= clean_up(f"se at {snr:g} dB", systems, pairs, listen)
        if "sd" in tasks:
            rows |= clean_up(
                "sd", answers_of(engine, "sd", args.attenuation_limit), reverberant(clips), listen
            )
        if "tse" in tasks:
            rows |= clean_up(
                "tse", answers_of(engine, "tse", args.attenuation_limit), overlapped(clips), listen
            )
    except (CorpusError, JudgeMissing, ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
