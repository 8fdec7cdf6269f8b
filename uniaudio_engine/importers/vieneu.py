"""VieNeu-TTS v3 Turbo's language model: its configuration, weights and voices under our names.

A Qwen3 stack over frames and a small one over a frame's slots, which reads the frame's own text id
(always the same) after the stack's output; tied heads. A voice's vector is mapped to one row that
is added to every input. Here that row is an aligned one, so that a sequence names its voice.

Source: github.com/pnnbao97/VieNeu-TTS, src/vieneu/_v3_turbo_engine (facts; none of its code).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, shown
from ..storage.config import LMConfig, StackConfig, VocabularyConfig
from ..storage.tensors import Tensors
from .hub_files import Reader, open_settings, open_weights, read_json
from .text_slot import START, TEXT, Frames, TextSlot, checked

_COPIES = ("embed_tokens.weight", "lm_head.weight")  # of tied tables, and ignored by upstream too
_LM_HEADS = "audio_lm_heads."


@dataclass(frozen=True)
class VieneuVoice:
    """``vector``: float32 [W]; ``codes``: int [T, codebooks] of the recording, or none."""

    vector: NDArray[np.float32]
    codes: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))


@dataclass(frozen=True)
class VieneuLM:
    """The model as read. ``text_*``: the text ids of its prompts."""

    config: LMConfig
    vocabulary: VocabularyConfig
    tensors: Tensors
    ids: TextSlot
    voices: tuple[str, ...]
    text_begin: int
    text_end: int
    reference: int
    speaking: int
    speech_end: int

    def prompt(self, phones: ArrayLike, codes: ArrayLike | None = None) -> Frames:
        """Frames [T, K] of phone ids and, where given, a recording's codes [T, codebooks].

        The style, with which every prompt begins, is the start frame.
        """
        inside = [self.text_begin, *np.asarray(phones, np.int64), self.text_end]
        text = self.ids.text_frames(inside)
        if codes is None:
            return text
        return np.concatenate((text, self.ids.audio_frames(codes, self.reference)))

    def aligned(self, frames: int, voice: int) -> Frames:
        """Aligned rows [frames, 1] that name the voice."""
        return np.full((frames, 1), voice, np.int32)

    def sampling(self, **audio: Any) -> dict[str, Any]:
        """Arguments of the core's ``Sampling``: the end is the text slot's likeliest id, the frame
        in which it comes is the last one, and the slot is the same id in every frame.
        """
        k = self.ids.codebooks
        return {
            "allowed": self.ids.allowed([(0, self.ids.text_size)]),
            "end_id": TEXT + self.speech_end,
            "keep_end_frame": True,
            "forced": [TEXT + self.speaking, *[-1] * k],
            "slots": [{"greedy": True}, *[dict(audio) for _ in range(k)]],
        }


def read_vieneu(
    folder: str | os.PathLike[str], voices: Mapping[str, VieneuVoice] | None = None
) -> VieneuLM:
    """The language model in a folder with config.json and model.safetensors, for these voices.

    Raises :class:`InputError` in one line for files that are not this family's.
    """
    settings = open_settings(folder)
    source = open_weights(folder)
    d = settings.integer("hidden_size", 768)
    ids = TextSlot(
        settings.integer("text_vocab_size", 419),
        settings.integer("n_vq", 16),
        settings.integer("audio_vocab_size", 1024),
    )
    eps = settings.real("rms_norm_eps", 1e-6)
    heads = settings.integer("num_attention_heads", 12)
    dim = settings.integer("head_dim", d // max(1, heads))
    stack = StackConfig(
        settings.integer("num_hidden_layers", 12),
        d,
        heads,
        kv_heads=settings.integer("num_key_value_heads", 4),
        mlp_width=settings.integer("intermediate_size", 3072),
        norm_eps=eps,
        rope_base=settings.real("rope_theta", 1e6),
        head_width=0 if dim * heads == d else dim,
        qk_norm=True,
    )
    local = StackConfig(
        settings.integer("local_num_hidden_layers", 2),
        d,
        settings.integer("local_num_attention_heads", 8),
        mlp_width=settings.integer("local_intermediate_size", 2048),
        norm_eps=eps,
        positions="learned",
        qk_norm=True,
    )
    anchored = settings.boolean("use_speaker_embedding", False)
    vectors = settings.integer("speaker_embedding_dim", 192) if anchored else 0
    voices = voices or {}
    if vectors and not voices:
        raise InputError(f"{folder}: this model speaks with a voice's vector; give it some voices")
    config = checked(
        LMConfig(
            ids.size,
            ids.slots,
            stack,
            local,
            start_id=START,
            local_start_id=START,
            max_frames=settings.integer("max_position_embeddings", 2048),
            aligned_slots=1 if vectors else 0,
            aligned_vocab=len(voices) if vectors else 0,
            tied_local=True,
            tied_head=True,
        ),
        settings.where,
    )
    text = source.take("text_embeddings.weight", ids.text_size, d)
    codes = [
        source.take(f"audio_embeddings.{i}.weight", ids.codebook_size, d)
        for i in range(ids.codebooks)
    ]
    style = settings.integer("default_style_token_id", 16)
    tensors: Tensors = {
        "global.embed.weight": ids.table(text, codes, style),
        "bridge.weight": np.eye(d, dtype=np.float32),
        "bridge.bias": np.zeros(d, np.float32),
        "local.positions.weight": source.take("acoustic_decoder.slot_pos_emb.weight", ids.slots, d),
    }
    _global_stack(tensors, source, stack)
    _local_stack(tensors, source, local)
    if vectors:
        tensors["guide.weight"] = _anchors(source, voices, vectors, d)
    copies = (*_COPIES, *(f"{_LM_HEADS}{i}.weight" for i in range(ids.codebooks)))
    source.end(ignored=lambda name: name.endswith(copies))
    return VieneuLM(
        config,
        ids.vocabulary(),
        tensors,
        ids,
        tuple(voices),
        settings.integer("text_prompt_start_token_id", 3),
        settings.integer("text_prompt_end_token_id", 4),
        settings.integer("audio_ref_slot_token_id", 7),
        settings.integer("speech_generation_start_token_id", 5),
        settings.integer("speech_generation_end_token_id", 6),
    )


def read_voices(
    path: str | os.PathLike[str], ids: TextSlot | None = None
) -> dict[str, VieneuVoice]:
    """The voices of the project's own JSON file, by name.

    Raises :class:`InputError` for other files, and with ``ids`` for codes out of their range.
    """
    presets = read_json(Path(path)).get("presets")
    if not isinstance(presets, dict):
        raise InputError(f'{path}: expected voices under "presets", got {shown(presets)}')
    voices = {}
    for name, preset in presets.items():
        try:
            vector = np.asarray(preset["speaker_emb"], np.float32)
            codes = np.asarray(preset.get("codes", np.zeros((0, 0))), np.int32)
            sane = vector.ndim == 1 and codes.ndim == 2 and bool(np.isfinite(vector).all())
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            sane = False
        if not sane or not vector.any():
            raise InputError(
                f"{path}: voice {shown(name)}: expected a vector and codes, got {shown(preset)}"
            )
        if ids is not None and codes.size:
            ids.audio_frames(codes, 0)  # raises
        voices[name] = VieneuVoice(vector, codes)
    return voices


def _global_stack(tensors: Tensors, source: Reader, c: StackConfig) -> None:
    d, kv, q = c.width, c.num_kv_heads * c.head_dim, c.query_width
    for i in range(c.layers):
        ours, theirs = f"global.layers.{i}", f"semantic_backbone.layers.{i}"
        for name, other, shape in (
            ("attn_norm", "input_layernorm", (d,)),
            ("attn.q", "self_attn.q_proj", (q, d)),
            ("attn.k", "self_attn.k_proj", (kv, d)),
            ("attn.v", "self_attn.v_proj", (kv, d)),
            ("attn.o", "self_attn.o_proj", (d, q)),
            ("attn.q_norm", "self_attn.q_norm", (c.head_dim,)),
            ("attn.k_norm", "self_attn.k_norm", (c.head_dim,)),
            ("mlp_norm", "post_attention_layernorm", (d,)),
            ("mlp.gate", "mlp.gate_proj", (c.hidden, d)),
            ("mlp.up", "mlp.up_proj", (c.hidden, d)),
            ("mlp.down", "mlp.down_proj", (d, c.hidden)),
        ):
            tensors[f"{ours}.{name}.weight"] = source.take(f"{theirs}.{other}.weight", *shape)
    tensors["global.norm.weight"] = source.take("semantic_backbone.norm.weight", d)


def _local_stack(tensors: Tensors, source: Reader, c: StackConfig) -> None:
    d = c.width
    for i in range(c.layers):
        ours, theirs = f"local.layers.{i}", f"acoustic_decoder.layers.{i}"
        qkv = source.take(f"{theirs}.attn.qkv.weight", 3 * d, d)
        for part, rows in zip("qkv", np.split(qkv, 3), strict=True):
            tensors[f"{ours}.attn.{part}.weight"] = np.ascontiguousarray(rows)
        for name, other, shape in (
            ("attn_norm", "norm1", (d,)),
            ("attn.o", "attn.o_proj", (d, d)),
            ("attn.q_norm", "attn.q_norm", (c.head_dim,)),
            ("attn.k_norm", "attn.k_norm", (c.head_dim,)),
            ("mlp_norm", "norm2", (d,)),
            ("mlp.gate", "ff_gate", (c.hidden, d)),
            ("mlp.up", "ff_up", (c.hidden, d)),
            ("mlp.down", "ff_down", (d, c.hidden)),
        ):
            tensors[f"{ours}.{name}.weight"] = source.take(f"{theirs}.{other}.weight", *shape)
    tensors["local.norm.weight"] = source.take("acoustic_decoder.norm.weight", d)


def _anchors(
    source: Reader, voices: Mapping[str, VieneuVoice], width: int, d: int
) -> NDArray[np.float32]:
    """The rows [voices, D] that the voices' vectors are mapped to: a linear map, a layer norm."""
    weight, bias = source.take("xvec_proj.0.weight", d, width), source.take("xvec_proj.0.bias", d)
    scale, shift = source.take("xvec_proj.1.weight", d), source.take("xvec_proj.1.bias", d)
    rows = []
    for name, voice in voices.items():
        if voice.vector.shape != (width,):
            raise InputError(
                f"voice {name}: expected a vector of {width}, got {list(voice.vector.shape)}"
            )
        x = weight.astype(np.float64) @ voice.vector + bias
        rows.append((x - x.mean()) / np.sqrt(x.var() + 1e-5) * scale + shift)
    return np.asarray(rows, np.float32)
