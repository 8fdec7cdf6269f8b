"""The SEANet codec in torch (SoundStream, arXiv 2107.03312; EnCodec, arXiv 2210.13438): the
reference for ``csrc/seanet``.

Weight norm is folded: every convolution is a plain ``weight`` and ``bias``. State-dict names, in
the order of computation:

- ``encoder.input.{weight,bias}``: [filters, channels, kernel]
- ``encoder.stages.i.blocks.j.{first,second,shortcut}.{weight,bias}``: residual block j, at the
  width of stage i
- ``encoder.stages.i.down.{weight,bias}``: [2 W, W, 2 r], stride r; ratios in reverse order
- ``encoder.lstm.{weight_ih,weight_hh,bias_ih,bias_hh}_l{n}``: as ``torch.nn.LSTM`` (gates i f g o)
- ``encoder.output.{weight,bias}``: [codebook_dim, W, last_kernel]
- ``decoder.input.*``, ``decoder.lstm.*``
- ``decoder.stages.i.up.{weight,bias}``: [W, W / 2, 2 r], transposed, stride r
- ``decoder.stages.i.blocks.j.*``, ``decoder.output.*``: [channels, filters, last_kernel]
- ``quantizer.codebooks``: [K, C, E]

``shortcut`` exists with ``conv_shortcut``. With ``norm == "group"`` each convolution also has
``norm.{weight,bias}``. B batch, C channels, N samples, T frames, K codebooks, E codebook_dim.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniaudio_engine.storage.config import CodecConfig, SeanetConfig

from .rvq import ResidualVQ


def pad_time(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pads x [B, C, N] in time.

    ``reflect`` of a clip not longer than the padding first appends zeros, then cuts as many samples
    off the end (EnCodec's rule).
    """
    if mode == "zero":
        return F.pad(x, (left, right))
    short = torch.sym_max(
        0, torch.sym_max(left, right) - x.shape[-1] + 1
    )  # sym_max: lengths are symbolic during export
    y = F.pad(F.pad(x, (0, short)), (left, right), mode="reflect")
    return y[..., : y.shape[-1] - short]


class Conv(nn.Module):
    """Convolution that pads its own input so that N samples give ceil(N / stride)."""

    def __init__(
        self,
        c: SeanetConfig,
        dim_in: int,
        dim_out: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.causal, self.pad_mode = c.causal, c.pad_mode
        self.stride, self.dilation = stride, dilation
        self.span = (kernel - 1) * dilation + 1
        bound = 1 / math.sqrt(dim_in * kernel)
        self.weight = nn.Parameter(torch.empty(dim_out, dim_in, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim_out).uniform_(-bound, bound))
        self.norm = nn.GroupNorm(1, dim_out) if c.norm == "group" else nn.Identity()

    def padding(self, length: int) -> tuple[int, int]:
        """(left, right) for an input of ``length`` samples; right includes the rest of the last
        stride.
        """
        total = self.span - self.stride
        extra = (
            length + self.stride - 1
        ) // self.stride * self.stride - length  # no negative numbers: ONNX divides towards 0
        right = 0 if self.causal else total // 2
        return total - right, right + extra

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, C', ceil(N / stride)]."""
        x = pad_time(x, *self.padding(x.shape[-1]), self.pad_mode)
        return self.norm(
            F.conv1d(x, self.weight, self.bias, stride=self.stride, dilation=self.dilation)
        )


class Upsample(nn.Module):
    """Transposed convolution of kernel 2 x stride, trimmed to stride x N samples."""

    def __init__(self, c: SeanetConfig, dim_in: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.trim_right = math.ceil(stride * c.trim_right_ratio) if c.causal else stride // 2
        bound = 1 / math.sqrt(dim_out * 2 * stride)
        self.weight = nn.Parameter(torch.empty(dim_in, dim_out, 2 * stride).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim_out).uniform_(-bound, bound))
        self.norm = nn.GroupNorm(1, dim_out) if c.norm == "group" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, C', stride * N]."""
        y = self.norm(F.conv_transpose1d(x, self.weight, self.bias, stride=self.stride))
        return y[..., self.stride - self.trim_right : y.shape[-1] - self.trim_right]


class ResidualBlock(nn.Module):
    """shortcut(x) + second(elu(first(elu(x)))); the first convolution is dilated, the second
    pointwise.
    """

    def __init__(self, c: SeanetConfig, width: int, dilation: int) -> None:
        super().__init__()
        hidden = width // c.compress
        self.first = Conv(c, width, hidden, c.residual_kernel_size, dilation=dilation)
        self.second = Conv(c, hidden, width, 1)
        self.shortcut = Conv(c, width, width, 1) if c.conv_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(F.elu(self.first(F.elu(x))))


class SkipLSTM(nn.LSTM):
    """lstm(x) + x over x [B, C, N]; always causal."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = x.permute(2, 0, 1)
        return (super().forward(y)[0] + y).permute(1, 2, 0)


def _blocks(c: SeanetConfig, width: int) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualBlock(c, width, c.dilation_base**j) for j in range(c.residual_layers)
    )


class EncoderStage(nn.Module):
    def __init__(self, c: SeanetConfig, width: int, ratio: int) -> None:
        super().__init__()
        self.blocks = _blocks(c, width)
        self.down = Conv(c, width, 2 * width, 2 * ratio, stride=ratio)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.down(F.elu(x))


class DecoderStage(nn.Module):
    def __init__(self, c: SeanetConfig, width: int, ratio: int) -> None:
        super().__init__()
        self.up = Upsample(c, width, width // 2, ratio)
        self.blocks = _blocks(c, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.elu(x))
        for block in self.blocks:
            x = block(x)
        return x


class SeanetEncoder(nn.Module):
    def __init__(self, c: SeanetConfig, dim: int) -> None:
        super().__init__()
        width = c.filters
        self.input = Conv(c, c.channels, width, c.kernel_size)
        self.stages = nn.ModuleList()
        for ratio in reversed(c.ratios):
            self.stages.append(EncoderStage(c, width, ratio))
            width *= 2
        self.lstm = SkipLSTM(width, width, c.lstm_layers) if c.lstm_layers else nn.Identity()
        self.output = Conv(c, width, dim, c.last_kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, E, T]."""
        x = self.input(x)
        for stage in self.stages:
            x = stage(x)
        return self.output(F.elu(self.lstm(x)))


class SeanetDecoder(nn.Module):
    def __init__(self, c: SeanetConfig, dim: int) -> None:
        super().__init__()
        width = c.filters << len(c.ratios)
        self.input = Conv(c, dim, width, c.kernel_size)
        self.lstm = SkipLSTM(width, width, c.lstm_layers) if c.lstm_layers else nn.Identity()
        self.stages = nn.ModuleList()
        for ratio in c.ratios:
            self.stages.append(DecoderStage(c, width, ratio))
            width //= 2
        self.output = Conv(c, width, c.channels, c.last_kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, E, T] -> [B, C, T * frame_size]."""
        x = self.lstm(self.input(x))
        for stage in self.stages:
            x = stage(x)
        return self.output(F.elu(x))


class SeanetCodec(nn.Module):
    """``encode`` [B, N] or [B, C, N] -> codes [B, K, T]; ``decode`` codes [B, K', T] -> [B, N]
    (mono) or [B, C, N].

    With ``chunk_size`` each chunk is a separate clip (T: their frames, concatenated), and decoded
    chunks are joined by linear cross-fades. With ``normalize`` each chunk is divided by its
    loudness:
    ``encode_scaled`` returns it and ``decode`` needs it. ``latent`` and ``synthesize``, for
    training, process a single chunk without loudness.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        config.check()
        assert config.seanet is not None
        self.config = config
        self.seanet = config.seanet
        self.encoder = SeanetEncoder(config.seanet, config.codebook_dim)
        self.quantizer = ResidualVQ(config.num_codebooks, config.codebook_size, config.codebook_dim)
        self.decoder = SeanetDecoder(config.seanet, config.codebook_dim)

    def latent(self, samples: Tensor) -> Tensor:
        """samples [B, N] or [B, C, N] -> [B, E, ceil(N / frame_size)], before quantization."""
        x = samples[:, None] if samples.ndim == 2 else samples
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], self.config.codebook_dim, 0)
        return self.encoder(x)

    def chunks(self, samples: Tensor) -> list[Tensor]:
        """samples [B, N] or [B, C, N] -> chunks [B, C, chunk_size], one per stride; the clip is
        zero-padded.
        """
        x = samples[:, None] if samples.ndim == 2 else samples
        size, stride = self.config.chunk
        if not size:
            return [x] if x.shape[-1] else []
        pieces = [x[..., at : at + size] for at in range(0, x.shape[-1], stride)]
        return [F.pad(p, (0, size - p.shape[-1])) for p in pieces]

    @torch.no_grad()
    def encode(self, samples: Tensor, num_codebooks: int | None = None) -> Tensor:
        assert not self.seanet.normalize, "codes need their loudness; use encode_scaled"
        return self.encode_scaled(samples, num_codebooks)[0]

    @torch.no_grad()
    def encode_scaled(
        self, samples: Tensor, num_codebooks: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """(codes [B, K, T], scales [B, chunks]); scales are [B, 0] without ``normalize``."""
        codes, scales = (
            [
                samples.new_zeros(
                    samples.shape[0], num_codebooks or self.config.num_codebooks, 0
                ).long()
            ],
            [],
        )
        for x in self.chunks(samples):
            if self.seanet.normalize:
                scale = x.mean(1).square().mean(-1).sqrt() + 1e-8
                x = x / scale[:, None, None]
                scales.append(scale)
            codes.append(self.quantizer.encode(self.latent(x), num_codebooks))
        return torch.cat(codes, -1), torch.stack(scales, -1) if scales else samples.new_zeros(
            samples.shape[0], 0
        )

    def decode(self, codes: Tensor, scales: Tensor | None = None) -> Tensor:
        """codes [B, K', T] and scales [B, chunks] -> samples of all T frames.

        A clip of N samples is the first N of them. Raises ValueError for scales of another shape.
        """
        size, stride = self.config.chunk
        frames = -(-size // self.config.frame_size) or max(codes.shape[-1], 1)
        parts = [
            self.synthesize(self.quantizer.decode(c))
            for c in codes.split(frames, -1)
            if c.shape[-1]
        ]
        wanted = len(parts) if self.seanet.normalize else 0
        if (0 if scales is None else scales.shape[-1]) != wanted:
            raise ValueError(
                f"scales: expected [B, {wanted}], got "
                f"{None if scales is None else list(scales.shape)}"
            )
        if scales is not None and wanted:
            parts = [
                p * s.reshape(-1, *[1] * (p.ndim - 1))
                for p, s in zip(parts, scales.unbind(-1), strict=True)
            ]
        if not parts:
            return self.synthesize(
                codes.new_zeros(
                    codes.shape[0],
                    self.config.codebook_dim,
                    0,
                    dtype=self.quantizer.codebooks.dtype,
                )
            )
        return overlap_add(parts, stride) if size else parts[0]

    def synthesize(self, z: Tensor) -> Tensor:
        """Quantized latents [B, E, T] -> samples [B, T * frame_size] (mono) or [B, C, T *
        frame_size].
        """
        if z.shape[-1] == 0:
            y = z.new_zeros(z.shape[0], self.seanet.channels, 0)
        else:
            y = self.decoder(z)
        return y[:, 0] if self.seanet.channels == 1 else y


def overlap_add(parts: list[Tensor], stride: int) -> Tensor:
    """Joins chunks [..., n], one every ``stride`` samples.

    Weights are a triangle over the length of the first chunk, normalised by their sum (EnCodec's
    linear cross-fade).
    """
    n = parts[0].shape[-1]
    weight = (
        0.5
        - (
            torch.linspace(0, 1, n + 2, dtype=parts[0].dtype, device=parts[0].device)[1:-1] - 0.5
        ).abs()
    )
    total = max(i * stride + p.shape[-1] for i, p in enumerate(parts))
    out, weights = parts[0].new_zeros(*parts[0].shape[:-1], total), parts[0].new_zeros(total)
    for i, p in enumerate(parts):
        at = slice(i * stride, i * stride + p.shape[-1])
        out[..., at] += weight[: p.shape[-1]] * p
        weights[at] += weight[: p.shape[-1]]
    return out / weights
