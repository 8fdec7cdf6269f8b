"""UniAudio's own checkpoints -> a model folder: the language model ("MegaByteModel") and its codec
("SoundStream").

What is fixed here comes from the reference repository's classes, everything else from the files:
widths, layers, codebooks and vocabulary are read from the weights and from config.yaml, and must
agree. The one place where names of that project (``n_embd``, ``non_acoustic_repeat``, ``g_layers``
…) appear. Not responsible for tasks, which are ``uniaudio_tasks.py``'s. Source:
github.com/yangdongchao/UniAudio, UniAudio/model.py and codec/ (facts; none of its code).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.core import core
from ..errors import InputError, first_few, shown
from ..storage.config import (
    CodecConfig,
    ConfigError,
    LMConfig,
    ModelConfig,
    SeanetConfig,
    StackConfig,
    VocabularyConfig,
    to_dict,
)
from ..storage.files import atomic_write
from ..storage.folder import load_folder, save_folder
from ..storage.tensors import Tensors, all_finite
from ..storage.weight_shapes import Shapes, lm_shapes
from .archive import CHECKPOINT, CONFIG, Member, Progress, find_members, quiet
from .card import LICENCE_UNKNOWN, Origin, write_card
from .checkpoint import load_checkpoint
from .output import new_folder, sha256
from .pickle_machine import brief
from .seanet import seanet_tensors
from .uniaudio_tasks import available_tasks
from .vocabulary import read_labels, read_lexicon, read_phones, read_vocabulary
from .yaml_file import load_yaml

SAMPLE_RATE = 16000  # Hz; the codec's class and config
MAX_LOCAL_LAYERS = (
    8  # the reference makes min(8, n_layer // 2) local layers, in earlier revisions always 8
)
_BUFFERS = ("causal_mask",)  # computed, not learned
_NO_TASKS = "trained without task tokens (use_task_id: false): no tasks, but the language model and the codec by themselves"
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


def import_uniaudio(
    lm: str | os.PathLike[str],
    codec: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    codec_config: str | os.PathLike[str] | None = None,
    phones: str | os.PathLike[str] | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    labels: Mapping[str, str | os.PathLike[str]] | None = None,
    dtype: str = "float32",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Write the model folder ``output`` from the reference's files; returns plain JSON values about
    it.

    ``lm``, ``codec``: a checkpoint, or a folder or zip with it (and its config.yaml, where
    ``config`` or ``codec_config`` is not given; the codec can do without). ``phones``: the phone
    dictionary of the training; ``lexicon``: pronunciations in its phones; ``labels``: span ->
    dictionary of its labels, such as those of ``sing_phone``. ``dtype`` float32 or bfloat16, as in
    :func:`save_folder`. Raises :class:`InputError` in one line, and then leaves nothing behind.
    """
    if dtype not in ("float32", "bfloat16"):
        raise InputError(
            f"dtype: expected float32 or bfloat16, got {shown(dtype)}; uniaudio quantize makes "
            "int8 and int4"
        )
    with new_folder(output) as shop:
        parts = {"lm": (lm, config), "codec": (codec, codec_config)}
        members: dict[str, dict[str, Member]] = {}
        for name, (source, given) in parts.items():
            scratch = shop.files / name
            scratch.mkdir()
            roles = {"checkpoint": CHECKPOINT} | ({} if given else {"config": CONFIG})
            members[name] = find_members(source, roles, scratch, progress)
            if given:
                members[name]["config"] = Member(Path(given), Path(given).name, Path(given))
        if "config" not in members["lm"]:
            raise InputError(
                f"{lm}: expected the training's config.yaml beside the checkpoint; name it with "
                "--config"
            )
        notes = []
        beside = members["codec"].get("config")
        if beside and not codec_config and "generator" not in beside.read(load_yaml):
            notes.append(f"codec: {beside.name} beside it is not the codec's, and was left aside")
            del members["codec"]["config"]
        progress("reading the codec")
        codec_part, codec_tensors = read_codec(members["codec"])
        progress("reading the language model")
        settings = read_settings(members["lm"]["config"])
        lm_part, vocabulary, lm_tensors = read_lm(members["lm"], settings, codec_part)
        notes += [] if settings["use_task_id"] else [_NO_TASKS]
        spans = {s.name: s for s in vocabulary.spans}
        phone_labels: list[str] = []
        if phones is not None:
            phone_labels = read_phones(
                Path(phones), spans.get("phone"), members["lm"]["config"].name
            )
        elif "phone" in spans:
            notes.append(
                f"no phone dictionary was given: the {spans['phone'].size} phones are numbers "
                "only, and text cannot be spoken"
            )
        if lexicon is not None:
            if phones is None:
                raise InputError(
                    f"{lexicon}: a lexicon is of use with the labels of its phones only; name "
                    "them with --phones"
                )
            entries, more = read_lexicon(Path(lexicon), phone_labels)
            notes += more
            _write_lines(shop.model / "lexicon.txt", (f"{w} {' '.join(p)}" for w, p in entries))
        for name, path in (labels or {}).items():
            (shop.model / "labels").mkdir(exist_ok=True)
            _write_lines(
                shop.model / "labels" / f"{name}.txt", read_labels(Path(path), name, spans)
            )
        target = Path(output)
        names = {*vocabulary.specials, *(s.name for s in vocabulary.spans), *lm_part.continuous}
        tasks = available_tasks(names) if settings["use_task_id"] else ()
        model = ModelConfig(1, target.name, codec_part, lm_part, vocabulary, tasks, LICENCE_UNKNOWN)
        progress("writing")
        try:
            save_folder(shop.model, model, codec_tensors, lm_tensors, phone_labels, dtype)
        except ConfigError as e:
            raise InputError(f"{members['lm']['config'].name}: {e}") from None
        parameters = sum(int(a.size) for t in (lm_tensors, codec_tensors) for a in t.values())
        del (
            lm_tensors,
            codec_tensors,
        )  # the new folder is read next: a large model need not be held twice
        origins = _origins(
            members, {"phones": phones, "lexicon": lexicon, **(labels or {})}, progress
        )
        write_card(
            shop.model,
            target.name,
            _about(model),
            origins,
            [f"Weights are stored as {dtype}.", *notes],
        )
        progress("checking what was written")
        written = load_folder(shop.model)
        try:
            core().Codec(json.dumps(to_dict(written.config.codec)), written.codec, 1)
        except ValueError as e:  # what only the core can tell
            raise InputError(f"{members['codec']['checkpoint'].name}: {e}") from None
        progress("")
    return {
        "output": str(target),
        "model": target.name,
        "dtype": dtype,
        "parameters": parameters,
        "vocabulary": {s.name: s.size for s in vocabulary.spans},
        "num_codebooks": lm_part.num_codebooks,
        "max_frames": lm_part.max_frames,
        "tasks": [t.name for t in tasks],
        "files": [vars(o) for o in origins],
        "notes": notes,
    }


# The language model


def read_lm(
    members: Mapping[str, Member], settings: Mapping[str, Any], codec: CodecConfig
) -> tuple[LMConfig, VocabularyConfig, Tensors]:
    """(LM configuration, vocabulary, float32 tensors by our names) of a checkpoint and its
    :func:`read_settings`.
    """
    where, config_name = members["checkpoint"].name, members["config"].name
    state = _state(
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
    """The training's arguments that say what the model is."""
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
            f"{member.name}: prefix_lm is true: expected a plainly causal model, prefix attention "
            "is not supported"
        )
    for key in ("whisper_model", "megabytes"):
        if data.get(key) is False:
            raise InputError(
                f"{member.name}: {key} is false: expected the multi-scale model, the reference "
                "has no other any more"
            )
    return data


def lm_config(
    settings: Mapping[str, Any], state: Mapping[str, NDArray[Any]], where: str, config_name: str
) -> LMConfig:
    """What the weights say, held against what the training said; ``start_id`` and
    ``local_start_id`` are still 0.
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
    """float32 tensors by our names; one :class:`InputError` line names the first of theirs that are
    amiss.
    """
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
    with np.errstate(
        over="ignore"
    ):  # float64 beyond float32 becomes infinite, which is refused below
        tensors = {o: np.ascontiguousarray(state[n], np.float32) for o, n in names.items()}
    wrong = [names[o] for o, a in tensors.items() if not all_finite(a)]
    if wrong:
        raise InputError(
            f"{where}: NaN or infinity in {first_few(wrong)}; download the checkpoint again"
        )
    return tensors


# The codec


def read_codec(members: Mapping[str, Member]) -> tuple[CodecConfig, Tensors]:
    """(codec configuration, float32 tensors by our names) of a SoundStream checkpoint, and of its
    config where given.
    """
    where = members["checkpoint"].name
    state = _state(
        members["checkpoint"].read(load_checkpoint),
        "codec_model",
        "encoder.model.0.conv.conv.bias",
        where,
        "UniAudio's codec",
    )
    seanet = seanet_config(state, where)
    sample_rate, causal = SAMPLE_RATE, False
    if "config" in members:
        sample_rate, causal = _codec_settings(members["config"], seanet, state, where)
    seanet = replace(seanet, causal=causal)
    try:
        tensors = seanet_tensors(seanet, "soundstream", state)
        k, size, dim = tensors["quantizer.codebooks"].shape
        config = CodecConfig(
            "seanet", sample_rate, math.prod(seanet.ratios), k, size, dim, seanet=seanet
        )
        config.check()
    except (InputError, ConfigError) as e:
        raise InputError(f"{where}: {e}") from None
    return config, tensors


def seanet_config(state: Mapping[str, NDArray[Any]], where: str) -> SeanetConfig:
    """The shape of a SoundStream codec from its weights. Its classes fix the rest: reflect padding,
    non-causal.

    The decoder's layers are: input, LSTM, then for each ratio an activation, an upsampling
    convolution and residual blocks, an activation, output; only their shapes are read here,
    :func:`seanet_tensors` checks that all is there.
    """

    def shape(name: str) -> tuple[int, int, int]:
        for leaf in ("weight_v", "weight", "parametrizations.weight.original1"):
            a = state.get(f"{name}.{leaf}")
            if a is not None and a.ndim == 3 and all(1 <= n <= 1 << 16 for n in a.shape):
                return (a.shape[0], a.shape[1], a.shape[2])
        raise InputError(f"{where}: expected the weights of a convolution {name}, found none")

    number = re.compile(r"decoder\.model\.(\d{1,4})\.convtr\.convtr\.bias")
    ups = sorted(int(m[1]) for n in state if (m := number.fullmatch(n)))
    if not ups:
        raise InputError(
            f"{where}: expected upsampling convolutions decoder.model.N.convtr.convtr, found none"
        )
    filters, channels, kernel = shape("encoder.model.0.conv.conv")
    block = "encoder.model.1.block.1.conv.conv"
    hidden, _, residual_kernel = shape(block)
    steps = ups[1] - ups[0] if len(ups) > 1 else _last(state) - 1 - ups[0]
    lstm = re.compile(r"decoder\.model\.1\.lstm\.weight_ih_l(\d{1,2})")
    return SeanetConfig(
        channels=channels,
        filters=filters,
        ratios=tuple(shape(f"decoder.model.{n}.convtr.convtr")[2] // 2 for n in ups),
        kernel_size=kernel,
        last_kernel_size=shape(f"decoder.model.{_last(state)}.conv.conv")[2],
        residual_kernel_size=residual_kernel,
        residual_layers=max(0, steps - 2),
        compress=max(1, filters // hidden),
        conv_shortcut="encoder.model.1.shortcut.conv.conv.bias" in state,
        lstm_layers=sum(1 for n in state if lstm.fullmatch(n)),
        causal=False,
        pad_mode="reflect",
    )


def _last(state: Mapping[str, NDArray[Any]]) -> int:
    number = re.compile(r"decoder\.model\.(\d{1,4})\.conv\.conv\.bias")
    return max((int(m[1]) for n in state if (m := number.fullmatch(n))), default=0)


def _codec_settings(
    member: Member, seanet: SeanetConfig, state: Mapping[str, NDArray[Any]], where: str
) -> tuple[int, bool]:
    """(sample rate, causal) of the codec's config.yaml, after holding it against the weights."""
    data: Any = member.read(load_yaml)
    for key in ("generator", "config"):
        data = data.get(key) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        raise InputError(
            f"{member.name}: expected the codec's config.yaml with generator and config, found none"
        )
    books = [a for n, a in state.items() if n.endswith("._codebook.embed") and a.ndim == 2]
    hop, rate = math.prod(seanet.ratios), data.get("sample_rate", SAMPLE_RATE)
    found: dict[str, Any] = {
        "n_filters": seanet.filters,
        "ratios": list(seanet.ratios),
        "bins": books[0].shape[0] if books else 0,
        "D": books[0].shape[1] if books else 0,
    }
    wrong = [
        f"{k} {shown(data[k])} there, {v} here"
        for k, v in found.items()
        if k in data and data[k] != v
    ]
    if type(rate) is not int or not 1000 <= rate <= 384000:
        raise InputError(f"{member.name}: sample_rate: expected a rate in Hz, got {shown(rate)}")
    bandwidths = data.get("target_bandwidths")
    if (
        isinstance(bandwidths, list)
        and bandwidths
        and all(type(b) in (int, float) and 0 < b < 1e4 for b in bandwidths)
    ):
        count = int(
            1000 * bandwidths[-1] // (math.ceil(rate / hop) * 10)
        )  # the reference's own rule, for 1024 codes
        if count != len(books):
            wrong.append(f"{count} codebooks there (target_bandwidths), {len(books)} here")
    if wrong:
        raise InputError(f"{where}: {member.name} is of another codec: {first_few(wrong)}")
    if type(data.get("causal", False)) is not bool:
        raise InputError(
            f"{member.name}: causal: expected true or false, got {shown(data['causal'])}"
        )
    return rate, bool(data.get("causal", False))


# Parts of the above


def _state(checkpoint: Any, key: str, sign: str, where: str, what: str) -> dict[str, NDArray[Any]]:
    """The state dict under ``key`` of a checkpoint, or the checkpoint itself; known by a tensor
    called ``sign``.
    """
    inside: Any = checkpoint.get(key, checkpoint) if isinstance(checkpoint, dict) else None
    found: dict[Any, Any] = inside if isinstance(inside, dict) else {}
    names = list(found)
    state: dict[str, NDArray[Any]] = {}
    for n in names:
        name = re.sub(r"^(module\.)+", "", n) if isinstance(n, str) else ""
        if isinstance(found[n], np.ndarray) and name:
            if name in state:
                raise InputError(
                    f"{where}: tensor {shown(name)} is there twice, with and without module."
                )
            state[name] = found[n]
    if sign not in state:
        top = [brief(k) for k in (checkpoint if isinstance(checkpoint, dict) else ())]
        raise InputError(
            f"{where}: expected {what} with the tensor {sign}, found "
            f"{first_few(top) or brief(checkpoint)}; is it the right file?"
        )
    other = [n for n in names if not isinstance(found[n], np.ndarray)]
    if other:
        raise InputError(
            f"{where}: expected tensors only, {brief(other[0])} is {brief(found[other[0]])}"
        )
    return state


def _count(state: Mapping[str, Any], pattern: str) -> int:
    """One more than the highest number that ``pattern`` finds at the start of a name."""
    return 1 + max(
        (int(m[1]) for n in state if (m := re.match(pattern, n)) and len(m[1]) < 5), default=-1
    )


def _about(model: ModelConfig) -> str:
    lm, c = model.lm, model.codec
    assert lm is not None
    return (
        "A language model of the UniAudio project (arXiv 2310.00704) and its codec, converted "
        "from the authors' checkpoint "
        f"for uniaudio-engine: {lm.global_.layers} global and {lm.local.layers} local layers of "
        f"width {lm.global_.width}, "
        f"{lm.num_codebooks} codes a frame, {c.sample_rate} Hz, {c.frame_rate:g} frames a second. "
        " The weights are the authors'; "
        "the conversion folds weight norm and changes names and layout only."
    )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as f:
        f.write("".join(f"{line}\n" for line in lines).encode())


def _origins(
    members: Mapping[str, Mapping[str, Member]], texts: Mapping[str, Any], progress: Progress
) -> list[Origin]:
    files = {f"{part} {role}": m for part, roles in members.items() for role, m in roles.items()}
    files |= {k: Member(Path(p), Path(p).name, Path(p)) for k, p in texts.items() if p is not None}
    sums: dict[Path, str] = {}
    for m in files.values():
        if m.source not in sums:
            sums[m.source] = sha256(m.source, progress)
    return [
        Origin(role, m.name, m.source.stat().st_size, sums[m.source]) for role, m in files.items()
    ]
