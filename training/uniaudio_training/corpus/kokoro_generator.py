"""Kokoro's waveform generator (ISTFTNet, arXiv 2203.02395, with snakes and styles) run by torch.

Taken out of the ONNX graph, because the teacher spends most of its time in its convolutions, and
ONNX Runtime has no bfloat16 ones for a CPU.  With them, channels-last, one busy core with AMX makes
2.8 to 3.3 s of speech in a second; ONNX Runtime in int8 made 1.4 s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_GRAPH, _WEIGHTS = "/decoder/decoder/generator/", "decoder.decoder.generator."
_DILATIONS = (1, 3, 5)
_UPSAMPLING = ((10, 20), (6, 12))  # stride, kernel
_WINDOW, _HOP = 20, 5  # of the last step, an inverse STFT


def prune(graph: Any) -> None:
    """Takes out of an ``onnx.GraphProto`` what none of its outputs needs."""
    while True:
        used = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
        dead = [n for n in graph.node if not any(o in used for o in n.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


@dataclass(frozen=True)
class Conv:
    """A convolution over time: weight [out, in, 1, kernel], bias [out], of one dtype."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, dilation: int = 1) -> Tensor:
        """x [1, in, 1, T] -> float32 [1, out, 1, T]."""
        reach = (self.weight.shape[3] - 1) * dilation // 2
        x = x.to(self.weight.dtype)
        return F.conv2d(
            x, self.weight, self.bias, padding=(0, reach), dilation=(1, dilation)
        ).float()


def styled_snake(x: Tensor, style: Tensor, alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """x [1, C, 1, T] normalized over time, with the style's gains and offsets [1, 2 C]; then
    y + sin^2(alpha y) / alpha, alpha [1, C, 1, 1], in ``dtype``."""
    gain, offset = style.view(2, -1)
    y = torch.batch_norm(x, 1 + gain, offset, None, None, True, 0.0, 1e-5, False).to(dtype)
    alpha = alpha.to(dtype)
    return torch.addcmul(y, (y * alpha).sin_().square_(), 1 / alpha)


@dataclass(frozen=True)
class Block:
    """A residual block: three pairs of styled snakes and convolutions, the first of each dilated."""

    convs: Sequence[tuple[Conv, Conv]]
    alphas: Sequence[tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor, styles: Sequence[Tensor]) -> Tensor:
        """float32 x [1, C, 1, T], six styles [1, 2 C] -> float32 [1, C, 1, T]."""
        for i, ((one, two), (a, b)) in enumerate(zip(self.convs, self.alphas, strict=True)):
            dtype = one.weight.dtype
            y = one(styled_snake(x, styles[2 * i], a, dtype), _DILATIONS[i])
            x = x + two(styled_snake(y, styles[2 * i + 1], b, dtype))
        return x


class Generator:
    """Reads its weights from the graph.  ``inputs`` names the tensors that the rest of the graph
    must give it."""

    def __init__(self, graph: Any, dtype: torch.dtype) -> None:
        from onnx import numpy_helper

        self.dtype = dtype
        stored = {i.name: i for i in graph.initializer}
        made = {o: n for n in graph.node for o in n.output}
        users: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)

        def array(name: str) -> Tensor:
            return torch.from_numpy(numpy_helper.to_array(stored[name]).astype(np.float32))

        def conv(name: str) -> Conv:
            """int8 weights times their scale: the sum, with the bias, is cast, then scaled."""
            quantized = made.get(f"{_GRAPH}{name}/Conv_output_0_output_quantized")
            if quantized is None:
                weight = array(made[f"{_GRAPH}{name}/Conv_output_0"].input[1])
            else:
                (after,) = users[quantized.output[0]]
                if after.op_type == "Add":
                    (after,) = users[after.output[0]]
                (scaled,) = users[after.output[0]]
                scale = array(made[scaled.input[1]].input[1])
                weight = (array(quantized.input[1]) - array(quantized.input[3])) * scale
            weight = weight.unsqueeze(2).to(dtype, memory_format=torch.channels_last)
            return Conv(weight, array(_WEIGHTS + name.replace("/", ".") + ".bias").to(dtype))

        def block(name: str) -> Block:
            return Block(
                [(conv(f"{name}/convs1.{j}"), conv(f"{name}/convs2.{j}")) for j in range(3)],
                [
                    (
                        array(f"{_WEIGHTS}{name}.alpha1.{j}").unsqueeze(2),
                        array(f"{_WEIGHTS}{name}.alpha2.{j}").unsqueeze(2),
                    )
                    for j in range(3)
                ],
            )

        names = [*(f"noise_res.{i}" for i in range(2)), *(f"resblocks.{i}" for i in range(6))]
        self.blocks = {name: block(name) for name in names}
        self.styles = {
            name: [
                f"{_GRAPH}{name}/adain{half}.{j}/fc/Gemm_output_0"
                for j in range(3)
                for half in (1, 2)
            ]
            for name in names
        }
        self.noise = [conv(f"noise_convs.{i}") for i in range(2)]
        ups = [made[f"{_GRAPH}ups.{i}/ConvTranspose_output_0"] for i in range(2)]
        self.ups = [(array(n.input[1]).to(dtype), array(n.input[2]).to(dtype)) for n in ups]
        self.post = conv("conv_post")
        self.window = array(f"{_GRAPH}Constant_17_output_0")
        self.basis = array(f"{_WEIGHTS}stft.istft.stft.inverse_basis")
        self.envelope = array(f"{_WEIGHTS}stft.istft.stft.window_sum")
        self._features = str(made[f"{_GRAPH}LeakyRelu_output_0"].input[0])
        self._source = f"{_GRAPH}Reshape_3_output_0"
        self.inputs = [self._features, self._source, *(s for v in self.styles.values() for s in v)]

    @torch.inference_mode()
    def __call__(self, found: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """The tensors that ``inputs`` names -> float32 [N] at 24 kHz."""
        given = {name: torch.from_numpy(found[name]) for name in self.inputs}

        def block(name: str, x: Tensor) -> Tensor:
            return self.blocks[name](x, [given[s] for s in self.styles[name]])

        source = torch.stft(
            given[self._source].view(1, -1),
            _WINDOW,
            _HOP,
            window=self.window,
            center=False,
            return_complex=True,
        )
        excitation = _last(torch.cat((source.abs(), source.angle()), 1)).to(self.dtype)
        x = _last(given[self._features])
        for i, (stride, kernel) in enumerate(_UPSAMPLING):
            x = F.leaky_relu(x, 0.1).to(self.dtype).squeeze(2)
            x = F.conv_transpose1d(x, *self.ups[i], stride=stride, padding=(kernel - stride) // 2)
            if i == 1:
                x = F.pad(x, (1, 0), mode="reflect")
            every = (1, 6) if i == 0 else (1, 1)
            noise = F.conv2d(
                excitation,
                self.noise[i].weight,
                self.noise[i].bias,
                stride=every,
                padding=(0, every[1] // 2),
            )
            x = _last(x.float()) + block(f"noise_res.{i}", noise.float())
            x = torch.stack([block(f"resblocks.{3 * i + j}", x) for j in range(3)]).mean(0)
        x = self.post(F.leaky_relu(x, 0.01)).squeeze(2)
        size, phase = x.chunk(2, dim=1)
        size, phase = size.exp(), phase.sin()
        spectrum = torch.cat((size * phase.cos(), size * phase.sin()), 1)
        y = F.conv_transpose1d(spectrum, self.basis, stride=_HOP)[0, 0]
        whole = self.envelope > torch.finfo(torch.float32).tiny
        y[: len(whole)][whole] /= self.envelope[whole]
        return (y * (_WINDOW / _HOP))[_WINDOW // 2 : -_WINDOW // 2].numpy()


def _last(x: Tensor) -> Tensor:
    """[1, C, T] -> [1, C, 1, T] with its channels last in memory."""
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
