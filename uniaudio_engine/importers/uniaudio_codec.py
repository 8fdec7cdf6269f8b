"""UniAudio's codec ("SoundStream"): its configuration, and its weights under our names.

The shape is inferred from the weights and checked against config.yaml where there is one. Source:
github.com/yangdongchao/UniAudio, codec/ (facts; none of its code).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.config import CodecConfig, ConfigError, SeanetConfig
from ..storage.tensors import Tensors
from .archive import Member
from .checkpoint import load_checkpoint
from .seanet import seanet_tensors
from .state_dict import find_state
from .yaml_file import load_yaml

SAMPLE_RATE = 16000  # Hz; the codec's class and config


def read_codec(members: Mapping[str, Member]) -> tuple[CodecConfig, Tensors]:
    """(codec configuration, float32 tensors by our names) of a SoundStream checkpoint, checked
    against its config where there is one.
    """
    where = members["checkpoint"].name
    state = find_state(
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
    """The shape of a SoundStream codec, inferred from its weights.

    Its classes fix the rest: reflect padding, non-causal. The decoder's layers are: input, LSTM,
    then for each ratio an activation, an upsampling convolution and residual blocks, then an
    activation and the output. Only their shapes are read here; :func:`seanet_tensors` checks that
    all are present.
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
    """(sample rate, causal) of the codec's config.yaml, which is checked against the weights."""
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
        )  # the reference's rule for 1024 codes
        if count != len(books):
            wrong.append(f"{count} codebooks there (target_bandwidths), {len(books)} here")
    if wrong:
        raise InputError(f"{where}: {member.name} is of another codec: {first_few(wrong)}")
    if type(data.get("causal", False)) is not bool:
        raise InputError(
            f"{member.name}: causal: expected true or false, got {shown(data['causal'])}"
        )
    return rate, bool(data.get("causal", False))
