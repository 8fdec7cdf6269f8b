"""Random checkpoints of Qwen3-TTS under their authors' names, and its tokenizer's decoder by its
definition in float64.

The definition is written from the description of each layer; the authors' own classes are run beside
it in tests/training/test_qwen3_upstream.py, where the package qwen-tts is installed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from csm_tools import llama_layer
from windowed_tools import MIMI, mimi_state, write

from uniaudio_engine.errors import InputError
from uniaudio_engine.importers.qwen3_tts import read_qwen3_tts

Config = dict[str, Any]
State = dict[str, np.ndarray]

DECODER: Config = {
    "codebook_dim": 12,
    "codebook_size": 64,
    "latent_dim": 16,
    "hidden_size": 8,
    "head_dim": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_quantizers": 4,
    "sliding_window": 5,
    "decoder_dim": 16,
    "upsample_rates": [3],
    "upsampling_ratios": [2, 2],
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_theta": 10000,
    "rms_norm_eps": 1e-5,
}
CODEC: Config = {
    "model_type": "qwen3_tts_tokenizer_12hz",
    "encoder_config": {**MIMI, "num_quantizers": 6},
    "decoder_config": DECODER,
    "encoder_valid_num_quantizers": 4,
    "input_sample_rate": 2400,
    "output_sample_rate": 2400,
    "encode_downsample_rate": 12,
    "decode_upsample_rate": 12,
}
# The same with frames of 80 samples: enough rows in a frame for the decoder's fast filters.
LONG: Config = {
    **CODEC,
    "encoder_config": {**MIMI, "upsampling_ratios": [5, 4, 2], "num_quantizers": 6},
    "decoder_config": {**DECODER, "upsample_rates": [4, 5]},
    "encode_downsample_rate": 80,
    "decode_upsample_rate": 80,
}


def decoder_state(c: Config, seed: int = 0) -> State:
    """Random tensors of the decoder that ``c`` configures."""
    rng = np.random.default_rng(seed)
    state: State = {}

    def add(name: str, *shape: int, scale: float = 0.0, around: float = 0.0) -> None:
        scale = scale or 1 / math.sqrt(math.prod(shape[1:]))
        state[name] = (around + scale * rng.standard_normal(shape)).astype(np.float32)

    def conv(name: str, out: int, inputs: int, kernel: int) -> None:
        add(f"{name}.weight", out, inputs, kernel)
        add(f"{name}.bias", out, scale=0.1)

    def linear(name: str, out: int, inputs: int, bias: bool = True) -> None:
        add(f"{name}.weight", out, inputs)
        if bias:
            add(f"{name}.bias", out, scale=0.1)

    def snake(name: str, width: int) -> None:
        for part in ("alpha", "beta"):
            add(f"{name}.{part}", width, scale=0.5)

    dim, latent, width = c["codebook_dim"], c["latent_dim"], c["hidden_size"]
    for part, count in (("first", 1), ("rest", c["num_quantizers"] - 1)):
        name = f"quantizer.rvq_{part}"
        add(f"{name}.input_proj.weight", dim // 2, dim, 1)
        add(f"{name}.output_proj.weight", dim, dim // 2, 1)
        for i in range(count):
            book = f"{name}.vq.layers.{i}._codebook"
            state[f"{book}.cluster_usage"] = rng.uniform(0.5, 2, c["codebook_size"]).astype("f4")
            add(f"{book}.embedding_sum", c["codebook_size"], dim // 2, scale=1.0)
    conv("pre_conv.conv", latent, dim, 3)
    linear("pre_transformer.input_proj", width, latent)
    linear("pre_transformer.output_proj", latent, width)
    add("pre_transformer.norm.weight", width, scale=0.1, around=1.0)
    heads = c["num_attention_heads"] * c["head_dim"]
    for i in range(c["num_hidden_layers"]):
        layer = f"pre_transformer.layers.{i}"
        for part in "qkv":
            linear(f"{layer}.self_attn.{part}_proj", heads, width, False)
        linear(f"{layer}.self_attn.o_proj", width, heads, False)
        linear(f"{layer}.mlp.gate_proj", c["intermediate_size"], width, False)
        linear(f"{layer}.mlp.up_proj", c["intermediate_size"], width, False)
        linear(f"{layer}.mlp.down_proj", width, c["intermediate_size"], False)
        for part in ("input_layernorm", "post_attention_layernorm"):
            add(f"{layer}.{part}.weight", width, scale=0.1, around=1.0)
        for part in ("self_attn", "mlp"):
            add(f"{layer}.{part}_layer_scale.scale", width, scale=0.3, around=0.5)
    for i, ratio in enumerate(c["upsampling_ratios"]):
        add(f"upsample.{i}.0.conv.weight", latent, latent, ratio)
        add(f"upsample.{i}.0.conv.bias", latent, scale=0.1)
        conv(f"upsample.{i}.1.dwconv.conv", latent, 1, 7)
        add(f"upsample.{i}.1.norm.weight", latent, scale=0.1, around=1.0)
        add(f"upsample.{i}.1.norm.bias", latent, scale=0.1)
        linear(f"upsample.{i}.1.pwconv1", 4 * latent, latent)
        linear(f"upsample.{i}.1.pwconv2", latent, 4 * latent)
        add(f"upsample.{i}.1.gamma", latent, scale=0.3, around=0.5)
    width = c["decoder_dim"]
    conv("decoder.0.conv", width, latent, 7)
    for i, ratio in enumerate(c["upsample_rates"]):
        block, half = f"decoder.{i + 1}.block", width // 2
        snake(f"{block}.0", width)
        add(f"{block}.1.conv.weight", width, half, 2 * ratio)
        add(f"{block}.1.conv.bias", half, scale=0.1)
        for j in (2, 3, 4):
            for number, kernel in ((1, 7), (2, 1)):
                snake(f"{block}.{j}.act{number}", half)
                conv(f"{block}.{j}.conv{number}.conv", half, half, kernel)
                # branches that add little: rounding grows slowly through the sines
                state[f"{block}.{j}.conv{number}.conv.weight"] *= 0.5
        width = half
    last = len(c["upsample_rates"]) + 1
    snake(f"decoder.{last}", width)
    conv(f"decoder.{last + 1}.conv", 1, width, 7)
    state[f"decoder.{last + 1}.conv.weight"] *= 0.05  # within full scale
    return {f"decoder.{name}": x for name, x in state.items()}


def codec_state(folder: Path, config: Config = CODEC, seed: int = 0) -> State:
    """Random tensors of a tokenizer; ``folder``: for a file that is gone afterwards."""
    encoder = {
        name: x
        for name, x in mimi_state(config["encoder_config"], folder, seed).items()
        if not name.startswith(("decoder", "upsample"))
    }
    state = {f"encoder.{name}": x for name, x in encoder.items()}
    return state | decoder_state(config["decoder_config"], seed)


class DecoderDefinition:
    """The decoder in float64 from a checkpoint's tensors: codes [K, T] -> samples [T * rate]."""

    def __init__(self, config: Config, state: State) -> None:
        self.c = config
        self.s = {
            name.removeprefix("decoder."): x.astype(np.float64)
            for name, x in state.items()
            if name.startswith("decoder.")
        }

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        x = self.conv(self.latent(codes), "pre_conv.conv")
        x = self.transformer(x)
        for i, ratio in enumerate(self.c["upsampling_ratios"]):
            x = self.transposed(x, f"upsample.{i}.0.conv", ratio)
            x = x + self.convnext(x, f"upsample.{i}.1")
        x = self.conv(x, "decoder.0.conv")
        for i, ratio in enumerate(self.c["upsample_rates"]):
            block = f"decoder.{i + 1}.block"
            x = self.transposed(self.snake(x, f"{block}.0"), f"{block}.1.conv", ratio)
            for j, dilation in ((2, 1), (3, 3), (4, 9)):
                name = f"{block}.{j}"
                y = self.conv(self.snake(x, f"{name}.act1"), f"{name}.conv1.conv", dilation)
                x = x + self.conv(self.snake(y, f"{name}.act2"), f"{name}.conv2.conv")
        last = len(self.c["upsample_rates"]) + 1
        return self.conv(self.snake(x, f"decoder.{last}"), f"decoder.{last + 1}.conv")[:, 0].clip(
            -1, 1
        )

    def latent(self, codes: np.ndarray) -> np.ndarray:
        total = 0.0
        for k, row in enumerate(codes):
            part = "quantizer.rvq_first" if k == 0 else "quantizer.rvq_rest"
            book = f"{part}.vq.layers.{max(0, k - 1)}._codebook"
            count = np.maximum(self.s[f"{book}.cluster_usage"], 1e-5)
            words = self.s[f"{book}.embedding_sum"] / count[:, None]
            total = total + words[row] @ self.s[f"{part}.output_proj.weight"][:, :, 0].T
        return np.asarray(total)

    def conv(self, x: np.ndarray, name: str, dilation: int = 1) -> np.ndarray:
        w = self.s[f"{name}.weight"]
        taps = w.shape[2]
        padded = np.concatenate((np.zeros((dilation * (taps - 1), x.shape[1])), x))
        rows = len(x)
        y = sum(padded[j * dilation : j * dilation + rows] @ w[:, :, j].T for j in range(taps))
        return np.asarray(y + self.s[f"{name}.bias"])

    def transposed(self, x: np.ndarray, name: str, stride: int) -> np.ndarray:
        w = self.s[f"{name}.weight"]
        y = np.zeros(((len(x) - 1) * stride + w.shape[2], w.shape[1]))
        for t, row in enumerate(x):
            y[t * stride : t * stride + w.shape[2]] += np.einsum("i,iok->ko", row, w)
        return y[: len(x) * stride] + self.s[f"{name}.bias"]

    def snake(self, x: np.ndarray, name: str) -> np.ndarray:
        alpha, beta = np.exp(self.s[f"{name}.alpha"]), np.exp(self.s[f"{name}.beta"])
        return x + np.sin(alpha * x) ** 2 / (beta + 1e-9)

    def convnext(self, x: np.ndarray, name: str) -> np.ndarray:
        w = self.s[f"{name}.dwconv.conv.weight"][:, 0]
        padded = np.concatenate((np.zeros((6, x.shape[1])), x))
        y = sum(padded[j : j + len(x)] * w[:, j] for j in range(7))
        y = y + self.s[f"{name}.dwconv.conv.bias"]
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
        y = y * self.s[f"{name}.norm.weight"] + self.s[f"{name}.norm.bias"]
        y = self.linear(y, f"{name}.pwconv1")
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        return self.s[f"{name}.gamma"] * self.linear(y, f"{name}.pwconv2")

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return np.asarray(x @ self.s[f"{name}.weight"].T + self.s.get(f"{name}.bias", 0.0))

    def rms(self, x: np.ndarray, name: str) -> np.ndarray:
        scale = np.sqrt((x**2).mean(1, keepdims=True) + self.c["rms_norm_eps"])
        return np.asarray(x / scale * self.s[f"{name}.weight"])

    def transformer(self, x: np.ndarray) -> np.ndarray:
        x = self.linear(x, "pre_transformer.input_proj")
        for i in range(self.c["num_hidden_layers"]):
            layer = f"pre_transformer.layers.{i}"
            y = self.attention(self.rms(x, f"{layer}.input_layernorm"), f"{layer}.self_attn")
            x = x + self.s[f"{layer}.self_attn_layer_scale.scale"] * y
            y = self.rms(x, f"{layer}.post_attention_layernorm")
            gate, up = (self.linear(y, f"{layer}.mlp.{p}_proj") for p in ("gate", "up"))
            y = self.linear(gate / (1 + np.exp(-gate)) * up, f"{layer}.mlp.down_proj")
            x = x + self.s[f"{layer}.mlp_layer_scale.scale"] * y
        return self.linear(self.rms(x, "pre_transformer.norm"), "pre_transformer.output_proj")

    def attention(self, x: np.ndarray, name: str) -> np.ndarray:
        steps, dim = len(x), self.c["head_dim"]
        angle = np.arange(steps)[:, None] * float(self.c["rope_theta"]) ** (
            -np.arange(0, dim, 2) / dim
        )

        def heads(part: str, turn: bool) -> np.ndarray:
            y = self.linear(x, f"{name}.{part}_proj").reshape(steps, -1, dim).swapaxes(0, 1)
            if not turn:
                return y
            a, b = y[..., : dim // 2], y[..., dim // 2 :]
            cos, sin = np.cos(angle), np.sin(angle)
            return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)

        scores = heads("q", True) @ heads("k", True).swapaxes(1, 2) / math.sqrt(dim)
        delta = np.arange(steps)[:, None] - np.arange(steps)
        seen = (delta >= 0) & (delta < self.c["sliding_window"])
        weights = np.exp(np.where(seen, scores, -np.inf))
        y = weights / weights.sum(-1, keepdims=True) @ heads("v", False)
        return self.linear(y.swapaxes(0, 1).reshape(steps, -1), f"{name}.o_proj")


# --- the language model --------------------------------------------------------------------------

LM: Config = {
    "model_type": "qwen3_tts",
    "tokenizer_type": "qwen3_tts_tokenizer_12hz",
    "tts_model_size": "0b6",
    "tts_model_type": "custom_voice",
    "assistant_token_id": 270,
    "im_start_token_id": 280,
    "im_end_token_id": 281,
    "tts_pad_token_id": 282,
    "tts_bos_token_id": 283,
    "tts_eos_token_id": 284,
    "talker_config": {
        "vocab_size": 1088,  # 64 codes, and the 1024 ids that are never spoken
        "text_vocab_size": 290,
        "text_hidden_size": 24,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 600,
        "num_code_groups": 4,
        "rope_theta": 1000000,
        "rope_scaling": {
            "interleaved": True,
            "mrope_section": [2, 2, 2],
            "rope_type": "default",
        },
        "codec_pad_id": 70,
        "codec_bos_id": 71,
        "codec_eos_token_id": 72,
        "codec_think_id": 73,
        "codec_nothink_id": 74,
        "codec_think_bos_id": 75,
        "codec_think_eos_id": 76,
        "spk_id": {"vivian": 80, "ryan": 81},
        "spk_is_dialect": {"vivian": False, "ryan": False},
        "codec_language_id": {"chinese": 77, "english": 78},
        "code_predictor_config": {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_code_groups": 4,
            "rope_theta": 1000000,
        },
    },
}

# The same with an encoder of speakers, as the Base checkpoints have, in place of speakers.
ENCODER: Config = {
    "mel_dim": 128,
    "sample_rate": 24000,
    "enc_dim": 32,
    "enc_channels": [16, 16, 16, 16, 48],
    "enc_kernel_sizes": [5, 3, 3, 4, 1],
    "enc_dilations": [1, 2, 3, 4, 1],
    "enc_res2net_scale": 4,
    "enc_se_channels": 6,
    "enc_attention_channels": 5,
}
BASE: Config = {
    **LM,
    "tts_model_type": "base",
    "speaker_encoder_config": ENCODER,
    "talker_config": {**LM["talker_config"], "spk_id": {}, "spk_is_dialect": {}},
}


def encoder_state(c: Config = ENCODER, seed: int = 0) -> State:
    """Random tensors of an encoder of speakers."""
    rng = np.random.default_rng(seed)
    state: State = {}

    def conv(name: str, out: int, inputs: int, taps: int = 1) -> None:
        x = rng.standard_normal((out, inputs, taps)) * math.sqrt(2 / (inputs * taps))
        state[f"speaker_encoder.{name}.weight"] = x.astype(np.float32)
        state[f"speaker_encoder.{name}.bias"] = rng.standard_normal(out).astype(np.float32) / 10

    *channels, joined = c["enc_channels"]
    sizes, part = c["enc_kernel_sizes"], channels[0] // c["enc_res2net_scale"]
    conv("blocks.0.conv", channels[0], c["mel_dim"], sizes[0])
    for i, width in enumerate(channels[1:], 1):
        conv(f"blocks.{i}.tdnn1.conv", width, width)
        for j in range(c["enc_res2net_scale"] - 1):
            conv(f"blocks.{i}.res2net_block.blocks.{j}.conv", part, part, sizes[i])
        conv(f"blocks.{i}.tdnn2.conv", width, width)
        conv(f"blocks.{i}.se_block.conv1", c["enc_se_channels"], width)
        conv(f"blocks.{i}.se_block.conv2", width, c["enc_se_channels"])
    conv("mfa.conv", joined, joined, sizes[-1])
    conv("asp.tdnn.conv", c["enc_attention_channels"], 3 * joined)
    conv("asp.conv", joined, c["enc_attention_channels"])
    conv("fc", c["enc_dim"], 2 * joined)
    return state


def lm_state(c: Config = LM, seed: int = 0) -> State:
    """Random tensors of the talker and its predictor, and of the encoder of speakers if any."""
    rng = np.random.default_rng(seed)
    t, p = c["talker_config"], c["talker_config"]["code_predictor_config"]
    d, w, wide = t["hidden_size"], p["hidden_size"], t["text_hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.codec_embedding.weight": (t["vocab_size"], d),
        "model.text_embedding.weight": (t["text_vocab_size"], wide),
        "text_projection.linear_fc1.weight": (wide, wide),
        "text_projection.linear_fc1.bias": (wide,),
        "text_projection.linear_fc2.weight": (d, wide),
        "text_projection.linear_fc2.bias": (d,),
        "codec_head.weight": (t["vocab_size"], d),
    }
    if w != d:
        shapes["code_predictor.small_to_mtp_projection.weight"] = (w, d)
        shapes["code_predictor.small_to_mtp_projection.bias"] = (w,)
    for i in range(t["num_code_groups"] - 1):
        shapes[f"code_predictor.model.codec_embedding.{i}.weight"] = (p["vocab_size"], d)
        shapes[f"code_predictor.lm_head.{i}.weight"] = (p["vocab_size"], w)
    for name, s in (("model", t), ("code_predictor.model", p)):
        width, inner, dim = s["hidden_size"], s["intermediate_size"], s["head_dim"]
        q, kv = s["num_attention_heads"] * dim, s["num_key_value_heads"] * dim
        for i in range(s["num_hidden_layers"]):
            layer = f"{name}.layers.{i}"
            shapes |= llama_layer(layer, width, q, kv, inner)
            shapes |= {f"{layer}.self_attn.{n}_norm.weight": (dim,) for n in "qk"}
        shapes[f"{name}.norm.weight"] = (width,)
    state: State = {}
    for name, shape in shapes.items():
        scale = 0.5 if "embedding" in name else 2.0 / math.sqrt(shape[-1])
        x = rng.standard_normal(shape) * (0.2 if len(shape) == 1 else scale)
        around = 1.0 if name.endswith("norm.weight") else 0.0
        state[f"talker.{name}"] = (around + x).astype(np.float32)
    encoder = c.get("speaker_encoder_config")
    return state if encoder is None else state | encoder_state(encoder, seed)


def tokenizer_files(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json of a few words."""
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(b) for b in letters] + [chr(256 + i) for i in range(256 - len(letters))]
    vocab = {token: i for i, token in enumerate(alphabet)}
    assert vocab["Ċ"] == 198
    merges = []
    for word in ("assistant", "hel"):
        for n in range(2, len(word) + 1):
            merges.append((word[: n - 1], word[n - 1]))
            vocab.setdefault(word[:n], 270 if word[:n] == "assistant" else len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    names = {280: "<|im_start|>", 281: "<|im_end|>"}
    added = {str(i): {"content": name, "special": True} for i, name in names.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))


def write_lm(folder: Path, config: Config = LM, state: State | None = None) -> Path:
    """A whole checkpoint with its tokenizers."""
    write(folder, config, lm_state(config) if state is None else state)
    tokenizer_files(folder)
    scratch = folder / "scratch"
    scratch.mkdir()
    write(folder / "speech_tokenizer", CODEC, codec_state(scratch))
    scratch.rmdir()
    return folder


def check_refused(folder: Path, words: str) -> None:
    """Importing the language model of ``folder`` fails with one line that has ``words``."""
    with pytest.raises(InputError) as e:
        read_qwen3_tts(folder)
    assert "\n" not in str(e.value) and len(str(e.value)) < 500 and words in str(e.value), e.value
