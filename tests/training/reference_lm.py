"""A mirror of UniAudio's language model in torch: the oracle for imported weights.

Our own code, written from documented facts (docs/reference-weights.md); the published repository
has no licence, so none of its code is here. State-dict names and the form of the arithmetic are
those of the published checkpoint: a mirror's weights are a valid checkpoint, and its float32
results are bit-identical to those of the published class. Each fact is a separate method, so that a
test can break it.

B batch, T frames, K slots per frame, D width, V ids. Sequences are flat, frame after frame: [B, T
K].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = list[tuple[Tensor, Tensor]]  # of each layer: keys and values so far [B, H, T, D / H]
Segment = tuple[
    int, int, str, Tensor
]  # first slot, slot behind the last, name, values repeated for each slot [slots, width]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def scale(self) -> float:
        """Applied to queries and to keys, each."""
        return (self.query.out_features // self.heads) ** -0.25

    def hidden(self, new: int, all_: int) -> Tensor:
        """[new, all] bool: what each of the newest positions does not see, which is what comes
        after it.
        """
        return torch.ones(new, all_, dtype=torch.bool).triu(all_ - new + 1)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        scores = (q * self.scale()) @ (k * self.scale()).transpose(-1, -2)
        weights = scores.masked_fill(self.hidden(q.shape[2], k.shape[2]), -torch.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2)), (k, v)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)
        )
        self.mlp_ln = nn.LayerNorm(width)

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def norm(self, layer: nn.LayerNorm, x: Tensor) -> Tensor:
        return layer(x.float()).to(x.dtype)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, kept = self.attn(self.norm(self.attn_ln, x), past)
        x = x + attended
        return x + self.mlp[2](self.activation(self.mlp[0](self.norm(self.mlp_ln, x)))), kept


class ReferenceLM(nn.Module):
    """``context``: rows of the table of positions.

    ``global_start`` and ``local_start``: the ids <mega_global>, <mega_local>.
    """

    def __init__(
        self,
        vocab: int,
        context: int,
        width: int,
        heads: int,
        layers: int,
        slots: int,
        global_start: int = 23,
        local_start: int = 24,
        text_width: int = 768,
    ) -> None:
        super().__init__()
        self.slots, self.context, self.global_start, self.local_start = (
            slots,
            context,
            global_start,
            local_start,
        )
        self.g_emb = nn.Embedding(vocab, width // slots)
        self.g_pos = nn.Embedding(context, width)
        self.g_layers = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.g_ln = nn.LayerNorm(width)
        self.l_emb = nn.Embedding(vocab, width)
        self.l_pos = nn.Embedding(slots, width)
        self.l_layers = nn.ModuleList(Block(width, heads) for _ in range(min(8, layers // 2)))
        self.l_ln = nn.LayerNorm(width)
        self.g2l_linear = nn.Linear(width // slots, width)
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.continuous_mappings = nn.ModuleDict({"text_t5": nn.Linear(text_width, width)})

    @torch.no_grad()
    def randomize(self, seed: int = 0) -> ReferenceLM:
        """Lively logits: embeddings and biases are not small, norms are not one."""
        g = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if p.dim() == 1:
                p.copy_(noise * 0.2 + (1.0 if "ln" in name and name.endswith("weight") else 0.0))
            elif "emb" in name or "pos" in name:
                p.copy_(noise * 0.5)
            else:
                p.copy_(noise * p.shape[1] ** -0.5)
        return self.eval()

    # The facts, each of which a test breaks

    def frame_embedding(self, frames: Tensor) -> Tensor:
        """frames [B, T, K] -> [B, T, D]: the K rows of width D / K, one behind the other."""
        return self.g_emb(frames).flatten(2)

    def shifted(self, frames: Tensor) -> Tensor:
        """What the global layers see while they predict ``frames`` [B, T, K]: those before,
        <mega_global> at first.
        """
        return torch.cat((torch.full_like(frames[:, :1], self.global_start), frames[:, :-1]), dim=1)

    def segment_begin(self, slot: int) -> int:
        """The global position of the frame at ``slot``: one later, as the sequence is shifted."""
        return slot // self.slots + 1

    def slices(self, hidden: Tensor) -> Tensor:
        """hidden [N, D] -> conditioning of each slot [N, K, D]: slot k's from the k-th part of
        width D / K.
        """
        return self.g2l_linear(hidden.unflatten(-1, (self.slots, -1)))

    # Running

    def global_hidden(
        self,
        frames: Tensor,
        cache: Cache | None = None,
        segments: list[list[Segment]] | None = None,
    ) -> Tensor:
        """frames [B, T, K], shifted already, at the positions behind the cache -> [B, T, D]; the
        cache grows.
        """
        x = self.frame_embedding(frames)
        for row, parts in enumerate(segments or []):
            for first, behind, name, values in parts:
                x[row, self.segment_begin(first) : self.segment_begin(behind)] = (
                    self.continuous_mappings[name](values[:: self.slots])
                )
        begin = cache[0][0].shape[2] if cache else 0
        x = x + self.g_pos.weight[begin : begin + x.shape[1]]
        return self._layers(self.g_layers, self.g_ln, x, cache)

    def local_logits(
        self, previous: Tensor, conditioning: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """previous [N, n]: the id before each slot, conditioning [N, n, D] -> logits [N, n, V]."""
        begin = cache[0][0].shape[2] if cache else 0
        x = (
            self.l_emb(previous)
            + conditioning
            + self.l_pos.weight[begin : begin + previous.shape[1]]
        )
        return self.lm_head(self._layers(self.l_layers, self.l_ln, x, cache))

    @staticmethod
    def _layers(
        layers: nn.ModuleList, norm: nn.LayerNorm, x: Tensor, cache: Cache | None
    ) -> Tensor:
        kept = []
        for i, layer in enumerate(layers):
            x, kv = layer(x, cache[i] if cache else None)
            kept.append(kv)
        if cache is not None:
            cache[:] = kept
        return norm(x.float()).to(x.dtype)

    def forward(self, flat: Tensor, segments: list[list[Segment]] | None = None) -> Tensor:
        """flat [B, T K] -> teacher-forced logits [B, T K, V] of each slot given all before it."""
        frames = flat.unflatten(1, (-1, self.slots))
        hidden = self.global_hidden(self.shifted(frames), None, segments)
        codes = frames.flatten(0, 1)
        previous = torch.cat(
            (torch.full_like(codes[:, :1], self.local_start), codes[:, :-1]), dim=1
        )
        logits = self.local_logits(previous, self.slices(hidden.flatten(0, 1)))
        return logits.view(*flat.shape, -1)

    @torch.no_grad()
    def greedy(
        self, flat: Tensor, count: int, allowed: Tensor, segments: list[list[Segment]] | None = None
    ) -> Tensor:
        """Continue ``flat`` [T K] by ``count`` frames -> [count, K]; ``allowed`` [K, V] bool: what
        each slot may be.
        """
        frames = flat.view(1, -1, self.slots)
        cache: Cache = []
        self.global_hidden(self.shifted(frames), cache, segments)
        last, out = frames[:, -1:], []
        for _ in range(count):
            conditioning = self.slices(self.global_hidden(last, cache)[:, 0])
            local: Cache = []
            previous, codes = torch.full((1, 1), self.local_start), []
            for k in range(self.slots):
                logits = self.local_logits(previous, conditioning[:, k : k + 1], local)[0, 0]
                previous = logits.masked_fill(~allowed[k], -torch.inf).argmax().view(1, 1)
                codes.append(previous)
            last = torch.cat(codes, dim=1)[:, None]
            out.append(last[0, 0])
        return torch.stack(out)
