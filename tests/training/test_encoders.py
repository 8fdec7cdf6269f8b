"""The optional encoders against UniAudio's tokenizers, with tiny random weights.

Runs where transformers is installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from uniaudio_engine import InputError
from uniaudio_engine.tokenizers.encoders import HubertUnits, T5States, check_encoders


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=40,
        d_model=24,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    model = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return folder


def test_t5_states_see_the_padding(t5: Path) -> None:
    """The padding to 100 tokens is attended to: UniAudio gives no mask.

    With the mask the states are others.
    """
    states = T5States(t5).states("a dog barks")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(t5)
    ids = tokenizer("a dog barks")["input_ids"]
    assert states.shape == (len(ids), 24) and states.dtype == np.float32 and ids[-1] == 1
    model = transformers.T5EncoderModel.from_pretrained(t5).eval()
    padded = torch.tensor([ids + [0] * (100 - len(ids))])
    with torch.no_grad():
        expected = model(input_ids=padded).last_hidden_state[0, : len(ids)].numpy()
        masked = (
            model(input_ids=padded, attention_mask=(padded > 0).long())
            .last_hidden_state[0, : len(ids)]
            .numpy()
        )
    assert np.array_equal(states, expected)
    assert np.abs(states - masked).max() > 1e-3
    assert T5States(t5).states("word " * 200).shape == (100, 24)


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hubert")
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=24,
        num_hidden_layers=10,
        num_attention_heads=3,
        intermediate_size=32,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    transformers.HubertModel(config).save_pretrained(folder)
    np.save(
        folder / "kmeans.npy", np.random.default_rng(0).standard_normal((30, 24)).astype(np.float32)
    )
    return folder


@pytest.mark.parametrize("samples", [400, 719, 720, 16000])
def test_hubert_units_are_the_nearest_centres_of_layer_9(hubert: Path, samples: int) -> None:
    x = (0.1 * np.random.default_rng(1).standard_normal(samples)).astype(np.float32)
    units = HubertUnits(hubert).units(x)
    model = transformers.HubertModel.from_pretrained(hubert).eval()
    kept: list[torch.Tensor] = []
    model.encoder.layers[8].register_forward_hook(
        lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model(torch.from_numpy(x)[None])
    features = kept[0].reshape(-1, 24).numpy()
    centres = np.load(hubert / "kmeans.npy")
    expected = ((features[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert units.dtype == np.int32 and len(units) == (samples - 80) // 320
    assert np.array_equal(units, expected)


def test_what_is_missing_is_said(t5: Path, hubert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected t5, hubert, got clap"):
        check_encoders({"clap": t5})
    with pytest.raises(InputError, match="expected a folder of weights with a config.json"):
        check_encoders({"t5": tmp_path})
    with pytest.raises(InputError, match="kmeans.npy: expected the k-means centres"):
        HubertUnits(t5)
    with pytest.raises(InputError, match="at least 0.025 s"):
        HubertUnits(hubert).units(np.zeros(399, np.float32))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="expected weights in the transformers layout"):
        T5States(tmp_path)
