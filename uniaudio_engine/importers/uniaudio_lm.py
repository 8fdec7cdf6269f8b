"""UniAudio's language model ("MegaByteModel"): its configuration, and its weights under our names.

The class fixes some choices. Widths, layers, codebooks and vocabulary come from the weights and
from config.yaml, which must agree. Names of that project (``n_embd``, ``non_acoustic_repeat``,
``g_layers`` …) appear only here. Source: github.com/yangdongchao/UniAudio, UniAudio/model.py
(facts;
none of its code).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.config import CodecConfig, ConfigError, LMConfig, StackConfig, VocabularyConfig
from ..storage.tensors import Tensors, all_finite
from ..storage.weight_shapes import Shapes, lm_shapes
from .archive import Member
from .checkpoint import load_checkpoint
from .state_dict import find_state
from .vocabulary import read_vocabulary
from .yaml_file import load_yaml

# The reference makes min(8, n_layer // 2) local layers; earlier revisions always made 8.
MAX_LOCAL_LAYERS = 8
_BUFFERS = ("causal_mask",)  # computed, not learned
_NAMES = {  # ours -> theirs, inside a stack
    "attn_norm": "attn_ln",
    "mlp_norm": "mlp_ln",
    "attn.q": "attn.query",
    "attn.k": "attn.key",
    "attn.v": "attn.value",
    "attn.o": "attn.out",
    "mlp.up": "mlp.0",
    "mlp.down": "mlp.2",
}
_TOP = {"bridge": "g2l_linear", "head": "lm_head"}


def read_lm(
    members: Mapping[str, Member], settings: Mapping[str, Any], codec: CodecConfig
) -> tuple[LMConfig, VocabularyConfig, Tensors]:
    """(LM configuration, vocabulary, float32 tensors by our names) of a checkpoint and its
    :func:`read_settings`.
    """
    where, config_name = members["checkpoint"].name, members["config"].name
    state = find_state(
        members["checkpoint"].read(load_checkpoint),
        "model",
        "g_emb.weight",
        where,
        "a UniAudio language model",
    )
    c = lm_config(settings, state, where, config_name)
    if c.num_codebooks > codec.num_codebooks:
        raise InputError(
            f"{where}: has {c.num_codebooks} codes a frame, the codec makes "
            f"{codec.num_codebooks}; is it this model's codec?"
        )
    vocabulary = read_vocabulary(
        settings["token_list"], c.num_codebooks, codec.codebook_size, config_name
    )
    c = replace(
        c,
        start_id=vocabulary.special("mega_global"),
        local_start_id=vocabulary.special("mega_local"),
    )
    return c, vocabulary, lm_tensors(c, state, where)


_SETTINGS: dict[str, type] = {
    "n_layer": int,
    "n_head": int,
    "n_embd": int,
    "block_size": int,
    "non_acoustic_repeat": int,
    "prefix_lm": bool,
    "use_task_id": bool,
    "token_list": list,
}


def read_settings(member: Member) -> dict[str, Any]:
    """The training arguments that define the model."""
    data = member.read(load_yaml)
    missing = [k for k in _SETTINGS if k not in data]
    if missing:
        hint = "; it looks like the codec's" if "generator" in data else ""
        raise InputError(
            f"{member.name}: expected the config.yaml of UniAudio's training, it lacks "
            f"{first_few(missing)}{hint}"
        )
    for key, kind in _SETTINGS.items():
        if type(data[key]) is not kind:
            raise InputError(
                f"{member.name}: {key}: expected {kind.__name__}, got {shown(data[key])}"
            )
    if data["prefix_lm"]:
        raise InputError(
            f"{member.name}: prefix_lm is true: expected a causal model; prefix attention is not "
            "supported"
        )
    for key in ("whisper_model", "megabytes"):
        if data.get(key) is False:
            raise InputError(
                f"{member.name}: {key} is false: expected the multi-scale model, the only one "
                "that the reference still has"
            )
    return data


def lm_config(
    settings: Mapping[str, Any], state: Mapping[str, NDArray[Any]], where: str, config_name: str
) -> LMConfig:
    """The configuration inferred from the weights, checked against the settings.

    ``start_id`` and ``local_start_id`` are still 0.
    """
    layers = {s: _count(state, rf"{s}_layers\.(\d+)\.") for s in "gl"}
    rows = {
        n: state[n].shape
        for n in ("g_pos.weight", "l_pos.weight", "lm_head.weight")
        if n in state and state[n].ndim == 2
    }
    said = {
        "n_layer": (settings["n_layer"], layers["g"]),
        "block_size": (settings["block_size"], rows.get("g_pos.weight", (0, 0))[0]),
        "n_embd": (settings["n_embd"], rows.get("g_pos.weight", (0, 0))[1]),
        "non_acoustic_repeat": (
            settings["non_acoustic_repeat"],
            rows.get("l_pos.weight", (0, 0))[0],
        ),
        "length of token_list": (
            len(settings["token_list"]),
            rows.get("lm_head.weight", (0, 0))[0],
        ),
    }
    wrong = [f"{k} {a} there, {b} here" for k, (a, b) in said.items() if a != b]
    if layers["l"] not in (MAX_LOCAL_LAYERS, min(MAX_LOCAL_LAYERS, settings["n_layer"] // 2)):
        wrong.append(f"{layers['l']} local layers")
    if wrong:
        raise InputError(f"{where}: {config_name} is of another model: {first_few(wrong)}")
    width, heads, k = settings["n_embd"], settings["n_head"], settings["non_acoustic_repeat"]
    stack = StackConfig(
        layers["g"],
        width,
        heads,
        norm="layernorm",
        activation="gelu",
        positions="learned",
        q_bias=True,
        k_bias=False,
        v_bias=True,
        o_bias=True,
        mlp_bias=True,
    )
    prefix = "continuous_mappings."
    continuous = {
        n[len(prefix) : -7]: int(a.shape[-1])
        for n, a in sorted(state.items())
        if n.startswith(prefix) and n.endswith(".weight") and a.ndim == 2
    }
    config = LMConfig(
        len(settings["token_list"]),
        k,
        stack,
        replace(stack, layers=layers["l"]),
        embedding="concat",
        conditioning="add",
        max_frames=settings["block_size"],
        continuous=continuous,
    )
    try:
        config.check()
    except ConfigError as e:
        raise InputError(f"{config_name}: {e}") from None
    return config


def lm_names(shapes: Shapes) -> dict[str, str]:
    """Our tensor names -> theirs."""
    names = {}
    for ours in shapes:
        head, _, rest = ours.partition(".")
        if head in ("global", "local"):
            s = head[0]
            layer = re.match(r"layers\.(\d+)\.(.*)\.(weight|bias)$", rest)
            if layer:
                names[ours] = f"{s}_layers.{layer[1]}.{_NAMES[layer[2]]}.{layer[3]}"
            else:
                part, _, leaf = rest.partition(".")
                names[ours] = (
                    f"{s}_{ {'embed': 'emb', 'positions': 'pos', 'norm': 'ln'}[part] }.{leaf}"
                )
        elif head == "continuous":
            names[ours] = f"continuous_mappings.{rest}"
        else:
            names[ours] = f"{_TOP[head]}.{rest}"
    return names


def lm_tensors(config: LMConfig, state: Mapping[str, NDArray[Any]], where: str) -> Tensors:
    """float32 tensors by our names. Raises :class:`InputError` that names the first wrong ones."""
    shapes = lm_shapes(config)
    names = lm_names(shapes)
    missing = [n for n in names.values() if n not in state]
    left = [n for n in state if n not in set(names.values()) and n not in _BUFFERS]
    if missing or left:
        parts = [f"missing {first_few(missing)}"] if missing else []
        parts += [f"left over {first_few([shown(n)[1:-1] for n in left])}"] if left else []
        raise InputError(
            f"{where}: {len(names)} tensors of a language model expected, {'; '.join(parts)}"
        )
    wrong = [
        f"{n} {list(state[n].shape)} (expected {list(shapes[o])})"
        for o, n in names.items()
        if state[n].shape != shapes[o]
    ]
    if wrong:
        raise InputError(f"{where}: wrong shape: {first_few(wrong)}")
    wrong = [f"{n} {state[n].dtype}" for n in names.values() if state[n].dtype.kind != "f"]
    if wrong:
        raise InputError(
            f"{where}: wrong type: {first_few(wrong)}; expected floating-point numbers"
        )
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is rejected below
        tensors = {o: np.ascontiguousarray(state[n], np.float32) for o, n in names.items()}
    wrong = [names[o] for o, a in tensors.items() if not all_finite(a)]
    if wrong:
        raise InputError(
            f"{where}: NaN or infinity in {first_few(wrong)}; download the checkpoint again"
        )
    return tensors


def _count(state: Mapping[str, Any], pattern: str) -> int:
    """One more than the highest number that ``pattern`` matches at the start of a name."""
    return 1 + max(
        (int(m[1]) for n in state if (m := re.match(pattern, n)) and len(m[1]) < 5), default=-1
    )
