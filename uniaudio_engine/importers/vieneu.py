"""VieNeu-TTS v3 Turbo: its language model, tokenizer and voices -> a model folder.

A Qwen3 stack over frames and a small one over a frame's slots, which reads the frame's own text id
(always the same) after the stack's output; tied heads. A voice's vector is mapped to one row that
is added to every input. The codec is a CAT one.

Source: github.com/pnnbao97/VieNeu-TTS, src/vieneu/_v3_turbo_engine (facts; none of its code).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, shown
from ..storage.config import LMConfig, PromptPart, StackConfig, TextSlotConfig
from ..storage.tensors import Tensors
from .archive import Progress, quiet
from .hub_files import Reader, Settings, open_settings, open_weights, read_json
from .text_slot import (
    START,
    Project,
    SpokenVoice,
    TextSlot,
    TextSlotModel,
    check_tokenizer,
    checked,
    codes_of,
    read_file,
    speaking_task,
    write_model,
)

_COPIES = ("embed_tokens.weight", "lm_head.weight")  # of tied tables, and ignored by upstream too
_LM_HEADS = "audio_lm_heads."


_VOICES = "voices_v3_turbo.json"
_PAUSE = 0.18  # seconds that the project puts between sentences
TASK = speaking_task(
    8.0,
    "Vietnamese or English",
    'uniaudio tts -m vieneu "Xin chào." -o hello.wav',
    temperature=0.8,
    top_k=25,
    top_p=0.95,
    repetition_window=64,
    repetition_penalty=1.2,
)
_ABOUT = (
    "VieNeu-TTS v3 Turbo, text to speech in Vietnamese and English, with its codec, "
    "MOSS-Audio-Tokenizer-Nano, converted for uniaudio-engine.  The weights are the authors'; the "
    "conversion changes names and layout only."
)


def import_vieneu(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    codec: str | os.PathLike[str] | None = None,
    voices: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output``; returns plain JSON values about it.

    ``source``: the project's folder on a model hub: config.json, model.safetensors and
    tokenizer.json, in it or in its folder ``update``; and perhaps speaker_encoder.onnx. ``codec``:
    the folder of MOSS-Audio-Tokenizer-Nano; by default one of that name in ``source`` or next to it.
    ``voices``: the project's voices_v3_turbo.json; by default that in ``source``, if there is one.
    ``dtype`` and ``licence`` as for :func:`.cat.import_cat`. Raises :class:`InputError`, in one
    line; no partial output remains.
    """
    root = Path(source)
    weights = next((f for f in (root, root / "update") if _is_model(f)), root)
    progress("reading the weights")
    model = read_vieneu(weights)
    check_tokenizer(model, weights)
    beside = root / _VOICES
    path = Path(voices) if voices is not None else beside if beside.is_file() else None
    found = {} if path is None else read_voices(path)
    files = {
        "configuration": weights / "config.json",
        "weights": weights / "model.safetensors",
        "tokenizer": weights / "tokenizer.json",
    }
    notes = []
    if path is not None:
        files["voices"] = path
    elif model.text_slot.voice_width:
        notes.append("There are no voices: every request needs a voice or a recording.")
    encoder = root / "speaker_encoder.onnx"
    if encoder.is_file() and model.text_slot.voice_width:
        files["speaker encoder"] = encoder
        notes.append("Recordings are heard as they are: the project's denoiser is not part of it.")
    elif model.text_slot.voice_width:
        notes.append("Without speaker_encoder.onnx only the voices here can speak.")
    project = Project(_ABOUT, "Apache-2.0, as the project states", tuple(notes), files)
    return write_model(model, project, output, codec, found, dtype, licence, progress, root)


def _is_model(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))


def read_vieneu(folder: str | os.PathLike[str]) -> TextSlotModel:
    """The language model in a folder with config.json, model.safetensors and tokenizer.json.

    Raises :class:`InputError` in one line for files that are not this family's.
    """
    settings = open_settings(folder)
    source = open_weights(folder)
    ids = vocabulary_of(settings)
    config = checked(lm_config(settings, ids), settings.where)
    d = config.global_.width
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
    _global_stack(tensors, source, config.global_)
    _local_stack(tensors, source, config.local)
    speaker: Tensors = {}
    slot = text_slot(settings)
    if slot.voice_width:
        speaker = {
            "weight": source.take("xvec_proj.0.weight", d, slot.voice_width),
            "bias": source.take("xvec_proj.0.bias", d),
            "norm.weight": source.take("xvec_proj.1.weight", d),
            "norm.bias": source.take("xvec_proj.1.bias", d),
        }
    copies = (*_COPIES, *(f"{_LM_HEADS}{i}.weight" for i in range(ids.codebooks)))
    source.end(ignored=lambda name: name.endswith(copies))
    tokenizer = read_file(Path(folder), "tokenizer.json", "the model's tokenizer")
    return TextSlotModel(
        config, ids.vocabulary(), tensors, slot, TASK, speaker, tokenizer=tokenizer
    )


def vocabulary_of(settings: Settings) -> TextSlot:
    return TextSlot(
        settings.integer("text_vocab_size", 419),
        settings.integer("n_vq", 16),
        settings.integer("audio_vocab_size", 1024),
    )


def lm_config(settings: Settings, ids: TextSlot) -> LMConfig:
    """The language model's; what the settings leave out is as published."""
    d = settings.integer("hidden_size", 768)
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
    return LMConfig(
        ids.size,
        ids.slots,
        stack,
        local,
        start_id=START,
        local_start_id=START,
        max_frames=settings.integer("max_position_embeddings", 2048),
        tied_local=True,
        tied_head=True,
    )


def text_slot(settings: Settings) -> TextSlotConfig:
    """The prompt: the style, which is the start frame; text between its marks; the recording. The
    end is the text slot's likeliest id, and the frame in which it comes is the last one.
    """
    anchored = settings.boolean("use_speaker_embedding", False)
    return TextSlotConfig(
        "tokenizers",
        (
            PromptPart("ids", (settings.integer("text_prompt_start_token_id", 3),)),
            PromptPart("text"),
            PromptPart("ids", (settings.integer("text_prompt_end_token_id", 4),)),
            PromptPart("voice", (settings.integer("audio_ref_slot_token_id", 7),)),
        ),
        phones="sea_g2p",
        speaking=settings.integer("speech_generation_start_token_id", 5),
        end=settings.integer("speech_generation_end_token_id", 6),
        forced=True,
        keep_end_frame=True,
        voice_width=settings.integer("speaker_embedding_dim", 192) if anchored else 0,
        max_tokens=384,
        max_frames_per_token=3.0,
        pause=_PAUSE,
    )


def read_voices(path: str | os.PathLike[str]) -> dict[str, SpokenVoice]:
    """The voices of the project's own JSON file, by name.

    Raises :class:`InputError` for other files.
    """
    presets = read_json(Path(path)).get("presets")
    if not isinstance(presets, dict):
        raise InputError(f'{path}: expected voices under "presets", got {shown(presets)}')
    return {name: _voice(path, name, preset) for name, preset in presets.items()}


def _voice(path: str | os.PathLike[str], name: str, preset: Any) -> SpokenVoice:
    try:
        vector = np.asarray(preset["speaker_emb"], np.float32)
        codes = preset.get("codes")
        found = np.zeros((0, 0), np.int32) if codes is None else codes_of(codes)
        sane = vector.ndim == 1 and bool(np.isfinite(vector).all()) and bool(vector.any())
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        sane = False
    if not sane:
        raise InputError(
            f"{path}: voice {shown(name)}: expected a vector and codes, got {shown(preset)}"
        )
    return SpokenVoice(found, vector)


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
