"""Plays speech while it is generated: prints when each chunk arrives, and writes all of them as a
WAV file.

An app passes each chunk to its sound device. What matters is when the first chunk arrives, and
whether a later one arrives after it is due. Both are printed, one line per chunk.

    python examples/play_stream.py "The first words play before the last are made." -o speech.wav
"""

from __future__ import annotations

import argparse
import sys
import time
import wave

from uniaudio_engine import Engine, InputError


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text")
    parser.add_argument("-o", "--output", required=True, metavar="WAV")
    parser.add_argument(
        "--voice", help="name or file of a voice, or a recording (default: the model's own)"
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--model", metavar="FOLDER", help="model folder (default: the bundled model)"
    )
    args = parser.parse_args()
    try:
        engine = Engine.from_pretrained(args.model)
        asked = time.perf_counter()
        stream = engine.stream("tts", text=args.text, voice=args.voice, seed=args.seed)
        file = open(args.output, "wb")  # noqa: SIM115 (closed below)
    except (InputError, OSError) as e:
        print(f"play_stream: {e}", file=sys.stderr)
        return 2
    began: float | None = None  # start of playback: at the first chunk
    late = 0.0
    with stream, file, wave.open(file, "wb") as out:
        out.setparams((1, 2, engine.sample_rate, 0, "NONE", "not compressed"))
        for chunk in stream:
            now = time.perf_counter()
            began = now if began is None else began
            due = began + chunk.start / chunk.sample_rate
            late = max(late, now - due)
            first, last = (
                n / chunk.sample_rate for n in (chunk.start, chunk.start + len(chunk.samples))
            )
            print(
                f"after {1000 * (now - asked):7.1f} ms: {first:6.2f} to {last:6.2f} s of sound, "
                f"{1000 * (due - now):+8.1f} ms before it is due"
            )
            out.writeframes((chunk.samples * 32767).round().astype("<i2").tobytes())
    print(
        f"{args.output}: {stream.meta['seconds']:.2f} s, seed {stream.meta['seed']}, "
        + (f"up to {1000 * late:.1f} ms late" if late else "never late")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
