"""Residual vector quantization (SoundStream, arXiv 2107.03312), Euclidean, lowest index on ties."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from ..kernels.plain import nearest


class ResidualVQ(nn.Module):
    """K stages of C codewords of width E, shared by both codec families.

    Codebooks are exponential moving averages. Unused codewords restart at random inputs.
    """

    codebooks: Tensor  # [K, C, E]
    counts: Tensor  # [K, C]: usage of each codeword
    sums: Tensor  # [K, C, E]

    def __init__(
        self, num_codebooks: int, codebook_size: int, dim: int, decay: float = 0.98
    ) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codebooks", torch.randn(num_codebooks, codebook_size, dim))
        self.register_buffer("counts", torch.zeros(num_codebooks, codebook_size), persistent=False)
        self.register_buffer(
            "sums", torch.zeros(num_codebooks, codebook_size, dim), persistent=False
        )
        self.initialised = False  # the first training batch sets the codebooks

    def nearest(self, x: Tensor, stage: int) -> Tensor:
        """x [N, E] -> indices [N]: arg-max of -(x^2 - 2 x.e + e^2)."""
        if kernels.fused(x):
            return kernels.residual_vq(x.float(), self.codebooks[stage : stage + 1]).codes[0]
        return nearest(x, self.codebooks[stage])

    @torch.no_grad()
    def encode(self, z: Tensor, num_codebooks: int | None = None) -> Tensor:
        """z [B, E, T] -> codes [B, K, T]."""
        b, e, t = z.shape
        residual = z.transpose(1, 2).reshape(b * t, e)
        if kernels.fused(z):
            found = kernels.residual_vq(residual.float(), self.codebooks[:num_codebooks])
            return found.codes.view(-1, b, t).transpose(0, 1)
        codes = []
        for k in range(num_codebooks or self.codebooks.shape[0]):
            codes.append(self.nearest(residual, k))
            residual = residual - self.codebooks[k][codes[-1]]
        return torch.stack(codes).view(len(codes), b, t).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, K', T] (any K' <= K) -> z [B, E, T]."""
        z = sum(self.codebooks[k][codes[:, k]] for k in range(codes.shape[1]))
        return z.transpose(1, 2)  # type: ignore[union-attr]

    def forward(self, z: Tensor, stages: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training pass: z [B, E, T] -> (quantized, quantized by the first stage, codes [B, stages,
        T], commitment loss).

        Both quantized tensors have straight-through gradients.
        """
        b, e, t = z.shape
        shape = lambda v: v.view(b, t, e).transpose(1, 2)  # noqa: E731
        with torch.autocast(z.device.type, enabled=False):
            x = z.float().transpose(1, 2).reshape(b * t, e)
            if not self.training and kernels.fused(x):
                # Fixed codebooks: all stages in one kernel. Below, each stage moves its codebook
                # before the next stage sees the residual.
                found = kernels.residual_vq(x, self.codebooks[:stages])
                codes = found.codes.view(-1, b, t).transpose(0, 1)
                return shape(found.value), shape(found.first), codes, found.commitment
            residual = x.detach()
            if self.training and not self.initialised:
                self._init(residual)
            total = torch.zeros_like(residual)
            indices, commit = [], x.new_zeros(())
            first = total
            for k in range(stages):
                index = self.nearest(residual, k)
                if self.training:
                    self._update(k, residual, index)
                quantized = self.codebooks[k][index]
                commit = commit + F.mse_loss(x - total, quantized)
                residual = residual - quantized
                total = total + quantized
                indices.append(index)
                if k == 0:
                    first = total
            straight = x + (total - x).detach()
            straight_first = x + (first - x).detach()
        return (
            shape(straight),
            shape(straight_first),
            torch.stack(indices).view(-1, b, t).transpose(0, 1),
            commit / stages,
        )

    @torch.no_grad()
    def _init(self, x: Tensor) -> None:
        """Initialises each stage with random inputs of its residual."""
        residual = x
        k_total, size, _ = self.codebooks.shape
        for k in range(k_total):
            pick = torch.randint(0, residual.shape[0], (size,), device=x.device)
            self.codebooks[k] = residual[pick] + 1e-3 * torch.randn_like(residual[pick])
            residual = residual - self.codebooks[k][self.nearest(residual, k)]
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebooks)
        self.initialised = True

    @torch.no_grad()
    def _update(self, k: int, x: Tensor, index: Tensor) -> None:
        size = self.codebooks.shape[1]
        n = torch.bincount(index, minlength=size).to(x.dtype)
        s = torch.zeros_like(self.sums[k]).index_add_(0, index, x)
        self.counts[k].mul_(self.decay).add_(n, alpha=1 - self.decay)
        self.sums[k].mul_(self.decay).add_(s, alpha=1 - self.decay)
        dead = self.counts[k] < 0.15 * x.shape[0] / size
        if dead.any():
            m = int(dead.sum())
            pick = torch.randint(0, x.shape[0], (m,), device=x.device)
            self.sums[k][dead] = x[pick]
            self.counts[k][dead] = 1.0  # about 90 steps until it can restart again
        self.codebooks[k] = self.sums[k] / self.counts[k].clamp(min=1e-5)[:, None]

    def average_state(self) -> dict[str, Any]:
        """The moving averages: exact resume needs them, a model folder does not."""
        return {"counts": self.counts, "sums": self.sums, "initialised": self.initialised}

    def load_average_state(self, state: dict[str, Any]) -> None:
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])
        self.initialised = bool(state["initialised"])

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super()._load_from_state_dict(*args, **kwargs)
        self.initialised = True
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebooks)
