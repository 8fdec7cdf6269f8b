"""Codecs as graphs: whole clips, and a one-frame decoder step with explicit state.

K codebooks, T frames, N samples, H samples per frame (``frame_size``). Transforms are products with
cosines and sines, so that no runtime needs a Fourier operator. The inverse transform and
overlap-add are one transposed convolution.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.rvq import ResidualVQ
from ..models.seanet import Conv, SeanetCodec, SkipLSTM, Upsample
from ..models.spectral import ENVELOPE_FLOOR, MAX_LOG_GAIN, SpectralCodec


def dft(window: int) -> tuple[Tensor, Tensor]:
    """cos and -sin [bins, window] of the real DFT, computed in float64, returned as float32."""
    angle = (
        2
        * math.pi
        / window
        * (
            torch.arange(window // 2 + 1, dtype=torch.float64)[:, None]
            * torch.arange(window, dtype=torch.float64)
            % window
        )
    )
    return angle.cos(), -angle.sin()


class Quantize(nn.Module):
    """z [T, E] -> codes int64 [K, T]: the nearest codeword of each stage, lowest index on ties."""

    books: Tensor  # [K, C, E]

    def __init__(self, rvq: ResidualVQ) -> None:
        super().__init__()
        self.register_buffer("books", rvq.codebooks.detach().clone())

    def forward(self, z: Tensor) -> Tensor:
        codes = []
        for book in self.books:
            score = -(z.square().sum(1, keepdim=True) - 2 * z @ book.T + book.square().sum(1))
            codes.append(score.argmax(1))
            z = z - book[codes[-1]]
        return torch.stack(codes)


class Dequantize(nn.Module):
    """codes int64 [K, T], -1 for unused codebooks -> z [T, E]."""

    books: Tensor  # [K, C, E]

    def __init__(self, rvq: ResidualVQ) -> None:
        super().__init__()
        self.register_buffer("books", rvq.codebooks.detach().clone())

    def forward(self, codes: Tensor) -> Tensor:
        z = torch.zeros(codes.shape[1], self.books.shape[2])
        for k, book in enumerate(self.books):
            z = z + torch.where((codes[k] >= 0)[:, None], book[codes[k].clamp(min=0)], 0.0)
        return z


class SpectralEncoder(nn.Module):
    """``samples`` float [N], N a multiple of H -> ``codes`` int64 [K, T].

    Causal: frame t depends on samples before (t + 1) H only.
    """

    transform: Tensor  # [2 bins, 1, W]

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__()
        c = codec.spectral
        self.codec_encoder, self.quantize = codec.encoder, Quantize(codec.quantizer)
        self.window, self.sub, self.phases, self.floor = (
            c.encoder_window,
            c.encoder_subframes,
            c.encoder_phases,
            c.log_floor,
        )
        self.hop = codec.config.frame_size // self.sub
        cos, sin = dft(self.window)
        shape = codec.encoder_window.double() * 4.0 / self.window
        self.register_buffer(
            "transform", (torch.cat((cos, sin)) * shape).float()[:, None]
        )  # [2 bins, 1, W]

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
    """The outputs of a head [T sub, 3, bins] -> overlap-added samples [(windows - 1) hop + W]."""

    inverse: Tensor  # [2 bins, 1, W]
    squares: Tensor  # [1, 1, W]: of the window

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__()
        c = codec.spectral
        self.bins, self.window, self.hop = (
            c.decoder_window // 2 + 1,
            c.decoder_window,
            codec.config.frame_size // c.decoder_subframes,
        )
        cos, sin = dft(self.window)
        twice = torch.full((self.bins, 1), 2.0, dtype=torch.float64)
        twice[0] = 1
        if self.window % 2 == 0:
            twice[-1] = 1
        inverse = (
            torch.cat((cos * twice, sin * twice)) / self.window * codec.decoder_window.double()
        )
        self.register_buffer("inverse", inverse.float()[:, None])  # [2 bins, 1, W]
        self.register_buffer("squares", codec.decoder_window.square()[None, None])
        self.steady = float(codec.decoder_window.square().sum() / self.hop)

    def forward(self, y: Tensor) -> Tensor:
        y = y.reshape(-1, 3, self.bins)
        gain = y[:, 0].clamp(max=MAX_LOG_GAIN).exp()
        spectrum = torch.cat((gain * y[:, 1], gain * y[:, 2]), dim=1).T[None]
        return F.conv_transpose1d(spectrum, self.inverse, stride=self.hop)[0, 0]


class SpectralDecoder(nn.Module):
    """``codes`` int64 [K, T] (-1: unused) -> ``samples`` float [T H]."""

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__()
        self.dequantize, self.codec_decoder, self.synthesis = (
            Dequantize(codec.quantizer),
            codec.decoder,
            Synthesis(codec),
        )
        self.sub = codec.spectral.decoder_subframes

    def forward(self, codes: Tensor) -> Tensor:
        s = self.synthesis
        added = s(self.codec_decoder(self.dequantize(codes)[None])[0])
        windows = torch.ones(1, 1, codes.shape[1] * self.sub)
        envelope = F.conv_transpose1d(windows, s.squares, stride=s.hop)[0, 0].clamp(
            min=ENVELOPE_FLOOR * s.steady
        )
        return (added / envelope)[s.window - s.hop :]


class SpectralDecoderStep(nn.Module):
    """One frame of :class:`SpectralDecoder`.

    Inputs: ``codes`` int64 [K, 1] and the state, zeros at the start: ``past_i`` float [kernel - 1,
    width] of each block's convolution, ``overlap`` [W - hop].
    Outputs: ``samples`` [H], delayed by W - hop samples (discard as many at the start of a clip);
    ``tail`` [W - hop], the samples that follow if the clip ends here; the state.
    """

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__()
        self.dequantize, self.net, self.synthesis = (
            Dequantize(codec.quantizer),
            codec.decoder,
            Synthesis(codec),
        )
        self.sub, self.size = codec.spectral.decoder_subframes, codec.config.frame_size
        s = self.synthesis
        rest = s.window - s.hop
        envelope = F.conv_transpose1d(
            torch.ones(1, 1, -(-s.window // s.hop)), s.squares, stride=s.hop
        )[0, 0]
        self.register_buffer("ending", envelope[-rest:].clamp(min=ENVELOPE_FLOOR * s.steady))
        begin = (
            -(-s.window // s.hop) * s.hop
        )  # away from the ends the sum of squared windows is periodic with the hop
        long = F.conv_transpose1d(
            torch.ones(1, 1, 2 * begin // s.hop + 1), s.squares, stride=s.hop
        )[0, 0]
        self.register_buffer(
            "meeting",
            long[begin : begin + s.hop].clamp(min=ENVELOPE_FLOOR * s.steady).repeat(self.sub),
        )

    @property
    def state_shapes(self) -> list[tuple[int, ...]]:
        block = self.net.each_block()[0]
        return [(block.pad, block.depthwise.weight.shape[0])] * len(self.net.blocks) + [
            (self.synthesis.window - self.synthesis.hop,)
        ]

    def forward(self, codes: Tensor, state: list[Tensor]) -> tuple[Tensor, ...]:
        s = self.synthesis
        x = self.net.input_norm(self.net.input(self.dequantize(codes)))  # [1, D]
        out = []
        for block, past in zip(self.net.each_block(), state[:-1], strict=True):
            seen = torch.cat((past, x))  # [kernel, D]
            out.append(seen[1:])
            y = F.conv1d(
                seen.T[None], block.depthwise.weight, block.depthwise.bias, groups=x.shape[1]
            )[0].T
            x = x + block.down(F.gelu(block.up(block.norm(y))))
        added = s(self.net.output(self.net.norm(x)))  # [(sub - 1) hop + W] = H + W - hop
        rest = s.window - s.hop
        added = added + F.pad(state[-1], (0, self.size))
        samples, overlap = added[: self.size], added[self.size : self.size + rest]
        return (samples / self.meeting, overlap / self.ending, *out, overlap)


class WholeLSTM(nn.Module):
    """A SkipLSTM that exports to ONNX's LSTM operator, one node per layer.

    The exporter would unroll it over a length that is unknown.
    """

    def __init__(self, lstm: SkipLSTM) -> None:
        super().__init__()
        self.hidden, self.layers = lstm.hidden_size, lstm.num_layers
        for i in range(lstm.num_layers):
            ih, hh, bi, bh = (
                getattr(lstm, f"{n}_l{i}").detach()
                for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            order = [
                torch.cat([x.chunk(4)[g] for g in (0, 3, 1, 2)]) for x in (ih, hh, bi, bh)
            ]  # gates i f g o -> i o f g
            self.register_buffer(f"w{i}", order[0][None].clone())
            self.register_buffer(f"r{i}", order[1][None].clone())
            self.register_buffer(f"b{i}", torch.cat(order[2:])[None])
        self.plain = lstm

    def forward(self, x: Tensor) -> Tensor:
        """x [1, C, N]."""
        if not torch.compiler.is_exporting():
            return self.plain(x)
        y = x.permute(2, 0, 1)
        for i in range(self.layers):
            weights = (getattr(self, f"{n}{i}") for n in "wrb")
            y = torch.onnx.ops.symbolic(
                "LSTM",
                (y, *weights),
                {"hidden_size": self.hidden},
                dtype=y.dtype,
                shape=(y.shape[0], 1, 1, self.hidden),
            )[:, 0]
        return (y + x.permute(2, 0, 1)).permute(1, 2, 0)


def with_whole_lstm(part: nn.Module) -> nn.Module:
    part = copy.deepcopy(part)
    if isinstance(part.lstm, SkipLSTM):
        part.lstm = WholeLSTM(part.lstm)
    return part


class SeanetEncoderGraph(nn.Module):
    """``samples`` float [N] -> ``codes`` int64 [K, ceil(N / H)].

    N must be at least the longest padding; one frame is enough.
    """

    def __init__(self, codec: SeanetCodec) -> None:
        super().__init__()
        self.codec_encoder, self.quantize = (
            with_whole_lstm(codec.encoder),
            Quantize(codec.quantizer),
        )

    def forward(self, samples: Tensor) -> Tensor:
        return self.quantize(self.codec_encoder(samples[None, None])[0].T)


class SeanetDecoderGraph(nn.Module):
    """``codes`` int64 [K, T] (-1: unused) -> ``samples`` float [T H]."""

    def __init__(self, codec: SeanetCodec) -> None:
        super().__init__()
        self.codec_decoder, self.dequantize = (
            with_whole_lstm(codec.decoder),
            Dequantize(codec.quantizer),
        )

    def forward(self, codes: Tensor) -> Tensor:
        return self.codec_decoder(self.dequantize(codes).T[None])[0, 0]


UNKNOWN = 1 << 28  # the length of an unfinished clip in frames: 62 days at 20 ms


class SeanetDecoderStep(nn.Module):
    """One frame of :class:`SeanetDecoderGraph`.

    Inputs: ``codes`` int64 [K, 1]; ``position`` int64 [1], the number of frames before it;
    ``length`` int64 [1], the frames of the clip, or UNKNOWN before its last frame; the state, zeros
    at the start. Output: ``samples`` [H], delayed by ``late`` samples. After the last frame,
    further calls (with any codes) return the rest.

    The padding of a convolution depends on the position in the clip. Each convolution knows the
    delay of its signal, so that indices tell mirrored samples from silence. One that mirrors waits
    for as many samples as it mirrors.
    """

    def __init__(self, codec: SeanetCodec) -> None:
        super().__init__()
        self.dequantize, self.net = Dequantize(codec.quantizer), codec.decoder
        self.state_shapes: list[tuple[int, ...]] = []
        with torch.no_grad():  # a dry run finds the shapes of the state and the delay
            self.recording = True
            _, self.late = self._run(
                torch.zeros(codec.config.num_codebooks, 1, dtype=torch.int64),
                torch.zeros(1, dtype=torch.int64),
                torch.tensor([UNKNOWN]),
                [],
                [],
            )
            self.recording = False

    def forward(
        self, codes: Tensor, position: Tensor, length: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, ...]:
        out: list[Tensor] = []
        samples, _ = self._run(codes, position, length, list(state), out)
        return (samples, *out)

    def _take(self, state: list[Tensor], *shape: int) -> Tensor:
        if self.recording:
            self.state_shapes.append(shape)
            return torch.zeros(shape)
        return state.pop(0)

    def _run(
        self,
        codes: Tensor,
        position: Tensor,
        length: Tensor,
        state: list[Tensor],
        out: list[Tensor],
    ) -> tuple[Tensor, int]:
        x, place = self.dequantize(codes).T, _Place(position, length)
        net = self.net
        x, _ = self._conv(net.input, x, place, state, out, elu=False)
        if isinstance(net.lstm, nn.LSTM):
            x = self._lstm(net.lstm, x, place, state, out)
        for stage in net.stages:
            x = self._up(stage.up, x, place, state, out)  # type: ignore[arg-type]
            for block in stage.blocks:  # type: ignore[union-attr]
                y, same = self._conv(block.first, x, place, state, out, elu=True)
                y = F.conv1d(F.elu(y)[None], block.second.weight, block.second.bias)[0]
                skip = (
                    F.conv1d(same[None], block.shortcut.weight, block.shortcut.bias)[0]
                    if isinstance(block.shortcut, Conv)
                    else same
                )
                x = skip + y
        x, _ = self._conv(net.output, x, place, state, out, elu=True)
        return x[0], place.late

    def _conv(
        self,
        conv: Conv,
        x: Tensor,
        place: _Place,
        state: list[Tensor],
        out: list[Tensor],
        elu: bool,
    ) -> tuple[Tensor, Tensor]:
        """x [C, n] -> (its convolution, x with the same delay)."""
        n, (left, right) = x.shape[1], conv.padding(conv.stride * x.shape[1])
        delay = max(left, right) if conv.pad_mode == "reflect" else right
        if delay + left:
            x = torch.cat((self._take(state, x.shape[0], delay + left), x), dim=1)
            out.append(x[:, n:])
        first = place.position - delay - left  # index of the first sample in x
        place.wait(delay)
        index = first + torch.arange(n + left + right)
        known = place.length
        if conv.pad_mode == "reflect":
            end = torch.clamp(known, min=max(left, right) + 1)
            index = index.abs()
            index = torch.where(index >= end, 2 * (end - 1) - index, index)
        there = (index >= 0) & (index < known)
        window = torch.where(there, x[:, (index - first).clamp(0, x.shape[1] - 1)], 0.0)
        y = F.conv1d(
            (F.elu(window) if elu else window)[None], conv.weight, conv.bias, dilation=conv.dilation
        )[0]
        return y, x[:, left : left + n]

    def _lstm(
        self, lstm: nn.LSTM, x: Tensor, place: _Place, state: list[Tensor], out: list[Tensor]
    ) -> Tensor:
        """x [C, 1]; outside the clip the state does not change."""
        there = (place.position >= 0) & (place.position < place.length)
        y = x[:, 0]
        for i in range(lstm.num_layers):
            h, c = self._take(state, lstm.hidden_size), self._take(state, lstm.hidden_size)
            w = [
                getattr(lstm, f"{name}_l{i}")
                for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
            ]
            take, forget, new, give = (F.linear(y, w[0], w[1]) + F.linear(h, w[2], w[3])).chunk(4)
            cell = forget.sigmoid() * c + take.sigmoid() * new.tanh()
            y = give.sigmoid() * cell.tanh()
            out += [torch.where(there, y, h), torch.where(there, cell, c)]
        return (y + x[:, 0])[:, None]

    def _up(
        self, up: Upsample, x: Tensor, place: _Place, state: list[Tensor], out: list[Tensor]
    ) -> Tensor:
        n, s = x.shape[1], up.stride
        index = place.position + torch.arange(n)
        x = F.elu(torch.where((index >= 0) & (index < place.length), x, 0.0))
        x = torch.cat((self._take(state, x.shape[0], 1), x), dim=1)
        out.append(x[:, -1:])
        place.times(s)
        place.wait(s - up.trim_right)
        return F.conv_transpose1d(x[None], up.weight, up.bias, stride=s)[0, :, s : s + n * s]


class _Place:
    """The position of a signal in its clip: the index of the next sample, the length of the clip,
    and the delay in samples.
    """

    def __init__(self, position: Tensor, length: Tensor) -> None:
        self.position, self.length, self.late = position, length, 0

    def wait(self, samples: int) -> None:
        self.position, self.late = self.position - samples, self.late + samples

    def times(self, factor: int) -> None:
        self.position, self.length, self.late = (
            self.position * factor,
            self.length * factor,
            self.late * factor,
        )
