"""Training objective of the LM: cross-entropy of each codebook over its own part of the vocabulary,
and of the durations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uniaudio_engine.request.sequence import Layout

from ..models.lm import MultiScaleLM, apply_rope, attend, rope_tables, visible
from .data import AUDIO, DURATION, Batch


def global_hidden(model: MultiScaleLM, batch: Batch) -> Tensor:
    """Hidden states [B, n, L, D] that predict the items, for rows with a shared prompt.

    Equal to ``MultiScaleLM.global_hidden`` on each sequence separately.
    """
    b, p, _ = batch.prompt.shape
    _, n, length, _ = batch.inputs.shape
    stack, c = model.global_, model.config.global_
    split = b * p
    x = torch.cat(
        (
            model.embed_frames(batch.prompt).flatten(0, 1),
            (model.embed_frames(batch.inputs) + model.embed_aligned(batch.aligned)).flatten(0, 2),
        )
    )
    positions = torch.arange(p + length, device=x.device)
    rope = rope_tables(positions, c)
    (cos, sin) = rope
    before, after = (cos[:p], sin[:p]), (cos[p:], sin[p:])
    mask = visible(positions[p:], positions, c.window)
    causal = visible(positions[:p], positions[:p], c.window)
    for layer in stack.blocks():
        a = layer.attn
        y = layer.attn_norm(x)

        def heads(t: Tensor, rows: int) -> Tensor:
            return t.unflatten(0, (rows, -1)).transpose(1, 2)

        q, k, v = a.project(y)
        kp, vp = apply_rope(heads(k[:split], b), *before), heads(v[:split], b)
        prompt = attend(apply_rope(heads(q[:split], b), *before), kp, vp, causal)
        ks = torch.cat(
            (kp.repeat_interleave(n, 0), apply_rope(heads(k[split:], b * n), *after)), dim=2
        )
        vs = torch.cat((vp.repeat_interleave(n, 0), heads(v[split:], b * n)), dim=2)
        sentences = attend(apply_rope(heads(q[split:], b * n), *after), ks, vs, mask)
        y = torch.cat(
            (
                prompt.transpose(1, 2).reshape(split, -1),
                sentences.transpose(1, 2).reshape(b * n * length, -1),
            )
        )
        x = x + a.o(y)
        x = x + layer.mlp(layer.mlp_norm(x))
    return stack.norm(x[split:]).view(b, n, length, -1)


def losses(model: MultiScaleLM, layout: Layout, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats of each codebook [K] and of the durations [] (nan where there are
    none).
    """
    assert model.global_head is None, "expected a model whose local stack predicts slot 0"
    h = global_hidden(model, batch)
    audio, duration = batch.kind == AUDIO, batch.kind == DURATION
    codes = batch.frames[audio]
    y = model.local_hidden(h[audio], codes)
    end = layout.vocabulary.special("audio_end")
    ended = codes[:, 0] == end  # in tasks that predict their own end
    some = bool(ended.any())
    per_codebook = []
    for k, [(start, size)] in enumerate(layout.audio_ranges()):
        rows, target = model.head.weight[start : start + size], codes[:, k] - start
        if some:
            rows, target = (
                torch.cat((rows, model.head.weight[end : end + 1])),
                target.masked_fill(ended, size),
            )
        per_codebook.append(F.cross_entropy(F.linear(y[:, k], rows).float(), target))
    if not bool(duration.any()):
        return torch.stack(per_codebook), torch.full((), torch.nan)
    span = layout.vocabulary.span("duration")
    tokens = batch.frames[duration][:, :1]
    logits = F.linear(
        model.local_hidden(h[duration], tokens)[:, 0],
        model.head.weight[span.start : span.start + span.size],
    )
    return torch.stack(per_codebook), F.cross_entropy(logits.float(), tokens[:, 0] - span.start)
