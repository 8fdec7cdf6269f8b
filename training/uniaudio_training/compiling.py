"""``torch.compile`` for the blocks of the LM, each on its own.

Blocks of one shape share their compiled code: weights are its arguments. Lengths are symbolic, so a
batch of a new length runs what is there. Only numbers of 0 and 1 (no prompt, one row, one sentence of
a row, one slot) have code of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from .models.lm import Block

# What dynamo may compile of one function before it leaves the rest to eager torch: more than there
# are kinds of batches, of which each stack has less than 20.
LIMIT = 64


def inductor(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """Inductor, without code for lengths of its own choice.

    Where it may choose by a length, it asks for the length at hand, and that choice becomes a
    condition of the code. On a CPU a sum over more than 4096 numbers is such a choice: a batch on the
    other side would be compiled again. Here it takes the choice that is right for all lengths.
    """
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    def generate(*args: Any, **options: Any) -> Any:
        with torch.fx.experimental._config.patch(backed_size_oblivious=True):
            return compile_fx_inner(*args, **options)

    return compile_fx(graph, inputs, inner_compile=generate)


# Of all blocks compiled from now on; the tests' is faster to compile.
backend: str | Callable[..., Any] = inductor


def compile_blocks(blocks: Iterable[Block]) -> None:
    """Compiles the forward pass of each block, when it is first called; shards come before.

    What surrounds it stays eager: recomputation, which calls the compiled code again, and the hooks
    of FSDP2, which gather the weights before it. Names of weights do not change.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, LIMIT)
    for block in blocks:
        for module in block.modules():
            # FSDP2's mark, by which dynamo takes constants of a module, such as the width of a head,
            # for variables. Its hooks are not in what is compiled, so nothing else depends on it.
            module._is_fsdp_managed_module = False  # type: ignore[assignment]
        block.compiled = torch.compile(block.run, backend=backend, dynamic=True)
