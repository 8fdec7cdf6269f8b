"""CSM as stored by Hugging Face transformers (``CsmForConditionalGeneration``): its configuration and
weights under our names.

A Llama stack over frames, whose output predicts the first codebook, and a smaller one over a frame's
codes for the others. Both embed codes with one table; the smaller one projects its rows to its own
width. Here that projection is folded into a table of its own. A row of text has a text id and no
codes, a row of sound its codes and no text, and what was said so far is part of the prompt.

Source: transformers, models/csm/{configuration,modeling,generation}_csm.py (facts; none of its
code).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, shown
from ..request.sequence import Ids
from ..request.tasks import Input, Task
from ..storage.config import CodecConfig, LMConfig, PromptPart, TextSlotConfig
from ..storage.tensors import Tensors
from .archive import Progress, quiet
from .hub_files import INDEX, WEIGHTS, Reader, open_settings, open_weights, shards
from .llama import llama_stack, llama_tensors
from .mimi import mimi_config, mimi_tensors
from .text_slot import (
    START,
    Project,
    TextSlot,
    TextSlotModel,
    check_tokenizer,
    checked,
    read_file,
    write_model,
)

_ABOUT = (
    "CSM, a conversational speech model with its Mimi codec, converted for uniaudio-engine. The "
    "weights are the authors'; the conversion folds a projection and scales into matrices and "
    "changes names and layout only."
)
_CODEC = "codec_model."
_END_OF_TEXT = 128001
_AUDIO_TABLE = "backbone_model.embed_tokens.embed_audio_tokens.weight"
_DEPTH_TABLE = "depth_decoder.model.embed_tokens.weight"


@dataclass(frozen=True)
class Turn:
    """What a speaker said: text ids, and codes [T, codebooks] of the sound, or none where it is to
    be spoken.
    """

    text: ArrayLike
    codes: ArrayLike | None = None


@dataclass(frozen=True)
class CsmModel(TextSlotModel):
    """The model as read, with its codec. ``first``: the text id that every turn begins with."""

    codec: CodecConfig = CodecConfig("seanet")
    codec_tensors: Tensors = field(default_factory=dict)
    first: int = 0

    def prompt(self, turns: Iterable[Turn]) -> Ids:
        """Frames [T, K] of a conversation: of each turn its text, its sound and the end of it.

        The first id of all is the start frame. Raises :class:`InputError` for turns that do not
        begin with it, and for ids or codes out of their range.
        """
        layout, parts = self.layout, []
        for turn in turns:
            text = np.asarray(turn.text, np.int64)
            if text.ndim != 1 or not len(text) or text[0] != self.first:
                raise InputError(
                    f"prompt: expected text ids that begin with {self.first}, got {shown(text)}"
                )
            try:
                parts.append(layout.text_frames(text))
                if turn.codes is not None:
                    end = np.full((1, layout.num_codebooks), self.text_slot.end_code)
                    codes = np.concatenate((np.asarray(turn.codes), end))
                    parts.append(layout.codes_to_frames(codes))
            except ValueError as e:
                raise InputError(f"prompt: {e}") from None
        if not parts:
            raise InputError("prompt: expected one turn at least, got none")
        return np.concatenate(parts)[1:]


def import_csm(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output``; returns plain JSON values about it.

    ``source``: a folder with config.json, safetensors in one file or several, and tokenizer.json.
    ``dtype``: float32, or bfloat16, which halves the tables too. Raises :class:`InputError`, in one
    line; no partial output remains.
    """
    folder = Path(source)
    progress("reading the weights")
    model = read_csm(folder)
    tokenizer = read_file(folder, "tokenizer.json", "the model's tokenizer")
    model = replace(model, tokenizer=tokenizer)
    check_tokenizer(model, folder)
    weights = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
    files = {"configuration": folder / "config.json", "weights": weights}
    files |= {n: weights.with_name(n) for n in (shards(weights) if weights.name == INDEX else ())}
    files["tokenizer"] = folder / "tokenizer.json"
    project = Project(_ABOUT, "Apache-2.0, as the project states", (), files)
    codec = model.codec, model.codec_tensors
    return write_model(model, project, output, codec, {}, dtype, licence, progress, folder)


def read_csm(folder: str | os.PathLike[str]) -> CsmModel:
    """The model in a folder with config.json and safetensors.

    Raises :class:`InputError` in one line for files that are not this family's.
    """
    settings = open_settings(folder)
    settings.expect("model_type", "csm")
    depth = settings.section("depth_decoder_config")
    source = open_weights(folder)
    mimi = settings.section("codec_config")
    codec, _ = mimi_config(mimi.values, mimi.where)
    codebooks, rows = settings.integer("num_codebooks", 32), settings.integer("vocab_size", 2051)
    for where, key, value, expected in (
        (depth, "num_codebooks", depth.integer("num_codebooks", 32), codebooks),
        (depth, "vocab_size", depth.integer("vocab_size", 2051), rows),
        (depth, "backbone_hidden_size", depth.integer("backbone_hidden_size", 2048), None),
    ):
        expected = settings.integer("hidden_size") if expected is None else expected
        if value != expected:
            raise InputError(f"{where.where}: {key}: expected {expected}, got {value}")
    size = codec.codebook_size
    if not 2 <= codebooks <= codec.num_codebooks or rows < size:
        raise InputError(
            f"{settings.where}: expected 2 to {codec.num_codebooks} codebooks of at least {size} "
            f"codes, as its codec has, got {codebooks} of {rows}"
        )
    ids = TextSlot(settings.integer("text_vocab_size", 128256), codebooks, size)
    config = checked(
        LMConfig(
            ids.size,
            ids.slots,
            llama_stack(settings),
            llama_stack(depth),
            start_id=START,
            max_frames=settings.integer("max_position_embeddings", 2048),
            global_head_start=ids.audio_start,
            global_head_size=size,
            local_table_start=ids.audio_start,
            local_table_size=codebooks * size,
        ),
        settings.where,
    )
    first = settings.integer("bos_token_id", 128000)
    end_code = settings.integer("codebook_eos_token_id", 0)
    if end_code >= size:
        raise InputError(
            f"{settings.where}: codebook_eos_token_id: expected below {size}, got {end_code}"
        )
    tensors = _tensors(source, config, ids, rows, first)
    codec, codec_tensors = mimi_tensors(codec, source.state, source.where, _CODEC)
    source.end(ignored=lambda name: name.startswith(_CODEC))
    text_slot = TextSlotConfig(
        "tokenizers",
        (PromptPart("text"), PromptPart("ids", (min(_END_OF_TEXT, ids.text_size - 1),))),
        position="last",
        end_code=end_code,
        before="[{speaker}]",
        first=first,
        max_tokens=min(256, config.max_frames // 4),
        max_frames_per_token=12,
    )
    task = Task(
        "tts",
        "speak a text",
        (Input("text", "text", "text", "English text"),),
        "text",
        'uniaudio tts -m my-csm "Hello there." -o hello.wav',
        verb="tts",
        temperature=0.9,
        top_k=50,
    )
    return CsmModel(
        config,
        ids.vocabulary(),
        tensors,
        text_slot,
        task,
        codec=codec,
        codec_tensors=codec_tensors,
        first=first,
    )


def _tensors(source: Reader, c: LMConfig, ids: TextSlot, rows: int, first: int) -> Tensors:
    d, w, k, size = c.global_.width, c.local.width, ids.codebooks, ids.codebook_size
    # Where they are one table, a file has it under either name, or both.
    names = (_AUDIO_TABLE, _DEPTH_TABLE)
    audio, depth = (
        source.take(n if n in source else other, k * rows, d)
        for n, other in (names, reversed(names))
    )
    projector = source.take("depth_decoder.model.inputs_embeds_projector.weight", w, d)
    text = source.take("embed_text_tokens.weight", ids.text_size, d)
    heads = source.take("depth_decoder.codebooks_head.weight", k - 1, w, rows)

    def codes(table: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The rows of codes that the codec has, codebook by codebook."""
        return [t[:size] for t in np.split(table, k)]

    head = np.zeros((k * size, w), np.float32)  # none for the first codebook
    for i in range(1, k):
        head[i * size : (i + 1) * size] = heads[i - 1, :, :size].T
    tensors: Tensors = {
        "global.embed.weight": ids.table(text, codes(audio), first),
        "local.embed.weight": np.concatenate([t @ projector.T for t in codes(depth)]),
        "bridge.weight": projector,
        "bridge.bias": np.zeros(w, np.float32),
        "head.weight": head,
        "global_head.weight": np.ascontiguousarray(source.take("lm_head.weight", rows, d)[:size]),
    }
    llama_tensors(tensors, source, "global", "backbone_model", c.global_)
    llama_tensors(tensors, source, "local", "depth_decoder.model", c.local)
    return tensors
