"""Training objective of the LM: cross-entropy of each codebook over its own part of the vocabulary,
and of the durations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uniaudio_engine.request.sequence import Layout

from .. import kernels
from ..models.lm import MultiScaleLM, SharedPrompt, rope_tables
from .data import AUDIO, DURATION, Batch


def global_hidden(model: MultiScaleLM, batch: Batch) -> Tensor:
    """Hidden states [B, n, L, D] that predict the items, for rows with a shared prompt.

    Equal to ``MultiScaleLM.global_hidden`` on each sequence separately.
    """
    b, p, _ = batch.prompt.shape
    _, n, length, _ = batch.inputs.shape
    stack, c = model.global_, model.config.global_
    x = torch.cat(
        (
            model.embed_frames(batch.prompt).flatten(0, 1),
            (model.embed_frames(batch.inputs) + model.embed_aligned(batch.aligned)).flatten(0, 2),
        )
    )
    rope = rope_tables(torch.arange(p + length, device=x.device), c)
    shared = SharedPrompt(b, p, n, length)
    for layer in stack.blocks():
        x = layer(x, rope, shared)
    return stack.norm(x[b * p :]).view(b, n, length, -1)


class Objective(nn.Module):
    """:func:`losses` as a module, the root of what is sharded."""

    def __init__(self, model: MultiScaleLM, layout: Layout, alike: bool = False) -> None:
        super().__init__()
        self.model, self.layout, self.alike = model, layout, alike

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return losses(self.model, self.layout, batch, self.alike)


def losses(
    model: MultiScaleLM, layout: Layout, batch: Batch, alike: bool = False
) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats of each codebook [K] and of the durations [] (nan where there are
    none).

    ``alike``: every batch calls the same modules, as processes with shards of them must. A batch
    without durations then computes those of one frame, to no effect.
    """
    assert model.global_head is None, "expected a model whose local stack predicts slot 0"
    h = global_hidden(model, batch)
    audio, duration = batch.kind == AUDIO, batch.kind == DURATION
    codes = batch.frames[audio]
    y = model.local_hidden(h[audio], codes)
    end = layout.vocabulary.special("audio_end")
    ended = codes[:, 0] == end  # in tasks that predict their own end
    ranges = [range_ for [range_] in layout.audio_ranges()]
    extra = end if bool(ended.any()) else None
    target = codes - codes.new_tensor([start for start, _ in ranges])
    target = target.masked_fill(ended[:, None], layout.codebook_size)
    per_codebook = kernels.codebook_losses(y, model.head.weight, ranges, extra, target)
    if not bool(duration.any()):
        none = torch.full((), torch.nan)
        if not alike:
            return per_codebook, none
        y = model.local_hidden(h[audio][:1], codes[:1, :1])
        return per_codebook + 0 * y.sum(), none
    span = layout.vocabulary.span("duration")
    tokens = batch.frames[duration][:, :1]
    y = model.local_hidden(h[duration], tokens)
    target = tokens - span.start
    return per_codebook, kernels.codebook_losses(
        y, model.head.weight, [(span.start, span.size)], None, target
    )[0]
