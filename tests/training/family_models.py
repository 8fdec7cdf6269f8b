"""Other projects' language models with random weights, small: their config.json, their tensors by
their own names, and what they compute, written down from their descriptions.

B batch, T rows, K slots, D width. ``logits`` gives what each row's slots are predicted to be.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

VIENEU: dict[str, Any] = {
    "text_vocab_size": 40,
    "audio_vocab_size": 30,
    "n_vq": 4,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 80,
    "local_num_hidden_layers": 2,
    "local_num_attention_heads": 3,
    "local_intermediate_size": 64,
    "use_speaker_embedding": True,
    "speaker_embedding_dim": 10,
    "audio_pad_token_id": 30,
    "max_position_embeddings": 256,
}
MOSS: dict[str, Any] = {
    "n_vq": 4,
    "audio_vocab_size": 30,
    "audio_codebook_sizes": [30] * 4,
    "audio_pad_token_id": 30,
    "local_transformer_layers": 2,
    "im_start_token_id": 3,
    "audio_start_token_id": 5,
    "audio_end_token_id": 7,
    "audio_user_slot_token_id": 8,
    "audio_assistant_slot_token_id": 9,
    "gpt2_config": {
        "vocab_size": 350,
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 512,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "position_embedding_type": "rope",
        "rope_base": 10000.0,
    },
}


# What MOSS-TTS-Nano's prompt says before a recording, after it, and after the text
MOSS_PROMPT = (
    "user\n<user_inst>\n- Reference(s):\n",
    "".join(
        f"\n- {name}:\nNone"
        for name in ("Instruction", "Tokens", "Quality", "Sound Event", "Ambient Sound", "Language")
    )
    + "\n- Text:\n",
    "\n</user_inst>\n",
)


def save(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """A checkpoint's folder, with the tokenizers of both projects' kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    (folder / "tokenizer.json").write_text(phone_tokenizer(config.get("text_vocab_size", 40)))
    return folder


@functools.cache
def sentencepiece_model() -> bytes:
    """Up to 340 pieces with byte fallback: every text has ids."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(MOSS_PROMPT), "None assistant hello there, 你好。"] * 9),
        model_writer=out,
        vocab_size=340,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return out.getvalue()


def pieces(text: str) -> list[int]:
    return list(
        sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model()).encode(text)
    )


def phone_tokenizer(size: int) -> str:
    """A tokenizer's JSON: ids below 8 are marks, one is a cue, the others are characters."""
    characters = "abcdefghijklmnopqrstuvwxyz .,"[: size - 11]
    vocabulary = {f"<m{i}>": i for i in range(9)} | {"<unk>": 9, "<|emotion_1|>": 10}
    vocabulary |= {c: 11 + i for i, c in enumerate(characters)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    model.add_special_tokens(["<|emotion_1|>"])
    return str(model.to_str())


class Weights:
    """Random tensors by name, lively: norms are not one, biases not zero."""

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._random = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, *shape: int, about: float = 0.0) -> None:
        scale = 0.2 if len(shape) == 1 else 1.2 * shape[1] ** -0.5
        self.tensors[name] = about + scale * torch.randn(shape, generator=self._random)


def vieneu_tensors(c: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    add, d = Weights(seed), c["hidden_size"]
    add("text_embeddings.weight", c["text_vocab_size"], d)
    for i in range(c["n_vq"]):
        add(f"audio_embeddings.{i}.weight", c["audio_vocab_size"], d)
    dim, hidden = c["head_dim"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim
    for i in range(c["num_hidden_layers"]):
        at = f"semantic_backbone.layers.{i}."
        for name, rows, columns in (
            ("self_attn.q_proj", q, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, q),
            ("mlp.gate_proj", hidden, d),
            ("mlp.up_proj", hidden, d),
            ("mlp.down_proj", d, hidden),
        ):
            add(f"{at}{name}.weight", rows, columns)
        for name, width in (
            ("self_attn.q_norm", dim),
            ("self_attn.k_norm", dim),
            ("input_layernorm", d),
            ("post_attention_layernorm", d),
        ):
            add(f"{at}{name}.weight", width, about=1.0)
    add("semantic_backbone.norm.weight", d, about=1.0)
    hidden, dim = c["local_intermediate_size"], d // c["local_num_attention_heads"]
    for i in range(c["local_num_hidden_layers"]):
        at = f"acoustic_decoder.layers.{i}."
        for name, rows, columns in (
            ("attn.qkv", 3 * d, d),
            ("attn.o_proj", d, d),
            ("ff_up", hidden, d),
            ("ff_gate", hidden, d),
            ("ff_down", d, hidden),
        ):
            add(f"{at}{name}.weight", rows, columns)
        for name, width in (("attn.q_norm", dim), ("attn.k_norm", dim), ("norm1", d), ("norm2", d)):
            add(f"{at}{name}.weight", width, about=1.0)
    add("acoustic_decoder.slot_pos_emb.weight", c["n_vq"] + 1, d)
    add("acoustic_decoder.norm.weight", d, about=1.0)
    if c["use_speaker_embedding"]:
        add("xvec_proj.0.weight", d, c["speaker_embedding_dim"])
        add("xvec_proj.0.bias", d)
        add("xvec_proj.1.weight", d, about=1.0)
        add("xvec_proj.1.bias", d)
    return add.tensors


def moss_tensors(c: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    add, g = Weights(seed), c["gpt2_config"]
    d = g["n_embd"]
    add("transformer.wte.weight", g["vocab_size"], d)
    for i in range(c["n_vq"]):
        add(f"audio_embeddings.{i}.weight", c["audio_vocab_size"], d)
    for stack, layers in moss_layers(c).items():
        for i in range(layers):
            for name, rows, columns in (
                ("attn.c_attn", 3 * d, d),
                ("attn.c_proj", d, d),
                ("mlp.fc_in", 4 * d, d),
                ("mlp.fc_out", d, 4 * d),
            ):
                add(f"{stack}.h.{i}.{name}.weight", rows, columns)
                add(f"{stack}.h.{i}.{name}.bias", rows)
            for name in ("ln_1", "ln_2"):
                add(f"{stack}.h.{i}.{name}.weight", d, about=1.0)
                add(f"{stack}.h.{i}.{name}.bias", d)
        add(f"{stack}.ln_f.weight", d, about=1.0)
        add(f"{stack}.ln_f.bias", d)
    return add.tensors


def embed(text: Tensor, codes: list[Tensor], rows: Tensor, pad: int) -> Tensor:
    """rows [T, K] of a text id and codes -> [T, D]; the code ``pad`` adds nothing."""
    x = text[rows[:, 0]]
    for i, table in enumerate(codes):
        there = rows[:, i + 1] != pad
        x = x + table[torch.where(there, rows[:, i + 1], 0)] * there[:, None]
    return x


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, T, heads, dim] each -> [B, T, heads * dim]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def turn_neighbours(x: Tensor, base: float) -> Tensor:
    """Rope over pairs of neighbours: x [B, T, heads, dim]."""
    t, dim = x.shape[1], x.shape[-1]
    angle = torch.arange(t, dtype=x.dtype)[:, None] * base ** (
        -torch.arange(0, dim, 2, dtype=x.dtype) / dim
    )
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(
        torch.ones_like(angle), angle
    ).unsqueeze(1)
    return torch.view_as_real(turned).flatten(-2)


def slots_input(h: Tensor, text: Tensor, codes: list[Tensor], rows: Tensor) -> Tensor:
    """The slots' inputs [T, K, D]: what is known of the row, its text, its codes but the last."""
    known = [codes[i][rows[:, i + 1]] for i in range(len(codes) - 1)]
    return torch.stack([h, text[rows[:, 0]], *known], dim=1)


def slots_logits(y: Tensor, text: Tensor, codes: list[Tensor]) -> list[Tensor]:
    return [y[:, 0] @ text.T, *(y[:, i + 1] @ table.T for i, table in enumerate(codes))]


def vieneu_logits(
    c: dict[str, Any], w: dict[str, Tensor], rows: Tensor, vector: Tensor, spoken: Tensor
) -> list[Tensor]:
    """Logits of each slot that follow each row; ``spoken`` [T, K]: the rows that are predicted."""
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=2,
        hidden_size=c["hidden_size"],
        num_hidden_layers=c["num_hidden_layers"],
        num_attention_heads=c["num_attention_heads"],
        num_key_value_heads=c["num_key_value_heads"],
        head_dim=c["head_dim"],
        intermediate_size=c["intermediate_size"],
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    model = Qwen3Model(config).eval()
    prefix = "semantic_backbone."
    state = {k[len(prefix) :]: v for k, v in w.items() if k.startswith(prefix)}
    missing, left = model.load_state_dict(state, strict=False)
    assert missing == ["embed_tokens.weight"] and not left
    text = w["text_embeddings.weight"]
    codes = [w[f"audio_embeddings.{i}.weight"] for i in range(c["n_vq"])]
    x = embed(text, codes, rows, c["audio_pad_token_id"])
    anchor = F.linear(vector, w["xvec_proj.0.weight"], w["xvec_proj.0.bias"])
    d = c["hidden_size"]
    x = x + F.layer_norm(anchor, (d,), w["xvec_proj.1.weight"], w["xvec_proj.1.bias"])
    h = model(inputs_embeds=x[None]).last_hidden_state[0]
    y = slots_input(h, text, codes, spoken) + w["acoustic_decoder.slot_pos_emb.weight"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], w[f"acoustic_decoder.{name}.weight"], 1e-6)

    heads = c["local_num_attention_heads"]
    for i in range(c["local_num_hidden_layers"]):
        at = f"acoustic_decoder.layers.{i}."
        qkv = F.linear(norm(y, f"layers.{i}.norm1"), w[f"{at}attn.qkv.weight"])
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(2)
        q, k = norm(q, f"layers.{i}.attn.q_norm"), norm(k, f"layers.{i}.attn.k_norm")
        y = y + F.linear(causal(q, k, v), w[f"{at}attn.o_proj.weight"])
        z = norm(y, f"layers.{i}.norm2")
        gate, up = F.linear(z, w[f"{at}ff_gate.weight"]), F.linear(z, w[f"{at}ff_up.weight"])
        y = y + F.linear(F.silu(gate) * up, w[f"{at}ff_down.weight"])
    return slots_logits(norm(y, "norm"), text, codes)


def moss_stack(c: dict[str, Any], w: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    """x [B, T, D] through the stack ``name``."""
    g = c["gpt2_config"]

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    for i in range(moss_layers(c)[name]):
        at = f"{name}.h.{i}."
        qkv = linear(norm(x, f"{at}ln_1"), f"{at}attn.c_attn")
        q, k, v = qkv.unflatten(-1, (3, g["n_head"], -1)).unbind(2)
        q, k = (turn_neighbours(t, g["rope_base"]) for t in (q, k))
        x = x + linear(causal(q, k, v), f"{at}attn.c_proj")
        hidden = F.gelu(linear(norm(x, f"{at}ln_2"), f"{at}mlp.fc_in"), approximate="tanh")
        x = x + linear(hidden, f"{at}mlp.fc_out")
    return norm(x, f"{name}.ln_f")


def moss_layers(c: dict[str, Any]) -> dict[str, int]:
    return {
        "transformer": c["gpt2_config"]["n_layer"],
        "local_transformer": c["local_transformer_layers"],
    }


def moss_logits(
    c: dict[str, Any],
    w: dict[str, Tensor],
    rows: Tensor,
    spoken: Tensor,
    stack: Callable[[Tensor, str], Tensor] | None = None,
) -> list[Tensor]:
    """As :func:`vieneu_logits`, without a voice. ``stack`` in place of :func:`moss_stack`."""

    def run(x: Tensor, name: str) -> Tensor:
        return moss_stack(c, w, x, name) if stack is None else stack(x, name)

    text = w["transformer.wte.weight"]
    codes = [w[f"audio_embeddings.{i}.weight"] for i in range(c["n_vq"])]
    x = embed(text, codes, rows, c["audio_pad_token_id"])
    h = run(x[None], "transformer")[0]
    y = run(slots_input(h, text, codes, spoken), "local_transformer")
    return slots_logits(y, text, codes)


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(found - truth).max() / np.abs(truth).max())
