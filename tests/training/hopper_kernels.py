"""Compiles every kernel with every configuration for an H100, without a GPU.

    python hopper_kernels.py [NAME ...]

Prints a line for each: name, configuration, bytes of shared memory, tensor-core instructions. The
interpreter must be off.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from uniaudio_training.kernels import attention, cross_entropy, norm, rvq

HOPPER = GPUTarget("cuda", 90, 32)
SHARED = 227 * 1024  # bytes of shared memory that a block may have

F32, LOW = "*fp32", "*bf16"


def cases() -> Iterator[tuple[str, object, dict[str, str], dict[str, object]]]:
    """(name, kernel, types of the arguments, constants), as in training the 1 B model."""
    yield (
        "rvq",
        rvq._residual_codes,
        dict.fromkeys(("x", "codebooks", "norms", "value", "first", "behind", "squares"), F32)
        | {"codes": "*i64", "counts": "*i32"}
        | dict.fromkeys(("n", "K", "C", "E"), "i32"),
        {"BLOCK_E": 128, "PRECISION": "tf32x3"},
    )
    for low in (LOW, F32):
        numbers = dict.fromkeys(
            ("start", "size", "extra", "columns", "stride", "n", "K", "D"), "i32"
        )
        hidden = {"y": low, "weight": low, "target": "*i64", "normalisers": F32}
        yield (
            "cross-entropy forward",
            cross_entropy._forward,
            hidden | {"starts": "*i32", "sizes": "*i32", "losses": F32} | numbers,
            {"PRECISION": "tf32x3"},
        )
        yield (
            "cross-entropy backward",
            cross_entropy._logit_gradients,
            hidden | {"grads": F32, "out": low} | numbers,
            {"PRECISION": "tf32x3"},
        )
        numbers = dict.fromkeys(("n", "HEADS", "GROUP", "D"), "i32") | {"scale": "fp32"}
        constants = {"K": 4, "BLOCK_D": 64, "PRECISION": "tf32x3"}
        names = ("q", "k", "v", "out", "grad", "dq", "dk", "dv")
        for of in ("forward", "backward"):
            kernel = getattr(attention, f"_{of}")
            yield f"attention {of}", kernel, dict.fromkeys(names, low) | numbers, constants
    for bias in (False, True):
        arguments = dict.fromkeys(("x", "total", "weight", "bias", "means", "scales"), F32)
        arguments |= dict.fromkeys(("grad_total", "grad_x", "grad_weight", "grad_bias"), F32)
        arguments |= {"branch": LOW, "y": LOW, "grad_y": LOW, "n": "i32", "D": "i32", "eps": "fp32"}
        for width in (256, 1536):
            tile = norm._tile(width)
            warps = tile.pop("num_warps")
            constants = {"HAS_BRANCH": True, "HAS_BIAS": bias, "num_warps": warps, **tile}
            for of in ("forward", "backward"):
                yield f"norm {of}", getattr(norm, f"_{of}"), arguments, constants


def main() -> None:
    wanted = sys.argv[1:]
    for name, kernel, types, constants in cases():
        if wanted and not any(w in f"{name} {types.get('y', '')}" for w in wanted):
            continue
        configs = getattr(kernel, "configs", [triton.Config({}, num_warps=4)])
        function = kernel if isinstance(kernel, triton.JITFunction) else kernel.fn
        for config in configs:
            values = {**constants, **config.kwargs}
            options = {
                "num_warps": values.pop("num_warps", config.num_warps),
                "num_stages": config.num_stages,
            }
            signature = {n: "constexpr" if n in values else types[n] for n in function.arg_names}
            constexprs = {n: v for n, v in values.items() if n in function.arg_names}
            # as a launch finds it out: pointers and widths of a real model are multiples of 16
            aligned = [n for n, t in signature.items() if t[0] == "*" or n in ("D", "E", "stride")]
            attrs = {(function.arg_names.index(n),): [["tt.divisibility", 16]] for n in aligned}
            source = ASTSource(function, signature, constexprs, attrs)
            done = triton.compile(source, target=HOPPER, options=options)
            wgmma = done.asm["ptx"].count("wgmma.mma_async")
            mma = done.asm["ptx"].count("mma.sync")
            fits = "" if done.metadata.shared <= SHARED else " TOO MUCH"
            chosen = " ".join(map(str, values.values()))
            print(
                f"{name} {types.get('y', types.get('q', ''))}: {chosen} {options}: "
                f"shared {done.metadata.shared}{fits}, wgmma {wgmma}, mma {mma}",
                flush=True,
            )


if __name__ == "__main__":
    main()
