"""Names of SEANet weights in other projects' checkpoints, and their conversion: weight norm is
folded and tensors are renamed.

There are two layouts, with the same order of layers:

- ``soundstream``: the codec of the UniAudio repository, with the module names of EnCodec's first
  release: ``encoder.model.N.conv.conv``, ``decoder.model.N.convtr.convtr``,
  ``quantizer.vq.layers.i._codebook.embed``.
- ``transformers``: ``EncodecModel`` of Hugging Face transformers
  (models/encodec/modeling_encodec.py): ``encoder.layers.N.conv``,
  ``quantizer.layers.i.codebook.embed``.

Our names are those of :mod:`uniaudio_engine.storage.weight_shapes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few
from ..storage.config import CodecConfig, SeanetConfig
from ..storage.tensors import Tensors, from_bfloat16
from ..storage.weight_shapes import codec_shapes

Layout = Literal["soundstream", "transformers"]

# Keys of the configurations of Hugging Face transformers -> ours
TRANSFORMERS_KEYS = {
    "audio_channels": "channels",
    "num_filters": "filters",
    "kernel_size": "kernel_size",
    "last_kernel_size": "last_kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "num_residual_layers": "residual_layers",
    "dilation_growth_rate": "dilation_base",
    "compress": "compress",
}
_QUANTIZER = {
    "soundstream": "quantizer.vq.layers.{}._codebook",
    "transformers": "quantizer.layers.{}.codebook",
}
_TRAINING_ONLY = (
    "cluster_size",
    "embed_avg",
    "inited",
)  # codebook buffers used in training only
# gain and direction of weight norm, as torch's hook and as torch's parametrization
_WEIGHT_NORM = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
_MAX_CODEBOOKS = 64


def seanet_names(config: SeanetConfig, layout: Layout) -> list[tuple[str, str]]:
    """(our prefix, their prefix) of every convolution and LSTM, in the order of computation."""
    c, layers = config, "model" if layout == "soundstream" else "layers"
    conv = "conv.conv" if layout == "soundstream" else "conv"
    transposed = "convtr.convtr" if layout == "soundstream" else "conv"
    names = []
    for side in ("encoder", "decoder"):
        number = 0  # index of the next layer in their list, in which activations count as layers

        def add(ours: str, inside: str, skip: int = 0, side: str = side) -> None:
            nonlocal number
            number += skip
            names.append((f"{side}.{ours}", f"{side}.{layers}.{number}.{inside}"))

        def blocks(stage: int, side: str = side) -> None:
            nonlocal number
            for j in range(c.residual_layers):
                number += 1
                for ours, inside in (
                    ("first", "block.1"),
                    ("second", "block.3"),
                    ("shortcut", "shortcut"),
                ):
                    if ours != "shortcut" or c.conv_shortcut:
                        names.append(
                            (
                                f"{side}.stages.{stage}.blocks.{j}.{ours}",
                                f"{side}.{layers}.{number}.{inside}.{conv}",
                            )
                        )

        add("input", conv)
        if side == "decoder" and c.lstm_layers:
            add("lstm", "lstm", 1)
        for stage in range(len(c.ratios)):
            if side == "decoder":
                add(f"stages.{stage}.up", transposed, 2)
            blocks(stage)
            if side == "encoder":
                add(f"stages.{stage}.down", conv, 2)
        if side == "encoder" and c.lstm_layers:
            add("lstm", "lstm", 1)
        add("output", conv, 2)
    return names


def seanet_tensors(
    config: SeanetConfig, layout: Layout, state: Mapping[str, NDArray[Any]]
) -> Tensors:
    """float32 tensors by our names (:func:`uniaudio_engine.spec.codec_shapes`) of a codec in one of
    the layouts.

    ``state``: their names -> floats of any width (uint16 is read as bfloat16). Weight norm is
    folded in either of torch's forms; a plain ``weight`` is used as it is. Number and size of the
    codebooks come from the state, which may hold more than the configuration uses. Training-only
    buffers are ignored by name. Raises :class:`InputError`, in one line that names the first of
    them, for tensors that are missing, left over, of a wrong shape or type, NaN or infinite.
    """
    tensors: Tensors = {}
    origin: dict[str, str] = {}  # our name -> theirs, for messages
    used: set[str] = set()
    missing: list[str] = []

    def get(theirs: str, ours: str) -> NDArray[np.float32] | None:
        if theirs not in state:
            missing.append(theirs)
            return None
        used.add(theirs)
        origin[ours] = theirs
        return _float32(state[theirs], theirs)

    def put(ours: str, value: NDArray[np.float32] | None) -> None:
        if value is not None:
            tensors[ours] = value

    for ours, theirs in seanet_names(config, layout):
        if ours.endswith(".lstm"):
            for n in range(config.lstm_layers):
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    put(f"{ours}.{part}_l{n}", get(f"{theirs}.{part}_l{n}", f"{ours}.{part}_l{n}"))
            continue
        put(f"{ours}.bias", get(f"{theirs}.bias", f"{ours}.bias"))
        gain, direction = next(
            (p for p in _WEIGHT_NORM if f"{theirs}.{p[0]}" in state or f"{theirs}.{p[1]}" in state),
            ("", ""),
        )
        if gain:
            g, v = (
                get(f"{theirs}.{gain}", f"{ours}.weight"),
                get(f"{theirs}.{direction}", f"{ours}.weight"),
            )
            if g is not None and v is not None:
                put(f"{ours}.weight", _fold(g, v, f"{theirs}.{gain}"))
        else:
            put(f"{ours}.weight", get(f"{theirs}.weight", f"{ours}.weight"))
        if config.norm == "group":
            norm = theirs.rpartition(".")[0] + ".norm"
            for part in ("weight", "bias"):
                put(f"{ours}.norm.{part}", get(f"{norm}.{part}", f"{ours}.norm.{part}"))
    put("quantizer.codebooks", _codebooks(layout, state, used, missing))

    buffers = re.compile(
        re.escape(_QUANTIZER[layout]).replace(r"\{\}", r"\d+")
        + r"\.("
        + "|".join(_TRAINING_ONLY)
        + ")"
    )
    left = [n for n in state if n not in used and not buffers.fullmatch(n)]
    if missing or left:
        parts = [f"missing {first_few(missing)}"] if missing else []
        parts += [f"left over {first_few(left)}"] if left else []
        raise InputError(
            f"codec weights ({layout} layout): {'; '.join(parts)}; do configuration and weights "
            "belong together?"
        )
    _check(config, tensors, origin)
    return tensors


def _codebooks(
    layout: Layout, state: Mapping[str, NDArray[Any]], used: set[str], missing: list[str]
) -> NDArray[np.float32] | None:
    """All consecutive codebooks of the state, [K, C, E]."""
    names: list[str] = []
    while (
        len(names) < _MAX_CODEBOOKS
        and (name := _QUANTIZER[layout].format(len(names)) + ".embed") in state
    ):
        names.append(name)
    if not names:
        missing.append(_QUANTIZER[layout].format(0) + ".embed")
        return None
    used.update(names)
    books = [_float32(state[n], n) for n in names]
    for name, book in zip(names, books, strict=True):
        if book.ndim != 2 or book.shape != books[0].shape:
            raise InputError(
                f"{name}: expected the shape of the first codebook, [C, E], got "
                f"{list(book.shape)} (first: {list(books[0].shape)})"
            )
        if not np.isfinite(book).all():
            raise InputError(f"{name}: NaN or infinity; download the checkpoint again")
    return np.stack(books)


def _fold(
    gain: NDArray[np.float32], direction: NDArray[np.float32], name: str
) -> NDArray[np.float32]:
    """gain x direction / |direction|, with the norm over all but the first axis (torch's default,
    also for transposed convolutions).
    """
    shape = (direction.shape[0] if direction.ndim else 0, *[1] * (direction.ndim - 1))
    if direction.ndim != 3 or gain.shape != shape:
        raise InputError(
            f"{name}: expected the gain of a convolution, {list(shape)}, got {list(gain.shape)} "
            f"with a direction {list(direction.shape)}"
        )
    v = direction.astype(np.float64)
    norm = np.sqrt((v * v).sum(axis=(1, 2), keepdims=True))
    if not (norm > 0).all():
        raise InputError(
            f"{name}: expected directions that are not all zero (weight norm divides by their "
            "length); download the checkpoint again"
        )
    with np.errstate(over="ignore"):  # the check reports infinity
        return cast("NDArray[np.float32]", (gain.astype(np.float64) * v / norm).astype(np.float32))


def _float32(x: NDArray[Any], name: str) -> NDArray[np.float32]:
    a = np.asarray(x)
    if a.dtype == np.uint16:
        return from_bfloat16(a)
    if a.dtype.kind != "f":
        raise InputError(f"{name}: expected floating-point numbers, got {a.dtype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(a, np.float32).reshape(
            a.shape
        )  # ascontiguousarray adds an axis to a scalar


def _check(config: SeanetConfig, tensors: Tensors, origin: Mapping[str, str]) -> None:
    """Checks shapes and finiteness; errors use the original names."""
    k, size, dim = tensors["quantizer.codebooks"].shape
    hop = 1
    for r in config.ratios:
        hop *= r
    shapes = codec_shapes(
        CodecConfig(
            "seanet",
            frame_size=hop,
            num_codebooks=k,
            codebook_size=size,
            codebook_dim=dim,
            seanet=config,
        )
    )
    wrong = [
        f"{origin.get(n, n)} {list(tensors[n].shape)} (expected {list(s)})"
        for n, s in shapes.items()
        if tensors[n].shape != s
    ]
    if wrong:
        raise InputError(
            f"codec weights: wrong shape: {first_few(wrong)}; do configuration and weights belong "
            "together?"
        )
    wrong = [origin.get(n, n) for n, a in tensors.items() if not np.isfinite(a).all()]
    if wrong:
        raise InputError(
            f"codec weights: NaN or infinity in {first_few(wrong)}; download the checkpoint again"
        )
