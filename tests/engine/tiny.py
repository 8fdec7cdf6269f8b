"""Tiny random models: a whole model folder in a few milliseconds, without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from uniaudio_engine.request.sequence import aligned_vocab, make_vocabulary, vocab_size
from uniaudio_engine.storage.config import (
    CodecConfig,
    LMConfig,
    ModelConfig,
    SpectralConfig,
    StackConfig,
)
from uniaudio_engine.storage.folder_writing import save_folder
from uniaudio_engine.storage.weight_shapes import Shapes, codec_shapes, lm_shapes


def tiny_config(phones: int, codebooks: int = 2, **lm_changes: Any) -> ModelConfig:
    """16 kHz, 20 ms frames, 3 codebooks of 16 in the codec, ``codebooks`` of them in the LM; tts."""
    codec = CodecConfig(
        family="spectral",
        num_codebooks=3,
        codebook_size=16,
        codebook_dim=8,
        spectral=SpectralConfig(
            encoder_width=16,
            encoder_blocks=1,
            encoder_hidden=24,
            decoder_width=16,
            decoder_blocks=1,
            decoder_hidden=24,
        ),
    )
    vocabulary = make_vocabulary(codebooks, 16, phones)
    lm = LMConfig(
        vocab_size=vocab_size(vocabulary),
        num_codebooks=codebooks,
        global_=StackConfig(layers=2, width=32, heads=2, mlp_width=48),
        local=StackConfig(layers=1, width=16, heads=2, mlp_width=32),
        max_frames=1024,
        aligned_slots=4,
        aligned_vocab=aligned_vocab(vocabulary),
    )
    lm = dataclasses.replace(lm, **lm_changes)
    return ModelConfig(1, "tiny", codec, lm, vocabulary, ("tts",), "CC0-1.0")


def random_weights(shapes: Shapes, seed: int = 0, gain: float = 1.0) -> dict[str, np.ndarray]:
    """Normal weights of standard deviation gain / sqrt(inputs); norms' weights near 1, biases
    small.
    """
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            x = 1 + 0.1 * x if "norm" in name and name.endswith("weight") else 0.1 * x
        elif "embed" not in name and name != "quantizer.codebooks":
            x *= gain / np.sqrt(np.prod(shape[1:]))
        out[name] = x.astype(np.float32)
    return out


def make_tiny_model(
    path: Path,
    phones: list[str] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    **lm_changes: Any,
) -> Path:
    """Write a model folder with random weights; phones default to the engine's own list."""
    if phones is None:
        from uniaudio_engine.text import PHONES

        phones = list(PHONES)
    config = tiny_config(len(phones), **lm_changes)
    assert config.lm is not None
    codec = random_weights(codec_shapes(config.codec), seed)
    codec["decoder.output.bias"] -= 2.0  # log-magnitudes of speech level, so that nothing clips
    save_folder(path, config, codec, random_weights(lm_shapes(config.lm), seed + 1), phones, dtype)
    return path
