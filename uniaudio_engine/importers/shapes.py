"""The published models' shapes, as their importers read them: what `uniaudio models` counts, and what
benchmarks fill with random weights.
"""

from __future__ import annotations

from dataclasses import replace

from ..storage.config import (
    BottleneckConfig,
    CatConfig,
    CatSide,
    CatStage,
    CodecConfig,
    LMConfig,
    QuantizerConfig,
    SeanetConfig,
    SnakeDecoderConfig,
    StackConfig,
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

assert MIMI.seanet is not None
QWEN3_TOKENIZER = replace(
    MIMI,
    num_codebooks=16,
    seanet=replace(
        MIMI.seanet,
        decoder=SnakeDecoderConfig(
            512,
            1024,
            TransformerConfig(
                8,
                512,
                16,
                1024,
                72,
                norm="rmsnorm",
                activation="swiglu",
                head_width=64,
                final_norm=True,
            ),
            1536,
        ),
    ),
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

# Vocabularies: two special tokens, text, codes.
_QWEN3 = StackConfig(
    12,
    768,
    12,
    kv_heads=4,
    mlp_width=3072,
    norm_eps=1e-6,
    rope_base=1e6,
    qk_norm=True,
)
VIENEU = LMConfig(
    2 + 419 + 16 * 1024,
    17,
    _QWEN3,
    StackConfig(2, 768, 8, mlp_width=2048, norm_eps=1e-6, positions="learned", qk_norm=True),
    start_id=1,
    max_frames=2048,
    tied_local=True,
    tied_head=True,
)


def _gpt2(layers: int) -> StackConfig:
    return StackConfig(
        layers,
        768,
        12,
        mlp_width=3072,
        norm="layernorm",
        activation="gelu_tanh",
        q_bias=True,
        k_bias=True,
        v_bias=True,
        o_bias=True,
        mlp_bias=True,
    )


MOSS_NANO = LMConfig(
    2 + 16384 + 16 * 1024,
    17,
    _gpt2(12),
    _gpt2(1),
    start_id=1,
    tied_local=True,
    tied_head=True,
)
_QWEN3_STACK = StackConfig(
    5,
    1024,
    16,
    kv_heads=8,
    mlp_width=3072,
    norm_eps=1e-6,
    rope_base=1e6,
    head_width=128,
    qk_norm=True,
)
QWEN3_TTS = LMConfig(
    # 9 control rows after the text ids, 9 speakers, 12 languages and dialects
    3 + 16 * 2048 + 151936 + 9 + 9 + 12,
    17,
    replace(_QWEN3_STACK, layers=28),
    _QWEN3_STACK,
    start_id=1,
    max_frames=8192,
    global_head_start=2,
    global_head_size=1 + 2048,
    local_table_start=3,
    local_table_size=16 * 2048,
)
# As 10 languages and no speakers, whose vectors come through an input of their own.
QWEN3_TTS_BASE = replace(
    QWEN3_TTS,
    vocab_size=3 + 16 * 2048 + 151936 + 9 + 10,
    continuous={"speaker": 1024},
)
CSM_1B = LMConfig(
    2 + 128256 + 32 * 2048,
    33,
    StackConfig(16, 2048, 32, kv_heads=8, mlp_width=8192, rope_base=5e5),
    StackConfig(4, 1024, 8, kv_heads=2, mlp_width=8192, rope_base=5e5),
    start_id=1,
    max_frames=2048,
    global_head_start=2 + 128256,
    global_head_size=2048,
    local_table_start=2 + 128256,
    local_table_size=32 * 2048,
)
# Of the sizes that its page states, 300 M and 450 M with shared sets, and the delays of its paper; its
# config.json was not at hand. Each codebook has a set of its own here.
KYUTAI_TTS = LMConfig(
    2 + 2 * 8001 + 16 * 2048 + 16,
    18,
    StackConfig(24, 1024, 16, mlp_width=2816, norm_eps=1e-8, window=500),
    StackConfig(
        4,
        1024,
        16,
        mlp_width=2048,
        norm_eps=1e-8,
        rope_frequencies=(0.0,) * 32,
        final_norm=False,
    ),
    conditioning="project",
    start_id=1,
    global_head_start=2,
    global_head_size=5,
    local_table_start=2,
    local_table_size=2 * 8001 + 16 * 2048 + 16,
    slot_weights=True,
    given_slots=1,
    delays=(0, 0, 16, *[18] * 15),
    delay_ids=((0,) * 18,),
)
