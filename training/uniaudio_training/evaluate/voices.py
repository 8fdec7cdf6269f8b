"""A model's voices, cloning, conversion and clean-up by judges of real speech, beside its peers.

    uniaudio-train evaluate voices --readers data/real --noises data/noises \
        --whisper whisper-base --peers flite espeak rnnoise --json voices.json

============  =====================================================================================================
task          judged
============  =====================================================================================================
tts           sentences that no training had, by every bundled voice: distillMOS, P.808, OVRL, whisper's WER, and the
              spread of pitch in semitones (a voice that drones has little)
clone         the same by held-out readers, from 3 s of each: cosine to another clip of the reader, and that over the
              reader's own ceiling (two clips of the reader)
vc            a reader's sentence in another's voice: WER, cosine to the target's voice less that to the source's
se            real noise over readers at 5 dB: OVRL gained, WER beside that of the input; RNNoise as a peer
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
from .judges import SAMPLE_RATE, JudgeMissing, Samples, at_16k, speaker_encoder
from .metrics import Errors, cosine, edit_errors, error_rate
from .mos import distillmos, dnsmos, heard_words, whisper
from .real import Judgement, Reading, readings, table

PROMPT_SECONDS = 3.0
NOISE_DB = 5.0
TASKS = ("tts", "clone", "vc", "se")
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


def kokoro(folder: Path, voice: str) -> Say:
    """Kokoro-82M fed with our phones (``corpus/teacher.py``)."""
    from ..corpus.teacher import Kokoro, speak

    teacher = Kokoro(folder)
    return lambda text, seed: speak(teacher, text, voice).samples


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


def tts(
    engine: Any, texts: Sequence[str], listen: Listen | None, peers: dict[str, Say]
) -> dict[str, Judgement]:
    """Each bundled voice says its share of ``texts``; each peer all of them."""
    names = engine.voices()
    clips = [
        (t, np.asarray(engine.tts(t, voice=names[i % len(names)], seed=i).samples, np.float32))
        for i, t in enumerate(tqdm(texts, desc="tts", mininterval=5))
    ]
    rows = {"tts, bundled voices": judge_speech(clips, listen)}
    for name, say in peers.items():
        rows[name] = judge_speech(speak_all(say, texts, name), listen)
    return rows


def by_reader(clips: Sequence[Reading]) -> dict[str, list[Reading]]:
    found: dict[str, list[Reading]] = {}
    for clip in clips:
        found.setdefault(clip.speaker, []).append(clip)
    return {k: v for k, v in sorted(found.items()) if len(v) > 1}


def clone(
    engine: Any, clips: Sequence[Reading], texts: Sequence[str], listen: Listen | None
) -> dict[str, Judgement]:
    """Every reader says its share of ``texts`` in the voice of the first 3 s of a clip."""
    encoder = speaker_encoder()
    readers = by_reader(clips)
    made, likeness, ceilings = [], [], []
    for i, text in enumerate(tqdm(texts, desc="clone", mininterval=5)):
        mine = list(readers.values())[i % len(readers)]
        prompt = mine[0].samples[: int(PROMPT_SECONDS * SAMPLE_RATE)]
        samples = engine.tts(text, prompt=(prompt, SAMPLE_RATE), seed=i).samples
        made.append((text, np.asarray(samples, np.float32)))
        other = encoder.embed(mine[1].samples)
        likeness.append(cosine(encoder.embed(made[-1][1]), other))
        ceilings.append(cosine(encoder.embed(mine[0].samples), other))
    row = judge_speech(made, listen)
    row["cosine"] = round(float(np.mean(likeness)), 4)
    row["over ceiling"] = round(float(np.mean(likeness) / np.mean(ceilings)), 4)
    return {"clone, held-out readers": row}


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


def noisy(
    clips: Sequence[Reading], noises: str | Path, seed: int = 0
) -> list[tuple[Reading, Samples]]:
    """Each clip with a noise of the test split over it at ``NOISE_DB``."""
    sounds = open_corpus(noises)["t2s", "test"]
    rng = np.random.default_rng(seed)
    out = []
    for clip in clips:
        noise = degrade.loop(rng, len(clip.samples), sounds[int(rng.integers(len(sounds)))].audio())
        _, mixed = degrade.mix_at(clip.samples, noise, NOISE_DB)
        out.append((clip, (mixed / 32767).astype(np.float32)))
    return out


def se(
    enhance: dict[str, Callable[[Samples], Samples]],
    pairs: Sequence[tuple[Reading, Samples]],
    listen: Listen | None,
) -> dict[str, Judgement]:
    """The input, and what each system makes of it; OVRL gained over the input."""
    rows = {"se, input at 5 dB": judge_speech([(c.text, x) for c, x in pairs], listen)}
    before = rows["se, input at 5 dB"]["OVRL"]
    for name, f in enhance.items():
        made = [
            (c.text, np.asarray(f(x), np.float32)) for c, x in tqdm(pairs, desc=name, mininterval=5)
        ]
        rows[f"se, {name}"] = judge_speech(made, listen)
        rows[f"se, {name}"]["OVRL gain"] = round(rows[f"se, {name}"]["OVRL"] - before, 4)
    return rows


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
        "--peers", nargs="*", default=[], help="some of flite, espeak, kokoro, rnnoise"
    )
    parser.add_argument("--kokoro", type=Path, help="Kokoro's folder")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    tasks = args.task.split(",")
    try:
        if unknown := set(tasks) - set(TASKS):
            raise ValueError(
                f"--task: expected some of {', '.join(TASKS)}, got {sorted(unknown)[0]!r}"
            )
        if args.readers is None and set(tasks) - {"tts"}:
            raise ValueError("clone, vc and se need --readers")
        from uniaudio_engine import Engine

        engine = Engine.from_pretrained(args.model)
        listen = whisper(args.whisper) if args.whisper else None
        texts = [t[:1].upper() + t[1:] for t in originals.open_sentences(args.count, 0)]
        clips = readings(args.readers, args.count) if args.readers else []
        rows: dict[str, Judgement] = {}
        if "tts" in tasks:
            peers: dict[str, Say] = {}
            if "flite" in args.peers:
                peers |= {f"flite {v}": flite_voice(v) for v in ("slt", "rms")}
            if "espeak" in args.peers:
                peers["espeak-ng"] = espeak
            if "kokoro" in args.peers:
                peers["Kokoro af_heart"] = kokoro(args.kokoro, "af_heart")
            rows |= tts(engine, texts, listen, peers)
        if "clone" in tasks:
            rows |= clone(engine, clips, texts, listen)
        if "vc" in tasks:
            rows |= vc(engine, clips, args.count, listen)
        if "se" in tasks:
            if args.noises is None:
                raise ValueError("se needs --noises")
            systems: dict[str, Callable[[Samples], Samples]] = {
                "model": lambda x: engine.enhance((x, SAMPLE_RATE), seed=0).samples
            }
            if "rnnoise" in args.peers:
                systems["RNNoise"] = RNNoise()
            rows |= se(systems, noisy(clips, args.noises), listen)
    except (CorpusError, JudgeMissing, ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
