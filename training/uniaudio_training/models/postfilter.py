"""The filters in torch: gains of a source's spectrum.

A mask of a spectrum is the oldest way to clean speech. A generated answer sounds cleaner, but loses
words that the source still has. A filter that is to keep one voice of several also hears a recording
of it, whose vector modulates the network.

B batch, N samples, T frames, F bins, V numbers of a voice's vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.storage.config import PostFilterConfig
from uniaudio_engine.storage.weight_shapes import VOICE_KERNEL

from .spectral import ConvNeXt


class PostFilter(nn.Module):
    """Source [B, N] -> the filtered source [B, N]."""

    window: Tensor

    def __init__(self, config: PostFilterConfig) -> None:
        super().__init__()
        config.check()
        self.config = c = config
        self.net = ConvNeXt(c.bins, c.width, c.hidden, c.blocks, c.bins, c.kernel_size)
        if c.voice:
            self.voice = ConvNeXt(
                c.bins, c.voice, 2 * c.voice, c.voice_blocks, c.voice, VOICE_KERNEL
            )
            self.modulation = nn.Linear(c.voice, (c.blocks + 1) * 2 * c.width)
            nn.init.normal_(self.modulation.weight, std=0.05)
            nn.init.zeros_(self.modulation.bias)
        self.register_buffer("window", torch.hann_window(c.window), persistent=False)

    def spectrum(self, samples: Tensor) -> Tensor:
        """samples [B, N] -> complex [B, T, F], T = ceil((N + window - hop) / hop).

        Frame t covers samples [(t + 1) hop - window, (t + 1) hop), with zeros outside of the clip.
        It is divided by window / 4, so that a full-scale sine peaks at 1.
        """
        c = self.config
        n, past = samples.shape[1], c.window - c.hop
        frames = -(-(n + past) // c.hop)
        x = F.pad(samples, (past, frames * c.hop - n))
        segments = x.unfold(1, c.window, c.hop) * self.window
        return torch.fft.rfft(segments.float(), dim=-1) * (4.0 / c.window)

    def logs(self, spectrum: Tensor) -> Tensor:
        """What the networks hear of a spectrum [B, T, F]."""
        return 0.25 * (spectrum.abs() + self.config.log_floor).log() + 1.25

    def vector(self, voice: Tensor) -> Tensor:
        """Spectra [B, T, F] of a voice -> what stands for it [B, V]."""
        return self.voice(self.logs(voice)).float().mean(1)

    def gains(self, source: Tensor, vector: Tensor | None = None) -> Tensor:
        """Spectra [B, T, F] -> gains [B, T, F] in 0 to 1, without a limit of the attenuation.

        ``vector`` [B, V]: of the voice to keep, for a filter that hears one.
        """
        c = self.config
        x = F.pad(self.logs(source), (0, 0, 0, c.lookahead), value=c.silence)
        factors = None
        if vector is not None:
            factors = self.modulation(vector).float().view(-1, c.blocks + 1, 2, c.width)
        return self.net(x, factors)[:, c.lookahead :].float().sigmoid()

    def forward(self, source: Tensor, voice: Tensor | None = None) -> Tensor:
        """``voice`` [B, n]: samples of the voice to keep, for a filter that hears one."""
        c, n = self.config, source.shape[1]
        x = self.spectrum(source)
        vector = None if voice is None else self.vector(self.spectrum(voice))
        y = torch.fft.irfft(x * self.gains(x, vector), n=c.window, dim=-1)
        y = y * self.window * (c.window / 4.0)
        total = (y.shape[1] - 1) * c.hop + c.window
        added, envelope = (
            F.fold(z.transpose(1, 2), (1, total), (1, c.window), stride=(1, c.hop))[:, 0, 0]
            for z in (y, self.window.square().expand_as(y))
        )
        past = c.window - c.hop
        return (added / envelope.clamp(min=1e-3))[:, past : past + n]
