"""Weights, gradients and optimizer states divided among processes (torch's FSDP2).

Blocks are gathered one at a time, in the precision of the products; the rest (embeddings, head,
last norms: a few percent) is one group in float32. Gradients are summed in float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from .data_parallel import Team
from .precision import Arithmetic


def make_mesh(team: Team, device: torch.device) -> DeviceMesh:
    """The processes of a team in groups that hold one copy of the weights: [shards], or [copies,
    shards] where there are several copies.
    """
    copies = team.size // team.shards
    if copies == 1:
        return init_device_mesh(device.type, (team.shards,), mesh_dim_names=("shard",))
    sizes = (copies, team.shards)
    return init_device_mesh(device.type, sizes, mesh_dim_names=("copy", "shard"))


def shard(
    root: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, arithmetic: Arithmetic
) -> None:
    """Shards the parameters of ``root`` in place; they become DTensors. Afterwards only calls of
    ``root`` compute, since they gather the parameters; all processes call it equally often.

    Blocks are gathered in ``arithmetic``'s dtype, which is what autocast would make of their
    matrices. Activations are left to autocast: the residual stream stays in float32.
    """
    low = MixedPrecisionPolicy(arithmetic.dtype, torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=low)
    fully_shard(root, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # sums, which Gloo has too; Team.average divides by the number of parts
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1)
