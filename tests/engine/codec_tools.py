"""Shared by the codec tests: tiny random codecs, and the comparison with the torch module.

Tolerance: the torch module's own float32 error (against itself in float64) times a small factor. A
code may differ from torch's only where float64 scores prove a near-tie: a gap smaller than the
effect of the float32 error of the latents.
"""

from __future__ import annotations

import contextlib
import json

import numpy as np
import torch
from uniaudio_training.models.seanet import SeanetCodec
from uniaudio_training.models.spectral import SpectralCodec

from uniaudio_engine import _C
from uniaudio_engine.storage.config import CodecConfig, SeanetConfig, SpectralConfig, to_dict

TINY = {"num_codebooks": 3, "codebook_size": 33, "codebook_dim": 10}


def spectral(**options) -> CodecConfig:
    defaults = {
        "encoder_window": 96,
        "encoder_width": 20,
        "encoder_blocks": 2,
        "encoder_hidden": 36,
        "decoder_window": 96,
        "decoder_width": 24,
        "decoder_blocks": 2,
        "decoder_hidden": 40,
        "kernel_size": 5,
    }
    frame_size = options.pop("frame_size", 64)
    return CodecConfig(
        "spectral", frame_size=frame_size, **TINY, spectral=SpectralConfig(**(defaults | options))
    )


def seanet(**options) -> CodecConfig:
    defaults = {"filters": 6, "ratios": (5, 4, 2), "kernel_size": 7, "last_kernel_size": 7}
    c = SeanetConfig(**(defaults | options))
    return CodecConfig("seanet", frame_size=int(np.prod(c.ratios)), **TINY, seanet=c)


def build(config: CodecConfig, seed: int = 0):
    torch.manual_seed(seed)
    model = (SpectralCodec if config.family == "spectral" else SeanetCodec)(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.mul_(1.5)
            elif name.endswith("norm.bias") or name.endswith("norm.weight"):
                p.add_(0.1 * torch.randn_like(p))
        z = latents(model, torch.from_numpy(clip(config, 60 * config.frame_size, 99))[None])
        for k in range(
            config.num_codebooks
        ):  # codewords lie where the latents lie, so that all are used
            model.quantizer.codebooks[k] = (
                torch.randn_like(model.quantizer.codebooks[k]) * z.std(dim=(0, 2)) * 0.8**k
            )
        model.quantizer.codebooks[0] += z.mean(dim=(0, 2))
    return model


def latents(model, samples: torch.Tensor) -> torch.Tensor:
    """samples [B, N] or [B, C, N] -> [B, E, T], before quantization: of all chunks, without their
    loudness.
    """
    if isinstance(model, SpectralCodec):
        return model.latent(samples)
    pieces = model.chunks(samples)
    if model.seanet.normalize:
        pieces = [p / (p.mean(1).square().mean(-1).sqrt() + 1e-8)[:, None, None] for p in pieces]
    return torch.cat(
        [
            samples.new_zeros(samples.shape[0], model.config.codebook_dim, 0),
            *map(model.latent, pieces),
        ],
        -1,
    )


def torch_encode(
    model, samples: torch.Tensor, num_codebooks: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes [B, K, T], scales [B, chunks]) of either family."""
    if isinstance(model, SpectralCodec):
        return model.encode(samples, num_codebooks), samples.new_zeros(samples.shape[0], 0)
    return model.encode_scaled(samples, num_codebooks)


@contextlib.contextmanager
def exact():
    """Lets a module in float64 stay there where its code says ``.float()``."""
    original = torch.Tensor.float
    torch.Tensor.float = lambda self: self
    try:
        yield
    finally:
        torch.Tensor.float = original


def double_of(config: CodecConfig, model):
    double = build(config).double()
    double.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    return double


def clip(config: CodecConfig, n: int, seed: int) -> np.ndarray:
    channels = config.channels
    x = np.random.default_rng(seed).normal(size=(channels, n)).astype(np.float32) * 0.3
    return x[0] if channels == 1 else x


def native(config: CodecConfig, model, threads: int = 2) -> _C.Codec:
    return _C.Codec(
        json.dumps(to_dict(config)),
        {k: np.ascontiguousarray(v.float().numpy()) for k, v in model.state_dict().items()},
        threads,
    )


def check_codes(got: np.ndarray, model, double, x: np.ndarray) -> tuple[int, int]:
    """(frames, near-ties): raises unless each frame's first differing code is a proven near-tie."""
    t = torch.from_numpy(x)[None]
    with torch.no_grad():
        expected = torch_encode(model, t, len(got))[0][0].numpy()
        z32 = latents(model, t)[0].T.numpy()
        with exact():
            z64 = latents(double, t.double())[0].T.numpy()
    return check_near_ties(got, expected, z32, z64, model.quantizer.codebooks.double().numpy())


def check_near_ties(
    got: np.ndarray, expected: np.ndarray, z32: np.ndarray, z64: np.ndarray, books: np.ndarray
) -> tuple[int, int]:
    """codes [K, T], latents [T, E] in float32 and float64, codebooks [K, C, E] -> (frames,
    near-ties).
    """
    assert got.shape == expected.shape
    error = max(
        4 * np.abs(z32 - z64).max(initial=0.0), 1e-6 * np.abs(z64).max(initial=0.0)
    )  # what one float32 latent may be off by
    ties = 0
    for j in np.nonzero((got != expected).any(0))[0]:
        k = int(np.nonzero(got[:, j] != expected[:, j])[0][0])
        residual = z64[j] - sum(books[i][expected[i, j]] for i in range(k))
        a, b = books[k][got[k, j]], books[k][expected[k, j]]
        gap = abs(((residual - a) ** 2).sum() - ((residual - b) ** 2).sum())
        assert gap <= 2 * error * np.abs(a - b).sum() + 1e-5 * (residual**2).sum(), (
            f"frame {j}, codebook {k}: a difference of {gap} is no near-tie"
        )
        ties += 1
    return expected.shape[1], ties


def check_audio(
    got: np.ndarray, model, double, codes: np.ndarray, scales: np.ndarray | None = None
) -> None:
    t = torch.from_numpy(codes.astype(np.int64))[None]
    s = (torch.from_numpy(scales)[None],) if scales is not None and scales.size else ()
    with torch.no_grad():
        expected = model.decode(t, *s)[0].numpy()
        with exact():
            truth = double.decode(t, *(x.double() for x in s))[0].numpy()
    assert got.shape == expected.shape and got.dtype == np.float32
    if got.size:
        own = np.abs(expected - truth).max()
        scale = np.abs(truth).max()
        assert np.abs(got - truth).max() <= 4 * own + 1e-6 * scale, (
            f"{np.abs(got - truth).max() / scale} of full scale; torch's own error is {own / scale}"
        )
