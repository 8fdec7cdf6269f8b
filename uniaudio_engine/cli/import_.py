"""``uniaudio import``: one subcommand per family of foreign checkpoints.

``importers/`` does the work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from ..errors import InputError, shown
from ..importers.families import FAMILIES


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
    for family in FAMILIES:
        p = add(
            family.name,
            family.what,
            f"uniaudio import {family.name} {family.example}",
            _importer(family.name),
        )
        speaks = bool(family.parts or family.speaks)
        p.add_argument(
            "source",
            metavar="DIR" if speaks else "DIR_OR_FILE",
            help="folder with config.json, weights and tokenizer"
            if speaks
            else "folder or zip with config.json and weights, or weights with config.json next to "
            "them",
        )
        for name, repository in family.parts:
            p.add_argument(
                f"--{name}",
                metavar="DIR",
                help=f"folder of {repository.rpartition('/')[2]} (default: that name in DIR or "
                "next to it)",
            )
        if family.voices:
            p.add_argument("--voices", metavar="FILE", help=family.voices)
        p.add_argument(
            "--licence",
            default="",
            help="licence to store in the new folder; the files state none"
            if not speaks
            else "licence to store instead of the project's",
        )
    p = add(
        "auto",
        "a model of any of these families, from a folder or a hub",
        "uniaudio import auto kyutai/mimi -o my-mimi",
        _auto,
    )
    p.add_argument(
        "source", metavar="DIR_OR_NAME", help="a folder, or a model on a hub such as kyutai/mimi"
    )
    p.add_argument("--revision", metavar="REV", help="branch, tag or commit of a model on a hub")
    p.add_argument(
        "--licence", default="", help="licence to store in the new folder (default: its page's)"
    )


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


def _importer(name: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        family = next(f for f in FAMILIES if f.name == name)
        given = ("codec", "voices")
        options = {key: getattr(args, key) for key in given if getattr(args, key, None)}
        options |= {"dtype": args.dtype, "licence": args.licence, "progress": progress}
        report(args, family.importer(args.source, args.output, **options))
        return 0

    return run


def _auto(args: argparse.Namespace) -> int:
    from ..importers.auto import import_auto

    about = import_auto(
        args.source,
        args.output,
        revision=args.revision,
        dtype=args.dtype,
        licence=args.licence,
        progress=progress,
    )
    stated = about["licence"] or "none stated"
    about["notes"] = [f"{args.source}: {about['family']}, licence: {stated}", *about["notes"]]
    report(args, about)
    return 0


def locate_model(args: argparse.Namespace) -> str:
    """The folder of ``-m``, where that names a model on a hub; its licence is shown."""
    from ..importers.auto import located

    folder = str(located(args.model, getattr(args, "revision", None), progress))
    if folder != args.model:
        from ..storage.folder import load_config

        licence = load_config(folder).licence or "none stated"
        print(f"uniaudio: note: {args.model}: licence: {licence}", file=sys.stderr)
    return folder


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
