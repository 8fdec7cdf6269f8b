"""Codecs as graphs: whole clips, and the decoder one frame at a time with its state explicit.

K codebooks, T frames, N samples, H samples a frame (``frame_size``).  Transforms are products with cosines and sines, since no runtime has to
know a Fourier transform then; overlap-add and the inverse transform are one transposed convolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.rvq import ResidualVQ
from ..models.seanet import SeanetCodec
from ..models.spectral import ENVELOPE_FLOOR, MAX_LOG_GAIN, ConvNeXtBlock, SpectralCodec


def dft(window: int) -> tuple[Tensor, Tensor]:
    """cos and -sin [bins, window] of the real transform, in float32 from float64."""
    angle = 2 * math.pi / window * (torch.arange(window // 2 + 1, dtype=torch.float64)[:, None] * torch.arange(window, dtype=torch.float64) % window)
    return angle.cos(), -angle.sin()


class Quantize(nn.Module):
    """z [T, E] -> codes int64 [K, T]: nearest codeword of each stage, lowest index on ties."""

    def __init__(self, rvq: ResidualVQ) -> None:
        super().__init__()
        self.register_buffer("books", rvq.codebooks.detach().clone())

    def forward(self, z: Tensor) -> Tensor:
        codes = []
        for book in self.books:  # type: ignore[union-attr]
            score = -(z.square().sum(1, keepdim=True) - 2 * z @ book.T + book.square().sum(1))
            codes.append(score.argmax(1))
            z = z - book[codes[-1]]
        return torch.stack(codes)


class Dequantize(nn.Module):
    """codes int64 [K, T], -1 for codebooks that are left out -> z [T, E]."""

    def __init__(self, rvq: ResidualVQ) -> None:
        super().__init__()
        self.register_buffer("books", rvq.codebooks.detach().clone())

    def forward(self, codes: Tensor) -> Tensor:
        z = torch.zeros(codes.shape[1], self.books.shape[2])  # type: ignore[index]
        for k, book in enumerate(self.books):  # type: ignore[arg-type]
            z = z + torch.where((codes[k] >= 0)[:, None], book[codes[k].clamp(min=0)], 0.0)
        return z


class SpectralEncoder(nn.Module):
    """``samples`` float [N], N a multiple of H -> ``codes`` int64 [K, T].  Causal: frame t knows no sample from (t + 1) H on."""

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__()
        c = codec.spectral
        self.codec_encoder, self.quantize = codec.encoder, Quantize(codec.quantizer)
        self.window, self.sub, self.phases, self.floor = c.encoder_window, c.encoder_subframes, c.encoder_phases, c.log_floor
        self.hop = codec.config.frame_size // self.sub
        cos, sin = dft(self.window)
        shape = codec.encoder_window.double() * 4.0 / self.window
        self.register_buffer("transform", (torch.cat((cos, sin)) * shape).float()[:, None])  # [2 bins, 1, W]

    def forward(self, samples: Tensor) -> Tensor:
        x = F.pad(samples[None, None], (self.window - self.hop, 0))
        spectrum = F.conv1d(x, self.transform, stride=self.hop)[0].T  # [windows, 2 bins]
        re, im = spectrum.chunk(2, dim=1)
        floored = (re.square() + im.square()).sqrt() + self.floor
        features = 0.25 * floored.log() + 1.25
        if self.phases:
            scale = 8 / floored.sqrt()
            features = torch.cat((features, re * scale, im * scale), dim=1)
        z = self.codec_encoder(features.reshape(1, -1, self.sub * features.shape[1]))
        return self.quantize(z[0])


class Synthesis(nn.Module):
    """What a head says of the windows [T sub, 3, bins] -> their samples, overlapped and added: [(windows - 1) hop + W]."""

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__()
        c = codec.spectral
        self.bins, self.window, self.hop = c.decoder_window // 2 + 1, c.decoder_window, codec.config.frame_size // c.decoder_subframes
        cos, sin = dft(self.window)
        twice = torch.full((self.bins, 1), 2.0, dtype=torch.float64)
        twice[0] = 1
        if self.window % 2 == 0:
            twice[-1] = 1
        inverse = torch.cat((cos * twice, sin * twice)) / self.window * codec.decoder_window.double()
        self.register_buffer("inverse", inverse.float()[:, None])  # [2 bins, 1, W]
        self.register_buffer("squares", codec.decoder_window.square()[None, None])
        self.steady = float(codec.decoder_window.square().sum() / self.hop)

    def forward(self, y: Tensor) -> Tensor:
        y = y.reshape(-1, 3, self.bins)
        gain = y[:, 0].clamp(max=MAX_LOG_GAIN).exp()
        spectrum = torch.cat((gain * y[:, 1], gain * y[:, 2]), dim=1).T[None]
        return F.conv_transpose1d(spectrum, self.inverse, stride=self.hop)[0, 0]


class SpectralDecoder(nn.Module):
    """``codes`` int64 [K, T] (-1: left out) -> ``samples`` float [T H]."""

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__()
        self.dequantize, self.codec_decoder, self.synthesis = Dequantize(codec.quantizer), codec.decoder, Synthesis(codec)
        self.sub = codec.spectral.decoder_subframes

    def forward(self, codes: Tensor) -> Tensor:
        s = self.synthesis
        added = s(self.codec_decoder(self.dequantize(codes)[None])[0])
        windows = torch.ones(1, 1, codes.shape[1] * self.sub)
        envelope = F.conv_transpose1d(windows, s.squares, stride=s.hop)[0, 0].clamp(min=ENVELOPE_FLOOR * s.steady)
        return (added / envelope)[s.window - s.hop :]


class SpectralDecoderStep(nn.Module):
    """One frame of the same: ``codes`` int64 [K, 1]; ``past_i`` float [kernel - 1, width] of each block's convolution and ``overlap`` [W - hop],
    zeros at the start.  Outputs: ``samples`` [H], which are W - hop samples late (so many of a clip's first ones are not part of it);
    ``tail`` [W - hop], what follows them if the clip ends here; the state."""

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__()
        self.dequantize, self.net, self.synthesis = Dequantize(codec.quantizer), codec.decoder, Synthesis(codec)
        self.sub, self.size = codec.spectral.decoder_subframes, codec.config.frame_size
        s = self.synthesis
        rest = s.window - s.hop
        envelope = F.conv_transpose1d(torch.ones(1, 1, -(-s.window // s.hop)), s.squares, stride=s.hop)[0, 0]
        self.register_buffer("ending", envelope[-rest:].clamp(min=ENVELOPE_FLOOR * s.steady))
        begin = -(-s.window // s.hop) * s.hop  # away from a clip's ends the sum of squared windows repeats itself each hop
        long = F.conv_transpose1d(torch.ones(1, 1, 2 * begin // s.hop + 1), s.squares, stride=s.hop)[0, 0]
        self.register_buffer("meeting", long[begin : begin + s.hop].clamp(min=ENVELOPE_FLOOR * s.steady).repeat(self.sub))

    @property
    def state_shapes(self) -> list[tuple[int, ...]]:
        block: ConvNeXtBlock = self.net.blocks[0]  # type: ignore[assignment]
        return [(block.pad, block.depthwise.weight.shape[0])] * len(self.net.blocks) + [(self.synthesis.window - self.synthesis.hop,)]

    def forward(self, codes: Tensor, state: list[Tensor]) -> tuple[Tensor, ...]:
        s = self.synthesis
        x = self.net.input_norm(self.net.input(self.dequantize(codes)))  # [1, D]
        out = []
        for block, past in zip(self.net.blocks, state[:-1], strict=True):
            seen = torch.cat((past, x))  # [kernel, D]
            out.append(seen[1:])
            y = F.conv1d(seen.T[None], block.depthwise.weight, block.depthwise.bias, groups=x.shape[1])[0].T  # type: ignore[union-attr,arg-type]
            x = x + block.down(F.gelu(block.up(block.norm(y))))  # type: ignore[union-attr,operator]
        added = s(self.net.output(self.net.norm(x)))  # [(sub - 1) hop + W] = H + W - hop
        rest = s.window - s.hop
        added = added + F.pad(state[-1], (0, self.size))
        samples, overlap = added[: self.size], added[self.size : self.size + rest]
        return (samples / self.meeting, overlap / self.ending, *out, overlap)


class SeanetEncoderGraph(nn.Module):
    """``samples`` float [N] -> ``codes`` int64 [K, ceil(N / H)]; N at least the longest padding (one frame is enough)."""

    def __init__(self, codec: SeanetCodec) -> None:
        super().__init__()
        self.codec_encoder, self.quantize = codec.encoder, Quantize(codec.quantizer)

    def forward(self, samples: Tensor) -> Tensor:
        return self.quantize(self.codec_encoder(samples[None, None])[0].T)


class SeanetDecoderGraph(nn.Module):
    """``codes`` int64 [K, T] (-1: left out) -> ``samples`` float [T H]."""

    def __init__(self, codec: SeanetCodec) -> None:
        super().__init__()
        self.codec_decoder, self.dequantize = codec.decoder, Dequantize(codec.quantizer)

    def forward(self, codes: Tensor) -> Tensor:
        return self.codec_decoder(self.dequantize(codes).T[None])[0, 0]
