"""The graphs of a model: the module, example inputs and names of each.

This is a table; ``write.py`` traces and stores its entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uniaudio_engine.backends.core import core
from uniaudio_engine.backends.verify import example_state
from uniaudio_engine.storage.config import CodecConfig, LMConfig
from uniaudio_engine.storage.folder import ModelFolder
from uniaudio_engine.storage.tensors import from_bfloat16

from ..models.lm import MultiScaleLM, Norm
from ..models.seanet import SeanetCodec
from ..models.spectral import SpectralCodec
from .codec_graphs import (
    UNKNOWN,
    SeanetDecoderGraph,
    SeanetDecoderStep,
    SeanetEncoderGraph,
    SpectralDecoder,
    SpectralDecoderStep,
    SpectralEncoder,
)
from .lm_graphs import GlobalSteps, LocalFrame, LocalStep


@dataclass
class Graph:
    """An entry of the table.

    ``arguments``: those of the module's forward, with lists for repeated ones; the names are in the
    same order, flattened. ``axes``: input -> names of its dynamic dimensions. ``state``: input ->
    output that is this input in the next step.
    """

    name: str
    module: nn.Module
    arguments: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]
    axes: dict[str, dict[int, str]]
    about: dict[str, Any]


def tensor(stored: np.ndarray) -> Tensor:
    return torch.from_numpy(
        np.ascontiguousarray(
            from_bfloat16(stored) if stored.dtype == np.uint16 else stored.astype(np.float32)
        )
    )


def torch_lm(config: LMConfig, weights: dict[str, np.ndarray]) -> MultiScaleLM:
    lm = MultiScaleLM(config).eval()
    lm.load_state_dict({k: tensor(v) for k, v in weights.items()})
    return lm


def torch_codec(config: CodecConfig, weights: dict[str, np.ndarray]) -> SpectralCodec | SeanetCodec:
    codec = (SpectralCodec if config.family == "spectral" else SeanetCodec)(config).eval()
    codec.load_state_dict({k: tensor(v) for k, v in weights.items()})
    return codec


def as_float16(lm: MultiScaleLM) -> MultiScaleLM:
    """Matrices and embeddings in float16. Norms stay in float32, in which they are computed."""
    lm.half()
    for module in lm.modules():
        if isinstance(module, Norm):
            module.float()
    return lm


@torch.no_grad()
def rounded_to_int8(lm: MultiScaleLM) -> MultiScaleLM:
    """Rounds matrices to values that int8 represents exactly, by the engine's rounding.

    The exported weights and the golden vectors both use them.
    """
    for module in lm.modules():
        if isinstance(module, nn.Linear):
            q, scale = core().quantize(np.ascontiguousarray(module.weight.numpy()), "int8")
            module.weight.copy_(torch.from_numpy(q.astype(np.float32) * scale[:, None]))
    return lm


def model_graphs(folder: ModelFolder, dtype: str) -> Iterator[Graph]:
    config = folder.config
    yield from codec_graphs(torch_codec(config.codec, folder.codec))
    if config.semantic is not None:
        semantic = torch_codec(config.semantic.encoder, folder.semantic)
        assert isinstance(semantic, SpectralCodec)
        yield encoder_graph("semantic_encoder", semantic, {"delay": config.semantic.delay})
    if config.lm is not None:
        lm = torch_lm(config.lm, folder.lm)
        yield from lm_graphs(
            {"float16": as_float16, "int8": rounded_to_int8}.get(dtype, lambda lm: lm)(lm)
        )


def encoder_graph(name: str, codec: SpectralCodec | SeanetCodec, about: dict[str, Any]) -> Graph:
    samples = torch.from_numpy(test_signal(9 * codec.config.frame_size))
    if isinstance(codec, SpectralCodec):
        c = codec.spectral
        # Context frames of a chunk's first frame: those of the convolutions, and of the window.
        context = c.encoder_blocks * (c.kernel_size - 1) + -(
            -(c.encoder_window - codec.config.frame_size // c.encoder_subframes)
            // codec.config.frame_size
        )
        return Graph(
            name,
            SpectralEncoder(codec),
            (samples,),
            ["samples"],
            ["codes"],
            {"samples": {0: "samples"}},
            {**about, "context": context},
        )
    return Graph(
        name,
        SeanetEncoderGraph(codec),
        (samples,),
        ["samples"],
        ["codes"],
        {"samples": {0: "samples"}},
        about,
    )


def codec_graphs(codec: SpectralCodec | SeanetCodec) -> Iterator[Graph]:
    yield encoder_graph("codec_encoder", codec, {})
    k, size = codec.config.num_codebooks, codec.config.codebook_size
    codes = torch.from_numpy(np.random.default_rng(1).integers(0, size, (k, 9)))
    axes = {"codes": {1: "frames"}}
    if isinstance(codec, SeanetCodec):
        yield Graph(
            "codec_decoder", SeanetDecoderGraph(codec), (codes,), ["codes"], ["samples"], axes, {}
        )
        whole = SeanetDecoderStep(codec)
        state = [f"state_{i}" for i in range(len(whole.state_shapes))]
        arguments = (
            codes[:, :1],
            torch.tensor([9]),
            torch.tensor([UNKNOWN]),
            [state_of(*s) for s in whole.state_shapes],
        )
        yield Graph(
            "codec_decoder_step",
            whole,
            arguments,
            ["codes", "position", "length", *state],
            ["samples", *(f"{s}_out" for s in state)],
            {},
            {"state": state, "late": whole.late, "unknown": UNKNOWN},
        )
        return
    yield Graph("codec_decoder", SpectralDecoder(codec), (codes,), ["codes"], ["samples"], axes, {})
    step = SpectralDecoderStep(codec)
    state = [f"past_{i}" for i in range(len(step.state_shapes) - 1)] + ["overlap"]
    late = (
        codec.spectral.decoder_window - codec.config.frame_size // codec.spectral.decoder_subframes
    )
    yield Graph(
        "codec_decoder_step",
        step,
        (codes[:, :1], [state_of(*s) for s in step.state_shapes]),
        ["codes", *state],
        ["samples", "tail", *(f"{s}_out" for s in state)],
        {},
        {"state": state, "late": late},
    )


def lm_graphs(lm: MultiScaleLM) -> Iterator[Graph]:
    c = lm.config
    g, s, k = c.global_, c.local, c.num_codebooks
    float_ = lm.bridge.weight.dtype
    rng = np.random.default_rng(2)

    def caches(stack: Any, *leading: int) -> list[Tensor]:
        return [
            state_of(*leading, stack.num_kv_heads, stack.head_dim).to(float_)
            for _ in range(2 * stack.layers)
        ]

    def cache_names(layers: int) -> list[str]:
        return [f"{w}_{i}" for i in range(layers) for w in ("keys", "values")]

    for name, n in (("global_prefill", 5), ("global_step", 1)):
        previous = torch.from_numpy(rng.integers(0, c.vocab_size, (n, k)))
        beside = (
            [torch.from_numpy(rng.integers(-1, c.aligned_vocab, (n, c.aligned_slots)))]
            if c.aligned_slots
            else []
        )
        for width in c.continuous.values():
            beside += [
                torch.from_numpy(rng.standard_normal((n, width)).astype(np.float32)),
                torch.arange(n) % 2 == 1,
            ]
        given = [
            "previous",
            "position",
            *(["guide"] if c.aligned_slots else []),
            *(f"{w}_{x}" for x in c.continuous for w in ("continuous", "is")),
        ]
        kept = cache_names(g.layers)
        axes: dict[str, dict[int, str]] = {i: {0: "capacity"} for i in kept}
        if n > 1:
            axes |= {i: {0: "steps"} for i in given if i != "position"}
        arguments = (previous, torch.tensor([0 if n > 1 else 5]), beside, caches(g, 16))
        yield Graph(
            name,
            GlobalSteps(lm),
            arguments,
            given + kept,
            ["hidden", *(f"{i}_out" for i in kept)],
            axes,
            {"state": kept},
        )

    hidden = torch.from_numpy(rng.standard_normal((3, g.width)).astype(np.float32))
    kept = cache_names(s.layers)
    axes = {i: {0: "rows"} for i in ("hidden", "code", *kept)}
    code = torch.from_numpy(rng.integers(0, c.vocab_size, 3))
    yield Graph(
        "local_step",
        LocalStep(lm),
        (hidden, code, torch.tensor([0]), caches(s, 3, k)),
        ["hidden", "code", "slot", *kept],
        ["logits", *(f"{i}_out" for i in kept)],
        axes,
        {"state": kept},
    )
    allowed = torch.from_numpy(rng.random((k, c.vocab_size)) < 0.5)
    sampling = (
        hidden[:1],
        torch.from_numpy(rng.random(k, dtype=np.float32).astype(np.float64)),
        torch.tensor([0.75]),
        torch.tensor([50]),
        torch.tensor([0.9375], dtype=torch.float64),
        allowed,
    )
    yield Graph(
        "local_frame",
        LocalFrame(lm),
        sampling,
        ["hidden", "uniform", "temperature", "top_k", "top_p", "allowed"],
        ["codes"],
        {},
        {},
    )


def state_of(*shape: int) -> Tensor:
    return torch.from_numpy(example_state(shape))


def test_signal(samples: int) -> np.ndarray:
    """Gliding tones over noise, float32 [N]; the same on every machine."""
    t = np.arange(samples) / 16000
    noise = np.random.default_rng(0).standard_normal(samples)
    return (
        0.3 * np.sin(2 * np.pi * (180 + 60 * t) * t)
        + 0.1 * np.sin(2 * np.pi * 1730 * t)
        + 0.01 * noise
    ).astype(np.float32)
