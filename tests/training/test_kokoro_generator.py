"""The teacher's generator in torch: its blocks against their formulas, and what is left of the graph."""

import math

import pytest
import torch
from uniaudio_training.corpus.kokoro_generator import Block, Conv, prune, styled_snake


def snake(x, style, alpha):
    gain, offset = style.view(2, 1, -1, 1, 1)
    y = (x - x.mean(3, keepdim=True)) / (x.var(3, correction=0, keepdim=True) + 1e-5).sqrt()
    y = (1 + gain) * y + offset
    return y + (alpha * y).sin() ** 2 / alpha


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4 * 2**-8)]
)
def test_a_block_is_its_formula(dtype, tolerance):
    torch.manual_seed(0)
    channels, frames = 6, 40
    x = torch.randn(1, channels, 1, frames) * 3 + 1
    styles = [torch.randn(1, 2 * channels) * 0.3 for _ in range(6)]
    alphas = [tuple(torch.rand(1, channels, 1, 1) + 0.5 for _ in range(2)) for _ in range(3)]
    weights = [
        [torch.randn(channels, channels, 1, 3) / math.sqrt(3 * channels) for _ in range(2)]
        for _ in range(3)
    ]
    bias = torch.randn(channels)
    expected = x
    for i, dilation in enumerate((1, 3, 5)):
        y = snake(expected, styles[2 * i], alphas[i][0])
        y = torch.conv1d(y[:, :, 0], weights[i][0][:, :, 0], bias, 1, dilation, dilation)
        y = snake(y[:, :, None], styles[2 * i + 1], alphas[i][1])
        y = torch.conv1d(y[:, :, 0], weights[i][1][:, :, 0], bias, 1, 1)
        expected = expected + y[:, :, None]
    convs = [tuple(Conv(last(w).to(dtype), bias.to(dtype)) for w in pair) for pair in weights]
    found = Block(convs, alphas)(last(x), styles)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < tolerance


def test_a_style_of_nothing_normalizes():
    x = last(torch.randn(1, 3, 1, 500) * 7 + 5)
    y = styled_snake(x, torch.zeros(1, 6), torch.full((1, 3, 1, 1), 1e-3), torch.float32)
    assert torch.allclose(y.mean(3), torch.zeros(1, 3, 1), atol=0.01)
    assert torch.allclose(y.std(3), torch.ones(1, 3, 1), atol=0.01)


def test_pruning_keeps_what_outputs_need():
    onnx = pytest.importorskip("onnx")
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    floats = onnx.TensorProto.FLOAT
    weight = [onnx.helper.make_tensor(n, floats, [1], [1.0]) for n in ("w", "unused")]
    graph = onnx.helper.make_graph(
        [
            node("Add", ["x", "w"], ["a"]),
            node("Mul", ["a", "unused"], ["b"]),
            node("Neg", ["b"], ["c"]),
        ],
        "g",
        [value("x", floats, [1])],
        [value("a", floats, [1])],
        weight,
    )
    prune(graph)
    assert [n.op_type for n in graph.node] == ["Add"]
    assert [i.name for i in graph.initializer] == ["w"]
