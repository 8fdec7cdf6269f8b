"""A voice agent's reply: the words of a language model are spoken as it writes them, and the user
may interrupt.

The model here is made up: it yields a reply token by token, as a client of any language model does.
Playing is made up, too: a clock tells what the listener has heard, and half a second of sound waits
to be played. Printed is when the sound of each word came, and what the agent has to remember as said.

    python examples/speak_reply.py -o reply.wav
    python examples/speak_reply.py -o reply.wav --interrupt 1.5
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator

import numpy as np

from uniaudio_engine import Audio, Engine, InputError

REPLY = (
    "Sure, I can help with that. The next train to **Springfield** leaves at 5:40 p.m. from platform "
    "3, and it takes 50 minutes. Shall I book a seat?"
)


AHEAD = 0.5  # seconds of sound that wait to be played


def language_model(reply: str, seconds: float) -> Iterator[str]:
    """Tokens of a reply, one every so many seconds."""
    for token in re.findall(r"\s*\w{1,6}|\W", reply):
        time.sleep(seconds)
        yield token


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reply", nargs="?", default=REPLY)
    parser.add_argument("-o", "--output", required=True, metavar="WAV")
    parser.add_argument(
        "--interrupt", type=float, metavar="S", help="the user speaks after S seconds of sound"
    )
    parser.add_argument(
        "--token-seconds", type=float, default=0.03, metavar="S", help="of a token (default 0.03)"
    )
    parser.add_argument("--voice", help="a voice's name or file (default: the model's own)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--model", metavar="FOLDER", help="default: the bundled one")
    args = parser.parse_args()
    chunks = []
    try:
        engine = Engine.from_pretrained(args.model)
        tokens = language_model(args.reply, args.token_seconds)
        asked = time.perf_counter()
        began = 0.0
        with engine.stream("tts", text=tokens, voice=args.voice, seed=args.seed) as stream:
            for chunk in stream:
                chunks.append(chunk)
                began = began or time.perf_counter()
                for word in chunk.words:
                    if word["word"]:
                        came = time.perf_counter() - asked
                        due = began - asked + word["start"]
                        print(f"{word['word']:>14}  came {came:5.2f} s, is heard at {due:5.2f} s")
                end = (chunk.start + len(chunk.samples)) / chunk.sample_rate
                time.sleep(max(0.0, began + end - AHEAD - time.perf_counter()))
                played = time.perf_counter() - began
                if args.interrupt is not None and played >= args.interrupt:
                    heard = stream.interrupt(played=played)
                    print(f"interrupted; the listener heard: {heard.text!r}")
                    break
        samples = np.concatenate([chunk.samples for chunk in chunks])
        sound = Audio(samples, engine.sample_rate)
        sound.save(args.output)
    except (InputError, OSError) as e:
        print(f"speak_reply: {e}", file=sys.stderr)
        return 2
    print(f"{args.output}: {sound.seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
