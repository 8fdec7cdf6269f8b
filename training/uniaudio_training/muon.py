"""Muon: updates whole matrices by the orthogonalized momentum of their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .schedules import decay_groups

ITERATIONS = 5  # of the orthogonalization


class Muon(torch.optim.Muon):
    """Muon with a configurable dtype of the orthogonalization, also of sharded matrices.

    torch's version always uses bfloat16 (the method: arXiv 2502.16982). With that ``dtype`` this
    one gives the same bits. The state is that of torch's.

    Parameters may be DTensors whose rows are sharded over the last dimension of their mesh. Their
    update is the one of the whole matrix: see :func:`orthogonal_shards`.
    """

    def __init__(
        self, params: Sequence[Tensor], lr: float, weight_decay: float, dtype: torch.dtype
    ):
        super().__init__(
            list(params), lr=lr, momentum=0.95, weight_decay=weight_decay, ns_steps=ITERATIONS
        )
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates all parameters that have a gradient. Raises ValueError for a ``closure``."""
        if closure is not None:
            raise ValueError("Muon: expected no closure, got one")
        for group in self.param_groups:
            method = group["ns_coefficients"], group["ns_steps"], group["eps"]
            trained = [p for p in group["params"] if p.grad is not None]
            updates = [self._momentum(p, group["momentum"], group["nesterov"]) for p in trained]
            if trained and isinstance(trained[0], DTensor):
                updates = orthogonal_shards(cast("list[DTensor]", trained), updates, *method)
            else:
                updates = [orthogonal(x, *method) for x in updates]
            for p, update in zip(trained, updates, strict=True):
                own = _own(p)
                own.mul_(1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                own.add_(update, alpha=-rate)
        return None

    def _momentum(self, p: Tensor, momentum: float, nesterov: bool) -> Tensor:
        """Updates the momentum; what is to be orthogonalized of it, of sharded ones the own rows."""
        assert p.grad is not None
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        gradient, buffer = _own(p.grad), _own(state["momentum_buffer"])
        buffer.lerp_(gradient, 1 - momentum)
        return (gradient.lerp(buffer, momentum) if nesterov else buffer).to(self.dtype)


def _own(x: Tensor) -> Tensor:
    """The rows of this process, as a view."""
    return x.to_local() if isinstance(x, DTensor) else x


def orthogonal(
    x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """The nearest matrix [m, n] whose singular values are about 1, by Newton-Schulz iterations."""
    a, b, c = coefficients
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if x.shape[0] > x.shape[1] else wide


def orthogonal_shards(
    matrices: Sequence[DTensor],
    own: Sequence[Tensor],
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
) -> list[Tensor]:
    """:func:`orthogonal` of each whole matrix, of which ``own`` has this process's rows; returns
    this process's rows of the results.

    Each matrix has one owner among the processes that share it: the owner gathers its rows,
    computes, and sends the rows of the result back, in two all-to-all exchanges of a step. To
    gather every matrix everywhere would repeat all iterations in each process: 36 TFLOPs for the
    1 B shape, where the forward and backward pass of one GPU of 64 machines of 8 takes 8 to 10.

    Owners are found within a shard group. With shards within each machine that leaves a GPU 4.5
    TFLOPs, and nothing goes over the network. To divide the matrices among the machines as well
    would save most of that, but send every GPU its rows of all results (0.23 GB in bfloat16) from
    the others, which takes as long.
    """
    mesh, placement = matrices[0].device_mesh, matrices[0].placements[-1]
    if not placement.is_shard(0):
        raise ValueError(f"Muon: expected rows to be sharded, got {placement}")
    group, size, me = (
        mesh.get_group(mesh.ndim - 1),
        mesh.size(mesh.ndim - 1),
        mesh.get_local_rank(mesh.ndim - 1),
    )
    owners = assign_owners([(m.shape[0], m.shape[1]) for m in matrices], size)
    rows = [shard_rows(m.shape[0], size) for m in matrices]
    shapes = [m.shape for m in matrices]
    mine = [i for i, owner in enumerate(owners) if owner == me]
    sent = [
        sum(own[i].numel() for i, o in enumerate(owners) if o == other) for other in range(size)
    ]
    received = [sum(rows[i][other] * shapes[i][1] for i in mine) for other in range(size)]
    order = sorted(range(len(own)), key=lambda i: owners[i])  # stable: by owner, then as given

    gathered = own[0].new_empty(sum(received))
    dist.all_to_all_single(
        gathered, torch.cat([own[i].flatten() for i in order]), received, sent, group=group
    )
    # from each process its rows of the matrices owned here, one after the other
    sizes = [rows[i][other] * shapes[i][1] for other in range(size) for i in mine]
    pieces = gathered.split(sizes) if mine else ()
    parts: list[list[Tensor]] = [[] for _ in range(size)]
    for place, i in enumerate(mine):
        whole = torch.cat([pieces[other * len(mine) + place] for other in range(size)])
        result = orthogonal(whole.view(shapes[i]), coefficients, steps, eps)
        for other, piece in enumerate(result.split(rows[i])):
            parts[other].append(piece.flatten())
    back = [piece for of_other in parts for piece in of_other]
    results = own[0].new_empty(sum(sent))
    dist.all_to_all_single(
        results, torch.cat(back) if back else gathered, sent, received, group=group
    )
    found: list[Tensor] = [results] * len(own)
    for i, piece in zip(order, results.split([own[i].numel() for i in order]), strict=True):
        found[i] = piece.view_as(own[i])
    return found


def assign_owners(shapes: Sequence[tuple[int, int]], size: int) -> list[int]:
    """The process, of ``size``, that orthogonalizes each matrix: the costliest matrix first, each
    to the one with the least to do.
    """
    work, owners = [0] * size, [0] * len(shapes)

    def cost(i: int) -> int:
        return math.prod(shapes[i]) * min(shapes[i])

    for i in sorted(range(len(shapes)), key=cost, reverse=True):
        owners[i] = work.index(min(work))
        work[owners[i]] += cost(i)
    return owners


def shard_rows(rows: int, size: int) -> list[int]:
    """How many of so many rows each of ``size`` processes holds (as ``torch.chunk``)."""
    most = -(-rows // size)
    return [max(0, min(most, rows - most * rank)) for rank in range(size)]


class _Rates(Protocol):
    @property
    def lr(self) -> float: ...
    @property
    def matrix_lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def block_optimizers(
    model: nn.Module, s: _Rates, dtype: torch.dtype, *beside: nn.Module
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices of the model's blocks, which needs far fewer steps; AdamW for the rest, and
    for the modules ``beside`` it. Each with its peak learning rate.
    """
    hidden = [p for n, p in model.named_parameters() if p.dim() == 2 and ".blocks." in n]
    ids = {id(p) for p in hidden}
    groups = [g for module in (model, *beside) for g in decay_groups(module, 0.01)]
    for g in groups:
        g["params"] = [p for p in g["params"] if id(p) not in ids]
    muon = Muon(hidden, s.matrix_lr, s.weight_decay, dtype)
    return [(muon, s.matrix_lr), (torch.optim.AdamW(groups, s.lr, betas=(0.9, 0.98)), s.lr)]
