"""Codecs and filters in int8: half the size of bfloat16 in a file, and computed in float32.

A matrix [N, ...] is int8 of that shape and ``NAME_scale`` float32 [N]: the weight is their product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tensors import Tensors
from .weight_shapes import in_codec


def to_int8(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """float32 tensors of a codec -> the same with matrices in int8, and their scales."""
    made: Tensors = {}
    for name, x in tensors.items():
        made[name] = x
        if in_codec(name, x.shape, "int8"):
            most = np.abs(x).max(axis=tuple(range(1, x.ndim)), keepdims=True)
            scale = np.maximum(most, 1e-12) / np.float32(127)
            made[name] = np.rint(x / scale).astype(np.int8)
            made[f"{name}_scale"] = scale.reshape(-1)
    return made


def from_int8(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """The tensors of a codec, those in int8 as float32, without scales."""
    scales = {f"{name}_scale" for name, x in tensors.items() if x.dtype == np.int8}
    return {
        name: x * tensors[f"{name}_scale"].reshape(-1, *[1] * (x.ndim - 1))
        if x.dtype == np.int8
        else x
        for name, x in tensors.items()
        if name not in scales
    }
