"""Launch configurations, and what differs between a GPU and Triton's interpreter."""

from __future__ import annotations

import os

import triton

# Read once, as Triton does when a kernel is defined.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"

# Products of float32 tensors: three TF32 products on tensor cores, as accurate as float32. Plain
# TF32 keeps 10 bits, which changes codes.
FLOAT32_PRODUCTS = "tf32x3"


def configs(gpu: list[triton.Config], interpreted: dict[str, int]) -> list[triton.Config]:
    """The configurations to try on a GPU; in the interpreter one with small blocks, so that small
    tests have several.
    """
    return [triton.Config(interpreted)] if INTERPRETED else gpu


def block(size: int, least: int = 16) -> int:
    """The next power of two, at least as large as ``tl.dot`` asks for."""
    return max(least, triton.next_power_of_2(size))
