"""The measured language models: configuration, weights, and the ids that each slot may emit.

``v1``: the UniAudio-v1 shape (arXiv 2310.00704 and its repository: 16 global and 8 local layers of
width 768, 12 heads, three codebooks of 1024, a vocabulary of 4212) with random weights from a seed.
``base``: the bundled model. ``tiny``: two layers each, for tests of the benchmarks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniaudio_engine.errors import InputError
from uniaudio_engine.request.sequence import Layout
from uniaudio_engine.storage.config import LMConfig, StackConfig, to_dict
from uniaudio_engine.storage.dtypes import auto_kv_dtype
from uniaudio_engine.storage.folder import bundled_models, load_folder
from uniaudio_engine.storage.tensors import from_bfloat16, load_tensors, save_tensors
from uniaudio_engine.storage.weight_shapes import lm_shapes

NAMES = ("v1", "base", "tiny")

# The vocabulary of the v1 recipe: 128 special ids, 3 x 1024 codes and a mask, phones, semantic
# units, sung phones, notes.
V1_AUDIO, V1_CODES = 128, 1024
V1_VOCABULARY = V1_AUDIO + 3 * V1_CODES + 1 + 306 + 500 + 67 + 138
V1_AUDIO_END, V1_START, V1_LOCAL_START = 9, 23, 24
# of the random head: logits as peaked as those of a trained model, so that the agreement of the
# best
# id is meaningful
V1_LOGIT_STD = 2.5


@dataclass(frozen=True)
class Model:
    """``allowed``: per slot the (start, size) ranges of ids that may be emitted."""

    name: str
    config: LMConfig
    allowed: tuple[tuple[tuple[int, int], ...], ...]

    def rows(self, slot: int) -> NDArray[np.int64]:
        """The ids that slot ``slot`` may emit, ascending: the rows of the output head that a frame
        needs.
        """
        return np.concatenate(
            [np.arange(start, start + size) for start, size in sorted(self.allowed[slot])]
        )

    def frames(self, count: int, seed: int) -> NDArray[np.int32]:
        """Random audio frames [count, K]."""
        rng = np.random.default_rng(seed)
        columns = [rng.choice(self.rows(k), count) for k in range(self.config.num_codebooks)]
        return np.stack(columns, axis=1).astype(np.int32)

    def aligned(self, count: int) -> NDArray[np.int32] | None:
        """Aligned rows [count, S] for frames; their ids do not affect the time."""
        if not self.config.aligned_slots:
            return None
        ids = np.arange(self.config.aligned_slots) % self.config.aligned_vocab
        return np.tile(ids.astype(np.int32), (count, 1))

    @property
    def json(self) -> str:
        return json.dumps(to_dict(self.config))


def bundled() -> Path:
    """The folder of the bundled model: a bare name could be a folder in the current directory."""
    return bundled_models()["base"]


def find_model(name: str) -> Model:
    if name == "base":
        folder = load_folder(bundled())
        if folder.config.lm is None or folder.config.vocabulary is None:
            raise InputError("base: expected a model with a language model")
        layout = Layout.of(folder.config.lm, folder.config.vocabulary)
        return Model(name, folder.config.lm, tuple(tuple(r) for r in layout.audio_ranges()))
    biases = {"q_bias": True, "v_bias": True, "o_bias": True, "mlp_bias": True}
    kind: dict[str, Any] = {
        "norm": "layernorm",
        "activation": "gelu",
        "positions": "learned",
        **biases,
    }
    config = LMConfig(
        vocab_size=V1_VOCABULARY,
        num_codebooks=3,
        embedding="concat",
        conditioning="add",
        global_=StackConfig(layers=16, width=768, heads=12, **kind),
        local=StackConfig(layers=8, width=768, heads=12, **kind),
        start_id=V1_START,
        local_start_id=V1_LOCAL_START,
        max_frames=3328,
        continuous={"text_t5": 768},
    )
    allowed = tuple(((V1_AUDIO_END, 1), (V1_AUDIO + k * V1_CODES, V1_CODES)) for k in range(3))
    if name == "v1":
        return Model(name, config, allowed)
    if name != "tiny":
        raise InputError(f"model: expected one of {', '.join(NAMES)}, got {name!r}")
    small = {"layers": 2, "width": 96, "heads": 3}
    config = replace(
        config,
        vocab_size=250,
        global_=replace(config.global_, **small),
        local=replace(config.local, **small),
        max_frames=512,
    )
    return Model(name, config, tuple(((V1_AUDIO_END, 1), (128 + k * 32, 32)) for k in range(3)))


def split_format(text: str) -> tuple[str, dict[str, str]]:
    """A native format in the notation of the benchmarks -> the engine's dtype and its other
    options.

    ``+`` stands for the comma in the engine's strings. ``kv=`` is the format of the key-value
    cache; the engine's default depends on the weights. Example: ``int8+local=int4+kv=float32``.
    """
    parts = text.split("+")
    kv = [p.removeprefix("kv=") for p in parts if p.startswith("kv=")]
    dtype = ",".join(p for p in parts if not p.startswith("kv="))
    return dtype, {"kv_dtype": kv[-1] if kv else auto_kv_dtype(dtype)}


def load_weights(model: Model, seed: int, cache: Path) -> dict[str, NDArray[np.float32]]:
    """float32 tensors by name; random ones are made once and kept in ``cache``."""
    if model.name == "base":
        tensors = load_folder(bundled()).lm
        return {k: from_bfloat16(v) if v.dtype == np.uint16 else v for k, v in tensors.items()}
    path = cache_folder(model, seed, cache) / "weights.safetensors"
    if not path.exists():
        save_tensors(path, random_weights(model.config, seed))
    return load_tensors(path)[0]


def cache_folder(model: Model, seed: int, cache: Path) -> Path:
    """Folder of a model's derived files (weights, graphs of peers), named by a hash of
    configuration and seed, so that it is never stale.
    """
    recipe = hashlib.sha256(f"{model.json} {model.allowed} {V1_LOGIT_STD}".encode()).hexdigest()[
        :10
    ]
    folder = cache / f"{model.name}-seed{seed}-{recipe}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name that becomes ``path`` on success, safe with several writers."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def random_weights(config: LMConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """Normal weights with residual outputs scaled by depth (GPT-2's initialisation), and biases and
    norms near 0 and 1.
    """
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in lm_shapes(config).items():
        x = rng.standard_normal(shape, np.float32)
        if len(shape) == 1:
            x = 1 + 0.1 * x if "norm" in name and name.endswith("weight") else 0.1 * x
        elif "embed" not in name and "positions" not in name and "guide" not in name:
            x *= shape[-1] ** -0.5
            if name.endswith(("attn.o.weight", "mlp.down.weight")):
                x *= (
                    2 * (config.global_ if name.startswith("global") else config.local).layers
                ) ** -0.5
        else:
            x *= 0.5
        out[name] = np.ascontiguousarray(
            x * (V1_LOGIT_STD if name == "head.weight" else 1.0), np.float32
        )
    return out
