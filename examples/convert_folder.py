"""Converts every recording of a folder to another voice, several at a time. Unusable files are
reported and skipped.

Requests made together share each pass over the model's weights; their results do not depend on each
other.

    python examples/convert_folder.py recordings --voice examples/voice.flac -o converted
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from uniaudio_engine import Engine, InputError, Voice

ENDINGS = (".wav", ".flac", ".ogg")


def find_voice(engine: Engine, voice: str) -> Voice:
    """Resolves the voice once for all recordings."""
    if voice in engine.voices():
        return engine.voice(voice)
    return Voice.load(voice) if voice.endswith(".safetensors") else engine.encode_voice(voice)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help=f"folder of sound files ({', '.join(ENDINGS)})")
    parser.add_argument(
        "--voice", required=True, help="name or file of a voice, or a recording of it"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--batch",
        type=int,
        choices=range(1, 65),
        default=8,
        metavar="N",
        help="recordings converted together (default 8)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--model", metavar="FOLDER", help="model folder (default: the bundled model)"
    )
    args = parser.parse_args()
    files = sorted(p for p in args.folder.glob("*") if p.suffix.lower() in ENDINGS)
    if not files or args.output.resolve() == args.folder.resolve():
        print(
            f"convert_folder: expected sound files in {args.folder}, got {len(files)}, and "
            "another folder to write to",
            file=sys.stderr,
        )
        return 2
    left_out = 0
    try:
        engine = Engine.from_pretrained(args.model)
        engine.task("vc")  # raises where the model lacks the task
        voice = find_voice(engine, args.voice)
        args.output.mkdir(parents=True, exist_ok=True)
        for at in range(0, len(files), args.batch):
            names, plans = [], []
            for path in files[at : at + args.batch]:
                try:
                    plans.append(engine.plan("vc", source=path, prompt=voice, seed=args.seed))
                    names.append(path.name)
                except InputError as e:
                    left_out += 1
                    print(f"convert_folder: skipped: {e}", file=sys.stderr)
            for name, audio in zip(names, engine.run_plans(plans) if plans else (), strict=True):
                audio.save(args.output / name)
                print(f"{args.output / name}: {audio.seconds:.2f} s")
    except (InputError, OSError) as e:
        print(f"convert_folder: {e}", file=sys.stderr)
        return 2
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
