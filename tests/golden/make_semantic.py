"""Writes codec_semantic.safetensors next to this file: a tiny random encoder without a decoder, a
clip and its codes.

The C++ tests read it, so that they need no torch. Run again (``python
tests/golden/make_semantic.py``) after an intended change of the torch module's results, and say so
in the commit.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from make_codec import build
from safetensors.torch import save_file

from uniaudio_engine.storage.config import CodecConfig, SpectralConfig, to_dict

CONFIG = CodecConfig(
    "spectral",
    frame_size=40,
    num_codebooks=1,
    codebook_size=17,
    codebook_dim=6,
    spectral=SpectralConfig(
        encoder_window=60,
        encoder_subframes=2,
        encoder_width=12,
        encoder_blocks=2,
        encoder_hidden=20,
        encoder_phases=False,
        decoder_blocks=0,
        kernel_size=4,
    ),
)


def main() -> None:
    model = build(CONFIG, seed=5)
    samples = torch.randn(1, 9 * CONFIG.frame_size + 3) * 0.3
    codes = model.encode(samples)
    tensors = {f"weights.{k}": v.contiguous() for k, v in model.state_dict().items()}
    tensors |= {
        "samples": samples,
        "codes": codes[0].int().contiguous(),
        "pcm": samples[:, :0].contiguous(),
    }
    save_file(
        tensors,
        Path(__file__).parent / "codec_semantic.safetensors",
        metadata={"config": json.dumps(to_dict(CONFIG))},
    )


if __name__ == "__main__":
    main()
