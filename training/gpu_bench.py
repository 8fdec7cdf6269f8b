"""Time and memory of the training kernels against eager torch and torch.compile, and the model
FLOPs utilisation (MFU) of a training step, eager and compiled by block.

    python training/gpu_bench.py --out results/gpu-training.json
    python training/gpu_bench.py --dry       tiny shapes on the CPU, in Triton's interpreter

Runs on one GPU without data or a network, from a checkout or with the packages installed. Stops
after ``--seconds`` (540): the result file is written after each case, and names those left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "--dry" in sys.argv:  # before Triton is imported
    os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import torch
from torch import Tensor
from uniaudio_training import compiling, kernels
from uniaudio_training.flops import PEAKS, frame_flops, parameters
from uniaudio_training.kernels import plain
from uniaudio_training.lm.data import AUDIO, Batch
from uniaudio_training.lm.objective import losses
from uniaudio_training.lm.setup import LMSettings, build_config
from uniaudio_training.lm.train_lm import optimizers
from uniaudio_training.models.lm import MultiScaleLM
from uniaudio_training.settings import read_settings

CONFIGS = Path(__file__).resolve().parent / "configs"
REPEATS, WARM = 20, 3

# frames, codebooks, codewords, vector width, model width, heads
SHAPES = {
    "v1": (16384, 4, 1024, 64, 768, 12),
    "1b": (16384, 4, 1024, 128, 1536, 24),
}
DRY = {"dry": (24, 3, 20, 8, 32, 2)}

Case = tuple[str, Callable[..., Any], Callable[..., Any], list[Tensor]]


def cases(
    frames: int, slots: int, size: int, dim: int, width: int, heads: int, device: str
) -> Iterator[Case]:
    """(name, plain version, fused version, inputs) of each kernel; gradients go to float inputs."""
    from uniaudio_training.kernels import attention, cross_entropy, norm, rvq

    low = torch.float32 if device == "cpu" else torch.bfloat16

    def random(*shape: int, dtype: torch.dtype = low) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    books = random(8, size, dim, dtype=torch.float32)

    def vq(module: Any) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            found = module.residual_vq(x, books)
            return found.value.square().mean() + found.commitment

        return run

    yield "residual_vq", vq(plain), vq(rvq), [random(frames, dim, dtype=torch.float32)]

    ranges = [(64 + k * size, size) for k in range(slots)]
    target = torch.randint(0, size, (frames, slots), device=device)

    def loss(module: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda y, w: module.codebook_losses(y, w, ranges, None, target).sum()

    inputs = [random(frames, slots, width), random(64 + slots * size, width)]
    yield "codebook_losses", loss(plain), loss(cross_entropy), inputs

    def attend(module: Any) -> Callable[..., Tensor]:
        return lambda *qkv: module.slot_attention(*qkv).float().square().mean()

    inputs = [random(frames, slots, heads, width // heads) for _ in range(3)]
    yield "slot_attention", attend(plain), attend(attention), inputs

    for name, centred in (("rmsnorm", False), ("layernorm", True)):

        def add(module: Any, centred: bool = centred) -> Callable[..., Tensor]:
            def run(x: Tensor, branch: Tensor, w: Tensor, b: Tensor) -> Tensor:
                total, y = module.add_norm(x, branch, w, b if centred else None, 1e-5)
                return total.float().mean() + y.float().square().mean() + 0 * b.sum()

            return run

        inputs = [random(frames * slots, width), random(frames * slots, width)]
        inputs += [random(width, dtype=torch.float32) for _ in range(2)]
        yield f"add_{name}", add(plain), add(norm), inputs


def measure(work: Callable[[], object], device: str) -> dict[str, float]:
    """Median milliseconds, and the peak of memory above what was held before, in MB."""
    if device == "cpu":
        begin = time.perf_counter()
        work()
        return {"ms": 1e3 * (time.perf_counter() - begin)}
    for _ in range(WARM):
        work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated() - before
    return {"ms": round(sorted(times)[REPEATS // 2], 4), "mb": round(peak / 1e6, 1)}


def compare(case: Case, device: str) -> dict[str, Any]:
    """Forward and backward of one kernel: eager, compiled and fused, with how far they differ."""
    _, eager, fused, inputs = case
    whole = torch.compile(eager, backend=compiling.backend)
    versions = {"eager": eager, "compile": whole, "triton": fused}
    found: dict[str, Any] = {}
    values = {}
    for name, function in versions.items():
        leaves = [t.detach().requires_grad_() for t in inputs]

        def work(function: Callable[..., Tensor] = function, leaves: Any = leaves) -> Tensor:
            for leaf in leaves:
                leaf.grad = None
            out = function(*leaves)
            out.backward()
            return out

        found[name] = measure(work, device)
        values[name] = float(work())
    found["relative difference"] = abs(values["triton"] / values["eager"] - 1)
    for other in ("eager", "compile") if device == "cuda" else ():
        found[f"speed-up over {other}"] = round(found[other]["ms"] / found["triton"]["ms"], 2)
    torch.compiler.reset()
    return found


def step(
    name: str, device: str, mode: kernels.Kernels, compiled: bool, dry: bool
) -> dict[str, Any]:
    """One training step of a config on random codes: forward, backward, clipping and update.

    ``compiled``: with the blocks compiled, which takes the warm-up's time.
    """
    changes = [
        "lm={global: {layers: 1, width: 32, heads: 2}, local: {layers: 1, width: 32, heads: 2}}"
    ]
    changes += ["codebook_size=16"]
    s = read_settings(LMSettings, CONFIGS / f"{name}.yaml", changes if dry else ())
    assert s.lm is not None
    config, layout = build_config(s.lm, s.codebook_size, s.num_codebooks, 1024, s.units)
    rows, length = (2, 6) if dry else (40, 400)
    k = s.num_codebooks
    start = torch.tensor([start for [(start, _)] in layout.audio_ranges()])

    def codes(*shape: int) -> Tensor:
        return (torch.randint(0, s.codebook_size, (*shape, k)) + start).to(device)

    aligned = torch.zeros(rows, 1, length, layout.aligned_slots, dtype=torch.int64)
    kind = torch.full((rows, 1, length), AUDIO)
    batch = Batch(
        codes(rows, 2),
        codes(rows, 1, length),
        codes(rows, 1, length),
        aligned.to(device),
        kind.to(device),
        "tts",
    )
    model = MultiScaleLM(config)
    model.init_weights()
    model.to(device).train()
    low = torch.float32 if dry else torch.bfloat16
    if compiled:
        compiling.compile_blocks((*model.global_.blocks(), *model.local.blocks()))
    each = optimizers(model, s, low)

    def work() -> None:
        with torch.autocast(device, low, enabled=not dry):
            loss = losses(model, layout, batch)[0].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in each:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    kernels.select(mode)
    try:
        found: dict[str, Any] = measure(work, device)
    finally:
        kernels.select("auto")
        torch.compiler.reset()
    frames = rows * length
    # the prompt's two items are not counted
    flops = frames * frame_flops(config, s.codebook_size, 2 + (length + 1) / 2).trained
    found |= {"parameters": parameters(config), "frames": frames, "tera_flops": flops / 1e12}
    peak = peak_flops(device)
    if peak:
        found["mfu"] = round(flops / (1e-3 * found["ms"]) / peak, 4)
    return found


def peak_flops(device: str) -> float | None:
    """The data sheet's dense bfloat16 FLOP/s of this GPU; None where it is not listed."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((flops for gpu, (flops, _) in PEAKS.items() if gpu in name), None)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gpu_bench.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="result file (default: standard output)")
    parser.add_argument("--seconds", type=float, default=540, help="limit (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU")
    args = parser.parse_args()
    device = "cpu" if args.dry else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu_bench.py: error: expected a GPU, found none; --dry runs on the CPU")
        return 2
    end = time.monotonic() + args.seconds
    torch.manual_seed(0)
    about = {"torch": torch.__version__, "device": device}
    if device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    result: dict[str, Any] = {"about": about, "kernels": {}, "steps": {}, "left out": []}

    def write() -> None:
        text = json.dumps(result, indent=1)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text + "\n", encoding="utf-8")

    if args.dry:  # Inductor would only measure its own compiler
        compiling.backend = "aot_eager"
    configs = ("uniaudio-v1",) if args.dry else ("uniaudio-v1", "uniaudio-1b")
    modes: tuple[tuple[kernels.Kernels, bool], ...]
    modes = (("torch", False), ("triton", False), ("triton", True), ("torch", True))
    work: list[tuple[str, str, Callable[[], dict[str, Any]]]] = []
    for config in configs:
        for mode, compiled in modes[:3] if args.dry else modes:
            work.append(
                (
                    "steps",
                    f"{config}, {mode}{', compiled' if compiled else ''}",
                    lambda a=(config, device, mode, compiled): step(*a, args.dry),  # type: ignore[misc]
                )
            )
    for shape, sizes in (DRY if args.dry else SHAPES).items():
        for case in cases(*sizes, device=device):
            work.append(("kernels", f"{case[0]}, {shape}", lambda c=case: compare(c, device)))  # type: ignore[misc]
    for part, name, run in work:
        if time.monotonic() > end:
            result["left out"].append(name)
            continue
        try:
            result[part][name] = run()
        except torch.OutOfMemoryError:
            result[part][name] = {"error": "out of memory"}
        print(name, json.dumps(result[part][name]), file=sys.stderr, flush=True)
        write()
    write()
    if not args.out:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
