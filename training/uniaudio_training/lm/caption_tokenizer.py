"""``uniaudio-train captions``: trains the caption tokenizer, ``text.model`` of a model folder."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from uniaudio_engine.storage.files import atomic_write
from uniaudio_engine.tokenizers.captions import CaptionTokenizer, plain_caption

from ..corpus.reading import Corpus, open_corpus

CAPTION_TASKS = ("t2s", "t2m", "a_edit", "i_tts")


def corpus_captions(corpus: Corpus, split: str = "train") -> list[str]:
    """The distinct captions of the split, in the order of the corpus."""
    found: dict[str, None] = {}
    for task in CAPTION_TASKS:
        if split in corpus.splits(task):
            for example in corpus[task, split]:
                found.setdefault(plain_caption(example.label.caption))
    return list(found)


def train_captions(captions: list[str], size: int) -> bytes:
    """A unigram model of ``size`` pieces, 256 of them bytes; deterministic for equal captions."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=out,
        vocab_size=size,
        model_type="unigram",
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return out.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train captions",
        description="Train the caption tokenizer on the captions of a corpus.",
        epilog=(
            "example: uniaudio-train captions --corpus data/corpus --out data/tokens/text.model"
        ),
    )
    parser.add_argument(
        "--corpus", required=True, help="corpus folder, made by uniaudio-train corpus make"
    )
    parser.add_argument("--out", required=True, type=Path, help="output file of the tokenizer")
    parser.add_argument(
        "--size", type=int, default=1024, help="number of pieces (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        captions = corpus_captions(open_corpus(args.corpus))
    except (OSError, ValueError) as e:
        print(f"uniaudio-train captions: error: {e}", file=sys.stderr)
        return 2
    if not captions:
        print(
            f"uniaudio-train captions: error: {args.corpus}: expected captions of "
            f"{', '.join(CAPTION_TASKS)}, found none",
            file=sys.stderr,
        )
        return 2
    model = train_captions(captions, args.size)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out) as f:
        f.write(model)
    tokenizer = CaptionTokenizer(model)
    pieces = sum(len(tokenizer.encode(c)) for c in captions[:1000]) / min(1000, len(captions))
    print(
        f"{args.out}: {tokenizer.size} pieces from {len(captions)} captions, "
        f"{pieces:.1f} per caption"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
