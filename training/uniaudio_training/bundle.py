"""``uniaudio-train bundle``: finished runs -> a native model folder with bundled
voices and a card.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from uniaudio_engine.engine import Engine
from uniaudio_engine.request.tasks import Task
from uniaudio_engine.storage.config import (
    FORMAT_VERSION,
    LMConfig,
    ModelConfig,
    VocabularyConfig,
    from_dict,
)
from uniaudio_engine.storage.folder import add_semantic, load_folder, save_folder
from uniaudio_engine.text.phones import PHONES

from .checkpoints import load_codec, load_semantic
from .corpus import speech

# A prompt that shows a voice in three seconds: many vowels, both pitches of a question and a
# statement.
PROMPT_TEXT = "The early morning light came over the quiet water, and we walked home slowly."
VOICES = (  # the first is the default
    "slt-102-163",
    "slt-086-138",
    "slt-110-226",
    "slt-118-189",
    "rms-086-086",
    "rms-102-102",
    "rms-118-118",
    "awb-086-125",
    "awb-102-107",
    "awb-110-160",
    "awb-118-124",
    "kal16-094-089",
    "kal16-102-133",
    "kal16-118-153",
)


def voice_prompt(name: str, seconds: float = 3.0) -> np.ndarray:
    """The first ``seconds`` of a fixed text by a virtual speaker of the corpus: float32 [N] at 16
    kHz.
    """
    who = next(s for s in speech.SPEAKERS if s.name == name)
    return speech.speak(PROMPT_TEXT, who).samples[: int(seconds * 16000)]


def write_folder(
    out: Path,
    name: str,
    codec_run: str | None,
    lm_run: str | None,
    card: str,
    base: Path | None = None,
    captions: bytes = b"",
) -> None:
    """Writes the folder, weights in bfloat16. Without ``codec_run`` the codec, the semantic
    tokenizer and (unless given) the caption tokenizer are those of the model folder ``base``.
    """
    if codec_run is not None:
        codec = load_codec(codec_run)
        codec_config, weights = codec.config, {k: v.numpy() for k, v in codec.state_dict().items()}
        semantic_config, semantic = None, None
    else:
        assert base is not None
        old = load_folder(base)
        codec_config, weights, captions = old.config.codec, old.codec, captions or old.captions
        semantic_config, semantic = old.config.semantic, old.semantic
    lm = vocabulary = state = None
    tasks: tuple[str | Task, ...] = ()
    labels: dict[str, tuple[str, ...]] = {}
    if lm_run is not None:
        described = json.loads((Path(lm_run) / "lm.json").read_text())
        lm = from_dict(LMConfig, described["lm"], "lm")
        vocabulary = from_dict(VocabularyConfig, described["vocabulary"], "vocabulary")
        tasks = tuple(
            t if isinstance(t, str) else from_dict(Task, t, "tasks") for t in described["tasks"]
        )
        labels = {span: tuple(names) for span, names in described.get("labels", {}).items()}
        checkpoint = torch.load(
            Path(lm_run) / "checkpoint.pt", map_location="cpu", weights_only=False
        )
        state = {k: v.numpy() for k, v in checkpoint["parts"]["model"].items()}
    config = ModelConfig(
        FORMAT_VERSION,
        name,
        codec_config,
        lm,
        vocabulary,
        tasks,
        "Apache-2.0",
        semantic=semantic_config,
    )
    save_folder(
        out, config, weights, state, PHONES if lm else (), "bfloat16", semantic, captions, labels
    )
    (out / "README.md").write_text(card)


def add_semantic_run(folder: Path, run: str) -> None:
    """Puts a finished semantic run into a model folder, weights in bfloat16."""
    config, model = load_semantic(run)
    add_semantic(
        folder, config, {k: np.ascontiguousarray(v.numpy()) for k, v in model.state_dict().items()}
    )


def write_voices(folder: Path, base: Path | None) -> None:
    """The voices of the model folder ``base``, which has the same codec; where there are none,
    virtual speakers of the corpus.
    """
    voices = folder / "voices"
    voices.mkdir(exist_ok=True)
    kept = [] if base is None else sorted((base / "voices").glob("*.safetensors"))
    for path in kept:
        (voices / path.name).write_bytes(path.read_bytes())
    if kept:
        return
    engine = Engine.from_pretrained(folder)
    for file, name in (("default", VOICES[0]), *zip(VOICES, VOICES, strict=True)):
        engine.encode_voice((voice_prompt(name), 16000), name, licence="Apache-2.0").save(
            voices / f"{file}.safetensors"
        )


def _card(args: argparse.Namespace) -> str:
    """An installed package has no checkout around it: then the folder that is gone on from has a
    card.
    """
    if args.card is not None:
        return str(args.card.read_text())
    found = [
        p
        for p in (Path(__file__).parents[1] / "card.md", args.base and args.base / "README.md")
        if p and p.is_file()
    ]
    return found[0].read_text() if found else f"# {args.name}\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train bundle",
        description="Make a model folder from finished runs.",
        epilog=(
            "example: uniaudio-train bundle --base runs/tokenizers --lm runs/lm "
            "--captions data/tokens/text.model --out uniaudio_engine/models/base"
        ),
    )
    parser.add_argument(
        "--codec",
        help=(
            "codec run (left out: that of --base, or --out is a model folder already, which "
            "--semantic goes into)"
        ),
    )
    parser.add_argument(
        "--base",
        type=Path,
        help="a model folder whose codec, semantic and caption tokenizer are taken",
    )
    parser.add_argument("--captions", type=Path, help="the caption tokenizer's file")
    parser.add_argument("--semantic", help="semantic run")
    parser.add_argument("--lm", help="LM run (left out: a codec-only folder)")
    parser.add_argument("--name", default="base")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument(
        "--card",
        type=Path,
        help="the model card to ship (default: a checkout's training/card.md, else that of --base)",
    )
    args = parser.parse_args(argv)
    if (args.codec is None) == (args.base is None) and (
        args.semantic is None or args.lm is not None or args.codec is not None
    ):
        parser.error(
            "expected one of --codec and --base; without both, --semantic alone goes into the "
            "folder that is there"
        )
    if args.codec is not None or args.base is not None:
        captions = args.captions.read_bytes() if args.captions else b""
        write_folder(args.out, args.name, args.codec, args.lm, _card(args), args.base, captions)
    if args.semantic is not None:
        add_semantic_run(args.out, args.semantic)
    if args.lm:
        write_voices(args.out, args.base if args.codec is None else None)
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
