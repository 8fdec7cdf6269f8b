"""MOSS-TTS-Nano: its language model, tokenizer and voices -> a model folder.

Two stacks of the GPT-2 kind with rope: one over frames, one over a frame's slots, of the same width;
the heads are the tables of embeddings. The text slot goes on with one id and ends with another. The
codec is a CAT one.

Source: github.com/OpenMOSS/MOSS-TTS-Nano and github.com/OpenMOSS/MOSS-TTS, moss_tts_local_v1.5
(facts; none of their code).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

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
    halves_first,
    read_file,
    speaking_task,
    write_model,
)

_COPIES = ("lm_head.weight",)  # of tied tables
_LM_HEADS = "audio_lm_heads."
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


_MOST_FRAMES = 4096  # of a session; positions are rope's
# What a prompt says around the voice and the text
_BEFORE = "user\n<user_inst>\n- Reference(s):\n"
_FIELDS = ("Instruction", "Tokens", "Quality", "Sound Event", "Ambient Sound", "Language")
_BETWEEN = "".join(f"\n- {name}:\nNone" for name in _FIELDS) + "\n- Text:\n"
_AFTER = "\n</user_inst>\n"
_SPEAKS = "assistant\n"
TASK = speaking_task(
    20.0,
    "Chinese, English, Japanese and other",
    'uniaudio tts -m moss-nano "Hello there." --voice voice.wav -o hello.wav',
    temperature=0.8,
    top_k=25,
    top_p=0.95,
    repetition_window=4096,
    repetition_penalty=1.2,
)
_ABOUT = (
    "MOSS-TTS-Nano, text to speech in 20 languages, with its codec, MOSS-Audio-Tokenizer-Nano, "
    "converted for uniaudio-engine.  The weights are the authors'; the conversion changes names and "
    "layout only."
)


def import_moss_nano(
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
    tokenizer.model. ``codec``: the folder of MOSS-Audio-Tokenizer-Nano; by default one of that name
    in ``source`` or next to it. ``voices``: a JSON file with ``builtin_voices``, as the project's
    ONNX release has. ``dtype`` and ``licence`` as for :func:`.cat.import_cat`. Raises
    :class:`InputError`, in one line; no partial output remains.
    """
    folder = Path(source)
    progress("reading the weights")
    model = read_moss_nano(folder)
    files = {
        "configuration": folder / "config.json",
        "weights": folder / "model.safetensors",
        "tokenizer": folder / "tokenizer.model",
    }
    found = {}
    if voices is not None:
        files["voices"] = Path(voices)
        found = read_voices(voices)
    project = Project(_ABOUT, "Apache-2.0, as the project states", (), files)
    return write_model(model, project, output, codec, found, dtype, licence, progress, folder)


def read_voices(path: str | os.PathLike[str]) -> dict[str, SpokenVoice]:
    """The voices of a JSON file with ``builtin_voices``, by name.

    Raises :class:`InputError` for other files.
    """
    rows = read_json(Path(path)).get("builtin_voices")
    if not isinstance(rows, list):
        raise InputError(f'{path}: expected voices under "builtin_voices", got {shown(rows)}')
    voices: dict[str, SpokenVoice] = {}
    for row in rows:
        try:
            name, codes = row["voice"], codes_of(row["prompt_audio_codes"])
            sane = isinstance(name, str) and name not in voices and len(codes) > 0
        except (KeyError, TypeError, ValueError, OverflowError):
            sane = False
        if not sane:
            raise InputError(
                f"{path}: expected voices with a name of their own and codes, got {shown(row)}"
            )
        voices[name] = SpokenVoice(codes)
    return voices


def read_moss_nano(folder: str | os.PathLike[str]) -> TextSlotModel:
    """The language model in a folder with config.json, model.safetensors and tokenizer.model.

    Raises :class:`InputError` in one line for files that are not this family's.
    """
    settings = open_settings(folder)
    source = open_weights(folder)
    ids = vocabulary_of(settings)
    config = checked(lm_config(settings, ids), settings.where)
    d, codebooks = config.global_.width, ids.codebooks
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
    captions = read_file(Path(folder), "tokenizer.model", "the model's tokenizer")
    bare = TextSlotModel(
        config,
        ids.vocabulary(),
        tensors,
        TextSlotConfig("sentencepiece", (PromptPart("text"),)),
        TASK,
        captions=captions,
    )
    tokenizer = check_tokenizer(bare, Path(folder))
    return replace(bare, text_slot=text_slot(settings, first, tokenizer.ids))


def vocabulary_of(settings: Settings) -> TextSlot:
    codebooks = settings.integer("n_vq", 16)
    sizes = settings.integers(
        "audio_codebook_sizes", [settings.integer("audio_vocab_size", 1024)] * min(codebooks, 64)
    )
    if len(sizes) != codebooks or len(set(sizes)) != 1:
        raise InputError(
            f"{settings.where}: audio_codebook_sizes: expected {codebooks} equal sizes, got "
            f"{sizes[:64]}"
        )
    return TextSlot(
        settings.section("gpt2_config").integer("vocab_size", 16384), codebooks, sizes[0]
    )


def lm_config(settings: Settings, ids: TextSlot) -> LMConfig:
    """The language model's; what the settings leave out is as published."""
    gpt2 = settings.section("gpt2_config")
    gpt2.expect("position_embedding_type", "rope")
    gpt2.expect("scale_attn_weights", True)
    gpt2.expect("scale_attn_by_inverse_layer_idx", False)
    d = gpt2.integer("n_embd", 768)
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
    return LMConfig(
        ids.size,
        ids.slots,
        stack,
        replace(stack, layers=settings.integer("local_transformer_layers", 1)),
        start_id=START,
        local_start_id=START,
        max_frames=min(_MOST_FRAMES, gpt2.integer("n_positions", 32768)),
        tied_local=True,
        tied_head=True,
    )


def text_slot(settings: Settings, first: int, encode: Callable[[str], list[int]]) -> TextSlotConfig:
    """The prompt: the first id, which is the start frame; what a user writes, with the recording
    and the text; what the assistant begins with.
    """

    def ids(*parts: str | int) -> tuple[int, ...]:
        groups = ([p] if isinstance(p, int) else encode(p) for p in parts)
        return tuple(i for group in groups for i in group)

    begin, end = settings.integer("audio_start_token_id"), settings.integer("audio_end_token_id")
    return TextSlotConfig(
        "sentencepiece",
        (
            PromptPart("ids", ids(_BEFORE)),
            PromptPart("ids", (begin,), "voice"),
            PromptPart("voice", (settings.integer("audio_user_slot_token_id"),)),
            PromptPart("ids", (end,), "voice"),
            PromptPart("ids", ids("None"), "no_voice"),
            PromptPart("ids", ids(_BETWEEN)),
            PromptPart("text"),
            PromptPart("ids", ids(_AFTER, first, _SPEAKS, begin)),
        ),
        speaking=settings.integer("audio_assistant_slot_token_id"),
        end=end,
        temperature=1.0,
        top_k=50,
        max_tokens=75,
        max_frames_per_token=5.0,
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
