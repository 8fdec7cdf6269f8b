"""Benchmarks of the CUDA module on one GPU: lower bounds, times, parity, soak. ``gpu.sh`` builds
the module and runs this.

``--floors`` needs no GPU: it prints the bytes of weights that a frame has to read, and the time
this takes at a given bandwidth. ``--dry`` runs every part with tiny shapes in the CPU emulator, so
that a mistake here does not cost time on a GPU. Parts that cannot run are skipped and reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from uniaudio_engine.backends import cuda  # noqa: E402
from uniaudio_engine.backends.core import core  # noqa: E402
from uniaudio_engine.storage.config import LMConfig, StackConfig, to_dict  # noqa: E402
from uniaudio_engine.storage.folder import bundled_models, load_config  # noqa: E402
from uniaudio_engine.storage.weight_shapes import lm_shapes, matrix_part  # noqa: E402

H100 = 3000.0  # GB/s, for the lower bounds
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
FRAME_US = 20000.0
PERSISTENT = 8  # streams that the persistent kernel supports
GOALS = {
    ("v1", "bfloat16"): 260,
    ("1B", "bfloat16"): 1180,
    ("1B", "int8"): 680,
}  # µs per frame, one stream, H100


@dataclass(frozen=True)
class Shape:
    name: str
    config: LMConfig
    allowed: tuple[tuple[tuple[int, int], ...], ...]  # per slot (start, size)

    @property
    def head_rows(self) -> int:
        return max(sum(size for _, size in slot) for slot in self.allowed)


def shapes(dry: bool = False) -> list[Shape]:
    """The UniAudio-v1 shape, that of the 1 B recipe, and that of the bundled model; ``dry``: of the
    same kind, for the emulator.
    """
    biases = {"q_bias": True, "v_bias": True, "o_bias": True, "mlp_bias": True}
    kind: dict[str, Any] = {
        "norm": "layernorm",
        "activation": "gelu",
        "positions": "learned",
        **biases,
    }
    v1 = LMConfig(
        vocab_size=4212,
        num_codebooks=3,
        embedding="concat",
        conditioning="add",
        start_id=23,
        local_start_id=24,
        max_frames=3328,
        global_=StackConfig(layers=16, width=768, heads=12, **kind),
        local=StackConfig(layers=8, width=768, heads=12, **kind),
    )
    if dry:
        small = replace(v1.global_, layers=2, width=48, heads=3)
        v1 = replace(v1, vocab_size=176, max_frames=512, global_=small, local=small)
        return [Shape("v1", v1, tuple(((9, 1), (128 + k * 16, 16)) for k in range(3)))]
    wide = {"width": 1536, "heads": 16}
    large = replace(
        v1, global_=replace(v1.global_, layers=24, **wide), local=replace(v1.local, **wide)
    )
    allowed = tuple(((9, 1), (128 + k * 1024, 1024)) for k in range(3))
    found = [Shape("v1", v1, allowed), Shape("1B", large, allowed)]
    bundled = bundled_models().get("base")
    config = load_config(bundled) if bundled else None
    if config is not None and config.lm is not None and config.vocabulary is not None:
        start = next(s.start for s in config.vocabulary.spans if s.name == "audio")
        size = config.codec.codebook_size
        slots = tuple(((start + k * size, size),) for k in range(config.lm.num_codebooks))
        found.append(Shape("bundled", config.lm, slots))
    return found


def frame_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of matrices read by one frame: the global stack once, the local stack and the needed
    rows of the head K times.
    """
    c, total = shape.config, 0
    for name, dims in lm_shapes(c).items():
        part = matrix_part(name)
        if part is None:
            continue
        times = (
            1
            if part == "global" or (name == "bridge.weight" and c.conditioning == "prefix")
            else c.num_codebooks
        )
        rows = shape.head_rows if name == "head.weight" else dims[0]
        total += times * rows * int(np.prod(dims[1:])) * BYTES[dtype]
    return total


def exchanges(c: LMConfig) -> int:
    """Number of exchanges between blocks in one frame."""
    bridges = c.num_codebooks if c.conditioning == "add" else 1
    return 5 * c.global_.layers + c.num_codebooks * (4 * c.local.layers + 1) + bridges


def print_floors(bandwidth: float) -> None:
    print(
        f"Lower bounds at {bandwidth:.0f} GB/s, one stream: every weight that a frame uses, read "
        "once per use"
    )
    print("model    weights   MB per frame  µs   exchanges   µs left for each at the goal")
    for shape in shapes():
        for dtype in ("bfloat16", "int8"):
            moved, trips = frame_bytes(shape, dtype), exchanges(shape.config)
            floor, goal = moved / bandwidth * 1e-3, GOALS.get((shape.name, dtype))
            left = f"{(goal - floor) / trips:.2f}" if goal else "-"
            print(f"{shape.name:8} {dtype:9} {moved / 1e6:8.1f} {floor:9.1f} {trips:8}     {left}")


def random_weights(c: LMConfig, seed: int) -> dict[str, np.ndarray]:
    """Weights as in benchmarks/models.py: logits as peaked as those of a trained model."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, dims in lm_shapes(c).items():
        x = rng.standard_normal(dims, np.float32)
        if len(dims) == 1:
            x = 0.02 * x + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        elif name == "head.weight":
            x *= 2.5 / np.sqrt(dims[1])
        else:
            x *= (
                0.02
                if len(dims) == 2 and ("embed" in name or "positions" in name or "guide" in name)
                else 1 / np.sqrt(dims[-1])
            )
        out[name] = x.astype(np.float32)
    return out


def sampling(shape: Shape, seed: int, greedy: bool = False) -> Any:
    return core().Sampling(
        top_k=0 if greedy else 30,
        greedy=greedy,
        seed=seed,
        allowed=[list(s) for s in shape.allowed],
    )


def cuda_lm(config: LMConfig, weights: dict[str, np.ndarray], dtype: str, kv_dtype: str) -> Any:
    return cuda.module().LM(json.dumps(to_dict(config)), weights, dtype, kv_dtype)


def prefix(shape: Shape, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack(
        [rng.integers(s[-1][0], s[-1][0] + s[-1][1], count) for s in shape.allowed], axis=1
    ).astype(np.int32)


def time_frames(lm: Any, shape: Shape, streams: int, frames: int, repeats: int) -> dict[str, float]:
    """µs per frame of all streams, measured around ``generate``: includes launches, arguments and
    results.
    """
    known = prefix(shape, 150, 0)
    sessions = [lm.session(150 + 16 + frames * repeats) for _ in range(streams)]
    begin = time.perf_counter()
    for s in sessions:
        s.prefill(known)
    sessions[0].generate(1, sampling(shape, 0))  # waits for completion
    prefill = (time.perf_counter() - begin) / streams
    samplings = [sampling(shape, i) for i in range(streams)]
    lm.generate_batch(sessions, 8, samplings)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        lm.generate_batch(sessions, frames, samplings)
        times.append((time.perf_counter() - begin) / frames * 1e6)
    return {"us": statistics.median(times), "best_us": min(times), "prefill_150_ms": prefill * 1e3}


def measure(args: argparse.Namespace, out: dict[str, Any]) -> None:
    megabytes = 8 if args.dry else 1024
    bandwidth = out["bandwidth_gb_per_s"] = round(cuda.module().bandwidth(0, megabytes), 1)
    rows = out["lm"] = []
    v1 = shapes(args.dry)[0]
    for shape in shapes(args.dry):
        if args.models and shape.name not in args.models:
            continue
        weights = random_weights(shape.config, 7)
        for dtype in ("bfloat16", "int8"):
            lm = cuda_lm(shape.config, weights, dtype, "bfloat16")
            floor = frame_bytes(shape, dtype) / bandwidth * 1e-3
            for streams in args.streams:
                row = {
                    "model": shape.name,
                    "dtype": dtype,
                    "streams": streams,
                    "floor_us": round(floor, 1),
                    "together": lm.most_streams,
                }
                try:
                    row |= time_frames(lm, shape, streams, args.frames, args.repeats)
                    if streams > 1:  # also the other path, to find the crossover
                        lm.set_batched_from(1 if streams <= PERSISTENT else 10**6)
                        row["other_us"] = time_frames(
                            lm, shape, streams, args.frames, args.repeats
                        )["us"]
                        lm.set_batched_from(PERSISTENT + 1)
                except cuda.InputError as e:  # for example out of memory; reported in the table
                    row["error"] = str(e)
                else:
                    row["fraction"], row["realtime"] = (
                        floor / row["us"],
                        streams * FRAME_US / row["us"],
                    )
                rows.append(row)
                print(json.dumps(row), flush=True)
    local = replace(v1.config, global_=replace(v1.config.global_, layers=1))
    alone = Shape("v1, one global layer", local, v1.allowed)
    lm = cuda_lm(local, random_weights(local, 7), "bfloat16", "bfloat16")
    row = time_frames(lm, alone, 1, args.frames, args.repeats)
    out["local_loop"] = {
        "us": row["us"],
        "fraction": frame_bytes(alone, "bfloat16") / bandwidth * 1e-3 / row["us"],
    }
    rng = np.random.default_rng(1)
    stages, size, frames = (2, 32, 5) if args.dry else (12, 1024, 500)
    rvq = cuda.module().ResidualVQ(rng.standard_normal((stages, size, 64)).astype(np.float32))
    out["rvq_encode_us"] = rvq.encode_microseconds(
        rng.standard_normal((frames, 64)).astype(np.float32), stages
    )


def soak(args: argparse.Namespace, out: dict[str, Any]) -> None:
    """Repeats the same thousand frames; the tokens of every run must equal those of the first."""
    shape, run = shapes(args.dry)[0], max(1, min(1000, args.soak // 2))
    lm = cuda_lm(shape.config, random_weights(shape.config, 7), "int8", "bfloat16")
    session, first = lm.session(200 + run), None
    done, differ = 0, 0
    while done < args.soak:
        session.reset()
        session.prefill(prefix(shape, 150, 0))
        made = session.generate(run, sampling(shape, 5))
        first = made if first is None else first
        differ += not np.array_equal(made, first)
        done += len(made)
    out["soak"] = {"frames": done, "runs_that_differ": differ}


def parity(args: argparse.Namespace, out: dict[str, Any]) -> None:
    """Greedy tokens of 200 frames in float32, v1 shape, against the CPU core."""
    shape = shapes(args.dry)[0]
    weights = random_weights(shape.config, 7)
    known = prefix(shape, 20, 0)
    cpu = (
        core()
        .LM(json.dumps(to_dict(shape.config)), weights, "float32", min(8, os.cpu_count() or 1))
        .session(256)
    )
    cpu.prefill(known)
    expected = cpu.generate(200, sampling(shape, 0, greedy=True))
    gpu = cuda_lm(shape.config, weights, "float32", "float32").session(256)
    gpu.prefill(known)
    made = gpu.generate(200, sampling(shape, 0, greedy=True))
    out["parity"] = {
        "greedy_tokens": int(expected.size),
        "that_differ": int((made != expected).sum()),
    }


def first_audio(args: argparse.Namespace, out: dict[str, Any]) -> None:
    try:
        from uniaudio_engine import Engine

        engine = Engine.from_pretrained(device="cuda")
    except (ImportError, ValueError) as e:
        out["first_audio"] = f"left out: {e}"
        return
    times = []
    for seed in range(2 if args.dry else 7):
        with engine.stream("tts", text="The engine speaks.", seed=seed) as stream:
            next(iter(stream))
            times.append(float(stream.meta["first_chunk_ms"]))
    out["first_audio"] = {"bundled_ms": statistics.median(times[1:])}


def torch_steps(args: argparse.Namespace, out: dict[str, Any]) -> None:
    """Time of a frame with the torch modules, eager and as a CUDA graph (bfloat16, one stream, no
    cache growth).
    """
    try:
        import torch
    except ImportError:
        out["torch"] = "left out: torch is not here"
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
    from uniaudio_training.models.lm import MultiScaleLM

    shape, device = shapes(args.dry)[0], "cpu" if args.dry else "cuda"
    torch.set_grad_enabled(False)
    model = MultiScaleLM(shape.config).eval().to(device, torch.bfloat16)
    # A lower bound in torch's favour: each stack once over its newest rows, without caches.
    x = torch.randn(1, 1, shape.config.global_.width, device=device, dtype=torch.bfloat16)
    y = torch.randn(1, 1, shape.config.local.width, device=device, dtype=torch.bfloat16)
    rows = torch.arange(shape.head_rows, device=device)

    def frame() -> Any:
        h, logits = model.global_.norm(_through(model.global_, x)), None
        for _ in range(shape.config.num_codebooks):
            logits = model.local.norm(_through(model.local, y)) @ model.head.weight[rows].T
        return h, logits

    def clock(run: Any) -> float:
        times = []
        for _ in range(20):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(1000 * begin.elapsed_time(end))
        return statistics.median(times)

    for _ in range(3):
        frame()
    if args.dry:  # graphs and events are a GPU's
        out["torch"] = "left out: a dry run"
        return
    torch.cuda.synchronize()
    found = {"eager_us": clock(frame)}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        frame()
    found["graph_us"] = clock(graph.replay)
    out["torch"] = found


def _through(stack: Any, x: Any) -> Any:
    for block in stack.layers:
        x = block(x, None)
    return x


def table(out: dict[str, Any]) -> None:
    print(
        f"\n{out['device']}, {out['date']}; {out['bandwidth_gb_per_s']} GB/s copied within the "
        "device, measured in this run"
    )
    print("model    weights  streams     µs   bound  of it  ×realtime  by the other path, µs")
    for r in out["lm"]:
        if "error" in r:
            print(f"{r['model']:8} {r['dtype']:9} {r['streams']:4}  {r['error']}")
        else:
            print(
                f"{r['model']:8} {r['dtype']:9} {r['streams']:4} {r['us']:9.0f} "
                f"{r['floor_us']:7.0f} {r['fraction']:5.0%} {r['realtime']:9.0f} "
                f"{r.get('other_us', float('nan')):9.0f}"
            )
    for key in ("local_loop", "rvq_encode_us", "torch", "parity", "soak", "first_audio"):
        print(f"{key}: {out.get(key)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--floors", action="store_true", help="print the bandwidth bounds and end; needs no GPU"
    )
    parser.add_argument(
        "--dry",
        type=Path,
        metavar="MODULE",
        help="tiny shapes in the emulator, a _cuda_host module",
    )
    parser.add_argument("--models", nargs="*", help="of v1, 1B, bundled (default all)")
    parser.add_argument("--streams", nargs="*", type=int, default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--soak", type=int, default=100_000, help="frames")
    parser.add_argument("--out", default=os.environ.get("OUT", "."), help="folder for gpu.json")
    args = parser.parse_args()
    if args.floors:
        print_floors(H100)
        return 0
    if args.dry:
        cuda._module = cuda.load(args.dry, "host")
        args.streams, args.frames, args.repeats, args.soak = [1, 9], 2, 1, 40
    cuda.check_device("cuda")
    out: dict[str, Any] = {
        "device": cuda.status().partition(",")[0],
        "date": time.strftime("%Y-%m-%d"),
    }
    failed = 0
    for part in (parity, measure, torch_steps, first_audio, soak):
        begin = time.perf_counter()
        try:
            part(args, out)
        except Exception as e:  # keep the figures of the other parts
            failed += 1
            out.setdefault("failed", []).append(f"{type(e).__name__}: {e}")
            print(out["failed"][-1], flush=True)
        print(f"{part.__name__}: {time.perf_counter() - begin:.1f} s", flush=True)
        Path(args.out, "gpu.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    table(out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
