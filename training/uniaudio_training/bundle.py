"""``uniaudio-train bundle``: builds a model folder, with voices and a model card, from finished
runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from uniaudio_engine.engine import Engine
from uniaudio_engine.request.tasks import Task
from uniaudio_engine.storage.config import (
    FORMAT_VERSION,
    CodecConfig,
    LMConfig,
    ModelConfig,
    SpectralConfig,
    VocabularyConfig,
    from_dict,
)
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.folder_writing import (
    add_semantic,
    add_unit_phones,
    replace_codec,
    save_folder,
)
from uniaudio_engine.text.phones import PHONES

from .checkpoints import float32_tensors, load_semantic, read_codec, read_lm
from .corpus import speech, teacher
from .corpus.reading import CorpusError, Example, open_corpus
from .corpus.shards import MANIFEST
from .postfilter.weights import put_in_folder
from .semantic import unit_phones

# Characterises a voice in three seconds: many vowels, rising and falling pitch.
PROMPT_TEXT = "The early morning light came over the quiet water, and we walked home slowly."
PROMPT_SAMPLES = 3 * 16000
# Level of the sounds of `uniaudio-train corpus` in dBFS, as the engine measures it; and in dB, how much
# louder its recipes make the sources of a task
LEVEL = -24.0
SOURCE_GAINS = {"a_edit": -7.0, "sd": 7.0}
PROCEDURAL = "procedural"
VOICES = (
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


def voice_prompt(name: str) -> np.ndarray:
    """The beginning of PROMPT_TEXT by a speaker of the corpus, float32 [N] at 16 kHz."""
    who = next(s for s in speech.SPEAKERS if s.name == name)
    return speech.speak(PROMPT_TEXT, who).samples[:PROMPT_SAMPLES]


def write_folder(
    out: Path,
    name: str,
    codec_run: str | None,
    lm_run: str | None,
    card: str,
    base: Path | None = None,
    captions: bytes = b"",
    codec_dtype: str = "bfloat16",
    level: float | None = None,
    guidance: Mapping[str, float] | None = None,
    lm_share: float = 1.0,
) -> None:
    """Writes a model folder with bfloat16 weights, and those of the codec in ``codec_dtype``.

    ``level``: dBFS of the sounds of the training, to which the engine brings what it hears.
    ``guidance``: default scale of classifier-free guidance, by task (default: that of ``base``).
    ``lm_share``: share of the run's weights in those of the LM; the rest are those of ``base``.

    Without ``codec_run``, codec, semantic tokenizer and post-filter are copied from the model folder
    ``base``, and so is the caption tokenizer unless ``captions`` is given.
    """
    if codec_run is not None:
        codec_config, tensors = read_codec(codec_run)
        weights = {k: v.numpy() for k, v in tensors.items()}
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
        described, trained = read_lm(lm_run)
        lm = from_dict(LMConfig, described["lm"], "lm")
        vocabulary = from_dict(VocabularyConfig, described["vocabulary"], "vocabulary")
        tasks = tuple(
            t if isinstance(t, str) else from_dict(Task, t, "tasks") for t in described["tasks"]
        )
        labels = {span: tuple(names) for span, names in described.get("labels", {}).items()}
        state = {k: v.numpy() for k, v in trained.items()}
        if lm_share != 1:
            state = _mean(state, lm, vocabulary, base, lm_share)
    names = {t if isinstance(t, str) else t.name for t in tasks}
    if not guidance and codec_run is None:
        guidance = {t: g for t, g in old.config.guidance.items() if t in names}
    config = ModelConfig(
        FORMAT_VERSION,
        name,
        codec_config,
        lm,
        vocabulary,
        tasks,
        "Apache-2.0",
        semantic=semantic_config,
        level=level,
        source_levels={t: level + gain for t, gain in SOURCE_GAINS.items() if t in names}
        if level is not None
        else {},
        guidance=dict(guidance or {}),
    )
    save_folder(
        out,
        config,
        weights,
        state,
        PHONES if lm else (),
        "bfloat16",
        semantic,
        captions,
        labels,
        codec_dtype=codec_dtype,
    )
    if base is not None and codec_run is None:  # as it is stored: its codes must not change
        codec = "codec.safetensors"
        (out / codec).write_bytes((base / codec).read_bytes())
        for name in old.config.filters if lm is not None else ():
            rounded = any(w.dtype == np.uint16 for w in old.filters[name].values())
            put_in_folder(out, str(base), name, "bfloat16" if rounded else "int8")
        if len(old.unit_phones) and lm is not None:
            add_unit_phones(out, old.unit_phones)
    (out / "README.md").write_text(card)


def _mean(
    state: dict[str, np.ndarray],
    lm: LMConfig,
    vocabulary: VocabularyConfig,
    base: Path | None,
    share: float,
) -> dict[str, np.ndarray]:
    """Weights between those of the LM of ``base`` (share 0) and ``state`` (share 1).

    A run that went on from a trained model is often better there than at its end
    (arXiv 2109.01903).
    """
    old = load_folder(base) if base is not None else None
    if old is None or (old.config.lm, old.config.vocabulary) != (lm, vocabulary):
        raise ValueError(
            f"--lm-share {share:g}: expected --base to have the LM that the run began with, "
            f"got {base or 'no --base'}"
        )
    begin = float32_tensors(old.lm)
    return {k: share * v + (1 - share) * begin[k].numpy() for k, v in state.items()}


def add_semantic_run(folder: Path, run: str) -> None:
    """Adds the semantic tokenizer of a finished run or of a model folder, in bfloat16."""
    if (Path(run) / "config.json").exists():
        other = load_folder(Path(run))
        if other.config.semantic is None:
            raise ValueError(f"{run}: expected a folder with a semantic tokenizer, it has none")
        add_semantic(folder, other.config.semantic, other.semantic)
        return
    config, model = load_semantic(run)
    add_semantic(
        folder, config, {k: np.ascontiguousarray(v.numpy()) for k, v in model.state_dict().items()}
    )


def replace_decoder(folder: Path, run: str, share: float = 1.0) -> None:
    """Replaces the codec's decoder in a model folder by that of a run with the same codes, or by the
    weights between both (``share`` 1 is the run's). It is stored as the folder's was; the LM and the
    voices stay valid.

    Raises ValueError where the run has another encoder or other codebooks, or a decoder of another
    shape for a share below 1.
    """
    config, tensors = read_codec(run)
    old_config, old = read_codec(folder)
    if _codes(config) != _codes(old_config):
        raise ValueError(f"{run}: expected the encoder and the codebooks of {folder}, got others")
    if share < 1 and config != old_config:
        raise ValueError(f"--decoder-share: expected a decoder of the shape of {folder} in {run}")
    made = {name: x for name, x in old.items() if not name.startswith("decoder.")}
    for name, tensor in tensors.items():
        if name.startswith("decoder."):
            made[name] = tensor if share == 1 else share * tensor + (1 - share) * old[name]
        # the same but for rounding to bfloat16 or int8
        elif (tensor - old[name]).abs().max() > 0.01 * old[name].abs().max():
            raise ValueError(
                f"{run}: expected the encoder and the codebooks of {folder}, but {name} differs; "
                "train the decoder alone: --set encoder_until=0"
            )
    replace_codec(folder, {name: tensor.numpy() for name, tensor in made.items()}, config)


def _codes(config: CodecConfig) -> CodecConfig:
    """What the codes depend on: the config without its decoder."""
    plain = SpectralConfig()
    decoder = {
        f.name: getattr(plain, f.name) for f in fields(plain) if f.name.startswith("decoder_")
    }
    spectral = config.spectral and replace(config.spectral, **decoder)
    return replace(config, spectral=spectral)


def write_voices(
    folder: Path, base: Path | None, corpora: Sequence[str] = (), default: str = ""
) -> None:
    """Writes the voices: the speakers of ``corpora``, each under the licence of its corpus' first
    source, in place of those that ``folder`` has; else the voices of ``base``, which has the same
    codec. ``default``: the voice of requests that name none; by default the first, or that of
    ``base``.

    The corpus ``procedural`` stands for the generator's own speakers, a folder of Kokoro for its
    English voices. Raises ValueError where there is no voice of the name ``default``, and CorpusError
    where a corpus has none; the folder is then as it was.
    """
    kept = sorted((base / "voices").glob("*.safetensors")) if base and not corpora else []
    prompts = [] if kept else list(_prompts(corpora or (PROCEDURAL,)))
    names = [p.stem for p in kept] or [name for name, _, _ in prompts]
    if default and default not in names:
        raise ValueError(f"--default-voice: expected one of the voices, got {default}")
    voices = folder / "voices"
    voices.mkdir(exist_ok=True)
    for path in kept:
        (voices / path.name).write_bytes(path.read_bytes())
    if prompts:
        default = default or names[0]
        engine = Engine.from_pretrained(folder)
        for name, samples, licence in prompts:
            voice = engine.encode_voice((samples, 16000), name, licence=licence)
            voice.save(voices / f"{name}.safetensors")
        for path in voices.glob("*.safetensors"):
            if path.stem not in names:
                path.unlink()
    if default:
        chosen = voices / f"{default}.safetensors"
        (voices / "default.safetensors").write_bytes(chosen.read_bytes())


def _prompts(corpora: Sequence[str]) -> Iterator[tuple[str, np.ndarray, str]]:
    """The speakers of the corpora: name, prompt and licence."""
    for corpus in corpora:
        if corpus == PROCEDURAL:
            yield from ((name, voice_prompt(name), "Apache-2.0") for name in VOICES)
            continue
        if (Path(corpus) / teacher.MODEL).is_file():
            kokoro = teacher.Kokoro(Path(corpus))
            for name in teacher.english_voices(Path(corpus)):
                said = teacher.speak(kokoro, PROMPT_TEXT, name)
                yield name, said.samples[:PROMPT_SAMPLES], teacher.LICENCE
            continue
        sources = json.loads((Path(corpus) / MANIFEST).read_text(encoding="utf-8"))["sources"]
        licence = next(iter(sources.values()))["licence"]
        for name, samples in speakers(Path(corpus)).items():
            yield name, samples, licence


def speakers(corpus: Path) -> dict[str, np.ndarray]:
    """Each speaker's prompt from the tts training split of a corpus: the first three seconds of the
    clip whose length is nearest to that from above, float32 [N] at 16 kHz."""
    seconds = PROMPT_SAMPLES / 16000
    found: dict[str, Example] = {}
    for example in open_corpus(corpus)["tts", "train"]:
        track = example.track()
        best = found.get(track.speaker)
        if track.seconds >= seconds and (best is None or track.seconds < best.track().seconds):
            found[track.speaker] = example
    if not found:
        raise CorpusError(f"{corpus}: expected tts clips of {seconds:g} s or more, found none")
    return {
        name.removeprefix("kokoro-"): example.audio()[:PROMPT_SAMPLES]
        for name, example in sorted(found.items())
    }


def _scales(given: Sequence[str]) -> dict[str, float]:
    """TASK=SCALE as a table."""
    scales: dict[str, float] = {}
    for one in given:
        task, _, scale = one.partition("=")
        try:
            scales[task] = float(scale)
        except ValueError:
            raise ValueError(f"--guidance: expected TASK=SCALE, got {one}") from None
    return scales


def _card(args: argparse.Namespace) -> str:
    """The text of the model card: that of --card, of a checkout, or of --base."""
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
            "codec run, model folder, or file of packed weights; without it, --base "
            "provides the codec, or --semantic alone is added to the existing folder --out"
        ),
    )
    parser.add_argument(
        "--base",
        type=Path,
        help="a model folder that provides the codec, semantic and caption tokenizers",
    )
    parser.add_argument(
        "--codec-dtype",
        choices=("float32", "bfloat16", "int8"),
        default="bfloat16",
        help="how the weights of --codec are stored; int8 takes half the space of bfloat16, and all are "
        "computed in float32 (default: bfloat16)",
    )
    parser.add_argument(
        "--level",
        type=float,
        metavar="DBFS",
        help="level of the sounds that the LM was trained on; the engine brings sources and voices to "
        f"it. {LEVEL:g} for corpora of `uniaudio-train corpus` (default: sounds stay as they are)",
    )
    parser.add_argument(
        "--guidance",
        action="extend",
        nargs="+",
        default=[],
        metavar="TASK=SCALE",
        help="default scale of classifier-free guidance of a task; the LM must have been trained with "
        "caption_dropout for tasks with captions, with aligned_dropout for others",
    )
    parser.add_argument("--captions", type=Path, help="file of the caption tokenizer")
    parser.add_argument("--semantic", help="semantic run, or a model folder that has one")
    parser.add_argument(
        "--unit-phones",
        action="extend",
        nargs="+",
        default=[],
        metavar="CORPUS",
        help="corpora with phone times, on which it is counted which phones the units of the semantic "
        "tokenizer stand for; the engine's option best_of needs it (default: that of --base)",
    )
    parser.add_argument(
        "--postfilter",
        help="post-filter run, or a model folder that has one (default: that of --base); one that "
        "hears a voice becomes the folder's voice filter",
    )
    parser.add_argument(
        "--postfilter-share",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="as --decoder-share, of the filter",
    )
    parser.add_argument(
        "--decoder",
        help="codec run whose decoder replaces that of the existing folder --out; its codes must "
        "be the folder's",
    )
    parser.add_argument(
        "--decoder-share",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="0 to 1: weights between those of the folder's decoder (0) and --decoder (1), from which "
        "it went on (default: 1)",
    )
    parser.add_argument(
        "--voices",
        action="extend",
        nargs="+",
        default=[],
        metavar="CORPUS",
        help="corpora whose speakers become the voices, the default voice first; `procedural` is the "
        "generator's own speakers, a folder of Kokoro gives its English voices; without --lm they "
        "replace those of the existing folder --out (default: the voices of --base, else procedural)",
    )
    parser.add_argument(
        "--default-voice",
        default="",
        metavar="NAME",
        help="the voice of requests that name none (default: the first of the first corpus)",
    )
    parser.add_argument(
        "--lm",
        help="LM run, or a file of training/gpu/export.py (default: no LM in the folder)",
    )
    parser.add_argument(
        "--lm-share",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the run's weights in those of the LM, 0 to 1; the rest are those of --base, from "
        "which the run went on (default: 1)",
    )
    parser.add_argument("--name", default="base", help="name of the model (default: base)")
    parser.add_argument("--out", required=True, type=Path, help="the model folder")
    parser.add_argument(
        "--card",
        type=Path,
        help="model card (default: training/card.md of a checkout, else that of --base)",
    )
    args = parser.parse_args(argv)
    changed = bool(args.voices or args.unit_phones) or any(
        x is not None for x in (args.semantic, args.postfilter, args.decoder)
    )
    if (args.codec is None) == (args.base is None) and (
        not changed or args.lm is not None or args.codec is not None
    ):
        parser.error(
            "expected one of --codec and --base, or --semantic, --unit-phones, --postfilter, --decoder "
            "or --voices alone, which change the existing folder --out"
        )
    for part in ("lm", "decoder", "postfilter"):
        share = getattr(args, f"{part}_share")
        if not 0 <= share <= 1:
            parser.error(f"--{part}-share: expected 0 to 1, got {share:g}")
        if getattr(args, part) is None and share != 1:
            parser.error(f"--{part}-share: expected --{part} with it")
    try:
        if args.codec is not None or args.base is not None:
            captions = args.captions.read_bytes() if args.captions else b""
            write_folder(
                args.out,
                args.name,
                args.codec,
                args.lm,
                _card(args),
                args.base,
                captions,
                codec_dtype=args.codec_dtype,
                level=args.level,
                guidance=_scales(args.guidance),
                lm_share=args.lm_share,
            )
        if args.semantic is not None:
            add_semantic_run(args.out, args.semantic)
        if args.unit_phones:
            add_unit_phones(args.out, unit_phones.count(args.out, args.unit_phones))
        if args.postfilter is not None:
            put_in_folder(args.out, args.postfilter, share=args.postfilter_share)
        if args.decoder is not None:
            replace_decoder(args.out, args.decoder, args.decoder_share)
        if args.lm or args.voices:
            base = args.base if args.codec is None else None
            write_voices(args.out, base, args.voices, args.default_voice)
    except (OSError, ValueError, RuntimeError) as e:
        print(f"uniaudio-train bundle: error: {e}", file=sys.stderr)
        return 2
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
