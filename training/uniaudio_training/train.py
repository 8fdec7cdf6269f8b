"""``uniaudio-train``: one command for corpora, tokens, all trainers, bundling and evaluation.

Subcommands are imported when they run, so that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import sys
import textwrap
from collections.abc import Sequence

# Commands with their own arguments: module with ``main(argv) -> exit code``, and its help.
COMMANDS = {
    "corpus": ("corpus.make", "make, convert, check or show corpora"),
    "tokenize": ("lm.tokenize", "convert corpus shards to token shards"),
    "captions": ("lm.caption_tokenizer", "train the caption tokenizer"),
    "plan": ("plan", "memory, time and data rates of an LM run on a cluster"),
    "bundle": ("bundle", "build a model folder from finished runs"),
    "evaluate": ("evaluate.command", "evaluate a model folder, a codec run or semantic units"),
}

# Trainers: module, its settings class, and what it trains.
TRAINERS = {
    "codec": ("codec.train_codec", "CodecSettings", "the codec, with spectral losses"),
    "codec-finish": (
        "codec.adversarial",
        "FinishSettings",
        "the codec's decoder with discriminators; codes stay valid",
    ),
    "codec-joint": (
        "codec.joint",
        "JointSettings",
        "the whole codec on a mixture of corpora, later with discriminators",
    ),
    "semantic": (
        "semantic.train_semantic",
        "SemanticSettings",
        "the semantic tokenizer, whose units identify phones",
    ),
    "semantic-robust": (
        "semantic.robust_finetune",
        "RobustSettings",
        "the semantic tokenizer for noise and rooms; units stay valid",
    ),
    "lm": ("lm.train_lm", "LMSettings", "the language model, on tokens"),
    "postfilter": (
        "postfilter.train_postfilter",
        "PostFilterSettings",
        "a filter of clean-up, or the one that keeps a voice",
    ),
}

EXAMPLES = """examples:
  uniaudio-train corpus make --tasks tts=3,vc=2,se=1.5 --out data/corpus
  uniaudio-train codec --config training/configs/codec.yaml --out runs/codec
  uniaudio-train tokenize --model runs/tokenizers --corpus data/corpus --out data/tokens --units
  uniaudio-train lm --config training/configs/lm.yaml --set steps=500 'tasks={se: 1}' --out runs/se
  uniaudio-train bundle --base runs/tokenizers --lm runs/se --out runs/se-folder
  uniaudio-train evaluate --model runs/se-folder --corpus data/corpus --task se
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns its exit code: 0, or 2 with a one-line error."""
    given = list(sys.argv[1:] if argv is None else argv)
    name = given[0] if given else ""
    if name in COMMANDS:
        module = importlib.import_module(f"{__package__}.{COMMANDS[name][0]}")
        return int(module.main(given[1:]))
    if name in TRAINERS:
        return _train(name, given[1:])
    parser = argparse.ArgumentParser(
        prog="uniaudio-train",
        description="Make a corpus, train every part of a model, bundle it and evaluate it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command, (*_, text) in (COMMANDS | TRAINERS).items():
        commands.add_parser(command, help=text)
    parser.parse_args(given)
    return 0


def _train(name: str, argv: list[str]) -> int:
    module_name, settings_name, text = TRAINERS[name]
    parser = argparse.ArgumentParser(
        prog=f"uniaudio-train {name}",
        description=f"Train {text}. A stopped run resumes where it stopped.",
        epilog=f"example: uniaudio-train {name} --config training/configs/{name}.yaml "
        f"--out runs/{name} --set steps=500",
    )
    parser.add_argument("--config", help="a YAML file of settings")
    parser.add_argument("--out", help="folder of the run; resumes its checkpoint")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="override settings of the config; values are YAML",
    )
    parser.add_argument("--settings", action="store_true", help="list all settings and exit")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    args = parser.parse_args(argv)
    if not args.settings and (args.config is None or args.out is None):
        parser.error("the following arguments are required: --config, --out")
    try:
        module = importlib.import_module(f"{__package__}.{module_name}")
    except ModuleNotFoundError as e:
        print(f"uniaudio-train: error: {e.name} is missing; {INSTALL}", file=sys.stderr)
        return 2
    kind = getattr(module, settings_name)
    if args.settings:
        print(describe(kind))
        return 0

    import torch

    from .settings import read_settings

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        module.train(read_settings(kind, args.config, args.set), args.out, args.device)
    except (OSError, ValueError) as e:
        print(f"uniaudio-train: error: {e}", file=sys.stderr)
        return 2
    return 0


INSTALL = "run pip install ./training, which installs everything the trainers need"


def describe(kind: type) -> str:
    """Help text of a settings class: its docstring, then a line for each setting."""
    lines = [
        textwrap.fill(part, 100) for part in inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    ]
    for f in dataclasses.fields(kind):
        default = f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        lines.append(f"  {f.name.rstrip('_')}: {f.type} = {default!r}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
