"""Speed of an imported UniAudio model from input to samples: prompt and phones (or noisy speech)
in, samples out, including the codec.

The weights are random, in the shape of the released model ("v1": 180 M parameters) or of the
repository's 1 B recipe ("1b"), in a folder as written by ``uniaudio import uniaudio``. Speed does
not depend on the values of weights. The formats take turns in every round.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import models
import numpy as np
from common import median, say

from uniaudio_engine import Audio, Engine, __version__
from uniaudio_engine.errors import InputError
from uniaudio_engine.importers.uniaudio_tasks import available_tasks
from uniaudio_engine.storage.config import (
    CodecConfig,
    LMConfig,
    ModelConfig,
    SeanetConfig,
    Span,
    VocabularyConfig,
)
from uniaudio_engine.storage.folder_writing import save_folder
from uniaudio_engine.storage.weight_shapes import codec_shapes

# The special ids that the generation tasks of the repository use, and the spans of its vocabulary.
SPECIALS = {
    1: "continuous_token",
    2: "start",
    3: "end",
    4: "phone_start",
    5: "phone_end",
    8: "audio_start",
    9: "audio_end",
    12: "audio_prompt_start",
    13: "audio_prompt_end",
    18: "tts_task",
    23: "mega_global",
    24: "mega_local",
    42: "SE_task",
}
SPANS = (
    ("audio", 3 * models.V1_CODES),
    ("audio_mask", 1),
    ("phone", 306),
    ("semantic", 500),
    ("sing_phone", 67),
    ("sing_midi", 138),
)
FORMATS = ("int8", "int4")
EPILOG = """examples:
  python benchmarks/imported.py
  python benchmarks/imported.py --model 1b --formats int8,int4 --seconds 4 --rounds 3
  python benchmarks/imported.py --write                 the tables into docs/benchmarks.md
"""


def config_of(name: str) -> ModelConfig:
    """The model configuration of a shape."""
    lm: LMConfig = models.find_model("v1").config
    if name == "1b":
        big = {"width": 1536, "heads": 16}
        lm = replace(
            lm,
            global_=replace(lm.global_, layers=24, **big),
            local=replace(lm.local, layers=8, **big),
        )
    spans, start = [], models.V1_AUDIO
    for span, size in SPANS:
        spans.append(Span(span, start, size))
        start += size
    specials = tuple(SPECIALS.get(i, f"unused_{i}") for i in range(models.V1_AUDIO))
    codec = CodecConfig("seanet", 16000, 320, 12, models.V1_CODES, 128, seanet=SeanetConfig())
    tasks = available_tasks({*specials, *(s.name for s in spans), *lm.continuous})
    return ModelConfig(
        1,
        f"random weights in the shape of {name}",
        codec,
        lm,
        VocabularyConfig(specials, tuple(spans)),
        tasks,
    )


def make_folder(name: str, seed: int, cache: Path) -> Path:
    """The model folder, made once; its name is a hash of the configuration, so that it is never
    stale.
    """
    config = config_of(name)
    assert config.lm is not None
    folder = (
        cache
        / f"imported-{name}-seed{seed}-{hashlib.sha256(config.to_json().encode()).hexdigest()[:10]}"
    )
    if not (folder / "config.json").exists():
        say(f"making random weights in the shape of {name}")
        rng = np.random.default_rng(seed)
        codec = {}
        for tensor, shape in codec_shapes(config.codec).items():
            x = rng.standard_normal(shape, np.float32)
            codec[tensor] = x * np.float32(0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5)
        save_folder(folder, config, codec, models.random_weights(config.lm, seed), dtype="bfloat16")
    return folder


def requests(seconds: float, seed: int) -> dict[str, dict[str, Any]]:
    """Requests of the tasks tts and se.

    tts: 60 phones and a prompt of three seconds before the speech.
    se: as much noisy speech as output.
    """
    rng = np.random.default_rng(seed)
    noise = (0.1 * rng.standard_normal(round(16000 * max(3.0, seconds)))).astype(np.float32)
    return {
        "tts": {
            "phones": " ".join(map(str, rng.integers(0, 306, 60))),
            "prompt": Audio(noise[: 3 * 16000], 16000),
            "seconds": seconds,
        },
        "se": {"source": Audio(noise[: round(seconds * 16000)], 16000)},
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    folder = make_folder(args.model, args.seed, args.cache)
    engines = {f: models_engine(folder, f, args.threads) for f in args.formats.split(",")}
    found: dict[str, Any] = {
        f"{t} {f}": {"factor": [], "first_ms": [], "ms_per_frame": []}
        for t in requests(1, 0)
        for f in engines
    }
    bandwidth = []
    for n in range(args.rounds):
        bandwidth.append(common.bandwidth(args.threads))
        for task, inputs in requests(args.seconds, args.seed).items():
            for name, engine in engines.items():
                engine.generate(
                    task, seed=0, **{**inputs, **({"seconds": 0.2} if "seconds" in inputs else {})}
                )  # warm-up
                with engine.stream(task, seed=args.seed, **inputs) as stream:
                    for _ in stream:
                        pass
                row = found[f"{task} {name}"]
                row["factor"].append(stream.meta["realtime_factor"])
                row["first_ms"].append(stream.meta["first_chunk_ms"])
                row["ms_per_frame"].append(
                    1000 * stream.meta["compute_seconds"] / stream.meta["frames"]
                )
                say(
                    f"round {n + 1} of {args.rounds}: {task} {name}: {row['factor'][-1]:.2f} x "
                    f"realtime, first chunk {row['first_ms'][-1]:.0f} ms"
                )
    weights = {f: e.lm.core.weight_bytes(2 + models.V1_CODES) for f, e in engines.items()}
    about = {
        "date": common.today(),
        "machine": common.machine(),
        "threads": args.threads,
        "seed": args.seed,
        "seconds": args.seconds,
    }
    return {
        **about,
        "version": __version__,
        "rounds": args.rounds,
        "weight_bytes": weights,
        "bandwidth_gb_per_s": bandwidth,
        "rows": found,
    }


def models_engine(folder: Path, text: str, threads: int) -> Engine:
    dtype, options = models.split_format(text)
    return Engine.from_pretrained(
        folder, dtype=dtype, threads=threads, kv_dtype=options["kv_dtype"]
    )


def section(name: str, results: dict[str, Any]) -> str:
    shape = {
        "v1": "the released model's shape (180 M)",
        "1b": "the shape of the repository's 1 B recipe",
    }[name]
    read = median(results["bandwidth_gb_per_s"])
    rows = []
    for row, f in results["rows"].items():
        task, dtype = row.split()
        frame = median(f["ms_per_frame"])
        bound = results["weight_bytes"][dtype] / read / 1e6
        rows.append(
            [
                task,
                dtype,
                f"{median(f['factor']):.2f}",
                f"{1 / median(f['factor']):.2f}",
                f"{median(f['first_ms']):.0f}",
                f"{frame:.2f}",
                f"{bound:.2f}",
                f"{bound / frame:.2f}",
            ]
        )
    head = [
        "task",
        "weights",
        "× realtime",
        "seconds per second",
        "first chunk, ms",
        "ms / frame, total",
        "bound: weights / bandwidth, ms",
        "fraction",
    ]
    return "\n\n".join(
        [
            f"### An imported UniAudio model, {shape}: from input to samples",
            f"{results['date']}, {common.machine_line(results['machine'])}; {results['threads']} "
            f"threads, seed {results['seed']}, uniaudio-engine "
            f"{results['version']}; random weights, {results['seconds']:g} s of sound, medians of "
            f"{results['rounds']} rounds; bandwidth {read:.0f} GB/s. "
            "tts: 60 phones and a prompt of 3 s; se: all of the noisy speech is encoded and "
            "prefilled before the first frame. "
            "All times are included: encoding, prefill, frames, decoding.",
            common.table(head, rows),
            f"Command: `python benchmarks/imported.py --model {name}`, then the same with "
            "`--write`.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="imported.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_common(parser, "imported-v1.json")
    parser.add_argument("--model", choices=("v1", "1b"), default="v1", help="which shape (v1)")
    parser.add_argument(
        "--formats", default=",".join(FORMATS), help="weight formats, comma-separated"
    )
    parser.add_argument(
        "--cache", type=Path, default=common.HERE / "cache", help="folder for the weights"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the sound (10)")
    args = parser.parse_args(argv)
    default = args.results == common.RESULTS / "imported-v1.json"
    results_file = common.RESULTS / f"imported-{args.model}.json" if default else args.results
    if not args.write:
        if not 0.2 <= args.seconds <= 30:
            raise InputError(f"--seconds: expected 0.2 to 30, got {args.seconds:g}")
        common.save_results(results_file, run(args))
        return 0
    results = common.load_results(results_file)
    if not results:
        raise InputError(f"{results_file}: no results yet; run the command without --write first")
    common.write_section(args.docs, f"imported-{args.model}", section(args.model, results))
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
