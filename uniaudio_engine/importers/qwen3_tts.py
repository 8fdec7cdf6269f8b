"""Qwen3-TTS (``Qwen3TTSForConditionalGeneration``) with built-in speakers (CustomVoice) or cloning
(Base), and its 12 Hz tokenizer -> a model folder.

A Qwen3 stack over frames (the talker), whose output predicts the first codebook, and a smaller one
over a frame's codes (the predictor) for the others. Every row of the prompt is the sum of a text id's
embedding, which goes through a small MLP, and of a code's or a control id's. Here the MLP is folded
into the table, and each sum that a prompt is made of is one row:

    0 pad, 1 start, 2 end   the end is drawn in place of the first codebook's code
    3 ...                   codes, codebook by codebook
    text                    each text id with codec_pad, as spoken text has it; then the prompt's rows
    speaker, language       each with tts_pad

The Base checkpoints have an encoder of speakers in place of speakers. Its vector is a row of the
prompt, to which a linear map's bias adds tts_pad. Where the recording's words are known, they go
before the text, and its codes, as spoken ones, after all of it.

The text is in the prompt as a whole, as the authors' own call has it. Source: PyPI qwen-tts 0.1.1,
qwen_tts/core/models and qwen_tts/inference (facts; none of its code).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..request.tasks import Input, Task
from ..storage.config import (
    LMConfig,
    PromptPart,
    Span,
    StackConfig,
    TextSlotConfig,
    VocabularyConfig,
)
from ..storage.tensors import Tensors
from ..storage.text_slot_config import VECTOR
from .archive import Progress, quiet
from .byte_bpe import read_byte_bpe
from .hub_files import INDEX, WEIGHTS, Reader, Settings, open_settings, open_weights, shards
from .llama import llama_stack, llama_tensors
from .qwen3_codec import qwen3_codec_family
from .qwen3_speaker import speaker_config, speaker_tensors
from .text_slot import Project, TextSlotModel, check_tokenizer, checked, speaking_task, write_model

CODEC = "speech_tokenizer"  # the codec's folder inside the model's
AUDIO = 3  # the first code's id
_SPECIALS = ("pad", "start", "end")
_ABOUT = (
    "Qwen3-TTS and its 12 Hz tokenizer, converted for uniaudio-engine. The "
    "weights are the authors'; the conversion folds a text projection and scales into matrices and "
    "changes names and layout only."
)
_NEWLINE = 198  # the text id of a line's end in every byte-level BPE of this kind
_CONTROL = 1024  # rows of the talker's table after those of codes
_MOST_SECONDS = 30.0  # of a voice's recording
_MOST_FRAMES = 8192  # of one sequence, as the authors' own default
_ROWS = 4096  # text ids that are projected at once
# Codes of the languages that checkpoints name; the other names are dialects of Chinese.
LANGUAGES = {
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
}
# Rows of the prompt after the text ids, in this order.
PROMPT_ROWS = (
    *("assistant", "newline", "nothink", "think", "think_bos", "think_eos"),
    *("text_bos", "speak", "speaking"),
)


@dataclass(frozen=True)
class Qwen3Model(TextSlotModel):
    """The model as read. ``assistant``: the text id of that word."""

    assistant: int = 0


def import_qwen3_tts(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output``; returns plain JSON values about it.

    ``source``: the project's folder on a model hub: config.json, safetensors in one file or several,
    tokenizer.json or vocab.json, merges.txt and tokenizer_config.json, and the folder
    speech_tokenizer. ``dtype``: float32, or bfloat16, which halves the tables too. Raises
    :class:`InputError`, in one line; no partial output remains.
    """
    folder = Path(source)
    progress("reading the weights")
    model = read_qwen3_tts(folder)
    tokenizer, used = read_byte_bpe(folder)
    model = replace(model, tokenizer=tokenizer)
    role = check_tokenizer(model, folder).ids("assistant\n")
    if role != [model.assistant, _NEWLINE]:
        raise InputError(
            f"{folder}: expected a tokenizer that reads a prompt's first line as "
            f"{[model.assistant, _NEWLINE]}, got {shown(role)}"
        )
    if not (folder / CODEC / "config.json").is_file():
        raise InputError(f"{folder}: expected the codec in a folder {CODEC} inside it, found none")
    weights = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
    files = {"configuration": folder / "config.json", "weights": weights}
    files |= {n: weights.with_name(n) for n in (shards(weights) if weights.name == INDEX else ())}
    files |= {f"tokenizer {path.name}": path for path in used}
    project = Project(_ABOUT, "Apache-2.0, as the project states", (), files)
    return write_model(
        *(model, project, output, folder / CODEC, {}, dtype, licence, progress, folder),
        family=qwen3_codec_family(),
    )


def read_qwen3_tts(folder: str | os.PathLike[str]) -> Qwen3Model:
    """The model in a folder with config.json and safetensors, without its tokenizer.

    Raises :class:`InputError` in one line for files that are not this family's.
    """
    settings = open_settings(folder)
    settings.expect("model_type", "qwen3_tts")
    settings.expect("tokenizer_type", "qwen3_tts_tokenizer_12hz")
    kind = settings.values.get("tts_model_type")
    if kind not in ("custom_voice", "base"):
        raise InputError(
            f"{settings.where}: tts_model_type: expected 'custom_voice', the kind with built-in "
            f"speakers, or 'base', the one that clones, got {shown(kind)}"
        )
    talker = settings.section("talker_config")
    control = Control.of(settings, talker)
    source = open_weights(folder)
    config = checked(lm_config(talker, control), settings.where)
    own = None
    if control.clones:
        own = speaker_config(settings.section("speaker_encoder_config"), config.global_.width)
        config = replace(config, continuous={VECTOR: own.width})
    tensors = _tensors(source, config, talker, control)
    encoder = {} if own is None else speaker_tensors(source, own)
    source.end()
    first = control.text_rows
    row = {name: first + i for i, name in enumerate(PROMPT_ROWS)}

    def ids(*names: str) -> PromptPart:
        return PromptPart("ids", tuple(row[n] for n in names))

    prompt = (
        ids("assistant", "newline"),
        replace(ids("nothink"), when="absent", input="language"),
        replace(ids("think"), when="given", input="language"),
        ids("think_bos"),
        PromptPart("input", when="given", input="language"),
        ids("think_eos"),
        PromptPart("vector") if control.clones else PromptPart("input", (0,), input="speaker"),
        ids("text_bos"),
        *((PromptPart("transcript"),) if control.clones else ()),
        PromptPart("text"),
        PromptPart("ids", (control.text_end,)),
        ids("speak"),
        *((PromptPart("voice", (row["speaking"],)),) if control.clones else ()),
    )
    slot = TextSlotConfig(
        "tokenizers",
        prompt,
        position="last",
        speaking=row["speaking"],
        max_tokens=min(256, config.max_frames // 16),
        max_frames_per_token=12,
        end_token=True,
        least_frames=2,
        guard="first",
        languages=tuple(dict.fromkeys(LANGUAGES.get(n, "zh") for n in control.languages)),
        voice_width=0 if own is None else own.width,
        speaker=own,
    )
    labels = {"speaker": tuple(control.speakers), "language": tuple(control.languages)}
    return Qwen3Model(
        config,
        control.vocabulary(),
        tensors,
        slot,
        _task(control),
        encoder,
        labels={name: names for name, names in labels.items() if names},
        assistant=control.assistant,
    )


def _task(control: Control) -> Task:
    speakers, languages = list(control.speakers), list(control.languages)
    about, voice = "speak a text in the voice of a recording", "me.wav"
    prompt = speaking_task(_MOST_SECONDS, "", "").inputs[0]
    if not control.clones:
        about, voice = "speak a text in the voice of one of the model's speakers", speakers[0]
        known = f"one of {', '.join(speakers)} (default {voice})"
        prompt = Input("prompt", "tokens", "speaker", known, False, max_count=1)
    return Task(
        "tts",
        about,
        (
            prompt,
            Input(
                "language",
                "tokens",
                "language",
                f"the text's: {', '.join(languages)} (default: the model decides)",
                False,
                max_count=1,
            ),
            Input("text", "text", "text", "text"),
        ),
        "text",
        f'uniaudio tts -m my-qwen "Hello there." --voice {voice} -o hello.wav',
        verb="tts",
        temperature=0.9,
        top_k=50,
        repetition_window=4096,
        repetition_penalty=1.05,
    )


@dataclass(frozen=True)
class Control:
    """The ids that prompts are made of: of text, and of the talker's own table."""

    text_rows: int
    assistant: int
    text_start: int  # <|im_start|>
    text_end: int
    text_bos: int
    text_pad: int
    codebooks: int
    size: int  # of a codebook
    rows: int  # of the talker's table
    codes: Mapping[str, int]
    speakers: Mapping[str, int] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)
    clones: bool = False  # its voices are vectors, not speakers

    @classmethod
    def of(cls, settings: Settings, talker: Settings) -> Control:
        predictor = talker.section("code_predictor_config")
        clones = settings.values.get("tts_model_type") == "base"
        codes = {
            name: talker.integer(f"codec_{name}_id")
            for name in ("pad", "bos", "think", "nothink", "think_bos", "think_eos")
        }
        codes["end"] = talker.integer("codec_eos_token_id")
        found = cls(
            talker.integer("text_vocab_size", 151936),
            settings.integer("assistant_token_id", 77091),
            settings.integer("im_start_token_id", 151644),
            settings.integer("tts_eos_token_id", 151673),
            settings.integer("tts_bos_token_id", 151672),
            settings.integer("tts_pad_token_id", 151671),
            talker.integer("num_code_groups", 16),
            predictor.integer("vocab_size", 2048),
            talker.integer("vocab_size", 3072),
            codes,
            {} if clones else _names(talker, "spk_id"),
            _names(talker, "codec_language_id"),
            clones,
        )
        found.check(settings.where, predictor)
        return found

    def check(self, where: str, predictor: Settings) -> None:
        """Raise :class:`InputError` for ids that their tables do not have."""
        text = (
            self.text_start,
            self.text_end,
            self.text_bos,
            self.text_pad,
            self.assistant,
            _NEWLINE,
        )
        own = (*self.codes.values(), *self.speakers.values(), *self.languages.values())
        if max(text) >= self.text_rows or self.text_rows > 1 << 19:
            raise InputError(
                f"{where}: text_vocab_size: expected {max(text) + 1} to {1 << 19}, got "
                f"{self.text_rows}"
            )
        if not 2 <= self.size <= 1 << 16 or self.rows != self.size + _CONTROL:
            raise InputError(
                f"{where}: talker_config: vocab_size: expected {_CONTROL} ids beside the "
                f"{self.size} codes of its predictor, got {self.rows}"
            )
        if max(own) >= self.rows:
            raise InputError(
                f"{where}: talker_config: expected ids of speakers, languages and control below "
                f"{self.rows}, got {max(own)}"
            )
        if not 2 <= self.codebooks <= 63:
            raise InputError(f"{where}: num_code_groups: expected 2 to 63, got {self.codebooks}")
        groups = predictor.integer("num_code_groups", self.codebooks)
        if groups != self.codebooks:
            raise InputError(
                f"{predictor.where}: num_code_groups: expected {self.codebooks}, as the talker "
                f"has, got {groups}"
            )
        if not (self.speakers or self.clones) or not self.languages:
            raise InputError(f"{where}: talker_config: expected speakers and languages, got none")

    @property
    def text_at(self) -> int:
        """The first text id."""
        return AUDIO + self.codebooks * self.size

    def vocabulary(self) -> VocabularyConfig:
        sizes = {
            "text": self.text_rows + len(PROMPT_ROWS),
            "speaker": len(self.speakers),
            "language": len(self.languages),
        }
        spans, start = [Span("audio", AUDIO, self.codebooks * self.size)], self.text_at
        for name, size in ((n, s) for n, s in sizes.items() if s):
            spans.append(Span(name, start, size))
            start += size
        return VocabularyConfig(_SPECIALS, tuple(spans))


def _names(talker: Settings, key: str) -> dict[str, int]:
    """Names with their ids. Raises :class:`InputError` for names that are no single words."""
    section = talker.section(key)
    for name in section.values:
        if not (name and name.isprintable() and len(name) <= 64 and not set(name) & set(" :,")):
            raise InputError(f"{section.where}: expected names of one word, got {shown(name)}")
    if len(section.values) > 1000:
        raise InputError(f"{section.where}: expected at most 1000, got {len(section.values)}")
    return {name.lower(): section.integer(name) for name in section.values}


def _stack(s: Settings, defaults: Mapping[str, Any]) -> StackConfig:
    """A Qwen3 stack; ``defaults``: what the authors' class has where the file leaves a key out."""
    s.expect("use_sliding_window", False, False)
    given = {k: v for k, v in s.values.items() if v is not None}
    return replace(llama_stack(Settings({**defaults, **given}, s.where)), qk_norm=True)


def lm_config(talker: Settings, c: Control) -> LMConfig:
    shared = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000}
    global_ = _stack(talker, {**shared, "num_key_value_heads": 2})
    local = _stack(
        talker.section("code_predictor_config"),
        {**shared, "head_dim": 128, "num_key_value_heads": 8},
    )
    return LMConfig(
        sum(s.size for s in c.vocabulary().spans) + AUDIO,
        c.codebooks + 1,
        global_,
        local,
        start_id=_SPECIALS.index("start"),
        max_frames=min(_MOST_FRAMES, talker.integer("max_position_embeddings", 32768)),
        global_head_start=_SPECIALS.index("end"),
        global_head_size=1 + c.size,
        local_table_start=AUDIO,
        local_table_size=c.codebooks * c.size,
    )


def _tensors(source: Reader, config: LMConfig, talker: Settings, c: Control) -> Tensors:
    d, w, k, size = config.global_.width, config.local.width, c.codebooks, c.size
    own = source.take("talker.model.codec_embedding.weight", c.rows, d)
    theirs = "talker.code_predictor"
    codes = [own[:size]] + [
        source.take(f"{theirs}.model.codec_embedding.{i}.weight", size, d) for i in range(k - 1)
    ]
    heads = [source.take(f"{theirs}.lm_head.{i}.weight", size, w) for i in range(k - 1)]
    head = source.take("talker.codec_head.weight", c.rows, d)
    bridge, bias = np.eye(w, d, dtype=np.float32), np.zeros(w, np.float32)
    if f"{theirs}.small_to_mtp_projection.weight" in source:
        bridge = source.take(f"{theirs}.small_to_mtp_projection.weight", w, d)
        bias = source.take(f"{theirs}.small_to_mtp_projection.bias", w)
    elif w != d:
        raise InputError(
            f"{source.where}: tensor {theirs}.small_to_mtp_projection.weight is missing; is it this "
            "family's model?"
        )
    tensors: Tensors = {
        "global.embed.weight": _table(source, talker, c, own, codes),
        "local.embed.weight": np.concatenate([t @ bridge.T + bias for t in codes]),
        "bridge.weight": bridge,
        "bridge.bias": bias,
        "head.weight": np.concatenate([np.zeros((size, w), np.float32), *heads]),
        "global_head.weight": np.concatenate((head[[c.codes["end"]]], head[:size])),
    }
    if c.clones:
        tensors[f"continuous.{VECTOR}.weight"] = np.eye(d, dtype=np.float32)
        pad = c.text_at + c.text_rows + PROMPT_ROWS.index("speaking")
        tensors[f"continuous.{VECTOR}.bias"] = tensors["global.embed.weight"][pad]
    llama_tensors(tensors, source, "global", "talker.model", config.global_)
    llama_tensors(tensors, source, "local", f"{theirs}.model", config.local)
    return tensors


def _table(
    source: Reader,
    talker: Settings,
    c: Control,
    own: NDArray[np.float32],
    codes: list[NDArray[np.float32]],
) -> NDArray[np.float32]:
    """The embeddings of the vocabulary."""
    wide, d = talker.integer("text_hidden_size", 2048), own.shape[1]
    text = source.take("talker.model.text_embedding.weight", c.text_rows, wide)
    first, second = (
        (
            source.take(f"talker.text_projection.linear_fc{i}.weight", n, wide),
            source.take(f"talker.text_projection.linear_fc{i}.bias", n),
        )
        for i, n in ((1, wide), (2, d))
    )

    def project(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        hidden = rows @ first[0].T + first[1]
        with np.errstate(over="ignore"):
            hidden /= 1 + np.exp(-hidden)
        return np.asarray(hidden @ second[0].T + second[1])

    named = {n: project(text[[i]])[0] for n, i in _text_ids(c).items()}
    control = {n: own[i] for n, i in c.codes.items()}
    prompt = {
        "assistant": named["assistant"],
        "newline": named["newline"],
        "text_bos": named["bos"] + control["pad"],
        "speak": named["pad"] + control["bos"],
        "speaking": named["pad"],
        **{n: named["pad"] + control[n] for n in ("nothink", "think", "think_bos", "think_eos")},
    }
    chosen = [named["pad"] + own[i] for i in (*c.speakers.values(), *c.languages.values())]
    slots = np.float32(c.codebooks + 1)  # a start frame of so many is the first row
    table = np.zeros((c.text_at + c.text_rows + len(PROMPT_ROWS) + len(chosen), d), np.float32)
    table[_SPECIALS.index("start")] = named["start"] / slots
    table[AUDIO : c.text_at] = np.concatenate(codes)
    for at in range(0, c.text_rows, _ROWS):
        rows = text[at : at + _ROWS]
        table[c.text_at + at : c.text_at + at + len(rows)] = project(rows) + control["pad"]
    table[c.text_at + c.text_rows :] = [*(prompt[n] for n in PROMPT_ROWS), *chosen]
    return table


def _text_ids(c: Control) -> dict[str, int]:
    """Text ids of a prompt by their names here."""
    return {
        "start": c.text_start,
        "assistant": c.assistant,
        "newline": _NEWLINE,
        "bos": c.text_bos,
        "pad": c.text_pad,
    }
