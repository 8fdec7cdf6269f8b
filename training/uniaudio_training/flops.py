"""Floating-point operations and bytes of the multi-scale LM, counted from its shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from uniaudio_engine.storage.config import LMConfig
from uniaudio_engine.storage.weight_shapes import lm_shapes, matrix_part

from .muon import ITERATIONS, assign_owners

# Dense bfloat16 peak of a GPU in FLOP/s, and its memory in bytes (vendors' data sheets).
PEAKS = {
    "A100": (312e12, 80e9),
    "H100": (989e12, 80e9),
    "H200": (989e12, 141e9),
    "B200": (2250e12, 180e9),
}


@dataclass(frozen=True)
class Counts:
    """Of the forward pass over one frame, at a given context.

    ``products``: FLOPs of products with weights, 2 per multiply-add. ``attention``: of scores and
    weighted sums. ``trained`` counts the backward pass, which has twice as many.
    """

    products: float
    attention: float

    @property
    def forward(self) -> float:
        return self.products + self.attention

    @property
    def trained(self) -> float:
        return 3 * self.forward


def stack_weights(c: LMConfig, stack: Literal["global", "local"]) -> int:
    """Elements of the matrices of a stack's blocks."""
    shapes = lm_shapes(c).items()
    return sum(math.prod(shape) for name, shape in shapes if matrix_part(name) == stack)


def frame_flops(c: LMConfig, head_rows: int, context: float) -> Counts:
    """FLOPs of a training forward pass per frame.

    ``head_rows``: rows of the output head that a slot is scored against. ``context``: frames that
    the global stack attends to, on average. Embeddings, norms and activations are not counted.
    """
    g, low, k = c.global_, c.local, c.num_codebooks
    bridge = math.prod(c.bridge_shape) * (k if c.conditioning == "add" else 1)
    products = stack_weights(c, "global") + bridge
    products += c.local_reads * stack_weights(c, "local") + k * low.width * head_rows
    # scores and sums: 2 x 2 x the queries' width for each position attended to
    seen = g.layers * context * g.query_width + low.layers * k * (k + 1) / 2 * low.query_width
    return Counts(2 * products, 4 * seen)


def parameters(c: LMConfig) -> int:
    """Elements of all weights of ``MultiScaleLM``."""
    return sum(math.prod(shape) for shape in lm_shapes(c).values())


def muon_flops(c: LMConfig, shards: int) -> float:
    """FLOPs of a step of Muon for the process that has most of them, of ``shards`` that divide the
    blocks' matrices.
    """
    shapes = [s for name, s in lm_shapes(c).items() if matrix_part(name) in ("global", "local")]
    matrices = [(rows, columns) for rows, columns in shapes]
    work = [0.0] * shards
    for shape, owner in zip(matrices, assign_owners(matrices, shards), strict=True):
        m, n = sorted(shape)
        # each iteration: the matrix by itself, that by itself, and that by the matrix
        work[owner] += ITERATIONS * (4 * m * m * n + 2 * m**3)
    return max(work)
