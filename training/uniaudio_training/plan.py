"""``uniaudio-train plan``: memory, time and data rates of an LM run on a cluster, before it is rented.

Everything is counted from the config. Only the share of the peak that a step reaches (MFU) is
measured, by ``gpu_bench.py``, or given.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uniaudio_engine.storage.config import LMConfig, StackConfig

from .data_parallel import Team
from .flops import PEAKS, frame_flops, muon_flops, parameters, stack_weights
from .lm.setup import LMSettings, build_config
from .settings import read_settings

FRAME_RATE = 50
CAPTIONS = 1024  # pieces of the caption tokenizer, where the config names none that is there
CONTEXT = 400  # frames a sentence attends to on average, its prompt included


@dataclass(frozen=True)
class Cluster:
    """``nodes`` machines with ``per_node`` GPUs of one kind."""

    nodes: int
    per_node: int
    gpu: str

    @property
    def gpus(self) -> int:
        return self.nodes * self.per_node

    @staticmethod
    def parse(text: str) -> Cluster:
        """From "64x8xH100". Raises ValueError, in one line."""
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x(\w+)", text)
        if found is None or found[3] not in PEAKS:
            raise ValueError(
                f"--gpus: expected NODESxGPUSxKIND with a kind of {', '.join(PEAKS)}, as in "
                f"64x8xH100, got {text!r}"
            )
        return Cluster(int(found[1]), int(found[2]), found[3])


@dataclass(frozen=True)
class Plan:
    """Bytes are of one GPU unless they say otherwise; times are in seconds."""

    parameters: int
    shards: int  # GPUs that hold one copy
    weights: float  # float32
    gradients: float  # float32, and the buffers in which they are averaged
    optimizer: float
    copies: float  # bfloat16 weights of autocast, or weights that are gathered
    activations: int
    available: float
    frames_per_step: int
    passes: int  # forward and backward passes per step
    steps: int
    flops_per_frame: float
    step: float
    update: float  # Muon's part of the step
    checkpoint: int  # in all
    exchanged: float  # sent to other GPUs per step
    network: float  # what of that leaves the machine
    tokens: float  # in all

    @property
    def memory(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations

    @property
    def days(self) -> float:
        return self.steps * self.step / 86400


def activation_bytes(c: LMConfig, frames: int, recompute: bool) -> int:
    """Bytes that the forward pass of ``frames`` frames keeps for the backward pass.

    With the fused kernels, under bfloat16 autocast. Of each block: the float32 residual stream
    twice, in bfloat16 the two norms, q, k, v, the attention's result, and of the MLP gate, up,
    their product and the branch. ``recompute`` keeps the stream, and one block at a time.
    """

    def kept(s: StackConfig, positions: int) -> int:
        kv = 2 * s.num_kv_heads * s.head_dim
        block = 8 * s.width + 2 * (5 * s.width + kv + 3 * s.hidden)
        return positions * (s.layers * 4 * s.width + block if recompute else s.layers * block)

    return kept(c.global_, frames) + kept(c.local, frames * c.num_codebooks)


def plan(s: LMSettings, cluster: Cluster, hours: float, epochs: float, mfu: float) -> Plan:
    """The plan of the run. Raises ValueError for a config without ``lm``, for too many GPUs, and
    for ``parts`` that they cannot share.
    """
    n = cluster.gpus
    if s.lm is None:
        raise ValueError("lm: expected the model's stacks, global and local, in the config")
    if s.items < n:
        raise ValueError(f"items: expected {n} or more, one per GPU, got {s.items}")
    team = Team(0, n, s.parts, cluster.per_node, s.sharding)
    shards, passes = team.shards, team.parts // n
    config, _ = build_config(s.lm, s.codebook_size, s.num_codebooks, CAPTIONS, s.units)
    count = parameters(config)
    stacks = [stack_weights(config, name) for name in ("global", "local")]
    hidden = sum(stacks)
    rest = count - hidden  # gathered as one group, in float32
    block = max(stacks[0] // config.global_.layers, stacks[1] // config.local.layers)
    peak, memory = PEAKS[cluster.gpu]
    per_frame = frame_flops(config, s.codebook_size, CONTEXT).trained
    computed = per_frame * (4 / 3 if s.recompute else 1)
    frames = hours * 3600 * FRAME_RATE * epochs
    states = 4 * hidden + 8 * rest  # Muon's momentum; the two moments of AdamW
    update = muon_flops(config, shards) / (peak * mfu)
    weights, gradients, copies = 4.0 * count, (8.0 if n > 1 else 4.0) * count, 2.0 * count
    if shards > 1:
        weights /= shards
        # one block's gradient in bfloat16 and as a float32 sum, while the next one is computed
        gradients = 4 * count / shards + 4 * rest + 12 * block
        copies = 6 * rest + 4 * block  # a block, and the next one
    exchanged, network = _exchange(cluster, shards, passes, stacks, rest)
    return Plan(
        parameters=count,
        shards=shards,
        weights=weights,
        gradients=gradients,
        optimizer=states / shards,
        copies=copies,
        activations=activation_bytes(config, -(-s.items // team.parts), s.recompute),
        available=memory,
        frames_per_step=s.items,
        passes=passes,
        steps=-(-int(frames) // s.items),
        flops_per_frame=per_frame,
        step=s.items * computed / (n * peak * mfu) + update,
        update=update,
        checkpoint=4 * count + states,
        exchanged=exchanged,
        network=network,
        tokens=hours * 3600 * FRAME_RATE * 2 * s.num_codebooks,
    )


def _exchange(
    cluster: Cluster, shards: int, passes: int, stacks: Sequence[int], rest: int
) -> tuple[float, float]:
    """Bytes that a GPU sends per step, and what of them leaves the machine."""
    copies, count = cluster.gpus // shards, sum(stacks) + rest
    # sums of float32 gradients among the copies, after each pass where there are shards
    among = 2 * 4 * count / shards * (copies - 1) / copies * (passes if shards > 1 else 1)
    if shards == 1:
        return among, among if cluster.nodes > 1 else 0.0
    # each pass: blocks twice in bfloat16 and their float32 gradients, of the local stack for codes
    # and for durations; the rest once, in float32. Muon sends bfloat16 there and back.
    blocks = (2 * 2 + 4) * (stacks[0] + 2 * stacks[1])
    within = (shards - 1) / shards * passes * (blocks + 8 * rest)
    within += (shards - 1) / shards * 2 * 2 * sum(stacks) / shards
    outside = among + (within if shards > cluster.per_node else 0.0)
    return within + among, outside


def report(p: Plan, cluster: Cluster, mfu: float, source: str) -> str:
    """The plan in lines, with units."""
    gb = 1e9

    def rate(sent: float) -> str:
        return f"{sent / gb:.1f} GB, {sent / p.step / gb:.0f} GB/s"

    rows = [
        ("parameters", f"{p.parameters / 1e6:.0f} M"),
        ("GPUs that hold one copy", f"{p.shards}"),
        ("memory per GPU", f"{p.memory / gb:.1f} GB of {p.available / gb:.0f} GB"),
        ("  weights, float32", f"{p.weights / gb:.1f} GB"),
        ("  gradients and their exchange", f"{p.gradients / gb:.1f} GB"),
        ("  optimizers", f"{p.optimizer / gb:.1f} GB"),
        (
            "  weights in use" if p.shards > 1 else "  bfloat16 copies of weights",
            f"{p.copies / gb:.1f} GB",
        ),
        ("  activations", f"{p.activations / gb:.1f} GB"),
        (
            "frames per step",
            f"{p.frames_per_step} ({p.frames_per_step / FRAME_RATE:.0f} s), passes: {p.passes}",
        ),
        ("FLOPs per frame", f"{p.flops_per_frame / 1e9:.2f} G, forward and backward"),
        ("MFU", f"{mfu:.2f} ({source})"),
        (
            "step",
            f"{1e3 * p.step:.0f} ms, {1e3 * p.update:.0f} of them Muon, without waiting for the "
            "exchange",
        ),
        ("exchange", f"{rate(p.exchanged)} per GPU and step"),
        ("  between machines", rate(p.network)),
        ("steps", f"{p.steps}"),
        ("time", f"{p.days:.2f} days on {cluster.gpus} {cluster.gpu}"),
        ("GPU hours", f"{24 * p.days * cluster.gpus:.0f}"),
        ("checkpoint", f"{p.checkpoint / gb:.1f} GB"),
        (
            "tokens",
            f"{p.tokens / gb:.0f} GB of codes, {p.tokens / p.days / 86400 / 1e6:.1f} MB/s in all",
        ),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    if p.memory > p.available:
        lines.append(
            "This does not fit. Set sharding: node or all, recompute: true, or more parts per step."
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio-train plan",
        description="Memory, time and data rates of an LM run on a cluster.",
        epilog="example: uniaudio-train plan --config training/configs/uniaudio-1b.yaml "
        "--gpus 64x8xH100 --hours 165000",
    )
    parser.add_argument("--config", required=True, help="a YAML file of LM settings")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="override settings",
    )
    parser.add_argument("--gpus", required=True, help=f"NODESxGPUSxKIND; kinds: {', '.join(PEAKS)}")
    parser.add_argument("--hours", type=float, required=True, help="hours of target audio")
    parser.add_argument("--epochs", type=float, default=1, help="passes (default: %(default)g)")
    parser.add_argument("--mfu", type=float, help="share of the peak (default: 0.4, an assumption)")
    parser.add_argument("--measured", type=Path, help="results of gpu_bench.py, for its MFU")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    try:
        cluster = Cluster.parse(args.gpus)
        mfu, source = args.mfu or 0.4, "given" if args.mfu else "assumed"
        s = read_settings(LMSettings, args.config, args.set)
        if args.measured:
            mfu, source = measured_mfu(args.measured, Path(args.config).stem, s.compile), "measured"
        if not 0 < mfu <= 1 or args.hours <= 0 or args.epochs <= 0:
            raise ValueError(
                f"expected --mfu in (0, 1], --hours and --epochs above 0, got {mfu}, "
                f"{args.hours} and {args.epochs}"
            )
        found = plan(s, cluster, args.hours, args.epochs, mfu)
    except (OSError, ValueError) as e:
        print(f"uniaudio-train plan: error: {e}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({**vars(found), "memory": found.memory, "days": found.days, "mfu": mfu}))
    else:
        print(report(found, cluster, mfu, source))
    return 0


def measured_mfu(path: Path, config: str, compiled: bool) -> float:
    """The MFU of a config's step with the Triton kernels, and ``compiled`` blocks. Raises ValueError
    where there is none.
    """
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        return float(steps[f"{config}, triton{', compiled' if compiled else ''}"]["mfu"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: expected the MFU of {config} as gpu_bench.py writes it, found none"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
