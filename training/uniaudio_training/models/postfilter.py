"""The post-filter in torch: gains of a source's spectrum, from it and from the model's answer.

A generated answer is clean and says who speaks when, but loses words that the source still has. The
source times gains keeps them. A mask of a spectrum is the oldest way to clean speech; what is new
here is one of its two inputs.

B batch, N samples, T frames, F bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.storage.config import PostFilterConfig

from .spectral import ConvNeXt


class PostFilter(nn.Module):
    """Source and answer [B, N] -> the filtered source [B, N]."""

    window: Tensor

    def __init__(self, config: PostFilterConfig) -> None:
        super().__init__()
        config.check()
        self.config = c = config
        self.net = ConvNeXt(2 * c.bins, c.width, c.hidden, c.blocks, c.bins, c.kernel_size)
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

    def gains(self, source: Tensor, answer: Tensor) -> Tensor:
        """Spectra [B, T, F] -> gains [B, T, F] in 0 to 1, without a limit of the attenuation."""
        c = self.config
        logs = [0.25 * (x.abs() + c.log_floor).log() + 1.25 for x in (source, answer)]
        x = F.pad(torch.cat(logs, -1), (0, 0, 0, c.lookahead))
        if c.lookahead:  # what silence sounds like
            silence = 0.25 * torch.log(torch.tensor(c.log_floor)) + 1.25
            x[:, -c.lookahead :] = silence
        return self.net(x)[:, c.lookahead :].float().sigmoid()

    def forward(self, source: Tensor, answer: Tensor) -> Tensor:
        c, n = self.config, source.shape[1]
        x = self.spectrum(source)
        y = torch.fft.irfft(x * self.gains(x, self.spectrum(answer)), n=c.window, dim=-1)
        y = y * self.window * (c.window / 4.0)
        total = (y.shape[1] - 1) * c.hop + c.window
        added, envelope = (
            F.fold(z.transpose(1, 2), (1, total), (1, c.window), stride=(1, c.hop))[:, 0, 0]
            for z in (y, self.window.square().expand_as(y))
        )
        past = c.window - c.hop
        return (added / envelope.clamp(min=1e-3))[:, past : past + n]
