"""How weights, keys and values are held: the choices, and what ``auto`` chooses."""

from __future__ import annotations

from ..backends.core import core
from ..errors import InputError, shown
from .folder import ModelFolder, stored_dtypes
from .weight_shapes import PARTS

KV_DTYPES = ("float32", "bfloat16", "int8")


def auto_dtype() -> str:
    """How weights are held by default: within 0.002 nats a code of float32 (docs/benchmarks.md),
    and fastest.

    int8 is a quarter of the bytes that a frame has to read; without vector instructions float32 is
    the faster one.
    """
    return "float32" if core().isa() == "plain" else "int8"


def auto_kv_dtype(dtype: str, device: str = "cpu") -> str:
    """How keys and values are held beside weights in ``dtype``: with an error far below that of the
    weights.
    """
    if device != "cpu":
        return "float32" if dtype.startswith("float32") else "bfloat16"
    return (
        "int8" if dtype.startswith("int") else "float32"
    )  # the first name is the global stack's, whose cache it is


def weight_format(dtype: str, folder: ModelFolder) -> tuple[str, dict[str, str]]:
    """A choice of weight formats for this folder: its shortest name, and the format of each part
    (``spec.PARTS``).
    """
    parts = dict.fromkeys(PARTS, auto_dtype()) | stored_dtypes(folder.lm)
    wanted = ",".join(f"{p}={d}" for p, d in parts.items()) if dtype == "auto" else dtype
    native = core()
    try:
        name, parts = native.lm_dtype(wanted)
    except (TypeError, ValueError):
        known = 'auto, float32, bfloat16, int8, int4, or parts such as "int8,local=int4"'
        raise InputError(f"dtype: expected {known}, got {shown(dtype)}") from None
    return str(name), dict(parts)
