"""The imported codec of Qwen3-TTS against the authors' own classes (qwen-tts 0.1.1) with the same
random weights, and its text tokenizer against that of transformers.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen3_upstream import upstream

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from qwen3_tools import CODEC, DECODER, codec_state, tokenizer_files

from uniaudio_engine import Engine
from uniaudio_engine.importers.byte_bpe import read_byte_bpe
from uniaudio_engine.importers.qwen3_codec import import_qwen3_codec


def tokenizer(folder: Path, changes: dict[str, Any]) -> tuple[Any, Any]:
    """(their model, our codec) of the same random weights, read from a file that theirs wrote."""
    v2 = upstream("tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2")
    config = copy.deepcopy(CODEC)
    config["decoder_config"] = {**DECODER, **changes}
    # The encoder's attention window is ignored by the version of transformers that qwen-tts needs.
    config["encoder_config"]["sliding_window"] = 500
    theirs = v2.Qwen3TTSTokenizerV2Model(v2.Qwen3TTSTokenizerV2Config(**config)).eval()
    state = {k: torch.from_numpy(x) for k, x in codec_state(folder, config).items()}
    theirs.load_state_dict(state, strict=True)
    theirs.save_pretrained(folder / "theirs")
    import_qwen3_codec(folder / "theirs", folder / "ours")
    return theirs, Engine.from_pretrained(folder / "ours", threads=2).codec


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"upsample_rates": [2, 3], "upsampling_ratios": [2], "sliding_window": 1},
        {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 2, "rope_theta": 500},
    ],
    ids=str,
)
def test_tokenizer(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs, codec = tokenizer(tmp_path, changes)
    codes = np.random.default_rng(0).integers(0, 64, (4, 90), dtype=np.int32)
    with torch.no_grad():
        expected = theirs.decoder(torch.from_numpy(codes).long()[None])[0, 0].numpy()
    assert 0.01 < np.abs(expected).max() and (np.abs(expected) < 1).mean() > 0.5
    assert np.abs(codec.decode(codes) - expected).max() <= 1e-4
    # its own call cuts long sounds in pieces of 300 frames; a shorter one is decoded in one
    with torch.no_grad():
        whole = theirs.decode(torch.from_numpy(codes.T.copy()).long()[None]).audio_values[0]
    assert np.abs(codec.decode(codes) - whole.numpy()).max() <= 1e-4


@pytest.mark.parametrize("samples", [1, 13, 995])
def test_tokenizer_encodes(tmp_path: Path, samples: int) -> None:
    theirs, codec = tokenizer(tmp_path, {})
    x = (np.random.default_rng(1).standard_normal(samples) * 0.2).astype(np.float32)
    with torch.no_grad():
        given = torch.from_numpy(x)[None]
        expected = theirs.encode(given, torch.ones(given.shape, dtype=torch.long)).audio_codes[0]
    expected = expected.numpy().T
    codes = codec.encode(x)
    assert codes.shape == expected.shape
    assert (codes == expected).mean() > 0.98  # near-ties may fall either way


@pytest.mark.parametrize(
    "text",
    ["hello assistant", "it's 2025, OK?\n\n  two", "naïve — 你好！", " a  b\t\tc \n", "é é 🙂"],
)
def test_byte_level_bpe_is_transformers_own(tmp_path: Path, text: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer_files(tmp_path)
    theirs = transformers.Qwen2Tokenizer.from_pretrained(tmp_path)
    ours = tokenizers.Tokenizer.from_str(read_byte_bpe(tmp_path)[0].decode())
    assert ours.encode(text).ids == theirs(text)["input_ids"]
    marked = f"<|im_start|>{text}<|im_end|>"
    assert ours.encode(marked).ids == theirs(marked)["input_ids"]
