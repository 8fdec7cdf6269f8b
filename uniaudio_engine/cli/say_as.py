"""The subcommand ``say-as``: a text as it will be spoken, without a model; and text from standard
input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from ..text import Sentence, decode, decode_pieces, iter_sentences, read_pronunciations

_PIECE = 1 << 16  # bytes


def standard_input() -> str:
    """All of standard input as text, whatever the locale says.

    Raises :class:`InputError` where its encoding cannot be told.
    """
    raw = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if raw is None else decode(raw.read(), "standard input")


def standard_input_pieces() -> Iterator[str]:
    """Standard input as text, as it arrives. Raises as :func:`standard_input` does."""
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is None:
        yield from sys.stdin
        return
    # Unbuffered: a thread that waits here must hold no lock when the program ends.
    source = getattr(buffer, "raw", buffer)
    yield from decode_pieces(iter(lambda: source.read(_PIECE), b""), "standard input")


def say_as_command(args: argparse.Namespace) -> int:
    """``uniaudio say-as``: words, pauses and phones of each sentence."""
    sentences = iter_sentences(
        standard_input() if args.text == "-" else args.text,
        markup=args.markup or "auto",
        lexicon=None if args.lexicon is None else read_pronunciations(args.lexicon),
    )
    if args.json:
        print(json.dumps([_described(s) for s in sentences], indent=2))
        return 0
    for sentence in sentences:
        inner = sentence.words[1:-1]
        print("".join(f" {w.text}" if w.text else "," for w in inner).strip() or "(silence)")
        print("  " + " | ".join(" ".join(w.phones) for w in inner) if inner else "  pau")
        notes = [
            f"left out: {sentence.unread}" if sentence.unread else "",
            f"rate {sentence.rate:g}" if sentence.rate != 1 else "",
            f"pause {sentence.pause:g} s" if sentence.pause is not None else "",
        ]
        if any(notes):
            print("  " + ", ".join(filter(None, notes)))
    return 0


def _described(sentence: Sentence) -> dict[str, Any]:
    return {
        "text": sentence.text,
        "characters": [sentence.begin, sentence.end],
        "pause": sentence.pause,
        "rate": sentence.rate,
        "unread": sentence.unread,
        "words": [
            {"word": w.text, "characters": [w.begin, w.end], "phones": list(w.phones)}
            for w in sentence.words
        ],
    }
