"""Storage types of weights, keys and values: the choices, and what ``auto`` means."""

from __future__ import annotations

from ..backends.core import core
from ..errors import InputError, shown
from .folder import ModelFolder, stored_dtypes
from .weight_shapes import PARTS

KV_DTYPES = ("float32", "bfloat16", "int8")
# By the instruction set, where it is not int8: the measured rules of docs/benchmarks.md, Defaults.
FASTEST = {"plain": "float32"}


def auto_dtype() -> str:
    """The default type of weights: the fastest, and within 0.002 nats per code of float32
    (docs/benchmarks.md).

    int8 reads a quarter of float32's bytes per frame. Without vector instructions float32 is
    faster from a few streams on. Measured once, not at each start: the same machine always gives
    the same ids.
    """
    return FASTEST.get(core().isa(), "int8")


def auto_kv_dtype(dtype: str, device: str = "cpu") -> str:
    """The default type of keys and values for weights in ``dtype``.

    Its error is far below that of the weights.
    """
    if device != "cpu":
        return "float32" if dtype.startswith("float32") else "bfloat16"
    # the first name is that of the global stack, which the cache belongs to
    return "int8" if dtype.startswith("int") else "float32"


def weight_format(dtype: str, folder: ModelFolder) -> tuple[str, dict[str, str]]:
    """The shortest name of a choice of weight types, and the type of each part
    (``weight_shapes.PARTS``).

    Raises :class:`InputError` for an unknown choice.
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
