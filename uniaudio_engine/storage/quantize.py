"""Model folders with smaller weights: the LM's matrices as int8 or int4, everything else unchanged.

A quantized folder gives exactly the results of its source loaded with the same ``dtype``: the
numbers are the same, computed once instead of at each load. The formats are
``weight_shapes.quantized_shapes``; the core rounds (csrc/matrix.cc).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ..backends.core import core
from ..errors import InputError
from .dtypes import weight_format
from .files import atomic_folder
from .folder import load_folder
from .tensors import Tensors, from_bfloat16, save_tensors, to_bfloat16
from .weight_shapes import matrix_part


def quantize_folder(
    source: str | os.PathLike[str] | None, output: str | os.PathLike[str], dtype: str = "int8"
) -> dict[str, Any]:
    """Write ``output``, a copy of the model folder ``source`` (None: the bundled one) with its LM
    stored as ``dtype``.

    ``dtype`` as in :meth:`Engine.from_pretrained`; float32 parts stay as they are stored. Returns
    model, dtype, and the LM's bytes before and after.

    Raises :class:`InputError` where ``output`` exists, or the source has no LM or is already
    quantized (it would be rounded twice); after any error nothing is left behind.
    """
    folder, target = load_folder(source, mapped=True), Path(output)
    if folder.config.lm is None:
        raise InputError(
            f"{folder.path}: expected a model with an LM, found a codec only; there is nothing to "
            "quantize"
        )
    if any(n.endswith("_scale") for n in folder.lm):
        raise InputError(
            f"{folder.path}: is already quantized; quantize the model that it was made from"
        )
    if target.exists():  # before any work
        raise InputError(f"{target}: already exists; choose another name, or remove it first")
    name, parts = weight_format(dtype, folder)
    tensors: Tensors = {}
    for key, stored in folder.lm.items():
        part = parts.get(matrix_part(key) or "", "float32")
        widened = from_bfloat16(stored) if stored.dtype == "uint16" else stored
        if part in ("int8", "int4"):
            tensors[key], tensors[f"{key}_scale"] = core().quantize(widened, part)
        else:
            tensors[key] = to_bfloat16(widened) if part == "bfloat16" else stored
    with atomic_folder(target) as work:
        # Links are copied as links: what one outside of the folder leads to is not the model's.
        ignored = shutil.ignore_patterns("lm.safetensors", "*.part")
        shutil.copytree(
            folder.path, work / "new", symlinks=True, ignore=ignored, dirs_exist_ok=True
        )
        save_tensors(work / "new" / "lm.safetensors", tensors)
    sizes = {f: (f / "lm.safetensors").stat().st_size for f in (folder.path, target)}
    return {
        "model": folder.config.name,
        "dtype": name,
        "output": str(target),
        "lm_bytes_before": sizes[folder.path],
        "lm_bytes": sizes[target],
    }
