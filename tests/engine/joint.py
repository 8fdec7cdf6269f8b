"""A tiny random model of all eleven tasks, without torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny import random_weights, tiny_config
from uniaudio_training.lm.caption_tokenizer import train_captions

from uniaudio_engine.request import aligned as aligned_rows
from uniaudio_engine.request.sequence import aligned_vocab, make_vocabulary, vocab_size
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.storage.config import (
    CodecConfig,
    ModelConfig,
    PostFilterConfig,
    SemanticConfig,
    SpectralConfig,
)
from uniaudio_engine.storage.folder_writing import add_postfilter, add_unit_phones, save_folder
from uniaudio_engine.storage.postfilter_config import FILTERS
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes, postfilter_shapes
from uniaudio_engine.text import PHONES
from uniaudio_engine.tokenizers.captions import CaptionTokenizer

K, SIZE, UNITS = 4, 16, 20
POSTFILTER = PostFilterConfig(width=16, hidden=24, blocks=2, kernel_size=3)
VOICE_FILTER = PostFilterConfig(
    width=16, hidden=24, blocks=2, kernel_size=3, voice=12, voice_blocks=1
)
CAPTIONS = [
    "a low voice, slowly",
    "three knocks on wood",
    "add a bell",
    "slow piano in c major",
] * 20


def joint_config(captions: int) -> ModelConfig:
    def spans(start: int) -> Any:
        return aligned_rows.joint_spans(start, SIZE, UNITS)

    config = tiny_config(len(PHONES))
    vocabulary = make_vocabulary(K, SIZE, len(PHONES), tuple(TASKS), ("caption",), captions, spans)
    assert config.lm is not None
    lm = dataclasses.replace(
        config.lm,
        num_codebooks=K,
        vocab_size=vocab_size(vocabulary),
        aligned_slots=len(vocabulary.aligned_spans),
        aligned_vocab=aligned_vocab(vocabulary),
    )
    encoder = CodecConfig(
        "spectral",
        num_codebooks=1,
        codebook_size=UNITS,
        codebook_dim=8,
        spectral=SpectralConfig(
            encoder_width=16,
            encoder_blocks=1,
            encoder_hidden=24,
            encoder_phases=False,
            decoder_blocks=0,
        ),
    )
    codec = dataclasses.replace(config.codec, num_codebooks=8)
    return dataclasses.replace(
        config,
        codec=codec,
        lm=lm,
        vocabulary=vocabulary,
        tasks=tuple(TASKS),
        semantic=SemanticConfig(encoder, 2),
    )


def make_joint_model(path: Path) -> Path:
    """Write the folder: 4 of 8 codebooks of 16, 20 semantic units and what they stand for, a caption
    tokenizer of its own, and both filters.
    """
    model = train_captions(CAPTIONS, 300)
    config = joint_config(CaptionTokenizer(model).size)
    assert config.lm is not None and config.semantic is not None
    codec = random_weights(codec_shapes(config.codec))
    codec["decoder.output.bias"] -= 2.0
    save_folder(
        path,
        config,
        codec,
        random_weights(lm_shapes(config.lm), 1),
        PHONES,
        captions=model,
        semantic=random_weights(codec_shapes(config.semantic.encoder), 2),
    )
    for c in (POSTFILTER, VOICE_FILTER):
        add_postfilter(path, c, random_weights(postfilter_shapes(c), 3))
    add_unit_phones(path, unit_phones())
    return path


def unit_phones() -> np.ndarray:
    """Random probabilities [units, phones] of phones given units."""
    share = np.random.default_rng(0).dirichlet(np.full(len(PHONES), 0.3), UNITS)
    return np.asarray(share, np.float32)


def without_filter(folder: Path, out: Path) -> Path:
    """A copy of the model ``folder`` that has no filters."""
    files = {f"{name}.safetensors" for name in FILTERS}
    out.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in {"config.json", *files}:
            (out / path.name).write_bytes(path.read_bytes())
    about = json.loads((folder / "config.json").read_text())
    about |= dict.fromkeys(FILTERS)
    (out / "config.json").write_text(json.dumps(about))
    return out
