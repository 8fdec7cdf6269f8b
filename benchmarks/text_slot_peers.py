"""VieNeu-TTS and MOSS-TTS-Nano beside PyTorch and ONNX Runtime: text to 48 kHz stereo sound.

Every engine runs in a process of its own with the same random weights at the published shapes: the
engine, PyTorch (float32, and int8 by ``quantize_dynamic``), and ONNX Runtime on graphs of the same
weights (float32, and int8 by ``quantize_dynamic``). Engines take turns in every round; ratios are taken
within rounds. Before timing, the logits of every peer and the sound of its decoder are compared with
the engine's in float32.

A round of an engine is a clip from its text to its last sample, then the time to a first frame of
sound. The first clip of a process is not counted. Peers take the best id of each slot, and their caches
are made before the clock starts; the engine samples. Times to load leave out imports and are those of
new processes, whose files are in the system's cache. Phones are given to VieNeu as they are.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import say
from peers.speech import Source, SpeechSpec, decoder_tensors
from peers.worker import Worker, missing, workers
from text_slot import NAMES, write_folder

from uniaudio_engine.errors import InputError
from uniaudio_engine.storage.tensors import load_tensors, save_tensors

DTYPES = ("int8", "float32")
ENGINES = [(f"speech-{kind}", dtype) for kind in ("native", "onnx", "torch") for dtype in DTYPES]
LABELS = {"native": "**uniaudio-engine**", "onnx": "ONNX Runtime", "torch": "PyTorch"}
REFERENCE = "native-int8"  # what ratios are to
KNOWN, STEPS = 16, 4  # frames of the check of logits
# Largest rms error with which an engine still counts as the same model: of logits in units of their
# standard deviation, and of sound in units of its own rms.
EXACT, ROUNDED = 1e-3, 0.3
PAUSE = 0.15  # seconds between engines: the last one's threads spin for a while
TITLES = {"vieneu": "VieNeu-TTS v3 Turbo", "moss-nano": "MOSS-TTS-Nano"}


def prepare(name: str, cache: Path) -> Path:
    """The prepared folder of a model; see ``peers.speech``."""
    folder = cache / f"text-slot-{name}"
    if not (folder / "decoder.safetensors").exists():
        say(f"{name}: writing weights")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_folder(name, folder)
        (folder / name).rename(folder / "int8")
        codec, _ = load_tensors(folder / "whole" / "codec.safetensors")
        made = decoder_tensors(Source(folder).config, codec)
        save_tensors(folder / "decoder.safetensors", made)
    if not missing("speech-onnx"):
        from peers.speech_onnx import write_graphs

        say(f"{name}: graphs")
        write_graphs(Source(folder), DTYPES)
    return folder


def check(
    ready: Sequence[Worker], reference: Worker, source: Source
) -> dict[str, dict[str, float]]:
    """The rms errors of every peer. Raises InputError where one computes something else."""
    model, rng = source.model, np.random.default_rng(5)
    frames = model.frames(KNOWN + STEPS, 3)
    c = source.config.codec
    codes = rng.integers(0, c.codebook_size, (c.num_codebooks, KNOWN), np.int32)
    reference.call("begin", len(frames), KNOWN)
    truth = {
        "logits": reference.call("logits", frames, KNOWN),
        "sound": reference.call("decode", codes),
    }
    found = {}
    for worker in ready:
        if worker.spec.kind == "speech-native":
            continue
        logits = worker.call("logits", frames, KNOWN)
        worker.call("begin", len(frames), KNOWN)
        got = {"logits": logits, "sound": worker.call("decode", codes)}
        errors = {}
        for part, exact in truth.items():
            if got[part].shape != exact.shape:
                raise InputError(
                    f"{worker.name}: {part}: expected {list(exact.shape)}, got "
                    f"{list(got[part].shape)}"
                )
            errors[part] = float(np.sqrt(np.mean((got[part] - exact) ** 2)) / exact.std())
            most = EXACT if worker.spec.dtype == "float32" else ROUNDED
            if not errors[part] <= most:
                raise InputError(
                    f"{worker.name}: {part}: expected the engine's within {most} of their standard "
                    f"deviation, got {errors[part]:.3g}"
                )
        found[worker.name] = errors
        say(
            f"  {worker.name}: rms error of logits {errors['logits']:.2g}, of sound {errors['sound']:.2g}"
        )
    return found


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One model's figures: for every engine lists by round of seconds for a clip, of milliseconds to
    the first sound, of seconds to load; its memory in MB.
    """
    folder = prepare(name, args.cache.resolve())
    specs = [SpeechSpec(k, d, folder, args.threads) for k, d in ENGINES if not missing(k)]
    chosen = args.engines.split(",") if args.engines else [s.name for s in specs]
    if unknown := sorted(set(chosen) - {s.name for s in specs}):
        raise InputError(
            f"--engines: expected some of {', '.join(s.name for s in specs)}, got {unknown}"
        )
    specs = [s for s in specs if s.name in chosen or s.name == REFERENCE]
    out: dict[str, Any] = {
        s.name: {"clip_s": [], "first_ms": [], "load_s": [], "peak_mb": []} for s in specs
    }

    def record_load(worker: Worker) -> None:
        seconds, peak = worker.call("loaded")
        out[worker.name]["load_s"].append(round(seconds, 3))
        out[worker.name]["peak_mb"].append(round(peak))
        out[worker.name]["version"] = worker.version

    for _ in range(args.loads - 1):
        for spec in specs:
            with workers([spec]) as (ready, failed):
                if failed:
                    raise InputError(failed[spec.name])
                record_load(ready[0])
    frames = round(args.seconds * Source(folder).config.codec.frame_rate)
    started: list[Worker] = []
    try:
        for spec in specs:  # one after another: loading is timed
            worker = Worker(spec)
            started.append(worker)
            worker.version = worker.answer()
            record_load(worker)
        for worker in started:  # before the check, for which the engine loads a second model
            worker.call("speak", frames)
            out[worker.name]["held_mb"] = round(worker.call("held"))
        reference = next(w for w in started if w.name == REFERENCE)
        checks = check(started, reference, Source(folder))
        for n in range(args.rounds):
            for worker in started:
                time.sleep(PAUSE)
                row = out[worker.name]
                row["clip_s"].append(round(worker.call("speak", frames), 4))
                row["first_ms"].append(round(1e3 * worker.call("first"), 2))
            turns = (f"{w.name} {out[w.name]['clip_s'][-1]:.2f} s" for w in started)
            say(f"{name}: round {n + 1} of {args.rounds}: " + ", ".join(turns))
    finally:
        for worker in started:
            worker.close()
    return {
        "date": common.today(),
        "frames": frames,
        "seconds": frames / Source(folder).config.codec.frame_rate,
        "engines": out,
        "checks": checks,
    }


def table(results: dict[str, Any]) -> str:
    rows = []
    for name, found in results["models"].items():
        reference = found["engines"][REFERENCE]["clip_s"]
        for engine, row in found["engines"].items():
            kind, dtype = engine.split("-")
            times = common.ratios(row["clip_s"], reference)
            rows.append(
                [
                    TITLES[name],
                    f"{LABELS[kind]} {dtype}",
                    f"{found['seconds'] / common.median(row['clip_s']):.2f}",
                    f"{common.median(times):.2f}",
                    f"{common.median(row['first_ms']):.0f} ms",
                    f"{common.median(row['load_s']):.2f} s",
                    f"{common.median(row['peak_mb']):.0f} MB",
                    f"{row['held_mb']} MB",
                ]
            )
    head = (
        "model",
        "engine",
        "× realtime",
        "time beside the engine's int8",
        "first sound",
        "load",
        "peak while loading",
        "after speaking",
    )
    first = next(iter(results["models"].values()))
    return (
        f"{common.machine_line(results['machine'])}; {results['threads']} threads, clips of "
        f"{first['seconds']:.2f} s after a voice of 4 s, medians of "
        f"{len(first['engines'][REFERENCE]['clip_s'])} rounds, {first['date']}. Random weights at the "
        "published shapes. ONNX Runtime and PyTorch in int8 are `quantize_dynamic`, the decoder "
        "included; the engine's decoder is float32. Peers take the best id of each slot; the engine "
        f"samples.\n\n{common.table(head, rows)}\n\n"
        "```sh\npython benchmarks/text_slot_peers.py --write\n```"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common.add_common(parser, "text-slot-peers.json")
    parser.set_defaults(docs=common.DOCS.parent / "models.md")
    parser.add_argument("--models", default=",".join(NAMES), help="comma-separated")
    parser.add_argument("--engines", help="comma-separated, such as native-int8,onnx-int8 (all)")
    parser.add_argument("--seconds", type=float, default=3.2, help="of sound in a clip (3.2)")
    parser.add_argument("--loads", type=int, default=2, help="times that each engine is loaded (2)")
    parser.add_argument(
        "--cache", type=Path, default=common.HERE / "cache", help="folder for weights and graphs"
    )
    parser.add_argument("--prepare", action="store_true", help="fill --cache and measure nothing")
    args = parser.parse_args(argv)
    if args.write:
        common.write_section(args.docs, "text-slot-peers", table(common.load_results(args.results)))
        say(f"wrote the section of {args.results.name} into {args.docs}")
        return 0
    if not 0.5 <= args.seconds <= 7 or args.loads < 1:
        raise InputError("--seconds: expected 0.5 to 7, and --loads at least 1")
    names = args.models.split(",")
    if unknown := sorted(set(names) - set(NAMES)):
        raise InputError(f"--models: expected some of {', '.join(NAMES)}, got {', '.join(unknown)}")
    if args.prepare:
        for name in names:
            prepare(name, args.cache.resolve())
        return 0
    results = common.load_results(args.results)
    results.update(machine=common.machine(), threads=args.threads)
    for name in names:
        results.setdefault("models", {})[name] = measure(name, args)
        common.save_results(args.results, results)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
