"""Text to 48 kHz stereo sound with VieNeu-TTS v3 Turbo and MOSS-TTS-Nano: ``python
benchmarks/text_slot.py [--json] [--threads N] [--repeat N] [--seconds S] [--dtype D]``.

The published shapes with random weights and their codec, stored as ``uniaudio quantize`` stores them.
Each model is measured in a process of its own: seconds of sound per second from text to samples,
milliseconds from the request to the first samples of a stream, seconds to load the folder, and the
process's memory: its peak, and what it holds in the end. Phones are given to VieNeu as they are: what
sea-g2p takes is not part of the figures.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from codec import cpu_name
from encodec import random_weights

from uniaudio_engine.audio.voice import Voice, codec_fingerprint
from uniaudio_engine.importers import moss_nano, vieneu
from uniaudio_engine.importers.hub_files import Settings
from uniaudio_engine.importers.shapes import MOSS_TOKENIZER_NANO as NANO
from uniaudio_engine.storage.config import LMConfig, ModelConfig
from uniaudio_engine.storage.folder_writing import save_folder
from uniaudio_engine.storage.quantize import quantize_folder
from uniaudio_engine.storage.weight_shapes import lm_shapes

NAMES = ("vieneu", "moss-nano")
TEXT = "the quick brown fox jumps over the lazy dog and goes on to the river, where it rests."
VOICE_FRAMES = 50  # 4 s
WIDTH = 192
MARKS = {
    "audio_start_token_id": 6,
    "audio_end_token_id": 7,
    "audio_user_slot_token_id": 8,
    "audio_assistant_slot_token_id": 9,
    "gpt2_config": {},
}


def lm_weights(config: LMConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in lm_shapes(config).items():
        x = rng.standard_normal(shape, np.float32)
        x *= 0.02 if len(shape) == 1 else shape[1] ** -0.5
        weights[name] = x + np.float32("norm" in name and name.endswith("weight"))
    return weights


def sentencepiece_model() -> bytes:
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 9),
        model_writer=out,
        vocab_size=320,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return out.getvalue()


def phone_tokenizer() -> bytes:
    """One id a character."""
    ids = {"<unk>": 43} | {c: 44 + i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz ,.")}
    model = {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}
    split = {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": False}
    return json.dumps({"version": "1.0", "pre_tokenizer": split, "model": model}).encode()


def write_folder(name: str, folder: Path) -> None:
    """A model folder of the published shape."""
    codec = random_weights(NANO)
    captions = tokenizer = b""
    speaker: dict[str, np.ndarray] = {}
    if name == "vieneu":
        settings = Settings({"use_speaker_embedding": True}, name)
        ids, task = vieneu.vocabulary_of(settings), vieneu.TASK
        lm, slot = vieneu.lm_config(settings, ids), vieneu.text_slot(settings)
        tokenizer, d = phone_tokenizer(), lm.global_.width
        speaker = {
            "weight": np.random.default_rng(1).standard_normal((d, WIDTH)).astype(np.float32),
            "bias": np.zeros(d, np.float32),
            "norm.weight": np.full(d, 0.02, np.float32),
            "norm.bias": np.zeros(d, np.float32),
        }
    else:
        settings = Settings(MARKS, name)
        ids, task = moss_nano.vocabulary_of(settings), moss_nano.TASK
        lm = moss_nano.lm_config(settings, ids)
        slot = moss_nano.text_slot(settings, 1, lambda text: [10] * (len(text) // 3))
        captions = sentencepiece_model()
    weights = lm_weights(lm)
    config = ModelConfig(
        1,
        name,
        NANO,
        lm,
        ids.vocabulary(),
        (task,),
        text_slot=slot,
    )
    save_folder(
        folder / "whole",
        config,
        codec,
        weights,
        dtype="bfloat16",
        captions=captions,
        tokenizer=tokenizer,
        speaker=speaker,
    )
    quantize_folder(folder / "whole", folder / name, "int8")
    rng = np.random.default_rng(2)
    codes = rng.integers(0, NANO.codebook_size, (NANO.num_codebooks, VOICE_FRAMES), np.int32)
    vector = rng.standard_normal(WIDTH).astype(np.float32) if speaker else None
    mark = codec_fingerprint(codec["quantizer.codebooks"])
    (folder / name / "voices").mkdir()
    voice = Voice("one", codes, mark, NANO.frame_rate, vector=vector)
    voice.save(folder / name / "voices" / "one.safetensors")


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one model, in this process."""
    from uniaudio_engine import Engine

    begin = time.perf_counter()
    engine = Engine.from_pretrained(folder, dtype=args.dtype, threads=args.threads)
    load = time.perf_counter() - begin
    key = "phones" if engine.config.text_slot.phones else "text"  # type: ignore[union-attr]
    request = {key: TEXT, "seed": 1, "seconds": args.seconds}
    engine.tts(**{**request, "seconds": 0.5})  # warm
    speeds, first = [], []
    for _ in range(args.repeat):
        begin = time.perf_counter()
        audio = engine.tts(**request)
        speeds.append(audio.seconds / (time.perf_counter() - begin))
        begin = time.perf_counter()
        with engine.stream("tts", **request) as stream:
            while not next(stream).samples.size:
                pass
            first.append(1000 * (time.perf_counter() - begin))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak, held = (int(status.partition(k)[2].split()[0]) / 1024 for k in ("VmHWM:", "VmRSS:"))
    return {
        "model": engine.config.name,
        "dtype": engine.dtype,
        "seconds": round(audio.seconds, 2),
        "realtime": round(float(np.median(speeds)), 2),
        "first_audio_ms": round(float(np.median(first)), 1),
        "load_s": round(load, 3),
        "peak_mb": round(peak),
        "held_mb": round(held),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of sound, at most")
    parser.add_argument("--dtype", default="auto", help="of the language model's weights")
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--folder", type=Path, help="where the models are, or will be, written")
    parser.add_argument(
        "--one", type=Path, help="measure this model folder alone, such as an imported Qwen3-TTS"
    )
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one, args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        base = args.folder or Path(temporary)
        rows = []
        for name in args.models.split(","):
            if not (base / name).is_dir():
                write_folder(name, base)
                for file in sorted((base / "whole").rglob("*"), reverse=True):
                    file.rmdir() if file.is_dir() else file.unlink()
                (base / "whole").rmdir()
            command = [sys.executable, __file__, "--one", str(base / name)]
            for option in ("threads", "repeat", "seconds", "dtype"):
                command += [f"--{option}", str(getattr(args, option))]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(found.stdout))
    if args.json:
        print(json.dumps({"cpu": cpu_name(), "threads": args.threads, "rows": rows}))
        return
    print(f"{cpu_name()}, {args.threads} threads")
    for row in rows:
        print(
            f"{row['model']}: {row['realtime']} x realtime over {row['seconds']} s, first audio "
            f"{row['first_audio_ms']} ms, load {row['load_s']} s, peak {row['peak_mb']} MB "
            f"while loading, {row['held_mb']} MB after it ({row['dtype']})"
        )


if __name__ == "__main__":
    main()
