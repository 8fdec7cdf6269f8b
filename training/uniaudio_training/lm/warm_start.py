"""Initialises a model from one with fewer tasks, ids or layers. Shared weights are copied.

- New layers contribute nothing at first, because their last matrices are zero: a deeper model
  begins as the shallower one.
- New ids get random embeddings with the norm of the old ones, so that the labels of a new task
  matter from the first step.
- New columns for a source sound get the codebooks of the codec through a random projection, so that
  similar sounds have similar embeddings from the first step.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from uniaudio_engine.storage.config import ModelConfig, VocabularyConfig

from ..models.lm import MultiScaleLM
from .recode import Pairs, recode

_SOURCE_STD = 0.05  # standard deviation of a source frame's embedding, summed over codebooks


@torch.no_grad()
def start_from(
    model: MultiScaleLM,
    vocabulary: VocabularyConfig,
    folder: Path,
    seed: int = 0,
    pairs: Pairs | None = None,
) -> str:
    """Initialises ``model`` from a model folder; returns a JSON line that says what was copied.

    A folder without a language model provides the codec's codebooks only. With ``pairs``, the model
    goes on with the codes of another codec than the folder's. Raises ValueError for
    other widths and for quantized weights.
    """
    old_config = ModelConfig.from_json((folder / "config.json").read_text(encoding="utf-8"))
    g = torch.Generator().manual_seed(seed)
    if old_config.lm is None or old_config.vocabulary is None:
        if model.guide is not None:
            _source_rows(model.guide.weight, vocabulary, (), folder, g)
        return json.dumps({"from": str(folder), "codebooks": old_config.codec.num_codebooks})
    old = {k: v.float() for k, v in load_file(folder / "lm.safetensors").items()}
    if any(k.endswith("_scale") for k in old):
        raise ValueError(
            f"{folder}: expected weights in float32 or bfloat16, got quantized ones; start from "
            "the folder that was quantized"
        )
    ids = _moves(old_config.vocabulary, vocabulary, aligned=False)
    aligned_ids = _moves(old_config.vocabulary, vocabulary, aligned=True)
    fresh = 0
    for name, p in model.named_parameters():
        table = (
            aligned_ids
            if name == "guide.weight"
            else ids
            if name in ("global.embed.weight", "local.embed.weight", "head.weight")
            else None
        )
        if table is not None:
            if old[name].shape[1] != p.shape[1]:
                raise ValueError(
                    f"{folder}: {name}: expected width {p.shape[1]}, got {old[name].shape[1]}"
                )
            taken = torch.cat([old[name][i : i + n] for _, i, n in table])
            p.copy_(torch.randn(p.shape, generator=g) * taken.std())
            for begin, old_begin, size in table:
                p[begin : begin + size] = old[name][old_begin : old_begin + size]
        elif name in old:
            if old[name].shape != p.shape:
                raise ValueError(
                    f"{folder}: {name}: expected shape {list(p.shape)}, got {list(old[name].shape)}"
                )
            p.copy_(old[name])
        elif name.endswith(("attn.o.weight", "mlp.down.weight")):
            p.zero_()
            fresh += name.endswith("attn.o.weight")
    if model.guide is not None:
        _source_rows(
            model.guide.weight,
            vocabulary,
            tuple(s.name for s in old_config.vocabulary.aligned_spans),
            folder,
            g,
        )
    if pairs is not None:
        recode(model, vocabulary, pairs)
    return json.dumps(
        {
            "from": str(folder),
            "new layers": fresh,
            "rows taken": sum(n for *_, n in ids),
            "aligned rows taken": sum(n for *_, n in aligned_ids),
            **({} if pairs is None else {"frames of both codecs": len(pairs.new)}),
        }
    )


def _moves(
    old: VocabularyConfig, new: VocabularyConfig, aligned: bool
) -> list[tuple[int, int, int]]:
    """Ranges of ids that both vocabularies have, by name: (id, old id, count)."""
    moves = []
    if not aligned:
        moves += [
            (new.specials.index(name), i, 1)
            for i, name in enumerate(old.specials)
            if name in new.specials
        ]
    spans = {s.name: s for s in (new.aligned_spans if aligned else new.spans)}
    for s in old.aligned_spans if aligned else old.spans:
        if s.name in spans:
            moves.append((spans[s.name].start, s.start, min(s.size, spans[s.name].size)))
    return moves


def _source_rows(
    table: Tensor,
    vocabulary: VocabularyConfig,
    learned: tuple[str, ...],
    folder: Path,
    g: torch.Generator,
) -> None:
    """Fills the rows of source spans from the codec's codebooks [K, C, E], except for spans named
    in ``learned``.
    """
    codebooks = load_file(folder / "codec.safetensors")["quantizer.codebooks"].float()
    for prefix in ("source", "ahead"):
        names = [s for s in vocabulary.aligned_spans if s.name.startswith(prefix)]
        if any(s.name in learned for s in names):
            continue
        through = torch.randn(codebooks.shape[2], table.shape[1], generator=g)
        rows = [codebooks[k] @ through for k in range(len(names))]
        if not rows:
            continue
        scale = _SOURCE_STD / torch.stack([r.var() for r in rows]).sum().sqrt()
        for s, r in zip(names, rows, strict=True):
            table[s.start : s.start + s.size] = r * scale
