"""Floating-point operations and bytes of the multi-scale LM, counted from its shape."""

from __future__ import annotations

from dataclasses import dataclass

from uniaudio_engine.storage.config import LMConfig, StackConfig

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


def block_weights(c: StackConfig) -> int:
    """Elements of the matrices of one block."""
    attention = 2 * c.width * c.width + 2 * c.width * c.num_kv_heads * c.head_dim
    return attention + (3 if c.activation == "swiglu" else 2) * c.width * c.hidden


def frame_flops(c: LMConfig, head_rows: int, context: float) -> Counts:
    """FLOPs of a training forward pass per frame.

    ``head_rows``: rows of the output head that a slot is scored against. ``context``: frames that
    the global stack attends to, on average. Embeddings, norms and activations are not counted.
    """
    g, low, k = c.global_, c.local, c.num_codebooks
    bridge = g.width * low.width
    products = g.layers * block_weights(g) + bridge
    products += k * (low.layers * block_weights(low) + low.width * head_rows)
    # scores and sums: 2 x 2 x width for each position attended to
    seen = g.layers * context * g.width + low.layers * k * (k + 1) / 2 * low.width
    return Counts(2 * products, 4 * seen)


def parameters(c: LMConfig) -> int:
    """Elements of all weights of ``MultiScaleLM``."""
    g, low, k = c.global_, c.local, c.num_codebooks
    total = c.vocab_size * low.width  # the head
    for stack, embed, positions in (
        (g, g.width if c.embedding == "sum" else g.width // k, c.max_frames),
        (low, low.width, k),
    ):
        norm = stack.width * (2 if stack.norm == "layernorm" else 1)
        biases = stack.width * (stack.q_bias + stack.o_bias + stack.mlp_bias)
        biases += stack.num_kv_heads * stack.head_dim * (stack.k_bias + stack.v_bias)
        biases += stack.hidden * stack.mlp_bias * (2 if stack.activation == "swiglu" else 1)
        total += stack.layers * (block_weights(stack) + 2 * norm + biases) + norm
        total += c.vocab_size * embed
        total += positions * stack.width if stack.positions == "learned" else 0
    into = g.width // k if c.conditioning == "add" else g.width
    total += into * low.width + low.width  # the bridge
    total += sum(width * g.width + g.width for width in c.continuous.values())
    return total + c.aligned_vocab * g.width
