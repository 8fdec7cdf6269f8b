"""MOSS-TTS-Nano's language model: its configuration and weights under our names.

Two stacks of the GPT-2 kind with rope: one over frames, one over a frame's slots, of the same width;
the heads are the tables of embeddings. The text slot goes on with one id and ends with another.

Source: github.com/OpenMOSS/MOSS-TTS-Nano and github.com/OpenMOSS/MOSS-TTS, moss_tts_local_v1.5
(facts; none of their code).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..storage.config import LMConfig, StackConfig, VocabularyConfig
from ..storage.tensors import Tensors
from .hub_files import Reader, open_settings, open_weights
from .text_slot import START, TEXT, Frames, TextSlot, checked, halves_first

_COPIES = ("lm_head.weight",)  # of tied tables
_LM_HEADS = "audio_lm_heads."
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class MossNanoLM:
    """The model as read. The other fields are text ids."""

    config: LMConfig
    vocabulary: VocabularyConfig
    tensors: Tensors
    ids: TextSlot
    first: int
    audio_begin: int
    audio_end: int
    user_slot: int
    speaking: int

    def prompt(self, before: ArrayLike, codes: ArrayLike | None, after: ArrayLike) -> Frames:
        """Frames [T, K] of text ids, a recording's codes [T, codebooks] between their marks, and
        text ids. The first id of all, with which every prompt begins, is the start frame.
        """
        first, *rest = np.asarray(before, np.int64).tolist()
        if first != self.first:
            raise InputError(f"prompt: expected to begin with text id {self.first}, got {first}")
        parts = [self.ids.text_frames(rest)]
        if codes is not None:
            parts += [
                self.ids.text_frames([self.audio_begin]),
                self.ids.audio_frames(codes, self.user_slot),
                self.ids.text_frames([self.audio_end]),
            ]
        return np.concatenate((*parts, self.ids.text_frames(after)))

    def sampling(self, text: dict[str, Any], audio: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the core's ``Sampling``: the text slot goes on or ends the sequence."""
        k = self.ids.codebooks
        return {
            "allowed": self.ids.allowed([(self.speaking, 1)]),
            "end_id": TEXT + self.audio_end,
            "slots": [dict(text), *[dict(audio) for _ in range(k)]],
        }


def read_moss_nano(folder: str | os.PathLike[str]) -> MossNanoLM:
    """The language model in a folder with config.json and model.safetensors.

    Raises :class:`InputError` in one line for files that are not this family's.
    """
    settings = open_settings(folder)
    gpt2 = settings.section("gpt2_config")
    gpt2.expect("position_embedding_type", "rope")
    gpt2.expect("scale_attn_weights", True)
    gpt2.expect("scale_attn_by_inverse_layer_idx", False)
    source = open_weights(folder)
    d, codebooks = gpt2.integer("n_embd", 768), settings.integer("n_vq", 16)
    sizes = settings.integers(
        "audio_codebook_sizes", [settings.integer("audio_vocab_size", 1024)] * min(codebooks, 64)
    )
    if len(sizes) != codebooks or len(set(sizes)) != 1:
        raise InputError(
            f"{settings.where}: audio_codebook_sizes: expected {codebooks} equal sizes, got "
            f"{sizes[:64]}"
        )
    ids = TextSlot(gpt2.integer("vocab_size", 16384), codebooks, sizes[0])
    activation = gpt2.choice("activation_function", _ACTIVATIONS, "gelu_new")
    stack = StackConfig(
        gpt2.integer("n_layer", 12),
        d,
        gpt2.integer("n_head", 12),
        mlp_width=gpt2.integer("n_inner", 4 * d),
        norm="layernorm",
        norm_eps=gpt2.real("layer_norm_epsilon", 1e-5),
        activation=cast('Literal["gelu", "gelu_tanh"]', activation),
        rope_base=gpt2.real("rope_base", 10000.0),
        q_bias=True,
        k_bias=True,
        v_bias=True,
        o_bias=True,
        mlp_bias=True,
    )
    config = checked(
        LMConfig(
            ids.size,
            ids.slots,
            stack,
            replace(stack, layers=settings.integer("local_transformer_layers", 1)),
            start_id=START,
            local_start_id=START,
            max_frames=gpt2.integer("n_positions", 32768),
            tied_local=True,
            tied_head=True,
        ),
        settings.where,
    )
    text = source.take("transformer.wte.weight", ids.text_size, d)
    codes = [
        source.take(f"audio_embeddings.{i}.weight", ids.codebook_size, d) for i in range(codebooks)
    ]
    first = settings.integer("im_start_token_id")
    tensors: Tensors = {
        "global.embed.weight": ids.table(text, codes, first),
        "bridge.weight": np.eye(d, dtype=np.float32),
        "bridge.bias": np.zeros(d, np.float32),
    }
    _stack(tensors, source, "global", "transformer", config.global_)
    _stack(tensors, source, "local", "local_transformer", config.local)
    copies = (*_COPIES, *(f"{_LM_HEADS}{i}.weight" for i in range(codebooks)))
    source.end(ignored=lambda name: name.endswith(copies))
    return MossNanoLM(
        config,
        ids.vocabulary(),
        tensors,
        ids,
        first,
        settings.integer("audio_start_token_id"),
        settings.integer("audio_end_token_id"),
        settings.integer("audio_user_slot_token_id"),
        settings.integer("audio_assistant_slot_token_id"),
    )


def _stack(tensors: Tensors, source: Reader, ours: str, theirs: str, c: StackConfig) -> None:
    d = c.width
    for i in range(c.layers):
        to, of = f"{ours}.layers.{i}", f"{theirs}.h.{i}"
        for leaf, shape in (("weight", (3 * d, d)), ("bias", (3 * d,))):
            q, k, v = np.split(source.take(f"{of}.attn.c_attn.{leaf}", *shape), 3)
            tensors[f"{to}.attn.q.{leaf}"] = halves_first(q, c.heads)
            tensors[f"{to}.attn.k.{leaf}"] = halves_first(k, c.heads)
            tensors[f"{to}.attn.v.{leaf}"] = np.ascontiguousarray(v)
        for name, other, rows, columns in (
            ("attn_norm", "ln_1", d, 0),
            ("attn.o", "attn.c_proj", d, d),
            ("mlp_norm", "ln_2", d, 0),
            ("mlp.up", "mlp.fc_in", c.hidden, d),
            ("mlp.down", "mlp.fc_out", d, c.hidden),
        ):
            shape = (rows, columns) if columns else (rows,)
            tensors[f"{to}.{name}.weight"] = source.take(f"{of}.{other}.weight", *shape)
            tensors[f"{to}.{name}.bias"] = source.take(f"{of}.{other}.bias", rows)
    for leaf in ("weight", "bias"):
        tensors[f"{ours}.norm.{leaf}"] = source.take(f"{theirs}.ln_f.{leaf}", d)
