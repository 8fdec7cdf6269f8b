"""Kyutai's delayed-streams TTS as the package ``moshi`` stores it: its configuration and weights under
our names.

A transformer over steps, a depth transformer with weights of each codebook over a step's codes, and
delays: the sound comes 16 steps after the text, and codes of the later codebooks after those of the
first. The text is fed word by word, where the model says so; models that look ahead have a second
text in each step. Low-rank and mixing maps of the text's tables are folded into tables of their own.
In this engine's ids

    0 pad     a row of zeros
    1 start   1/K of the sum of all initial rows, so that a frame of K of them is the first step
    2 ...     text; the second text; codes, codebook by codebook; each codebook's initial row

Source: PyPI ``moshi`` 0.2.13, models/{lm,lm_utils,tts,loaders}.py and modules/transformer.py (facts;
none of its code); arXiv 2509.08753.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.config import (
    LMConfig,
    PromptPart,
    Span,
    StackConfig,
    TextSlotConfig,
    VocabularyConfig,
    WordByWord,
)
from ..storage.tensors import Tensors
from .archive import Progress, quiet
from .codec_folder import Family
from .hub_files import WEIGHTS, Reader, Settings, is_file_name, open_settings, open_state
from .mimi import about, mimi_tensors, read_config
from .text_slot import (
    PAD,
    START,
    TEXT,
    Project,
    TextSlotModel,
    check_tokenizer,
    checked,
    halves_first,
    read_file,
    speaking_task,
    write_model,
)

Array = NDArray[np.float32]

_ABOUT = (
    "Kyutai's delayed-streams TTS with the Mimi codec, converted for uniaudio-engine. The weights "
    "are the authors'; the conversion folds maps into tables and changes names and layout only."
)
_FRAME_RATE = 12.5  # of Mimi
_NEW_WORD, _TEXT_PAD = 0, 3  # text ids
_FINAL_STEPS, _MAX_PADDING, _INITIAL_PADDING, _BETWEEN = 4, 8, 2, 1
_MAX_FRAMES = 4096
# Keys that change what is computed, with the only value that is read; None: absent, or nothing.
_EXPECTED: dict[str, Any] = {
    "causal": True,
    "gating": "silu",
    "positional_embedding": "rope",
    "existing_text_padding_id": _TEXT_PAD,
    "kv_repeat": 1,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}
_ABSENT = {
    "cross_attention": "voices through cross attention",
    "conditioners": "conditioners",
    "layer_scale": "scaled layers",
    "depformer_layer_scale": "scaled layers",
    "norm_emb": "normalised embeddings",
    "bias_proj": "biases",
    "depformer_norm": "norms of each codebook",
    "extra_heads_num_heads": "extra heads",
    "quantize": "quantized weights",
    "lora": "LoRA weights",
}


@dataclass(frozen=True)
class _Ids:
    """``rows``: of a table of text. ``texts``: slots of text, 1 or 2."""

    rows: int
    texts: int
    codebooks: int
    codebook_size: int

    @property
    def audio(self) -> int:
        return TEXT + self.texts * self.rows

    @property
    def initial(self) -> int:
        return self.audio + self.codebooks * self.codebook_size

    @property
    def size(self) -> int:
        return self.initial + self.codebooks

    def vocabulary(self) -> VocabularyConfig:
        ahead = (Span("ahead", TEXT + self.rows, self.rows),) if self.texts > 1 else ()
        audio = Span("audio", self.audio, self.codebooks * self.codebook_size)
        text = Span("text", TEXT, self.rows)
        return VocabularyConfig(
            ("pad", "start"), (text, *ahead, audio, Span("initial", self.initial, self.codebooks))
        )


def import_kyutai_tts(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    codec: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    licence: str = "",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output``; returns plain JSON values about it.

    ``source``: a folder with config.json, and the weights and the tokenizer that it names. ``codec``:
    Mimi as transformers stores it, as for :func:`.mimi.import_mimi`; None: a folder ``mimi`` or
    ``codec`` inside ``source`` or next to it. Raises :class:`InputError`, in one line; no partial
    output remains.
    """
    folder = Path(source)
    progress("reading the weights")
    settings = open_settings(folder)
    model = read_kyutai_tts(folder)
    check_tokenizer(model, folder)
    files = {
        "configuration": folder / "config.json",
        "weights": folder / _file(settings, "moshi_name", WEIGHTS),
        "tokenizer": folder / _file(settings, "tokenizer_name", "tokenizer.model"),
    }
    project = Project(_ABOUT, "CC-BY-4.0, as the project states", (), files)
    family = Family("Mimi", read_config, mimi_tensors, about)
    if codec is None:
        places = [at / name for at in (folder, folder.parent) for name in ("mimi", "codec")]
        codec = next((p for p in places if (p / "config.json").is_file()), None)
        if codec is None:
            raise InputError(
                f"{folder}: expected the codec kyutai/mimi in a folder mimi inside it or next to "
                "it, found none; name it (--codec DIR)"
            )
    return write_model(model, project, output, codec, {}, dtype, licence, progress, folder, family)


def read_kyutai_tts(folder: str | os.PathLike[str]) -> TextSlotModel:
    """The language model in a folder with config.json and the weights that it names.

    Raises :class:`InputError` in one line for files that are not this family's.
    """
    folder = Path(folder)
    settings = open_settings(folder)
    path = folder / _file(settings, "moshi_name", WEIGHTS)
    source = Reader(open_state(path), str(path))
    tokenizer = read_file(
        folder, _file(settings, "tokenizer_name", "tokenizer.model"), "the model's tokenizer"
    )
    for key, expected in _EXPECTED.items():
        settings.expect(key, expected)
    for key, what in _ABSENT.items():
        if settings.values.get(key):
            raise InputError(
                f"{settings.where}: {key}: expected a model without {what}, got "
                f"{shown(settings.values[key])}; kyutai/tts-0.75b-en-public is one"
            )
    tts = settings.section("tts_config")
    tts.expect("multistream", False)
    ahead = tts.integer("second_stream_ahead", 0)
    mixed = bool(settings.values.get("demux_second_stream")) or bool(
        settings.values.get("demux_second_text_stream")
    )
    if mixed != (ahead > 0):
        raise InputError(
            f"{settings.where}: demux_second_stream: expected {ahead > 0}, as second_stream_ahead "
            f"{ahead} says, got {mixed}"
        )
    k, size, texts = settings.integer("n_q"), settings.integer("card"), 1 + mixed
    settings.expect("dep_q", k)
    ids = _Ids(settings.integer("text_card") + 1, texts, k, size)
    if not 1 <= k <= 62 or not 2 <= size <= 65536 or not 5 <= ids.rows <= 1 << 18:
        raise InputError(
            f"{settings.where}: expected up to 62 codebooks of 2 to 65536 codes and up to 262143 "
            f"text ids, got {k}, {size} and {ids.rows - 1}"
        )
    delays = settings.integers("delays", [0] * (k + 1))
    late = tts.real("audio_delay") * _FRAME_RATE
    if len(delays) != k + 1 or delays[0] != 0 or not all(0 <= d <= 64 for d in delays):
        raise InputError(
            f"{settings.where}: delays: expected {k + 1} of 0 to 64, 0 first, got {shown(delays)}"
        )
    if not 1 <= late <= 128:
        raise InputError(f"{tts.where}: audio_delay: expected 0.08 to 10.24 s, got {late / 12.5:g}")
    config = checked(_config(settings, ids, delays[1:], int(late)), settings.where)
    tensors = _tensors(source, settings, config, ids)
    source.end(ignored=lambda n: "_text_emb.low_rank." in n)  # of no use beside its other maps
    text_slot = TextSlotConfig(
        "sentencepiece",
        (PromptPart("voice"),),
        temperature=0.6,
        top_k=25,
        max_tokens=400,
        max_frames_per_token=12,
        words=WordByWord(
            _NEW_WORD,
            _TEXT_PAD,
            ahead=ahead,
            between=_BETWEEN,
            max_padding=_MAX_PADDING,
            initial_padding=_INITIAL_PADDING,
            final_frames=max(0, _FINAL_STEPS - max(delays)),
        ),
    )
    task = speaking_task(
        12,
        "English",
        'uniaudio tts -m my-kyutai "Hello there." --voice voice.wav -o hello.wav',
        temperature=0.6,
        top_k=250,
        guidance=2.0,
    )
    return TextSlotModel(config, ids.vocabulary(), tensors, text_slot, task, captions=tokenizer)


def _file(settings: Settings, key: str, default: str) -> str:
    name = settings.values.get(key) or default
    if not is_file_name(name):
        raise InputError(
            f"{settings.where}: {key}: expected the name of a file in the same folder, got "
            f"{shown(name)}"
        )
    return str(name)


def _hidden(width: int, feedforward: int) -> int:
    """Of a gated layer, as upstream derives it."""
    return 21 * width // 8 if feedforward == 4 * width else 2 * feedforward // 3


def _eps(settings: Settings, key: str) -> float:
    return float(settings.choice(key, {"rms_norm_f32": "1e-8", "rms_norm": "1e-5"}, "rms_norm_f32"))


def _config(settings: Settings, ids: _Ids, delays: list[int], late: int) -> LMConfig:
    d, w = settings.integer("dim"), settings.integer("depformer_dim")
    scale = settings.real("hidden_scale", 4.0)
    wide = settings.values.get("depformer_dim_feedforward")
    if isinstance(wide, list):  # one for each set of weights
        if not wide or any(x != wide[0] for x in wide):
            raise InputError(
                f"{settings.where}: depformer_dim_feedforward: expected the same for all "
                f"codebooks, got {shown(wide)}"
            )
        wide = wide[0]
    if wide is None:
        wide = int(scale * w)
    if type(wide) is not int or not 3 <= wide <= 1 << 16 or not 0 < scale < 64:
        raise InputError(
            f"{settings.where}: expected widths of layers up to 65536, got {shown(wide)} and "
            f"hidden_scale {scale:g}"
        )
    settings.expect("depformer_gating", "silu")
    eps = _eps(settings, "norm")
    heads = settings.integer("depformer_num_heads", settings.integer("num_heads"))
    if not 1 <= heads <= w <= 16384 or w % (2 * heads):
        raise InputError(
            f"{settings.where}: depformer_num_heads: expected a divisor of half of depformer_dim, "
            f"which is up to 16384, got {heads} and {w}"
        )
    context = settings.values.get("context")
    codes = [late + x for x in delays]
    rows = []
    for step in range(max(delays) + 1):
        initial = [ids.initial + i if step < x else PAD for i, x in enumerate(delays)]
        rows.append((TEXT + _TEXT_PAD, *[PAD] * (ids.texts - 1), *initial))
    return LMConfig(
        ids.size,
        ids.texts + ids.codebooks,
        StackConfig(
            settings.integer("num_layers"),
            d,
            settings.integer("num_heads"),
            mlp_width=_hidden(d, int(scale * d)),
            norm_eps=eps,
            rope_base=settings.real("max_period", 10000.0),
            window=0 if context is None else settings.integer("context"),
        ),
        StackConfig(
            settings.integer("depformer_num_layers"),
            w,
            heads,
            mlp_width=_hidden(w, wide),
            norm_eps=eps,
            rope_frequencies=(0.0,) * (w // heads // 2),
            final_norm=False,
        ),
        conditioning="project",
        start_id=START,
        max_frames=_MAX_FRAMES,
        global_head_start=TEXT,
        global_head_size=settings.integer("text_card_out", ids.rows - 1),
        local_table_start=TEXT,
        local_table_size=ids.size - TEXT,
        slot_weights=True,
        given_slots=ids.texts - 1,
        delays=(*[0] * ids.texts, *codes),
        delay_ids=tuple(rows),
    )


def _tensors(source: Reader, settings: Settings, c: LMConfig, ids: _Ids) -> Tensors:
    d, w, k, size = c.global_.width, c.local.width, ids.codebooks, ids.codebook_size
    low = settings.values.get("depformer_low_rank_embeddings")
    low = None if low is None else settings.integer("depformer_low_rank_embeddings")
    schedule = settings.values.get("depformer_weights_per_step_schedule")
    sets = settings.integers("depformer_weights_per_step_schedule", list(range(k)))
    if schedule is not None and (len(sets) != k or not all(0 <= s < k for s in sets)):
        raise InputError(
            f"{settings.where}: depformer_weights_per_step_schedule: expected {k} of 0 to {k - 1}, "
            f"got {shown(schedule)}"
        )
    text = _text_tables(source, "text_emb", ids, d, None)
    own = _text_tables(source, "depformer_text_emb", ids, w, low)
    tables = [source.take(f"emb.{i}.weight", size + 1, d) for i in range(k)]
    depth = [_table(source, f"depformer_emb.{i}", size + 1, w, low) for i in range(k - 1)]
    depth.append(np.zeros((size + 1, w), np.float32))  # nothing comes after the last codebook
    start = (text[0][-1] + sum(t[-1] for t in tables)) / np.float32(c.num_codebooks)
    special = np.stack((np.zeros(d, np.float32), start.astype(np.float32)))
    codes, initial = [t[:-1] for t in tables], np.stack([t[-1] for t in tables])
    inner, first = [t[:-1] for t in depth], np.stack([t[-1] for t in depth])
    head = np.zeros((c.local_rows, w), np.float32)
    at = ids.audio - TEXT
    for i in range(k):
        part = slice(at + i * size, at + (i + 1) * size)
        head[part] = source.take(f"linears.{i}.weight", size, w)
    multi = settings.boolean("depformer_multi_linear", False)
    bridge = [source.take(f"depformer_in.{s if multi else 0}.weight", w, d) for s in sets]
    tensors: Tensors = {
        "global.embed.weight": np.concatenate((special, *text, *codes, initial)),
        "local.embed.weight": np.concatenate((*own, *inner, first)),
        "bridge.weight": np.concatenate(bridge),
        "bridge.bias": np.zeros(k * w, np.float32),
        "head.weight": head,
        "global_head.weight": source.take("text_linear.weight", c.global_head_size, d),
    }
    tensors["global.norm.weight"] = source.take("out_norm.alpha", 1, 1, d).reshape(d)
    _layers(tensors, source, "global", "transformer", c.global_, [0], True)
    _layers(tensors, source, "local", "depformer", c.local, sets, False)
    return tensors


def _table(source: Reader, name: str, rows: int, width: int, low: int | None) -> Array:
    """Rows of codes; of low rank, they are as narrow as that, and a map widens them."""
    if low is None:
        return source.take(f"{name}.weight", rows, width)
    table = source.take(f"{name}.weight", rows, low)
    return table @ source.take(f"{name}.low_rank.weight", width, low).T


def _text_tables(source: Reader, name: str, ids: _Ids, width: int, low: int | None) -> list[Array]:
    """Of the text and, where there is one, of the second text: one table behind two maps."""
    if ids.texts == 1:
        return [_table(source, name, ids.rows, width, low)]
    narrow = low or width
    table = source.take(f"{name}.weight", ids.rows, narrow)
    return [
        table @ source.take(f"{name}.{part}.weight", width, narrow).T for part in ("out1", "out2")
    ]


def _layers(
    out: Tensors,
    source: Reader,
    ours: str,
    theirs: str,
    c: StackConfig,
    sets: list[int],
    rope: bool,
) -> None:
    """The layers of a stack whose slots have these sets of weights."""
    d, count = c.width, max(sets) + 1
    for i in range(c.layers):
        to, at = f"{ours}.layers.{i}", f"{theirs}.layers.{i}"
        joined = _sets(source, f"{at}.self_attn.in_proj", count, 3 * d, d)
        wide = _sets(source, f"{at}.self_attn.out_proj", count, d, d)
        gates = [f"{at}.gating.{s}" for s in range(count)] if len(sets) > 1 else [f"{at}.gating"]
        inner = [source.take(f"{g}.linear_in.weight", 2 * c.hidden, d) for g in gates]
        outer = [source.take(f"{g}.linear_out.weight", d, c.hidden) for g in gates]
        for j, part in enumerate("qkv"):
            rows = [joined[s][j * d : (j + 1) * d] for s in sets]
            if rope and part != "v":
                rows = [halves_first(r, c.heads) for r in rows]
            out[f"{to}.attn.{part}.weight"] = np.concatenate(rows)
        out[f"{to}.attn.o.weight"] = np.concatenate([wide[s] for s in sets])
        out[f"{to}.mlp.gate.weight"] = np.concatenate([inner[s][: c.hidden] for s in sets])
        out[f"{to}.mlp.up.weight"] = np.concatenate([inner[s][c.hidden :] for s in sets])
        out[f"{to}.mlp.down.weight"] = np.concatenate([outer[s] for s in sets])
        for norm, name in (("attn_norm", "norm1"), ("mlp_norm", "norm2")):
            out[f"{to}.{norm}.weight"] = source.take(f"{at}.{name}.alpha", 1, 1, d).reshape(d)


def _sets(source: Reader, name: str, count: int, rows: int, columns: int) -> list[Array]:
    """The sets of a matrix, which are stored apart, or as one matrix by older versions."""
    if f"{name}s.0.weight" in source:
        return [source.take(f"{name}s.{s}.weight", rows, columns) for s in range(count)]
    joined = f"{name}_weight" if f"{name}_weight" in source else f"{name}.weight"
    return np.split(source.take(joined, count * rows, columns), count)
