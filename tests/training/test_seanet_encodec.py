"""The SEANet torch module against EncodecModel of ``transformers`` with random weights:
bit-identical in all its configurations.

Runs where transformers is installed; nothing else in the project needs it.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.nn.utils import parametrize
from uniaudio_training.models.seanet import SeanetCodec

from uniaudio_engine.importers.seanet import seanet_tensors
from uniaudio_engine.storage.config import CodecConfig, SeanetConfig

CASES = {
    "24 kHz": {},
    "32 kHz": {"use_causal_conv": False, "sampling_rate": 32000, "upsampling_ratios": [8, 5, 4, 4]},
    "48 kHz": {
        "use_causal_conv": False,
        "norm_type": "time_group_norm",
        "sampling_rate": 48000,
        "audio_channels": 2,
        "use_conv_shortcut": True,
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
    },
    "trimmed": {"trim_right_ratio": 0.7, "num_residual_layers": 2, "use_conv_shortcut": False},
}


def state_dict(model, c: SeanetConfig) -> dict[str, torch.Tensor]:
    """The model's weights under our names; weight norm is folded by torch, so that the bits can be
    compared.
    """
    for m in model.modules():
        if parametrize.is_parametrized(m):
            parametrize.remove_parametrizations(m, "weight")
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    return {k: torch.from_numpy(v) for k, v in seanet_tensors(c, "transformers", state).items()}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("samples", [1, 7, 500, 5003])
def test_equals_encodec(options: dict, samples: int) -> None:
    torch.manual_seed(0)
    e = transformers.EncodecConfig(**({"num_filters": 8} | options))
    theirs = transformers.EncodecModel(e).eval()
    for stage in theirs.quantizer.layers:
        stage.codebook.embed.copy_(torch.randn_like(stage.codebook.embed) * 0.1)
    c = SeanetConfig(
        channels=e.audio_channels,
        filters=e.num_filters,
        ratios=tuple(e.upsampling_ratios),
        kernel_size=e.kernel_size,
        last_kernel_size=e.last_kernel_size,
        residual_kernel_size=e.residual_kernel_size,
        residual_layers=e.num_residual_layers,
        dilation_base=e.dilation_growth_rate,
        compress=e.compress,
        conv_shortcut=e.use_conv_shortcut,
        lstm_layers=e.num_lstm_layers,
        causal=e.use_causal_conv,
        trim_right_ratio=e.trim_right_ratio,
        norm="group" if e.norm_type == "time_group_norm" else "none",
    )
    hop = 1
    for r in c.ratios:
        hop *= r
    ours = SeanetCodec(
        CodecConfig(
            "seanet",
            sample_rate=e.sampling_rate,
            frame_size=hop,
            num_codebooks=len(theirs.quantizer.layers),
            codebook_size=e.codebook_size,
            codebook_dim=e.hidden_size,
            seanet=c,
        )
    ).eval()
    ours.load_state_dict(state_dict(theirs, c))
    x = torch.randn(1, e.audio_channels, samples) * 0.3
    with torch.no_grad():
        codes = theirs.quantizer.encode(theirs.encoder(x), max(e.target_bandwidths))
        pcm = theirs.decoder(theirs.quantizer.decode(codes))
        assert torch.equal(ours.encode(x), codes.transpose(0, 1))
        decoded = ours.decode(codes.transpose(0, 1))
    assert torch.equal(decoded[:, None] if c.channels == 1 else decoded, pcm)
