"""The published models' shapes, as their importers read them: what `uniaudio models` counts, and what
benchmarks fill with random weights.
"""

from __future__ import annotations

from ..storage.config import (
    BottleneckConfig,
    CatConfig,
    CatSide,
    CatStage,
    CodecConfig,
    QuantizerConfig,
    SeanetConfig,
    TransformerConfig,
)

ENCODEC_24KHZ = CodecConfig(
    "seanet",
    24000,
    320,
    32,
    1024,
    128,
    seanet=SeanetConfig(causal=True),
    bandwidths=(1.5, 3.0, 6.0, 12.0, 24.0),
)
ENCODEC_32KHZ = CodecConfig(
    "seanet",
    32000,
    640,
    4,
    2048,
    128,
    seanet=SeanetConfig(filters=64, ratios=(8, 5, 4, 4), conv_shortcut=False),
    bandwidths=(2.2,),
)
ENCODEC_48KHZ = CodecConfig(
    "seanet",
    48000,
    320,
    16,
    1024,
    128,
    seanet=SeanetConfig(
        channels=2, norm="group", chunk_size=48000, chunk_stride=47520, normalize=True
    ),
    bandwidths=(3.0, 6.0, 12.0, 24.0),
)
MIMI = CodecConfig(
    "seanet",
    24000,
    1920,
    32,
    2048,
    256,
    seanet=SeanetConfig(
        filters=64,
        ratios=(8, 6, 5, 4),
        last_kernel_size=3,
        conv_shortcut=False,
        lstm_layers=0,
        causal=True,
        pad_mode="zero",
        bottleneck=BottleneckConfig(2, TransformerConfig(8, 512, 8, 2048, 250)),
    ),
    quantizer=QuantizerConfig("split", 512, semantic_codebooks=1),
)


def _stage(output: int, layers: int, window: int) -> CatStage:
    return CatStage(output, TransformerConfig(layers, 256, 4, 1024, window))


MOSS_TOKENIZER_NANO = CodecConfig(
    "cat",
    48000,
    3840,
    16,
    1024,
    8,
    cat=CatConfig(
        CatSide(
            (240, 2, 2, 2, 4),
            (_stage(384, 4, 1600), _stage(384, 2, 1200), _stage(384, 2, 800), _stage(192, 4, 500)),
        ),
        CatSide(
            (4, 2, 2, 2, 240),
            (
                _stage(768, 4, 1000),
                _stage(768, 2, 1600),
                _stage(768, 2, 2400),
                _stage(240, 4, 3200),
            ),
        ),
        channels=2,
    ),
    quantizer=QuantizerConfig("factorised", 768, rvq_dim=512),
)
