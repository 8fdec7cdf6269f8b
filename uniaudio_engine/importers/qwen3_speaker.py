"""The encoder of speakers in Qwen3-TTS's Base checkpoints, ECAPA-TDNN, by our names.

Source: PyPI qwen-tts 0.1.1, qwen_tts/core/models (facts; none of its code).
"""

from __future__ import annotations

from ..errors import InputError, shown
from ..storage.config import ConfigError, EcapaConfig
from ..storage.speaker_config import BANDS
from ..storage.tensors import Tensors
from .hub_files import Reader, Settings

_CHANNELS, _SIZES, _DILATIONS = [512, 512, 512, 512, 1536], [5, 3, 3, 3, 1], [1, 2, 3, 4, 1]
_PREFIX = "speaker_encoder."
# Our names -> theirs, inside a block and outside of all.
_BLOCK = {
    "in": "tdnn1.conv",
    "out": "tdnn2.conv",
    "squeeze": "se_block.conv1",
    "excite": "se_block.conv2",
}
_WHOLE = {
    "first": "blocks.0.conv",
    "join": "mfa.conv",
    "attention.in": "asp.tdnn.conv",
    "attention.out": "asp.conv",
    "last": "fc",
}


def speaker_config(s: Settings, width: int) -> EcapaConfig:
    """The encoder's; ``width``: of the talker, which takes its vectors as rows.

    Raises :class:`InputError` for one that the engine does not take.
    """
    s.expect("sample_rate", 24000)
    s.expect("mel_dim", BANDS)
    channels = s.integers("enc_channels", _CHANNELS)
    blocks = len(channels) - 2
    if not 1 <= blocks <= 32 or channels != [channels[0]] * (1 + blocks) + [blocks * channels[0]]:
        raise InputError(
            f"{s.where}: enc_channels: expected as many for each block, and for the last all of them "
            f"together, got {shown(channels)}"
        )
    config = EcapaConfig(
        s.integer("enc_dim", 1024),
        channels[0],
        tuple(s.integers("enc_kernel_sizes", _SIZES)),
        tuple(s.integers("enc_dilations", _DILATIONS)),
        s.integer("enc_res2net_scale", 8),
        s.integer("enc_se_channels", 128),
        s.integer("enc_attention_channels", 128),
    )
    if config.width != width:
        raise InputError(f"{s.where}: enc_dim: expected the talker's {width}, got {config.width}")
    if config.blocks != blocks:
        raise InputError(
            f"{s.where}: enc_kernel_sizes: expected {len(channels)}, as enc_channels, got "
            f"{len(config.kernel_sizes)}"
        )
    try:
        config.check("speaker_encoder_config")
    except ConfigError as e:
        raise InputError(f"{s.where}: {e}") from None
    return config


def speaker_tensors(source: Reader, config: EcapaConfig) -> Tensors:
    """Raises :class:`InputError` where one is missing or misshapen."""
    return {
        name: source.take(_PREFIX + _theirs(name), *shape) for name, shape in config.shapes.items()
    }


def _theirs(name: str) -> str:
    conv, _, kind = name.rpartition(".")
    if not conv.startswith("blocks."):
        return f"{_WHOLE[conv]}.{kind}"
    _, block, *inside = conv.split(".")
    place = _BLOCK.get(inside[0]) or f"res2net_block.blocks.{inside[1]}.conv"
    return f"blocks.{int(block) + 1}.{place}.{kind}"
