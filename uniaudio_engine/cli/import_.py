"""``uniaudio import``: one subcommand per family of foreign checkpoints.

``importers/`` does the work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from ..errors import InputError, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all families; ``args.run(args)`` does the work and returns the exit code."""
    families = parser.add_subparsers(metavar="FAMILY", required=True)

    def add(
        name: str, help: str, example: str, run: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = families.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}",
        )
        p.set_defaults(run=run)
        p.add_argument("--json", action="store_true", help="print the result as JSON")
        p.add_argument(
            "-o", "--output", required=True, metavar="FOLDER", help="the new model folder"
        )
        p.add_argument(
            "--dtype",
            default="float32",
            help="type of the stored weights: float32 (default, exact) or bfloat16",
        )
        return p

    p = add(
        "uniaudio",
        "UniAudio's language model with its codec",
        "uniaudio import uniaudio --lm uniaudio_v1.zip --codec universal_model.zip --phones "
        "phone_dict -o uniaudio-v1",
        _uniaudio,
    )
    p.add_argument(
        "--lm",
        required=True,
        metavar="FILE",
        help="its checkpoint, or a folder or zip with the checkpoint and its config.yaml",
    )
    p.add_argument(
        "--config",
        metavar="FILE",
        help="the training's config.yaml, if it is not next to the checkpoint",
    )
    p.add_argument(
        "--codec",
        required=True,
        metavar="FILE",
        help="the codec's model.pth, or a folder or zip that holds it",
    )
    p.add_argument(
        "--codec-config",
        metavar="FILE",
        help="the codec's config.yaml, if it is not next to model.pth; without one: 16 kHz",
    )
    p.add_argument(
        "--phones",
        metavar="FILE",
        help="the phone dictionary of the training: a label at the start of each line",
    )
    p.add_argument(
        "--lexicon",
        metavar="FILE",
        help="pronunciations in these phones: WORD PHONE PHONE … on each line",
    )
    p.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="SPAN=FILE",
        help="labels of other tokens, such as sing_phone=dict_phone.txt",
    )
    for family, what, example in (
        (
            "encodec",
            "an EnCodec codec, as transformers stores it",
            "encodec_24khz -o encodec-24khz",
        ),
        ("mimi", "a Mimi codec, as transformers stores it", "mimi -o my-mimi"),
        (
            "cat",
            "a CAT codec (MOSS-Audio-Tokenizer)",
            "MOSS-Audio-Tokenizer-Nano -o my-codec",
        ),
    ):
        p = add(family, what, f"uniaudio import {family} {example}", _codec_of(family))
        p.add_argument(
            "source",
            metavar="DIR_OR_FILE",
            help="folder or zip with config.json and weights, or weights with config.json next to "
            "them",
        )
        p.add_argument(
            "--licence", default="", help="licence to store in the new folder; the files state none"
        )
    for family, what, example, voices in (
        (
            "vieneu",
            "VieNeu-TTS v3 Turbo with its codec and voices",
            "VieNeu-TTS-v3-Turbo --codec MOSS-Audio-Tokenizer-Nano --voices voices_v3_turbo.json "
            "-o vieneu",
            "the project's voices_v3_turbo.json (default: the one in DIR)",
        ),
        (
            "moss-nano",
            "MOSS-TTS-Nano with its codec",
            "MOSS-TTS-Nano --codec MOSS-Audio-Tokenizer-Nano -o moss-nano",
            "a JSON file with builtin_voices, from the project's ONNX release",
        ),
    ):
        p = add(family, what, f"uniaudio import {family} {example}", _speech_of(family))
        p.add_argument(
            "source", metavar="DIR", help="folder with config.json, weights and tokenizer"
        )
        p.add_argument(
            "--codec",
            metavar="DIR",
            help="folder of MOSS-Audio-Tokenizer-Nano (default: that name in DIR or next to it)",
        )
        p.add_argument("--voices", metavar="FILE", help=voices)
        p.add_argument("--licence", default="", help="licence to store instead of the project's")


def _uniaudio(args: argparse.Namespace) -> int:
    from ..importers.uniaudio import import_uniaudio  # imported late, so that --help is fast

    labels = {}
    for pair in args.labels:
        span, equals, path = pair.partition("=")
        if not equals or span in labels:
            raise InputError(
                f"--labels: expected SPAN=FILE, once for each span, got {shown(pair)}; such as "
                "sing_phone=dict_phone.txt"
            )
        labels[span] = path
    about = import_uniaudio(
        args.lm,
        args.codec,
        args.output,
        config=args.config,
        codec_config=args.codec_config,
        phones=args.phones,
        lexicon=args.lexicon,
        labels=labels,
        dtype=args.dtype,
        progress=progress,
    )
    report(args, about)
    return 0


def _codec_of(family: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        # imported late, so that --help is fast
        module = importlib.import_module(f"..importers.{family}", __package__)
        importer = getattr(module, f"import_{family}")
        report(
            args,
            importer(
                args.source, args.output, dtype=args.dtype, licence=args.licence, progress=progress
            ),
        )
        return 0

    return run


def _speech_of(family: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        name = family.replace("-", "_")
        module = importlib.import_module(f"..importers.{name}", __package__)
        importer = getattr(module, f"import_{name}")
        how = {"codec": args.codec, "voices": args.voices, "dtype": args.dtype}
        about = importer(args.source, args.output, licence=args.licence, progress=progress, **how)
        report(args, about)
        return 0

    return run


def progress(text: str) -> None:
    """Rewrites one line on standard error if that is a terminal; an empty text clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)


def report(args: argparse.Namespace, about: dict[str, Any]) -> None:
    """Reports a result as JSON, or as a line and the notes."""
    if args.json:
        print(json.dumps(about))
        return
    print(
        f"{about['output']}: {about['parameters'] / 1e6:.1f} million parameters as {about['dtype']}"
    )
    for note in about["notes"]:
        print(f"uniaudio: note: {note}", file=sys.stderr)
