"""``torch.compile`` for the blocks of the LM, each on its own.

Blocks of one shape share their compiled code: weights are its arguments. Lengths are symbolic, so a
batch of a new length runs what is there. Only numbers of 0 and 1 (no prompt, one row, one sentence of
a row, one slot) have code of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor
from torch.fx import GraphModule

from .models.lm import Block

# What dynamo may compile of one function before it leaves the rest to eager torch: more than there
# are kinds of batches, of which each stack has less than 20.
LIMIT = 64


def inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Inductor, without a condition that it puts on lengths.

    On a CPU it sums more than 4096 numbers otherwise than fewer. Where that number is symbolic it
    decides by the batch at hand, so a batch on the other side would be compiled again. Here a
    symbolic number takes the way of the fewer, which is right for any.
    """
    from torch._inductor.codegen.cpp import CppKernel
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch.fx.experimental import _config

    chosen = CppKernel.need_use_acc_helper

    def choose(*given: Any) -> bool:
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return bool(chosen(*given))

    def generate(*args: Any, **options: Any) -> Any:
        with mock.patch.object(CppKernel, "need_use_acc_helper", choose):
            return compile_fx_inner(*args, **options)

    made: Any = compile_fx(graph, inputs, inner_compile=generate)
    return cast(Callable[..., Any], made)


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
