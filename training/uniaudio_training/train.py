"""``uniaudio-train codec|semantic|lm --config FILE --out RUN``: trains or resumes, on CPU or GPU
unchanged.
"""

from __future__ import annotations

import argparse
import importlib
import sys

_KINDS = {
    "codec": ("uniaudio_training.codec.train", "the codec, spectral losses"),
    "codec-finish": (
        "uniaudio_training.codec.adversarial",
        "the codec's decoder against discriminators, codes kept",
    ),
    "codec-joint": (
        "uniaudio_training.codec.joint",
        "the codec as a whole on a mixture of corpora, losses first, then discriminators as well",
    ),
    "semantic": (
        "uniaudio_training.semantic.train",
        "the semantic tokenizer: units that say the phone",
    ),
    "semantic-harden": (
        "uniaudio_training.semantic.harden",
        "the semantic tokenizer in noise and rooms, units kept",
    ),
    "lm": ("uniaudio_training.lm.train", "the language model on tokens"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train",
        description="Train a codec or LM; a run that was stopped resumes where it was.",
        epilog=(
            "examples: uniaudio-train codec --config training/configs/codec.yaml --out "
            "runs/codec; uniaudio-train lm --config training/configs/lm.yaml --set steps=500 "
            "'tasks={se: 1}' --out runs/se"
        ),
    )
    parser.add_argument(
        "kind", choices=_KINDS, help="; ".join(f"{k}: {v[1]}" for k, v in _KINDS.items())
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", required=True, help="the run's folder; its checkpoint is resumed")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings in place of the config's; values are YAML",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    args = parser.parse_args(argv)

    import torch

    from .run import load_yaml, overridden

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        config = overridden(load_yaml(args.config), args.set)
        importlib.import_module(_KINDS[args.kind][0]).train(config, args.out, args.device)
    except (OSError, ValueError, KeyError) as e:
        print(f"uniaudio-train: error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
