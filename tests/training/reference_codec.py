"""A mirror of UniAudio's codec ("SoundStream") in torch: the oracle for imported codecs.

Our own code, written from documented facts (docs/reference-weights.md) and from the papers
(SoundStream, arXiv 2107.03312; EnCodec, arXiv 2210.13438). State-dict names are those of the
published checkpoint, including weight norm.

B batch, N samples, T frames, K codebooks, C codes, E width of the latents.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Weights(nn.Module):
    """A convolution's weight as gain and direction, and its bias."""

    def __init__(self, *shape: int, outputs: int) -> None:
        super().__init__()
        bound = (shape[1] * shape[2]) ** -0.5
        v = torch.empty(shape).uniform_(-bound, bound)
        self.weight_g = nn.Parameter(
            v.flatten(1).norm(dim=1).view(-1, 1, 1) * torch.empty(shape[0], 1, 1).uniform_(0.7, 1.5)
        )
        self.weight_v = nn.Parameter(v)
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def weight(self) -> Tensor:
        """Unit directions over all but the first axis, for transposed convolutions too, times their
        gains.
        """
        return torch._weight_norm(self.weight_v, self.weight_g, 0)


def wrapped(name: str, inside: nn.Module) -> nn.Module:
    outside = nn.Module()
    outside.add_module(name, inside)
    return outside


class Conv(nn.Module):
    """Pads its own input: N samples give ceil(N / stride)."""

    def __init__(
        self, dim_in: int, dim_out: int, kernel: int, stride: int = 1, causal: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.causal = kernel, stride, causal
        self.conv = wrapped("conv", Weights(dim_out, dim_in, kernel, outputs=dim_out))

    def padding(self, n: int) -> tuple[int, int]:
        total = self.kernel - self.stride
        right = 0 if self.causal else total // 2
        return total - right, right + (-n) % self.stride

    def pad(self, x: Tensor, left: int, right: int) -> Tensor:
        """Reflection; what is too short for it is first extended by zeros, which are then cut off
        behind.
        """
        short = max(0, max(left, right) + 1 - x.shape[-1])
        y = F.pad(F.pad(x, (0, short)), (left, right), "reflect")
        return y[..., : y.shape[-1] - short] if short else y

    def forward(self, x: Tensor) -> Tensor:
        w = self.conv.conv
        return F.conv1d(self.pad(x, *self.padding(x.shape[-1])), w.weight(), w.bias, self.stride)


class Upsample(nn.Module):
    """Transposed convolution of kernel 2 x stride: N samples give stride x N."""

    def __init__(self, dim_in: int, dim_out: int, stride: int, causal: bool = False) -> None:
        super().__init__()
        self.stride, self.causal = stride, causal
        self.convtr = wrapped("convtr", Weights(dim_in, dim_out, 2 * stride, outputs=dim_out))

    def trim(self) -> tuple[int, int]:
        right = self.stride if self.causal else self.stride // 2
        return self.stride - right, right

    def forward(self, x: Tensor) -> Tensor:
        w = self.convtr.convtr
        y = F.conv_transpose1d(x, w.weight(), w.bias, self.stride)
        left, right = self.trim()
        return y[..., left : y.shape[-1] - right]


class Residual(nn.Module):
    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(),
            Conv(width, width // 2, 3, causal=causal),
            nn.ELU(),
            Conv(width // 2, width, 1, causal=causal),
        )
        self.shortcut = Conv(width, width, 1, causal=causal)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class SkipLSTM(nn.Module):
    def __init__(self, width: int, layers: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(2, 0, 1)
        return (self.lstm(y)[0] + y).permute(1, 2, 0)


class Codebook(nn.Module):
    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        for name, value in (
            ("inited", torch.ones(1)),
            ("cluster_size", torch.ones(codes)),
            ("embed", torch.randn(codes, width)),
            ("embed_avg", torch.zeros(codes, width)),
        ):
            self.register_buffer(name, value)

    def nearest(self, x: Tensor) -> Tensor:
        """x [n, E] -> [n], the lowest index on ties."""
        e = self.embed.t()
        return (
            (-(x.pow(2).sum(1, keepdim=True) - 2 * x @ e + e.pow(2).sum(0, keepdim=True)))
            .max(dim=-1)
            .indices
        )


class ReferenceCodec(nn.Module):
    def __init__(
        self,
        filters: int = 32,
        width: int = 128,
        ratios: tuple[int, ...] = (8, 5, 4, 2),
        codebooks: int = 12,
        codes: int = 1024,
        causal: bool = False,
    ) -> None:
        super().__init__()
        encoder: list[nn.Module] = [Conv(1, filters, 7, causal=causal)]
        w = filters
        for r in reversed(ratios):
            encoder += [Residual(w, causal), nn.ELU(), Conv(w, 2 * w, 2 * r, r, causal)]
            w *= 2
        encoder += [SkipLSTM(w), nn.ELU(), Conv(w, width, 7, causal=causal)]
        decoder: list[nn.Module] = [Conv(width, w, 7, causal=causal), SkipLSTM(w)]
        for r in ratios:
            decoder += [nn.ELU(), Upsample(w, w // 2, r, causal), Residual(w // 2, causal)]
            w //= 2
        decoder += [nn.ELU(), Conv(w, 1, 7, causal=causal)]
        self.hop = math.prod(ratios)
        self.encoder, self.decoder = (
            wrapped("model", nn.Sequential(*encoder)),
            wrapped("model", nn.Sequential(*decoder)),
        )
        layers = nn.ModuleList(
            wrapped("_codebook", Codebook(codes, width)) for _ in range(codebooks)
        )
        self.quantizer = wrapped("vq", wrapped("layers", layers))

    @property
    def books(self) -> list[Codebook]:
        return [layer._codebook for layer in self.quantizer.vq.layers]  # type: ignore[union-attr]

    @torch.no_grad()
    def randomize(self, seed: int = 0) -> ReferenceCodec:
        """Codewords where latents lie, each codebook finer than the one before, so that all are
        used.
        """
        g = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.mul_(1 + 0.1 * torch.randn(p.shape, generator=g))
        z = self.latent(torch.randn(1, 1, 60 * self.hop, generator=g) * 0.3)[0]
        for k, book in enumerate(self.books):
            book.embed.copy_(torch.randn(book.embed.shape, generator=g) * z.std(dim=1) * 0.8**k)
        self.books[0].embed.add_(z.mean(dim=1))
        return self.eval()

    def latent(self, x: Tensor) -> Tensor:
        """x [B, 1, N] -> [B, E, T]."""
        return self.encoder.model(x)

    def encode(self, x: Tensor, codebooks: int | None = None) -> Tensor:
        """x [B, 1, N] -> codes [K, B, T]."""
        residual, out = self.latent(x).transpose(1, 2), []
        for book in self.books[:codebooks]:
            index = book.nearest(residual.flatten(0, 1)).view(residual.shape[:2])
            residual = residual - F.embedding(index, book.embed)
            out.append(index)
        return torch.stack(out)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [K', B, T] -> [B, 1, hop x T]."""
        z = torch.zeros(())
        for index, book in zip(codes, self.books, strict=False):
            z = z + F.embedding(index, book.embed).transpose(1, 2)
        return self.decoder.model(z)
