"""``uniaudio bench`` and ``uniaudio doctor``: measurements and checks of this machine.

A frame reads each weight that it uses once, so memory bandwidth is the limit. The benchmark reports
the fraction of it that is reached. ``benchmarks/`` compares with other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import __version__
from ..backends import cuda
from ..backends.core import core, default_threads
from ..engine import Engine
from ..errors import InputError
from ..request.options import SEED
from ..request.plan import Plan
from ..request.sampling import audio_sampling
from ..request.sequence import Ids
from ..request.sequence_builder import TaskSequence
from ..storage.available import available_bytes
from ..storage.folder import bundled_models, find_folder, load_config

_BANDWIDTH_MB = 256  # read per measurement; far larger than any last-level cache
_READ_MB = (1, 4, 16, 64, 256, 1024)
_TEXT = "The quick brown fox jumps over the lazy dog while seven small birds watch from the old stone wall."


def measure(
    engine: Engine, seconds: float = 10.0, repeat: int = 5, seed: int = 0
) -> dict[str, Any]:
    """All figures of ``uniaudio bench``; times in ms are medians of ``repeat`` runs.

    ``ms_per_frame`` is the time of the LM (all K codes of a frame), ``decode_ms_per_frame`` that of
    the codec. ``realtime_factor`` is seconds of speech per second of computing, from text to
    samples.
    """
    options = {"seed": seed}
    plan = engine.plan("tts", text=_TEXT, **options)
    piece = next(iter(plan.pieces))
    sequence = piece.asked.conditional
    frames = max(
        8,
        min(
            round(seconds * engine.frame_rate),
            engine.capacity - len(sequence) - 2,
        ),
    )

    prefill = [_timed(lambda: _prefill(engine, sequence.shared.frames)) for _ in range(repeat)]
    lm, decode = [], []
    for _ in range(repeat):
        codes, ms = _timed_frames(engine, plan, sequence, frames)
        lm.append(ms)
        decode.append(_timed(lambda c=codes: _decode(engine, c)) / len(codes))  # type: ignore[misc]
    # From here on the voice is cached, as in an app after its first sentence.
    engine.model.fork_prefix(sequence.shared)
    first, factor = [], []
    for _ in range(repeat):
        audio = engine.generate("tts", text=_TEXT, **options)
        first.append(audio.meta["first_chunk_ms"])
        factor.append(audio.meta["realtime_factor"])
    bandwidth = statistics.median(
        core().read_bandwidth(engine.threads, _BANDWIDTH_MB) for _ in range(3)
    )
    ms = statistics.median(lm)
    # a frame reads only those rows of the output head that belong to its codebooks
    weight_bytes = int(engine.lm.core.weight_bytes(engine.layout.codebook_size))
    return {
        "model": engine.config.name,
        "dtype": engine.dtype,
        "kv_dtype": engine.kv_dtype,
        "threads": engine.threads,
        "isa": core().isa(),
        "seed": seed,
        "frames": frames,
        "repeat": repeat,
        "ms_per_frame": round(ms, 4),
        "decode_ms_per_frame": round(statistics.median(decode), 4),
        "prefill_frames": len(sequence.shared),
        "prefill_ms": round(statistics.median(prefill), 3),
        "first_chunk_ms": round(statistics.median(first), 3),
        "realtime_factor": round(statistics.median(factor), 3),
        "weight_bytes_per_frame": weight_bytes,
        "bandwidth_gb_per_s": round(bandwidth, 3),
        "bandwidth_fraction": round(weight_bytes / (ms * 1e-3) / (bandwidth * 1e9), 4),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
        "version": __version__,
    }


def peaks(threads: int) -> dict[str, Any]:
    """What the machine can do at most: the bounds of every model on it.

    Multiply-adds on registers (a multiply-add is two operations) of float32 and of bytes, and reads
    of blocks that are spread over all threads, by the block's size in MiB; those that would take
    more than half of the memory left are skipped.
    """
    native = core()
    room = available_bytes() / 2
    try:
        return {
            "isa": native.isa(),
            "threads": threads,
            "float32_gflop_per_s": round(native.fma_peak(threads), 1),
            "bytes_gop_per_s": round(native.byte_peak(threads), 1),
            **{
                f"read_{size}_mib_gb_per_s": round(native.read_bandwidth(threads, size), 1)
                for size in _READ_MB
                if size << 20 <= room
            },
        }
    except ValueError as e:
        raise InputError(str(e)) from None


def bench_command(args: argparse.Namespace) -> int:
    if args.peaks:
        return _show(peaks(args.threads or default_threads()), args.json)
    seed = 0 if args.seed is None else _seed(args.seed)
    if not (1 <= args.repeat <= 1000 and 0.1 <= args.seconds <= 3600):
        got = f"{args.repeat} and {args.seconds}"
        raise InputError(f"expected --repeat 1 to 1000 and --seconds 0.1 to 3600, got {got}")
    engine = Engine.from_pretrained(
        args.model,
        device=args.device,
        dtype=args.dtype,
        backend=args.backend,
        max_seconds=args.max_seconds,
        threads=args.threads,
        kv_dtype=args.kv_dtype,
    )
    return _show(measure(engine, args.seconds, args.repeat, seed), args.json)


def _show(figures: dict[str, Any], as_json: bool) -> int:
    lines = "\n".join(f"{k}: {v}" for k, v in figures.items())
    print(json.dumps(figures, indent=2) if as_json else lines)
    return 0


def doctor_command(args: argparse.Namespace) -> int:
    """``uniaudio doctor``: one line per check; exit code 1 if something required does not work."""
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: (
            f"{platform.python_version()}, uniaudio-engine {__version__}, {platform.platform()}"
        ),
        "isa": _isa,
        "threads": lambda: f"{default_threads()} used by default of {os.cpu_count()} processors",
        "bandwidth": lambda: (
            f"{core().read_bandwidth(default_threads(), _BANDWIDTH_MB):.1f} GB/s measured now"
        ),
        "model": lambda: _model(args.model),
        "text": _text,
        "sound": _sound_files,
        "gpu": cuda.status,
        "onnx": _onnx,
    }
    found, ok = {}, True
    for name, check in checks.items():
        try:
            found[name] = check()
        except (ValueError, OSError, ImportError) as e:
            found[name], ok = "NOT WORKING: " + " ".join(str(e).split()), False
    print(
        json.dumps(found, indent=2)
        if args.json
        else "\n".join(f"{k:<10} {v}" for k, v in found.items())
    )
    return 0 if ok else 1


def _seed(text: str) -> int:
    return int(SEED.check(int(text) if text.isascii() and text.isdigit() else text) or 0)


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    begin = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begin)


def _prefill(engine: Engine, frames: Ids) -> None:
    session = engine.lm.session(engine.capacity)
    session.prefill(frames)


def _timed_frames(engine: Engine, plan: Plan, sequence: TaskSequence, n: int) -> tuple[Ids, float]:
    """Generates n frames with aligned rows, as in speech; returns them and the ms per frame."""
    session = engine.model.fork_prefix(sequence.shared)
    session.prefill(sequence.body.frames)
    aligned = engine.layout.no_aligned(n) if engine.layout.aligned_slots else None
    if aligned is not None:
        aligned[:] = [s.start for s in engine.layout.vocabulary.aligned_spans]
    seed = int(plan.options["seed"])
    sampling = audio_sampling(engine.layout, plan.task.check_options(plan.options), seed)
    begin = time.perf_counter()
    frames = session.generate(n, sampling, aligned)
    return frames, 1000 * (time.perf_counter() - begin) / n


def _decode(engine: Engine, frames: Ids) -> None:
    decoder = engine.codec.decoder_stream()
    codes = np.ascontiguousarray(engine.layout.frames_to_codes(frames).T)
    for at in range(0, codes.shape[1], 50):
        decoder.push(np.ascontiguousarray(codes[:, at : at + 50]))
    decoder.flush()


def _isa() -> str:
    forced = os.environ.get("UNIAUDIO_ISA")
    found = f"{core().isa()} of {', '.join(core().isa_available())}"
    return found + (f", forced by UNIAUDIO_ISA={forced}" if forced else "")


def _model(path: str | None) -> str:
    folder = find_folder(path)
    config = load_config(folder)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
    tasks = ", ".join(config.task_table) or "none"
    others = f"; bundled: {', '.join(bundled_models())}" if bundled_models() else ""
    return f"{config.name} in {folder}, {size:.1f} MB, tasks: {tasks}{others}"


def _text() -> str:
    from ..text import PHONES, phonemize

    return f"English, {len(PHONES)} phones; hello is {' '.join(phonemize('hello')[0].phones)}"


def _onnx() -> str:
    try:
        import onnxruntime
    except ImportError as e:
        return f"not installed ({e}), needed for backend onnx: pip install onnxruntime"
    return f"ONNX Runtime {onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}"


def _sound_files() -> str:
    import soundfile
    import soxr

    return f"soundfile {soundfile.__version__}, soxr {soxr.__version__}"
