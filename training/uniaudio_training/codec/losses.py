"""Spectral losses of the codec: log-mel and compressed magnitudes at several resolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mel_filters(bins: int, mels: int, sample_rate: int) -> Tensor:
    """Triangular filters [mels, bins] on the HTK mel scale, each of unit sum."""
    hz = torch.linspace(0, sample_rate / 2, bins)
    top = 2595 * torch.log10(torch.tensor(1 + sample_rate / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), mels + 2) / 2595) - 1)
    up = (hz[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - hz[None]) / (edges[2:] - edges[1:-1])[:, None]
    f = torch.minimum(up, down).clamp(min=0)
    return f / f.sum(1, keepdim=True).clamp(min=1e-8)


class SpectralLoss(nn.Module):
    """L1 of log-mel plus L1 of the square root of magnitudes, averaged over resolutions (window,
    mels).

    The hop is a quarter of the window. The loss ignores phases: see :func:`waveform_loss`.
    """

    def __init__(
        self,
        sample_rate: int,
        resolutions: tuple[tuple[int, int], ...] = ((2048, 160), (1024, 100), (512, 64), (256, 32)),
        floor: float = 1e-4,
    ) -> None:
        super().__init__()
        self.resolutions, self.floor = resolutions, floor
        for window, mels in resolutions:
            self.register_buffer(f"window{window}", torch.hann_window(window))
            self.register_buffer(
                f"mel{window}", mel_filters(window // 2 + 1, mels, sample_rate).T.contiguous()
            )

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x, y [B, N] -> (log-mel loss, magnitude loss)."""
        b = x.shape[0]
        both = torch.cat((x, y)).float()
        mel_loss = magnitude_loss = both.new_zeros(())
        for window, _ in self.resolutions:
            spec = torch.stft(
                both,
                window,
                window // 4,
                window=getattr(self, f"window{window}"),
                return_complex=True,
                center=True,
            )
            power = spec.real.square() + spec.imag.square()
            magnitude = (power + 1e-10).sqrt() * (4.0 / window)
            mel = torch.log(magnitude.transpose(1, 2) @ getattr(self, f"mel{window}") + self.floor)
            mel_loss = mel_loss + (mel[:b] - mel[b:]).abs().mean()
            compressed = (magnitude + 1e-5).sqrt()
            magnitude_loss = magnitude_loss + (compressed[:b] - compressed[b:]).abs().mean()
        n = len(self.resolutions)
        return mel_loss / n, magnitude_loss / n


def waveform_loss(x: Tensor, y: Tensor) -> Tensor:
    """Squared error over energy of x and y [B, N]; early in training it makes the decoder learn
    coherent phases.
    """
    return ((x - y).square().sum(1) / (x.square().sum(1) + 0.05)).mean()
