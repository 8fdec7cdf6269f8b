"""Writes codec_<name>.safetensors next to this file: a tiny random codec of each kind, a clip, its
codes and their decoding.

The C++ tests read them, so that they need no torch. Run again (``python
tests/golden/make_codec.py``) after an intended change of the torch modules' results, and say so in
the commit.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from uniaudio_training.models.seanet import SeanetCodec
from uniaudio_training.models.spectral import SpectralCodec

from uniaudio_engine.storage.config import CodecConfig, SeanetConfig, SpectralConfig, to_dict

SEANET = {
    "filters": 4,
    "ratios": (4, 2),
    "kernel_size": 5,
    "last_kernel_size": 3,
    "residual_layers": 2,
}
COMMON = {"num_codebooks": 3, "codebook_size": 17, "codebook_dim": 6}
CONFIGS = {
    "spectral": CodecConfig(
        "spectral",
        frame_size=40,
        **COMMON,
        spectral=SpectralConfig(
            encoder_window=60,
            encoder_subframes=2,
            encoder_width=12,
            encoder_blocks=2,
            encoder_hidden=20,
            decoder_window=50,
            decoder_subframes=2,
            decoder_width=10,
            decoder_blocks=2,
            decoder_hidden=18,
            kernel_size=4,
        ),
    ),
    "seanet": CodecConfig(
        "seanet", frame_size=8, **COMMON, seanet=SeanetConfig(**SEANET, lstm_layers=2)
    ),
    "seanet_causal": CodecConfig(
        "seanet",
        frame_size=8,
        **COMMON,
        seanet=SeanetConfig(
            **SEANET, causal=True, lstm_layers=1, conv_shortcut=False, trim_right_ratio=0.7
        ),
    ),
    "seanet_zero": CodecConfig(
        "seanet",
        frame_size=8,
        **COMMON,
        seanet=SeanetConfig(**SEANET, pad_mode="zero", lstm_layers=0),
    ),
    "seanet_group": CodecConfig(
        "seanet", frame_size=8, **COMMON, seanet=SeanetConfig(**SEANET, channels=2, norm="group")
    ),
    "seanet_chunked": CodecConfig(
        "seanet",
        frame_size=8,
        **COMMON,
        seanet=SeanetConfig(
            **SEANET, channels=2, norm="group", chunk_size=28, chunk_stride=19, normalize=True
        ),
    ),
}


def build(config: CodecConfig, seed: int) -> torch.nn.Module:
    """A random codec whose codebooks lie where its latents lie, so that the codes differ from frame
    to frame.
    """
    torch.manual_seed(seed)
    model = (SpectralCodec if config.family == "spectral" else SeanetCodec)(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(1.5)
        channels = config.seanet.channels if config.seanet else 1
        z = model.latent(
            torch.randn(1, channels, 40 * config.frame_size)[:, 0] * 0.3
            if channels == 1
            else torch.randn(1, channels, 40 * config.frame_size) * 0.3
        )
        spread = z.std(dim=(0, 2))
        for k in range(config.num_codebooks):
            model.quantizer.codebooks[k] = (
                torch.randn_like(model.quantizer.codebooks[k]) * spread * 0.8**k
            )
        model.quantizer.codebooks[0] += z.mean(dim=(0, 2))
    return model


def main() -> None:
    for seed, (name, config) in enumerate(CONFIGS.items()):
        model = build(config, seed)
        channels = config.seanet.channels if config.seanet else 1
        samples = torch.randn(1, channels, 9 * config.frame_size + 3) * 0.3
        with torch.no_grad():
            x, scales = samples[:, 0] if channels == 1 else samples, ()
            if config.normalizes:
                codes, *scales = model.encode_scaled(x)
            else:
                codes = model.encode(x)
            pcm = model.decode(codes, *scales)
        tensors = {f"weights.{k}": v.contiguous() for k, v in model.state_dict().items()}
        tensors |= {
            "samples": samples[0].contiguous(),
            "codes": codes[0].int().contiguous(),
            "pcm": pcm[0].contiguous(),
        }
        if scales:
            tensors["scales"] = scales[0][0].contiguous()
        save_file(
            tensors,
            Path(__file__).parent / f"codec_{name}.safetensors",
            metadata={"config": json.dumps(to_dict(config))},
        )


if __name__ == "__main__":
    main()
